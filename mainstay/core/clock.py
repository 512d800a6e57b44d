"""Time as everything in Mainstay sees it, so that tests can move it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """The wall clock and the monotonic clock of this process.

    Pass a ``Clock`` to whatever needs time; pass a ``FixedClock`` to move it by hand.
    """

    __slots__ = ()

    # The functions themselves and no methods around them: the hot path asks for the time a dozen times per call.
    now: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch."""
    now_ns: Callable[[], int] = staticmethod(time.time_ns)
    """Nanoseconds since the epoch."""
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds on a clock that never goes back; only differences mean something."""


class FixedClock(Clock):
    """A clock that stands still until it is told to advance."""

    __slots__ = ("_ns", "_start_ns")

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self._start_ns = self._ns = int(at * 1e9)

    def now(self) -> float:
        return self._ns / 1e9

    def now_ns(self) -> int:
        return self._ns

    def monotonic(self) -> float:
        return (self._ns - self._start_ns) / 1e9

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by ``seconds``."""
        self._ns += int(seconds * 1e9)
