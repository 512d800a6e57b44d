"""The inputs: what they count, and that DuckDB can count it for them."""

from __future__ import annotations

import statistics
from bisect import bisect_right

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe.drift_inputs import Counts, Histogram, Sample, geometric_edges
from mainstay.observe.drift_numbers import compare_ks, smirnov, wasserstein

VALUES = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=60)


@settings(deadline=None)
@given(VALUES)
def test_a_sample_says_what_its_rows_say(values: list[float]) -> None:
    sample = Sample.of(values)
    ordered = sorted(values)
    assert sample.rows == len(values)
    assert sample.mean() == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert sample.deviation() == pytest.approx(statistics.pstdev(values), abs=1e-9)
    assert sample.quantile(0.5) == statistics.median_low(values)
    assert (sample.quantile(0.0), sample.quantile(1.0)) == (ordered[0], ordered[-1])
    assert sample.below([0.0, 10.0]) == [bisect_right(ordered, 0.0), bisect_right(ordered, 10.0)]
    assert statistics.fmean(sample.position(value) for value in values) == pytest.approx(0.5)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_histogram_counts_at_its_edges_what_the_sample_does(values: list[float], others: list[float]) -> None:
    edges = sorted({*others})
    histogram = Histogram.of(edges, values)
    assert histogram.rows == len(values)
    assert histogram.below(edges) == Sample.of(values).below(edges)
    assert statistics.fmean(histogram.position(value) for value in values) == pytest.approx(0.5)


@settings(deadline=None)
@given(VALUES)
def test_with_an_edge_at_every_value_a_histogram_loses_nothing_to_ks(values: list[float]) -> None:
    other = [value + 3 for value in values]
    edges = sorted({*values, *other})
    exact = smirnov(Sample.of(values), Sample.of(other))
    assert smirnov(Histogram.of(edges, values), Histogram.of(edges, other)) == exact
    assert smirnov(Sample.of(values), Histogram.of(edges, other)) == exact


def test_duckdb_counts_them() -> None:
    database = duckdb.connect()
    database.execute(
        "CREATE TABLE calls AS SELECT CASE WHEN i % 10 = 0 THEN NULL WHEN i % 7 = 0 THEN 'length' ELSE 'stop' END AS finish,"
        " i % 97 AS output, 1.02 ** (i % 500) AS duration_ms FROM range(20000) t(i)"
    )
    finish = database.execute("SELECT coalesce(finish, '(none)'), count(*) FROM calls GROUP BY 1").fetchall()
    assert Counts(dict(finish)).rows == 20000
    assert Counts(dict(finish)).share("(none)") == 0.1

    output = database.execute("SELECT output, count(*) FROM calls GROUP BY 1").fetchall()
    raw = [float(row[0]) for row in database.execute("SELECT output FROM calls").fetchall()]
    assert Sample.counted(dict(output)) == Sample.of(raw)

    edges = geometric_edges(1, 5000)
    counted = database.execute("SELECT histogram(duration_ms, ?) FROM calls", [list(edges)]).fetchall()[0][0]
    durations = [row[0] for row in database.execute("SELECT duration_ms FROM calls").fetchall()]
    histogram = Histogram.counted(edges, counted)
    assert histogram == Histogram.of(edges, durations)
    assert histogram.counts[-1] > 0, "some are above all edges"

    levels = [k / 100 for k in range(101)]
    sketch = database.execute("SELECT quantile_cont(duration_ms, ?) FROM calls", [levels]).fetchall()[0][0]
    sketched = Histogram.sketched(sketch, 20000)
    assert sketched.rows == 20000
    assert compare_ks(sketched, Sample.of(durations)).value < 0.01
    assert sketched.quantile(0.5) == pytest.approx(Sample.of(durations).quantile(0.5), rel=0.03)


def test_a_sketch_of_ties_knows_them() -> None:
    sketched = Histogram.sketched([0, 0, 0, 0, 1, 2], 100)
    assert sketched.edges == (0, 1, 2)
    assert sketched.counts == (60, 20, 20, 0)
    assert sketched.quantile(0.5) == 0
    assert Histogram.of([1, 2], [5.0, 6.0]).quantile(0.5) == 2


def test_edges_follow_the_rows() -> None:
    sample = Sample.of(float(k) for k in range(1000))
    assert len(sample.edges(20)) == 20
    assert sample.edges(20)[9] == sample.quantile(0.5)
    edges = geometric_edges(1, 64, per_doubling=2)
    assert len(edges) == 13
    assert edges[-1] == pytest.approx(64)


def test_distances_of_histograms_are_those_of_the_rows_within_a_bin() -> None:
    one, other = [float(k) for k in range(100)], [float(k) + 7 for k in range(100)]
    edges = [float(k) for k in range(-5, 115, 5)]
    assert wasserstein(Sample.of(one), Sample.of(other)) == pytest.approx(7)
    assert wasserstein(Histogram.of(edges, one), Histogram.of(edges, other)) == pytest.approx(7, abs=0.2)
    assert wasserstein(Histogram.of(edges, one), Sample.of(other)) == pytest.approx(7, abs=0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sample((1.0, 1.0), (1, 1)),
        lambda: Sample((1.0,), (1, 2)),
        lambda: Sample((1.0,), (-1,)),
        lambda: Sample.of([float("nan")]),
        lambda: Histogram((2.0, 1.0), (0, 0, 0)),
        lambda: Histogram((1.0,), (1,)),
        lambda: Histogram((), (1,)),
        lambda: Histogram.sketched([1.0], 5),
        lambda: geometric_edges(0, 5),
        lambda: smirnov(Sample.of([]), Sample.of([1.0])),
        lambda: smirnov(Histogram.of([1], [1.0]), Histogram.of([2], [1.0])),
    ],
)
def test_what_cannot_be_compared_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        wrong()  # type: ignore[operator]
