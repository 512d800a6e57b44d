"""Reads the journal of one gateway from a cursor on, while it is written and after its gateway died."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from mainstay.ledger.frames import FRAME_LIMIT, HEAD, scan
from mainstay.ledger.journal import LOCK, segment_name

_READ = 256 * 1024
_READ_LONG = 2 * (FRAME_LIMIT + HEAD.size)  # holds any frame, and one more to see whether it is whole


class Cursor(NamedTuple):
    """A place in a journal: all segments below ``segment``, and ``offset`` bytes of that one, have been read."""

    segment: int = 0
    offset: int = 0


class Entry(NamedTuple):
    """One frame: its kind (``frames.OPEN`` …), its payload, and the segment it lies in."""

    kind: int
    payload: bytes
    segment: int


class Read(NamedTuple):
    """What one ``JournalReader.read`` found.

    ``at_end``: nothing more is there at this moment. ``corrupt`` counts the places that are no frames and were
    skipped; ``torn``: the last frame is not whole, which is how a journal ends whose gateway was killed.
    """

    entries: list[Entry]
    cursor: Cursor
    at_end: bool
    torn: bool = False
    corrupt: int = 0


class JournalReader:
    """The journal in ``folder``, for reading; all methods touch the disk and belong in a thread.

    ``dead`` takes the gateway's lock if it can and keeps it until ``close``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = -1
        self._suspect: Cursor | None = None  # a bad frame that was seen before and may have been half written

    def segments(self) -> list[int]:
        """The numbers of all segments, ascending."""
        found: list[int] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                stem, dot, end = entry.name.partition(".")
                if dot and end == "log" and stem.isdecimal() and entry.name == segment_name(int(stem)):
                    found.append(int(stem))
        return sorted(found)

    def read(self, cursor: Cursor, limit: int = 4 * 1024 * 1024) -> Read:
        """The entries from ``cursor`` on, about ``limit`` bytes of them, and the cursor behind them."""
        dead = self._lock >= 0
        # The list is made before anything is read: a segment that has a successor by then is complete.
        segments = [number for number in self.segments() if number >= cursor.segment]
        entries: list[Entry] = []
        corrupt, left = 0, limit
        for number in segments:
            last = number == segments[-1]
            found = self._segment(number, cursor, left, dead or not last, entries)
            corrupt += found.corrupt
            cursor = found.cursor
            left -= found.read
            if found.state == "more":
                return Read(entries, cursor, False, False, corrupt)
            if last:
                return Read(entries, cursor, True, found.state == "broken", corrupt)
            if found.state == "broken":
                # Damage in a segment that nobody writes any more: what follows in it cannot be found.
                corrupt += 1
            cursor = Cursor(number + 1, 0)
            if left <= 0:
                return Read(entries, cursor, False, False, corrupt)
        return Read(entries, cursor, True, False, corrupt)

    def _segment(self, number: int, cursor: Cursor, limit: int, final: bool, entries: list[Entry]) -> _Outcome:
        start = offset = cursor.offset if number == cursor.segment else 0
        corrupt, size = 0, _READ
        try:
            fd = os.open(self.folder / segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _Outcome(Cursor(number, offset), "end")
        try:
            while offset - start < limit:
                data = os.pread(fd, size, offset)
                full = len(data) == size
                found = scan(data)
                entries.extend(Entry(kind, payload, number) for kind, payload in found.frames)
                here = Cursor(number, offset + found.offset)
                if found.state == "end" and not (full and found.frames):
                    return _Outcome(here, "end", here.offset - start, corrupt)
                if found.frames:  # what could not be judged at the end of these bytes begins the next ones
                    offset = here.offset
                elif full and size < _READ_LONG:
                    size = _READ_LONG
                elif found.resume is not None and (final or self._suspect == here):
                    offset += found.resume
                    corrupt += 1
                else:
                    self._suspect = here
                    return _Outcome(here, "broken", here.offset - start, corrupt)
            return _Outcome(Cursor(number, offset), "more", offset - start, corrupt)
        finally:
            os.close(fd)

    def before(self, cursor: Cursor) -> list[Entry]:
        """The entries of the cursor's own segment that lie before it."""
        entries: list[Entry] = []
        try:
            with open(self.folder / segment_name(cursor.segment), "rb") as file:
                data = file.read(cursor.offset)
        except FileNotFoundError:
            return entries
        offset = 0
        while True:
            found = scan(data, offset)
            entries.extend(Entry(kind, payload, cursor.segment) for kind, payload in found.frames)
            if found.resume is None:
                return entries
            offset = found.resume

    def backlog(self, cursor: Cursor) -> int:
        """At most so many bytes are still to be read; what is set aside for later records counts too."""
        total = 0
        for number in self.segments():
            if number >= cursor.segment:
                with contextlib.suppress(FileNotFoundError):
                    total += (self.folder / segment_name(number)).stat().st_size
                    total -= cursor.offset if number == cursor.segment else 0
        return max(total, 0)

    def dead(self) -> bool:
        """Whether the gateway is gone: its lock could be taken, or its folder is no more."""
        if self._lock >= 0:
            return True
        try:
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)  # its removal had begun
            except FileNotFoundError:
                return True  # somebody removed all of it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def delete_before(self, segment: int) -> int:
        """Delete the segments below ``segment``; how many."""
        deleted = 0
        for number in self.segments():
            if number >= segment:
                break
            (self.folder / segment_name(number)).unlink(missing_ok=True)
            deleted += 1
        return deleted

    def remove(self) -> None:
        """Delete the whole journal. Only for a dead gateway whose recovery is settled."""
        for folder, _, files in os.walk(self.folder, topdown=False):
            for name in sorted(files, key=lambda name: name == LOCK):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
        self.close()

    def close(self) -> None:
        """Let go of the gateway's lock, if it was taken."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class _Outcome(NamedTuple):
    cursor: Cursor
    state: str  # end, more, broken
    read: int = 0
    corrupt: int = 0
