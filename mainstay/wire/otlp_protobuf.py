"""What OTLP needs of protobuf's wire format, in both directions: numbers, lengths, and skipping what is unknown."""

from __future__ import annotations

from struct import Struct

from mainstay.core.errors import Invalid

CODE = "invalid_otlp"
"""The code of the one error that reading raises."""

double = Struct("<d")
fixed64 = Struct("<Q")
fixed32 = Struct("<I")


def broken(what: str) -> Invalid:
    """The error for bytes that are not what they should be."""
    return Invalid(f"This is no OTLP message in protobuf: {what}.", code=CODE)


def too_long() -> Invalid:
    """The error for a field that goes on after the end of its message."""
    return broken("a field is longer than what holds it")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, and where it ends. Raises ``Invalid``; ``IndexError`` at the end of ``data``."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise broken("a number has more than ten bytes")


def read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the field whose length is at ``at`` begins and ends. Raises ``Invalid`` where that is after ``end``."""
    size, at = read_varint(data, at)
    stop = at + size
    if stop > end:
        raise too_long()
    return at, stop


def skip(data: bytes, at: int, end: int, tag: int) -> int:
    """Where the field ends whose tag begins with the byte ``tag``, just before ``at``."""
    if tag > 127:  # a tag of more bytes; the wire type is in the first
        _, at = read_varint(data, at - 1)
    kind = tag & 7
    if kind == 0:
        _, at = read_varint(data, at)
    elif kind == 2:
        _, at = read_length(data, at, end)
    elif kind == 1:
        at += 8
    elif kind == 5:
        at += 4
    else:
        raise broken(f"it has a field of the wire type {kind}")
    if at > end:
        raise too_long()
    return at


def signed(number: int) -> int:
    """A varint as an int64."""
    return number - (1 << 64) if number >> 63 else number


def varint(number: int) -> bytes:
    """``number`` as a varint; a negative one takes ten bytes."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def part(tag: int, content: bytes) -> bytes:
    """A field of a text, bytes or a message, ``tag`` being its whole tag of one byte."""
    return _SMALL[tag] + varint(len(content)) + content


def text(tag: int, content: str) -> bytes:
    """A field of text, left out where it is empty. What has no bytes (a lone surrogate) becomes a question mark."""
    return part(tag, content.encode("utf-8", "replace")) if content else b""


def number(tag: int, value: int) -> bytes:
    """A field of a whole number, left out where it is zero."""
    return _SMALL[tag] + varint(value) if value else b""


_SMALL = [bytes([one]) for one in range(128)]
