"""What the drift methods compare: counts of categories, samples of numbers, histograms; small enough for any window.

None of them needs the rows: ``SELECT finish, count(*) GROUP BY finish`` is a ``Counts``, ``SELECT output, count(*)
GROUP BY output`` a ``Sample``, and DuckDB's ``histogram(duration_ms, [edges])`` a ``Histogram``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NONE = "(none)"
"""The category of rows that have no value."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows of a window have each category."""

    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.counts.values()):
            raise ValueError("a category cannot have fewer than no rows")

    @classmethod
    def of(cls, values: Iterable[str | None]) -> Counts:
        """The counts of ``values``; None is a category of its own."""
        return cls(Counter(NONE if value is None else value for value in values))

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def share(self, category: str) -> float:
        """The part of the rows that has ``category``, 0 where there are no rows."""
        rows = self.rows
        return self.counts.get(category, 0) / rows if rows else 0.0


def _checked(points: Sequence[float], counts: Sequence[int], what: str) -> None:
    if any(not math.isfinite(point) for point in points):
        raise ValueError(f"{what} must be finite numbers")
    if any(a >= b for a, b in zip(points, points[1:], strict=False)):
        raise ValueError(f"{what} must ascend, each once")
    if any(count < 0 for count in counts):
        raise ValueError("a count cannot be negative")


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers, exactly: each different one in ascending order, and how many rows have it."""

    values: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.counts):
            raise ValueError("every value needs its count")
        _checked(self.values, self.counts, "values")

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        """The sample of ``values``, in any order."""
        return cls.counted(Counter(values))

    @classmethod
    def counted(cls, rows: Mapping[float, int]) -> Sample:
        """The sample of a table that says how many rows each value has."""
        values = sorted(rows)
        return cls(tuple(float(value) for value in values), tuple(rows[value] for value in values))

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.counts)

    def below(self, points: Sequence[float]) -> list[int]:
        """For each of the ascending ``points``, how many rows are at it or below."""
        sums = _sums(self.counts)
        return [sums[bisect_right(self.values, point)] for point in points]

    def quantile(self, level: float) -> float:
        """The least value that at least the part ``level`` of the rows is at or below."""
        sums = _sums(self.counts)
        at = bisect_left(sums, level * sums[-1] - 1e-9, 1) - 1
        return self.values[min(at, len(self.values) - 1)]

    def mean(self) -> float:
        """The mean of the rows."""
        return _mean(self.values, self.counts)

    def deviation(self) -> float:
        """The standard deviation of the rows, about their own mean."""
        return _deviation(self.values, self.counts)

    def edges(self, most: int = 200) -> tuple[float, ...]:
        """At most ``most`` edges for histograms, at evenly spaced quantiles: dense where the rows are."""
        return tuple(sorted({self.quantile(k / most) for k in range(1, most + 1)}))

    def position(self, value: float) -> float:
        """Which part of the rows is below ``value``, those equal to it counted half: from 0 to 1, 0.5 on average.

        It makes a stream of any unit and shape one that the detectors of streams can take, against this reference.
        """
        sums = _sums(self.counts)
        return (sums[bisect_left(self.values, value)] + sums[bisect_right(self.values, value)]) / (2 * sums[-1])


@dataclass(frozen=True, slots=True)
class Histogram:
    """Numbers in bins: ``counts[i]`` rows are above ``edges[i - 1]`` and at most at ``edges[i]``.

    There is one count more than edges: the last is of what lies above all of them. What the first and the last bin hold
    counts as lying at the outermost edges, so choose edges that cover nearly everything.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.edges or len(self.counts) != len(self.edges) + 1:
            raise ValueError("a histogram has one count per edge, and one for what is above them")
        _checked(self.edges, self.counts, "edges")

    @classmethod
    def counted(cls, edges: Sequence[float], rows: Mapping[float, int]) -> Histogram:
        """The histogram of ``rows``, the map from upper edge to count that DuckDB's ``histogram(x, edges)`` gives.

        What lies above all edges is counted there under the greatest number there is; any key above them will do.
        """
        above = sum(count for edge, count in rows.items() if edge > edges[-1])
        return cls(tuple(float(edge) for edge in edges), (*(rows.get(edge, 0) for edge in edges), above))

    @classmethod
    def of(cls, edges: Sequence[float], values: Iterable[float]) -> Histogram:
        """The histogram of ``values`` with these edges."""
        counts = [0] * (len(edges) + 1)
        for value in values:
            counts[bisect_left(edges, value)] += 1
        return cls(tuple(float(edge) for edge in edges), tuple(counts))

    @classmethod
    def sketched(cls, quantiles: Sequence[float], rows: int) -> Histogram:
        """The histogram of ``rows`` rows of which only evenly spaced quantiles are known, least and greatest included."""
        steps = len(quantiles) - 1
        if steps < 1:
            raise ValueError("a sketch has at least two quantiles: the least value and the greatest")
        known: dict[float, int] = {}
        for number, value in enumerate(quantiles):
            known[float(value)] = round(rows * number / steps)  # of equal quantiles the last one holds
        edges = tuple(known)
        sums = list(known.values())
        return cls(edges, (sums[0], *(b - a for a, b in zip(sums, sums[1:], strict=False)), 0))

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.counts)

    def below(self, points: Sequence[float]) -> list[int]:
        """For each of the ascending ``points``, which must be edges, how many rows are at it or below."""
        sums = _sums(self.counts)
        return [sums[bisect_left(self.edges, point) + 1] for point in points]

    def quantile(self, level: float) -> float:
        """The value that the part ``level`` of the rows is below, evenly spread within its bin."""
        sums = _sums(self.counts)
        target = level * sums[-1]
        at = max(1, bisect_left(sums, target - 1e-9, 1)) - 1  # the bin that the row of this level lies in
        if at == 0 or at >= len(self.edges):
            return self.edges[0 if at == 0 else -1]
        low, high = self.edges[at - 1], self.edges[at]
        return low + (high - low) * (target - sums[at]) / self.counts[at] if self.counts[at] else high

    def mean(self) -> float:
        """The mean, each row taken to lie in the middle of its bin."""
        return _mean(self._middles(), self.counts)

    def deviation(self) -> float:
        """The standard deviation, each row taken to lie in the middle of its bin."""
        return _deviation(self._middles(), self.counts)

    def _middles(self) -> tuple[float, ...]:
        inner = [(a + b) / 2 for a, b in zip(self.edges, self.edges[1:], strict=False)]
        return (self.edges[0], *inner, self.edges[-1])

    def position(self, value: float) -> float:
        """As a sample's, with the rows of the value's own bin counted half."""
        sums = _sums(self.counts)
        at = bisect_left(self.edges, value)
        return (sums[at] + sums[at + 1]) / (2 * sums[-1])


Numbers = Sample | Histogram


def _sums(counts: Sequence[int]) -> list[int]:
    """The running sums, from 0."""
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + count)
    return sums


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)


def _deviation(values: Sequence[float], counts: Sequence[int]) -> float:
    mean = _mean(values, counts)
    squares = math.fsum(count * (value - mean) ** 2 for value, count in zip(values, counts, strict=True))
    return math.sqrt(squares / sum(counts))


def geometric_edges(low: float, high: float, per_doubling: int = 8) -> tuple[float, ...]:
    """Edges from ``low`` to at least ``high``, ``per_doubling`` of them per factor of 2.

    For lengths, times and costs, whose orders of magnitude matter: 8 per doubling know every value to 9 %.
    """
    if not 0 < low < high:
        raise ValueError("geometric edges need 0 < low < high")
    steps = math.ceil(per_doubling * math.log2(high / low) - 1e-9)
    return tuple(low * 2 ** (step / per_doubling) for step in range(steps + 1))
