"""Sums of cost: they agree to the nano-dollar with the rows, the counters and the exports, however calls are grouped."""

from __future__ import annotations

import asyncio
import csv
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.core.money import NANO, usd
from mainstay.ledger.cost_export import export_cost
from mainstay.ledger.filter import parse
from mainstay.ledger.journal import Journal
from mainstay.ledger.record import AttemptRecord, CallRecord, encode
from mainstay.ledger.totals import DAY, DIMENSIONS, SORTS, Sums, compared, daily, totals
from tests.ledger.cases import AT, Control, record

_GROUPINGS = [
    [],
    *([name] for name in (*DIMENSIONS, "tag.feature", "tag.absent")),
    ["team", "model", "tag.feature", "day"],
]

_few = st.one_of(st.none(), st.sampled_from(["a", "b", "=2+2", 'c,"d"\n', "'"]))
_nano = st.one_of(st.none(), st.integers(0, 2**62), st.integers(0, 10))
_count = st.one_of(st.none(), st.integers(0, 2**40))


@st.composite
def _attempt(draw: st.DrawFn) -> AttemptRecord:
    error = draw(st.one_of(st.none(), st.sampled_from(["overloaded", "cancelled"])))
    return AttemptRecord("t", "p", "m", AT, 1.0, error=error, cost_nano=draw(_nano))


@st.composite
def _records(draw: st.DrawFn) -> list[CallRecord]:
    made: list[CallRecord] = []
    for number in range(draw(st.integers(1, 12))):
        fields: dict[str, Any] = {name: draw(_few) for name in ("team", "key", "user", "session", "workflow", "route")}
        fields |= {name: draw(_few) for name in ("model", "provider", "upstream_model")}
        fields |= {sort: draw(_count) for sort in SORTS}
        fields["tags"] = {"feature": value} if (value := draw(_few)) is not None else {}
        fields["cost_nano"] = draw(_nano)
        fields["cost_estimated"] = draw(st.one_of(st.none(), st.booleans()))
        fields["cache"] = draw(st.sampled_from([None, "hit", "miss"]))
        fields["outcome"] = draw(st.sampled_from(["ok", "failed", "refused", "cancelled", "crashed"]))
        fields["attempts"] = draw(st.lists(_attempt(), max_size=3))
        made.append(record(number, at=AT + draw(st.integers(0, 40 * DAY)), charges={}, **fields))
    return made


