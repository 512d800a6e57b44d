"""Counting tokens for a target that has no counter of its own: an estimate, made here, that costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainstay.core.call import Reply
from mainstay.core.event import End, Frame
from mainstay.gateway.routed import Routed
from mainstay.wire.anthropic_count import estimate_tokens
from mainstay.wire.anthropic_writer import write_count


class CountTokens:
    """Answers ``count_tokens`` where the first target does not speak Anthropic's format."""

    def enter(self, call: Routed) -> Reply | None:
        """The estimate; None for every other call."""
        if call.operation != "count_tokens" or call.order[0].wire == "anthropic":
            return None
        target = call.order[0]
        call.model, call.provider = target.name, target.provider
        call.why.append("estimated")
        body = write_count(estimate_tokens(call.ask.request()))
        return Reply(call.dialect, False, _once(body))

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""


async def _once(body: bytes) -> AsyncIterator[list[Frame]]:
    yield [Frame(body, (End(),))]
