"""Spans become rows once: re-sends, a process that died, a full disk, costs; and calls are read on from a place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Unavailable
from mainstay.core.ids import Ids
from mainstay.core.money import Price
from mainstay.core.usage import Usage
from mainstay.ledger.following import Following, Place
from mainstay.ledger.journal import Journal
from mainstay.ledger.traces import application_costs, present
from mainstay.observe.intake import Intake, Rows, Sender
from mainstay.observe.spans_record import Content, SpanRecord
from tests.ledger.cases import AT, Control, record

TEAM = Sender("support", "web", "key_1")
CLOCK = FixedClock(AT / 1e6 + 60)
TRACE = "5a" * 16


def span(number: int, **fields: Any) -> SpanRecord:
    given: dict[str, Any] = {
        "trace": TRACE, "span": f"{number:016x}", "parent": None, "name": "step", "kind": "llm", "start": AT * 1000,
        "end": AT * 1000 + 5_000_000, "dialect": "genai", "ok": True,
    }  # fmt: skip
    return SpanRecord(**{**given, **fields})


def free(provider: str, model: str, at: float) -> Price | None:
    return Price(1_000_000_000, 2_000_000_000) if (provider, model) == ("openai", "gpt-4o") else None


class House:
    """A control side with an intake; ``take`` sends spans, ``rows`` are those that queries show."""

    def __init__(self, control: Control, name: str = "control_a", **disk: Any) -> None:
        self.control = control

        async def settled() -> None:
            async with control.ingest.paused():
                return

        self.journal = Journal(control.journals, name, **disk)
        self.intake = Intake(
            self.journal,
            lambda ids, first, last: present(control.ledger, ids, first, last),
            settled,
            lambda: None,
            CLOCK,
            90,
        )

    def made(self, *spans: SpanRecord, sender: Sender = TEAM) -> Rows:
        return self.intake.rows(spans, sender, "otlp", free)

    async def take(self, *spans: SpanRecord, sender: Sender = TEAM) -> int:
        return await self.intake.take(self.made(*spans, sender=sender))

    async def rows(self) -> list[dict[str, Any]]:
        await self.control.ingest.turn()
        return (await self.control.ledger.calls(source="all")).rows


async def test_a_span_is_one_row_before_and_after_it_is_in_the_ledger(control: Control) -> None:
    house = House(control)
    assert await house.take(span(1), span(2), span(1)) == 2
    assert await house.take(span(2), span(3)) == 1, "2 is in the journal, and in no table yet"
    assert len(await house.rows()) == 3
    await control.ingest.flush()
    later = House(control, "control_b")  # another process, which knows nothing but the ledger
    assert await later.take(span(1), span(2), span(3)) == 0
    assert await later.take(span(1), sender=Sender("other", "k", "key_2")) == 1, "another team's is another span"
    assert len(await later.rows()) == 4
    house.intake.close()
    later.intake.close()


async def test_what_a_dead_process_left_in_its_journal_is_known(control: Control) -> None:
    died = House(control)
    assert await died.take(span(1)) == 1
    died.intake.close()  # its lock is let go, as when it is killed; nothing has read the journal
    house = House(control, "control_b")
    assert await house.take(span(1)) == 0
    assert [row["span"] for row in await house.rows()] == [f"{1:016x}"]
    house.intake.close()


async def test_on_a_full_disk_nothing_is_taken_and_the_same_spans_may_come_again(control: Control) -> None:
    full = False

    def allocate(descriptor: int, offset: int, length: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.posix_fallocate(descriptor, offset, length)

    house = House(control, allocate=allocate, chunk=1)
    full = True
    with pytest.raises(Unavailable) as refused:
        await house.take(span(1))
    assert (refused.value.code, refused.value.retry_after) == ("journal_full", 5.0)
    full = False
    assert await house.take(span(1)) == 1
    assert len(await house.rows()) == 1
    house.intake.close()


async def test_a_ledger_that_cannot_be_asked_is_a_reason_to_come_again(control: Control) -> None:
    house = House(control)
    rows = house.made(span(1))

    async def broken(ids: Any, first: int, last: int) -> set[str]:
        raise RuntimeError("the database is away")

    house.intake._present = broken  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(Unavailable) as refused:
        await house.intake.take(rows)
    assert refused.value.code == "ledger_unavailable"
    house.intake.close()


def test_what_is_left_out_and_what_is_known_of_cost(tmp_path: Path) -> None:
    async def never(ids: Any, first: int, last: int) -> set[str]:
        return set()

    async def settled() -> None: ...

    journal = Journal(tmp_path, "control_a")
    intake = Intake(journal, never, settled, lambda: None, CLOCK, 90)
    usage = Usage(1_000_000, 500_000)
    priced = span(1, provider="openai", model="gpt-4o", usage=usage)
    rows = intake.rows(
        [
            priced,
            span(2, provider="openai", model="gpt-4o", usage=usage, reported_cost=7),
            span(3, provider="openai", model="unheard-of", usage=usage),
            span(4, start=1),
            span(5, start=AT * 1000 + 200_000 * 10**9),
            span(6, own=True, call="call_x"),
            span(7, content=Content("a question", "an answer")),
        ],
        TEAM,
        "otlp",
        free,
    )
    assert [one is None for one in rows.ids] == [False, False, False, True, True, True, False]
    assert (rows.rejected, "clock" in rows.reason) == (2, True)
    costs = [(row.app_cost_nano, row.app_cost_source, row.cost_nano) for row, _ in rows.rows.values()]
    assert costs[:3] == [(2_000_000_000, "price_book", None), (7, "reported", None), (None, None, None)]
    assert rows.ids[6] is not None
    assert rows.rows[rows.ids[6]][1] is None, "content only where the key or the setting says so"
    intake.close()


async def test_costs_above_a_call_or_another_cost_are_not_counted_again(control: Control) -> None:
    """agent (says 9) > chat (says 5) > POST > a call; agent > chat (says 2), beside it; and one that names a call."""
    house = House(control)
    call, named = Ids().make("call_"), Ids().make("call_")
    gateway = Journal(control.journals, "gw")
    gateway.close(record(1, id=call, trace=TRACE, parent=f"{3:016x}"))
    gateway.close(record(2, id=named))
    gateway.flush()
    spans = [
        span(1, reported_cost=9, kind="agent"),
        span(2, reported_cost=5, parent=f"{1:016x}", model="a"),
        span(3, parent=f"{2:016x}", kind="other"),
        span(4, reported_cost=2, parent=f"{1:016x}", model="b"),
        span(5, reported_cost=4, trace="6a" * 16, call=named, model="c"),
        span(6, reported_cost=3, trace="6b" * 16, call=call[:-1] + "0", model="d"),  # it names a call that is not there
    ]
    await house.take(*spans)
    await house.rows()
    (whole,) = await application_costs(control.ledger)
    assert whole == {"cost_nano": 5, "spans": 2, "covered_nano": 18, "covered": 3}
    by = await application_costs(control.ledger, ["model"])
    assert [(one["model"], one["cost_nano"]) for one in by][:2] == [("d", 3), ("b", 2)]
    assert (await control.ledger.aggregate(["calls", "cost_nano"]))[0] == {"calls": 2, "cost_nano": 14}
    house.intake.close()
    gateway.stop()


async def test_calls_are_read_on_from_a_place_also_when_segments_were_merged(control: Control) -> None:
    house = House(control)
    gateway = Journal(control.journals, "gw")
    following = Following(control.ledger)
    place, seen = Place(0), list[str]()
    await house.take(span(99))  # the first one waits until all that was left in journals is in the ledger
    for number in range(12):
        gateway.close(record(100 - number))  # later ones began earlier
        gateway.flush()
        await house.take(span(number))
        await control.ingest.turn()
        assert (await following.read(place, 10))[0] == [], "what is in memory only may come again"
        await control.ingest.flush()
        found, place = await following.read(place, 10)
        seen += [one.id for one in found]
        await control.upkeep.compact()
    assert seen == [record(100 - number).id for number in range(12)]
    assert (await following.read(place, 10))[0] == []
    again, _ = await following.read(Place(0), 5)
    assert [one.id for one in again] == seen[:5]
    assert again[0].charges == record(100).charges
    gateway.stop()
    house.intake.close()
