"""Calls as metrics of OpenTelemetry's GenAI conventions, counted from when this began."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from mainstay.ledger.record import CallRecord
from mainstay.observe.spans_names import ATTRIBUTES, INFERENCE, METRICS, Generation, operation_of
from mainstay.wire.otlp_metric import Buckets, Metric, Number, Point
from mainstay.wire.otlp_span import Value

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(float(4**power) for power in range(14))
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
OUTPUT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

_HISTOGRAMS: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "duration": ("s", "From the request to the end of the reply.", SECONDS),
    "embeddings_duration": ("s", "From the request to the end of the reply.", SECONDS),
    "other_duration": ("s", "From the request to the end of the reply.", SECONDS),
    "first_token": ("s", "From the request to the first token of a streamed reply.", SECONDS),
    "served_first_token": ("s", "From the request to the first token of a successful reply.", FIRST_TOKEN),
    "served_output_token": (
        "s",
        "Time per output token after the first, of successful streamed replies.",
        OUTPUT_TOKEN,
    ),
    "tokens": ("{token}", "Input and output tokens used.", TOKENS),
    "input_each": ("{token}", "Input tokens of one operation.", TOKENS),
    "embeddings_each": ("{token}", "Input tokens of one embeddings operation.", TOKENS),
    "output_each": ("{token}", "Output tokens of one operation.", TOKENS),
}
"""Unit, description and the bucket boundaries that the conventions give."""

_COUNTERS: Mapping[str, str] = {
    "input": "Input tokens used, cached ones included.",
    "output": "Output tokens used, reasoning included.",
    "cached_input": "Input tokens served from a provider's cache.",
    "cache_write": "Input tokens written to a provider's cache.",
    "reasoning": "Output tokens used for reasoning.",
}

_Labels = tuple[tuple[str, str], ...]
_OVERFLOW: _Labels = (("otel.metric.overflow", "true"),)


class _Histogram:
    __slots__ = ("counts", "least", "most", "sum")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.sum = self.most = 0.0
        self.least = float("inf")


class CallMetrics:
    """Sums up calls. ``started`` is nanoseconds since the epoch, ``limit`` the label sets that a metric may have.

    What comes on top counts under ``otel.metric.overflow``, as OpenTelemetry's SDKs have it: no figure is lost.
    """

    def __init__(
        self,
        started: int,
        generation: Generation = "old",
        providers: Mapping[str, str] | None = None,
        limit: int = 2000,
    ) -> None:
        self._started = started
        self._generation: Generation = generation
        self._providers = providers or {}
        self._limit = limit
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {}
        self._counters: dict[str, dict[_Labels, int]] = {}

    def add(self, record: CallRecord) -> None:
        """Counts one call that ended."""
        operation = operation_of(record.operation)
        labels = self._labels(record, operation)
        failed = record.error if record.outcome != "ok" else None
        with_error = (*labels, ("error.type", failed)) if failed else labels
        if record.duration_ms is not None:
            name = "duration" if operation in INFERENCE else f"{operation}_duration"
            self._observe(name if name in METRICS else "other_duration", with_error, record.duration_ms / 1e3)
        self._first_token(record, labels)
        if record.input is not None and record.output is not None:
            self._tokens(record, operation, labels, with_error)

    def _labels(self, record: CallRecord, operation: str) -> _Labels:
        found = [("operation", operation)]
        if record.provider is not None:
            found.append(("provider", self._providers.get(record.provider, record.provider)))
        if asked := record.upstream_model or record.model or record.route:
            found.append(("request_model", asked))
        return self._named(found)

    def _named(self, found: list[tuple[str, str]]) -> _Labels:
        return tuple((name, value) for meaning, value in found for name in ATTRIBUTES[meaning].of(self._generation))

    def _first_token(self, record: CallRecord, labels: _Labels) -> None:
        first, whole, output = record.first_token_ms, record.duration_ms, record.output
        if not record.stream or first is None:
            return
        self._observe("first_token", labels, first / 1e3)
        if record.outcome == "ok":
            self._observe("served_first_token", labels, first / 1e3)
            if whole is not None and output is not None and output > 1:
                self._observe("served_output_token", labels, max(whole - first, 0.0) / 1e3 / (output - 1))

    def _tokens(self, record: CallRecord, operation: str, labels: _Labels, with_error: _Labels) -> None:
        inference = operation in INFERENCE
        for sort, count, audio in (
            ("input", record.input or 0, record.input_audio or 0),
            ("output", record.output or 0, record.output_audio or 0),
        ):
            if sort == "input" or operation != "embeddings":
                self._observe("tokens", labels + self._named([("token_type", sort)]), count)
            if not inference:
                continue
            self._observe(f"{sort}_each", with_error, count)
            # Which of the others are text and which images, providers do not say.
            self._count(sort, labels + self._named([("modality", "unknown")]), count - audio)
            if audio:
                self._count(sort, labels + self._named([("modality", "audio")]), audio)
        if operation == "embeddings":
            self._observe("embeddings_each", with_error, record.input or 0)
        elif inference:
            unknown = labels + self._named([("modality", "unknown")])
            self._count("cached_input", unknown, record.cached_input or 0)
            self._count("cache_write", unknown, record.cache_write or 0)
            self._count("reasoning", unknown, record.reasoning or 0)

    def _observe(self, meaning: str, labels: _Labels, value: float) -> None:
        bounds = _HISTOGRAMS[meaning][2]
        for name in METRICS[meaning].of(self._generation):
            series = self._histograms.setdefault(name, {})
            held = series.get(labels)
            if held is None:
                key = labels if len(series) < self._limit else _OVERFLOW
                held = series.setdefault(key, _Histogram(len(bounds)))
            held.counts[bisect_left(bounds, value)] += 1
            held.sum += value
            held.least = min(held.least, value)
            held.most = max(held.most, value)

    def _count(self, meaning: str, labels: _Labels, amount: int) -> None:
        for name in METRICS[meaning].of(self._generation):
            series = self._counters.setdefault(name, {})
            key = labels if labels in series or len(series) < self._limit else _OVERFLOW
            series[key] = series.get(key, 0) + amount

    def collect(self, at: int) -> list[Metric]:
        """All metrics as they stand, cumulative, at ``at`` nanoseconds since the epoch."""
        found: list[Metric] = []
        for meaning, (unit, description, bounds) in _HISTOGRAMS.items():
            for name in METRICS[meaning].of(self._generation):
                series = self._histograms.get(name)
                if series and all(metric.name != name for metric in found):  # two meanings may have one name
                    points = tuple(self._buckets(at, bounds, labels, held) for labels, held in series.items())
                    found.append(Metric(name, unit, description, "histogram", points))
        for meaning, description in _COUNTERS.items():
            for name in METRICS[meaning].of(self._generation):
                series = self._counters.get(name)
                if series:
                    totals: tuple[Point, ...] = tuple(
                        Number(at, total, self._started, _attributes(labels)) for labels, total in series.items()
                    )
                    found.append(Metric(name, "{token}", description, "sum", totals))
        return found

    def _buckets(self, at: int, bounds: tuple[float, ...], labels: _Labels, held: _Histogram) -> Buckets:
        return Buckets(
            at,
            sum(held.counts),
            held.sum,
            bounds,
            tuple(held.counts),
            self._started,
            held.least,
            held.most,
            _attributes(labels),
        )


def _attributes(labels: _Labels) -> dict[str, Value]:
    return {"otel.metric.overflow": True} if labels == _OVERFLOW else dict(labels)
