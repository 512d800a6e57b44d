"""A metric as OpenTelemetry means it: sums, gauges and histograms with explicit buckets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mainstay.wire.otlp_span import Attributes

Sort = Literal["sum", "gauge", "histogram"]
Temporality = Literal["cumulative", "delta"]


def _none() -> Attributes:
    return {}


@dataclass(frozen=True, slots=True)
class Number:
    """One figure of a sum or gauge, counted from ``start`` to ``at``, nanoseconds since the epoch."""

    at: int
    value: int | float
    start: int = 0
    attributes: Attributes = field(default_factory=_none)


@dataclass(frozen=True, slots=True)
class Buckets:
    """One histogram. ``counts`` has one more than ``bounds``: bucket ``i`` holds values up to ``bounds[i]``."""

    at: int
    count: int
    sum: float
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    start: int = 0
    min: float | None = None
    max: float | None = None
    attributes: Attributes = field(default_factory=_none)


Point: TypeAlias = "Number | Buckets"


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument with its points, all of which are ``Buckets`` in a histogram and ``Number`` elsewhere.

    ``unit`` is written as UCUM writes it. Only a sum is monotonic or not; a gauge has no temporality.
    """

    name: str
    unit: str
    description: str
    sort: Sort
    points: tuple[Point, ...]
    temporality: Temporality = "cumulative"
    monotonic: bool = True


TEMPORALITIES: Mapping[Temporality, int] = {"delta": 1, "cumulative": 2}
"""Their numbers on the wire."""
