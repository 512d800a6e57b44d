"""Questions to the ledger: pages, single calls, sums, exports; old schemas; limits."""

from __future__ import annotations

import asyncio
import csv
import json
import random
from pathlib import Path

import duckdb
import pytest

from mainstay.core.errors import Invalid
from mainstay.ledger.engine import TooSlow
from mainstay.ledger.filter import parse
from mainstay.ledger.journal import Journal
from mainstay.ledger.record import CallRecord, encode
from mainstay.ledger.recording import closed
from mainstay.ledger.rows import COLUMNS, as_json, row
from tests.ledger.cases import AT, Control, call, record


async def fill(control: Control, *records: CallRecord) -> None:
    await control.ledger.add([encode(one) for one in records])


async def flushed(control: Control, *records: CallRecord) -> None:
    """Put rows into a segment of their own, by way of a journal."""
    control.flushes = getattr(control, "flushes", 0) + 1
    journal = Journal(control.journals, f"gw{control.flushes}")
    for one in records:
        journal.close(one)
    journal.flush()
    await control.ingest.turn()
    await control.ingest.flush()
    journal.stop()


async def test_pages_are_newest_first_and_meet_exactly_over_segments_and_memory(control: Control) -> None:
    numbers = list(range(60))
    random.Random(1).shuffle(numbers)
    # Several calls within the same microsecond, spread over segments.
    records = [record(n, at=AT + n // 4) for n in numbers]
    for start in (0, 20, 40):
        await flushed(control, *records[start : start + 15])
    await fill(control, *(one for start in (0, 20, 40) for one in records[start + 15 : start + 20]))
    expected = [record(n).id for n in sorted(range(60), key=lambda n: (n // 4, n), reverse=True)]
    for limit in (1, 7, 60, 100):
        found: list[str] = []
        cursor = None
        while True:
            page = await control.ledger.calls(limit=limit, cursor=cursor)
            found += [one["id"] for one in page.rows]
            cursor = page.cursor
            if cursor is None:
                break
            assert len(page.rows) == limit
        assert found == expected


async def test_a_page_looks_into_as_few_segments_as_it_needs(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstay.ledger.query._FIRST_LOOK", 5)
    for start in range(0, 40, 10):
        await flushed(control, *(record(n) for n in range(start, start + 10)))
    looked: list[int] = []
    real = control.ledger.files.source

    def source(segments, tables=()):  # type: ignore[no-untyped-def]
        looked.append(len(list(segments)))
        return real(segments, tables)

    monkeypatch.setattr(control.ledger.files, "source", source)
    page = await control.ledger.calls(limit=3)
    assert [one["id"] for one in page.rows] == [record(n).id for n in (39, 38, 37)]
    assert looked == [1]
    page = await control.ledger.calls(limit=15)
    assert [one["id"] for one in page.rows] == [record(n).id for n in range(39, 24, -1)]
    found = await control.ledger.calls(parse("id=" + record(2).id))
    assert [one["id"] for one in found.rows] == [record(2).id]


async def test_segments_whose_times_overlap_are_all_looked_into(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainstay.ledger.query._FIRST_LOOK", 1)
    await flushed(control, record(0), record(1), record(100))
    await flushed(control, *(record(n) for n in range(90, 99)))
    page = await control.ledger.calls(limit=2)
    assert [one["id"] for one in page.rows] == [record(100).id, record(98).id]


async def test_since_and_until_bound_a_page(control: Control) -> None:
    await flushed(control, *(record(n) for n in range(5)))
    await fill(control, *(record(n) for n in range(5, 10)))
    page = await control.ledger.calls(since=AT + 3, until=AT + 7)
    assert [one["at"] - AT for one in page.rows] == [6, 5, 4, 3]
    assert await control.ledger.count(since=AT + 3, until=AT + 7) == 4


@pytest.mark.parametrize("cursor", ["", "x", "////", "fHw", "é"])
async def test_a_cursor_of_nobody_is_refused(control: Control, cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        await control.ledger.calls(cursor=cursor)


async def test_a_row_comes_back_as_it_was_written(control: Control) -> None:
    written = closed(call(message="“odd”\x00\n", user="ann"), ended=100.2, charges={"a|b": 5}, reply_bytes=12)
    await flushed(control, written)
    for _ in range(2):
        found = await control.ledger.get("call_01")
        assert found is not None
        printed = as_json(found)
        assert json.loads(json.dumps(printed)) == printed
        assert (printed["id"], printed["at"]) == ("call_01", "2026-11-18T11:06:40.250000Z")
        assert (printed["status"], printed["outcome"], printed["model"], printed["provider"]) == (
            200,
            "ok",
            "large",
            "beta",
        )
        assert (printed["upstream_model"], printed["message"], printed["user"]) == ("claude", "“odd”\x00\n", "ann")
        assert printed["cost_usd"] == 0.000001234
        assert (printed["duration_ms"], printed["first_token_ms"], printed["overhead_ms"]) == (200.0, 50.0, 130.0)
        assert printed["usage"] == {
            "input": 21, "output": 9, "cached_input": 16, "cache_write": 0, "reasoning": 0, "input_audio": 0,
            "output_audio": 0, "estimated": False,
        }  # fmt: skip
        assert [a["target"] for a in printed["attempts"]] == ["small", "large"]
        assert (printed["attempts"][0]["error"], printed["attempts"][0]["usage"]) == ("overloaded", None)
        assert printed["attempts"][1]["cost_usd"] == 0.000001234
        assert (printed["team"], printed["key"], printed["tags"]) == ("support", "web", {"feature": "search"})
        assert printed["charges"] == {"a|b": 5e-9}
        await control.upkeep.sweep(0)
    assert await control.ledger.get("call_02") is None


async def test_what_is_unknown_is_null_and_never_zero(control: Control) -> None:
    await fill(control, record(0, cost_nano=None, status=401, outcome="refused", team=None, key=None, duration_ms=None))
    printed = as_json((await control.ledger.calls()).rows[0])
    for name in ("cost_usd", "usage", "model_", "first_token_ms", "duration_ms", "team", "key"):
        assert printed.get(name) is None, name
    assert (printed["attempts"], printed["tags"], printed["cache"]) == ([], {}, "off")


async def test_sums_per_group_and_bucket(control: Control) -> None:
    await flushed(control, *(record(n, at=AT + n * 1_000_000, model="small", cost_nano=2**62) for n in range(4)))
    await fill(control, *(record(10 + n, model="large", outcome="failed", tags={"f": "x"}, at=AT) for n in range(3)))
    found = await control.ledger.aggregate(["calls", "cost_nano", "errors", "p50_duration_ms"], ["model"])
    assert found == [
        {"model": "small", "calls": 4, "cost_nano": 2**64, "errors": 0, "p50_duration_ms": 12.5},
        {"model": "large", "calls": 3, "cost_nano": 21, "errors": 3, "p50_duration_ms": 12.5},
    ]
    found = await control.ledger.aggregate(["calls"], bucket=2.0, filter=parse("model=small"))
    assert [(one["at"] - AT, one["calls"]) for one in found] == [(0, 2), (2_000_000, 2)]
    found = await control.ledger.aggregate(["calls"], ["tag.f"])
    assert found == [{"tag.f": None, "calls": 4}, {"tag.f": "x", "calls": 3}]
    assert await control.ledger.aggregate(["calls", "cost_nano"], filter=parse("model=none")) == [
        {"calls": 0, "cost_nano": None}
    ]
    for measures, by in ((["p95_id"], []), (["calls"], ["modle"]), ([], [])):
        with pytest.raises(Invalid):
            await control.ledger.aggregate(measures, by)


async def test_exports_hold_all_columns(control: Control) -> None:
    await flushed(control, record(0, tags={"a": "b"}))
    await fill(control, record(1))
    path = await control.ledger.export("csv", parse("status=200"))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert [one["id"] for one in rows] == [record(0).id, record(1).id]
    assert json.loads(rows[0]["tags"]) == {"a": "b"}
    path = await control.ledger.export("parquet", since=AT + 1)
    found = duckdb.connect().execute("SELECT id, charges FROM read_parquet(?)", [str(path)]).fetchall()
    assert found == [(record(1).id, record(1).charges)]


async def test_a_segment_of_an_older_version_is_read_with_nulls(control: Control) -> None:
    await flushed(control, record(0))
    segment = control.ledger.segments[0]
    path = control.ledger.files.path(segment)
    old = duckdb.connect()
    old.execute(
        'COPY (SELECT v, id, "at", operation, dialect, stream, status, outcome, tags, 3 AS unheard_of, '
        f"[{{'target': 'small', 'at': 5}}] AS attempts FROM read_parquet('{path}')) TO '{path}.old' (FORMAT parquet)"
    )
    Path(str(path) + ".old").replace(path)
    await flushed(control, record(1))
    rows = (await control.ledger.calls()).rows
    assert [one["id"] for one in rows] == [record(1).id, record(0).id]
    assert (rows[1]["team"], rows[1]["charges"]) == (None, {})
    assert rows[1]["attempts"][0]["target"] == "small"
    assert rows[1]["attempts"][0]["usage"] is None


async def test_a_query_that_takes_too_long_is_ended_and_others_go_on(control: Control) -> None:
    endless = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range * b.range % 7 = 3"
    with pytest.raises(TooSlow, match=r"longer than 0\.05 s"):
        await control.ledger.engine.read(endless, timeout=0.05)
    task = asyncio.create_task(control.ledger.engine.read(endless))
    await asyncio.sleep(0)
    await fill(control, record(0))
    assert await control.ledger.count() == 1  # beside the endless one
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await control.ledger.count() == 1


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '{home}/out.csv'",
        "ATTACH '{home}/other.db'",
        "SET enable_external_access = true",
        "SET threads = 8",
        "INSTALL httpfs",
    ],
)
async def test_nothing_outside_its_folder_is_reached(control: Control, statement: str) -> None:
    with pytest.raises(duckdb.Error):
        await control.ledger.engine.read(statement.format(home=control.home))
    assert {path.name for path in control.home.iterdir()} <= {
        "blobs", "control.db", "control.db-shm", "control.db-wal", "journal", "ledger",
    }  # fmt: skip


async def test_files_that_a_query_reads_are_deleted_after_it(control: Control) -> None:
    for start in range(0, 8, 2):
        await flushed(control, record(start), record(start + 1))
    before = [control.ledger.files.path(segment) for segment in control.ledger.segments]
    with control.ledger.pinned() as view:
        assert await control.upkeep.compact() == 4
        assert all(path.exists() for path in before)
        source = control.ledger.files.source(view.segments, view.tables)
        assert await control.ledger.engine.read(f"SELECT count(*) FROM {source}") == [(8,)]
        assert await control.ledger.count() == 8
    await control.ledger.tidy()
    assert not any(path.exists() for path in before)
    assert await control.ledger.count() == 8


async def test_segments_whose_files_are_gone_are_left_out_and_told(control: Control) -> None:
    await flushed(control, record(0))
    await flushed(control, record(1))
    control.ledger.files.path(control.ledger.segments[0]).unlink()
    await control.close()
    again = await Control(control.home).start()
    assert await again.all_ids() == [record(1).id]
    assert [segment.first_id for segment in again.ledger.lost] == [record(0).id]
    await again.close()


def test_a_row_has_every_column_of_the_record() -> None:
    assert list(COLUMNS) == [*CallRecord.__struct_fields__, "taken"]  # the last one is the ledger's own
    assert row([None] * len(COLUMNS))["tags"] == {}
