"""When to try again, where, and after what pause; and the budgets that keep retries from becoming a storm."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from mainstay.core.clock import Clock
from mainstay.core.errors import FailureKind, UpstreamFailed

MOST_ATTEMPTS = 6
"""Requests that providers may see of one call in all, whatever its route says."""
BURST, BURST_SECONDS = 4, 3.0
"""While providers answer 429: at most so many requests of one call within so many seconds."""

Next = Literal["same", "next", "final"]


@dataclass(frozen=True, slots=True)
class RetryRule:
    """A route's retry settings; times in seconds."""

    attempts: int = 2
    base: float = 0.25
    cap: float = 8.0
    budget: float = 0.2
    on_filter: Literal["refuse", "fallback"] = "refuse"


_AGAIN: frozenset[FailureKind] = frozenset(("rate_limit", "server_error", "overloaded", "connect", "cut", "unreadable"))
_ELSEWHERE: frozenset[FailureKind] = frozenset(("timeout", "auth", "not_found", "quota", "too_large"))


def decide(failure: UpstreamFailed, tries: int, rule: RetryRule, others: bool) -> Next:
    """What to do after ``failure``, the ``tries``-th at this target, when ``others`` are still to be tried."""
    kind = failure.kind
    if kind in _AGAIN:
        if tries >= rule.attempts:
            return "next"
        # Waiting is for those who have nowhere else to go, and only as long as a pause may be.
        if kind == "rate_limit" and (others or (failure.retry_after or 0.0) > rule.cap):
            return "next"
        return "same"
    if kind in _ELSEWHERE:
        return "next"
    if kind == "context_length":
        return "next"
    if kind == "content_filter":
        return "next" if rule.on_filter == "fallback" else "final"
    return "final"


def pause(failure: UpstreamFailed, tries: int, rule: RetryRule, chance: float) -> float:
    """Seconds to wait before the next try at the same target: what the provider asks for, else full jitter."""
    if failure.retry_after is not None:
        return min(failure.retry_after, rule.cap)
    if tries == 1 and failure.kind in ("connect", "cut", "unreadable"):
        return chance * min(rule.cap, rule.base / 5)  # a stale connection or one bad reply: no sign of overload
    return chance * min(rule.cap, rule.base * 2 ** (tries - 1))


class RetryBudget:
    """Retries may be a share of recent calls, and a small reserve: when everything fails, load does not multiply."""

    __slots__ = ("_calls", "_clock", "_retries", "_share")

    RESERVE = 10
    WINDOW = 10.0

    def __init__(self, share: float, clock: Clock) -> None:
        self._share, self._clock = share, clock
        self._calls: deque[float] = deque(maxlen=20_000)
        self._retries: deque[float] = deque(maxlen=20_000)

    def called(self) -> None:
        """A call began."""
        self._calls.append(self._clock.monotonic())

    def allows(self) -> bool:
        """Whether one more retry may be made; if so it is counted."""
        now = self._clock.monotonic()
        edge = now - self.WINDOW
        for times in (self._calls, self._retries):
            while times and times[0] < edge:
                times.popleft()
        if len(self._retries) >= self.RESERVE + self._share * len(self._calls):
            return False
        self._retries.append(now)
        return True


class Pace:
    """Counts the requests of one call: its attempts, and the one that may be repeated over a new connection.

    Keeps them within ``BURST`` in ``BURST_SECONDS`` while providers say 429.
    """

    __slots__ = ("_times", "repeated")

    def __init__(self) -> None:
        self._times: list[float] = []
        self.repeated = False

    def attempted(self, now: float) -> None:
        """An attempt is made."""
        self._times.append(now)

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self._times)

    def repeats(self, now: float) -> bool:
        """Whether the request of an attempt may be repeated, its kept connection having been dead: once per call, and
        within all bounds. If so it is counted."""
        if self.repeated or len(self._times) >= MOST_ATTEMPTS or self.wait(now) > 0.0:
            return False
        self.repeated = True
        self._times.append(now)
        return True

    def wait(self, now: float) -> float:
        """Seconds until the next attempt is within the pace."""
        if len(self._times) < BURST:
            return 0.0
        return max(0.0, self._times[-BURST] + BURST_SECONDS - now)
