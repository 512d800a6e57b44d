"""Drift of numbers: Kolmogorov and Smirnov's two-sample test and the Wasserstein-1 distance, from rows or histograms.

A sample against a sample is exact. Where one side is a histogram, both are compared at the edges they share; what
happens between two edges is not seen by the first method (its value is then a lower bound, its p-value an upper one) and
taken as evenly spread by the second.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mainstay.observe.drift_distributions import (
    kolmogorov_quantile,
    kolmogorov_tail,
    monte_carlo_p,
    smirnov_tail,
)
from mainstay.observe.drift_finding import Finding, How, Moved, size_of
from mainstay.observe.drift_inputs import Histogram, Numbers, Sample

MODERATE_KS, LARGE_KS = 0.1, 0.2
"""Labels of the KS distance: so large a part of the rows lies on the other side of some value."""

MODERATE_WASSERSTEIN, LARGE_WASSERSTEIN = 0.25, 0.5
"""Labels of the Wasserstein distance in the reference's spreads; a normal shifted so far has a KS of 0.1 and 0.2."""

EXACT_CELLS = 200_000
"""Up to this product of the two sample sizes the KS p-value is exact (some 50 ms)."""

GRID = 128
"""Points at which the chance level of the Wasserstein distance is simulated."""

PERMUTED_ROWS = 200
"""Up to so many rows on the smaller side it is permuted; above, a Brownian bridge stands for the permutations."""

DRAWS = 1999
"""Simulations at most, so that the least p-value is 0.0005."""

NORMAL_IQR = 1.349
"""The interquartile range of a normal, in standard deviations."""


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Both sides' rows at or below each of the same points. ``spread``: rows lie evenly between points, not at them."""

    points: Sequence[float]
    before: Sequence[int]
    after: Sequence[int]
    rows: tuple[int, int]
    spread: bool

    def gaps(self) -> list[float]:
        """The difference of the two distribution functions at each point."""
        n, m = self.rows
        return [b / m - a / n for a, b in zip(self.before, self.after, strict=True)]

    def coarse(self, most: int) -> _Aligned:
        """At most ``most`` of the points, evenly spaced in the pooled rows, and always the first and the last."""
        if len(self.points) <= most:
            return self
        pooled = [a + b for a, b in zip(self.before, self.after, strict=True)]
        wanted = {bisect_left(pooled, pooled[-1] * k / (most - 2)) for k in range(1, most - 1)}
        keep = sorted({0, len(pooled) - 1, *wanted})
        return _Aligned(
            [self.points[k] for k in keep],
            [self.before[k] for k in keep],
            [self.after[k] for k in keep],
            self.rows,
            self.spread,
        )


def _align(reference: Numbers, window: Numbers) -> _Aligned:
    rows = reference.rows, window.rows
    if not min(rows):
        raise ValueError("a comparison needs rows on both sides")
    if isinstance(reference, Sample) and isinstance(window, Sample):
        points = sorted({*reference.values, *window.values})
    elif isinstance(reference, Histogram) and isinstance(window, Histogram):
        points = sorted({*reference.edges} & {*window.edges})
    else:
        points = list(reference.edges if isinstance(reference, Histogram) else window.edges)  # type: ignore[union-attr]
    if not points:
        raise ValueError("the two histograms have no edge in common; count the window by the reference's edges")
    spread = not (isinstance(reference, Sample) and isinstance(window, Sample))
    return _Aligned(points, reference.below(points), window.below(points), rows, spread)


def smirnov(reference: Numbers, window: Numbers) -> float:
    """The greatest difference of the two distribution functions, from 0 to 1 (Smirnov 1939)."""
    return max(abs(gap) for gap in _align(reference, window).gaps())


def wasserstein(reference: Numbers, window: Numbers) -> float:
    """The area between the two distribution functions, in the feature's unit: how far the rows must move on average.

    The Wasserstein-1 distance on the line is that area (Vallender 1974).
    """
    both = _align(reference, window)
    return _area(both.gaps(), both.points, both.spread)


def _area(gaps: Sequence[float], points: Sequence[float], spread: bool) -> float:
    total = 0.0
    for k in range(len(points) - 1):
        width, left = points[k + 1] - points[k], gaps[k]
        if not spread:
            total += abs(left) * width
            continue
        right = gaps[k + 1]
        if left * right >= 0:
            total += (abs(left) + abs(right)) / 2 * width
        else:  # the two lines cross between the points
            total += (left * left + right * right) / (2 * (abs(left) + abs(right))) * width
    return total


def compare_ks(reference: Numbers, window: Numbers, *, alpha: float = 0.01, floor: float = MODERATE_KS) -> Finding:
    """Kolmogorov and Smirnov's test of ``window`` against ``reference``; its value is its own effect.

    The p-value is exact, given the ties, while the sample sizes' product is within ``EXACT_CELLS``, and asymptotic above,
    which with ties or bins is conservative. Raises ``ValueError`` where either side has no rows.
    """
    both = _align(reference, window)
    n, m = both.rows
    gap = max(abs(b * n - a * m) for a, b in zip(both.before, both.after, strict=True))
    value = gap / (n * m)
    root = math.sqrt(n * m / (n + m))
    how: How
    if n * m <= EXACT_CELLS:
        how = "exact"
        ends = {a + b for a, b in zip(both.before, both.after, strict=True)}
        p_value = smirnov_tail(gap, n, m, ends)
    else:
        how, p_value = "asymptotic", kolmogorov_tail(root * value)
    return Finding(
        method="ks",
        value=value,
        effect=value,
        floor=floor,
        size=size_of(value, MODERATE_KS, LARGE_KS),
        p_value=p_value,
        alpha=alpha,
        how=how,
        reference_rows=n,
        window_rows=m,
        threshold=kolmogorov_quantile(alpha) / root if how == "asymptotic" else None,
        reasons=_moves(reference, window, both),
        note="part of the rows",
    )


