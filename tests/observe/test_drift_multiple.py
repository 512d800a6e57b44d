"""Many features and many looks: Benjamini and Hochberg's adjustment, the verdict over a window, the spending of alpha."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe.drift_finding import Finding, size_of
from mainstay.observe.drift_multiple import adjusted, judge, spent, windows_per_false_alarm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def finding(p_value: float, effect: float = 0.5) -> Finding:
    size = size_of(effect, 0.1, 0.25)
    return Finding("psi", effect, effect, 0.1, size, p_value, 0.01, "chi-square", 1000, 1000)


def test_known_values() -> None:
    # scipy.stats.false_discovery_control
    p_values = [0.01, 0.04, 0.03, 0.2, 0.5]
    assert adjusted(p_values) == pytest.approx([0.05, 0.2 / 3, 0.2 / 3, 0.25, 0.5])
    by = [0.11416666666666667, 0.1522222222222222, 0.1522222222222222, 0.5708333333333333, 1.0]
    assert adjusted(p_values, "any") == pytest.approx(by)


@settings(deadline=None)
@given(P_VALUES)
def test_adjustment_keeps_the_order_and_only_raises(p_values: list[float]) -> None:
    found = adjusted(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))
    by_p = [q for _, q in sorted(zip(p_values, found, strict=True))]
    assert by_p == sorted(by_p)
    assert adjusted(p_values[::-1]) == found[::-1]
    assert max(p_values) == max(found)
    assert adjusted([0.03]) == [0.03]


def test_an_alarm_needs_significance_among_the_others_and_effect() -> None:
    quiet = {f"quiet {k}": finding(0.2 + k / 50) for k in range(18)}
    judged = judge(
        {**quiet, "length": finding(1e-5), "tiny": finding(1e-9, effect=0.01), "lucky": finding(0.004)}, 0.01
    )
    assert [one.feature for one in judged if one.alarm] == ["length"]
    assert judged[0].feature == "length"
    assert judged[0].q_value == pytest.approx(1e-5 * 21 / 2)
    assert finding(0.004).alarm, "alone it would have been one"
    assert judge({}) == []


def test_all_looks_together_spend_alpha() -> None:
    assert sum(spent(look, 0.05) for look in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    assert spent(1, 0.05) > spent(2, 0.05) > spent(30, 0.05)
    assert windows_per_false_alarm(0.01) == 100
    with pytest.raises(ValueError, match="from 1"):
        spent(0, 0.05)
