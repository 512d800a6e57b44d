"""Journals become the ledger, exactly once; charges are settled with them; the dead are recovered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mainstay.core.errors import Conflict
from mainstay.ledger.journal import Journal
from mainstay.ledger.spool import Content, ContentSpool
from tests.ledger.cases import POOL, Control, opening, record


def write(journal: Journal, numbers: range, *, close: bool = True) -> None:
    for number in numbers:
        journal.open(opening(number))
        if close:
            journal.close(record(number))
    journal.flush()


async def test_a_row_is_visible_after_one_turn_and_stays_after_the_flush(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(3))
    await control.ingest.turn()
    assert await control.all_ids() == [record(n).id for n in (2, 1, 0)]
    assert await control.spent() == {}
    await control.ingest.flush()
    assert await control.all_ids() == [record(n).id for n in (2, 1, 0)]
    assert await control.spent() == {("gw1", POOL): 21}
    assert control.ledger.fresh_rows == 0
    status = control.ingest.status()
    assert (status.stored, status.dropped, status.corrupt, status.lag_bytes) == (3, 0, 0, 0)
    journal.stop()


async def test_rows_not_flushed_are_read_again_after_a_crash_and_flushed_ones_are_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "gw1")
    first = await Control(tmp_path, flush_seconds=1e9).start()
    write(journal, range(2))
    await first.ingest.turn()
    await first.ingest.flush()
    write(journal, range(2, 5))
    await first.ingest.turn()
    await first.close()  # without a flush, as a SIGKILL would leave it
    second = await Control(tmp_path, flush_seconds=1e9).start()
    assert len(await second.all_ids()) == 2
    await second.ingest.turn()
    await second.ingest.flush()
    assert len(await second.all_ids()) == len(set(await second.all_ids())) == 5
    assert await second.spent() == {("gw1", POOL): 35}
    assert second.ingest.status().stored == 5
    await second.close()
    journal.stop()


@pytest.mark.parametrize("step", ["write", "_commit", "adopt"])
async def test_a_flush_that_fails_at_any_step_is_tried_again_and_counts_once(
    control: Control, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(4))
    await control.ingest.turn()
    target = control.ingest if step == "_commit" else control.ledger
    real = getattr(target, step)
    calls = 0

    async def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            if step == "_commit":  # the answer to a commit that went through gets lost
                await real(*arguments)
            raise OSError("no space left on device")
        return await real(*arguments)

    monkeypatch.setattr(target, step, failing)
    with pytest.raises(OSError, match="no space"):
        await control.ingest.flush()
    write(journal, range(4, 6))
    await control.ingest.turn()
    await control.ingest.flush()
    await control.ingest.flush()
    assert sorted(await control.all_ids()) == [record(n).id for n in range(6)]
    assert await control.spent() == {("gw1", POOL): 42}
    journal.stop()


async def test_the_open_calls_of_a_dead_gateway_crash_and_are_charged_with_their_holds(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(2))
    write(journal, range(2, 4), close=False)
    await control.ingest.turn()
    assert await control.recovered() == set()
    journal.stop()
    await control.ingest.turn()
    assert await control.recovered() == {"gw1"}
    assert await control.spent() == {("gw1", POOL): 2 * 7 + 2 * 100}
    row = await control.ledger.get(record(3).id)
    assert row is not None
    assert (row["outcome"], row["status"], row["cost_nano"], row["charges"]) == ("crashed", 0, None, {POOL: 100})
    assert not (control.journals / "gw1").exists()
    assert control.ingest.status().gateways == ()
    async with control.database.read() as connection:
        assert await control.manifest.cursors(connection) == {}


async def test_open_calls_survive_a_restart_of_control_also_across_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "gw1", segment_bytes=2000, chunk=16384)
    first = await Control(tmp_path, flush_seconds=1e9).start()
    write(journal, range(1), close=False)
    write(journal, range(1, 20))
    write(journal, range(20, 22), close=False)
    await first.ingest.turn()
    await first.ingest.flush()
    left = sorted(path.name for path in journal.folder.glob("*.log"))
    assert len(left) == 1  # what is in the ledger is not kept beside it
    await first.close()
    second = await Control(tmp_path, flush_seconds=1e9).start()
    journal.close(record(21))
    journal.flush()
    journal.stop()
    await second.ingest.turn()
    assert sorted(await second.all_ids()) == [record(n).id for n in range(22)]
    assert await second.spent() == {("gw1", POOL): 20 * 7 + 2 * 100}
    assert [row["id"] for row in (await second.ledger.calls()).rows if row["outcome"] == "crashed"] == [
        record(20).id,
        record(0).id,
    ]
    await second.close()


async def test_control_killed_after_the_recovery_was_committed_does_not_recover_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", "gw1")
    write(journal, range(2), close=False)
    journal.stop()
    first = await Control(tmp_path, flush_seconds=1e9).start()

    async def killed(*_: object) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(first.ingest, "_removed", killed)
    with pytest.raises(OSError, match="killed here"):
        await first.ingest.turn()
    await first.close()
    second = await Control(tmp_path, flush_seconds=1e9).start()
    await second.ingest.turn()
    assert len(await second.all_ids()) == 2
    assert await second.spent() == {("gw1", POOL): 200}
    assert not journal.folder.exists()
    await second.close()


async def test_a_file_that_no_manifest_names_is_removed_at_the_start(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(2))
    await control.ingest.turn()
    segment = await control.ledger.write(await control.ledger.freeze())
    assert segment is not None
    path = control.ledger.files.path(segment)
    assert path.exists()
    await control.close()
    again = await Control(control.home).start()
    assert not path.exists()
    await again.close()
    journal.stop()


async def test_two_processes_do_not_take_in_the_same_journal(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(2))
    await control.ingest.turn()
    async with control.database.write() as connection:
        cursors = await control.manifest.cursors(connection)
        assert cursors == {}
    other = await Control(control.home, flush_seconds=1e9).start()
    await other.ingest.turn()
    await other.ingest.flush()
    with pytest.raises(Conflict, match="another process"):
        await control.ingest.flush()
    await other.close()
    journal.stop()


async def test_a_damaged_record_is_counted_and_the_rest_is_taken_in(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(5))
    journal.stop()
    path = next(journal.folder.glob("*.log"))
    data = bytearray(path.read_bytes())
    middle = data.index(record(2).id.encode(), data.index(b'"outcome"', data.index(record(2).id.encode())) - 200)
    data[middle] ^= 0xFF
    path.write_bytes(data)
    await control.ingest.turn()
    rows = {row["id"]: row["outcome"] for row in (await control.ledger.calls()).rows}
    assert len(rows) in (4, 5)  # the damaged frame opened or closed call 2
    assert control.ingest.status().corrupt == 1
    assert all(outcome == "ok" for call, outcome in rows.items() if call != record(2).id)


async def test_a_figure_that_no_column_holds_does_not_stop_the_rest(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    for number in range(3):
        journal.close(record(number, reply_bytes=2**63 if number == 1 else 5))
    journal.flush()
    await control.ingest.turn()
    assert [row["reply_bytes"] for row in (await control.ledger.calls()).rows] == [5, None, 5]
    journal.stop()


async def test_above_the_limit_of_fresh_rows_the_journal_grows_instead(tmp_path: Path) -> None:
    control = await Control(tmp_path, flush_seconds=1e9, flush_rows=10**9, fresh_limit=10).start()
    journal = Journal(control.journals, "gw1")
    write(journal, range(10))
    await control.ingest.turn()
    write(journal, range(10, 12))
    await control.ingest.turn()
    assert control.ledger.fresh_rows == 10
    assert control.ingest.status().lag_bytes > 0
    await control.ingest.flush()
    await control.ingest.turn()
    assert control.ingest.status().lag_bytes == 0
    assert len(await control.all_ids()) == 12
    await control.close()
    journal.stop()


async def test_content_is_stored_apart_and_also_collected_from_the_dead(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    spool = ContentSpool(journal.folder)
    content = Content(record(0).id, record(0).at, b'{"model":"small"}', b"data: x\n\n", reply_type="text/event-stream")
    journal.close(record(0, content=spool.put(content)))
    await control.ingest.turn()
    assert await control.content.get(record(0).id) == content
    spool.put(Content(record(1).id, record(1).at, b"a", b"b"))
    journal.stop()
    await control.ingest.turn()
    assert not journal.folder.exists()
    assert (await control.content.get(record(1).id)) is not None


async def test_rows_that_a_gateway_dropped_are_counted_for_good(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    journal.dropped = 3
    write(journal, range(1))
    await control.ingest.turn()
    assert control.ingest.status().dropped == 3
    await control.ingest.flush()
    await control.close()
    again = await Control(control.home).start()
    assert again.ingest.status().dropped == 3
    await again.close()
    journal.stop()


async def test_run_takes_in_what_comes_and_flushes_at_the_end(control: Control) -> None:
    import asyncio

    journal = Journal(control.journals, "gw1")
    task = asyncio.create_task(control.ingest.run())
    write(journal, range(3))
    control.ingest.wake()
    async with asyncio.timeout(10):
        while control.ledger.fresh_rows < 3:
            await asyncio.sleep(0.01)
    control.ingest.stop()
    await task
    assert control.ledger.fresh_rows == 0
    assert len(await control.all_ids()) == 3
    journal.stop()


async def test_a_journal_that_somebody_deleted_is_given_up(control: Control) -> None:
    journal = Journal(control.journals, "gw1")
    write(journal, range(2), close=False)
    await control.ingest.turn()
    for path in journal.folder.iterdir():
        path.unlink()
    os.rmdir(journal.folder)
    await control.ingest.turn()
    assert control.ingest.status().gateways == ()
    assert await control.spent() == {("gw1", POOL): 200}
    journal.stop()
