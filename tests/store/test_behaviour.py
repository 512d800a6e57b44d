"""Artifacts, channels, the chain of changes, bundle entries; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mainstay.core.artifact import Artifact, Channel, digest
from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid
from mainstay.store.behaviour import Artifacts, Broken, Bundles, Changes, Channels
from mainstay.store.database import Database


def artifact(name: str = "chat", kind: str = "route", author: str = "ada", at: float = 1.5, **body: Any) -> Artifact:
    return Artifact(kind, name, digest(body), body, ("p",), author, "because", at)


async def test_an_artifact_comes_back_as_it_was_put(database: Database) -> None:
    one = artifact(to="small", ümlaut=[1, 0.1, None, True, "\x01"])
    async with database.write() as connection:
        assert await Artifacts().put(connection, one) is True
    async with database.read() as connection:
        assert await Artifacts().get(connection, "route", "chat", one.digest) == one
        assert await Artifacts().get(connection, "route", "chat", "0" * 32) is None


async def test_putting_again_changes_nothing(database: Database) -> None:
    async with database.write() as connection:
        await Artifacts().put(connection, artifact(to="small"))
        assert await Artifacts().put(connection, artifact(to="small", author="eve", at=9.0)) is False
        [kept] = await Artifacts().versions(connection, "route", "chat")
    assert (kept.author, kept.at) == ("ada", 1.5)


async def test_a_false_digest_is_refused(database: Database) -> None:
    false = Artifact("route", "chat", "0" * 32, {"to": "small"})
    async with database.write() as connection:
        with pytest.raises(ValueError, match="not the digest of its body"):
            await Artifacts().put(connection, false)


async def test_versions_are_newest_first_and_bounded(database: Database) -> None:
    async with database.write() as connection:
        for at in (1.0, 3.0, 2.0):
            await Artifacts().put(connection, artifact(to=str(at), at=at))
        await Artifacts().put(connection, artifact(name="other", to="x", at=9.0))
        found = await Artifacts().versions(connection, "route", "chat", limit=2)
    assert [one.at for one in found] == [3.0, 2.0]


async def test_a_channel_can_be_put_moved_and_removed(database: Database) -> None:
    one, two = artifact(to="a"), artifact(to="b")
    first = Channel("route", "chat", "live", ((one.digest, 1),))
    second = Channel("route", "chat", "live", ((one.digest, 95), (two.digest, 5)), shadow=two.digest)
    async with database.write() as connection:
        for each in (one, two):
            await Artifacts().put(connection, each)
        await Channels().put(connection, first)
        assert await Channels().get(connection, "route", "chat", "live") == first
        await Channels().put(connection, second)
        assert await Channels().all(connection, "live") == [second]
        assert await Artifacts().pointed_at(connection, "live") == [(second, [one, two])]
        assert await Channels().all(connection, "canary") == []
        await Channels().remove(connection, "route", "chat", "live")
        assert await Channels().get(connection, "route", "chat", "live") is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=json_values, after=json_values)
def test_any_json_value_keeps_the_chain_whole(before: Any, after: Any, tmp_path_factory: Any) -> None:
    async def scenario() -> None:
        folder = tmp_path_factory.mktemp("chain")
        database = await Database.open(f"sqlite+aiosqlite:///{folder}/control.db")
        changes = Changes(FixedClock(0.1 + 1_800_000_000))
        try:
            async with database.write() as connection:
                for what in ("one", "two"):
                    await changes.append(connection, by="ada", why="", what=what, before=before, after=after)
            async with database.read() as connection:
                assert await changes.verify(connection) is None
                head = await changes.head(connection)
            assert head is not None
            assert (head.before, head.after) == (before, after)
        finally:
            await database.close()

    asyncio.run(scenario())


async def fill(database: Database, clock: FixedClock, count: int) -> Changes:
    changes = Changes(clock)
    async with database.write() as connection:
        for i in range(count):
            clock.advance(1)
            await changes.append(
                connection, by="ada", why=f"reason {i}", what=f"thing:{i % 2}", before=i, after={"i": i}
            )
    return changes


async def test_changes_of_concurrent_writers_form_one_chain(database: Database, url: str) -> None:
    other = await Database.open(url)
    changes = Changes(FixedClock())

    async def one(to: Database, i: int) -> None:
        async with to.write() as connection:
            await changes.append(connection, by="ada", why="", what=f"w{i}", before=None, after=i)

    await asyncio.gather(*(one(to, i) for to in (database, other) for i in range(20)))
    await other.close()
    async with database.read() as connection:
        assert await changes.verify(connection) is None
        head = await changes.head(connection)
        assert head is not None
        assert head.seq == 40


async def test_a_change_is_lost_with_its_transaction(database: Database) -> None:
    changes = await fill(database, FixedClock(), 2)

    async def fails() -> None:
        async with database.write() as connection:
            await changes.append(connection, by="ada", why="", what="w", before=1, after=2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    await fill(database, FixedClock(), 1)
    async with database.read() as connection:
        assert await changes.verify(connection) is None


async def test_pages_go_back_in_time(database: Database) -> None:
    changes = await fill(database, FixedClock(), 10)
    async with database.read() as connection:
        newest = await changes.page(connection, limit=3)
        assert [change.seq for change in newest] == [10, 9, 8]
        older = await changes.page(connection, before=8, limit=2)
        assert [change.seq for change in older] == [7, 6]
        assert [change.seq for change in await changes.page(connection, what="thing:1", limit=2)] == [10, 8]


@pytest.mark.parametrize(
    ("statement", "seq", "why"),
    [
        ("UPDATE changes SET who = 'eve' WHERE seq = 3", 3, "altered"),
        ("UPDATE changes SET after = '7' WHERE seq = 600", 600, "altered"),
        ("UPDATE changes SET after = '{' WHERE seq = 4", 4, "not readable"),
        ("UPDATE changes SET at = at + 1 WHERE seq = 1", 1, "altered"),
        ("DELETE FROM changes WHERE seq = 2", 2, "missing"),
        ("UPDATE changes SET hash = (SELECT hash FROM changes WHERE seq = 5) WHERE seq = 6", 6, "altered"),
        ("UPDATE changes SET previous = 'x' WHERE seq = 501", 501, "does not follow"),
    ],
)
async def test_verify_finds_the_first_broken_link(database: Database, statement: str, seq: int, why: str) -> None:
    changes = await fill(database, FixedClock(), seq + 1 if seq > 100 else 8)
    async with database.read() as connection:
        assert await changes.verify(connection) is None
    async with database.write() as connection:
        await connection.execute(text(statement))
    async with database.read() as connection:
        broken = await changes.verify(connection)
    assert isinstance(broken, Broken)
    assert broken.seq == seq
    assert why in broken.why


async def test_text_that_no_database_keeps_is_refused(database: Database) -> None:
    async with database.write() as connection:
        for bad in ("a\x00b", "half \ud800"):
            with pytest.raises(Invalid, match="why holds a character"):
                await Changes(FixedClock()).append(connection, by="a", why=bad, what="w", before=None, after=None)


async def test_a_source_remembers_what_it_put_in(database: Database) -> None:
    bundles = Bundles()
    async with database.write() as connection:
        await bundles.replace(connection, "a.yaml", {("model", "x"), ("key", "t>k")}, 1.0)
        await bundles.replace(connection, "b.yaml", {("model", "x")}, 2.0)
        assert await bundles.names(connection, "a.yaml") == {("model", "x"), ("key", "t>k")}
        assert (await bundles.holders(connection))["model", "x"] == {"a.yaml", "b.yaml"}
        await bundles.replace(connection, "a.yaml", {("model", "y")}, 3.0)
        assert await bundles.names(connection, "a.yaml") == {("model", "y")}
        assert await bundles.names(connection, "b.yaml") == {("model", "x")}
        await bundles.replace(connection, "a.yaml", (), 4.0)
        assert await bundles.holders(connection) == {("model", "x"): {"b.yaml"}}
