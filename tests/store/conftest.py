"""Databases of both sorts: an embedded one in a temporary folder, and a throw-away one on a PostgreSQL of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from mainstay.store.database import Database

ADMIN = os.environ.get("MAINSTAY_TEST_POSTGRES", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres")


def postgres_missing() -> str | None:
    """Why there is no PostgreSQL to test with, or None."""
    address = make_url(ADMIN)
    try:
        with socket.create_connection((address.host or "127.0.0.1", address.port or 5432), timeout=2):
            return None
    except OSError as error:
        return f"no PostgreSQL at {address.host}:{address.port}: {error}"


async def _admin(statement: str) -> None:
    engine = create_async_engine(ADMIN, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
    finally:
        await engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/control/control.db"
        return
    missing = postgres_missing()
    if missing is not None:
        pytest.skip(missing)
    name = f"mainstay_test_{os.getpid()}_{os.urandom(4).hex()}"
    await _admin(f"CREATE DATABASE {name}")
    try:
        yield make_url(ADMIN).set(database=name).render_as_string(hide_password=False)
    finally:
        await _admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An open, migrated database."""
    opened = await Database.open(url)
    yield opened
    await opened.close()
