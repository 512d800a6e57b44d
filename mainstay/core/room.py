"""Room for large things: a bound on the bytes that a process holds at a time, given out in turn."""

from __future__ import annotations

import asyncio
from collections import deque

from mainstay.core.errors import Unavailable

_WAITING = 32
"""The most who wait; the next is refused. They hold a little each already, which nobody counts."""


class Room:
    """``limit`` bytes. Whoever is about to hold many takes room for all of them at once, so that nobody waits for
    more with a half in hand."""

    __slots__ = ("_waiting", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int, patience: float) -> int:
        """Wait for room, at most ``patience`` seconds, and take it; how many bytes were taken, to be given back.

        What is larger than the whole room takes all of it. Raises ``Unavailable`` where there is none in time.
        """
        size = min(size, self.limit)
        if not self._waiting and self.used + size <= self.limit:
            self.used += size
            return size
        if len(self._waiting) >= _WAITING:
            raise _full()
        place = (size, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            async with asyncio.timeout(max(patience, 0.0)):
                await place[1]
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
                self._let_in()  # there may be room for the next, who wants less
            else:
                self.give(size)  # it was let in just as it gave up
            if isinstance(error, TimeoutError):
                raise _full() from None
            raise
        return size

    def hold(self, size: int) -> None:
        """Count what is there already and cannot be refused."""
        self.used += size

    def give(self, size: int) -> None:
        """Give back what was taken or held."""
        self.used -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, waiter = self._waiting[0]
            if self.used + size > self.limit:
                return
            if waiter.cancelled():
                return  # who waited there is about to leave the queue, and lets in the next
            self._waiting.popleft()
            self.used += size
            waiter.set_result(None)


def _full() -> Unavailable:
    return Unavailable("the gateway holds as many large replies as it may; try again", code="replies_held")
