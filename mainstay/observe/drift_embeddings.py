"""Drift of embeddings: the maximum mean discrepancy with random features, calibrated by permutation.

Plain Python, on purpose: numpy would be an extra of 60 MB for one method. A frequency that touches at most 64 coordinates
with signs only costs two sums at C's speed, and blocks of rows are permuted by their products, so 1,000 vectors of 1,536
dimensions against 1,000 take a second or two, changed or not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from operator import itemgetter, mul

from mainstay.observe.drift_distributions import monte_carlo_p
from mainstay.observe.drift_finding import Finding, size_of

MOST_ROWS = 2000
"""Vectors of both sides together that are looked at; more are sampled, evenly and by the seed."""

FREQUENCIES = 96
"""Random features, of a cosine and a sine each."""

TOUCHED = 64
"""Coordinates that a frequency touches."""

LENGTHS = (0.5, 1.0, 2.0)
"""Lengths of the frequencies, in units of 1 / the distance of two rows along them: coarse and fine changes."""

MODERATE_MMD, LARGE_MMD = 0.002, 0.02
"""Labels of the effect; docs/guide/drift.md says which share of new traffic makes which effect."""

BLOCKS = 50
"""Blocks of equally many consecutive rows, at most, that the smaller side is cut into for the permutations."""

MOST_RATIO = 3
"""Rows of the larger side per row of the smaller: more would make the test hardly sharper, and slower."""

DRAWS = 1999
"""Permutations at most, so that the least p-value is 0.0005."""

Vector = Sequence[float]
_Columns = list[list[float]]
"""Per feature, its value in every row: the reference's rows first, then the window's."""


def compare_embeddings(
    reference: Sequence[Vector],
    window: Sequence[Vector],
    *,
    alpha: float = 0.01,
    floor: float = MODERATE_MMD,
    seed: int = 0,
    most_examples: int = 10,
) -> Finding:
    """The squared maximum mean discrepancy of two sets of vectors of equal dimension (Gretton et al. 2012).

    The kernel is the mean of cos(ω·(x - y)) over random frequencies ω (Rahimi and Recht 2007; Zhao and Meng 2015), which
    are sparse and signed (Li, Hastie and Church 2006) and scaled by the pooled rows, so the value lies in [0, 2] whatever
    the embedding's unit. p by permutation of blocks of consecutive rows, which are a subgroup of all permutations, so the
    false-alarm rate is exact for any embedding and any sizes (Hemerik and Goeman 2018).

    The effect is the energy statistics' coefficient of inhomogeneity (Székely and Rizzo 2013): the part of the mean
    distance between the two sides that is there only because they differ, less what chance makes of it; 0 for equal
    distributions and at most 1. ``examples`` are the positions in ``window`` of the rows that are the most typical of it
    and the least of the reference. Raises ``ValueError`` where a side has fewer than two rows or dimensions differ.
    """
    chance = random.Random(seed)
    before, _ = _sampled(reference, len(window), chance)
    after, places = _sampled(window, len(reference), chance)
    n, m = len(before), len(after)
    if min(n, m) < 2:
        raise ValueError("a comparison of embeddings needs two rows on both sides")
    dimension = len(before[0])
    if any(len(row) != dimension for row in (*before, *after)):
        raise ValueError("embeddings of different dimension cannot be compared; were they made by different models?")
    columns = _features([*before, *after], dimension, chance)
    totals = [math.fsum(column) for column in columns]
    ours = [math.fsum(column[n:]) for column in columns]
    gaps = [one / m - (total - one) / n for one, total in zip(ours, totals, strict=True)]
    value = sum(gap * gap for gap in gaps)
    p_value = _p_value(columns, n, m, chance)
    effect = _inhomogeneity(totals, ours, n, m)
    unlike = [sum(gap * column[n + row] for gap, column in zip(gaps, columns, strict=True)) for row in range(m)]
    nearest = sorted(range(m), key=lambda row: (-unlike[row], row))[:most_examples]
    return Finding(
        method="mmd",
        value=value,
        effect=effect,
        floor=floor,
        size=size_of(effect, MODERATE_MMD, LARGE_MMD),
        p_value=p_value,
        alpha=alpha,
        how="permutation",
        reference_rows=n,
        window_rows=m,
        examples=tuple(places[row] for row in nearest),
        note=f"of {dimension} dimensions",
    )


def _sampled(rows: Sequence[Vector], others: int, chance: random.Random) -> tuple[list[Vector], list[int]]:
    """Rows of one side and their positions: half of what may be looked at, or more where the other side is smaller."""
    room = min(MOST_ROWS - min(others, MOST_ROWS // 2), max(2, MOST_RATIO * others))
    places = list(range(len(rows))) if len(rows) <= room else sorted(chance.sample(range(len(rows)), room))
    return [rows[place] for place in places], places


def _features(rows: Sequence[Vector], dimension: int, chance: random.Random) -> _Columns:
    """Cosine and sine of each frequency in every row, scaled so that a row's product with itself is 1."""
    weight = 1 / math.sqrt(FREQUENCIES)
    columns: _Columns = []
    for number in range(FREQUENCIES):
        along = _along(rows, dimension, chance)
        middle = math.fsum(along) / len(along)
        spread = math.sqrt(2 * math.fsum((place - middle) ** 2 for place in along) / len(along))
        turn = LENGTHS[number % len(LENGTHS)] / spread if spread else 0.0
        angles = [(place - middle) * turn for place in along]
        columns.append([weight * math.cos(angle) for angle in angles])
        columns.append([weight * math.sin(angle) for angle in angles])
    return columns


