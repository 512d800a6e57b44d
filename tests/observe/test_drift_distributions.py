"""The distributions against values that scipy 1.17 gives, and the Monte Carlo p-values against their promise."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations

import pytest

from mainstay.observe.drift_distributions import (
    chi_square_quantile,
    chi_square_tail,
    gamma_tail,
    kolmogorov_quantile,
    kolmogorov_tail,
    monte_carlo_p,
    smirnov_tail,
)


@pytest.mark.parametrize(
    ("x", "freedom", "tail"),
    [  # scipy.stats.chi2.sf
        (0.5, 1, 0.47950012218695337),
        (3.84, 1, 0.05004352124870519),
        (20, 10, 0.029252688076961124),
        (5, 10, 0.8911780189141513),
        (250, 200, 0.009379131668826098),
        (1000, 400, 3.727281642311204e-53),
        (60, 3, 5.878230727906921e-13),
        (0, 3, 1.0),
    ],
)
def test_chi_square_tail(x: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(x, freedom) == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize(
    ("tail", "freedom", "x"),
    [  # scipy.stats.chi2.isf
        (0.01, 1, 6.634896601021217),
        (0.05, 4, 9.487729036781158),
        (0.001, 30, 59.703064304429944),
        (1e-6, 2, 27.631021115928547),
        (0.9, 7, 2.833106917815344),
    ],
)
def test_chi_square_quantile(tail: float, freedom: int, x: float) -> None:
    assert chi_square_quantile(tail, freedom) == pytest.approx(x, rel=1e-9)


def test_both_ways_of_the_gamma_function_meet() -> None:
    for shape in (0.5, 1.0, 7.5, 120.0):
        below, above = gamma_tail(shape, shape + 1 - 1e-9), gamma_tail(shape, shape + 1 + 1e-9)
        assert below == pytest.approx(above, rel=1e-7)


@pytest.mark.parametrize(
    ("x", "tail"),
    [  # scipy.special.kolmogorov
        (0.2, 0.999999999999495),
        (0.5, 0.9639452436648751),
        (0.9, 0.3927307079406543),
        (1.0, 0.26999967167735456),
        (1.36, 0.049485876755377876),
        (2.0, 0.0006709252557796953),
        (4.0, 2.532833109818835e-14),
    ],
)
def test_kolmogorov_tail(x: float, tail: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(tail, rel=1e-9)
    assert kolmogorov_quantile(tail) == pytest.approx(x, rel=1e-6) or x < 0.5


@pytest.mark.parametrize(
    ("first", "second", "gap", "tail"),
    [  # scipy.stats.ks_2samp(method="exact"), no ties
        (5, 7, 16, 0.43434343434343425),
        (20, 20, 160, 0.08105771161340149),
        (30, 101, 902, 0.025665739987672305),
        (200, 150, 8400, 2.1377822419892506e-06),
    ],
)
def test_smirnov_tail(first: int, second: int, gap: int, tail: float) -> None:
    assert smirnov_tail(gap, first, second, range(1, first + second + 1)) == pytest.approx(tail, rel=1e-9)


def test_smirnov_with_ties_is_what_counting_every_order_gives() -> None:
    pooled = [1, 1, 2, 3, 3, 3, 4, 5, 5]
    ends = {2, 3, 6, 7, 9}
    gaps: list[int] = []
    for chosen in combinations(range(9), 4):
        first = [pooled[k] for k in chosen]
        second = [pooled[k] for k in range(9) if k not in chosen]
        gaps.append(max(abs(sum(a <= x for a in first) * 5 - sum(b <= x for b in second) * 4) for x in pooled))
    for gap in set(gaps):
        counted = Fraction(sum(one >= gap for one in gaps), len(gaps))
        assert smirnov_tail(gap, 4, 5, ends) == pytest.approx(float(counted), rel=1e-12)


def test_monte_carlo_p_is_uniform_at_most_and_stops_early() -> None:
    draws = 0
    low = 0
    runs = 2000
    chance = random.Random(5)

    def draw() -> float:
        nonlocal draws
        draws += 1
        return chance.random()

    for _ in range(runs):
        low += monte_carlo_p(chance.random(), draw, 199)[0] <= 0.1
    assert low / runs == pytest.approx(0.1, abs=0.025)
    assert draws < runs * 199 * 0.5
    assert monte_carlo_p(2.0, draw, 199)[0] == 1 / 200
    assert monte_carlo_p(0.0, draw, 199)[0] == 1.0
