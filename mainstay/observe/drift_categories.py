"""Drift of categories: the population stability index and the Jensen–Shannon divergence, each with its chance level.

Both are large in small samples even where nothing has changed. To second order PSI is the sum of (p - q)² / p̄ and the
divergence that sum divided by 8 ln 2, so a PSI of 0.1 and 0.25 is a divergence of 0.018 and 0.045 bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from mainstay.observe.drift_distributions import chi_square_quantile, chi_square_tail, monte_carlo_p
from mainstay.observe.drift_finding import Finding, How, Method, Shift, size_of
from mainstay.observe.drift_inputs import Counts

MODERATE_PSI, LARGE_PSI = 0.1, 0.25
"""The customary labels (Siddiqi 2006, "Credit Risk Scorecards"): some change, and a change to act on."""

PER_PSI = 1 / (8 * math.log(2))
"""Bits of Jensen–Shannon divergence per unit of PSI, to second order."""

MODERATE_JS, LARGE_JS = round(MODERATE_PSI * PER_PSI, 3), round(LARGE_PSI * PER_PSI, 3)
"""The same labels, in bits."""

SMOOTHING = 0.5
"""Rows added to every category on both sides before PSI takes logarithms (Jeffreys' prior): an empty cell is finite."""

LEAST_EXPECTED = 5.0
"""Rows that a category must have on the smaller side, where nothing has changed, for the chi-square to hold."""

PERMUTED_ROWS = 1000
"""Up to so many rows on the smaller side, a table with rarer categories is tested by permutation."""

DRAWS = 1999
"""Permutations at most, so that the least p-value is 0.0005."""

Table = Sequence[tuple[int, int]]
"""Per category, the rows of the reference and those of the window."""


def psi(table: Table) -> float:
    """The population stability index, the sum of (p - q) ln(p / q), over smoothed shares: 0 where they are equal.

    It is Jeffreys' divergence, the sum of Kullback and Leibler's in both directions, hence symmetric.
    """
    return sum(_psi_parts(table))


def _psi_parts(table: Table) -> list[float]:
    before = sum(a for a, _ in table) + SMOOTHING * len(table)
    after = sum(b for _, b in table) + SMOOTHING * len(table)
    parts: list[float] = []
    for a, b in table:
        p, q = (a + SMOOTHING) / before, (b + SMOOTHING) / after
        parts.append((p - q) * math.log(p / q))
    return parts


def jensen_shannon(table: Table) -> float:
    """The Jensen–Shannon divergence to base 2 (Lin 1991), from 0 (equal shares) to 1 bit (no category in common)."""
    return min(1.0, max(0.0, math.fsum(_js_parts(table))))


def _js_parts(table: Table) -> list[float]:
    before, after = sum(a for a, _ in table), sum(b for _, b in table)
    parts: list[float] = []
    for a, b in table:
        p, q = a / before, b / after
        middle = (p + q) / 2
        part = 0.0
        if p:
            part += p * math.log2(p / middle) / 2
        if q:
            part += q * math.log2(q / middle) / 2
        parts.append(part)
    return parts


def psi_threshold(reference_rows: int, window_rows: int, categories: int, alpha: float) -> float:
    """The PSI that chance exceeds at the rate ``alpha`` where nothing has changed.

    PSI is then (1/n + 1/m) times a chi-square of ``categories`` - 1 degrees of freedom (Yurdakul 2018, "Statistical
    Properties of Population Stability Index"), so no fixed threshold can hold for all sample sizes.
    """
    if categories < 2:
        return 0.0
    return (1 / reference_rows + 1 / window_rows) * chi_square_quantile(alpha, categories - 1)


def js_threshold(reference_rows: int, window_rows: int, categories: int, alpha: float) -> float:
    """The divergence in bits that chance exceeds at the rate ``alpha``: PSI's threshold, in its unit."""
    return psi_threshold(reference_rows, window_rows, categories, alpha) * PER_PSI


def compare_psi(
    reference: Counts, window: Counts, *, alpha: float = 0.01, floor: float = MODERATE_PSI, seed: int = 0
) -> Finding:
    """PSI of ``window`` against ``reference``. The effect is the PSI less what chance makes of it on average.

    Raises ``ValueError`` where either side has no rows.
    """
    return _compare("psi", psi, _psi_parts, reference, window, alpha, floor, seed)


def compare_js(
    reference: Counts, window: Counts, *, alpha: float = 0.01, floor: float = MODERATE_JS, seed: int = 0
) -> Finding:
    """The Jensen–Shannon divergence of ``window`` from ``reference``, tested by G. The effect is as with PSI, in bits.

    Raises ``ValueError`` where either side has no rows.
    """
    return _compare("js", jensen_shannon, _js_parts, reference, window, alpha, floor, seed)


def _compare(
    method: Method,
    measure: Callable[[Table], float],
    parts: Callable[[Table], list[float]],
    reference: Counts,
    window: Counts,
    alpha: float,
    floor: float,
    seed: int,
) -> Finding:
    rows = reference.rows, window.rows
    if not min(rows):
        raise ValueError("a comparison needs rows on both sides")
    names = sorted(name for name in {*reference.counts, *window.counts} if _pair(reference, window, name) != (0, 0))
    table = [_pair(reference, window, name) for name in names]
    value, per_psi = measure(table), 1.0 if method == "psi" else PER_PSI
    threshold: float | None = None
    how: How = "chi-square"
    if _is_sparse(table) and min(rows) <= PERMUTED_ROWS:
        how = "permutation"
        p_value, chance = monte_carlo_p(value, _permuted(measure, table, seed), DRAWS)
    else:
        tested = pooled(table)
        scale = (1 / rows[0] + 1 / rows[1]) * per_psi
        chance = (len(tested) - 1) * scale
        threshold = scale * chi_square_quantile(alpha, len(tested) - 1) if len(tested) > 1 else 0.0
        p_value = g_test(tested) if method == "js" else _psi_p(tested, rows)
    effect = max(0.0, value - chance)
    return Finding(
        method=method,
        value=value,
        effect=effect,
        floor=floor,
        size=size_of(effect, MODERATE_PSI * per_psi, LARGE_PSI * per_psi),
        p_value=p_value,
        alpha=alpha,
        how=how,
        reference_rows=rows[0],
        window_rows=rows[1],
        threshold=threshold,
        reasons=_shifts(names, table, parts(table)),
        note="PSI" if method == "psi" else "bit",
    )


def _pair(reference: Counts, window: Counts, name: str) -> tuple[int, int]:
    return reference.counts.get(name, 0), window.counts.get(name, 0)


def _expected(table: Table) -> list[float]:
    """Per category, the rows that the smaller side would have where nothing has changed."""
    before, after = sum(a for a, _ in table), sum(b for _, b in table)
    return [(a + b) * min(before, after) / (before + after) for a, b in table]


def _is_sparse(table: Table) -> bool:
    return any(expected < LEAST_EXPECTED for expected in _expected(table))


def pooled(table: Table) -> list[tuple[int, int]]:
    """The table with its rare categories counted as one, so that each has ``LEAST_EXPECTED`` rows expected.

    Which ones are rare is decided by both sides together, and so does not depend on what has changed.
    """
    order = sorted(zip(_expected(table), table, strict=True))
    kept: list[tuple[int, int]] = []
    rest, rest_expected = (0, 0), 0.0
    for expected, (a, b) in order:
        if expected < LEAST_EXPECTED or 0 < rest_expected < LEAST_EXPECTED:
            rest, rest_expected = (rest[0] + a, rest[1] + b), rest_expected + expected
        else:
            kept.append((a, b))
    if rest_expected:
        kept.append(rest)
    return kept


def _psi_p(table: Table, rows: tuple[int, int]) -> float:
    if len(table) < 2:
        return 1.0
    return chi_square_tail(psi(table) / (1 / rows[0] + 1 / rows[1]), len(table) - 1)


def g_test(table: Table) -> float:
    """The p-value of the G-test of homogeneity, G = 2 sum O ln(O / E), with Williams' correction (1976).

    G is 2 ln 2 (n + m) times the Jensen–Shannon divergence whose weights are the two sides' parts of the rows. The
    correction is that of Sokal and Rohlf, "Biometry", for tables: without it small counts alarm too often.
    """
    if len(table) < 2:
        return 1.0
    before, after = sum(a for a, _ in table), sum(b for _, b in table)
    total = before + after
    g = 0.0
    for a, b in table:
        for observed, side in ((a, before), (b, after)):
            if observed:
                g += 2 * observed * math.log(observed * total / ((a + b) * side))
    by_side = total / before + total / after - 1
    by_category = total * sum(1 / (a + b) for a, b in table) - 1
    correction = 1 + by_side * by_category / (6 * total * (len(table) - 1))
    return chi_square_tail(max(0.0, g) / correction, len(table) - 1)


def _permuted(measure: Callable[[Table], float], table: Table, seed: int) -> Callable[[], float]:
    """Draws of the measure where nothing has changed: the smaller side's rows drawn from all, without replacement."""
    chance = random.Random(seed)
    sums = [a + b for a, b in table]
    before, after = sum(a for a, _ in table), sum(b for _, b in table)
    small = min(before, after)
    cells = range(len(table))

    def draw() -> float:
        drawn = [0] * len(table)
        for cell in chance.sample(cells, small, counts=sums):
            drawn[cell] += 1
        if before <= after:
            return measure([(one, both - one) for one, both in zip(drawn, sums, strict=True)])
        return measure([(both - one, one) for one, both in zip(drawn, sums, strict=True)])

    return draw


def _shifts(names: Sequence[str], table: Table, parts: Sequence[float]) -> tuple[Shift, ...]:
    """What moved, the largest part of the divergence first; categories that did not are left out."""
    before, after = sum(a for a, _ in table), sum(b for _, b in table)
    whole = sum(parts) or 1.0
    shifts = [
        Shift(name, a / before, b / after, part / whole)
        for name, (a, b), part in zip(names, table, parts, strict=True)
        if a * after != b * before
    ]
    return tuple(sorted(shifts, key=lambda shift: (-shift.part, shift.category)))
