"""Calls, journals and ledgers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String, Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.call import Attempt, Call, Principal
from mainstay.core.clock import Clock
from mainstay.core.ids import Ids
from mainstay.core.usage import Usage
from mainstay.ledger.content import ContentStore
from mainstay.ledger.counters import Counters
from mainstay.ledger.engine import Engine
from mainstay.ledger.ingest import Ingest
from mainstay.ledger.query import Ledger
from mainstay.ledger.record import CallRecord, OpenRecord
from mainstay.ledger.upkeep import Upkeep
from mainstay.store.blobs import FolderBlobs
from mainstay.store.database import Database
from mainstay.store.manifest import SqlManifest

AT = 1_795_000_000_000_000
POOL = "day|key:web|2026-11-21"

_spent = Table(
    "spent",
    MetaData(),
    Column("gateway", String, primary_key=True),
    Column("pool", String, primary_key=True),
    Column("nano", BigInteger),
)
_recovered = Table("recovered", MetaData(), Column("gateway", String, primary_key=True))


def record(number: int = 0, **fields: Any) -> CallRecord:
    """A call that went well, the ``number``-th."""
    values: dict[str, Any] = {
        "v": 1,
        "id": f"call_{number:026d}",
        "at": AT + number,
        "operation": "chat",
        "dialect": "openai",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "team": "support",
        "key": "web",
        "model": "small",
        "provider": "alpha",
        "charges": {POOL: 7},
        "cost_nano": 7,
        "duration_ms": 12.5,
    }
    return CallRecord(**{**values, **fields})


def opening(number: int = 0, **fields: Any) -> OpenRecord:
    """The opening record of the same call."""
    values: dict[str, Any] = {
        "id": f"call_{number:026d}",
        "at": AT + number,
        "operation": "chat",
        "dialect": "openai",
        "stream": True,
        "team": "support",
        "key": "web",
        "holds": {POOL: 100},
        "targets": ["small"],
    }
    return OpenRecord(**{**values, **fields})


def call(**fields: Any) -> Call:
    """A call as it leaves the pipeline."""
    made = Call("call_01", 1_795_000_000.25, 100.0, "chat", "openai", {}, b"{}")
    made.principal = Principal("web", "key_1", "support")
    made.tags = {"feature": "search"}
    made.route, made.model, made.provider = "chat", "large", "beta"
    made.attempts = [
        Attempt(
            "small",
            "alpha",
            "gpt-small",
            1_795_000_000.26,
            20.1234,
            status=503,
            error="overloaded",
            message="busy",
            cost=0,
        ),
        Attempt(
            "large",
            "beta",
            "claude",
            1_795_000_000.3,
            50.5,
            30.25,
            200,
            usage=Usage(21, 9, 16),
            cost=1234,
            request_id="r1",
        ),
    ]
    made.usage, made.cost, made.finish = Usage(21, 9, 16), 1234, "stop"
    made.status, made.outcome, made.cache, made.why = 200, "ok", "miss", ["weighted:small"]
    made.first_token, made.upstream_seconds = 100.05, 0.07
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class Control:
    """The control side over one home folder, with settled money in tables of its own."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home = home
        self.journals = home / "journal"
        self.options = options

    async def start(self, **engine: Any) -> Control:
        self.database = await Database.open(f"sqlite+aiosqlite:///{self.home / 'control.db'}")
        async with self.database.write() as connection:
            await connection.run_sync(_spent.metadata.create_all)
            await connection.run_sync(_recovered.metadata.create_all)
        self.manifest = SqlManifest()
        ids = Ids()
        self.ledger = Ledger(
            self.home / "ledger", self.database, self.manifest, ids, Engine(self.home / "ledger", **engine)
        )
        await self.ledger.open()
        self.counters = Counters()
        self.content = ContentStore(FolderBlobs(self.home / "blobs"))
        self.ingest = Ingest(
            self.journals,
            self.database,
            self.manifest,
            self.ledger,
            self.counters,
            settle=settle,
            recovered=recovered,
            content=self.content,
            clock=self.options.pop("clock", None) or Clock(),
            **self.options,
        )
        await self.ingest.start()
        self.upkeep = Upkeep(
            self.ledger, self.ingest, self.database, self.manifest, owner="test", content=self.content, fan=4, rows=1000
        )
        return self

    async def close(self) -> None:
        await self.ledger.close()
        await self.database.close()

    async def spent(self) -> dict[tuple[str, str], int]:
        async with self.database.read() as connection:
            return {(row[0], row[1]): row[2] for row in await connection.execute(select(_spent))}

    async def recovered(self) -> set[str]:
        async with self.database.read() as connection:
            return {row[0] for row in await connection.execute(select(_recovered))}

    async def all_ids(self) -> list[str]:
        page = await self.ledger.calls(limit=10_000)
        assert page.cursor is None
        return [row["id"] for row in page.rows]


async def settle(connection: AsyncConnection, gateway: str, charges: Mapping[str, int]) -> None:
    for pool, nano in charges.items():
        mine = (_spent.c.gateway == gateway) & (_spent.c.pool == pool)
        done = await connection.execute(update(_spent).where(mine).values(nano=_spent.c.nano + nano))
        if not done.rowcount:
            await connection.execute(_spent.insert(), [{"gateway": gateway, "pool": pool, "nano": nano}])


async def recovered(connection: AsyncConnection, gateway: str) -> None:
    await connection.execute(_recovered.insert(), [{"gateway": gateway}])
