"""One gateway's share of one pool: idle units, used ones on their way back, spent ones."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mainstay.access.rules import REQUESTS, SPAN, TOKENS, Rule, parts, window_end

UNKNOWN = 1 << 62
"""What is left with control while control has not said."""


class Ahead(Protocol):
    """A call that waits for units of a pool."""

    number: int


class Pool:
    """A share, such that always ``share = idle + held + used + spent``; idle below zero is a debt.

    ``used`` counts requests and tokens of the last 60 s, in buckets of a second rounded up, so that a unit comes back
    between 60 and 61 s after its use; ``spent`` counts money, which never comes back. What is held follows from the rest.
    """

    __slots__ = (
        "asked",
        "code",
        "counted",
        "ends",
        "exact",
        "idle",
        "left",
        "name",
        "newest",
        "older",
        "queue",
        "rests",
        "second",
        "share",
        "spent",
        "touched",
        "used",
        "wait_until",
    )

    def __init__(self, name: str, rule: Rule, exact: bool = True) -> None:
        self.name = name
        self.code = rule.code
        self.ends = window_end(parts(name)[2])  # seconds since the epoch
        self.exact = exact  # whether `share` is all that this gateway has of the pool: a forgotten pool is not
        self.share = self.idle = self.used = self.spent = 0
        self.left = UNKNOWN  # free units that control had when it last spoke
        self.touched = True  # since the last sweep
        self.second = 0
        self.newest = 0
        self.older: deque[tuple[int, int]] = deque()
        self.queue: list[Ahead] = []  # calls that wait for units, in the order of their numbers
        self.asked: int | None = None  # the id of the Need that is on its way
        self.counted: list[Ahead] = []  # the waiters whose want was in that Need
        self.rests = False  # control has just said that there is no more: it is not asked again for a moment
        self.wait_until = 0.0  # when control expects units (monotonic)

    @property
    def held(self) -> int:
        """Units that calls in flight hold."""
        return self.share - self.idle - self.used - self.spent

    def use(self, units: int, second: int) -> None:
        """Count units as used in ``second`` (the whole second that ends next, monotonic)."""
        self.used += units
        if second == self.second:
            self.newest += units
            return
        if self.newest:
            self.older.append((self.second, self.newest))
        self.second, self.newest = second, units
        self._drop_until(second - 1)

    def unuse(self, units: int, second: int) -> None:
        """Take back a use of ``second``, unless it is idle again already."""
        if second == self.second:
            if not self.newest:
                return
            self.newest -= units
        else:
            for i, (at, count) in enumerate(self.older):
                if at == second:
                    self.older[i] = (at, count - units)
                    break
            else:
                return
        self.used -= units
        self.idle += units

    def expire(self, now: float) -> None:
        """Make idle what was used 60 s ago (``now``: monotonic)."""
        if not self.used:
            return
        self._drop_until(now)
        if self.newest and self.second + SPAN <= now:
            self.used -= self.newest
            self.idle += self.newest
            self.newest = 0

    def _drop_until(self, now: float) -> None:
        older = self.older
        while older and older[0][0] + SPAN <= now:
            units = older.popleft()[1]
            self.used -= units
            self.idle += units

    def expected(self, units: int, now: float) -> float | None:
        """In how many seconds ``units`` more may be idle here, if that can be known."""
        if self.code in (REQUESTS, TOKENS):
            for second, count in (*self.older, (self.second, self.newest)):
                units -= count
                if units <= 0:
                    return max(second + SPAN - now, 0.001)
            return 1.0 if self.code == TOKENS and self.held > 0 else None
        return 1.0 if self.held >= units else None  # when calls in flight end

    def reset(self, now: float) -> float:
        """Seconds until all that was used is idle again."""
        if not self.used:
            return 0.0
        last = self.second if self.newest else self.older[-1][0]
        return max(last + SPAN - now, 0.0)

    @property
    def quiet(self) -> bool:
        """Whether nothing is held, used, awaited or owed: it may be forgotten once its idle units are given back."""
        return self.asked is None and not self.queue and not self.used and self.idle >= 0 and self.held == 0
