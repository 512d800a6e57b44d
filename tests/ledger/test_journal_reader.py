"""Reading a journal: cursors, torn ends, damage, deletion."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.ledger.frames import CLOSE
from mainstay.ledger.journal import Journal
from mainstay.ledger.journal_reader import Cursor, JournalReader
from mainstay.ledger.record import decode
from tests.ledger.cases import record


def written(folder: Path, count: int, segment_bytes: int = 1 << 24) -> Journal:
    journal = Journal(folder, "gw", segment_bytes=segment_bytes, chunk=4096)
    for number in range(count):
        journal.close(record(number))
    journal.flush()
    return journal


def ids(reader: JournalReader, limit: int = 1 << 22) -> tuple[list[str], int, bool]:
    """All calls, read in steps of ``limit`` bytes; the damaged places; whether the end is torn."""
    found: list[str] = []
    cursor, corrupt = Cursor(), 0
    while True:
        read = reader.read(cursor, limit)
        found += [decode(entry.payload).id for entry in read.entries if entry.kind == CLOSE]
        corrupt += read.corrupt
        assert read.cursor >= cursor
        cursor = read.cursor
        if read.at_end:
            return found, corrupt, read.torn


def test_a_cursor_goes_on_where_it_stopped_also_over_segments(tmp_path: Path) -> None:
    journal = written(tmp_path, 40, segment_bytes=1000)
    reader = JournalReader(journal.folder)
    assert len(reader.segments()) > 5
    for limit in (1, 300, 5000, 1 << 22):
        assert ids(reader, limit) == ([record(n).id for n in range(40)], 0, False)
    end = reader.read(Cursor()).cursor
    assert reader.read(end).entries == []
    journal.close(record(40))
    journal.flush()
    assert [decode(entry.payload).id for entry in reader.read(end).entries] == [record(40).id]
    journal.stop()


def test_a_torn_end_is_no_record_and_no_damage(tmp_path: Path) -> None:
    journal = written(tmp_path, 3)
    journal.stop()
    path = next(journal.folder.glob("*.log"))
    path.write_bytes(path.read_bytes()[:-5])
    reader = JournalReader(journal.folder)
    assert reader.dead()
    assert ids(reader) == ([record(0).id, record(1).id], 0, True)
    reader.close()


def test_damage_in_the_middle_costs_one_record_where_the_next_can_be_found(tmp_path: Path) -> None:
    journal = written(tmp_path, 5)
    path = next(journal.folder.glob("*.log"))
    data = bytearray(path.read_bytes())
    data[data.index(record(2).id.encode())] ^= 1
    path.write_bytes(data)
    reader = JournalReader(journal.folder)
    assert ids(reader) == ([record(0).id, record(1).id], 0, True)  # its gateway may still be writing it
    assert ids(reader) == ([record(n).id for n in (0, 1, 3, 4)], 1, False)  # seen twice, with more behind it
    journal.stop()
    dead = JournalReader(journal.folder)
    assert dead.dead()
    assert ids(dead) == ([record(n).id for n in (0, 1, 3, 4)], 1, False)
    dead.close()


def test_damage_that_hides_what_follows_costs_the_rest_of_the_segment_once(tmp_path: Path) -> None:
    journal = written(tmp_path, 40, segment_bytes=3000)
    first = sorted(journal.folder.glob("*.log"))[0]
    data = bytearray(first.read_bytes())
    data[0:4] = b"\xff\xff\xff\xff"
    first.write_bytes(data)
    for limit in (1, 1 << 22):
        found, corrupt, torn = ids(JournalReader(journal.folder), limit)
        assert (corrupt, torn) == (1, False)
        assert 20 < len(found) < 40
        assert found == [record(n).id for n in range(40 - len(found), 40)]
    journal.stop()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10), st.data())
def test_any_prefix_of_the_file_yields_exactly_the_whole_records(
    tmp_path_factory, count: int, data: st.DataObject
) -> None:
    journal = written(tmp_path_factory.mktemp("journal"), count)
    journal.stop()
    path = next(journal.folder.glob("*.log"))
    whole = path.read_bytes()
    size = len(whole) // count if count else 0
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + bytes(data.draw(st.integers(0, 3)) * 4096))
    reader = JournalReader(journal.folder)
    assert reader.dead()
    found, corrupt, torn = ids(reader)
    assert found == [record(n).id for n in range(cut // size if size else 0)]
    assert corrupt == 0
    assert torn == bool(size and cut % size)
    reader.close()


def test_segments_are_deleted_up_to_one_and_the_folder_when_all_is_settled(tmp_path: Path) -> None:
    journal = written(tmp_path, 40, segment_bytes=1000)
    reader = JournalReader(journal.folder)
    numbers = reader.segments()
    cursor = Cursor(numbers[4], 0)
    assert reader.delete_before(cursor.segment) == 4
    assert reader.segments() == numbers[4:]
    assert reader.backlog(cursor) >= reader.backlog(Cursor(numbers[5], 0)) > 0
    journal.stop()
    assert reader.dead()
    reader.remove()
    assert not journal.folder.exists()
    assert reader.read(cursor).at_end


def test_what_lies_before_a_cursor_in_its_segment_can_be_read_again(tmp_path: Path) -> None:
    journal = written(tmp_path, 10)
    reader = JournalReader(journal.folder)
    first = reader.read(Cursor(), 1000).entries
    everything = reader.read(Cursor())
    assert reader.before(everything.cursor) == everything.entries
    assert reader.before(Cursor(1, 0)) == []
    assert first
    journal.stop()
