"""The exact cache's entries in files: the gateway processes of one machine share them, and they outlive a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue

from mainstay.core.clock import Clock
from mainstay.gateway.cache import Entry, Mark
from mainstay.gateway.cache_format import decoded, encoded

log = logging.getLogger("mainstay.gateway.cache")

SWEEP, SWEPT, CLEARED = "sweep", "swept", "cleared"
"""Files beside the entries: a gateway asks for a sweep; the last one; the last time that everything was removed."""

_HERE: Mark = (0, 0)
"""The mark of an entry that is about to be written."""
_UNPROVEN: Mark = (0, 1)
"""The mark of an entry that nobody but its first caller has asked for."""

_INLINE = 256 * 1024
"""Bytes that are read at once; more than that are read in a thread."""
_BACKLOG = 32 * 1024 * 1024
"""Bytes of entries that may wait for a slow disk; what comes on top stays in memory alone."""
_BLOCK = 4096
"""Bytes that the smallest file takes."""
_NAME = 64
"""Characters of an entry's name."""
_SLOTS = 1 << 18
_POLL = 1.0
"""Seconds between two looks whether everything was removed."""
_PATIENCE = 5.0
"""Seconds that the end waits for what is to be written."""
_LEFT_BEHIND = 60.0
"""Seconds after which a file that was not finished is nobody's."""


