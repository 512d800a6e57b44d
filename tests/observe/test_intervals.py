"""Confidence intervals against published tables."""

from __future__ import annotations

import pytest

from mainstay.observe.intervals import Z, student, t_quantile, wilson


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799), (10**7, Z)],
)
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_wilsons_interval_is_that_of_newcombe() -> None:
    """Newcombe, Statistics in Medicine 17, 1998, table I, method 3: the four examples."""
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) is None
    found = wilson(7, 7)
    assert found is not None
    assert found[1] == 1.0


def test_a_means_interval_needs_two_values() -> None:
    assert student(3.0, None, 1) is None
    assert student(3.0, 1.0, 1) is None
    found = student(10.0, 2.0, 16)  # 10 ± 2.1314 · 2 / 4
    assert found == pytest.approx((8.9343, 11.0657), abs=5e-5)
    assert student(4.0, 0.0, 5) == (4.0, 4.0)