def _along(rows: Sequence[Vector], dimension: int, chance: random.Random) -> list[float]:
    """Where each row lies along a random direction: the sum of some coordinates less the sum of some others."""
    touched = chance.sample(range(dimension), min(dimension, TOUCHED))
    signs = [chance.random() < 0.5 for _ in touched]
    plus = [place for place, sign in zip(touched, signs, strict=True) if sign]
    minus = [place for place, sign in zip(touched, signs, strict=True) if not sign]
    if dimension <= 8:  # so few signs would repeat: weights instead
        weights = [chance.gauss(0.0, 1.0) for _ in range(dimension)]
        return [sum(map(mul, weights, row)) for row in rows]
    adds, takes = _sum_of(plus), _sum_of(minus)
    return [adds(row) - takes(row) for row in rows]


def _sum_of(places: Sequence[int]) -> Callable[[Vector], float]:
    if not places:
        return lambda row: 0.0
    if len(places) == 1:
        return itemgetter(places[0])
    pick = itemgetter(*places)
    return lambda row: sum(pick(row))


def _p_value(columns: _Columns, n: int, m: int, chance: random.Random) -> float:
    """By permuting blocks. What does not fill a block of its side is left out of the test.

    With features that sum to zero over all blocks, the discrepancy is in proportion to the squared length of the sum of
    either side's blocks, and that is the sum of their products with each other, which are computed once.
    """
    size = -(-min(n, m) // BLOCKS)
    before, after = n // size, m // size
    starts = (*range(0, before * size, size), *range(n, n + after * size, size))
    blocks: list[list[float]] = [[] for _ in starts]
    for column in columns:
        sums = [sum(column[start : start + size]) for start in starts]
        middle = math.fsum(sums) / len(sums)
        for block, place in zip(blocks, sums, strict=True):
            block.append(place - middle)
    products = [[sum(map(mul, one, other)) for other in blocks] for one in blocks]

    def discrepancy(places: Sequence[int]) -> float:
        return sum(sum(map(products[place].__getitem__, places)) for place in places)

    everything = range(before + after)
    small = min(before, after)
    first = 0 if before <= after else before
    observed = discrepancy(range(first, first + small))
    return monte_carlo_p(observed, lambda: discrepancy(chance.sample(everything, small)), DRAWS)[0]


def _inhomogeneity(totals: Sequence[float], ours: Sequence[float], n: int, m: int) -> float:
    """The unbiased squared discrepancy over twice the mean kernel distance 1 - k of a row here and a row there."""
    within_after = (sum(one * one for one in ours) - m) / (m * (m - 1))
    theirs = [total - one for one, total in zip(ours, totals, strict=True)]
    within_before = (sum(one * one for one in theirs) - n) / (n * (n - 1))
    between = sum(a * b for a, b in zip(ours, theirs, strict=True)) / (n * m)
    if between >= 1:
        return 0.0
    return min(1.0, max(0.0, (within_before + within_after - 2 * between) / (2 * (1 - between))))
