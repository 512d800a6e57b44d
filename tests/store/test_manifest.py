"""The manifest: segments, cursors, totals, leases, each within the caller's transaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mainstay.core.errors import Conflict
from mainstay.store.database import Database
from mainstay.store.manifest import JournalCursor, Manifest, Segment, SqlManifest, Totals


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database]:
    opened = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    yield opened
    await opened.close()


@pytest.fixture
def manifest() -> Manifest:
    return SqlManifest()


def segment(number: int, **fields: object) -> Segment:
    values: dict[str, object] = {
        "id": f"seg_{number}",
        "path": f"d/{number}",
        "hash": "0" * 64,
        "rows": 5,
        "bytes": 100,
        "first_at": number,
        "last_at": number + 1,
        "first_id": "a",
        "last_id": "b",
        "version": 1,
    }
    return Segment(**{**values, **fields})  # type: ignore[arg-type]


async def test_segments_are_listed_by_time_per_scope(database: Database, manifest: Manifest) -> None:
    async with database.write() as connection:
        for number in (3, 1, 2):
            assert await manifest.add(connection, "calls", segment(number))
        assert await manifest.add(connection, "other", segment(9))
        assert not await manifest.add(connection, "calls", segment(3))
    async with database.read() as connection:
        assert await manifest.segments(connection, "calls") == [segment(n) for n in (1, 2, 3)]
        assert await manifest.segments(connection, "other") == [segment(9)]


async def test_a_swap_is_all_or_nothing(database: Database, manifest: Manifest) -> None:
    async with database.write() as connection:
        for number in range(3):
            await manifest.add(connection, "calls", segment(number))
    async with database.write() as connection:
        await manifest.swap(connection, "calls", ["seg_0", "seg_1"], [segment(7, level=1)])
    with pytest.raises(Conflict, match="seg_0"):
        async with database.write() as connection:
            await manifest.swap(connection, "calls", ["seg_2", "seg_0"], [segment(8)])
    with pytest.raises(Conflict):
        async with database.write() as connection:
            await manifest.swap(connection, "other", ["seg_2"], [])
    async with database.read() as connection:
        assert await manifest.segments(connection, "calls") == [segment(2), segment(7, level=1)]


async def test_a_cursor_moves_only_from_where_it_stands(database: Database, manifest: Manifest) -> None:
    first = JournalCursor(gateway="gw", segment=1, offset=10)
    second = JournalCursor(gateway="gw", segment=2, offset=0, carried=b"x", recovered=True)
    async with database.write() as connection:
        await manifest.move(connection, None, first)
    for before in (None, second, JournalCursor(gateway="gw", segment=1, offset=11)):
        with pytest.raises(Conflict, match="another process"):
            async with database.write() as connection:
                await manifest.move(connection, before, second)
    async with database.write() as connection:
        await manifest.move(connection, first, second)
    with pytest.raises(Conflict):
        async with database.write() as connection:
            await manifest.move(connection, first, second)
    async with database.read() as connection:
        assert await manifest.cursors(connection) == {"gw": second}
    async with database.write() as connection:
        await manifest.forget(connection, "gw")
        await manifest.forget(connection, "gw")
        assert await manifest.cursors(connection) == {}


async def test_totals_add_up(database: Database, manifest: Manifest) -> None:
    async with database.write() as connection:
        assert await manifest.count(connection, "calls", Totals()) == Totals()
        assert await manifest.count(connection, "calls", Totals(5, 1, 0)) == Totals(5, 1, 0)
        assert await manifest.count(connection, "calls", Totals(2**40, 0, 1)) == Totals(5 + 2**40, 1, 1)
        assert await manifest.count(connection, "calls", Totals()) == Totals(5 + 2**40, 1, 1)
        assert await manifest.count(connection, "other", Totals()) == Totals()


async def test_a_lease_has_one_owner_until_it_ends_or_is_given_back(database: Database, manifest: Manifest) -> None:
    async with database.write() as connection:
        assert await manifest.lease(connection, "compact", "one", 100.0, 10.0)
        assert await manifest.lease(connection, "compact", "one", 105.0, 10.0)
        assert not await manifest.lease(connection, "compact", "two", 114.0, 10.0)
        assert await manifest.lease(connection, "compact", "two", 115.0, 10.0)
        assert not await manifest.lease(connection, "compact", "one", 116.0, 10.0)
        assert await manifest.lease(connection, "compact", "two", 116.0, 0.0)
        assert await manifest.lease(connection, "compact", "one", 116.0, 10.0)
        assert await manifest.lease(connection, "other", "two", 116.0, 10.0)


async def test_what_was_not_committed_is_not_there(database: Database, manifest: Manifest) -> None:
    async def failing() -> None:
        async with database.write() as connection:
            await manifest.add(connection, "calls", segment(1))
            await manifest.move(connection, None, JournalCursor(gateway="gw"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await failing()
    async with database.read() as connection:
        assert await manifest.segments(connection, "calls") == []
        assert await manifest.cursors(connection) == {}
