"""Places at a target: never more inside than the limit, the queue bounded, by priority, and no place ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.errors import Unavailable
from mainstay.upstream.gate import Gate


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_without_a_limit_everybody_passes() -> None:
    gate = Gate("x")
    assert all(gate.try_enter() for _ in range(1000))
    for _ in range(1000):
        gate.leave()
    assert (gate.inside, gate.load) == (0, 0)


async def test_the_queue_is_bounded_and_goes_by_priority_then_by_arrival() -> None:
    gate = Gate("x", 1, 4)
    assert gate.try_enter()
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        await gate.enter(priority)
        order.append(name)

    tasks = [asyncio.ensure_future(wait(name, p)) for name, p in (("a", 0), ("b", 5), ("c", 0), ("d", -1))]
    await turns()
    assert gate.waiting == 4
    assert gate.load == 5
    with pytest.raises(Unavailable) as refused:
        await gate.enter(9)
    assert refused.value.retry_after >= 1
    assert not gate.try_enter(), "nobody passes those who wait"
    for _ in range(4):
        gate.leave()
        await turns()
    await asyncio.gather(*tasks)
    assert order == ["b", "a", "c", "d"]
    gate.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_nobody_waits_longer_than_the_gate_or_the_caller_says() -> None:
    for gate, within in ((Gate("x", 1, 5, 0.02), 60.0), (Gate("x", 1, 5, 60.0), 0.02), (Gate("x", 1, 5, 60.0), -1.0)):
        assert gate.try_enter()
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await gate.enter(0, within)
        assert gate.waiting == 0
        gate.leave()
        assert gate.inside == 0
        assert gate.try_enter()


async def test_a_place_given_to_someone_who_leaves_goes_on() -> None:
    gate = Gate("x", 1, 5)
    assert gate.try_enter()
    first, second = (asyncio.ensure_future(gate.enter()) for _ in range(2))
    await turns()
    gate.leave()  # the place is the first one's now
    first.cancel()  # who goes away before it notices
    await asyncio.gather(first, return_exceptions=True)
    await turns()
    assert second.done()
    assert not second.cancelled()
    gate.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_of_those_who_went_away_nothing_is_kept() -> None:
    gate = Gate("x", 1, 10)
    assert gate.try_enter()
    for _ in range(1000):
        task = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(gate._heap) < 200
    gate.leave()
    assert gate.try_enter()


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_place_is_lost_or_made(seed: int, limit: int, queue: int) -> None:
    """Callers come, wait, go away and leave at random: afterwards all places are free."""

    async def scenario() -> None:
        chance = random.Random(seed)
        gate = Gate("x", limit, queue, 60.0)
        inside, most = 0, 0

        async def caller() -> None:
            nonlocal inside, most
            try:
                await gate.enter(chance.randrange(3))
            except Unavailable:
                return
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
                gate.leave()

        tasks: list[asyncio.Task[None]] = []
        for _ in range(60):
            tasks.append(asyncio.create_task(caller()))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= limit
        assert (gate.inside, gate.waiting) == (0, 0)
        assert all(gate.try_enter() for _ in range(limit))
        assert not gate.try_enter()

    asyncio.run(scenario())
