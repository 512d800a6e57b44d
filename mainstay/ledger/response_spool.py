"""Where gateways leave responses for control to store: a bounded folder of small files, which outlives both."""

from __future__ import annotations

import contextlib
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


class ResponseSpool:
    """Writes responses to files in ``folder``, which all gateways share and control collects.

    At most ``limit`` bytes wait there; what comes on top, is larger than ``item_limit``, or does not fit the disk, is
    dropped and counted.
    """

    def __init__(self, folder: Path, *, limit: int = 1024 * 1024 * 1024, item_limit: int = 64 * 1024 * 1024) -> None:
        self.dropped = 0
        """Responses that were not kept."""
        self.written = 0
        """Responses that were handed over."""
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._limit = limit
        self._item_limit = item_limit
        self._waiting = 0  # bytes; an upper bound of this gateway's part, since control takes files away in silence

    def put(self, response: StoredResponse) -> bool:
        """Hand ``response`` over; False if it was dropped."""
        data = _encoder.encode(response)
        size = len(data)
        if size > self._item_limit or (self._waiting + size > self._limit and self._count() + size > self._limit):
            self.dropped += 1
            return False
        hidden = self._folder / f".{response.key}"
        try:
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(hidden, self._folder / response.key)
        except OSError:
            with contextlib.suppress(OSError):
                hidden.unlink()
            self.dropped += 1
            return False
        self._waiting += size
        self.written += 1
        return True

    def _count(self) -> int:
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        self._waiting = total
        return total
