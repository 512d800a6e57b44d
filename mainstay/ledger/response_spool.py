"""Where gateways leave responses for control to store: a bounded folder of files, which outlives both."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import msgspec


class StoredResponse(msgspec.Struct, omit_defaults=True, gc=False):
    """One response of the Responses API, and what was asked for it.

    ``key`` is the id of its call; ``previous`` the key of the stored response that it continues, ``root`` that of the
    first of its thread; ``at`` is in seconds since the epoch. ``response`` is the response object as JSON, ``input``
    the request's own input as the caller wrote it (JSON: a string or an array of items, empty for none), ``earlier``
    an array of items that come before it and are in no stored response (empty for none).
    """

    key: str
    team: str
    id: str
    at: float
    root: str
    response: bytes
    input: bytes = b""
    earlier: bytes = b""
    previous: str | None = None
    user: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredResponse)


def decode(data: bytes) -> StoredResponse:
    """The response in ``data``. Raises ``msgspec.DecodeError`` for what is none."""
    return _decoder.decode(data)


def framed(data: bytes) -> bytes:
    """``data`` as one frame of a spool's file: its length in four bytes, big end first, and it."""
    return len(data).to_bytes(4, "big") + data


class ResponseSpool:
    """Appends responses to files in ``folder``, which all gateways share; ``owner`` is this one's name in it.

    Control takes a file away when it has stored what is in it. Both lock it meanwhile, and neither waits: a gateway
    that finds its file locked, or gone, begins another. At most ``limit`` bytes wait in the folder; what comes on top,
    is larger than ``item_limit``, or does not fit the disk, is dropped and counted.
    """

    def __init__(
        self,
        folder: Path,
        owner: str,
        *,
        limit: int = 1024 * 1024 * 1024,
        item_limit: int = 64 * 1024 * 1024,
        file_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.dropped = 0
        """Responses that were not kept."""
        self.written = 0
        """Responses that were handed over."""
        self._folder, self._owner = folder, owner
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._limit, self._item_limit, self._file_bytes = limit, item_limit, file_bytes
        self._waiting = 0  # bytes; an upper bound of this gateway's part, since control takes files away in silence
        self._fd = -1
        self._number = 0

    def put(self, response: StoredResponse) -> bool:
        """Hand ``response`` over; False if it was dropped."""
        data = framed(_encoder.encode(response))
        size = len(data)
        if size > self._item_limit or (self._waiting + size > self._limit and self._count() + size > self._limit):
            self.dropped += 1
            return False
        try:
            self._append(data)
        except OSError:
            self.dropped += 1
            return False
        self._waiting += size
        self.written += 1
        return True

    def close(self) -> None:
        """Let go of the file; what is in it waits for control."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        start = self._locked()
        fd = self._fd
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, start)  # half a response is none
            raise
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _locked(self) -> int:
        """Lock a file that control has not taken and that has room; its size."""
        while True:
            if self._fd < 0:
                self._number += 1
                name = f"{self._owner}.{self._number}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._folder / name, flags, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                continue
            status = os.fstat(self._fd)
            if status.st_nlink and status.st_size < self._file_bytes:
                return status.st_size
            self.close()

    def _count(self) -> int:
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        self._waiting = total
        return total
