"""Spans that applications send become rows of the ledger: each once, on disk before anybody is told that it was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, Unavailable
from mainstay.core.ids import made_from
from mainstay.core.money import Price
from mainstay.ledger.journal import Journal
from mainstay.ledger.record import VERSION, CallRecord, encode
from mainstay.ledger.spool import Content as Kept
from mainstay.ledger.spool import ContentSpool
from mainstay.observe.spans_record import Content, SpanRecord

ROW_LIMIT = 32 * 1024
"""Bytes of a row; attributes are left out first where it has more."""

_AHEAD = 86_400  # seconds that an application's clock may be fast
_WAITING = 200_000  # rows that were taken and that no query shows yet
_ASKED = 20_000

PriceOf = Callable[[str, str, float], Price | None]
"""The price of a provider's model at a time (seconds since the epoch), None where the price book has none."""

Present = Callable[[Sequence[str], int, int], Awaitable[set[str]]]
"""Which of these rows the ledger has, all of which began between two times (microseconds since the epoch)."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose key the spans came with, and whether content is kept."""

    team: str | None
    key: str | None
    key_id: str | None
    content: bool = False


@dataclass(slots=True)
class Rows:
    """Spans as rows, ready to be taken: the row and its content, by id. ``ids`` has one for each span, in order, None
    for those that were left out: Mainstay's own that came back, and ``rejected`` ones (``reason`` says why)."""

    ids: list[str | None] = field(default_factory=list[str | None])
    rows: dict[str, tuple[CallRecord, Content | None]] = field(
        default_factory=dict[str, tuple[CallRecord, Content | None]]
    )
    rejected: int = 0
    reason: str = ""


