"""What the journal promises when the disk is well, full, failing, and when the process is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Unavailable
from mainstay.ledger.frames import CLOSE, OPEN, frame, scan
from mainstay.ledger.journal import Journal
from mainstay.ledger.journal_reader import Cursor, JournalReader
from mainstay.ledger.record import RECORD_LIMIT, decode, decode_open
from tests.ledger.cases import opening, record
from tests.running import ROOT, of_the_source


def frames(journal: Journal | Path) -> list[tuple[int, str]]:
    """Kind and call id of all that a reader finds."""
    folder = journal if isinstance(journal, Path) else journal.folder
    found: list[tuple[int, str]] = []
    for entry in JournalReader(folder).read(Cursor()).entries:
        if entry.kind == OPEN:
            found.append((OPEN, decode_open(entry.payload).id))
        elif entry.kind == CLOSE:
            found.append((CLOSE, decode(entry.payload).id))
        else:
            found.append((entry.kind, entry.payload.decode()))
    return found


class Disk:
    """Writes that go wrong when told to."""

    def __init__(self) -> None:
        self.fails: Callable[[int], int | OSError | None] = lambda _length: None
        self.full = False
        self.writes = 0

    def write(self, fd: int, data: bytes, offset: int) -> int:
        self.writes += 1
        verdict = self.fails(len(data))
        if isinstance(verdict, OSError):
            raise verdict
        return os.pwrite(fd, data if verdict is None else data[:verdict], offset)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.posix_fallocate(fd, offset, length)


async def test_an_open_is_in_the_file_at_once_and_closes_go_with_one_write_per_turn(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal(tmp_path, "gw", write=disk.write)
    journal.open(opening(0))
    assert frames(journal) == [(OPEN, opening(0).id)]
    writes = disk.writes
    told: list[str] = []
    for number in range(5):
        journal.close(record(number))
    journal.after_flush(lambda: told.append("flushed"))
    assert len(frames(journal)) == 1
    assert told == []
    await asyncio.sleep(0)
    assert told == ["flushed"]
    assert disk.writes == writes + 1
    assert len(frames(journal)) == 6
    journal.after_flush(lambda: told.append("at once"))
    assert told == ["flushed", "at once"]
    journal.close(record(9))
    journal.open(opening(10))  # takes the pending record along in its own write
    assert disk.writes == writes + 2
    assert [call for _, call in frames(journal)][-2:] == [record(9).id, opening(10).id]
    assert (journal.written, journal.dropped, journal.open_calls) == (6, 0, 1)
    journal.stop()


async def test_a_callback_is_called_after_the_write_and_one_that_raises_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, "gw")
    order: list[str] = []

    def bad() -> None:
        raise RuntimeError("gone away")

    journal.close(record(1))
    journal.after_flush(bad)
    journal.after_flush(lambda: order.append(str(len(frames(journal)))))
    with pytest.raises(RuntimeError, match="gone away"):
        journal.flush()
    assert order == ["1"]
    await asyncio.sleep(0)
    journal.stop()


def test_a_full_disk_refuses_new_calls_and_closes_those_that_were_opened(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal(tmp_path, "gw", chunk=4096, write=disk.write, allocate=disk.allocate)
    for number in range(3):
        journal.open(opening(number))
    disk.full = True
    refused = 0
    for number in range(3, 50):
        try:
            journal.open(opening(number))
        except Unavailable:
            refused += 1
    admitted = 50 - refused
    assert refused > 0
    assert journal.full
    with pytest.raises(Unavailable, match="free space") as refusal:
        journal.open(opening(50))
    assert refusal.value.code == "journal_full"
    long = "x" * RECORD_LIMIT
    for number in range(admitted):
        journal.close(record(number, message=long))
    journal.flush()
    assert journal.dropped == 0
    assert len(frames(journal)) == 2 * admitted
    disk.full = False
    journal.open(opening(99))
    assert not journal.full
    journal.stop()


def test_when_it_is_to_serve_rows_without_room_are_dropped_counted_and_told_later(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal(tmp_path, "gw", chunk=1, on_full="serve", write=disk.write, allocate=disk.allocate)
    disk.full = True
    assert not journal.open(opening(0))
    told: list[int] = []
    for number in range(3):
        journal.close(record(number))
    journal.after_flush(lambda: told.append(1))
    assert told == [1]
    assert (journal.written, journal.dropped) == (0, 3)
    disk.full = False
    assert journal.open(opening(7))
    journal.close(record(7))
    assert frames(journal) == [(OPEN, opening(7).id), (CLOSE, record(7).id), (3, "3")]
    journal.stop()


@pytest.mark.parametrize("on_full", ["refuse", "serve"])
async def test_a_disk_that_fails_and_comes_back_loses_nothing_it_had_room_for(tmp_path: Path, on_full: str) -> None:
    disk, clock = Disk(), FixedClock()
    journal = Journal(tmp_path, "gw", on_full=on_full, write=disk.write, allocate=disk.allocate, clock=clock)
    journal.open(opening(0))
    disk.fails = lambda _length: OSError(errno.EIO, "Input/output error")
    told: list[int] = []
    journal.close(record(0))
    journal.after_flush(lambda: told.append(1))
    await asyncio.sleep(0)
    if on_full == "serve":
        assert (journal.dropped, told) == (1, [1])
    else:
        assert (journal.dropped, told) == (0, [])  # the reply waits for its record
        with pytest.raises(Unavailable):
            journal.open(opening(1))
    disk.fails = lambda _length: None
    async with asyncio.timeout(5):
        while journal.waiting:
            await asyncio.sleep(0.01)
    journal.flush()
    assert told == [1]
    assert [pair for pair in frames(journal) if pair[0] == CLOSE] == (
        [] if on_full == "serve" else [(CLOSE, record(0).id)]
    )
    journal.stop()


async def test_replies_do_not_hang_on_a_disk_that_does_not_come_back(tmp_path: Path) -> None:
    disk, clock = Disk(), FixedClock()
    journal = Journal(tmp_path, "gw", write=disk.write, clock=clock)
    journal.open(opening(0))
    disk.fails = lambda _length: OSError(errno.EIO, "Input/output error")
    told: list[int] = []
    journal.close(record(0))
    journal.after_flush(lambda: told.append(1))
    journal.flush()
    assert told == []
    clock.advance(6)
    journal.flush()
    assert told == [1]
    assert journal.waiting
    disk.fails = lambda _length: None
    journal.flush()
    assert frames(journal)[-1] == (CLOSE, record(0).id)
    journal.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "close", "refused"]), st.one_of(st.none(), st.integers(0, 600), st.just(-1))
        ),
        max_size=25,
    )
)
def test_whatever_writes_do_the_file_holds_what_the_journal_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int | None]]
) -> None:
    # Short writes and errors at will: afterwards each accepted record is there once, in whole, and no other is.
    disk = Disk()
    journal = Journal(tmp_path_factory.mktemp("j"), "gw", segment_bytes=1500, chunk=512, write=disk.write)
    expected: set[tuple[int, str]] = set()
    opened: list[int] = []
    for number, (step, fate) in enumerate(steps):
        once = [fate]

        def fails(length: int, once: list[int | None] = once) -> int | OSError | None:
            fate, once[0] = once[0], None
            if fate is None:
                return None
            return OSError(errno.EIO, "Input/output error") if fate < 0 else min(fate, length)

        disk.fails = fails
        if step == "open":
            try:
                journal.open(opening(number))
            except Unavailable:
                continue
            opened.append(number)
            expected.add((OPEN, opening(number).id))
        else:
            which = opened.pop() if step == "close" and opened else number
            journal.close(record(which))
            expected.add((CLOSE, record(which).id))
    disk.fails = lambda _length: None
    assert journal.flush()
    found = frames(journal)
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert journal.written == sum(kind == CLOSE for kind, _ in expected)
    assert journal.dropped == 0
    journal.stop()


@pytest.mark.parametrize("zeros_fail", [False, True])
def test_an_open_that_was_refused_is_not_read_though_its_bytes_reached_the_file(
    tmp_path: Path, zeros_fail: bool
) -> None:
    failing = False

    def write(fd: int, data: bytes, offset: int) -> int:
        if failing and zeros_fail and not any(data):
            raise OSError(errno.EIO, "Input/output error")
        written = os.pwrite(fd, data, offset)
        if failing and any(data):
            raise OSError(errno.EIO, "Input/output error")
        return written

    journal = Journal(tmp_path, "gw", write=write)
    journal.open(opening(0))
    failing = True
    with pytest.raises(Unavailable):
        journal.open(opening(1))
    failing = False
    assert frames(journal) == [(OPEN, opening(0).id)]
    journal.close(record(0))
    journal.stop()
    assert frames(journal) == [(OPEN, opening(0).id), (CLOSE, record(0).id)]


def test_segments_are_rotated_by_size_and_give_back_what_they_did_not_use(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gw", segment_bytes=3000, chunk=100_000)
    for number in range(30):
        journal.open(opening(number))
        journal.close(record(number))
    journal.stop()
    sizes = [path.stat().st_size for path in sorted(journal.folder.glob("*.log"))]
    assert len(sizes) > 3
    assert all(3000 <= size < 6000 for size in sizes[:-1])
    assert len(frames(journal)) == 60


async def test_a_segment_is_rotated_when_it_is_old_and_not_while_it_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gw", segment_seconds=0.02)
    await asyncio.sleep(0.1)
    assert len(list(journal.folder.glob("*.log"))) == 1
    journal.open(opening(0))
    async with asyncio.timeout(5):
        while len(list(journal.folder.glob("*.log"))) < 2:
            await asyncio.sleep(0.01)
    journal.close(record(0))
    journal.stop()
    assert frames(journal) == [(OPEN, opening(0).id), (CLOSE, record(0).id)]


def test_the_lock_is_held_while_the_journal_lives(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gw")
    reader = JournalReader(journal.folder)
    assert not reader.dead()
    journal.stop()
    assert reader.dead()
    reader.close()


def test_a_gateway_id_is_used_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gw")
    journal.open(opening(0))
    with pytest.raises(OSError, match="not empty"):
        Journal(tmp_path, "gw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gw"]
    journal.stop()


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(tmp_path, "gw", chunk=8192)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
        admitted, message = 0, ""
        while not journal.full and admitted < 100:
            try:
                journal.open(opening(admitted))
                admitted += 1
            except Unavailable as error:
                message = error.message
        for number in range(admitted):
            journal.close(record(number))
        assert journal.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < admitted < 100
    assert "File too large" in message
    assert len(frames(journal)) == 2 * admitted
    journal.stop()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=80), max_size=12), st.data())
def test_any_prefix_of_a_journal_yields_exactly_its_whole_frames(payloads: list[bytes], data: st.DataObject) -> None:
    written = b"".join(frame(OPEN + n % 2, payload) for n, payload in enumerate(payloads))
    cut = data.draw(st.integers(0, len(written)))
    zeros = data.draw(st.integers(0, 40))
    whole, end = 0, 0
    for payload in payloads:
        if end + 9 + len(payload) > cut:
            break
        end += 9 + len(payload)
        whole += 1
    found = scan(written[:cut] + bytes(zeros))
    # Zeros behind a cut may happen to be what was cut off.
    at_least = [payload for _, payload in found.frames][:whole]
    assert at_least == payloads[:whole]
    for _, payload in found.frames[whole:]:
        assert payload == payloads[whole]
        assert set(written[cut : cut + zeros]) == {0}
    if not zeros:
        assert (len(found.frames), found.offset) == (whole, end)
        assert (found.state == "end") == (cut == end or not any(written[end:cut]))


WRITER = """
import asyncio, os, sys
from pathlib import Path
from mainstay.ledger.journal import Journal
from tests.ledger.cases import opening, record

