"""ADWIN: a window over a stream that is as long as its mean has stayed the same, in logarithmic memory.

Bifet and Gavaldà, "Learning from Time-Changing Data with Adaptive Windowing" (SIAM Data Mining 2007), as ADWIN2 with
its exponential histogram (Datar et al. 2002).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mainstay.observe.drift_streams import Change, Direction

_Bucket = tuple[float, float]
"""Of a bucket's values: their sum, and the sum of squares about their own mean."""

_LEAST_SIDE = 5
"""Values that each side of a cut must have."""


class Adwin:
    """Keeps the longest window of latest values of which no cut into old and new has two means that differ for certain.

    For a cut into n0 and n1 of n values, 1/m = 1/n0 + 1/n1 and δ' = delta / ln n, the old part is dropped where the means
    differ by more than sqrt(2/m · variance · ln(2/δ')) + 2/(3m) · ln(2/δ') (their equation 3.1 and the note on δ'). It
    follows from Bernstein's inequality for values in [0, 1] whatever their distribution, so false alarms are far rarer
    than ``delta`` suggests, and smaller changes take longer.

    ``bounds`` are the least and the greatest value; values outside count as those. Rates of events are within (0, 1)
    as they are; of other numbers take their position in a reference (``Sample.position``). ``direction`` says which
    changes are reported; the window shrinks at any. ``every``: cuts are sought once in so many values. The memory is at
    most ``per_row`` + 1 buckets for each doubling of the window. A change drops what is old and so resets itself.
    """

    __slots__ = ("_rows", "_seen", "bounds", "delta", "direction", "every", "per_row")

    def __init__(
        self,
        *,
        delta: float = 0.002,
        bounds: tuple[float, float] = (0.0, 1.0),
        direction: Direction = "both",
        every: int = 32,
        per_row: int = 5,
    ) -> None:
        if not 0 < delta < 1:
            raise ValueError("delta is a probability between 0 and 1")
        if bounds[0] >= bounds[1]:
            raise ValueError("the lower bound must be below the upper one")
        if every < 1 or per_row < 2:
            raise ValueError("every must be at least 1 and per_row at least 2")
        self.delta, self.bounds, self.direction = delta, bounds, direction
        self.every, self.per_row = every, per_row
        self._seen = 0
        self._rows: list[deque[_Bucket]] = [deque()]  # row k: buckets of 2**k values, the oldest of a row first

    @property
    def width(self) -> int:
        """How many values the window holds."""
        return sum(len(row) << level for level, row in enumerate(self._rows))

    @property
    def buckets(self) -> int:
        """How many buckets stand for them."""
        return sum(map(len, self._rows))

    @property
    def mean(self) -> float:
        """The mean of the window, 0 where it is empty."""
        low, high = self.bounds
        return low + (high - low) * self._mean() if self.width else 0.0

    def update(self, value: float) -> Change | None:
        """Take the next value; the change that it made certain, if any. Old values are dropped at once."""
        low, high = self.bounds
        self._seen += 1
        self._rows[0].append(((min(high, max(low, value)) - low) / (high - low), 0.0))
        self._compress()
        if self._seen % self.every:
            return None
        width, mean = self.width, self._mean()
        while self._is_cut():
            self._drop_oldest()
        dropped = width - self.width
        if not dropped:
            return None
        left = self._mean()
        return self._change((mean * width - left * self.width) / dropped, left)

    def _mean(self) -> float:
        """The mean of the window, between 0 and 1."""
        return sum(total for _, total, _ in self._oldest_first()) / self.width

    def _change(self, before: float, after: float) -> Change | None:
        direction: Literal["up", "down"] = "up" if after > before else "down"
        if self.direction not in (direction, "both"):
            return None
        low, high = self.bounds
        return Change(direction, self._seen, self.width, low + (high - low) * before, low + (high - low) * after)

    def _compress(self) -> None:
        """Merge the two oldest buckets of each row that has too many into one of the next."""
        for level, row in enumerate(self._rows):
            if len(row) <= self.per_row:
                return
            merged = _merged(1 << level, row.popleft(), 1 << level, row.popleft())
            if level + 1 == len(self._rows):
                self._rows.append(deque())
            self._rows[level + 1].append(merged)

    def _oldest_first(self) -> Iterator[tuple[int, float, float]]:
        """Size, sum and squares of each bucket."""
        for level in range(len(self._rows) - 1, -1, -1):
            for total, squares in self._rows[level]:
                yield 1 << level, total, squares

    def _is_cut(self) -> bool:
        """Whether there is a cut at which the means of old and new differ for certain."""
        width, whole = 0, (0.0, 0.0)
        for size, total, squares in self._oldest_first():
            whole = _merged(width, whole, size, (total, squares))
            width += size
        if width < 2 * _LEAST_SIDE:
            return False
        certainty = math.log(2 * math.log(width) / self.delta)
        variance = whole[1] / width
        old, old_total = 0, 0.0
        for size, total, _ in self._oldest_first():
            old, old_total = old + size, old_total + total
            new = width - old
            if new < _LEAST_SIDE:
                return False
            if old < _LEAST_SIDE:
                continue
            before, after = old_total / old, (whole[0] - old_total) / new
            weight = 1 / old + 1 / new
            limit = math.sqrt(2 * weight * variance * certainty) + 2 / 3 * weight * certainty
            if abs(after - before) > limit:
                return True
        return False

    def _drop_oldest(self) -> None:
        self._rows[-1].popleft()
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()

    def state(self) -> dict[str, Any]:
        """Parameters and state, as JSON."""
        return {
            "delta": self.delta,
            "bounds": list(self.bounds),
            "direction": self.direction,
            "every": self.every,
            "per_row": self.per_row,
            "seen": self._seen,
            "rows": [[list(bucket) for bucket in row] for row in self._rows],
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Adwin:
        """The detector whose ``state()`` that was."""
        low, high = state["bounds"]
        found = cls(
            delta=state["delta"],
            bounds=(low, high),
            direction=state["direction"],
            every=state["every"],
            per_row=state["per_row"],
        )
        found._seen = state["seen"]
        found._rows = [deque((total, squares) for total, squares in row) for row in state["rows"]]
        return found


def _merged(first: int, a: _Bucket, second: int, b: _Bucket) -> _Bucket:
    """The bucket of both buckets' values (Chan, Golub and LeVeque 1979); ``first`` and ``second`` are their sizes."""
    if not first:
        return b
    apart = b[0] / second - a[0] / first
    return a[0] + b[0], a[1] + b[1] + apart * apart * first * second / (first + second)
