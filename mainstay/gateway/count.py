"""Counting tokens where no provider does: an estimate, made here, that costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainstay.core.call import Reply
from mainstay.core.event import End, Frame
from mainstay.gateway.routed import Routed
from mainstay.wire.anthropic_count import estimate_tokens
from mainstay.wire.anthropic_writer import write_count

_COUNTERS = ("anthropic", "gemini", "bedrock")
"""The formats that have a counter of their own."""


class CountTokens:
    """Answers ``count_tokens`` where the first target's format has no counter."""

    def enter(self, call: Routed) -> Reply | None:
        """The estimate; None for every other call."""
        if call.operation != "count_tokens" or call.order[0].wire in _COUNTERS:
            return None
        return estimated(call)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""


def stands_in(call: Routed) -> bool:
    """Whether an estimate stands in for counters that failed: where they had to be asked in another format, which not
    every one of their models takes. Anthropic's own answers are the caller's to see."""
    return call.operation == "count_tokens" and all(target.wire != "anthropic" for target in call.order)


def estimated(call: Routed) -> Reply:
    """The reply with the estimate. Raises ``Invalid`` or ``Unsupported`` for a request that cannot be read."""
    target = call.order[0]
    call.model, call.provider = target.name, target.provider
    call.why.append("estimated")
    return Reply(call.dialect, False, _once(write_count(estimate_tokens(call.ask.request()))))


async def _once(body: bytes) -> AsyncIterator[list[Frame]]:
    yield [Frame(body, (End(),))]
