"""Which gateway has how many units of each pool: the tables, the port, and its SQL adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    String,
    Table,
    bindparam,
    case,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.store.database import metadata

pools = Table(
    "pools",
    metadata,
    Column("pool", String, primary_key=True),
    Column("recovered", BigInteger, nullable=False, default=0),  # spent by gateways that are gone
    Column("at", Float, nullable=False),  # when a unit of it last moved, seconds since the epoch
)

shares = Table(
    "shares",
    metadata,
    Column("pool", String, primary_key=True),
    Column("gateway", String, primary_key=True),
    Column("granted", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False, default=0),
    Column("until", Float),  # of a dead gateway: when these units are free again, seconds since the epoch
    Column("dead", Integer, nullable=False, default=0),
    Index("shares_gateway", "gateway"),
)

_CHUNK = 400
"""Names in one statement: SQLite takes a bounded number of parameters."""


@dataclass(slots=True)
class ShareRow:
    """What one gateway has of a pool: units granted to it, spent ones included, and how many are known to be spent."""

    granted: int
    spent: int = 0
    until: float | None = None

    @property
    def taken(self) -> int:
        """Units that nobody else can have: more than was granted, if more was spent."""
        return max(self.granted, self.spent)


@dataclass(slots=True)
class PoolRow:
    """A pool with its shares."""

    recovered: int = 0
    at: float = 0.0
    shares: dict[str, ShareRow] = field(default_factory=dict[str, ShareRow])

    @property
    def taken(self) -> int:
        """Units that cannot be granted."""
        return self.recovered + sum(share.taken for share in self.shares.values())

    @property
    def spent(self) -> int:
        """Units that are known to be spent."""
        return self.recovered + sum(share.spent for share in self.shares.values())


class SharesPort(Protocol):
    """Shares of pools; every method acts within the transaction of ``connection``."""

    async def load(self, connection: AsyncConnection, names: Collection[str], now: float) -> dict[str, PoolRow]:
        """These pools, locked until the transaction ends; units that became free by ``now`` are left out."""
        ...

    async def grant(self, connection: AsyncConnection, units: Mapping[tuple[str, str], int], now: float) -> None:
        """Add units (or take them away, if negative) per pool and gateway."""
        ...

    async def spend(self, connection: AsyncConnection, gateway: str, charges: Mapping[str, int], now: float) -> None:
        """Add to what the gateway has spent, also of pools of which it was never granted anything."""
        ...

    async def of_gateway(self, connection: AsyncConnection, gateway: str) -> dict[str, ShareRow]:
        """All shares of one gateway by pool."""
        ...

    async def recover(
        self, connection: AsyncConnection, gateway: str, spent: Mapping[str, int], until: Mapping[str, float]
    ) -> None:
        """The gateway is dead: add ``spent`` to the pools' own account, keep shares in ``until`` so long, drop the rest."""
        ...

    async def all(self, connection: AsyncConnection, prefix: str, now: float) -> dict[str, PoolRow]:
        """All pools whose name begins with ``prefix``, not locked."""
        ...

    async def drop(self, connection: AsyncConnection, names: Collection[str], now: float) -> None:
        """Forget these pools altogether, and whatever dead gateways' shares are free by ``now``."""
        ...

    async def gateways(self, connection: AsyncConnection) -> list[str]:
        """The gateways that have shares and have not been recovered."""
        ...


