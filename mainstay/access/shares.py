"""The division of every pool among the gateways: grants, reclaims, settling, recovery; control-side."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.access.places import Place, Places
from mainstay.access.rules import CONCURRENT, MOST, SPAN, USD, Rule, parts, window_end
from mainstay.access.turns import Books, Turns
from mainstay.core.clock import Clock
from mainstay.store.database import Database
from mainstay.store.shares import PoolRow, SharesPort

RECLAIM = 1.0
"""Seconds that a gateway has to give idle units back; one that took longer is waited for again once it has answered.

Less than ``waiting.PATIENCE``, so that a gateway that hangs does not make control look dead.
"""

DAY = 86_400.0

Reclaim = Callable[[str, str, int], Awaitable[float | None]]
"""Asks a gateway for up to so many idle units of a pool.

It returns once what was given back has been handed to ``Shares.give``, with the seconds after which the gateway expects
more, if it knows. Raises ``ConnectionError`` for a gateway that is not connected.
"""


class Granted(NamedTuple):
    """The answer to a Need: units per pool, seconds until more may come per refused pool, free units left per pool."""

    units: dict[str, int]
    wait: dict[str, float]
    left: dict[str, int]


class Status(NamedTuple):
    """One pool for reports, in units: ``spent`` is settled, ``held`` is with gateways (held by calls, or idle there)."""

    rule: str
    scope: str
    window: str
    limit: int | None  # None: the rule is gone
    spent: int
    held: int
    left: int


@dataclass(slots=True)
class _Short:
    """A pool of which too little was free, and who else may have idle units of it."""

    missing: int
    others: dict[str, int]


@dataclass(slots=True)
class _Need:
    """A Need in work."""

    gateway: str
    epoch: int
    wants: dict[str, int]  # without those of 0
    place: Place
    short: dict[str, _Short] = field(default_factory=dict[str, _Short])
    wait: dict[str, float] = field(default_factory=dict[str, float])  # what gateways said when asked
    granted: Granted | None = None


class Shares:
    """Who has what of each pool. The shares of all gateways, and what is spent, never exceed a pool's capacity.

    ``rules`` gives the rule of an id as it is in force now, or None if there is none (any more): then nothing is
    limited, and a gateway that still asks gets what it asks for. It must be complete before the first gateway connects.
    ``link`` is set by whoever connects gateways.
    """

    def __init__(
        self, database: Database, store: SharesPort, rules: Callable[[str], Rule | None], clock: Clock
    ) -> None:
        self._database = database
        self._store = store
        self._rules = rules
        self._clock = clock
        self.reclaim: Reclaim | None = None
        self._turns = Turns(database, store, clock)
        self._places = Places()
        self._silent: dict[str, set[asyncio.Future[float | None]]] = {}  # gateways that have not answered a Reclaim
        self._epochs: dict[str, int] = {}
        self._dead: OrderedDict[str, None] = OrderedDict()

    # what gateways say

    async def present(self, gateway: str, shares: Mapping[str, int] | None) -> None:
        """A gateway has (re)connected and has these shares: what it never got, or gave back in vain, is free again.

        Whatever it asked on an earlier connection gets nothing any more. ``None``: it did not say.
        """
        self._epochs[gateway] = self._epochs.get(gateway, 0) + 1

        async def run(connection: AsyncConnection) -> None:
            if gateway in self._dead or shares is None:
                return
            now = self._clock.now()
            rows = await self._store.of_gateway(connection, gateway)
            changes: dict[tuple[str, str], int] = {}
            for pool in rows.keys() | shares.keys():
                granted = rows[pool].granted if pool in rows else 0
                if pool in shares:
                    changes[(pool, gateway)] = shares[pool] - granted
                elif (rule := self._rules(parts(pool)[0])) is not None and rule.code != USD:
                    changes[(pool, gateway)] = -granted
            await self._store.load(connection, shares.keys(), now)  # so that each has its row
            await self._store.grant(connection, changes, now)

        await self._turns.alone(run)

    async def need(self, gateway: str, wants: Mapping[str, int]) -> Granted:
        """Answer a Need: from what is free, else after asking the other gateways for their idle units.

        ``wants`` names, with 0, also the pools of which the waiting calls have enough: see ``Places``. All is granted at
        once and the answer returned without another turn of the loop, so that whoever sends it at once has sent it
        before any later ``Reclaim``.
        """
        wanted = {pool: want for pool, want in wants.items() if want > 0}
        if not wanted:
            return Granted({}, {}, {})
        need = _Need(gateway, self._epochs.get(gateway, 0), wanted, self._places.join(wants))
        try:
            if self._places.first(need.place):
                await self._turns.take(wanted, lambda books: self._look(books, need))
            else:
                await self._turns.take(wanted, lambda books: self._overtake(books, need))
                if need.granted is None:
                    await self._places.until_first(need.place)
                    await self._turns.take(wanted, lambda books: self._look(books, need))
            if need.granted is None:
                await self._gather(need)
                await self._turns.take(wanted, lambda books: self._grant(books, need))
        finally:
            self._places.leave(need.place)
        return need.granted or Granted({}, {}, {})

    async def give(self, gateway: str, units: Mapping[str, int]) -> None:
        """Units that the gateway has given back, of its own accord or on request."""
        given = {pool: more for pool, more in units.items() if more > 0}
        if given:
            await self._turns.take(given, lambda books: self._take_back(books, gateway, given))

    # what the ledger says, within its own transaction

    async def settle(self, connection: AsyncConnection, gateway: str, charges: Mapping[str, int]) -> None:
        """Money that calls of this gateway have used, per pool, as its journal says."""
        await self._store.spend(connection, gateway, charges, self._clock.now())

    async def recovered(self, connection: AsyncConnection, gateway: str) -> None:
        """The gateway is dead and its journal read to the end: its shares shrink to what they have spent.

        Requests and tokens may have been used a moment ago, so they stay taken for another minute.
        """
        self._dead[gateway] = None
        while len(self._dead) > 1_000:
            self._dead.popitem(last=False)
        self._epochs.pop(gateway, None)
        spent: dict[str, int] = {}
        until: dict[str, float] = {}
        for pool, share in (await self._store.of_gateway(connection, gateway)).items():
            rule = self._rules(parts(pool)[0])
            if share.spent:
                spent[pool] = share.spent
            elif rule is not None and rule.code not in (USD, CONCURRENT) and share.granted > 0:
                until[pool] = self._clock.now() + SPAN + 1
        await self._store.recover(connection, gateway, spent, until)

    # what people ask

    async def status(self, rule: str = "", *, exact: bool = False) -> list[Status]:
        """The pools of rules whose id begins with ``rule``, in windows that are not over.

        ``exact`` asks all gateways for their idle units first, so that ``held`` is what calls in flight hold (and what
        the journal has not told yet).
        """
        now = self._clock.now()
        found = await self._current(rule, now)
        if exact:
            everything = {pool: row.taken for pool, row in found.items() if row.taken > row.spent}
            await self._ask_all(found, everything)
            found = await self._current(rule, now)
        return [self._status(pool, row) for pool, row in found.items()]

    async def changed(self, rules: Iterable[str]) -> None:
        """These rules have been edited: where more is granted than there is now, ask for the excess."""
        now = self._clock.now()
        for ident in rules:
            rule = self._rules(ident)
            if rule is None:
                continue
            found = await self._current(f"{ident}|", now)
            await self._ask_all(found, {pool: row.taken - rule.amount for pool, row in found.items()})

    async def gateways(self) -> list[str]:
        """The gateways that have shares and have not been recovered: each must be alive, or be recovered."""
        async with self._database.read() as connection:
            return await self._store.gateways(connection)

    async def prune(self, keep_days: float = 35.0) -> int:
        """Forget windows that ended ``keep_days`` ago, and what has long been of no use; how many pools went."""
        now = self._clock.now()
        async with self._database.write() as connection:
            old: list[str] = []
            for pool, row in (await self._store.all(connection, "", now)).items():
                rule, _, window = parts(pool)
                end = window_end(window)
                if end is not None:
                    over = end + keep_days * DAY < now
                else:
                    idle = row.at + (keep_days * DAY if row.spent else 3_600.0) < now
                    over = idle and (row.taken == 0 or self._rules(rule) is None)
                if over:
                    old.append(pool)
            await self._store.drop(connection, old, now)
        return len(old)

    async def close(self) -> None:
        """Wait until everything that was asked is done; gateways that hang are given up."""
        late = [task for tasks in self._silent.values() for task in tasks]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._turns.close()

    # granting

    def _overtake(self, books: Books, need: _Need) -> None:
        """Grant it before its turn, where that takes nothing from those who came earlier."""
        for pool, want in need.wants.items():
            rule = self._rules(parts(pool)[0])
            if rule is not None:
                free = rule.amount - books.rows[pool].taken
                if free < want + self._places.promised(pool, before=need.place):
                    return
        self._grant(books, need)

    def _look(self, books: Books, need: _Need) -> None:
        """Grant it where enough is free or nobody else has any; else see who has, and how much is missing."""
        need.short = {}
        for pool, want in need.wants.items():
            row = books.rows[pool]
            rule = self._rules(parts(pool)[0])
            missing = 0 if rule is None else want - max(rule.amount - row.taken, 0)
            if missing > 0:
                others = {
                    name: share.granted - share.spent
                    for name, share in row.shares.items()
                    if name != need.gateway and share.until is None and share.granted > share.spent
                }
                if others:
                    need.short[pool] = _Short(missing, others)
        if not need.short or self._void(need):
            self._grant(books, need)

    def _grant(self, books: Books, need: _Need) -> None:
        """Grant what there is, and leave the line: what it got is no longer promised to it."""
        self._places.leave(need.place)
        need.granted = granted = Granted({}, {}, {})
        if self._void(need):
            return
        for pool, want in need.wants.items():
            row = books.rows[pool]
            rule = self._rules(parts(pool)[0])
            if rule is None:
                units = free = min(want, MOST)
            else:
                free = max(rule.amount - row.taken, 0)
                units = _portion(free, want, self._places.promised(pool), rule.amount)
                if units < want:
                    granted.wait[pool] = self._expected(pool, row, rule, need.wait.get(pool))
            if units > 0:
                books.add(pool, need.gateway, units)
                granted.units[pool] = units
            granted.left[pool] = max(free - units, 0)

    def _void(self, need: _Need) -> bool:
        """Whether nobody is there any more to take what it gets."""
        return need.gateway in self._dead or need.epoch != self._epochs.get(need.gateway, 0)

    async def _gather(self, need: _Need) -> None:
        """Ask the other gateways for what is missing, of all pools at once."""
        short = need.short
        waits = await asyncio.gather(*(self._ask(pool, one.missing, one.others) for pool, one in short.items()))
        need.wait = {pool: wait for pool, wait in zip(short, waits, strict=True) if wait is not None}

    async def _ask(self, pool: str, units: int, others: Mapping[str, int]) -> float | None:
        """Reclaim from these gateways at once; the soonest time at which one of them expects units."""
        tasks = {
            asyncio.ensure_future(self._reclaimed(gateway, pool, min(units, most))): gateway
            for gateway, most in others.items()
            if gateway not in self._silent
        }
        if not tasks:
            return None
        try:
            done, late = await asyncio.wait(tasks, timeout=RECLAIM)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in late:
            self._wait_no_more(tasks[task], task)
        waits = [wait for task in done if (wait := task.result()) is not None]
        return min(waits, default=None)

    def _wait_no_more(self, gateway: str, task: asyncio.Future[float | None]) -> None:
        """The gateway hangs: until it answers, nobody else waits for it. What it then gives back is booked as any Give."""
        tasks = self._silent.setdefault(gateway, set())
        tasks.add(task)

        def answered(task: asyncio.Future[float | None]) -> None:
            tasks.discard(task)
            if not tasks and self._silent.get(gateway) is tasks:
                del self._silent[gateway]

        task.add_done_callback(answered)

    async def _reclaimed(self, gateway: str, pool: str, units: int) -> float | None:
        try:
            return None if self.reclaim is None else await self.reclaim(gateway, pool, units)
        except ConnectionError:
            return None

    async def _ask_all(self, found: Mapping[str, PoolRow], units: Mapping[str, int]) -> None:
        for pool, excess in units.items():
            if excess > 0:
                shares = found[pool].shares
                others = {name: one.granted - one.spent for name, one in shares.items() if one.until is None}
                await self._ask(pool, excess, {name: most for name, most in others.items() if most > 0})
        await self._turns.take((), lambda books: None)  # what was given back is booked before this

    def _expected(self, pool: str, row: PoolRow, rule: Rule, asked: float | None) -> float:
        """In how many seconds units of the pool may be free."""
        now = self._clock.now()
        waits = [max(share.until - now, 0.001) for share in row.shares.values() if share.until is not None]
        if asked is not None:
            waits.append(asked)
        if waits:
            return min(waits)
        end = window_end(parts(pool)[2])
        if end is not None:
            return max(end - now, 1.0)
        return DAY if rule.code == USD else 1.0

    def _take_back(self, books: Books, gateway: str, units: Mapping[str, int]) -> None:
        if gateway in self._dead:
            return
        for pool, more in units.items():
            if gateway in books.rows[pool].shares:
                books.add(pool, gateway, -more)

    # reports

    async def _current(self, prefix: str, now: float) -> dict[str, PoolRow]:
        async with self._database.read() as connection:
            found = await self._store.all(connection, prefix, now)
        return {pool: row for pool, row in found.items() if (window_end(parts(pool)[2]) or now + 1) > now}

    def _status(self, pool: str, row: PoolRow) -> Status:
        ident, scope, window = parts(pool)
        rule = self._rules(ident)
        limit = None if rule is None else rule.amount
        return Status(ident, scope, window, limit, row.spent, row.taken - row.spent, max((limit or 0) - row.taken, 0))


def _portion(free: int, want: int, promised: int, capacity: int) -> int:
    """How much of ``free`` to grant: what is wanted and an eighth of the rest, but exactly the want near the end.

    ``promised`` is what others wait for: the rest is only what nobody has asked for.
    """
    if free <= want:
        return free
    rest = free - want - promised
    return want + (rest // 8 if rest > capacity // 16 else 0)
