"""One append-only file of the journal, with its room reserved ahead and every write whole or undone."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

Write = Callable[[int, bytes, int], int]
"""As ``os.pwrite``: descriptor, bytes, offset; the number of bytes written."""

Allocate = Callable[[int, int, int], None]
"""As ``os.posix_fallocate``: descriptor, offset, length."""


class Segment:
    """A new file at ``path`` with ``room`` bytes of the disk set aside. Raises ``OSError`` if there is not so much."""

    __slots__ = ("_allocate", "_fd", "_write", "path", "position", "reserved")

    def __init__(self, path: Path, room: int, write: Write, allocate: Allocate) -> None:
        self.path = path
        self.position = 0
        self.reserved = 0
        self._write = write
        self._allocate = allocate
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.reserve(room)
        except OSError:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    @property
    def room(self) -> int:
        """Bytes set aside and not yet written."""
        return self.reserved - self.position

    def reserve(self, room: int) -> None:
        """See to it that ``room`` more bytes can be written. Raises ``OSError`` if the disk has not so many."""
        wanted = self.position + room
        if wanted > self.reserved:
            self._allocate(self._fd, self.reserved, wanted - self.reserved)
            self.reserved = wanted

    def append(self, data: bytes) -> None:
        """Write all of ``data``, or raise ``OSError`` and leave the file as it was.

        The same bytes may be appended again after a failure: they go to the same place.
        """
        position = self.position
        try:
            written = self._write(self._fd, data, position)
            while written < len(data):
                more = self._write(self._fd, data[written:], position + written)
                if more <= 0:
                    raise OSError(errno.EIO, "the disk takes no more bytes")
                written += more
        except OSError:
            self._wipe(len(data))
            raise
        self.position = position + len(data)
        if self.position > self.reserved:
            self.reserved = self.position

    def _wipe(self, length: int) -> None:
        # What was written of a failed append must not be read as frames. Zeros keep the reservation; cutting the
        # file gives it up, and is the second choice.
        within = min(length, self.room)
        with contextlib.suppress(OSError):
            if self._write(self._fd, bytes(within), self.position) == within:
                if length > within:
                    os.ftruncate(self._fd, self.reserved)
                return
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.position)
            self.reserved = self.position

    def seal(self) -> None:
        """Give back what was set aside and not used, and close the file."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self.position)
        with contextlib.suppress(OSError):
            os.close(self._fd)