def _expected(records: list[CallRecord]) -> Sums:
    """The same sums in plain Python."""
    known = [one.cost_nano for one in records if one.cost_nano is not None]
    failed = [a.cost_nano for one in records for a in one.attempts if a.error is not None and a.cost_nano is not None]
    tokens = ([getattr(one, sort) for one in records if getattr(one, sort) is not None] for sort in SORTS)
    return Sums(
        len(records),
        sum(known) if known else None,
        len(records) - len(known),
        sum(one.cost_estimated is True for one in records),
        sum(failed) if failed else None,
        tuple(sum(counts) if counts else None for counts in tokens),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(records=_records(), cut=st.integers(0, 12))
def test_totals_reconcile_to_the_nano_dollar_whatever_the_calls_are(records: list[CallRecord], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_reconciles(Path(folder), records, cut))


async def _reconciles(home: Path, records: list[CallRecord], cut: int) -> None:
    control = await Control(home, flush_seconds=1e9).start()
    try:
        journal = Journal(control.journals, "gw1")
        for one in records[:cut]:
            journal.close(one)
        journal.flush()
        await control.ingest.turn()
        await control.ingest.flush()  # these are in a segment, the others in memory
        for one in records[cut:]:
            journal.close(one)
        journal.flush()
        await control.ingest.turn()
        journal.stop()
        expected = _expected(records)
        for by in _GROUPINGS:
            for limit in (1, 1000):
                found = await totals(control.ledger, by, limit=limit)
                assert found.total == expected, by
                assert len(found.groups) <= limit
                assert found.count == len(found.groups) or limit == 1
        # The rows one by one, and the counters of /metrics.
        page = await control.ledger.calls(limit=1000)
        assert sum(row["cost_nano"] or 0 for row in page.rows) == (expected.cost_nano or 0)
        assert _counted(control.counters.expose()) == (expected.cost_nano or 0)
        # The files, of the calls and of groups.
        for by in ([], ["team", "tag.feature"], ["day"]):
            for format in ("csv", "parquet"):
                assert await _exported(control, format, by) == (expected.cost_nano, expected.unpriced)
    finally:
        await control.close()


def _counted(text: str) -> int:
    lines = [line for line in text.splitlines() if line.startswith("mainstay_cost_usd_total{")]
    return sum(int(Decimal(line.rpartition(" ")[2]) * NANO) for line in lines)


async def _exported(control: Control, format: Any, by: list[str]) -> tuple[int | None, int]:
    path = await export_cost(control.ledger, format, by)
    try:
        if format == "csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            costs = [(row["cost_nano"], row["cost_usd"], row.get("unpriced", "")) for row in rows]
        else:
            unpriced = "unpriced" if by else "''"
            found = duckdb.sql(f"SELECT cost_nano, cost_usd, {unpriced} FROM '{path}'").fetchall()
            costs = [tuple("" if one is None else str(one) for one in row) for row in found]
    finally:
        path.unlink()
    known = [int(Decimal(nano)) for nano, _, _ in costs if nano]
    assert [int(Decimal(dollars) * NANO) for _, dollars, _ in costs if dollars] == known
    missing = sum(int(Decimal(one)) for *_, one in costs) if by else sum(not nano for nano, _, _ in costs)
    return sum(known) if known else None, missing


async def fill(control: Control, *records: CallRecord) -> None:
    await control.ledger.add([encode(one) for one in records])


async def test_groups_come_dearest_first_and_the_drivers_are_counted(control: Control) -> None:
    for number, cost in enumerate([50, 30, 10, 5, 5, 0, None]):
        await fill(control, record(number, user=f"u{number}", cost_nano=cost))
    found = await totals(control.ledger, ["user"], limit=3)
    assert [(group.values[0], group.sums.cost_nano, group.cumulative_nano) for group in found.groups] == [
        ("u0", 50, 50), ("u1", 30, 80), ("u2", 10, 90),
    ]  # fmt: skip
    assert (found.count, found.paid, found.drivers) == (7, 5, 2)
    assert (found.rest.calls, found.rest.cost_nano, found.rest.unpriced) == (4, 10, 1)
    assert (await totals(control.ledger, ["user"], share=81)).drivers == 3
    unknown = await totals(control.ledger, ["user"], parse("user=u6"))
    assert unknown.groups[0].sums.cost_nano is None
    assert (unknown.drivers, unknown.paid) == (0, 0)


async def test_times_are_grouped_in_utc_and_weeks_begin_on_monday(control: Control) -> None:
    sunday = AT // DAY * DAY + 4 * DAY  # 2026-11-22
    await fill(control, record(0, at=sunday + DAY - 1), record(1, at=sunday + DAY), record(2, at=sunday + 9 * DAY))
    for by, expected in (
        ("day", {"2026-11-22", "2026-11-23", "2026-12-01"}),
        ("week", {"2026-11-16", "2026-11-23", "2026-11-30"}),
        ("month", {"2026-11", "2026-12"}),
        ("hour", {"2026-11-22T23:00:00Z", "2026-11-23T00:00:00Z", "2026-12-01T00:00:00Z"}),
    ):
        found = await totals(control.ledger, [by])
        assert {group.values[0] for group in found.groups} == expected


async def test_a_window_is_compared_with_an_earlier_one(control: Control) -> None:
    week = 7 * DAY
    await fill(
        control,
        record(0, at=AT, user="stays", cost_nano=100),
        record(1, at=AT, user="goes", cost_nano=70),
        record(2, at=AT + week, user="stays", cost_nano=130),
        record(3, at=AT + week, user="comes", cost_nano=None),
        record(4, at=AT + week - 1, user="stays", cost_nano=999),  # in neither
    )
    found = await compared(control.ledger, ["user"], since=AT + week, until=AT + week + 10, shift=week)
    assert [(one.values[0], one.now, one.before) for one in found.groups] == [
        ("goes", Sums(0, None), Sums(1, 70)),
        ("stays", Sums(1, 130), Sums(1, 100)),
        ("comes", Sums(1, None, 1), Sums(0, None)),
    ]
    assert (found.count, found.new, found.vanished) == (3, 1, 1)
    found = await compared(control.ledger, ["user"], since=AT + week, until=AT + week + 10, shift=week, limit=1)
    assert (found.rest.now.cost_nano, found.rest.before.cost_nano, found.rest.now.unpriced) == (130, 100, 1)


async def test_days_are_split_at_a_time_of_day(control: Control) -> None:
    day = AT // DAY
    await fill(
        control,
        record(0, at=day * DAY + 5, cost_nano=1),
        record(1, at=day * DAY + 10, cost_nano=2),
        record(2, at=(day + 1) * DAY, cost_nano=None),
    )
    found = (await daily(control.ledger, [], since=day * DAY, until=(day + 2) * DAY, after=10))[()]
    assert [(one.day, one.first_at, one.nano, one.tail_nano, one.unpriced) for one in found] == [
        (day, day * DAY + 5, 3, 2, 0), (day + 1, (day + 1) * DAY, 0, 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("by", [["modell"], ["cost_nano"], ["tag."], ["team", "team"], ["id"], ["team\0"]])
async def test_a_dimension_that_is_none_is_refused(control: Control, by: list[str]) -> None:
    with pytest.raises(Invalid):
        await totals(control.ledger, by)


async def test_no_cell_of_a_csv_is_a_formula(control: Control) -> None:
    evil = ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "＝1", "|calc", "%x", "\r=1"]
    for number, text in enumerate(evil):
        await fill(control, record(number, user=text, tags={"feature": text, "=tag": text}))
    for by in ([], ["user", "tag.feature", "tag.=tag"]):
        path = await export_cost(control.ledger, "csv", by)
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        assert len(rows) == len(evil)
        for cell in [*head, *(cell for row in rows for cell in row)]:
            assert not cell.strip().startswith(("=", "+", "-", "@", "|", "%", "＝")), cell
        assert {row[head.index("user")] for row in rows} == {f"'{text}" for text in evil}
    path = await export_cost(control.ledger, "parquet")
    assert {row[0] for row in duckdb.sql(f"SELECT \"user\" FROM '{path}'").fetchall()} == set(evil)


async def test_what_failed_attempts_cost_is_told_apart(control: Control) -> None:
    attempts = [
        AttemptRecord("a", "p", "m", AT, 1.0, error="overloaded", cost_nano=3),
        AttemptRecord("b", "p", "m", AT, 1.0, cost_nano=40),
    ]
    await fill(control, record(0, cost_nano=43, attempts=attempts), record(1, cost_nano=5))
    found = (await totals(control.ledger)).total
    assert (usd(found.cost_nano or 0), found.failed_nano) == ("0.000000048", 3)
    quick = (await totals(control.ledger, failed=False)).total
    assert (quick.cost_nano, quick.failed_nano) == (48, None)
