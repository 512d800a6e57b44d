"""Forecasts of spending: the run rate, what will have been spent at a window's end, and when a budget is used up.

Three estimators of what is still to come, by how much is known. A *whole day* is one after the day of the first call
and before today, at most 56 days ago.

* ``weekday``, from 14 whole days on: a day to come costs the mean of the whole days of its weekday, and the rest of
  today the mean of what those days cost after this time of day. The deviations of the days from the means of their
  weekdays have variance s² on n - 7 degrees of freedom.
* ``daily``, from 2 whole days on: the same with the mean over all whole days, on n - 1 degrees of freedom.
* ``linear`` before that: what was spent since the first call, per time since then. It has no interval. Before an hour
  has passed since the first call, nothing is forecast (``too_early``).

The interval is a prediction interval for the sum of k days to come that are alike and of which n were seen,
Σ s²(k + k²/n) over the sorts of days, with Student's t: the days are taken as independent of each other. It holds with
the stated probability where that is so; a growing trend is in none of the estimators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from mainstay.core.money import Nano
from mainstay.ledger.totals import DAY, DaySum

LOOK_BACK = 56
"""Days of the past that are looked at: eight of each weekday."""

INTERVAL = 0.8
"""The probability that what will have been spent lies within the interval."""

_WEEKDAY_FROM, _DAILY_FROM = 14, 2
_HORIZON = 400  # days for which a budget without an end is followed

_LINEAR_FROM = 3_600_000_000  # microseconds

Estimator = Literal["weekday", "daily", "linear", "too_early", "none"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected, in nano-dollars and microseconds since the epoch.

    ``end_nano`` is what will have been spent at the window's end, ``low_nano`` and ``high_nano`` its interval (None:
    too little is known, or the window never ends). ``rate_nano`` is what a day costs now (None: too early to say),
    ``reached_at`` when ``limit`` is used up at that rate: None if not within the window, or not within 400 days where it
    has no end.
    """

    estimator: Estimator
    days: int  # whole days that it goes by
    rate_nano: Nano | None
    end_nano: Nano | None
    low_nano: Nano | None
    high_nano: Nano | None
    reached_at: int | None


@dataclass(frozen=True, slots=True)
class _Mean:
    """The days of one sort: their number, and their means over the whole day and over the rest of it."""

    count: int
    whole: float
    tail: float


@dataclass(frozen=True, slots=True)
class _Model:
    """How days cost: each by its sort, with the variances of a day and of the rest of one (None: unknown)."""

    estimator: Estimator
    days: int
    sort: Callable[[int], int]
    means: dict[int, _Mean]
    variance: float | None
    tail_variance: float | None
    freedom: int

    def mean(self, day: int) -> _Mean:
        return self.means[self.sort(day)]


def forecast(days: Iterable[DaySum], *, now: int, spent: Nano, ends: int | None, limit: Nano | None = None) -> Forecast:
    """The forecast from what ``days`` cost, whose ``tail_nano`` is what they cost after the time of day of ``now``.

    ``spent`` is what has been spent of the window until now, ``ends`` the midnight at which it ends (None: never).
    """
    model = _model({one.day: one for one in days}, now)
    if model.estimator == "too_early":
        over = limit is not None and spent >= limit
        return Forecast(model.estimator, 0, None, None, None, None, now if over else None)
    today, midnight = now // DAY, (now // DAY + 1) * DAY
    rest = model.mean(today).tail
    end = low = high = None
    if ends is not None:
        coming = range(today + 1, ends // DAY)
        expected = spent + rest + sum(model.mean(day).whole for day in coming)
        end = round(expected)
        if model.variance is not None:
            half = _student(INTERVAL, model.freedom) * math.sqrt(_variance(model, today, coming))
            low, high = max(spent, round(expected - half)), round(expected + half)
    week = [model.mean(today + i).whole for i in range(1, 8)]
    reached: int | None = None
    if limit is not None:
        reached = now if spent >= limit else _reached(model, limit - spent, rest, now, midnight, ends)
    return Forecast(model.estimator, model.days, round(sum(week) / 7), end, low, high, reached)


def _model(known: dict[int, DaySum], now: int) -> _Model:
    today = now // DAY
    first = min(known, default=today)
    whole = range(max(first + 1, today - LOOK_BACK), today)
    if len(whole) < _DAILY_FROM:
        return _linear(known, now)
    weekly = len(whole) >= _WEEKDAY_FROM

    def sort(day: int) -> int:
        return day % 7 if weekly else 0

    sorted_days: dict[int, list[tuple[int, int]]] = {}
    for day in whole:
        one = known.get(day)
        sorted_days.setdefault(sort(day), []).append((one.nano, one.tail_nano) if one is not None else (0, 0))
    means: dict[int, _Mean] = {}
    squares = tail_squares = 0.0
    for name, seen in sorted_days.items():
        count = len(seen)
        mean = _Mean(count, sum(nano for nano, _ in seen) / count, sum(tail for _, tail in seen) / count)
        means[name] = mean
        squares += sum((nano - mean.whole) ** 2 for nano, _ in seen)
        tail_squares += sum((tail - mean.tail) ** 2 for _, tail in seen)
    freedom = len(whole) - len(means)
    return _Model(
        "weekday" if weekly else "daily",
        len(whole),
        sort,
        means,
        squares / freedom,
        tail_squares / freedom,
        freedom,
    )


def _linear(known: dict[int, DaySum], now: int) -> _Model:
    """The plain run rate since the first call that is known."""
    first = min((one.first_at for one in known.values()), default=now)
    spent = sum(one.nano for one in known.values())
    rate = spent / max(now - first, 1) * DAY if spent else 0.0
    left = (DAY - now % DAY) / DAY
    means = {0: _Mean(0, rate, rate * left)}
    estimator: Estimator = "none" if not spent else "linear" if now - first >= _LINEAR_FROM else "too_early"
    return _Model(estimator, 0, lambda _day: 0, means, None, None, 0)


def _variance(model: _Model, today: int, coming: range) -> float:
    assert model.variance is not None
    assert model.tail_variance is not None
    found = model.tail_variance * (1 + 1 / model.mean(today).count)
    ahead: dict[int, int] = {}
    for day in coming:
        name = model.sort(day)
        ahead[name] = ahead.get(name, 0) + 1
    return found + sum(model.variance * (k + k * k / model.means[name].count) for name, k in ahead.items())


def _reached(model: _Model, left: float, rest: float, now: int, midnight: int, ends: int | None) -> int | None:
    """When ``left`` more will have been spent; within a day, spending is taken as even."""
    start, end, cost, day = now, midnight, rest, now // DAY
    last = day + _HORIZON if ends is None else ends // DAY - 1
    while True:
        if cost >= left and cost > 0:
            return start + round((end - start) * left / cost)
        left -= cost
        day += 1
        if day > last:
            return None
        start, end, cost = day * DAY, (day + 1) * DAY, model.mean(day).whole


def _student(probability: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, by Abramowitz and Stegun 26.7.5, and exactly for 1 and 2 degrees."""
    p = (1 + probability) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    x, v = NormalDist().inv_cdf(p), freedom
    return (
        x
        + (x**3 + x) / (4 * v)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * v**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * v**3)
        + (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (92160 * v**4)
    )
