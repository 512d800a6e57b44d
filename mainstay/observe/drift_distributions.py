"""The distributions that the drift tests need: chi-square, Kolmogorov's, the exact Smirnov, and Monte Carlo p-values."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from statistics import NormalDist

_TINY = 1e-300
_STEPS = 10_000
_NORMAL = NormalDist()


def gamma_tail(shape: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(shape, x).

    By its series below ``shape`` + 1 and by Legendre's continued fraction, evaluated with Lentz's method, above (DLMF
    8.7.1 and 8.9.2; Press et al., Numerical Recipes, 6.2).
    """
    if x <= 0:
        return 1.0
    scale = math.exp(-x + shape * math.log(x) - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1.0 / shape
        for step in range(1, _STEPS):
            term *= x / (shape + step)
            total += term
            if term < total * 1e-16:
                break
        return max(0.0, 1.0 - total * scale)
    b = x + 1.0 - shape
    c = 1.0 / _TINY
    d = 1.0 / b
    fraction = d
    for step in range(1, _STEPS):
        a = -step * (step - shape)
        b += 2.0
        d = 1.0 / (a * d + b or _TINY)
        c = b + a / c or _TINY
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return fraction * scale


def chi_square_tail(x: float, freedom: int) -> float:
    """The probability that a chi-square of ``freedom`` degrees of freedom is ``x`` or more."""
    return gamma_tail(freedom / 2, x / 2)


def chi_square_quantile(tail: float, freedom: int) -> float:
    """The value that a chi-square of ``freedom`` degrees of freedom exceeds with probability ``tail``.

    Bisection around Wilson and Hilferty's approximation (1931).
    """
    step = 2 / (9 * freedom)
    guess = freedom * max(0.0, 1 - step + _NORMAL.inv_cdf(1 - tail) * math.sqrt(step)) ** 3
    low, high = 0.0, max(guess, 1.0)
    while chi_square_tail(high, freedom) > tail:
        low, high = high, high * 2
    return _bisect(lambda x: chi_square_tail(x, freedom), tail, low, high)


def kolmogorov_tail(x: float) -> float:
    """The probability that the supremum of the absolute Brownian bridge is ``x`` or more (Kolmogorov 1933).

    Below 1 by the theta function's other form (Feller 1948), since the alternating series converges slowly there.
    """
    if x <= 0:
        return 1.0
    if x < 1:
        q = math.exp(-(math.pi**2) / (8 * x * x))
        return 1.0 - math.sqrt(2 * math.pi) / x * (q + q**9 + q**25 + q**49)
    return 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 6))


def kolmogorov_quantile(tail: float) -> float:
    """The value that the supremum of the absolute Brownian bridge exceeds with probability ``tail``."""
    return _bisect(kolmogorov_tail, tail, 0.01, 30.0)


def _bisect(tail_of: Callable[[float], float], tail: float, low: float, high: float) -> float:
    """Where the falling function ``tail_of`` is ``tail``."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if tail_of(middle) > tail else (low, middle)
    return high


def smirnov_tail(gap: int, first: int, second: int, boundaries: Collection[int]) -> float:
    """The exact probability, given the ties, that the two-sample statistic is ``gap`` / (``first`` * ``second``) or more.

    ``first`` and ``second`` are the sample sizes. Where nothing has changed, every order of the pooled sample is a
    lattice path from (0, 0) to (first, second), and all are equally probable. Of the paths to (i, j) the share that has
    touched the limit is 1 where |i * second - j * first| >= gap, and else the mean of the two neighbours', weighted by i
    and j. Only positions i + j in ``boundaries``, the ends of groups of equal values, can touch it (Schröer and
    Trenkler 1995). Only shares of paths that touch are added, so that small probabilities stay exact.
    """
    if gap <= 0:
        return 1.0
    at_end = set(boundaries)
    row = [0.0] * (second + 1)
    for i in range(first + 1):
        left = 0.0
        base = i * second
        for j in range(second + 1):
            if abs(base - j * first) >= gap and i + j in at_end:
                left = 1.0
            elif i + j:
                left = (i * row[j] + j * left) / (i + j)
            row[j] = left
    return min(1.0, row[second])


def monte_carlo_p(observed: float, draw: Callable[[], float], most: int, enough: int = 20) -> tuple[float, float]:
    """A p-value from ``draw``, which gives the statistic where nothing has changed; and the mean of what was drawn.

    Drawn until ``enough`` values reach ``observed``, or ``most`` times (Besag and Clifford 1991): cheap where nothing has
    changed, as is nearly always so. p is enough / draws in the first case and (reached + 1) / (most + 1) in the second;
    either way P(p <= alpha) <= alpha holds without any approximation. The least p-value is 1 / (most + 1).
    """
    limit = observed * (1 - 1e-12)  # equal tables must count as equal, whatever the order of their sums
    reached, total = 0, 0.0
    for drawn in range(1, most + 1):
        value = draw()
        total += value
        reached += value >= limit
        if reached >= enough:
            return enough / drawn, total / drawn
    return (reached + 1) / (most + 1), total / most
