"""The tables of teams and keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from mainstay.store.database import Database
from mainstay.store.keys import KeyRow, SqlKeys, TeamRow

store = SqlKeys()
KEY = KeyRow("key_1", "t", "web", "a" * 64, "wxyz", 1.0, "ada", {"models": ["chat"]}, expires=9.5)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    yield database
    await database.close()


async def test_teams_come_back_as_they_were_put(database: Database) -> None:
    async with database.write() as connection:
        await store.put_team(connection, TeamRow("b", {"models": None}, 1.0))
        await store.put_team(connection, TeamRow("a", {}, 2.0))
        await store.put_team(connection, TeamRow("b", {"models": ["x"]}, 3.0))
        assert await store.teams(connection) == [TeamRow("a", {}, 2.0), TeamRow("b", {"models": ["x"]}, 3.0)]
        assert await store.teams(connection, "b") == [TeamRow("b", {"models": ["x"]}, 3.0)]
        await store.remove_team(connection, "b")
        assert await store.teams(connection, "b") == []


async def test_keys_come_back_as_they_were_put(database: Database) -> None:
    rotated = replace(KEY, hash="b" * 64, previous_hash=KEY.hash, previous_last4="wxyz", previous_until=7.0)
    async with database.write() as connection:
        await store.put_key(connection, KEY)
        assert await store.key(connection, "t", "web") == KEY
        await store.put_key(connection, rotated)
        assert await store.keys(connection) == [rotated]
        assert await store.by_hash(connection, "a" * 64) == rotated
        assert await store.by_hash(connection, "b" * 64) == rotated
        assert await store.by_hash(connection, "c" * 64) is None
        assert await store.key(connection, "t", "other") is None


async def test_a_revoked_key_frees_its_name_and_is_forgotten_later(database: Database) -> None:
    async with database.write() as connection:
        await store.put_key(connection, replace(KEY, revoked=5.0))
        await store.put_key(connection, replace(KEY, id="key_2", hash="b" * 64))
        assert [row.id for row in await store.keys(connection, "t")] == ["key_2"]
        assert [row.id for row in await store.keys(connection, "t", revoked=True)] == ["key_1", "key_2"]
        assert await store.by_hash(connection, KEY.hash) is None
        await store.forget_keys(connection, 6.0)
        assert [row.id for row in await store.keys(connection, revoked=True)] == ["key_2"]


async def test_two_keys_in_force_cannot_have_one_name(database: Database) -> None:
    async with database.write() as connection:
        await store.put_key(connection, KEY)
    with pytest.raises(IntegrityError):
        async with database.write() as connection:
            await store.put_key(connection, replace(KEY, id="key_2", hash="b" * 64))
