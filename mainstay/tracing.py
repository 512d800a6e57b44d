"""Wires traces on the control side: what applications send, and what goes to a collector."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mainstay.core.errors import Invalid, Unavailable
from mainstay.edge.permissions import Caller
from mainstay.ledger.counters import Sample
from mainstay.ledger.following import Following
from mainstay.ledger.journal import Journal
from mainstay.ledger.record import CallRecord
from mainstay.ledger.traces import present
from mainstay.observe.intake import Intake, Sender
from mainstay.observe.otlp_client import Collector, headers_of
from mainstay.observe.otlp_out import OtlpOut, Told
from mainstay.observe.span_prices import SpanPrices
from mainstay.observe.spans_metrics import CallMetrics
from mainstay.observe.spans_names import PROVIDERS as WELL_KNOWN
from mainstay.observe.spans_names import generation_of
from mainstay.observe.spans_out import Exporter
from mainstay.observe.spans_record import Content
from mainstay.upstream.providers import PROVIDERS
from mainstay.wire.otlp_span import Resource

if TYPE_CHECKING:
    from mainstay.control import Control

_TOLD_TEXT = 64 * 1024  # characters of a content that go onto a span


class Tracing:
    """The intake of spans, with a journal of this process's own, which the ledger takes in like a gateway's; and, where
    a collector is set, what is told to it. Raises ``Unavailable`` for settings that cannot be."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.out = _out(control)
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
        self._tasks: list[asyncio.Task[None]] = []

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

    def run(self) -> None:
        """Start to tell the collector."""
        if self.out is not None:
            self._tasks = [asyncio.create_task(self.out.run()), asyncio.create_task(self.out.run_metrics())]

    async def close(self) -> None:
        """Take no more spans, tell no more; what was taken is in the journal, what was not told is in the ledger."""
        self.intake.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.out is not None:
            await self.out.close()

    def status(self) -> dict[str, Any]:
        """What was taken and told since this process started."""
        intake, out = self.intake, self.out
        found: dict[str, Any] = {"taken": intake.taken, "known": intake.known, "rejected": intake.rejected}
        if out is not None:
            told = out.told
            found["out"] = {
                "sent": told.sent,
                "dropped": told.dropped,
                "failed_requests": told.failed,
                "metrics_sent": told.metrics_sent,
                "metrics_failed": told.metrics_failed,
                "lag_seconds": out.lag_seconds,
                "error": told.error,
            }
        return found

    def samples(self) -> Iterable[Sample]:
        """The same for Prometheus."""
        intake, out = self.intake, self.out
        return samples(
            intake.taken,
            intake.known,
            intake.rejected,
            None if out is None else out.told,
            out.lag_seconds if out else 0.0,
        )


def samples(taken: int, known: int, rejected: int, told: Told | None, lag: float) -> Iterable[Sample]:
    """Figures of spans taken in and, where there is a collector, of those that it was told."""

    def counter(name: str, words: str, value: int) -> Sample:
        return Sample(f"mainstay_{name}_total", words, float(value), {}, "counter")

    yield counter("spans_taken", "Spans of applications that were written down.", taken)
    yield counter("spans_known", "Spans of applications that came again and had been written down before.", known)
    yield counter("spans_rejected", "Spans of applications that were refused for good.", rejected)
    if told is not None:
        yield counter("otlp_spans_sent", "Spans of calls that the collector took.", told.sent)
        yield counter("otlp_spans_dropped", "Spans of calls that the collector refused for good.", told.dropped)
        yield counter("otlp_requests_failed", "Requests to the collector that are made again.", told.failed)
        yield counter("otlp_metrics_sent", "Requests with metrics that the collector took.", told.metrics_sent)
        yield counter("otlp_metrics_failed", "Requests with metrics that it did not take.", told.metrics_failed)
        yield Sample("mainstay_otlp_lag_seconds", "How far behind the collector is while it takes no spans.", lag)


def _out(control: Control) -> OtlpOut | None:
    settings = control.settings
    if not settings.otlp_endpoint:
        return None
    resource = Resource({"service.name": "mainstay", "service.version": version("mainstay")})
    well_known: dict[str, str] = {}
    try:
        generation = generation_of(settings.otlp_names)
        encoding = "json" if settings.otlp_protocol == "http/json" else "protobuf"
        headers = headers_of(settings.otlp_headers)
        collector = Collector(settings.otlp_endpoint, headers, encoding, control.clock)
    except (ValueError, Invalid) as error:
        raise Unavailable(f"the settings of the collector are wrong: {error}", code="bad_setting") from None

    def exporter() -> Exporter:
        for one in control.resolved.providers if control.resolved is not None else ():
            kind = one.body.kind or one.body.wire or one.body.name
            well_known[one.body.name] = WELL_KNOWN.get(kind, kind)
        return Exporter(generation, resource, providers=well_known)

    async def content(record: CallRecord) -> Content | None:
        kept = None if record.content is None else await control.content.get(record.id)
        if kept is None:
            return None
        asked, answered = (data.decode(errors="replace")[:_TOLD_TEXT] for data in (kept.request, kept.reply))
        return Content(asked, answered)

    return OtlpOut(
        collector,
        Following(control.ledger),
        settings.home / "otlp.json",
        exporter,
        CallMetrics(control.clock.now_ns(), generation, well_known),
        control.clock,
        content if settings.otlp_content else None,
        settings.otlp_metrics_seconds,
    )
