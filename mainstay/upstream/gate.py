"""How many calls may be in flight at once, and who waits for a place: bounded, by priority, first come first served."""

from __future__ import annotations

import asyncio
import heapq
import math
from itertools import count

from mainstay.core.errors import Unavailable


class Gate:
    """At most ``limit`` calls inside (None: no limit), at most ``queue`` waiting, nobody longer than ``wait`` seconds."""

    __slots__ = ("_heap", "_limit", "_order", "_queue", "_wait", "inside", "name", "waiting")

    def __init__(self, name: str, limit: int | None = None, queue: int = 0, wait: float = 10.0) -> None:
        self.name = name
        self.inside = 0
        self.waiting = 0
        self._limit, self._queue, self._wait = limit, queue, wait
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    @property
    def load(self) -> float:
        """Calls inside and waiting, divided by the limit where there is one."""
        return (self.inside + self.waiting) / (self._limit or 1)

    def try_enter(self) -> bool:
        """Take a place if one is free."""
        if self._limit is None or (self.inside < self._limit and not self.waiting):
            self.inside += 1
            return True
        return False

    async def enter(self, priority: int = 0, within: float = math.inf) -> None:
        """Take a place, waiting for one if need be, ``within`` seconds at most; a higher ``priority`` goes first.

        Raises ``Unavailable`` when the queue is full or the wait is over.
        """
        if self.try_enter():
            return
        if self.waiting >= self._queue:
            raise Unavailable(f"{self.name} is at its limit of {self._limit} calls at once; try again shortly")
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._heap, (-priority, next(self._order), place))
        self.waiting += 1
        wait = max(0.0, min(self._wait, within))
        timer = loop.call_later(wait, _expire, place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # the place was given in the very moment in which the caller went away
            raise
        except TimeoutError:
            raise Unavailable(f"no place at {self.name} within {wait:.3g} s; try again shortly") from None
        finally:
            timer.cancel()
            self.waiting -= 1
            if len(self._heap) > 2 * self.waiting + 64:  # of those who went away, nothing is kept
                self._heap = [entry for entry in self._heap if not entry[2].done()]
                heapq.heapify(self._heap)

    def leave(self) -> None:
        """Give the place back."""
        while self._heap:
            place = heapq.heappop(self._heap)[2]
            if not place.done():
                place.set_result(None)  # the place changes hands: inside stays as it is
                return
        self.inside -= 1


def _expire(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(TimeoutError())
