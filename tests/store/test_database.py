"""The control database: transactions, consistent reads, migrations under a lock, crashes; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from mainstay.core.errors import BadConfig
from mainstay.store.database import Database
from mainstay.store.migrations import differences

INSERT = text("INSERT INTO teams (name, body, at) VALUES (:name, '{}', 1)")
COUNT = text("SELECT count(*) FROM teams")


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(COUNT)).scalar_one())


async def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "kept"})

    async def fails() -> None:
        async with database.write() as connection:
            await connection.execute(INSERT, {"name": "lost"})
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await fails()
    assert await count(database) == 1


async def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(database: Database) -> None:
    inside = asyncio.Event()

    async def never_ends() -> None:
        async with database.write() as connection:
            await connection.execute(INSERT, {"name": "lost"})
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ends())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "kept"})
    assert await count(database) == 1


async def test_a_reader_sees_one_state_while_others_write(database: Database) -> None:
    async with database.read() as reader:
        before = (await reader.execute(COUNT)).scalar_one()
        async with database.write() as writer:
            await writer.execute(INSERT, {"name": "new"})
        assert (await reader.execute(COUNT)).scalar_one() == before
    assert await count(database) == before + 1


async def test_a_reader_cannot_write(database: Database) -> None:
    async with database.read() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(INSERT, {"name": "sneaked in"})
    async with database.write() as connection:  # the same pooled connection can write again
        await connection.execute(INSERT, {"name": "kept"})
    assert await count(database) == 1


async def test_concurrent_writers_of_several_processes_lose_no_update(database: Database, url: str) -> None:
    other = await Database.open(url)  # another engine: what it shares with the first is the database alone
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "counter"})

    async def add(to: Database) -> None:
        async with to.write() as connection:
            await connection.execute(text("UPDATE teams SET at = at + 1 WHERE name = 'counter'"))

    await asyncio.gather(*(add(to) for to in (database, other) for _ in range(50)))
    await other.close()
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT at FROM teams"))).scalar_one() == 101


async def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_opening_again_changes_nothing(database: Database, url: str) -> None:
    async with database.write() as connection:
        await connection.execute(INSERT, {"name": "kept"})
    again = await Database.open(url)
    assert await count(again) == 1
    await again.close()


async def test_a_database_of_a_newer_version_is_refused(database: Database, url: str) -> None:
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    with pytest.raises(BadConfig, match="newer version has migrated it"):
        await Database.open(url)


@pytest.mark.parametrize("address", ["mysql://root@localhost/x", "sqlite+aiosqlite://", "/tmp/x.db", ""])
async def test_other_addresses_are_refused_with_the_right_form(address: str) -> None:
    with pytest.raises(BadConfig, match=r"sqlite\+aiosqlite:///PATH or postgresql"):
        await Database.open(address)


async def test_only_the_owner_can_read_the_embedded_database(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    await database.close()
    assert stat.S_IMODE((tmp_path / "control.db").stat().st_mode) == 0o600


OPEN = """
import asyncio, sys
from mainstay.store.database import Database
async def main():
    database = await Database.open(sys.argv[1])
    await database.close()
asyncio.run(main())
"""

DIE = """
import asyncio, os, signal, sys
from sqlalchemy import text
from mainstay.store.database import Database
async def main():
    database = await Database.open(sys.argv[1])
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO teams (name, body, at) VALUES ('lost', '{}', 1)"))
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def run(script: str, url: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, url, stderr=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "default"}
    )
    _, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, error.decode()


async def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    if not make_url(url).drivername.startswith("postgresql"):
        Path(make_url(url).database or "").parent.mkdir(parents=True)
    ended = await asyncio.gather(*(run(OPEN, url) for _ in range(3)))
    assert [code for code, _ in ended] == [0, 0, 0], ended
    database = await Database.open(url)
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
        assert len((await connection.execute(text("SELECT * FROM alembic_version"))).all()) == 1
    await database.close()


async def test_a_process_killed_within_a_transaction_leaves_nothing(database: Database, url: str) -> None:
    code, error = await run(DIE, url)
    assert code == -signal.SIGKILL, error
    assert await count(database) == 0
    async with database.write() as connection:  # its lock is gone with it
        await connection.execute(INSERT, {"name": "kept"})
    assert await count(database) == 1
