"""The circuit breaker of one provider and model: leaves a failing target alone, and tries it again with single probes."""

from __future__ import annotations

from collections import deque
from typing import Literal

from mainstay.core.clock import Clock
from mainstay.core.errors import FailureKind

State = Literal["closed", "open", "half_open"]

_COUNTED: frozenset[FailureKind] = frozenset(
    ("server_error", "overloaded", "connect", "timeout", "cut", "unreadable", "too_large", "quota", "not_found")
)
_FATAL: frozenset[FailureKind] = frozenset(("auth",))
_LONGEST = 20.0  # seconds: whatever the setting, a target that came back is found within half a minute


class Breaker:
    """Closed: calls pass. Open: none do, for ``open_for`` seconds. Half open: one probe at a time decides.

    It opens after ``failures`` failures in a row, or when at least ``rate`` of the last ``min_calls`` or more calls
    within ``window`` seconds failed, or at once when the provider refuses our key. What the caller did wrong (an invalid
    request, a filter) says nothing about the target's health and closes a half-open breaker like a success.
    A rate limit only rests the target until the time that the provider named.
    """

    __slots__ = (
        "_clock",
        "_failures",
        "_min_calls",
        "_open_for",
        "_probing",
        "_rate",
        "_recent",
        "_rests_until",
        "_row",
        "_until",
        "_window",
        "opened",
        "state",
    )

    def __init__(
        self, failures: int, rate: float, min_calls: int, window: float, open_for: float, clock: Clock
    ) -> None:
        self.state: State = "closed"
        self.opened = 0  # how often it has opened since the start
        self._failures, self._rate, self._min_calls = failures, rate, min_calls
        self._window, self._open_for = window, min(open_for, _LONGEST)
        self._clock = clock
        self._row = 0  # failures in a row
        self._recent: deque[tuple[float, bool]] = deque(maxlen=1000)
        self._until = 0.0
        self._rests_until = 0.0
        self._probing = False

    def admits(self) -> bool:
        """Whether a call may go to the target now. Where it says yes while not closed, ``begin`` makes it the probe."""
        if self.state == "closed":
            return not self._rests_until or self._clock.monotonic() >= self._rests_until
        if self.state == "open" and self._clock.monotonic() >= self._until:
            self.state = "half_open"
        return self.state == "half_open" and not self._probing

    @property
    def probing(self) -> bool:
        """A probe is under way."""
        return self._probing

    def opens_in(self) -> float:
        """Seconds until the next call may be tried; 0 if now."""
        until = self._until if self.state == "open" else self._rests_until
        return max(0.0, until - self._clock.monotonic())

    def begin(self) -> bool:
        """A call goes to the target. Whether it is the probe: pass that on when it ends.

        What becomes of calls that began before the breaker opened neither opens it for longer nor closes it.
        """
        if self.state == "closed":
            return False
        self.state = "half_open"
        self._probing = True
        return True

    def answered(self, probe: bool) -> None:
        """The target has begun to answer: it is back, long before a long answer ends. If it breaks off, it is not."""
        if probe and self.state == "half_open":
            self._close()
            self._row = self._failures - 1

    def succeeded(self, probe: bool) -> None:
        """The target answered."""
        if self.state == "closed":
            self._row = 0
            self._rests_until = 0.0
            if self._recent:  # only where failures are remembered do successes matter
                self._recent.append((self._clock.monotonic(), True))
        elif probe:
            self._close()

    def failed(self, kind: FailureKind, probe: bool, retry_after: float | None = None) -> None:
        """The target failed in that way."""
        now = self._clock.monotonic()
        if kind == "rate_limit":
            if retry_after is not None:
                self._rests_until = max(self._rests_until, now + min(retry_after, _LONGEST))
            if probe and self.state != "closed":
                rests = self._rests_until
                self._close()
                self._rests_until = rests
        elif kind in _FATAL:
            self._open(now)
        elif kind not in _COUNTED:
            self.succeeded(probe)
        elif self.state == "closed":
            self._row += 1
            self._recent.append((now, False))
            if self._row >= self._failures or self._too_many(now):
                self._open(now)
        elif probe:
            self._open(now)

    def gone(self, probe: bool) -> None:
        """The call ended without saying anything about the target: the caller went away."""
        if probe:
            self._probing = False

    def _close(self) -> None:
        self.state = "closed"
        self._row = 0
        self._rests_until = 0.0
        self._recent.clear()
        self._probing = False

    def _too_many(self, now: float) -> bool:
        while self._recent and self._recent[0][0] < now - self._window:
            self._recent.popleft()
        if len(self._recent) < self._min_calls:
            return False
        return sum(not good for _, good in self._recent) >= self._rate * len(self._recent)

    def _open(self, now: float) -> None:
        self.state = "open"
        self._probing = False
        self.opened += 1
        self._until = now + self._open_for
