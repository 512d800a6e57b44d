"""How control divides pools by itself: portions, reclaims, times to wait, changed rules, reports, pruning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mainstay.access.rules import Rule
from mainstay.access.shares import Shares
from mainstay.core.clock import FixedClock
from mainstay.store.database import Database
from mainstay.store.shares import SqlShares
from tests.access.simulation import NOON

DAY = Rule("team:t:usd:day", "usd", "day", 1_600, "money per day")
TOTAL = Rule("team:t:usd:total", "usd", "total", 80, "money in total")
RATE = Rule("key:k:requests", "requests", "minute", 60, "requests")
CALLS = Rule("key:k:concurrent", "concurrent", None, 4, "calls")
TODAY = "team:t:usd:day||2027-01-15"


class Room:
    """Shares with gateways that answer a Reclaim from a table of what they have idle."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FixedClock(NOON)
        self.rules = {rule.id: rule for rule in (DAY, TOTAL, RATE, CALLS)}
        self.shares = Shares(database, SqlShares(), self.rules.get, self.clock)
        self.shares.reclaim = self.reclaim
        self.idle: dict[tuple[str, str], int] = {}
        self.wait: float | None = None
        self.asked: list[tuple[str, str, int]] = []
        self.given: set[asyncio.Task[None]] = set()

    async def reclaim(self, gateway: str, pool: str, units: int) -> float | None:
        self.asked.append((gateway, pool, units))
        if (gateway, pool) not in self.idle:
            raise ConnectionError
        given = min(units, self.idle[gateway, pool])
        self.idle[gateway, pool] -= given
        task = asyncio.create_task(self.shares.give(gateway, {pool: given}))
        self.given.add(task)
        await asyncio.sleep(0)
        return self.wait


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[Room]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    room = Room(database)
    yield room
    await asyncio.gather(*room.given)
    await room.shares.close()
    await database.close()


async def test_a_grant_is_an_eighth_larger_but_exact_near_the_end(room: Room) -> None:
    granted = await room.shares.need("a", {TODAY: 800})
    assert granted.units == {TODAY: 900}
    assert granted.left == {TODAY: 700}
    assert granted.wait == {}
    assert (await room.shares.need("b", {TODAY: 600})).units == {TODAY: 600}  # a hundred left is little of 1,600
    assert (await room.shares.need("c", {f"{CALLS.id}||": 1})).units == {f"{CALLS.id}||": 1}


async def test_too_little_is_gathered_from_others_and_the_rest_refused_with_a_time(room: Room) -> None:
    await room.shares.need("a", {TODAY: 1_600})
    room.idle["a", TODAY] = 500
    granted = await room.shares.need("b", {TODAY: 600})
    assert room.asked == [("a", TODAY, 600)]
    assert granted.units == {TODAY: 500}
    assert granted.wait == {TODAY: 12 * 3_600.0}  # noon: the day's window ends at midnight
    room.wait = 3.5  # somebody has calls in flight
    assert (await room.shares.need("c", {TODAY: 1})).wait == {TODAY: 3.5}
    assert (await room.shares.need("a", {TODAY: 1})).units == {}


async def test_gateways_that_are_gone_or_silent_do_not_matter(room: Room) -> None:
    await room.shares.need("a", {TODAY: 1_600})

    async def silent(gateway: str, pool: str, units: int) -> float | None:
        await asyncio.Event().wait()

    room.shares.reclaim = silent
    async with asyncio.timeout(5):
        granted = await room.shares.need("b", {TODAY: 10})
    assert granted.units == {}
    room.shares.reclaim = None
    assert (await room.shares.need("b", {TODAY: 10})).units == {}


async def test_requests_at_once_share_transactions_and_never_more_than_there_is(room: Room) -> None:
    pool = f"{TOTAL.id}||"
    answers = await asyncio.gather(*(room.shares.need(f"g{number}", {pool: 1}) for number in range(200)))
    assert sum(answer.units.get(pool, 0) for answer in answers) == 80
    assert all(answer.wait[pool] > 3_600 for answer in answers if not answer.units)


