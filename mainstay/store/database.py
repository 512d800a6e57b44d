"""The control database: one engine, one metadata, transactions. SQLite by default, PostgreSQL by its address."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mainstay.core.errors import BadConfig

metadata = MetaData()
"""Every table of the control database; the modules of this room add theirs."""


_ADDRESS = "the database's address is sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER@HOST/NAME; change it so"


class Database:
    """Reads and writes. On SQLite, writes are done one after the other, each in a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Database:
        """Open the database at ``url`` (``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://…``) and migrate it.

        Raises ``BadConfig`` for an address of another sort, and for a database that a newer version has migrated.
        """
        try:
            address = make_url(url)
        except ArgumentError:
            raise BadConfig([_ADDRESS]) from None
        if address.drivername == "sqlite+aiosqlite" and address.database not in (None, "", ":memory:"):
            _make_private(Path(address.database or ""))
            engine = create_async_engine(address, connect_args={"timeout": 30})
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        elif address.drivername == "postgresql+asyncpg":
            engine = create_async_engine(address, pool_pre_ping=True)
        else:
            raise BadConfig([_ADDRESS])
        from mainstay.store.migrations import upgrade

        database = cls(engine)
        try:
            await upgrade(database)
        except BaseException:
            await database.close()
            raise
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
        """A connection that sees one consistent state, and can change nothing."""
        async with self._engine.connect() as connection:
            if self._sqlite:
                connection = await connection.execution_options(mainstay_read=True)
            else:
                connection = await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
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


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # nobody else on the machine may read hashes, prompts and names
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN itself: the driver's own habit takes locks too late
    cursor = connection.cursor()
    for pragma in (
        "busy_timeout=30000",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "secure_delete=ON",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    read = connection.get_execution_options().get("mainstay_read", False)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")
