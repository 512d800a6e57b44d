"""The framing of journal segments: u32 length, u32 CRC-32, u8 kind, payload; a length of zero means the end."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple
from zlib import crc32

HEAD = struct.Struct("<IIB")
"""Length and checksum of the payload, and its kind, which the checksum covers too."""

OPEN, CLOSE, DROPPED = 1, 2, 3
"""The kinds of frames: a call opened, a call closed, so many rows dropped."""

FRAME_LIMIT = 1024 * 1024
"""Bytes a payload may have; a length above it is no length."""


def frame(kind: int, payload: bytes) -> bytes:
    """``payload`` as one frame."""
    return HEAD.pack(len(payload), crc32(payload, kind), kind) + payload


class Scan(NamedTuple):
    """What ``scan`` found: frames, the offset after the last whole one, and what stands there.

    ``end``: nothing (zeros, or the data's own end); ``cut``: a frame of which the data's end is missing;
    ``bad``: bytes that are no frame. ``resume`` is the offset of a whole frame right behind a bad one, or None.
    """

    frames: list[tuple[int, bytes]]
    offset: int
    state: Literal["end", "cut", "bad"]
    resume: int | None = None


def scan(data: bytes, offset: int = 0) -> Scan:
    """All whole frames of ``data`` from ``offset`` on."""
    frames: list[tuple[int, bytes]] = []
    size = len(data)
    unpack, head = HEAD.unpack_from, HEAD.size
    while True:
        if size - offset < head:
            # Less than a head is left: a torn head if anything is there at all.
            return Scan(frames, offset, "cut" if data[offset:].strip(b"\0") else "end")
        length, checksum, kind = unpack(data, offset)
        if length == 0:
            return Scan(frames, offset, "end" if checksum == 0 and kind == 0 else "bad")
        if length > FRAME_LIMIT:
            return Scan(frames, offset, "bad")
        start = offset + head
        end = start + length
        if end > size:
            return Scan(frames, offset, "cut")
        payload = data[start:end]
        if crc32(payload, kind) != checksum:
            return Scan(frames, offset, "bad", end if _whole(data, end) else None)
        frames.append((kind, payload))
        offset = end


def _whole(data: bytes, offset: int) -> bool:
    if len(data) - offset < HEAD.size:
        return False
    length, checksum, kind = HEAD.unpack_from(data, offset)
    start = offset + HEAD.size
    if not 0 < length <= FRAME_LIMIT or start + length > len(data):
        return False
    return crc32(data[start : start + length], kind) == checksum
