"""What control knows of one gateway's journal: how far it has read, which calls are open, what is not settled yet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from mainstay.ledger.frames import CLOSE, DROPPED, OPEN
from mainstay.ledger.journal_reader import Cursor, Entry, JournalReader
from mainstay.ledger.record import CallRecord, OpenRecord, decode, decode_open
from mainstay.store.manifest import JournalCursor

_ABANDONED_SECONDS = 60.0
_carried = msgspec.msgpack.Decoder(list[OpenRecord])


class Found(NamedTuple):
    """What one read of a journal brought, in order."""

    closed: list[tuple[bytes, CallRecord]]
    opened: list[tuple[OpenRecord, int]]
    over: list[str]  # ids of calls that were closed
    dropped: int
    corrupt: int
    cursor: Cursor
    at_end: bool
    dead: bool
    lag_bytes: int


class Tail:
    """The journal in ``folder``, read on from ``committed`` (None: from its beginning)."""

    def __init__(self, folder: Path, committed: JournalCursor | None, now: float) -> None:
        self.gateway = folder.name
        self.reader = JournalReader(folder)
        self.committed = committed
        self.cursor = Cursor() if committed is None else Cursor(committed.segment, committed.offset)
        self.finished = False
        """The gateway is dead, and all that it left has been read."""
        self.dropped = 0
        self.corrupt = 0
        self.lag_bytes = 0
        self.at_end = now
        """When the journal was last read to its end, on the monotonic clock."""
        self._open: dict[str, tuple[OpenRecord, int]] = {}
        self._charges: dict[str, int] = {}

    def rebuild(self) -> None:
        """Find the calls that were open at the cursor: those carried over, and those of the cursor's own segment."""
        if self.committed is None:
            return
        for record in _carried.decode(self.committed.carried) if self.committed.carried else []:
            self._open[record.id] = (record, -1)
        found = self._sorted(self.reader.before(self.cursor))
        self._apply_calls(found)

    def read(self, limit: int) -> Found:
        """Read about ``limit`` bytes; nothing changes before ``apply``. For a thread."""
        dead = self.reader.dead()  # asked first: what is read after it is all there will ever be
        read = self.reader.read(self.cursor, limit)
        lag = 0 if read.at_end else self.reader.backlog(read.cursor)
        found = self._sorted(read.entries)
        return found._replace(
            corrupt=found.corrupt + read.corrupt, cursor=read.cursor, at_end=read.at_end, dead=dead, lag_bytes=lag
        )

    def _sorted(self, entries: list[Entry]) -> Found:
        closed: list[tuple[bytes, CallRecord]] = []
        opened: list[tuple[OpenRecord, int]] = []
        dropped = corrupt = 0
        for kind, payload, segment in entries:
            try:
                if kind == CLOSE:
                    closed.append((payload, decode(payload)))
                elif kind == OPEN:
                    opened.append((decode_open(payload), segment))
                elif kind == DROPPED:
                    dropped += int(payload)
                else:
                    corrupt += 1
            except (msgspec.MsgspecError, ValueError):
                corrupt += 1
        over = [record.id for _, record in closed]
        return Found(closed, opened, over, dropped, corrupt, self.cursor, True, False, 0)

    def apply(self, found: Found, unreadable: int, now: float) -> None:
        """Go on to where ``found`` ended, its rows being in the ledger but for ``unreadable`` ones."""
        self._apply_calls(found)
        charges = self._charges
        for _, record in found.closed:
            for pool, nano in record.charges.items():
                charges[pool] = charges.get(pool, 0) + nano
        self.dropped += found.dropped
        self.corrupt += found.corrupt + unreadable
        self.cursor = found.cursor
        self.lag_bytes = found.lag_bytes
        if found.at_end:
            self.at_end = now

    def _apply_calls(self, found: Found) -> None:
        for record, segment in found.opened:
            self._open[record.id] = (record, segment)
        for call in found.over:  # a call is always opened before it is closed
            self._open.pop(call, None)

    def measure(self) -> None:
        """Find out how much waits, without reading it. For a thread."""
        self.lag_bytes = self.reader.backlog(self.cursor)

    def open_calls(self) -> list[OpenRecord]:
        """The calls that were opened and not closed, oldest first."""
        return [record for record, _ in self._open.values()]

    def finish(self, crashed: list[CallRecord]) -> None:
        """The gateway is dead and these are its last rows: what its open calls held is charged."""
        for record in crashed:
            for pool, nano in record.charges.items():
                self._charges[pool] = self._charges.get(pool, 0) + nano
        self._open.clear()
        self.finished = True

    @property
    def moved(self) -> bool:
        """Whether there is something to commit."""
        before = self.committed
        if before is not None and before.recovered:
            return False  # all is settled; only the folder is left
        return (
            before is None
            or self.finished
            or Cursor(before.segment, before.offset) != self.cursor
            or bool(self.dropped or self.corrupt)
        )

    def cursor_row(self) -> JournalCursor:
        """Where the journal stands, to be committed."""
        carried = [record for record, segment in self._open.values() if segment < self.cursor.segment]
        return JournalCursor(
            gateway=self.gateway,
            segment=self.cursor.segment,
            offset=self.cursor.offset,
            carried=msgspec.msgpack.encode(carried) if carried else b"",
            recovered=self.finished,
        )

    def take_charges(self) -> dict[str, int]:
        """The charges since they were last taken, per pool."""
        charges, self._charges = self._charges, {}
        return charges

    def take_dropped(self) -> int:
        """The rows that the gateway dropped, since they were last taken."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def take_corrupt(self) -> int:
        """The damaged places, since they were last taken."""
        corrupt, self.corrupt = self.corrupt, 0
        return corrupt


def removed_leftovers(journals: Path) -> int:
    """Remove the folders of gateways that were killed before their journal had its name; how many."""
    removed = 0
    for folder in journals.glob(".*.new"):
        reader = JournalReader(folder)
        try:
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS and reader.dead():
                reader.remove()
                removed += 1
        except FileNotFoundError:
            pass  # it got its name just now
        finally:
            reader.close()
    return removed