async def main():
    journal = Journal(Path(sys.argv[1]), "gw", segment_bytes=20_000, chunk=8192)
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
    number = 0
    print("up", flush=True)
    while True:
        batch = range(number, number + 7)
        for n in batch:
            journal.open(opening(n))
        for n in batch:
            journal.close(record(n))
            # The last byte of the reply: whoever finds it here must find the record in the journal.
            journal.after_flush(lambda n=n: os.write(out, b"%d\\n" % n))
        number += 7
        await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_reply_that_was_finished_has_its_record_though_the_process_is_killed(tmp_path: Path, seed: int) -> None:
    replies = tmp_path / "replies"
    replies.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "journal"), str(replies)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=of_the_source(),
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        wanted = random.Random(seed).randrange(1, 40_000)
        while replies.stat().st_size < wanted:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = tmp_path / "journal" / "gw"
    reader = JournalReader(folder)
    assert reader.dead()
    reader.close()
    found: list[tuple[int, str]] = []
    cursor = Cursor()
    while True:
        read = JournalReader(folder).read(cursor, 50_000)
        found += [(e.kind, (decode if e.kind == CLOSE else decode_open)(e.payload).id) for e in read.entries]
        assert read.corrupt == 0
        cursor = read.cursor
        if read.at_end:
            break
    closed = [call for kind, call in found if kind == CLOSE]
    assert len(closed) == len(set(closed))
    finished = {record(int(line)).id for line in replies.read_text().split("\n")[:-1]}
    assert finished <= set(closed)
    assert set(closed) <= {call for kind, call in found if kind == OPEN}