def row_id(team: str | None, trace: str, span: str, start: int) -> str:
    """The id of a span's row, ``start`` nanoseconds since the epoch: the same whenever its team sends the span again."""
    return made_from(start // 1_000_000 / 1000, f"span {team or ''} {trace} {span}".encode(), "call_")


class Intake:
    """Takes spans in; one per control process, on its event loop.

    A span is taken once: its row's id follows from its team, trace, id and start, and what the ledger has, or is about
    to have, is not written again. ``settled`` returns when all that earlier processes left in journals is in the ledger;
    it is waited for before anything is taken, since what is in no table yet cannot be recognised.
    """

    def __init__(
        self,
        journal: Journal,
        present: Present,
        settled: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        clock: Clock,
        retention_days: int,
    ) -> None:
        self._journal = journal
        self._spool = ContentSpool(journal.folder)
        self._present, self._settled, self._wake = present, settled, wake
        self._clock, self._retention = clock, retention_days * 86_400
        self._begun = False
        self._turn = asyncio.Lock()
        self._waiting: dict[str, int] = {}  # rows in the journal that may be in no table yet, with their times
        self.taken = 0
        """Spans that were written."""
        self.known = 0
        """Spans that had been there already."""
        self.rejected = 0
        """Spans that were refused and will not be sent again."""

    def close(self) -> None:
        """Close the journal, so that it is taken in to its end."""
        self._journal.stop()

    def rows(self, records: Iterable[SpanRecord], sender: Sender, source: str, price: PriceOf) -> Rows:
        """``records`` as rows. Blocks for some time where there are many; for a thread."""
        made, now = Rows(), self._clock.now()
        for record in records:
            if record.own:
                made.ids.append(None)
                continue
            if not now - self._retention <= record.start / 1e9 <= now + _AHEAD:
                made.rejected += 1
                made.reason = made.reason or (
                    "a span must not begin in the future or before what the ledger keeps; check the sender's clock"
                )
                made.ids.append(None)
                continue
            ident = row_id(sender.team, record.trace, record.span, record.start)
            row = _row(ident, record, sender, source)
            _priced(row, record, price)
            made.ids.append(ident)
            made.rows[ident] = row, record.content if sender.content else None
        return made

    async def take(self, rows: Rows) -> int:
        """Write down those of ``rows`` that are new; how many. When it returns they survive this process.

        Raises ``Unavailable`` where they cannot be recognised or written now: they are to be sent again.
        """
        async with self._turn:
            new = await self._unknown(rows)
            if new:
                data = await asyncio.to_thread(self._encoded, [rows.rows[ident] for ident in new])
                self._journal.append(data)
                self._waiting.update((ident, rows.rows[ident][0].at) for ident in new)
        self.taken += len(new)
        self.known += len(rows.rows) - len(new)
        self.rejected += rows.rejected
        if new:
            self._wake()
        return len(new)

    async def _unknown(self, rows: Rows) -> list[str]:
        ids = [ident for ident in rows.rows if ident not in self._waiting]
        if not ids:
            return []
        try:
            if not self._begun:
                await self._settled()
                self._begun = True
            if len(self._waiting) > _ASKED:
                await self._shown()
            times = [rows.rows[ident][0].at for ident in ids]
            there = await self._present(ids, min(times), max(times))
        except MainstayError:
            raise
        except Exception as error:  # the database or the disk: whoever sends them keeps them until it is there again
            raise Unavailable(
                f"the ledger cannot be asked now ({type(error).__name__}); send the spans again shortly",
                code="ledger_unavailable",
                retry_after=5.0,
            ) from error
        if len(self._waiting) + len(ids) > _WAITING:
            raise Unavailable(
                "more spans have come than the ledger has taken in; send them again later",
                code="spans_overloaded",
                retry_after=10.0,
            )
        return [ident for ident in ids if ident not in there]

    async def _shown(self) -> None:
        """Forget the rows that queries show by now, the oldest first."""
        asked = list(self._waiting.items())[:_ASKED]
        if not asked:
            return
        times = [at for _, at in asked]
        for ident in await self._present([ident for ident, _ in asked], min(times), max(times)):
            del self._waiting[ident]

    def _encoded(self, rows: Sequence[tuple[CallRecord, Content | None]]) -> list[bytes]:
        data: list[bytes] = []
        for row, content in rows:
            if content is not None:
                row.content = self._spool.put(_kept(row, content))
            data.append(encode(row, ROW_LIMIT))
        return data


def _row(ident: str, record: SpanRecord, sender: Sender, source: str) -> CallRecord:
    took = record.end - record.start
    row = CallRecord(
        v=VERSION,
        id=ident,
        at=record.start // 1000,
        operation=record.kind,
        dialect=record.dialect or source,
        stream=False,
        status=0,
        outcome="ok" if record.ok else "failed",
        parent=record.parent,
        trace=record.trace,
        error=record.error,
        message=record.message,
        key=sender.key,
        key_id=sender.key_id,
        team=sender.team,
        user=record.user,
        session=record.session,
        workflow=record.workflow,
        tags=dict(record.tags),
        model=record.model,
        provider=record.provider,
        duration_ms=took / 1e6 if took >= 0 else None,
        first_token_ms=record.first_token_ms,
        finish=",".join(record.finish) or None,
        kind=record.kind,
        name=record.name,
        span=record.span,
        source=source,
        service=record.service,
        call=record.call,
        prompt=record.prompt_name,
        prompt_version=record.prompt_version,
        agent=record.agent,
        tool=record.tool,
        attributes={name: _text(value) for name, value in _told(record)},
    )
    if record.usage is not None:
        for part in ("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio"):
            setattr(row, part, getattr(record.usage, part))
        row.usage_estimated = record.usage.estimated
    return row


def _told(record: SpanRecord) -> Iterable[tuple[str, str | int | float | bool]]:
    """Its attributes, and the fields that have no column."""
    if record.requested_model is not None and record.requested_model != record.model:
        yield "requested_model", record.requested_model
    if record.response_id is not None:
        yield "response_id", record.response_id
    if record.dropped_attributes:
        yield "dropped_attributes", record.dropped_attributes
    yield from record.attributes.items()


def _priced(row: CallRecord, record: SpanRecord, price: PriceOf) -> None:
    if record.reported_cost is not None:
        row.app_cost_nano, row.app_cost_source = record.reported_cost, "reported"
    elif record.usage is not None and record.provider is not None and record.model is not None:
        found = price(record.provider, record.model, record.start / 1e9)
        if found is not None:
            row.app_cost_nano, row.app_cost_source = found.cost(record.usage), "price_book"


def _text(value: str | int | float | bool) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _kept(row: CallRecord, content: Content) -> Kept:
    request = content.input or ""
    if content.other:
        request = msgspec.json.encode({"input": content.input, **content.other}).decode()
    reply = content.output or ""
    return Kept(row.id, row.at, request.encode(), reply.encode(), _type(request), _type(reply))


def _type(text: str) -> str:
    return "application/json" if text[:1] in ("{", "[") else "text/plain; charset=utf-8"
