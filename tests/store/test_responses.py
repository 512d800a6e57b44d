"""The rows of stored responses, on every database."""

from __future__ import annotations

from dataclasses import replace

from mainstay.store.database import Database
from mainstay.store.responses import ResponseRow, SqlResponses

STORE = SqlResponses()


def row(key: str, **more: object) -> ResponseRow:
    made = ResponseRow(key, "team", f"resp_{key}", key, None, 100.0, None, 10)
    return replace(made, **more)  # type: ignore[arg-type]


async def test_rows_come_back_as_they_were(database: Database) -> None:
    one = row("k1", user="ada", previous="k0", root="k0", at=1_800_000_000.123, size=2**40)
    async with database.write() as connection:
        await STORE.put(connection, one)
        await STORE.put(connection, replace(one, user="someone else"))  # the first stays
        await STORE.put(connection, replace(one, key="k2", at=one.at + 1))
    async with database.read() as connection:
        found = await STORE.find(connection, "team", "resp_k1")
        assert found == [replace(one, key="k2", at=one.at + 1), one]
        assert await STORE.find(connection, "other", "resp_k1") == []
        assert await STORE.of_user(connection, "ada", 1) != []
        assert await STORE.of_user(connection, "bob", 10) == []


async def test_threads_are_their_teams_own(database: Database) -> None:
    rows = [row("a1"), row("a2", root="a1", previous="a1"), row("b1", team="other", root="a1")]
    async with database.write() as connection:
        for one in rows:
            await STORE.put(connection, one)
    async with database.read() as connection:
        assert {one.key for one in await STORE.thread(connection, "team", "a1")} == {"a1", "a2"}
        assert {one.key for one in await STORE.thread(connection, "other", "a1")} == {"b1"}


async def test_threads_expire_whole(database: Database) -> None:
    rows = [row("a1"), row("a2", root="a1", at=300.0), row("b1"), row("c1", team="other"), row("d1", at=400.0)]
    async with database.write() as connection:
        for one in rows:
            await STORE.put(connection, one)
        old = await STORE.expired(connection, 200.0, 10)
        assert {one.key for one in old} == {"b1", "c1"}
        assert len(await STORE.expired(connection, 200.0, 1)) == 1
        assert await STORE.remove(connection, [one.key for one in old]) == 2
        assert await STORE.expired(connection, 200.0, 10) == []
        assert {one.key for one in await STORE.expired(connection, 350.0, 10)} == {"a1", "a2"}
        assert await STORE.remove(connection, []) == 0
        assert await STORE.remove(connection, [f"k{n}" for n in range(1200)]) == 0
