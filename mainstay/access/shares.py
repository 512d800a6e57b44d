"""The division of every pool among the gateways: grants, reclaims, settling, recovery; control-side."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.access.rules import CONCURRENT, MOST, SPAN, USD, Rule, parts, window_end
from mainstay.access.turns import Books, Turns
from mainstay.core.clock import Clock
from mainstay.store.database import Database
from mainstay.store.shares import PoolRow, SharesPort

RECLAIM = 0.2
"""Seconds that a gateway has to give idle units back."""

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
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
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
        """Answer a Need: from what is free, else after asking the other gateways for their idle units."""
        wants = {pool: want for pool, want in wants.items() if want > 0}
        epoch = self._epochs.get(gateway, 0)
        granted = Granted({}, {}, {})
        short: dict[str, _Short] = await self._turns.take(
            wants, lambda books: self._grant(books, gateway, epoch, wants, granted, last=False)
        )
        if short:
            await asyncio.gather(
                *(self._gather(gateway, epoch, pool, wants[pool], one, granted) for pool, one in short.items())
            )
        return granted

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
        """Wait until everything that was asked is done."""
        await self._turns.close()

    # granting

    def _grant(
        self, books: Books, gateway: str, epoch: int, wants: Mapping[str, int], granted: Granted, *, last: bool
    ) -> dict[str, _Short]:
        if gateway in self._dead or epoch != self._epochs.get(gateway, 0):
            return {}  # nobody is there any more to take it
        short: dict[str, _Short] = {}
        for pool, want in wants.items():
            row = books.rows[pool]
            rule = self._rules(parts(pool)[0])
            if rule is None:
                units = free = min(want, MOST)
            else:
                free = max(rule.amount - row.taken, 0)
                units = _portion(free, want, rule.amount)
                if units < want and not last:
                    others = {
                        name: share.granted - share.spent
                        for name, share in row.shares.items()
                        if name != gateway and share.until is None and share.granted > share.spent
                    }
                    if others:
                        short[pool] = _Short(want - units, others)
                        continue
                if units < want:
                    granted.wait[pool] = self._expected(pool, row, rule, granted.wait.get(pool))
            if units > 0:
                books.add(pool, gateway, units)
                granted.units[pool] = granted.units.get(pool, 0) + units
            granted.left[pool] = max(free - units, 0)
        return short

    async def _gather(self, gateway: str, epoch: int, pool: str, want: int, short: _Short, granted: Granted) -> None:
        """Ask the other gateways for what is missing, then grant what there is; one at a time per pool."""
        lock, users = self._locks.get(pool, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[pool] = (lock, users + 1)
        wants = {pool: want}
        try:
            behind = lock.locked()
            async with lock:
                if behind:  # whoever was before has changed everything
                    again: dict[str, _Short] = await self._turns.take(
                        wants, lambda books: self._grant(books, gateway, epoch, wants, granted, last=False)
                    )
                    if pool not in again:
                        return
                    short = again[pool]
                wait = await self._ask(pool, short.missing, short.others)
                if wait is not None:
                    granted.wait[pool] = wait
                await self._turns.take(
                    wants, lambda books: self._grant(books, gateway, epoch, wants, granted, last=True)
                )
                if granted.units.get(pool, 0) >= want:
                    granted.wait.pop(pool, None)
        finally:
            lock, users = self._locks[pool]
            if users == 1:
                del self._locks[pool]
            else:
                self._locks[pool] = (lock, users - 1)

    async def _ask(self, pool: str, units: int, others: Mapping[str, int]) -> float | None:
        """Reclaim from these gateways at once; the soonest time at which one of them expects units."""
        if not others:
            return None
        tasks = [
            asyncio.ensure_future(self._reclaimed(gateway, pool, min(units, most))) for gateway, most in others.items()
        ]
        try:
            done, _ = await asyncio.wait(tasks, timeout=RECLAIM)
        finally:
            for task in tasks:
                task.cancel()  # what a late one still gives back arrives as a Give
        waits = [wait for task in done if (wait := task.result()) is not None]
        return min(waits, default=None)

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


def _portion(free: int, want: int, capacity: int) -> int:
    """How much of ``free`` to grant: what is wanted and an eighth of the rest, but exactly the want near the end."""
    if free <= want:
        return free
    rest = free - want
    return want + (rest // 8 if rest > capacity // 16 else 0)
