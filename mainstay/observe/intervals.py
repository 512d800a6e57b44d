"""Confidence intervals of 95 %: Wilson's for shares, Student's for means."""

from __future__ import annotations

import math
from functools import lru_cache

Z = 1.959963984540054
"""The standard normal's quantile of 0.975."""


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """The score interval of a share; None without trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927. It keeps its
    coverage for few trials and shares near 0 and 1 (Brown, Cai and DasGupta, Statistical Science 16(2), 2001).
    """
    if trials == 0:
        return None
    share, square = successes / trials, Z * Z
    middle = share + square / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    whole = 1 + square / trials
    low, high = (middle - half) / whole, (middle + half) / whole
    return (0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def student(mean: float, deviation: float | None, count: int) -> tuple[float, float] | None:
    """The interval of a mean from the sample's standard deviation (n − 1); None with fewer than two values.

    Student (W. S. Gosset), "The probable error of a mean", Biometrika 6(1), 1908.
    """
    if count < 2 or deviation is None:
        return None
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return mean - half, mean + half


@lru_cache(4096)
def t_quantile(freedom: int) -> float:
    """The quantile of 0.975 of Student's t with so many degrees of freedom, to 12 digits, by bisection."""
    low, high = 0.0, 1.0
    while _beyond(high, freedom) > 0.025:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, freedom) > 0.025 else (low, middle)
    return (low + high) / 2


def _beyond(t: float, freedom: int) -> float:
    """The probability of more than ``t``: half of I_x(ν/2, 1/2) at x = ν/(ν + t²) (Abramowitz and Stegun 26.7.1)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction (Numerical Recipes, 3rd ed., 6.4)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x),
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    found = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 + term * d, 1 + term / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            found *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return found
