"""The gateway's journal: every call is written down before its upstream is asked and before its last byte is sent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mainstay.core.clock import Clock
from mainstay.core.errors import Unavailable
from mainstay.ledger.frames import CLOSE, DROPPED, HEAD, OPEN, frame
from mainstay.ledger.record import RECORD_LIMIT, CallRecord, OpenRecord, encode
from mainstay.ledger.segment import Allocate, Segment, Write

LOCK = "lock"
"""The file in a journal's folder that is locked for as long as its gateway lives."""

_ROOM = RECORD_LIMIT + HEAD.size  # what the closing record of an open call may need
_RETRY_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0
_PENDING_LIMIT = 8 * 1024 * 1024


def segment_name(number: int) -> str:
    """The file name of segment ``number``."""
    return f"{number:08d}.log"


class Journal:
    """Appends records to segment files in ``folder/gateway``; one ``write`` per turn of the event loop, no fsync.

    What was written survives the process, not the machine. Room for the closing record of every open call is set
    aside on disk beforehand, so that a call that was opened can always be closed. When there is no room,
    ``on_full="refuse"`` refuses new calls; ``"serve"`` lets them pass, and rows that cannot be written are dropped
    and counted. Only calls that never asked an upstream (refusals) are dropped in either setting.

    Should the disk fail under records that had their room, they are kept in memory and written again every 50 ms;
    replies wait for them 5 seconds at most. Use it from one thread. Raises ``OSError`` if the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        gateway: str,
        *,
        segment_bytes: int = 16 * 1024 * 1024,
        segment_seconds: float = 60.0,
        on_full: Literal["refuse", "serve"] = "refuse",
        clock: Clock | None = None,
        chunk: int = 1024 * 1024,
        write: Write = os.pwrite,
        allocate: Allocate = os.posix_fallocate,
    ) -> None:
        self.folder = folder / gateway
        self.gateway = gateway
        self.written = 0
        """Closing records that are in the file."""
        self.dropped = 0
        """Rows that were lost since there was no room for them."""
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._on_full = on_full
        self._clock = clock or Clock()
        self._chunk = chunk
        self._io: tuple[Write, Allocate] = (write, allocate)
        self._lock = self._enter(folder)
        self._open: set[str] = set()
        self._pending: list[bytes] = []  # frames that close calls, not yet written
        self._pending_bytes = 0
        self._waiting: list[Callable[[], None]] = []
        self._scheduled = False
        self._failing_since: float | None = None
        self._stuck_since: float | None = None  # since when closing records wait for the disk
        self._noted = 0  # dropped rows that the journal itself tells of
        self._retry: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._segment: Segment | None = None
        with contextlib.suppress(OSError):  # a full disk at the start: `open` says so to whoever calls
            self._segment = self._new_segment(chunk)

    def _enter(self, folder: Path) -> int:
        # The folder appears under its name with its lock already held: who sees it cannot think its gateway dead.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        hidden = folder / f".{self.gateway}.new"
        hidden.mkdir(mode=0o700)
        lock = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self.folder)
        except OSError:
            os.close(lock)
            with contextlib.suppress(OSError):
                (hidden / LOCK).unlink()
                hidden.rmdir()
            raise
        return lock

    @property
    def open_calls(self) -> int:
        """Calls that were opened and not yet closed."""
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether the last attempt to write or to set room aside failed."""
        return self._failing_since is not None or self._segment is None

    @property
    def waiting(self) -> bool:
        """Whether anything appended is not in the file yet."""
        return bool(self._pending)

    def open(self, record: OpenRecord) -> bool:
        """Write down at once that a call is about to ask an upstream; whether it was written (if not, it is served).

        Raises ``Unavailable`` (code ``journal_full``) if it cannot be, and calls are to be refused then.
        """
        data = frame(OPEN, encode(record))
        try:
            segment = self._with_room(len(data) + _ROOM)
            segment.append(b"".join((*self._pending, data)) if self._pending else data)
        except OSError as error:
            self._failed()
            if self._on_full == "serve":
                return False
            raise Unavailable(
                f"The journal cannot be written ({error.strerror or error}); free space on the disk that holds "
                "the home folder, or set the journal to serve without recording.",
                code="journal_full",
                retry_after=5.0,
            ) from error
        self._open.add(record.id)
        if self._pending:
            self._flushed()
        self._failing_since = self._stuck_since = None
        return True

    def close(self, record: CallRecord) -> None:
        """Write down what came of a call with the other records of this turn of the loop. Never raises for the disk."""
        opened = record.id in self._open
        data = frame(CLOSE, encode(record))
        if opened:
            self._open.discard(record.id)
        else:
            try:
                self._with_room(len(data))
            except OSError:
                self.dropped += 1
                return
        if self._pending_bytes + len(data) > _PENDING_LIMIT:
            self.dropped += 1
            return
        self._pending.append(data)
        self._pending_bytes += len(data)
        if not self._scheduled:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
                return
            self._scheduled = True
            loop.call_soon(self._turn)

    def append(self, records: Sequence[bytes]) -> None:
        """Write down at once what has ended without having been opened, each record as JSON.

        Raises ``Unavailable`` (code ``journal_full``) if there is no room; then none of them is to be believed written.
        """
        data = b"".join(frame(CLOSE, record) for record in records)
        try:
            segment = self._with_room(len(data))
            if not self.flush():
                raise OSError(errno.EIO, "what was to be written before waits for the disk")
            segment = self._segment or segment
            segment.append(data)
        except OSError as error:
            self._failed()
            raise Unavailable(
                f"The journal cannot be written ({error.strerror or error}); free space on the disk that holds "
                "the home folder.",
                code="journal_full",
                retry_after=5.0,
            ) from error
        self.written += len(records)
        self._failing_since = None

    def after_flush(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once all that was appended so far is in the file; at once if it already is."""
        if self._pending:
            self._waiting.append(callback)
        else:
            callback()

    def flush(self) -> bool:
        """Write what is pending, now; whether all of it is in the file."""
        if self._pending:
            try:
                segment = self._segment
                if segment is None:
                    segment = self._with_room(0)
                segment.append(b"".join(self._pending) if len(self._pending) > 1 else self._pending[0])
            except OSError:
                self._failed()
                if self._on_full == "refuse":
                    self._try_again()
                    return False
                self.dropped += self._drop_pending()
            else:
                self._flushed()
                self._failing_since = self._stuck_since = None
        if self.dropped > self._noted:
            self._note_dropped()
        self._release()
        return True

    def stop(self) -> None:
        """Write what is pending and close; the lock is let go, so that control reads the journal to its end."""
        self.flush()
        for handle in (self._timer, self._retry):
            if handle is not None:
                handle.cancel()
        self.dropped += self._drop_pending()
        self._release()
        if self._segment is not None:
            self._segment.seal()
            self._segment = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _turn(self) -> None:
        self._scheduled = False
        self.flush()

    def _flushed(self) -> None:
        self.written += len(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if self._waiting and not self._scheduled:  # written along with an opening record, before its turn came
            self._schedule_release()

    def _schedule_release(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._release()
            return
        self._scheduled = True
        loop.call_soon(self._turn)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        failure: Exception | None = None
        for callback in waiting:
            try:
                callback()
            except Exception as error:  # one caller's trouble must not keep the others waiting
                failure = error
        if failure is not None:
            raise failure

    def _drop_pending(self) -> int:
        dropped = len(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return dropped

    def _failed(self) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()

    def _try_again(self) -> None:
        now = self._clock.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= _PATIENCE_SECONDS:
            self._release()  # the records stay; replies do not hang on a disk that does not come back
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._retry = loop.call_later(_RETRY_SECONDS, self._turn)

    def _note_dropped(self) -> None:
        count = self.dropped - self._noted
        data = frame(DROPPED, b"%d" % count)
        try:
            self._with_room(len(data)).append(data)
        except OSError:
            return
        self._noted += count

    def _with_room(self, length: int) -> Segment:
        """The segment to write to, with room for ``length`` more bytes beside all that is owed to open calls."""
        owed = self._pending_bytes + len(self._open) * _ROOM
        segment = self._segment
        if self._timer is None:
            self._arm()
        if segment is None:
            segment = self._segment = self._new_segment(owed + length + self._chunk)
        elif segment.position >= self._segment_bytes:
            segment = self._rotated(segment, owed + length)
        if segment.room < owed + length:
            try:
                segment.reserve(owed + length + self._chunk)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                segment.reserve(owed + length)  # the last bytes of the disk are enough
        return segment

    def _new_segment(self, room: int) -> Segment:
        self._number += 1
        segment = Segment(self.folder / segment_name(self._number), room, *self._io)
        self._arm()
        return segment

    def _rotated(self, segment: Segment, room: int) -> Segment:
        if self._pending:  # they may have been written in part: they belong where they began
            data = b"".join(self._pending)
            room -= len(data)
            try:
                segment.append(data)
            except OSError:
                return segment
            self._flushed()
        try:
            following = self._new_segment(room + self._chunk)
        except OSError:
            return segment  # which has the room that was set aside, and may have more
        segment.seal()
        self._segment = following
        return following

    def _arm(self) -> None:
        # A segment is finished after a while, so that what was ingested does not stay on disk beside the ledger.
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._segment_seconds, self._age)

    def _age(self) -> None:
        segment = self._segment
        if segment is None or segment.position == 0:
            self._arm()
            return
        try:
            self._rotated(segment, self._pending_bytes + len(self._open) * _ROOM)
        except OSError:
            self._failed()
        if self._segment is segment:
            self._arm()
