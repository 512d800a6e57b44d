"""Changes in a stream of values: Page and Hinkley's test, and what every detector of streams reports.

A detector takes one value at a time, keeps a state of bounded size, and gives a ``Change`` when the mean has moved. Its
``state()`` is plain JSON, and ``restore`` goes on from it, so a restart loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mainstay.observe.drift_inputs import Numbers

Direction = Literal["up", "down", "both"]


@dataclass(frozen=True, slots=True)
class Change:
    """The mean moved from ``before`` to ``after``, as far as known by now, in the stream's unit.

    ``at`` is how many values the detector has seen in its life, ``since`` how many of the last ones are taken to belong
    to the new state: the change began at about ``at`` - ``since``, rather later than earlier, so ``after`` may lag a little.
    """

    direction: Literal["up", "down"]
    at: int
    since: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """The mean and the standard deviation of a reference, in the stream's unit."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, reference: Numbers) -> Baseline:
        """Those of a named reference window."""
        return cls(reference.mean(), reference.deviation())


def run_length(threshold: float, delta: float, direction: Direction = "both") -> float:
    """How many values pass on average between false alarms of Page and Hinkley's test.

    Siegmund's approximation for independent normal values (1985, "Sequential Analysis"): with b = threshold + 1.166, one
    side alarms once in (exp(2 delta b) - 1 - 2 delta b) / (2 delta²) values; two sides twice as often.
    """
    b = threshold + 1.166
    one_side = (math.exp(min(700.0, 2 * delta * b)) - 1 - 2 * delta * b) / (2 * delta * delta)
    return one_side / 2 if direction == "both" else one_side


def threshold_for(values: float, delta: float, direction: Direction = "both") -> float:
    """The threshold at which false alarms are ``values`` values apart on average."""
    low, high = 0.0, 1.0
    while run_length(high, delta, direction) < values:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(middle, delta, direction) < values else (low, middle)
    return high


@dataclass(slots=True)
class _Side:
    """The excess on one side, and the values since it was last zero: the run that may be the new state."""

    excess: float = 0.0
    values: int = 0
    total: float = 0.0

    def add(self, step: float, value: float) -> float:
        self.excess += step
        if self.excess <= 0:
            self.excess, self.values, self.total = 0.0, 0, 0.0
        else:
            self.values += 1
            self.total += value
        return self.excess


class PageHinkley:
    """Page's test (1954) in Hinkley's form (1971): alarms once the sum of the excess over the mean is too large.

    Every value becomes z = (value - mean) / deviation, cut off at ``clip`` so that one outlier is no change. The upper
    side adds z - ``delta`` and never falls below zero; over ``threshold`` it is an alarm; the lower side likewise with -z.
    ``delta`` (in deviations) is half the least change worth knowing; a change of s deviations is found after about
    threshold / (s - delta) values. ``threshold`` defaults to that of one false alarm in 10,000 values that are
    independent and about normal; values that depend on each other alarm more often.

    With a ``baseline`` mean and deviation are the reference's and stay so. Without, both are learned from the first
    ``warmup`` values, during which there is no alarm, and the mean goes on following all values, as in the original.
    After an alarm both sides begin at zero, and without a baseline the learning too; with one, the alarm comes again for
    as long as the values stay away from the reference.
    """

    __slots__ = (
        "_baseline",
        "_down",
        "_learned",
        "_mean",
        "_seen",
        "_squares",
        "_up",
        "clip",
        "delta",
        "direction",
        "threshold",
        "warmup",
    )

    def __init__(
        self,
        *,
        delta: float = 0.25,
        threshold: float | None = None,
        direction: Direction = "both",
        baseline: Baseline | None = None,
        warmup: int = 500,
        clip: float = 4.0,
    ) -> None:
        if delta <= 0:
            raise ValueError("delta must be positive: without it chance alone raises the sum over any threshold")
        if warmup < 2:
            raise ValueError("a deviation is learned from at least two values")
        self.delta, self.direction, self.warmup, self.clip = delta, direction, warmup, clip
        self.threshold = threshold_for(10_000, delta, direction) if threshold is None else threshold
        self._baseline = baseline
        self._seen = 0
        self._restart()

    def _restart(self) -> None:
        self._up, self._down = _Side(), _Side()
        self._learned, self._mean, self._squares = 0, 0.0, 0.0

    def update(self, value: float) -> Change | None:
        """Take the next value; the change that it made certain, if any."""
        self._seen += 1
        mean, deviation = self._levels(value)
        if deviation is None:
            return None
        away = value - mean
        z = (
            max(-self.clip, min(self.clip, away / deviation))
            if deviation
            else math.copysign(self.clip, away) * (away != 0)
        )
        up, down = self._up, self._down
        if self.direction != "down" and up.add(z - self.delta, value) > self.threshold:
            return self._alarm("up", up, mean)
        if self.direction != "up" and down.add(-z - self.delta, value) > self.threshold:
            return self._alarm("down", down, mean)
        return None

    def _levels(self, value: float) -> tuple[float, float | None]:
        """The mean and the deviation to hold ``value`` against; no deviation during the warm-up."""
        if self._baseline is not None:
            return self._baseline.mean, self._baseline.deviation
        if self._learned < self.warmup:
            self._learned += 1
            step = value - self._mean
            self._mean += step / self._learned
            self._squares += step * (value - self._mean)  # Welford 1962
            return self._mean, None
        deviation = math.sqrt(self._squares / (self.warmup - 1))
        self._learned += 1
        self._mean += max(-self.clip * deviation, min(self.clip * deviation, value - self._mean)) / self._learned
        return self._mean, deviation

    def _alarm(self, direction: Literal["up", "down"], side: _Side, mean: float) -> Change:
        change = Change(direction, self._seen, side.values, mean, side.total / side.values)
        self._restart()
        return change

    def state(self) -> dict[str, Any]:
        """Parameters and state, as JSON."""
        return {
            "delta": self.delta,
            "threshold": self.threshold,
            "direction": self.direction,
            "warmup": self.warmup,
            "clip": self.clip,
            "baseline": None if self._baseline is None else asdict(self._baseline),
            "seen": self._seen,
            "learned": self._learned,
            "mean": self._mean,
            "squares": self._squares,
            "up": asdict(self._up),
            "down": asdict(self._down),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> PageHinkley:
        """The detector whose ``state()`` that was."""
        baseline = state["baseline"]
        found = cls(
            delta=state["delta"],
            threshold=state["threshold"],
            direction=state["direction"],
            warmup=state["warmup"],
            clip=state["clip"],
            baseline=None if baseline is None else Baseline(**baseline),
        )
        found._seen, found._learned = state["seen"], state["learned"]
        found._mean, found._squares = state["mean"], state["squares"]
        found._up, found._down = _Side(**state["up"]), _Side(**state["down"])
        return found
