"""The outermost stage: whatever becomes of a call, exactly one record of it goes into the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, Refused, Unavailable
from mainstay.core.money import Nano
from mainstay.gateway.routed import Routed
from mainstay.ledger.journal import Journal
from mainstay.ledger.record import closed


class Record:
    """Adds up what the attempts came to, settles the hold with it, and closes the record."""

    def __init__(self, journal: Journal, clock: Clock, status_of: Callable[[BaseException], int]) -> None:
        self._journal, self._clock, self._status_of = journal, clock, status_of

    def enter(self, call: Routed) -> None:
        """Nothing to do before the answer."""

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Close the record of the call."""
        self._outcome(call, error)
        call.cost = _cost(call)
        charges: dict[str, int] = {}
        if call.opened:
            tokens = sum(attempt.usage.total for attempt in call.attempts if attempt.usage is not None)
            if call.hold is not None:
                # A cost that is unknown was admitted by a budget that allows it, and charges nothing.
                call.hold.settle(tokens=tokens, nano=call.cost or 0)
                charges = call.hold.charges
            for name, hold in call.model_holds.items():
                hold.settle(nano=sum(attempt.cost or 0 for attempt in call.attempts if attempt.target == name))
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


def _cost(call: Routed) -> Nano | None:
    total = 0
    for attempt in call.attempts:
        if attempt.cost is None:
            return None
        total += attempt.cost
    return total