class Files:
    """Entries as files in ``folder``, named by their keys' digests, written under another name and renamed.

    A file's modification time is about when it expires, so that a sweep opens none. The folder stays below ``limit`` bytes:
    ``sweep`` (the control process's work) makes room, and between two sweeps the gateways together write an eighth of
    the limit at most; entries that find no room, are larger than a gateway's part of it, or cannot be written, stay in
    the memory of the process that has them. ``workers`` is how many gateways share the folder: with one, what is in
    memory needs no look at the disk, nor does a miss, and an entry is written when it is asked for a second time: most are
    asked for once only, and a write costs as much as a quarter of a call.

    Reading happens where the question is asked, writing in a thread of its own after the reply has gone.
    """

    def __init__(self, folder: Path, owner: str, limit: int, clock: Clock, workers: int = 1) -> None:
        self._folder, self._limit, self._clock = folder, limit, clock
        self._prefix, self._draft = f"{folder}{os.sep}", f"{folder}{os.sep}.{owner}."
        self._alone = workers == 1
        self._allowance = limit // 8 // workers
        self._spent = 0  # bytes written since the last sweep that this process has seen
        self._asked = False
        self._number = self._stored = self._not_stored = 0
        self._given = self._taken = 0  # bytes handed to the thread, and done by it
        self._due: list[tuple[bytes, Entry]] = []
        self._queue: SimpleQueue[list[tuple[bytes, Entry]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failing = False
        # With one worker: a 1 where a file may be; whoever finds a 0 need not look. Slots are bits of a digest.
        self._slots = bytearray(_SLOTS) if self._alone else bytearray()
        self._listed = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._trouble(error)
        self._swept: int = _stamp(folder / SWEPT)
        self._cleared: int = _stamp(folder / CLEARED)

    def get(self, key: bytes, held: Entry | None) -> Entry | Awaitable[Entry | None] | None:
        if self._alone:
            if held is not None:
                if held.mark == _UNPROVEN:
                    self._write_later(key, held)
                return held
            if self._listed and not self._slots[_slot(key)]:
                return None
        elif held is not None:
            mark = held.mark
            if mark == _HERE:
                return held
            try:
                found = os.stat(self._prefix + key.hex())
            except FileNotFoundError:
                return held if mark is None else None
            except OSError:
                return held
            if mark is None:  # it could not be stored: another's that could is newer
                return self._open(key) or held
            if (found.st_ino, found.st_mtime_ns) == mark:
                return held
        return self._open(key)

    def put(self, key: bytes, entry: Entry, renewed: bool) -> None:
        if self._alone:
            self.remove(key)  # an older one
            entry.mark = _UNPROVEN
            return
        if renewed:
            self._unlink(key)  # at once: from the end of this reply on, no other worker gives the older one
        self._write_later(key, entry)

    def _write_later(self, key: bytes, entry: Entry) -> None:
        if self._given - self._taken > _BACKLOG:
            self._not_stored += 1
            self._unlink(key)
            return
        entry.mark = _HERE
        self._given += entry.size
        if self._alone:
            self._slots[_slot(key)] = 1
        self._due.append((key, entry))
        if len(self._due) == 1:
            # Two turns of the loop later: the reply's last bytes go with the journal's flush, in the next one.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._hand_over)

    def remove(self, key: bytes) -> None:
        if not (self._alone and self._listed and not self._slots[_slot(key)]):
            self._unlink(key)

    def gauges(self) -> dict[str, float]:
        return {
            "cache_store_failing": float(self._failing),
            "cache_stored": float(self._stored),
            "cache_not_stored": float(self._not_stored),
        }

    async def run(self, forget: Callable[[], None]) -> None:
        self._start()
        while True:
            await asyncio.sleep(_POLL)
            cleared = _stamp(self._folder / CLEARED)
            if cleared != self._cleared:
                self._cleared = cleared
                forget()

    async def close(self) -> None:
        thread = self._thread
        if self._due:
            self._hand_over()
            thread = self._thread
        if thread is not None:
            self._thread = None
            self._queue.put(None)
            await asyncio.to_thread(thread.join, _PATIENCE)

    # reading

    def _open(self, key: bytes) -> Entry | Awaitable[Entry | None] | None:
        path = self._prefix + key.hex()
        try:
            # Not waiting for what may have been put there instead of a file.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.debug("a cache entry cannot be opened: %s", error.strerror)
            return None
        try:
            status = os.fstat(descriptor)
            if _INLINE < status.st_size <= self._limit:
                return asyncio.to_thread(self._read, key, path)
            size = 0 if status.st_size > self._limit else status.st_size + 1
            return self._checked(key, path, status, os.read(descriptor, size))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _read(self, key: bytes, path: str) -> Entry | None:
        try:
            with open(path, "rb", buffering=0) as file:
                return self._checked(key, path, os.fstat(file.fileno()), file.readall())
        except OSError:
            return None

    def _checked(self, key: bytes, path: str, status: os.stat_result, data: bytes) -> Entry | None:
        """The entry, if it is one and in time; else the file is removed."""
        entry = decoded(key, data) if stat.S_ISREG(status.st_mode) else None
        left = entry.expires - self._clock.now() if entry is not None else 0.0
        # More time than it had at first: the clock was put back, and its age is not known any more.
        if entry is None or not 0 < left <= entry.ttl + 1:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        entry.until = self._clock.monotonic() + left
        entry.mark = (status.st_ino, status.st_mtime_ns)
        return entry

    # writing

    def _hand_over(self) -> None:
        due, self._due = self._due, []
        self._start()
        self._queue.put(due)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="cache-files", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        if self._alone and not self._listed:
            self._list()
        while (batch := self._queue.get()) is not None:
            for key, entry in batch:
                self._write(key, entry)
                self._taken += entry.size

    def _list(self) -> None:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return  # then every miss looks
        for name in names:
            with contextlib.suppress(ValueError):
                self._slots[_slot(bytes.fromhex(name[:8]))] = 1
        self._listed = True

    def _write(self, key: bytes, entry: Entry) -> None:
        try:
            parts = encoded(key, entry)
            if self._room(_rounded(sum(map(len, parts)))):
                entry.mark = self._put_in_place(self._prefix + key.hex(), parts, entry.expires)
                self._stored += 1
                self._well()
                return
        except OSError as error:
            self._trouble(error)
        except Exception as error:  # the thread goes on; a message could hold content
            log.error("a cache entry cannot be written: %s", type(error).__name__)
        entry.mark = None
        self._not_stored += 1
        self._unlink(key)  # an older one

    def _put_in_place(self, path: str, parts: list[bytes], expires: float) -> Mark:
        self._number += 1
        draft = f"{self._draft}{self._number}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(draft, flags, 0o600)
        try:
            try:
                written, size = os.writev(descriptor, parts), sum(map(len, parts))
                while written < size:  # a large one, or the disk's last bytes
                    written += os.write(descriptor, b"".join(parts)[written:])
                # The second after it expires; the rest tells it from others that get the same inode.
                until = (int(expires) + 1) * 1_000_000_000 + random.randrange(1_000_000_000)
                os.utime(descriptor, ns=(until, until))
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            os.rename(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        return status.st_ino, status.st_mtime_ns

    def _room(self, size: int) -> bool:
        """Whether so many bytes more keep this process within its part. Asks for a sweep in good time."""
        spent = self._spent + size
        if spent > self._allowance // 2 and not self._asked:
            _touch(self._folder / SWEEP)
            self._asked = True
        if spent > self._allowance:
            swept = _stamp(self._folder / SWEPT)
            if swept == self._swept or size > self._allowance:
                return False
            self._swept, self._asked, spent = swept, False, size
        self._spent = spent
        return True

    def _unlink(self, key: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._prefix + key.hex())

    def _trouble(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            why = error.strerror or type(error).__name__
            log.warning(
                "the cache's files cannot be written (%s): the cache goes on in memory; see %s", why, self._folder
            )

    def _well(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the cache's files can be written again")


def sweep(folder: Path, limit: int, now: float) -> int:
    """Remove what has expired, and what expires first where the folder is three quarters full; the bytes that are left.

    For one process at a time. A ``limit`` of 0 empties the folder. Raises ``OSError`` where it cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        (folder / SWEEP).unlink()
    if not folder.is_dir():
        return 0
    found: list[tuple[float, int, str]] = []
    total = 0
    for path, status in _entries(folder):
        if status.st_mtime <= now - (_LEFT_BEHIND if os.path.basename(path).startswith(".") else 0):
            with contextlib.suppress(OSError):
                os.unlink(path)
            continue
        size = _rounded(status.st_size)
        total += size
        found.append((status.st_mtime, size, path))
    if total > limit * 3 // 4:
        found.sort()
        for _, size, path in found:
            if total <= limit * 5 // 8:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
    _touch(folder / SWEPT)
    return total


def clear(folder: Path) -> int:
    """Remove all entries; how many there were. Gateways forget theirs when they next look, within a second."""
    count = 0
    for path, _ in _entries(folder):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            count += 1
    if folder.is_dir():
        _touch(folder / CLEARED)
    return count


def wanted(folder: Path) -> bool:
    """Whether a gateway has asked for a sweep."""
    return (folder / SWEEP).exists()


def _entries(folder: Path) -> list[tuple[str, os.stat_result]]:
    """The files with entries, and those that were to become some."""
    found: list[tuple[str, os.stat_result]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(entry.name) == _NAME or entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if not stat.S_ISDIR(status.st_mode):
                            found.append((entry.path, status))
    except FileNotFoundError:
        pass
    return found


def _slot(digest: bytes) -> int:
    return (digest[0] | digest[1] << 8 | digest[2] << 16) & (_SLOTS - 1)


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _touch(path: Path) -> None:
    """Make the file, with a modification time that it has not had."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)
