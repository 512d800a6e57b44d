"""Kolmogorov–Smirnov and Wasserstein: known values, invariants, the floors, and the two ways of the chance level."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe import drift_numbers
from mainstay.observe.drift_inputs import Histogram, Sample
from mainstay.observe.drift_numbers import compare_ks, compare_wasserstein, scale_of, smirnov, wasserstein

VALUES = st.lists(st.integers(-30, 30).map(float), min_size=1, max_size=40)


def normal(seed: int, rows: int, mean: float = 0.0) -> Sample:
    chance = random.Random(seed)
    return Sample.of(chance.gauss(mean, 1.0) for _ in range(rows))


def test_known_values() -> None:
    # scipy.stats.wasserstein_distance
    one, other = Sample.of([1, 2, 2, 3, 5, 8, 13]), Sample.of([2, 3, 4, 4, 9])
    assert wasserstein(one, other) == pytest.approx(1.657142857142857)
    assert wasserstein(Sample.of([0, 1, 3]), Sample.of([5, 6, 8])) == pytest.approx(5)
    assert smirnov(Sample.of([1, 2]), Sample.of([3, 4])) == 1


@settings(deadline=None)
@given(VALUES, VALUES)
def test_distances_are_symmetric_bounded_and_zero_for_equals(one: list[float], other: list[float]) -> None:
    a, b = Sample.of(one), Sample.of(other)
    assert smirnov(a, b) == pytest.approx(smirnov(b, a))
    assert wasserstein(a, b) == pytest.approx(wasserstein(b, a))
    assert 0 <= smirnov(a, b) <= 1
    assert 0 <= wasserstein(a, b) <= max(*one, *other) - min(*one, *other)
    doubled = Sample.of([*one, *one])
    assert smirnov(a, doubled) == pytest.approx(0, abs=1e-12)
    assert wasserstein(a, doubled) == pytest.approx(0, abs=1e-12)
    assert compare_ks(a, b).p_value == pytest.approx(compare_ks(b, a).p_value)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_ks_does_not_change_under_a_monotone_change_of_the_scale(one: list[float], other: list[float]) -> None:
    plain = compare_ks(Sample.of(one), Sample.of(other))
    bent = compare_ks(Sample.of(math.exp(x / 5) for x in one), Sample.of(math.exp(x / 5) for x in other))
    assert (bent.value, bent.p_value) == (plain.value, plain.p_value)


@settings(max_examples=25, deadline=None)
@given(VALUES, VALUES, st.floats(0.1, 100), st.floats(-100, 100))
def test_the_scaled_distance_does_not_depend_on_the_unit(
    one: list[float], other: list[float], factor: float, offset: float
) -> None:
    a, b = Sample.of(one), Sample.of(other)
    if scale_of(a)[1] == "value":
        return
    moved = [Sample.of(x * factor + offset for x in values) for values in (one, other)]
    plain = compare_wasserstein(a, b)
    assert compare_wasserstein(*moved).value == pytest.approx(plain.value, rel=1e-6, abs=1e-9)


def test_the_scale_is_the_spread_that_the_reference_has() -> None:
    assert scale_of(normal(1, 20_000)) == (pytest.approx(1, abs=0.03), "interquartile range")
    mostly_one = Sample.counted({1.0: 90, 2.0: 10})
    assert scale_of(mostly_one) == (pytest.approx(0.3), "standard deviation")
    assert scale_of(Sample.counted({-4.0: 10})) == (4.0, "value")
    assert scale_of(Sample.counted({0.0: 10})) == (1.0, "value")


def test_one_outlier_moves_no_scale() -> None:
    values = [float(k % 100) for k in range(1000)]
    with_one = Sample.of([*values, 1e9])
    assert scale_of(with_one)[0] == pytest.approx(scale_of(Sample.of(values))[0], rel=0.02)


def test_a_million_rows_do_not_alarm_for_nothing() -> None:
    reference = Sample.counted({float(k): 1000 for k in range(1000)})
    window = Sample.counted({float(k) + 10: 1000 for k in range(1000)})
    for found in (compare_ks(reference, window), compare_wasserstein(reference, window)):
        assert found.significant
        assert not found.material
        assert not found.alarm


def test_ten_rows_do_not_alarm_for_chance() -> None:
    found = compare_ks(normal(1, 10), normal(2, 10, 0.3))
    assert found.material
    assert not found.significant
    assert not found.alarm


def test_ten_million_rows_are_a_matter_of_bins() -> None:
    edges = tuple(float(k) for k in range(1, 201))
    reference = Histogram(edges, (*[50_000] * 200, 0))
    window = Histogram(edges, (*[25_000] * 100, *[75_000] * 100, 0))
    ks, moved = compare_ks(reference, window), compare_wasserstein(reference, window)
    assert ks.value == pytest.approx(0.25)
    assert ks.alarm
    assert ks.size == "large"
    assert moved.alarm
    # 2 * integral of the gap, a triangle of height 0.25 over 200, by hand: 25; the reference's quartiles are 100 apart
    assert moved.value == pytest.approx(25 / (100 / 1.349), rel=0.02)


def test_the_explanation_is_part_of_the_result() -> None:
    found = compare_ks(
        Sample.counted({100.0: 50, 200.0: 40, 900.0: 10}), Sample.counted({100.0: 10, 200.0: 40, 900.0: 50})
    )
    assert found.sentences("input") == [
        "input: the median went from 100 to 200",
        "input: the 95th percentile went from 900 to 900",
        "input: the share above 100 went from 50 % to 90 %",
    ]


def test_exact_and_asymptotic_p_values_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = normal(1, 400), normal(2, 400, 0.35)
    exact = compare_ks(one, other)
    monkeypatch.setattr(drift_numbers, "EXACT_CELLS", 0)
    asymptotic = compare_ks(one, other)
    assert (exact.how, asymptotic.how) == ("exact", "asymptotic")
    assert exact.p_value == pytest.approx(asymptotic.p_value, rel=0.25)
    assert asymptotic.p_value >= exact.p_value, "the asymptotic one is the cautious one"
    assert asymptotic.threshold == pytest.approx(1.6276 / math.sqrt(200), rel=1e-3)
    assert (asymptotic.value >= asymptotic.threshold) == asymptotic.significant


def test_bridge_and_permutation_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = normal(1, 150), normal(2, 150, 0.25)
    permuted = compare_wasserstein(one, other)
    monkeypatch.setattr(drift_numbers, "PERMUTED_ROWS", 0)
    bridged = compare_wasserstein(one, other)
    assert (permuted.how, bridged.how) == ("permutation", "bridge")
    assert permuted.value == bridged.value
    assert 0.001 < permuted.p_value < 0.2
    assert bridged.p_value == pytest.approx(permuted.p_value, rel=0.5)


def test_an_empty_side_is_an_error() -> None:
    for compare in (compare_ks, compare_wasserstein):
        with pytest.raises(ValueError, match="both sides"):
            compare(Sample.of([]), Sample.of([1.0]))
