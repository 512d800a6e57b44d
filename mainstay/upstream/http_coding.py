"""Compressed reply bodies, unpacked in bounded steps: a small reply cannot fill the memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mainstay.core.errors import UpstreamFailed

if TYPE_CHECKING:
    from zlib import _Decompress  # pyright: ignore[reportPrivateUsage]

STEP = 1024 * 1024
"""The most bytes that are unpacked at a time."""

_RATIO = 200
_RATIO_FROM = 8 * 1024 * 1024
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Unpacker:
    """Unpacks one gzip or deflate body: ``feed`` it, then ``take`` until nothing comes."""

    __slots__ = ("_begun", "_input", "_output", "_pending", "_unpack", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._unpack: _Decompress = zlib.decompressobj(window)
        self._pending = b""
        self._input = 0
        self._output = 0
        self._begun = False

    @property
    def pending(self) -> bool:
        """There may be more to ``take`` without another ``feed``."""
        return bool(self._pending)

    def feed(self, data: bytes) -> None:
        """Add packed bytes."""
        self._pending = self._pending + data if self._pending else data
        self._input += len(data)

    def take(self) -> bytes:
        """Up to ``STEP`` bytes; ``b""`` where more input is needed. Raises ``UpstreamFailed``."""
        if not self._begun and self._pending:
            if len(self._pending) < 2:
                return b""
            self._begun = True
            first, second = self._pending[:2]
            if self._window == 15 and (first & 15 != 8 or (first << 8 | second) % 31):
                # What calls itself deflate is sometimes sent without the zlib wrapping.
                self._unpack = zlib.decompressobj(-15)
        while self._pending:
            if self._unpack.eof:
                if self._window != 31:
                    raise UpstreamFailed("unreadable", "the compressed reply goes on after its end")
                self._unpack = zlib.decompressobj(self._window)  # gzip: another member
            data = self._unpacked(self._pending)
            unpack = self._unpack
            self._pending = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if data:
                self._output += len(data)
                if self._output > _RATIO_FROM and self._output > _RATIO * self._input:
                    raise UpstreamFailed("too_large", f"the reply unpacks to more than {_RATIO} times its size")
                return data
        return b""

    def _unpacked(self, data: bytes) -> bytes:
        try:
            return self._unpack.decompress(data, STEP)
        except zlib.error:
            raise UpstreamFailed("unreadable", "the reply's compression is broken") from None

    def finish(self) -> None:
        """The body has ended. Raises ``UpstreamFailed(cut)`` if the compressed stream has not."""
        if self._input and not self._unpack.eof:
            raise UpstreamFailed("cut", "the compressed reply stopped before its end")


def unpacker(coding: str) -> Unpacker | None:
    """What unpacks a Content-Encoding; None for one that changes nothing. Raises ``UpstreamFailed(unreadable)``."""
    name = coding.strip().lower()
    if name in ("", "identity"):
        return None
    window = _CODINGS.get(name)
    if window is None:
        raise UpstreamFailed("unreadable", "the reply has a Content-Encoding that was not asked for")
    return Unpacker(window)