class SqlShares:
    """``SharesPort`` on the control database."""

    async def load(self, connection: AsyncConnection, names: Collection[str], now: float) -> dict[str, PoolRow]:
        found: dict[str, PoolRow] = {}
        for chunk in _chunks(names):
            query = select(pools).where(pools.c.pool.in_(chunk)).with_for_update()
            for row in await connection.execute(query):
                found[row.pool] = PoolRow(row.recovered, row.at)
            missing = [name for name in chunk if name not in found]
            if missing:
                fresh = [{"pool": name, "recovered": 0, "at": now} for name in missing]
                await connection.execute(_insert(connection, pools).values(fresh).on_conflict_do_nothing())
                for row in await connection.execute(select(pools).where(pools.c.pool.in_(missing)).with_for_update()):
                    found[row.pool] = PoolRow(row.recovered, row.at)
            for row in await connection.execute(select(shares).where(shares.c.pool.in_(chunk), _counts(now))):
                found[row.pool].shares[row.gateway] = ShareRow(row.granted, row.spent, row.until)
        return found

    async def grant(self, connection: AsyncConnection, units: Mapping[tuple[str, str], int], now: float) -> None:
        rows = [
            {"pool": pool, "gateway": gateway, "granted": more, "spent": 0, "dead": 0}
            for (pool, gateway), more in units.items()
            if more
        ]
        if not rows:
            return
        insert = _insert(connection, shares)
        granted = shares.c.granted + insert.excluded.granted
        statement = insert.on_conflict_do_update(
            index_elements=["pool", "gateway"],
            set_={"granted": case((granted < 0, 0), else_=granted)},
        )
        await connection.execute(statement, rows)
        await self._touch(connection, {pool for pool, _ in units}, now)

    async def spend(self, connection: AsyncConnection, gateway: str, charges: Mapping[str, int], now: float) -> None:
        rows = [
            {"pool": pool, "gateway": gateway, "granted": 0, "spent": nano, "dead": 0}
            for pool, nano in sorted(charges.items())
            if nano
        ]
        if not rows:
            return
        known = [{"pool": row["pool"], "recovered": 0, "at": now} for row in rows]
        await connection.execute(_insert(connection, pools).on_conflict_do_nothing(), known)
        insert = _insert(connection, shares)
        statement = insert.on_conflict_do_update(
            index_elements=["pool", "gateway"], set_={"spent": shares.c.spent + insert.excluded.spent}
        )
        await connection.execute(statement, rows)
        await self._touch(connection, charges.keys(), now)

    async def of_gateway(self, connection: AsyncConnection, gateway: str) -> dict[str, ShareRow]:
        rows = await connection.execute(select(shares).where(shares.c.gateway == gateway, shares.c.dead == 0))
        return {row.pool: ShareRow(row.granted, row.spent, row.until) for row in rows}

    async def recover(
        self, connection: AsyncConnection, gateway: str, spent: Mapping[str, int], until: Mapping[str, float]
    ) -> None:
        moved = [{"name": pool, "more": nano} for pool, nano in spent.items() if nano]
        if moved:
            await connection.execute(
                update(pools)
                .where(pools.c.pool == bindparam("name"))
                .values(recovered=pools.c.recovered + bindparam("more")),
                moved,
            )
        kept = [{"name": pool, "free_at": at} for pool, at in until.items()]
        if kept:
            await connection.execute(
                update(shares)
                .where(shares.c.pool == bindparam("name"), shares.c.gateway == gateway)
                .values(until=bindparam("free_at"), dead=1),
                kept,
            )
        await connection.execute(delete(shares).where(shares.c.gateway == gateway, shares.c.dead == 0))

    async def all(self, connection: AsyncConnection, prefix: str, now: float) -> dict[str, PoolRow]:
        begins = pools.c.pool.startswith(prefix, autoescape=True)
        found = {
            row.pool: PoolRow(row.recovered, row.at)
            for row in await connection.execute(select(pools).where(begins).order_by(pools.c.pool))
        }
        begins = shares.c.pool.startswith(prefix, autoescape=True)
        for row in await connection.execute(select(shares).where(begins, _counts(now))):
            if row.pool in found:
                found[row.pool].shares[row.gateway] = ShareRow(row.granted, row.spent, row.until)
        return found

    async def drop(self, connection: AsyncConnection, names: Collection[str], now: float) -> None:
        for chunk in _chunks(names):
            await connection.execute(delete(shares).where(shares.c.pool.in_(chunk)))
            await connection.execute(delete(pools).where(pools.c.pool.in_(chunk)))
        await connection.execute(delete(shares).where(shares.c.until <= now))

    async def gateways(self, connection: AsyncConnection) -> list[str]:
        query = select(shares.c.gateway).where(shares.c.dead == 0).distinct().order_by(shares.c.gateway)
        return list((await connection.execute(query)).scalars())

    async def _touch(self, connection: AsyncConnection, names: Collection[str], now: float) -> None:
        for chunk in _chunks(names):
            await connection.execute(update(pools).where(pools.c.pool.in_(chunk)).values(at=now))


def _counts(now: float) -> Any:
    return or_(shares.c.until.is_(None), shares.c.until > now)


def _chunks(names: Collection[str]) -> Iterable[list[str]]:
    ordered = sorted(names)  # one order of locking for everybody: no deadlocks
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def _insert(connection: AsyncConnection, table: Table) -> sqlite.Insert:
    if connection.dialect.name == "postgresql":
        return cast(sqlite.Insert, postgresql.insert(table))
    return sqlite.insert(table)
