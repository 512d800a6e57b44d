"""Each drift method keeps what it states of itself, on simulations with a known truth; and the guide shows what was seen.

A method may be unlucky under a fixed seed; it fails where so bad a count has a probability under one in a thousand at the
stated rate.
"""

from __future__ import annotations

import pytest

from tests.observe.drift_trials import (
    CHANGED,
    PAGE,
    QUIET,
    Changed,
    Quiet,
    binomial_tail,
    changed_row,
    interval,
    quiet_row,
    watch,
)

UNLUCKY = 0.001


def in_guide(row: str) -> bool:
    return row in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("trial", QUIET, ids=lambda trial: f"{trial.method}: {trial.setting}")
def test_false_alarms_are_no_more_than_stated(trial: Quiet) -> None:
    seen = watch(trial)
    assert binomial_tail(seen.count, seen.runs, trial.stated) > UNLUCKY, seen
    assert in_guide(quiet_row(trial, seen)), "run `python -m tests.observe.drift_trials`"


@pytest.mark.parametrize("trial", CHANGED, ids=lambda trial: f"{trial.method}: {trial.setting}")
def test_a_change_is_found_within_the_stated_delay(trial: Changed) -> None:
    seen = watch(trial)
    missed = seen.runs - seen.count
    assert binomial_tail(missed, seen.runs, 1 - trial.stated) > UNLUCKY, seen
    assert in_guide(changed_row(trial, seen)), "run `python -m tests.observe.drift_trials`"


def test_the_bounds_themselves() -> None:
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert interval(0, 10) == (0.0, pytest.approx(0.3084971078, abs=1e-8))  # Clopper and Pearson's, by scipy 1.17
    assert interval(3, 20) == (pytest.approx(0.0320709371, abs=1e-8), pytest.approx(0.3789268265, abs=1e-8))