def scale_of(reference: Numbers) -> tuple[float, Literal["interquartile range", "standard deviation", "value"]]:
    """What a distance is measured in: the reference's spread, and which one it is.

    The interquartile range / 1.349, which is the standard deviation of a normal, since latencies and lengths have tails
    that make the standard deviation itself large and any change of the bulk small. Where more than half of the rows are
    equal it is zero, and the standard deviation takes its place; where all are equal, their own magnitude (1 for zero).
    """
    width = (reference.quantile(0.75) - reference.quantile(0.25)) / NORMAL_IQR
    if width > 0:
        return width, "interquartile range"
    deviation = reference.deviation()
    if deviation > 0:
        return deviation, "standard deviation"
    return abs(reference.quantile(0.5)) or 1.0, "value"


def compare_wasserstein(
    reference: Numbers, window: Numbers, *, alpha: float = 0.01, floor: float = MODERATE_WASSERSTEIN, seed: int = 0
) -> Finding:
    """The Wasserstein-1 distance of ``window`` from ``reference``, in the reference's spreads; it is its own effect.

    Its p-value is simulated on at most ``GRID`` points of the pooled rows: by permuting the rows while the smaller side
    has at most ``PERMUTED_ROWS``, else by the Brownian bridge to which the difference of two empirical distribution
    functions tends, which needs no rows (del Barrio, Giné and Matrán 1999). Raises ``ValueError`` where either side has
    no rows.
    """
    both = _align(reference, window)
    scale, scaled_by = scale_of(reference)
    value = _area(both.gaps(), both.points, both.spread) / scale
    grid = both.coarse(GRID)
    observed = _area(grid.gaps(), grid.points, grid.spread)
    small = min(both.rows) <= PERMUTED_ROWS
    draw = _permuted(grid, seed) if small else _bridge(grid, seed)
    p_value = monte_carlo_p(observed, draw, DRAWS)[0] if observed > 0 else 1.0
    return Finding(
        method="wasserstein",
        value=value,
        effect=value,
        floor=floor,
        size=size_of(value, MODERATE_WASSERSTEIN, LARGE_WASSERSTEIN),
        p_value=p_value,
        alpha=alpha,
        how="permutation" if small else "bridge",
        reference_rows=both.rows[0],
        window_rows=both.rows[1],
        reasons=_moves(reference, window, both),
        note=f"times {scale:.4g}, from the reference's {scaled_by}",
    )


def _cells(both: _Aligned) -> list[int]:
    """The pooled rows up to each point, less those up to the one before, and those above all points."""
    sums = [0, *(a + b for a, b in zip(both.before, both.after, strict=True)), sum(both.rows)]
    return [high - low for low, high in zip(sums, sums[1:], strict=False)]


def _permuted(both: _Aligned, seed: int) -> Callable[[], float]:
    """Draws of the area where nothing has changed: the smaller side's rows drawn from all, without replacement."""
    chance = random.Random(seed)
    cells = _cells(both)
    small, large = sorted(both.rows)

    def draw() -> float:
        drawn = [0] * len(cells)
        for cell in chance.sample(range(len(cells)), small, counts=cells):
            drawn[cell] += 1
        gaps: list[float] = []
        mine = others = 0
        for one, both_sides in zip(drawn[:-1], cells[:-1], strict=True):
            mine += one
            others += both_sides - one
            gaps.append(mine / small - others / large)
        return _area(gaps, both.points, both.spread)

    return draw


def _bridge(both: _Aligned, seed: int) -> Callable[[], float]:
    """Draws of the area where nothing has changed, from a Brownian bridge run at the pooled distribution function."""
    chance = random.Random(seed)
    n, m = both.rows
    shares = [cell / (n + m) for cell in _cells(both)]
    steps = [math.sqrt(share) for share in shares]
    root = math.sqrt(1 / n + 1 / m)

    def draw() -> float:
        walk: list[float] = []
        at = 0.0
        for step in steps:
            at += step * chance.gauss(0.0, 1.0) if step else 0.0
            walk.append(at)
        gaps: list[float] = []
        level = 0.0
        for place, share in zip(walk[:-1], shares[:-1], strict=True):
            level += share
            gaps.append((place - level * at) * root)
        return _area(gaps, both.points, both.spread)

    return draw


def _moves(reference: Numbers, window: Numbers, both: _Aligned) -> tuple[Moved, ...]:
    """The median, the 95th percentile, and the share above the point where the two sides differ most."""
    gaps = both.gaps()
    widest = max(range(len(gaps)), key=lambda k: (abs(gaps[k]), -k))
    n, m = both.rows
    share = Moved(
        f"the share above {both.points[widest]:.4g}",
        1 - both.before[widest] / n,
        1 - both.after[widest] / m,
        share=True,
    )
    levels = (("the median", 0.5), ("the 95th percentile", 0.95))
    return (*(Moved(name, reference.quantile(level), window.quantile(level)) for name, level in levels), share)
