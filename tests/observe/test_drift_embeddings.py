"""Drift of embeddings: invariants, the examples it points to, sampling, and sides of any size."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe import drift_embeddings
from mainstay.observe.drift_embeddings import compare_embeddings

Rows = list[list[float]]


def cloud(seed: int, rows: int, dimension: int, mean: float = 0.0, spread: float = 1.0) -> Rows:
    chance = random.Random(seed)
    return [[chance.gauss(mean, spread) for _ in range(dimension)] for _ in range(rows)]


@pytest.mark.parametrize("dimension", [1, 3, 24, 300])
def test_it_finds_a_moved_mean_and_a_changed_spread(dimension: int) -> None:
    reference = cloud(1, 120, dimension)
    assert not compare_embeddings(reference, cloud(2, 120, dimension)).alarm
    assert compare_embeddings(reference, cloud(2, 120, dimension, mean=0.8)).alarm
    assert compare_embeddings(reference, cloud(2, 120, dimension, spread=2.0)).alarm


def test_it_points_to_the_rows_that_are_new() -> None:
    chance = random.Random(3)
    window = cloud(4, 200, 32)
    new = sorted(chance.sample(range(200), 40))
    for place in new:
        window[place] = [value + 1.5 for value in window[place]]
    found = compare_embeddings(cloud(5, 200, 32), window)
    assert found.alarm
    assert len(found.examples) == 10
    assert len({*found.examples} & {*new}) >= 9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_unit_and_origin_do_not_matter(seed: int, factor: float, offset: float) -> None:
    one, other = cloud(seed, 30, 12), cloud(seed + 1, 30, 12, mean=0.3)
    plain = compare_embeddings(one, other)
    moved = [[[value * factor + offset for value in row] for row in side] for side in (one, other)]
    found = compare_embeddings(*moved)
    assert found.value == pytest.approx(plain.value, rel=1e-4)
    assert found.effect == pytest.approx(plain.effect, rel=1e-4, abs=1e-6)
    assert 0 <= plain.value <= 2
    assert 0 <= plain.effect <= 1


def test_equal_sides_are_equal() -> None:
    rows = cloud(1, 50, 16)
    found = compare_embeddings(rows, rows)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.p_value > 0.5
    constant = compare_embeddings([[1.0] * 16] * 20, [[1.0] * 16] * 20)
    assert (constant.value, constant.effect, constant.p_value) == (0.0, 0.0, 1.0)


def test_two_constants_are_as_far_apart_as_can_be() -> None:
    found = compare_embeddings([[0.0] * 16] * 40, [[1.0] * 16] * 40)
    assert found.effect == pytest.approx(1, abs=1e-6)
    assert found.alarm


def test_a_large_side_is_sampled_and_examples_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_embeddings, "MOST_ROWS", 200)
    window = cloud(2, 500, 16)
    for place in range(400, 500):
        window[place] = [value + 2 for value in window[place]]
    found = compare_embeddings(cloud(1, 900, 16), window)
    assert (found.reference_rows, found.window_rows) == (100, 100)
    assert found.alarm
    assert all(place >= 400 for place in found.examples)
    assert found == compare_embeddings(cloud(1, 900, 16), window), "the seed decides"


@pytest.mark.parametrize(("n", "m"), [(4, 300), (300, 7), (61, 179)])
def test_sides_of_different_size(n: int, m: int) -> None:
    # Under a change every size finds it where it can: of 4 rows against any others 1 in C(16, 4) permutations is as far.
    found = compare_embeddings(cloud(1, n, 20), cloud(2, m, 20, mean=2.0))
    assert found.significant
    assert not compare_embeddings(cloud(1, n, 20), cloud(3, m, 20)).alarm


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="different models"):
        compare_embeddings(cloud(1, 5, 4), cloud(2, 5, 3))
    with pytest.raises(ValueError, match="two rows"):
        compare_embeddings(cloud(1, 5, 4), cloud(2, 1, 4))
