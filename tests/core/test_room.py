"""Room for large things: it is given out in turn, comes back, and is refused in the end."""

from __future__ import annotations

import asyncio

import pytest

from mainstay.core.errors import Unavailable
from mainstay.core.room import Room


async def started(room: Room, size: int, patience: float = 10.0) -> asyncio.Task[int]:
    """Someone who wants room, and has asked for it."""
    task = asyncio.ensure_future(room.take(size, patience))
    await asyncio.sleep(0)
    return task


async def test_room_is_taken_waited_for_in_turn_and_given_back() -> None:
    room = Room(100)
    assert await room.take(60, 1.0) == 60
    large, small = await started(room, 90), await started(room, 10)
    assert (large.done(), small.done(), room.used) == (False, False, 60)  # the small one does not push past
    room.give(60)
    assert await large == 90
    assert await small == 10
    room.give(100)
    assert room.used == 0


async def test_what_is_larger_than_all_room_takes_all_of_it() -> None:
    room = Room(100)
    assert await room.take(1000, 1.0) == 100
    room.give(100)
    assert room.used == 0


async def test_who_waits_in_vain_is_refused_and_lets_the_next_in() -> None:
    room = Room(100)
    room.hold(60)
    large, small = await started(room, 90, 0.0), await started(room, 40)
    with pytest.raises(Unavailable) as caught:
        await large
    assert (caught.value.code, caught.value.retry_after) == ("replies_held", 1.0)
    assert await small == 40
    assert room.used == 100


@pytest.mark.parametrize("when", ["waiting", "just let in"])
async def test_who_goes_away_leaves_nothing_taken(when: str) -> None:
    room = Room(100)
    room.hold(100)
    first, second = await started(room, 80), await started(room, 30)
    if when == "just let in":
        room.give(100)
        assert first.cancel()
    else:
        assert first.cancel()
        room.give(100)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 30
    assert room.used == 30


async def test_the_queue_has_an_end() -> None:
    room = Room(1)
    room.hold(1)
    waiting = [await started(room, 1) for _ in range(32)]
    with pytest.raises(Unavailable):
        await room.take(1, 10.0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert room.used == 1
