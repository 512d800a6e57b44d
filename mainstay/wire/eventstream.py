"""The framing ``application/vnd.amazon.eventstream``: binary messages with typed headers and two checksums."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from mainstay.core.errors import UpstreamFailed

CONTENT_TYPE = "application/vnd.amazon.eventstream"
LIMIT = 16 * 1024 * 1024
"""Bytes that one message may have, framing included."""
HEADERS_LIMIT = 128 * 1024
"""Bytes that the headers of one message may have."""

HeaderValue = bool | int | bytes | str | datetime | UUID

_PRELUDE = struct.Struct(">III")  # length of the message, length of its headers, checksum of these two
_KNOWN = 32  # header blocks that are remembered
_OVERHEAD = _PRELUDE.size + 4
_INTEGERS = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q")}
_TIME = struct.Struct(">q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(NamedTuple):
    """One message: ``raw`` are its exact bytes, checksums included."""

    raw: bytes
    headers: Mapping[str, HeaderValue]
    payload: bytes

    def text(self, name: str) -> str:
        """The header ``name`` as text, empty where there is none."""
        value = self.headers.get(name, "")
        return value if isinstance(value, str) else ""


class Messages:
    """Cuts a stream of bytes into messages, however it was cut, and checks both checksums of each."""

    __slots__ = ("_buffer", "_checked", "_known", "_limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._checked = False  # the prelude at the start of the buffer is known to be good
        self._known: dict[bytes, dict[str, HeaderValue]] = {}  # a stream repeats a handful of header blocks

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes.

        Raises ``UpstreamFailed``: ``too_large`` for a message over the limit, ``unreadable`` for a wrong checksum or
        a header that is none; after it nothing more can be read.
        """
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        at = 0
        while len(buffer) - at >= _PRELUDE.size:
            length, headers_length, checksum = _PRELUDE.unpack_from(buffer, at)
            if not self._checked:
                self._check_prelude(bytes(buffer[at : at + 8]), length, headers_length, checksum)
                self._checked = True
            if len(buffer) - at < length:
                break
            messages.append(self._message(bytes(buffer[at : at + length]), headers_length))
            self._checked = False
            at += length
        if at:
            del buffer[:at]
        return messages

    def _message(self, raw: bytes, headers_length: int) -> Message:
        if crc32(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
            raise _unreadable("the checksum of a message is wrong")
        end = _PRELUDE.size + headers_length
        block = raw[_PRELUDE.size : end]
        headers = self._known.get(block)
        if headers is None:
            try:
                headers = _headers(raw, _PRELUDE.size, end)
            except (struct.error, IndexError, OverflowError, OSError, ValueError) as error:
                raise _unreadable("the headers of a message cannot be read") from error
            if len(self._known) < _KNOWN:
                self._known[block] = headers
        return Message(raw, headers, raw[end:-4])

    @property
    def pending(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def _check_prelude(self, prelude: bytes, length: int, headers_length: int, checksum: int) -> None:
        if crc32(prelude) != checksum:
            raise _unreadable("the checksum of a message's prelude is wrong")
        if length > self._limit or headers_length > HEADERS_LIMIT:
            raise UpstreamFailed("too_large", f"the provider sent a message of {length} bytes; {self._limit} are read")
        if length < _OVERHEAD + headers_length:
            raise _unreadable("a message is shorter than its headers")


def encode(headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
    """One message. Raises ``ValueError`` for a header name or value that the format cannot hold."""
    block = b"".join(_header(name, value) for name, value in headers.items())
    length = _OVERHEAD + len(block) + len(payload)
    if len(block) > HEADERS_LIMIT or length > LIMIT:
        raise ValueError(f"a message of {length} bytes is over the limit of {LIMIT}")
    lengths = struct.pack(">II", length, len(block))
    message = lengths + struct.pack(">I", crc32(lengths)) + block + payload
    return message + struct.pack(">I", crc32(message))


def _headers(raw: bytes, at: int, end: int) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    while at < end:
        name_end = at + 1 + raw[at]
        name = raw[at + 1 : name_end].decode()
        kind = raw[name_end]
        at = name_end + 1
        value: HeaderValue
        if kind in (0, 1):
            value = kind == 0
        elif kind in _INTEGERS:
            integer = _INTEGERS[kind]
            value = integer.unpack_from(raw, at)[0]
            at += integer.size
        elif kind in (6, 7):
            value_end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
            value = raw[at + 2 : value_end]
            if kind == 7:
                value = value.decode()
            at = value_end
        elif kind == 8:
            ms = _TIME.unpack_from(raw, at)[0]
            value = datetime.fromtimestamp(ms / 1000, UTC)
            at += 8
        elif kind == 9:
            value = UUID(bytes=raw[at : at + 16])
            at += 16
        else:
            raise ValueError(f"{kind} is no header type")
        if at > end:
            raise ValueError("a header ends after the headers")
        headers[name] = value
    return headers


def _header(name: str, value: HeaderValue) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) < 256:
        raise ValueError(f"a header's name has 1 to 255 bytes, this one {len(encoded)}")
    return bytes([len(encoded)]) + encoded + _value(value)


def _value(value: HeaderValue) -> bytes:
    if isinstance(value, bool):
        return b"\x00" if value else b"\x01"
    if isinstance(value, int):
        for kind, integer in _INTEGERS.items():
            if -(1 << (integer.size * 8 - 1)) <= value < 1 << (integer.size * 8 - 1):
                return bytes([kind]) + integer.pack(value)
        raise ValueError(f"{value} has more than 64 bits")
    if isinstance(value, datetime):
        delta = value - _EPOCH
        return b"\x08" + _TIME.pack((delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000)
    if isinstance(value, UUID):
        return b"\x09" + value.bytes
    data = value.encode() if isinstance(value, str) else value
    if len(data) > 0x7FFF:
        raise ValueError(f"a header's value has at most 32767 bytes, this one {len(data)}")
    return (b"\x07" if isinstance(value, str) else b"\x06") + len(data).to_bytes(2, "big") + data


def _unreadable(what: str) -> UpstreamFailed:
    return UpstreamFailed("unreadable", f"the provider's event stream cannot be read: {what}")
