"""The outermost stage: whatever becomes of a call, exactly one record of it goes into the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, Refused, Unavailable, UpstreamFailed
from mainstay.core.money import Nano
from mainstay.gateway.routed import Routed
from mainstay.ledger.journal import Journal
from mainstay.ledger.recording import closed

_PROVIDERS_WORDS = frozenset(
    (
        "rate_limit",
        "overloaded",
        "server_error",
        "not_found",
        "context_length",
        "content_filter",
        "invalid",
        "quota",
    )
)
"""The failures of which a provider tells in its own words; the others are told in ours."""


class Record:
    """Adds up what the attempts came to, settles the hold with it, and closes the record."""

    def __init__(self, journal: Journal, clock: Clock, status_of: Callable[[BaseException], int]) -> None:
        self._journal, self._clock, self._status_of = journal, clock, status_of

    def enter(self, call: Routed) -> None:
        """Nothing to do before the answer."""

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Close the record of the call."""
        self._outcome(call, error)
        if not call.keep_content:
            _without_words(call, error)
        known, unknown = 0, False
        for attempt in call.attempts:
            if attempt.cost is None:
                unknown = True
            else:
                known += attempt.cost
        call.cost = None if unknown else known
        charges: dict[str, int] = {}
        if call.opened:
            if call.hold is not None:
                tokens = sum([attempt.usage.total for attempt in call.attempts if attempt.usage is not None])
                # What has no price was admitted by a budget that allows it, and is not charged.
                call.hold.settle(tokens=tokens, nano=known)
                charges = call.hold.charges
            for name, hold in call.model_holds.items():
                hold.settle(nano=_cost_at(call, name))
                charges = {**charges, **hold.charges}
        now = self._clock.monotonic()
        self._journal.close(closed(call, ended=now, charges=charges, content=call.content))

    def _outcome(self, call: Routed, error: BaseException | None) -> None:
        if error is None:
            call.outcome = "ok"
            call.status = call.status or 200
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            call.outcome, call.status, call.error = "cancelled", 499, "client_closed_request"
            return
        call.status = self._status_of(error)
        call.outcome = "refused" if isinstance(error, Refused | Unavailable) and not call.attempts else "failed"
        if isinstance(error, MainstayError):
            call.error, call.message = error.code, error.message
        else:
            call.error, call.message = "internal_error", type(error).__name__


def _without_words(call: Routed, error: BaseException | None) -> None:
    """Leave out what a provider says in its own words of a failure, since it may quote what was asked."""
    for attempt in call.attempts:
        if attempt.error in _PROVIDERS_WORDS and attempt.message is not None:
            attempt.message = _answered(attempt.status)
    if isinstance(error, UpstreamFailed) and error.kind in _PROVIDERS_WORDS:
        call.message = _answered(error.status)


def _answered(status: int | None) -> str:
    return f"the provider answered with status {status}" if status else "the provider reported an error"


def _cost_at(call: Routed, target: str) -> Nano:
    """What the attempts at one target cost, as far as prices are known."""
    return sum([attempt.cost or 0 for attempt in call.attempts if attempt.target == target])