async def test_a_dead_gateways_requests_come_back_after_a_minute_and_its_calls_at_once(room: Room) -> None:
    rate, calls = f"{RATE.id}||", f"{CALLS.id}||"
    await room.shares.need("a", {rate: 60, calls: 4})
    async with room.database.write() as connection:
        await room.shares.recovered(connection, "a")
    granted = await room.shares.need("b", {rate: 1, calls: 4})
    assert granted.units == {calls: 4}
    assert granted.wait[rate] == pytest.approx(61)
    room.clock.advance(61)
    assert (await room.shares.need("b", {rate: 1})).units[rate] >= 1
    # what the dead one still says is void
    assert (await room.shares.need("a", {rate: 1})).units == {}
    await room.shares.give("a", {calls: 4})
    assert await room.shares.gateways() == ["b"]


async def test_a_hello_puts_right_what_was_lost(room: Room) -> None:
    calls = f"{CALLS.id}||"
    await room.shares.need("a", {TODAY: 800, calls: 4})  # and the answer is lost
    await room.shares.present("a", {TODAY: 100})
    status = {one.rule: one for one in await room.shares.status()}
    assert status[DAY.id].held == 100
    assert status[CALLS.id].held == 0
    await room.shares.present("a", None)
    assert {one.held for one in await room.shares.status(DAY.id)} == {100}


async def test_what_was_asked_on_an_earlier_connection_gets_nothing(room: Room) -> None:
    await room.shares.need("b", {TODAY: 1_600})
    reached, waits = asyncio.Event(), asyncio.Event()

    async def slow(gateway: str, pool: str, units: int) -> float | None:
        reached.set()
        await waits.wait()
        await room.shares.give("b", {pool: units})

    room.shares.reclaim = slow
    need = asyncio.create_task(room.shares.need("a", {TODAY: 100}))
    await reached.wait()
    await room.shares.present("a", {})
    waits.set()
    assert (await need).units == {}


async def test_a_lowered_budget_is_asked_back(room: Room) -> None:
    await room.shares.need("a", {TODAY: 1_600})
    room.idle["a", TODAY] = 1_000
    room.rules[DAY.id] = Rule(DAY.id, "usd", "day", 400, "less")
    await room.shares.changed([DAY.id, "no-such-rule"])
    assert room.asked == [("a", TODAY, 1_200)]
    assert [(one.limit, one.held, one.left) for one in await room.shares.status(DAY.id)] == [(400, 600, 0)]


async def test_a_rule_that_is_gone_limits_nothing(room: Room) -> None:
    assert (await room.shares.need("a", {"old:rule||": 10_000})).units == {"old:rule||": 10_000}
    assert (await room.shares.status("old:"))[0].limit is None


async def test_more_spent_than_granted_is_taken_from_what_is_free(room: Room) -> None:
    await room.shares.need("a", {TODAY: 8})
    async with room.database.write() as connection:
        await room.shares.settle(connection, "a", {TODAY: 1_550})
    status = (await room.shares.status(DAY.id))[0]
    assert (status.spent, status.held, status.left) == (1_550, 0, 50)
    assert (await room.shares.need("b", {TODAY: 60})).units == {TODAY: 50}


async def test_windows_that_are_over_are_forgotten_in_time(room: Room) -> None:
    await room.shares.need("a", {TODAY: 10, f"{CALLS.id}||": 1, f"{TOTAL.id}||": 1})
    async with room.database.write() as connection:
        await room.shares.settle(connection, "a", {TODAY: 10, f"{TOTAL.id}||": 1})
        await room.shares.recovered(connection, "a")
    room.clock.advance(86_400)
    assert {one.rule for one in await room.shares.status()} == {CALLS.id, TOTAL.id}
    assert await room.shares.prune() == 1  # nobody has used the limit on calls for an hour
    room.clock.advance(40 * 86_400)
    assert await room.shares.prune() == 1  # the day
    assert await room.shares.prune() == 0
    assert [(one.rule, one.spent) for one in await room.shares.status()] == [(TOTAL.id, 1)]
