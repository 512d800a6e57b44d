"""Calls leave for a collector as spans and metrics: each at least once, from where the last process had come to."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mainstay.core.clock import Clock
from mainstay.core.durable import replace
from mainstay.core.errors import MainstayError
from mainstay.ledger.following import Following, Place
from mainstay.ledger.record import CallRecord
from mainstay.observe.otlp_client import Collector, Sent
from mainstay.observe.spans_metrics import CallMetrics
from mainstay.observe.spans_out import Exporter
from mainstay.observe.spans_record import Content
from mainstay.wire.otlp import write_metrics, write_traces

_BATCH = 256  # calls of a request
_POLL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_METRICS_SECONDS = 60.0

log = logging.getLogger("mainstay.otlp")

ContentOf = Callable[[CallRecord], Awaitable[Content | None]]
"""What was said in a call, where that is to be told."""


@dataclass(slots=True)
class Told:
    """What was told so far, by this process. ``dropped`` spans will never be told; ``failed`` requests are sent again."""

    sent: int = 0
    dropped: int = 0
    failed: int = 0
    metrics_sent: int = 0
    metrics_failed: int = 0
    error: str | None = None


class OtlpOut:
    """Reads the ledger behind a place kept in the file ``kept`` and tells it to ``collector``; one per control process.

    Nothing waits in memory but one batch: while the collector is away the calls wait in the ledger. The place moves on
    when the collector has taken a batch, so a process that is killed in between tells that batch again, as the same
    spans. What is told begins with the first start.
    """

    def __init__(
        self,
        collector: Collector,
        following: Following,
        kept: Path,
        exporter: Callable[[], Exporter],
        metrics: CallMetrics,
        clock: Clock,
        content: ContentOf | None = None,
        metrics_seconds: float = _METRICS_SECONDS,
    ) -> None:
        self._collector, self._following = collector, following
        self._kept, self._exporter, self._metrics = kept, exporter, metrics
        self._clock, self._content, self._metrics_seconds = clock, content, metrics_seconds
        self._place: Place | None = None
        self._pause = 0.0
        self.told = Told()

    @property
    def lag_seconds(self) -> float:
        """How long ago the call was taken in behind which nothing was told, while the collector does not take more."""
        if self._place is None or not self._pause:
            return 0.0
        return max(self._clock.now() - self._place.taken / 1e6, 0.0)

    async def run(self) -> None:
        """Tell spans, until it is cancelled."""
        while True:
            try:
                wait = await self._turn()
            except Exception as error:  # the ledger is busy, the disk full: it goes on from the same place
                self.told.error = error.message if isinstance(error, MainstayError) else type(error).__name__
                log.warning("calls cannot be told to the collector: %s", self.told.error)
                wait = self._longer()
            await asyncio.sleep(wait)

    async def run_metrics(self) -> None:
        """Tell metrics every minute, until it is cancelled."""
        while True:
            await asyncio.sleep(self._metrics_seconds)
            found = self._metrics.collect(self._clock.now_ns())
            if not found:
                continue
            exporter = self._exporter()
            try:
                body = write_metrics(found, exporter.resource, exporter.scope, self._collector.encoding)
                sent = await self._collector.send("/v1/metrics", body)
            except Exception as error:
                sent = Sent(False, True, said=type(error).__name__)
            self.told.metrics_sent += sent.ok
            self.told.metrics_failed += not sent.ok  # the figures are sums: the next ones have it all
            if not sent.ok or sent.rejected:
                log.warning("the collector has not taken all metrics: %s", sent.said)

    async def close(self) -> None:
        """Close the connections."""
        await self._collector.close()

    async def _turn(self) -> float:
        """Tell one batch; the seconds to wait before the next."""
        if self._place is None:
            self._place = await asyncio.to_thread(self._read)
        records, place = await self._following.read(self._place, _BATCH)
        if place == self._place:
            self._pause, self.told.error = 0.0, None
            return _POLL
        wait = await self._tell(records) if records else None
        if wait is not None:
            return wait
        await asyncio.to_thread(self._write, place)
        self._place, self._pause, self.told.error = place, 0.0, None
        for record in records:
            self._metrics.add(record)
        return 0.0 if len(records) == _BATCH else _POLL

    async def _tell(self, records: Sequence[CallRecord]) -> float | None:
        """Tell ``records``; None when nothing of them is to be sent again, else the seconds until then."""
        exporter = self._exporter()
        spans = [
            span
            for record in records
            for span in exporter.spans(record, None if self._content is None else await self._content(record))
        ]
        body = await asyncio.to_thread(write_traces, spans, self._collector.encoding)
        sent = await self._collector.send("/v1/traces", body)
        if sent.ok:
            self.told.sent += len(spans) - min(sent.rejected, len(spans))
            self.told.dropped += min(sent.rejected, len(spans))
            if sent.rejected or sent.said:
                log.warning("the collector has rejected %d of %d spans: %s", sent.rejected, len(spans), sent.said)
            return None
        self.told.failed += 1
        if sent.again:
            if self.told.error is None:
                log.warning("the collector does not take spans, they wait in the ledger: %s", sent.said)
            self.told.error = sent.said
            longer = self._longer()
            return longer if sent.wait is None else max(sent.wait, 0.1) * (1 + random.random() / 10)
        if len(records) > 1:  # too large, or one of them is not to its liking: the others are
            middle = len(records) // 2
            wait = await self._tell(records[:middle])
            return await self._tell(records[middle:]) if wait is None else wait
        self.told.dropped += len(spans)
        log.error("the collector refuses the spans of call %s, which are not told: %s", records[0].id, sent.said)
        return None

    def _longer(self) -> float:
        """The next pause: twice the last, and never the same for two who wait for one collector."""
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        return self._pause * (0.5 + random.random() / 2)

    def _read(self) -> Place:
        try:
            found = json.loads(self._kept.read_text())
            return Place(int(found["taken"]), str(found["id"]))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s cannot be read, the calls before now are not told: %s", self._kept, error)
        place = Place(self._clock.now_ns() // 1000)
        self._write(place)
        return place

    def _write(self, place: Place) -> None:
        replace(self._kept, json.dumps(place._asdict()).encode())
