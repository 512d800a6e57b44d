"""Control and several gateways in one process: real shares, real purses, a clock and a network moved by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mainstay.access.hold import Hold
from mainstay.access.purse import Purse
from mainstay.access.rules import REQUESTS, USD, Claim, Rule, claims, parts
from mainstay.access.shares import Shares
from mainstay.access.waiting import REST
from mainstay.core.clock import FixedClock
from mainstay.core.errors import OverLimit
from mainstay.store.database import Database
from mainstay.store.shares import SqlShares

NOON = 1_800_014_400.0
"""A noon in UTC: a day's window ends twelve hours later."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers go by the simulated clock, so that no timeout depends on how fast the machine is."""

    def __init__(self, clock: FixedClock) -> None:
        self._simulated = clock
        super().__init__()

    def time(self) -> float:
        return self._simulated.monotonic()


@dataclass(eq=False)
class Gateway:
    """One gateway process: its purse, its journal, and the two directions of its connection."""

    id: str
    purse: Purse
    alive: bool = True
    connected: bool = False
    greeted: bool = False
    session: int = 0
    up: deque[tuple[Any, ...]] = field(default_factory=deque)
    down: deque[tuple[Any, ...]] = field(default_factory=deque)
    stale: deque[tuple[Any, ...]] = field(default_factory=deque)  # sent before the connection broke, not read yet
    reclaims: dict[int, tuple[str, asyncio.Future[float | None]]] = field(default_factory=dict)
    calls: set[asyncio.Task[None]] = field(default_factory=set)
    holds: list[Hold] = field(default_factory=list)
    journal: list[dict[str, int]] = field(default_factory=list)  # the charges of closed calls, in order
    cursor: int = 0
    recovered: bool = False
    crashed: dict[str, int] = field(default_factory=dict)  # what calls held when it died


@dataclass(eq=False)
class Call:
    """A call, and what has become of it."""

    gateway: Gateway
    claims: list[Claim]
    task: asyncio.Task[None] | None = None
    admitted: bool = False
    error: OverLimit | None = None

    @property
    def decided(self) -> bool:
        return self.task is not None and self.task.done()


