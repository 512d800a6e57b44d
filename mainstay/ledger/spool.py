"""Where a gateway leaves the content of calls for control to store: a bounded folder of small files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from mainstay.core.ids import made_at

FOLDER = "content"
"""The folder's name within the gateway's journal."""


class Content(msgspec.Struct, omit_defaults=True, gc=False):
    """What was asked and what was answered, byte for byte; ``at`` in microseconds since the epoch."""

    call: str
    at: int
    request: bytes
    reply: bytes
    request_type: str = "application/json"
    reply_type: str = "application/json"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Content)


def reference(call: str) -> str:
    """The name of the content of call ``call`` in the content store: the day (UTC) at which its id was made, and the id."""
    days = int(made_at(call)) // 86400
    return f"{days:06d}/{call}"


def decode(data: bytes) -> Content:
    """The content in ``data``. Raises ``msgspec.DecodeError`` for what is none."""
    return _decoder.decode(data)


class ContentSpool:
    """Writes content to files in ``folder`` (a journal's own), which control collects.

    At most ``limit`` bytes wait there; what comes on top, or does not fit the disk, is dropped and counted.
    """

    def __init__(self, folder: Path, *, limit: int = 256 * 1024 * 1024, item_limit: int = 16 * 1024 * 1024) -> None:
        self.dropped = 0
        """Contents that were not kept."""
        self.written = 0
        """Contents that were handed over."""
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._limit = limit
        self._item_limit = item_limit
        self._waiting = 0  # bytes; an upper bound, since control takes files away without saying so

    def put(self, content: Content) -> str | None:
        """Hand ``content`` over; its reference for the call's record, or None if it was dropped."""
        data = _encoder.encode(content)
        size = len(data)
        if size > self._item_limit or (self._waiting + size > self._limit and self._count() + size > self._limit):
            self.dropped += 1
            return None
        hidden = self._folder / f".{content.call}"
        try:
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(hidden, self._folder / content.call)
        except OSError:
            with contextlib.suppress(OSError):
                hidden.unlink()
            self.dropped += 1
            return None
        self._waiting += size
        self.written += 1
        return reference(content.call)

    def _count(self) -> int:
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        self._waiting = total
        return total
