"""The control database: one engine, one metadata, transactions. SQLite by default, PostgreSQL by its address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

metadata = MetaData()
"""Every table of the control database; the modules of this room add theirs."""


class Database:
    """Reads and writes. On SQLite, writes are done one after the other, each in a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Database:
        """Open the database at ``url`` (``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://…``) and migrate it."""
        if url.startswith("sqlite"):
            Path(url.partition(":///")[2]).parent.mkdir(parents=True, exist_ok=True)
            engine = create_async_engine(url, connect_args={"timeout": 30})
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        else:
            engine = create_async_engine(url, pool_pre_ping=True)
        from mainstay.store.migrations import upgrade

        database = cls(engine)
        await upgrade(database)
        return database

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine, for migrations."""
        return self._engine

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self._sqlite

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A connection that sees one consistent state."""
        async with self._engine.connect() as connection:
            if self._sqlite:
                connection = await connection.execution_options(mainstay_read=True)
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction: all of it is kept, or nothing."""
        if not self._sqlite:
            async with self._engine.begin() as connection:
                yield connection
            return
        async with self._writing, self._engine.begin() as connection:
            yield connection

    async def ping(self) -> None:
        """Raise if the database cannot be reached."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN itself: the driver's own habit takes locks too late
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "secure_delete=ON",
        "foreign_keys=ON",
        "busy_timeout=30000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    read = connection.get_execution_options().get("mainstay_read", False)
    connection.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")
