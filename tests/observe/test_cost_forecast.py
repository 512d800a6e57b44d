"""Forecasts: each estimator by hand, the interval's coverage in a simulation with a known truth, and when a budget ends."""

from __future__ import annotations

import random

import pytest

from mainstay.ledger.totals import DAY, HOUR, DaySum
from mainstay.observe.cost_forecast import Forecast, forecast

TODAY = 20_773  # 2026-11-16, a Monday
NOON = TODAY * DAY + DAY // 2
NANO = 1_000_000_000


def day(number: int, nano: int, tail: int | None = None) -> DaySum:
    """A day ``number`` days before today, half of whose cost came after noon."""
    start = (TODAY - number) * DAY
    return DaySum(TODAY - number, start, nano, nano // 2 if tail is None else tail, 0)


def ask(days: list[DaySum], spent: int = 0, ends: int | None = 4, limit: int | None = None) -> Forecast:
    """A forecast at noon, of a window that ends ``ends`` midnights from now."""
    return forecast(days, now=NOON, spent=spent, ends=None if ends is None else (TODAY + ends) * DAY, limit=limit)


def test_weekdays_are_told_apart_from_two_weeks_on() -> None:
    # Weekends cost 10, other days 100; 28 whole days after a first one that is not whole.
    days = [day(n, (10 if (TODAY - n + 3) % 7 >= 5 else 100) * NANO) for n in range(1, 30)]
    found = ask(days, spent=7 * NANO, ends=7)
    assert (found.estimator, found.days) == ("weekday", 28)
    # The rest of Monday, four more weekdays, a weekend.
    assert found.end_nano == (7 + 50 + 4 * 100 + 2 * 10) * NANO
    assert found.low_nano == found.high_nano == found.end_nano  # the weeks were all alike
    assert found.rate_nano == round((5 * 100 + 2 * 10) * NANO / 7)
    assert ask(days[:15], ends=7).estimator == "weekday"
    assert ask(days[:14], ends=7).estimator == "daily"


def test_days_without_calls_count_as_nothing_spent() -> None:
    found = ask([day(5, 100), day(4, 80), day(2, 40)], ends=2)  # of four whole days, two had no calls
    assert (found.estimator, found.days) == ("daily", 4)
    assert found.rate_nano == (80 + 40) / 4
    assert found.end_nano == 15 + 30


def test_before_two_whole_days_the_rate_is_linear_and_has_no_interval() -> None:
    start = NOON - 6 * HOUR
    found = ask([DaySum(TODAY, start, 60, 0, 0)], spent=60, ends=2, limit=200)
    assert (found.estimator, found.days) == ("linear", 0)
    assert found.rate_nano == 240
    assert found.end_nano == 60 + 120 + 240
    assert (found.low_nano, found.high_nano) == (None, None)
    assert found.reached_at == NOON + 14 * HOUR


def test_within_an_hour_of_the_first_call_nothing_is_told() -> None:
    found = ask([DaySum(TODAY, NOON - HOUR + 1, 60, 0, 0)], spent=60, limit=100)
    assert (found.estimator, found.rate_nano, found.end_nano, found.reached_at) == ("too_early", None, None, None)
    assert ask([DaySum(TODAY, NOON - 1, 60, 0, 0)], spent=60, limit=50).reached_at == NOON


def test_where_nothing_was_spent_nothing_will_be() -> None:
    found = ask([], spent=5, limit=6)
    assert (found.estimator, found.rate_nano, found.end_nano, found.reached_at) == ("none", 0, 5, None)


@pytest.mark.parametrize(
    ("limit", "reached"),
    [
        (5, NOON),  # it is already
        (15, NOON + DAY // 20),
        (60, (TODAY + 1) * DAY),
        (85, (TODAY + 1) * DAY + DAY // 4),
        (160, (TODAY + 2) * DAY),
        (360, (TODAY + 4) * DAY),
        (361, None),
    ],
)
def test_when_a_budget_is_used_up(limit: int, reached: int | None) -> None:
    days = [day(n, 100) for n in range(1, 6)]
    assert ask(days, spent=10, limit=limit).reached_at == reached


def test_a_budget_without_an_end_is_followed_for_a_year() -> None:
    days = [day(n, 100) for n in range(1, 6)]
    found = ask(days, spent=0, ends=None, limit=50 + 100 * 30)
    assert found.reached_at == (TODAY + 31) * DAY
    assert (found.end_nano, found.low_nano) == (None, None)
    assert ask(days, ends=None, limit=10**9).reached_at is None


@pytest.mark.parametrize(("weeks", "horizon"), [(1, 3), (3, 1), (3, 20), (8, 14)])
def test_the_interval_covers_the_truth_as_often_as_it_says(weeks: int, horizon: int) -> None:
    """Days are normal around a mean by weekday (before two weeks: one mean); 80 % of 2,000 futures must be inside."""
    draw = random.Random(7)
    inside = 0
    trials = 2000
    for _ in range(trials):
        profile = [1000.0] * 7 if weeks < 2 else [draw.uniform(500, 2000) for _ in range(7)]

        def cost(number: int, profile: list[float] = profile) -> tuple[int, int]:
            morning, evening = (draw.gauss(profile[number % 7] / 2, 70) for _ in range(2))
            return round(morning), round(evening)

        past = {n: cost(TODAY - n) for n in range(1, weeks * 7 + 2)}
        days = [day(n, sum(halves), halves[1]) for n, halves in past.items()]
        found = ask(days, spent=0, ends=1 + horizon)
        truth = cost(TODAY)[1] + sum(sum(cost(TODAY + n)) for n in range(1, horizon + 1))
        assert found.low_nano is not None
        assert found.high_nano is not None
        inside += found.low_nano <= truth <= found.high_nano
    # Four standard errors of a share of 0.8 in 2,000 trials are 0.036.
    assert 0.764 < inside / trials < 0.836