class World:
    """Everything, and what an outsider saw of it."""

    def __init__(self, folder: Path, rules: list[Rule], gateways: int) -> None:
        self.clock = FixedClock(NOON)
        self.loop = SimulatedLoop(self.clock)
        self.rules = {rule.id: rule for rule in rules}
        self.gateways: list[Gateway] = []
        self.overrun: dict[str, int] = {}
        self.admitted: list[float] = []  # when requests were admitted
        self.used: list[tuple[float, int]] = []  # when tokens were used, and how many
        self.refusals: list[OverLimit] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.database = self.run(Database.open(f"sqlite+aiosqlite:///{folder / 'control.db'}"))
        self.shares = self._start()
        for _ in range(gateways):
            self.spawn()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def settled(self) -> None:
        """Let everything go on until it waits for a message or the clock."""

        async def wait() -> None:
            for _ in range(5):
                for _ in range(8):
                    await asyncio.sleep(0)
                await self.shares.close()

        self.run(wait())

    def close(self) -> None:
        for task in [*self.tasks, *(task for gateway in self.gateways for task in gateway.calls)]:
            task.cancel()
        self.settled()
        self.run(self.database.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()

    # processes

    def _start(self) -> Shares:
        shares = Shares(self.database, SqlShares(), self.rules.get, self.clock)
        shares.reclaim = self._reclaim
        return shares

    def spawn(self) -> Gateway:
        gateway = Gateway(f"gateway-{len(self.gateways)}", Purse(self.clock))
        self.gateways.append(gateway)
        self.connect(gateway)
        return gateway

    def kill_control(self) -> None:
        """Control dies and starts again; whatever was on its way to it or from it is lost."""
        for task in list(self.tasks):
            task.cancel()
        self.settled()
        for gateway in self.gateways:
            self.disconnect(gateway, late=False)
        self.shares = self._start()

    def kill(self, gateway: Gateway) -> None:
        gateway.alive = False
        for task in list(gateway.calls):
            task.cancel()
        self.settled()
        for hold in gateway.holds:
            for pool, nano in hold.holds.items():
                gateway.crashed[pool] = gateway.crashed.get(pool, 0) + nano
        self.disconnect(gateway, late=True)

    def connect(self, gateway: Gateway) -> None:
        if not gateway.alive or gateway.connected:
            return
        gateway.connected, gateway.greeted = True, False
        gateway.session += 1
        gateway.stale.clear()
        gateway.up.append(("hello", gateway.purse.shares()))

    def disconnect(self, gateway: Gateway, *, late: bool) -> None:
        if not gateway.connected:
            return
        gateway.connected = gateway.greeted = False
        gateway.session += 1
        greeted = not any(message[0] == "hello" for message in gateway.up)
        gateway.stale = deque(gateway.up if late and greeted else ())
        gateway.up.clear()
        gateway.down.clear()
        for _, future in gateway.reclaims.values():
            if not future.done():
                future.set_exception(ConnectionError())
                future.exception()
        gateway.reclaims.clear()
        if gateway.alive:
            gateway.purse.cut()
        self.settled()

    # the network

    async def _reclaim(self, name: str, pool: str, units: int) -> float | None:
        gateway = next(one for one in self.gateways if one.id == name)
        if not gateway.greeted:
            raise ConnectionError
        number = len(gateway.reclaims) + 1 + gateway.session * 1_000_000
        while number in gateway.reclaims:
            number += 1
        future: asyncio.Future[float | None] = self.loop.create_future()
        gateway.reclaims[number] = (pool, future)
        gateway.down.append(("reclaim", number, pool, units))
        return await future

    def to_control(self, gateway: Gateway, *, wait: bool = True) -> bool:
        """Deliver the oldest message of a gateway; not ``wait``: together with what happens next."""
        queue = gateway.up or gateway.stale
        if not queue:
            return False
        kind, *content = queue.popleft()
        if kind == "hello":
            self._task(self._greet(gateway, gateway.session, content[0]))
        elif kind == "need":
            self._task(self._need(gateway, gateway.session, *content))
        elif kind == "give":
            self._task(self.shares.give(gateway.id, content[0]))
        else:
            number, units, after = content
            pool, future = gateway.reclaims.pop(number, (None, None))
            if pool is None:
                return True  # a connection that is gone had asked: the message is void
            self._task(self.shares.give(gateway.id, {pool: units}))
            if future is not None and not future.done():
                future.set_result(after)
        if wait:
            self.settled()
        return True

    def to_gateway(self, gateway: Gateway, *, wait: bool = True) -> bool:
        """Deliver the oldest message to a gateway; not ``wait``: together with what happens next."""
        if not gateway.down:
            return False
        kind, *content = gateway.down.popleft()
        if kind == "grant":
            gateway.purse.credit(*content)
        else:
            number, pool, units = content
            given, after = gateway.purse.reclaim(pool, units)
            gateway.up.append(("reclaimed", number, given, after))
        if wait:
            self.settled()
        return True

    async def _greet(self, gateway: Gateway, session: int, shares: dict[str, int]) -> None:
        await self.shares.present(gateway.id, shares)
        if gateway.session == session:
            gateway.greeted = True

    async def _need(self, gateway: Gateway, session: int, need: int, wants: dict[str, int]) -> None:
        granted = await self.shares.need(gateway.id, wants)
        if gateway.session == session:
            gateway.down.append(("grant", need, granted.units, granted.wait, granted.left))

    def _task(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # calls

    def call(self, gateway: Gateway, tokens: int, nano: int) -> Call:
        """A call under all rules asks to be admitted."""
        return self.ask(gateway, list(self.rules.values()), tokens, nano)

    def ask(self, gateway: Gateway, rules: list[Rule], tokens: int, nano: int, *, wait: bool = True) -> Call:
        """A call under these rules asks to be admitted; not ``wait``: together with what happens next."""
        wanted = claims([(rule, "") for rule in rules], self.clock.now(), tokens, nano)
        call = Call(gateway, wanted)

        def ask(need: int, wants: dict[str, int]) -> None:
            if not gateway.connected:
                raise ConnectionError
            gateway.up.append(("need", need, wants))

        async def admitted() -> None:
            try:
                hold = await gateway.purse.acquire(wanted, ask)
            except OverLimit as error:
                call.error = error
                self.refusals.append(error)
                return
            if any(claim.rule.code == REQUESTS for claim in wanted):
                self.admitted.append(self.clock.monotonic())
            call.admitted = True
            gateway.holds.append(hold)

        call.task = task = self.loop.create_task(admitted())
        gateway.calls.add(task)
        task.add_done_callback(gateway.calls.discard)
        if wait:
            self.settled()
        return call

    def leave(self, call: Call) -> None:
        """A caller goes away, unless its call has been decided."""
        self.settled()
        if call.task is not None:
            call.task.cancel()
            self.settled()

    def end(self, gateway: Gateway, which: int, tokens: int, nano: int) -> None:
        """A call ends; its charges go to the journal."""
        if not gateway.alive or not gateway.holds:
            return
        hold = gateway.holds.pop(which % len(gateway.holds))
        for pool, units in hold.holds.items():
            self.overrun[pool] = self.overrun.get(pool, 0) + max(nano - units, 0)
        hold.settle(tokens, nano)
        hold.settle(tokens, nano)
        hold.release()
        gateway.journal.append(hold.charges)
        self.used.append((self.clock.monotonic(), tokens))
        self.settled()

    def give_up(self, gateway: Gateway, which: int) -> None:
        """A call is not made after all."""
        if gateway.alive and gateway.holds:
            hold = gateway.holds.pop(which % len(gateway.holds))
            hold.release()
            hold.settle()
            self.settled()

    def sweep(self, gateway: Gateway) -> None:
        """The gateway gives back what stood idle, as its link's ticker does."""
        if gateway.connected and not gateway.up:
            units = gateway.purse.idle_to_give()
            if units:
                gateway.up.append(("give", units))

    # the ledger

    def ingest(self, gateway: Gateway, most: int, *, fails: bool = False) -> None:
        """Control reads some of a journal, in one transaction with its cursor."""

        async def work() -> None:
            records = gateway.journal[gateway.cursor : gateway.cursor + most]
            async with self.database.write() as connection:
                await self.shares.settle(connection, gateway.id, added(records))
                if fails:
                    raise RuntimeError
            gateway.cursor += len(records)

        try:
            self.run(work())
        except RuntimeError:
            pass

    def recover(self, gateway: Gateway) -> None:
        """Control finds a gateway dead and closes its books."""
        if gateway.alive or gateway.recovered:
            return

        async def work() -> None:
            async with self.database.write() as connection:
                left = added([*gateway.journal[gateway.cursor :], gateway.crashed])
                await self.shares.settle(connection, gateway.id, left)
                await self.shares.recovered(connection, gateway.id)
            gateway.cursor = len(gateway.journal)
            gateway.recovered = True

        self.run(work())

    # what must hold

    def set_amount(self, rule: str, amount: int) -> None:
        self.rules[rule] = replace(self.rules[rule], amount=amount)

    def booked(self) -> dict[str, Any]:
        """The pools as the database has them."""

        async def work() -> dict[str, Any]:
            async with self.database.read() as connection:
                return await SqlShares().all(connection, "", self.clock.now())

        return self.run(work())

    def out(self, pool: str) -> int:
        """Units of the pool that somebody has or had: idle, held, used and spent ones of every gateway there ever was."""
        code = self.rules[parts(pool)[0]].code
        total = 0
        for gateway in self.gateways:
            if gateway.alive:
                share = gateway.purse.shares().get(pool, 0)
                if code == USD:  # in debt it has spent more than its share
                    spent = added(gateway.journal).get(pool, 0)
                    share = max(share, spent + sum(hold.holds.get(pool, 0) for hold in gateway.holds))
                total += share
            elif code == USD:
                total += added([*gateway.journal, gateway.crashed]).get(pool, 0)
        return total

    def unused(self) -> dict[str, int]:
        """Units of each pool that no call holds and none has used: every gateway that can give what stands idle."""

        async def work() -> dict[str, int]:
            return {f"{one.rule}|{one.scope}|{one.window}": one.left for one in await self.shares.status(exact=True)}

        task = self.loop.create_task(work())
        self.settled()
        while not task.done():
            self.flow()
            self.settled()
        return task.result()

    def heal(self) -> None:
        """Everything is connected, every message arrives, every call ends, every journal is read."""
        for gateway in self.gateways:
            self.connect(gateway)
        for _ in range(4):
            self.flow()
            for gateway in self.gateways:
                while gateway.alive and gateway.holds:
                    self.end(gateway, 0, 0, 0)
            self.clock.advance(3)
            self.settled()
        for gateway in self.gateways:
            self.ingest(gateway, len(gateway.journal))
            self.recover(gateway)

    def flow(self) -> None:
        """Deliver messages until there are none, and nobody waits for a moment to ask again."""
        moved = True
        while moved:
            moved = False
            for one in self.gateways:
                moved = self.to_control(one) or self.to_gateway(one) or moved
            if not moved and any(one.alive and one.purse.gauges()["calls_waiting_for_units"] for one in self.gateways):
                self.clock.advance(2 * REST)
                self.settled()
                moved = any(one.up or one.down for one in self.gateways)


def added(records: list[dict[str, int]]) -> dict[str, int]:
    """The sum of charges per pool."""
    total: dict[str, int] = {}
    for record in records:
        for pool, nano in record.items():
            total[pool] = total.get(pool, 0) + nano
    return total
