"""ADWIN: it finds changes, forgets what is old, keeps little, says the direction, and survives a restart."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.observe.drift_adwin import Adwin
from mainstay.observe.drift_inputs import Sample


def feed(detector: Adwin, seed: int, values: int, rate: float) -> list[str]:
    chance = random.Random(seed)
    found = [detector.update(float(chance.random() < rate)) for _ in range(values)]
    return [change.direction for change in found if change is not None]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4000), st.integers(2, 8), st.floats(0, 1))
def test_memory_is_logarithmic_and_nothing_is_lost(values: int, per_row: int, rate: float) -> None:
    detector = Adwin(per_row=per_row, every=10**9)
    chance = random.Random(values)
    fed = [float(chance.random() < rate) for _ in range(values)]
    for value in fed:
        detector.update(value)
        assert detector.buckets <= (per_row + 1) * (math.log2(max(2, detector.width)) + 1)
    assert detector.width == values
    assert detector.mean == pytest.approx(statistics.fmean(fed), abs=1e-9)


def test_a_change_drops_what_is_old() -> None:
    detector = Adwin()
    assert feed(detector, 1, 3000, 0.05) == []
    assert detector.width == 3000
    assert feed(detector, 2, 1000, 0.4)[:1] == ["up"]
    assert detector.mean == pytest.approx(0.4, abs=0.05)
    assert detector.width < 1300
    assert feed(detector, 3, 1000, 0.05)[:1] == ["down"]


def test_the_change_says_before_after_and_since() -> None:
    detector = Adwin()
    chance = random.Random(4)
    for k in range(4000):
        change = detector.update(float(chance.random() < (0.1 if k < 2000 else 0.5)))
        if change is not None:
            break
    assert change is not None
    assert change.direction == "up"
    assert change.before == pytest.approx(0.1, abs=0.05)
    assert change.after > 0.17, "what is left still holds values from before the change"
    assert 2000 < change.at < 2200
    assert 1700 < change.at - change.since <= 2010


@pytest.mark.parametrize(("direction", "expected"), [("up", ["up"]), ("down", []), ("both", ["up"])])
def test_only_its_direction_is_reported_and_the_window_shrinks_at_any(direction: str, expected: list[str]) -> None:
    detector = Adwin(direction=direction)  # type: ignore[arg-type]
    feed(detector, 5, 2000, 0.05)
    assert feed(detector, 6, 400, 0.6)[:1] == expected
    assert detector.width < 1000


def test_a_restart_forgets_nothing() -> None:
    straight, restarted = Adwin(), Adwin()
    chance = random.Random(7)
    for k in range(3000):
        value = float(chance.random() < (0.1 if k < 2000 else 0.4))
        expected = straight.update(value)
        if k % 50 == 0:
            restarted = Adwin.restore(json.loads(json.dumps(restarted.state())))
        assert restarted.update(value) == expected
    assert restarted.state() == straight.state()


def test_other_numbers_are_taken_within_their_bounds_or_by_their_position() -> None:
    chance = random.Random(8)
    scores = Adwin(bounds=(1.0, 5.0))
    found = [scores.update(min(5.0, chance.gauss(4.3, 0.5))) for _ in range(2000)]
    assert not any(found)
    found = [scores.update(chance.gauss(3.6, 0.5)) for _ in range(300)]
    (change,) = [change for change in found if change is not None][:1]
    assert change.direction == "down"
    assert change.before == pytest.approx(4.3, abs=0.1)

    reference = Sample.of(chance.lognormvariate(0, 1.5) for _ in range(500))
    ranks = Adwin()
    assert not any(ranks.update(reference.position(chance.lognormvariate(0, 1.5))) for _ in range(2000))
    assert any(ranks.update(reference.position(chance.lognormvariate(1, 1.5))) for _ in range(400))


def test_a_smaller_delta_takes_longer() -> None:
    def delay(delta: float) -> int:
        detector = Adwin(delta=delta, every=1)
        feed(detector, 9, 1000, 0.1)
        chance = random.Random(10)
        return next(k for k in range(1, 2000) if detector.update(float(chance.random() < 0.3)) is not None)

    assert delay(0.2) < delay(0.002) < delay(1e-9)


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"bounds": (1.0, 1.0)}, {"every": 0}, {"per_row": 1}])
def test_parameters_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Adwin(**wrong)  # type: ignore[arg-type]
    assert Adwin().mean == 0.0
