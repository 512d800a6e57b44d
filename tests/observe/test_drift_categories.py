"""PSI and Jensen–Shannon: known values, invariants, thresholds that depend on the rows, and the reasons they give."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe.drift_categories import (
    LEAST_EXPECTED,
    compare_js,
    compare_psi,
    g_test,
    jensen_shannon,
    js_threshold,
    pooled,
    psi,
    psi_threshold,
)
from mainstay.observe.drift_inputs import NONE, Counts

TABLES = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12).filter(
    lambda table: sum(a for a, _ in table) > 0 and sum(b for _, b in table) > 0
)


def test_known_values() -> None:
    # sum of (p - q) ln(p / q) by hand for large counts, where smoothing is nothing
    assert psi([(8_000_000, 5_000_000), (2_000_000, 5_000_000)]) == pytest.approx(0.3 * math.log(4), rel=1e-6)
    # scipy.spatial.distance.jensenshannon([90, 30, 10], [80, 50, 20], base=2) ** 2
    assert jensen_shannon([(90, 80), (30, 50), (10, 20)]) == pytest.approx(0.019747582798881818, rel=1e-9)
    assert jensen_shannon([(5, 0), (0, 9)]) == 1.0
    # scipy.stats.chi2_contingency(lambda_="log-likelihood") says 3.13e-6 without the correction
    assert g_test([(500, 480), (20, 61)]) == pytest.approx(3.2e-6, rel=0.05)


@settings(deadline=None)
@given(TABLES)
def test_divergences_are_symmetric_and_bounded(table: list[tuple[int, int]]) -> None:
    turned = [(b, a) for a, b in table]
    assert psi(turned) == pytest.approx(psi(table))
    assert jensen_shannon(turned) == pytest.approx(jensen_shannon(table))
    assert psi(table) >= -1e-12
    assert 0 <= jensen_shannon(table) <= 1
    assert g_test(pooled(turned)) == pytest.approx(g_test(pooled(table)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(1, 5))
def test_they_are_zero_for_equal_shares(counts: list[int], times: int) -> None:
    table = [(count, count * times) for count in counts]
    assert jensen_shannon(table) == pytest.approx(0, abs=1e-12)
    equal = [(count, count) for count in counts]
    assert psi(equal) == pytest.approx(0, abs=1e-12)
    counted = Counts({str(k): count for k, count in enumerate(counts)})
    for compare in (compare_psi, compare_js):
        found = compare(counted, counted)
        assert found.p_value == 1.0
        assert not found.alarm
        assert not found.reasons


@settings(deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_categories_does_not_matter(table: list[tuple[int, int]], chance: object) -> None:
    names = [f"c{k}" for k in range(len(table))]
    shuffled = list(zip(names, table, strict=True))
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    for measure in (psi, jensen_shannon):
        assert measure([pair for _, pair in shuffled]) == pytest.approx(measure(table))

    def sides(rows: list[tuple[str, tuple[int, int]]]) -> tuple[Counts, Counts]:
        return Counts({name: a for name, (a, _) in rows}), Counts({name: b for name, (_, b) in rows})

    assert compare_js(*sides(shuffled)) == compare_js(*sides(list(zip(names, table, strict=True))))


@settings(deadline=None)
@given(TABLES)
def test_pooling_keeps_all_rows_and_leaves_no_rare_category(table: list[tuple[int, int]]) -> None:
    few = pooled(table)
    assert sum(a for a, _ in few) == sum(a for a, _ in table)
    assert sum(b for _, b in few) == sum(b for _, b in table)
    total, least = sum(a + b for a, b in table), min(sum(a for a, _ in table), sum(b for _, b in table))
    if len(few) > 1:
        assert all((a + b) * least / total >= LEAST_EXPECTED for a, b in few)


def test_the_threshold_falls_with_the_rows_of_both_sides() -> None:
    few, more = psi_threshold(1000, 100, 5, 0.01), psi_threshold(1000, 1000, 5, 0.01)
    assert few == pytest.approx((1 / 1000 + 1 / 100) * 13.276704135987622)
    assert few > 0.1 > more > psi_threshold(100_000, 1000, 5, 0.01)
    assert js_threshold(1000, 100, 5, 0.01) == pytest.approx(few / (8 * math.log(2)))
    assert psi_threshold(10, 10, 1, 0.01) == 0


def test_the_customary_threshold_alone_would_alarm_for_nothing() -> None:
    # 40 rows of six equal categories, as chance has them: PSI is over 0.1, and it is no alarm.
    reference = Counts(dict.fromkeys("abcdef", 500))
    found = compare_psi(reference, Counts({"a": 10, "b": 9, "c": 7, "d": 6, "e": 4, "f": 4}))
    assert found.value > 0.1
    assert found.effect < found.value
    assert not found.alarm


def test_a_million_rows_do_not_alarm_for_nothing() -> None:
    found = compare_psi(Counts({"stop": 900_000, "length": 100_000}), Counts({"stop": 896_000, "length": 104_000}))
    assert found.significant
    assert found.size == "none"
    assert not found.alarm
    assert not compare_js(
        Counts({"stop": 900_000, "length": 100_000}), Counts({"stop": 896_000, "length": 104_000})
    ).alarm


def test_the_explanation_is_part_of_the_result() -> None:
    reference = Counts({"stop": 9400, "length": 200, "tool_calls": 300, "pause": 100})
    window = Counts({"stop": 1500, "length": 380, "refusal": 60, "tool_calls": 60})
    for compare in (compare_psi, compare_js):
        found = compare(reference, window)
        assert found.alarm
        assert found.how == "chi-square"
        assert found.value >= (found.threshold or math.inf)
        by_name = {shift.category: shift for shift in found.reasons}  # type: ignore[union-attr]
        assert found.sentences("finish")[0] == "finish=length went from 2 % to 19 %"
        assert by_name["refusal"].sentence("finish") == "finish=refusal is new: 3 %"
        assert by_name["pause"].sentence("finish") == "finish=pause is gone: it was 1 %"
        assert (by_name["refusal"].kind, by_name["pause"].kind) == ("new", "gone")
        assert sum(shift.part for shift in found.reasons) == pytest.approx(1, abs=1e-4)  # type: ignore[union-attr]
        assert "tool_calls" not in by_name, "its share is what it was"


def test_few_rows_are_tested_by_permutation_and_agree_with_counting_every_table() -> None:
    reference, window = Counts({"ok": 28, "bad": 2}), Counts({"ok": 8, "bad": 7})
    found = compare_js(reference, window)
    assert found.how == "permutation"
    assert found.threshold is None
    exact = sum(
        math.comb(36, 15 - bad) * math.comb(9, bad) / math.comb(45, 15)
        for bad in range(10)
        if jensen_shannon([(21 + bad, 15 - bad), (9 - bad, bad)]) >= found.value - 1e-12
    )
    assert 0.001 < exact < 0.05
    assert found.p_value == pytest.approx(exact, abs=3 * math.sqrt(exact / 1999))
    assert found == compare_js(reference, window), "the seed decides"


def test_rows_without_a_value_are_a_category() -> None:
    counts = Counts.of(["a", None, None])
    assert counts.share(NONE) == pytest.approx(2 / 3)


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(ValueError, match="both sides"):
        compare_psi(Counts({}), Counts({"a": 1}))
    with pytest.raises(ValueError, match="fewer than no rows"):
        Counts({"a": -1})
