"""Chunked request bodies, read strictly and within bounds; trailers are checked and thrown away."""

from __future__ import annotations

import re

from mainstay.edge.http_head import text_only
from mainstay.edge.http_limits import HttpLimits, Reject

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_EXTENSIONS = re.compile(
    rb"(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*\"))?)*"
)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n]*")
_LINE = 4096

_SIZE_LINE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedBody:
    """Reads one chunked body. ``body`` grows as it is fed; ``feed`` says when it is whole."""

    __slots__ = ("_buffer", "_chunks", "_extensions", "_limit", "_limits", "_need", "_state", "_trailers", "body")

    def __init__(self, limit: int, limits: HttpLimits) -> None:
        self.body = bytearray()
        self._buffer = bytearray()
        self._limit = limit
        self._limits = limits
        self._state = _SIZE_LINE
        self._need = 0
        self._chunks = 0
        self._extensions = 0
        self._trailers = 0

    def feed(self, data: bytes) -> bytes | None:
        """None while the body goes on; else what follows it in ``data``. Raises ``Reject``."""
        buffer = self._buffer
        buffer += data
        at = 0
        while True:
            if self._state == _DATA:
                piece = buffer[at : at + self._need]
                self.body += piece
                at += len(piece)
                self._need -= len(piece)
                if self._need:
                    break
                self._state = _DATA_END
            if self._state == _DATA_END:
                end = bytes(buffer[at : at + 2])
                if end != b"\r\n"[: len(end)]:
                    raise Reject(400, "a chunk is longer than it says")
                if len(end) < 2:
                    break
                at += 2
                self._state = _SIZE_LINE
            stop = buffer.find(b"\r\n", at)
            line = bytes(buffer[at : stop if stop >= 0 else len(buffer)])
            if len(line) > _LINE or not text_only(line):
                raise Reject(400, "a line of the chunked body is too long or has a character that may not be there")
            if stop < 0:
                break
            at = stop + 2
            if self._state == _SIZE_LINE:
                self._size(line)
            elif self._trailer(line):
                rest = bytes(buffer[at:])
                buffer.clear()
                return rest
        del buffer[:at]
        return None

    def _size(self, line: bytes) -> None:
        match = _SIZE.match(line)
        if match is None or (len(line) != match.end() and _EXTENSIONS.fullmatch(line, match.end()) is None):
            raise Reject(400, "a chunk's size is not a hexadecimal number")
        self._chunks += 1
        self._extensions += len(line) - match.end()
        if self._extensions > self._limits.chunk_extension_bytes or self._chunks > self._limits.chunks:
            raise Reject(400, "the chunked body has too many chunks or chunk extensions")
        self._need = int(match[0], 16)
        if len(self.body) + self._need > self._limit:
            raise Reject(413, f"the request's body is larger than {self._limit} bytes")
        self._state = _DATA if self._need else _TRAILERS

    def _trailer(self, line: bytes) -> bool:
        """Whether ``line`` is the empty one that ends the body."""
        if not line:
            return True
        self._trailers += len(line)
        if self._trailers > self._limits.trailer_bytes:
            raise Reject(431, f"the body's trailers are longer than {self._limits.trailer_bytes} bytes")
        if _TRAILER.fullmatch(line) is None:
            raise Reject(400, "a trailer of the chunked body is malformed")
        return False
