"""Many features, many looks: which findings stand, and how often chance alone raises an alarm.

Each finding has a false-alarm rate of its own; twenty of them at 1 % raise one in every fifth window. So the features
of one window are judged together, and the looks over time share a budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mainstay.observe.drift_finding import Finding

Dependence = Literal["positive", "any"]


def adjusted(p_values: Sequence[float], dependence: Dependence = "positive") -> list[float]:
    """The p-values as Benjamini and Hochberg (1995) adjust them: rejecting those <= q keeps false discoveries at q.

    It holds for independent and positively dependent tests; ``"any"`` holds for all others too, by the factor of
    Benjamini and Yekutieli (2001), the sum of 1/k up to the number of tests.
    """
    count = len(p_values)
    factor = 1.0 if dependence == "positive" else sum(1 / k for k in range(1, count + 1))
    order = sorted(range(count), key=lambda k: p_values[k], reverse=True)
    found, least = [1.0] * count, 1.0
    for place, k in enumerate(order):
        least = min(least, p_values[k] * (factor * count / (count - place)))
        found[k] = least
    return found


@dataclass(frozen=True, slots=True)
class Judged:
    """A feature's finding among those of its window; ``q_value`` is its p-value adjusted for the others."""

    feature: str
    finding: Finding
    q_value: float
    alarm: bool


def judge(findings: Mapping[str, Finding], rate: float = 0.01, dependence: Dependence = "positive") -> list[Judged]:
    """The findings of one window, alarms first, then by their adjusted p-value.

    An alarm needs an adjusted p-value of at most ``rate`` and an effect over its floor. Where nothing has changed at all,
    the probability of any alarm in the window is at most ``rate``; otherwise it bounds the expected part of false ones.
    """
    names = list(findings)
    q_values = adjusted([findings[name].p_value for name in names], dependence)
    judged = [
        Judged(name, findings[name], q_value, q_value <= rate and findings[name].material)
        for name, q_value in zip(names, q_values, strict=True)
    ]
    return sorted(judged, key=lambda one: (not one.alarm, one.q_value, one.feature))


def spent(look: int, alpha: float) -> float:
    """The rate for look number ``look``, from 1, if all looks together, for ever, may raise a false alarm at ``alpha``.

    The look's part is 6 / (π look)², since the sum of 1/k² is π²/6: a union bound, so it holds whatever the looks have
    in common, such as the reference. Later looks see less and less: begin again with each new reference.
    """
    if look < 1:
        raise ValueError("looks are counted from 1")
    return alpha * 6 / (math.pi * look) ** 2


def windows_per_false_alarm(rate: float) -> float:
    """How many windows pass on average between false alarms if each is judged at ``rate``."""
    return 1 / rate
