"""Page–Hinkley: direction, reset, calibration by Siegmund's formula, outliers, and a state that survives a restart."""

from __future__ import annotations

import json
import random

import pytest

from mainstay.observe.drift_inputs import Histogram, Sample
from mainstay.observe.drift_streams import Baseline, PageHinkley, run_length, threshold_for

KNOWN = Baseline(10.0, 2.0)


def feed(detector: PageHinkley, seed: int, values: int, mean: float) -> list[tuple[int, str]]:
    chance = random.Random(seed)
    found = [detector.update(chance.gauss(mean, 2.0)) for _ in range(values)]
    return [(change.at, change.direction) for change in found if change is not None]


def test_it_says_what_changed_and_about_when() -> None:
    detector = PageHinkley(baseline=KNOWN)
    chance = random.Random(1)
    changes = [detector.update(chance.gauss(10.0 if k < 300 else 13.0, 2.0)) for k in range(330)]
    (change,) = [change for change in changes if change is not None][:1]
    assert change.direction == "up"
    assert 300 < change.at <= 325
    assert change.at - change.since == pytest.approx(300, abs=50)
    assert change.before == 10.0
    assert 11 < change.after < 14


@pytest.mark.parametrize(
    ("direction", "up", "down"), [("up", True, False), ("down", False, True), ("both", True, True)]
)
def test_it_alarms_only_in_its_direction(direction: str, up: bool, down: bool) -> None:
    def alarms(mean: float) -> bool:
        return bool(feed(PageHinkley(baseline=KNOWN, direction=direction), 2, 100, mean))  # type: ignore[arg-type]

    assert (alarms(13.0), alarms(7.0)) == (up, down)


def test_after_an_alarm_it_begins_anew() -> None:
    detector = PageHinkley(warmup=200)
    assert not feed(detector, 3, 1000, 10.0)
    assert [direction for _, direction in feed(detector, 4, 100, 14.0)] == ["up"]
    assert not feed(detector, 5, 1000, 14.0), "without a baseline the new state is learned"
    assert [direction for _, direction in feed(detector, 6, 100, 10.0)] == ["down"]
    steady = PageHinkley(baseline=KNOWN)
    assert len(feed(steady, 7, 300, 13.0)) > 5, "with one it says so for as long as it lasts"


def test_the_threshold_follows_from_the_wanted_run_length() -> None:
    for wanted in (500.0, 10_000.0, 1e6):
        for direction in ("up", "both"):
            threshold = threshold_for(wanted, 0.25, direction)  # type: ignore[arg-type]
            assert run_length(threshold, 0.25, direction) == pytest.approx(wanted, rel=1e-6)  # type: ignore[arg-type]
    assert PageHinkley().threshold == pytest.approx(threshold_for(10_000, 0.25))


def test_siegmunds_run_length_is_the_one_seen() -> None:
    detector = PageHinkley(baseline=Baseline(0.0, 1.0), threshold=4.0, delta=0.5, direction="up")
    chance = random.Random(8)
    alarms = sum(detector.update(chance.gauss(0.0, 1.0)) is not None for _ in range(200_000))
    # A standard CUSUM table (Montgomery, "Statistical Quality Control") has 335.4 for one side with k = 0.5 and h = 4.
    assert 200_000 / alarms == pytest.approx(335.4, rel=0.1)
    assert run_length(4.0, 0.5, "up") == pytest.approx(335.4, rel=0.03)


def test_one_outlier_is_no_change() -> None:
    detector = PageHinkley(baseline=KNOWN)
    assert detector.update(1e12) is None
    assert not feed(detector, 9, 50, 10.0)
    alarms = 0
    for seed in range(100):
        learning = PageHinkley()
        alarms += bool(feed(learning, seed, 600, 10.0)) or learning.update(1e12) is not None
        alarms += bool(feed(learning, 1000 + seed, 200, 10.0))
    assert alarms <= 10, "300 values after the warm-up alarm in 3 of 100 streams, with the outlier hardly more often"


def test_a_constant_stream_alarms_once_it_is_no_longer_constant() -> None:
    detector = PageHinkley(warmup=50)
    assert all(detector.update(1.0) is None for _ in range(500))
    changes = [detector.update(0.0) for _ in range(20)]
    assert any(change is not None and change.direction == "down" for change in changes)


@pytest.mark.parametrize("baseline", [KNOWN, None])
def test_its_state_is_json_and_goes_on_where_it_stood(baseline: Baseline | None) -> None:
    straight = PageHinkley(baseline=baseline, warmup=100)
    restarted = PageHinkley(baseline=baseline, warmup=100)
    chance = random.Random(12)
    for k in range(600):
        value = chance.gauss(10.0 if k < 300 else 12.0, 2.0)
        expected = straight.update(value)
        restarted = PageHinkley.restore(json.loads(json.dumps(restarted.state())))
        assert restarted.update(value) == expected
    assert restarted.state() == straight.state()


def test_a_baseline_is_that_of_a_reference() -> None:
    values = [float(k) for k in range(101)]
    exact = Baseline.of(Sample.of(values))
    assert exact.mean == 50
    assert exact.deviation == pytest.approx(29.1548, abs=1e-3)
    binned = Baseline.of(Histogram.of([float(k) for k in range(0, 101, 5)], values))
    assert binned.mean == pytest.approx(50, abs=2.5)
    assert binned.deviation == pytest.approx(29.15, abs=0.5)


def test_parameters_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="delta"):
        PageHinkley(delta=0)
    with pytest.raises(ValueError, match="two values"):
        PageHinkley(warmup=1)
