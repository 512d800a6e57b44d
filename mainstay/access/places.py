"""The order in which control answers Needs that touch the same pools: first come, first served; control-side."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping


class Place:
    """One Need in the line. ``wants`` has what it wants of each pool; 0 where its calls only rely on what they have."""

    __slots__ = ("number", "ready", "wants")

    def __init__(self, number: int, wants: Mapping[str, int]) -> None:
        self.number = number
        self.wants = dict(wants)
        self.ready: asyncio.Future[None] | None = None


class Places:
    """Everybody who waits for an answer.

    A Need goes on alone in all its pools: while it gathers units, no later one takes any of those pools from anybody,
    nor from its own gateway. Two that both only rely on a pool do not exclude each other. Since everybody joins all
    lines at once, in the order of arrival, no two wait for each other.
    """

    def __init__(self) -> None:
        self._last = 0
        self._all: dict[str, OrderedDict[Place, None]] = {}
        self._wanting: dict[str, OrderedDict[Place, None]] = {}

    def join(self, wants: Mapping[str, int]) -> Place:
        """A place behind everybody who is there."""
        self._last += 1
        place = Place(self._last, wants)
        for pool, want in place.wants.items():
            self._all.setdefault(pool, OrderedDict())[place] = None
            if want > 0:
                self._wanting.setdefault(pool, OrderedDict())[place] = None
        return place

    def promised(self, pool: str, before: Place | None = None) -> int:
        """Units of the pool that those who wait want, or those who came before this place."""
        total = 0
        for place in self._wanting.get(pool, ()):
            if place is before:
                break
            total += place.wants[pool]
        return total

    def first(self, place: Place) -> bool:
        """Whether nobody who came earlier has to be answered before."""
        for pool, want in place.wants.items():
            ahead = self._all if want > 0 else self._wanting
            if pool in ahead and next(iter(ahead[pool])).number < place.number:
                return False
        return True

    async def until_first(self, place: Place) -> None:
        """Wait for its turn."""
        while not self.first(place):
            place.ready = asyncio.get_running_loop().create_future()
            await place.ready

    def leave(self, place: Place) -> None:
        """It has been answered, or given up. A second time does nothing."""
        wants, place.wants = place.wants, {}
        for pool, want in wants.items():
            for line in (self._all, self._wanting) if want > 0 else (self._all,):
                del line[pool][place]
                if not line[pool]:
                    del line[pool]
        for pool, want in wants.items():
            # Who only relies on a pool is in the way of the first who wants some of it, and of nobody else.
            for other in self._all.get(pool, ()) if want > 0 else list(self._wanting.get(pool, ()))[:1]:
                if other.ready is not None and not other.ready.done() and self.first(other):
                    other.ready.set_result(None)
