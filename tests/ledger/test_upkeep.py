"""Merging, retention, erasure."""

from __future__ import annotations

from mainstay.ledger.filter import parse
from mainstay.ledger.journal import Journal
from mainstay.ledger.spool import Content, ContentSpool
from tests.ledger.cases import AT, POOL, Control, opening, record
from tests.ledger.test_query import flushed

DAY = 86_400_000_000


async def test_small_segments_are_merged_level_by_level_and_no_row_is_lost(control: Control) -> None:
    for number in range(16):
        await flushed(control, record(number))
    merged = 0
    while await control.upkeep.compact():
        merged += 1
    assert merged == 5  # four times four, and once the four of those
    segments = control.ledger.segments
    assert [(segment.rows, segment.level) for segment in segments] == [(16, 2)]
    assert (segments[0].first_at, segments[0].last_at) == (AT, AT + 15)
    assert await control.all_ids() == [record(n).id for n in range(15, -1, -1)]
    assert len(list(control.ledger.files.folder.glob("*/seg_*.parquet"))) == 1
    await control.close()
    again = await Control(control.home).start()
    assert len(await again.all_ids()) == 16
    await again.close()


async def test_large_segments_are_left_alone(control: Control) -> None:
    for start in range(0, 4000, 1000):
        await flushed(control, *(record(n) for n in range(start, start + 1000)))
    assert await control.upkeep.compact() == 0


async def test_one_process_at_a_time_does_upkeep(control: Control) -> None:
    for number in range(4):
        await flushed(control, record(number))
    async with control.database.write() as connection:
        assert await control.manifest.lease(connection, "ledger.upkeep", "another", 0.0, 1e12)
    assert await control.upkeep.compact() == 0
    assert await control.upkeep.sweep(AT + 2) == 0
    async with control.database.write() as connection:
        assert await control.manifest.lease(connection, "ledger.upkeep", "another", 0.0, 0.0)
    assert await control.upkeep.compact() == 4


async def test_retention_drops_old_rows_also_out_of_the_middle_of_a_segment(control: Control) -> None:
    await flushed(control, record(0), record(1))
    await flushed(control, record(2), record(3), record(4))
    await flushed(control, record(5))
    assert await control.upkeep.sweep(AT + 3) == 3
    assert await control.all_ids() == [record(n).id for n in (5, 4, 3)]
    assert await control.upkeep.sweep(AT + 3) == 0
    assert await control.upkeep.sweep(AT + 100) == 3
    assert control.ledger.segments == []
    assert await control.ledger.count() == 0


async def test_erasure_takes_a_person_out_of_rows_and_contents_and_keeps_the_cost(control: Control) -> None:
    journal = Journal(control.journals, "gw")
    spool = ContentSpool(journal.folder)
    for number in range(6):
        user = "ann" if number % 2 else "bob"
        content = spool.put(Content(record(number).id, AT, b"question", b"answer"))
        journal.open(opening(number, user=user))
        journal.close(
            record(
                number,
                user=user,
                tags={"name": user},
                content=content,
                charges={f"u|user:{user}|m": 5},
                message=f"of {user}",
            )
        )
        if number == 3:
            journal.flush()
            await control.ingest.turn()
            await control.ingest.flush()
    journal.flush()
    erased = await control.upkeep.erase("ann")  # what only the journal holds is erased, too
    assert (erased.calls, erased.segments, erased.contents) == (3, 2, 3)
    rows = (await control.ledger.calls()).rows
    assert len(rows) == 6
    for number, row in zip(range(5, -1, -1), rows, strict=True):
        if number % 2:
            assert "ann" not in str(row)
            assert (row["user"], row["tags"], row["content"], row["charges"]) == (None, {}, None, {})
            assert await control.content.get(row["id"]) is None
        else:
            assert row["user"] == "bob"
            assert await control.content.get(row["id"]) is not None
        assert (row["cost_nano"], row["team"]) == (7, "support")
    assert await control.ledger.count(parse("user=ann")) == 0
    assert (await control.upkeep.erase("ann")).calls == 0
    journal.stop()
    await control.ingest.turn()
    await control.close()
    for path in control.home.rglob("*"):
        if path.is_file() and path.suffix != ".log":
            assert b"user:ann" not in path.read_bytes() or path.name.startswith("control.db"), path


async def test_content_goes_by_the_day_its_call_was_made(control: Control) -> None:
    from mainstay.core.clock import FixedClock
    from mainstay.core.ids import Ids

    clock = FixedClock(AT / 1e6)
    ids = Ids(clock)
    old = ids.make("call_")
    clock.advance(2 * 86400)
    new = ids.make("call_")
    spool = ContentSpool(control.journals / "gw")
    for one in (old, new):
        assert spool.put(Content(one, AT, b"q", b"a")) is not None
    assert await control.content.collect(control.journals / "gw") == 2
    await control.upkeep.sweep(AT + DAY)
    assert await control.content.get(old) is None
    assert await control.content.get(new) is not None
    assert POOL
