"""Wires traces on the control side: what applications send, and what goes to a collector."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mainstay.edge.permissions import Caller
from mainstay.ledger.journal import Journal
from mainstay.ledger.traces import present
from mainstay.observe.intake import Intake, Sender
from mainstay.observe.span_prices import SpanPrices
from mainstay.upstream.providers import PROVIDERS

if TYPE_CHECKING:
    from mainstay.control import Control


class Tracing:
    """The intake of spans, with a journal of this process's own, which the ledger takes in like a gateway's."""

    def __init__(self, control: Control) -> None:
        self._control = control
        ledger = control.ledger
        self.intake = Intake(
            Journal(control.settings.journal, control.ids.make("control_"), clock=control.clock),
            lambda ids, first, last: present(ledger, ids, first, last),
            self._settled,
            control.ingest.wake,
            control.clock,
            control.settings.retention_days,
        )
        self._prices: SpanPrices | None = None

    async def _settled(self) -> None:
        """Return when all that is in the journals now is in the ledger."""
        async with self._control.ingest.paused():
            return

    async def prices(self) -> SpanPrices:
        """Prices by the book in force."""
        book = (await self._control.prices()).book
        if self._prices is None or self._prices.book is not book:
            ids = {kind: row.price_id for kind, row in PROVIDERS.items() if row.price_id is not None}
            self._prices = SpanPrices(book, ids)
        return self._prices

    def sender(self, caller: Caller) -> Sender:
        """Whose spans these are, and whether their content is kept: as the key says, else as the setting does."""
        resolved = self._control.resolved
        keep = self._control.settings.spans_content
        for key in resolved.keys if resolved is not None and caller.key_id is not None else ():
            if key.id == caller.key_id:
                return Sender(key.team, key.name, key.id, keep if key.content is None else key.content)
        return Sender(None, None, None, keep)

    async def close(self) -> None:
        """Take no more spans; what was taken is in the journal."""
        await asyncio.sleep(0)
        self.intake.close()
