"""Counters and histograms over the calls since this process started, in Prometheus's text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from mainstay.core.money import usd
from mainstay.ledger.record import CallRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

OTHER = "other"
"""The label value that stands for all beyond the limits of cardinality."""

_DURATION = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_TOKEN = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_OUTPUT_TOKEN = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)

Labels = tuple[str, ...]


class Sample(NamedTuple):
    """One figure of this moment that is given from outside, such as a gateway's queue."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = {}
    sort: Literal["gauge", "counter"] = "gauge"


class _Values:
    """The distinct values of the labels of one name, as many as are allowed."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, set[str]] = {}

    def bounded(self, names: Labels, values: Labels) -> Labels:
        return tuple(self._one(name, value) for name, value in zip(names, values, strict=True))

    def _one(self, name: str, value: str) -> str:
        known = self._known.setdefault(name, set())
        if value in known:
            return value
        if len(known) >= self._limit:
            return OTHER
        known.add(value)
        return value


class _Counter:
    def __init__(self, name: str, help: str, labels: Labels, values: _Values, limit: int, nano: bool = False) -> None:
        self.name, self.help, self.labels, self.nano = name, help, labels, nano
        self._values, self._limit = values, limit
        self._series: dict[Labels, Labels] = {}  # what was seen, and what it counts as
        self.found: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        key = self._series.get(labels)
        if key is None:
            key = self._values.bounded(self.labels, labels)
            if key not in self.found and len(self.found) >= self._limit:
                key = (OTHER,) * len(labels)
            if len(self._series) < 4 * self._limit:
                self._series[labels] = key
        self.found[key] = self.found.get(key, 0) + amount

    def lines(self) -> Iterable[str]:
        yield from _head(self.name, self.help, "counter")
        for labels, value in self.found.items():
            yield f"{self.name}{_labels(self.labels, labels)} {usd(value) if self.nano else value}"


class _Histogram:
    def __init__(
        self, name: str, help: str, labels: Labels, bounds: tuple[float, ...], values: _Values, limit: int
    ) -> None:
        self.name, self.help, self.labels, self.bounds = name, help, labels, bounds
        self._values, self._limit = values, limit
        self._found: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, value: float) -> None:
        counts = self._found.get(labels)
        if counts is None:
            labels = self._values.bounded(self.labels, labels)
            if labels not in self._found and len(self._found) >= self._limit:
                labels = (OTHER,) * len(labels)
            counts = self._found.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def lines(self) -> Iterable[str]:
        yield from _head(self.name, self.help, "histogram")
        for labels, counts in self._found.items():
            total = 0
            for bound, count in zip((*self.bounds, None), counts, strict=True):
                total += count
                le = "+Inf" if bound is None else f"{bound:g}"
                yield f"{self.name}_bucket{_labels((*self.labels, 'le'), (*labels, le))} {total}"
            yield f"{self.name}_sum{_labels(self.labels, labels)} {_number(self._sums[labels])}"
            yield f"{self.name}_count{_labels(self.labels, labels)} {total}"


class Counters:
    """A fold over the records that ``Ingest`` takes in.

    At most ``values`` distinct values per label and ``series`` label sets per metric; what comes on top counts as
    ``other``. Counters begin at zero when the process starts, as Prometheus expects.
    """

    def __init__(self, *, values: int = 200, series: int = 2000) -> None:
        allowed = _Values(values)

        def counter(name: str, help: str, *labels: str, nano: bool = False) -> _Counter:
            return _Counter(f"mainstay_{name}", help, labels, allowed, series, nano)

        def histogram(name: str, help: str, bounds: tuple[float, ...], *labels: str) -> _Histogram:
            return _Histogram(f"mainstay_{name}", help, labels, bounds, allowed, series // 4)

        who = ("model", "provider")
        self._calls = counter(
            "calls_total", "Calls that ended.", "route", "model", "provider", "team", "status", "outcome"
        )
        self._duration = histogram(
            "call_duration_seconds", "From the request to the end of the reply.", _DURATION, "route", *who
        )
        self._first = histogram("first_token_seconds", "From the request to the first token.", _FIRST_TOKEN, *who)
        self._pace = histogram(
            "output_token_seconds", "Time per output token after the first, of streamed replies.", _OUTPUT_TOKEN, *who
        )
        self._overhead = histogram(
            "overhead_seconds", "Time not spent waiting for an upstream.", _OVERHEAD, "operation"
        )
        self._tokens = counter(
            "tokens_total", "Tokens by sort; all but input and output are parts of those two.", *who, "team", "sort"
        )
        self._cost = counter(
            "cost_usd_total", "Cost in US dollars, of calls whose cost is known.", *who, "team", nano=True
        )
        self._unpriced = counter("unpriced_calls_total", "Calls that used tokens whose price is unknown.", *who)
        self._errors = counter("errors_total", "Calls that did not end well, by error code.", "error", "outcome")
        self._failures = counter("upstream_errors_total", "Attempts that failed, by kind.", *who, "kind")
        self._attempts = counter("attempts_total", "Attempts at targets.", *who)
        self._retries = counter("retries_total", "Attempts at a target that had failed this call before.", *who)
        self._fallbacks = counter(
            "fallbacks_total", "Times that a call went on to another target.", "route", "from", "to"
        )
        self._rescues = counter("rescues_total", "Replies completed by another attempt after they had begun.", "how")
        self._spans = counter("spans_total", "Spans and records that applications sent.", "kind", "source", "team")
        self._cache = counter("cache_total", "Calls by what the exact cache had.", "route", "state")

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        route, team = record.route or "", record.team or ""
        if record.source is not None:  # what an application tells is no call of a gateway
            self._spans.add((record.kind or "", record.source, team))
            return
        model, provider = record.model or "", record.provider or ""
        self._calls.add((route, model, provider, team, str(record.status), record.outcome))
        self._cache.add((route, record.cache or "off"))
        if record.outcome != "ok":
            self._errors.add((record.error or "", record.outcome))
        if record.attempts:
            self._add_attempts(record, route)
        self._add_times(record, route, model, provider)
        for sort in ("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio"):
            count = getattr(record, sort)
            if count:
                self._tokens.add((model, provider, team, sort), count)
        if record.cost_nano is not None:
            self._cost.add((model, provider, team), record.cost_nano)
        elif record.input or record.output:
            self._unpriced.add((model, provider))

    def _add_times(self, record: CallRecord, route: str, model: str, provider: str) -> None:
        duration, first = record.duration_ms, record.first_token_ms
        if record.overhead_ms is not None:
            self._overhead.add((record.operation,), record.overhead_ms / 1e3)
        if duration is None:
            return
        self._duration.add((route, model, provider), duration / 1e3)
        if first is None:
            return
        self._first.add((model, provider), first / 1e3)
        if record.stream and record.output is not None and record.output > 1:
            self._pace.add((model, provider), max(duration - first, 0.0) / 1e3 / (record.output - 1))

    def _add_attempts(self, record: CallRecord, route: str) -> None:
        tried: set[str] = set()
        previous = ""
        for attempt in record.attempts:
            who = (attempt.target, attempt.provider)
            self._attempts.add(who)
            if attempt.error is not None:
                self._failures.add((*who, attempt.error))
            if attempt.target in tried:
                self._retries.add(who)
            if previous and attempt.target != previous:
                self._fallbacks.add((route, previous, attempt.target))
            if attempt.rescue is not None:
                self._rescues.add((attempt.rescue,))
            tried.add(attempt.target)
            previous = attempt.target

    def expose(self, samples: Iterable[Sample] = ()) -> str:
        """All metrics as text, with ``samples`` that others took (breakers, queues, journal lag …)."""
        lines: list[str] = []
        for metric in vars(self).values():
            if isinstance(metric, _Counter | _Histogram):
                lines.extend(metric.lines())
        grouped: dict[str, list[Sample]] = {}
        for sample in samples:
            grouped.setdefault(sample.name, []).append(sample)
        for name, group in grouped.items():
            lines.extend(_head(name, group[0].help, group[0].sort))
            for sample in group:
                labels = _labels(tuple(sample.labels), tuple(sample.labels.values()))
                lines.append(f"{name}{labels} {_number(sample.value)}")
        return "\n".join(lines) + "\n"


def _head(name: str, help: str, sort: str) -> Iterable[str]:
    text = help.replace("\\", "\\\\").replace("\n", "\\n")
    return (f"# HELP {name} {text}", f"# TYPE {name} {sort}")


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
