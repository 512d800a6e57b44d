"""A cache entry as bytes that say what they are: for files, and for servers that keep them."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, get_args
from zlib import crc32

import msgspec

from mainstay.core.event import End, Event, Frame
from mainstay.core.usage import Usage
from mainstay.gateway.cache import Entry

_MAGIC = b"MSCACHE1"
_KINDS: tuple[Any, ...] = get_args(Event)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_SHAPE = hashlib.sha256(
    repr([(kind.__name__, kind._fields) for kind in _KINDS] + [Usage.__match_args__]).encode()
).digest()[:8]
"""What the events are made of: an entry of a version with other events is none of ours, and nobody has to think of it."""

_HEAD = struct.Struct("<8sI8s32sddIQQ")
"""Magic, checksum of all that follows it, shape, key, expiry, time to live, and the lengths of the three parts."""
_CHECKED = 12
"""Where that which the checksum covers begins."""


class _Told(msgspec.Struct, array_like=True, gc=False):
    """All of an entry that is not its frames' bytes."""

    dialect: str
    content_type: str
    model: str
    provider: str
    finish: str | None
    usage: Usage | None
    size: int
    events: list[tuple[int, Any]] | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode


def encoded(key: bytes, entry: Entry) -> list[bytes]:
    """``entry`` as the parts of what is stored under ``key``, to be written one after the other."""
    events: list[tuple[int, Any]] | None = None
    raw: list[bytes] = []
    if entry.frames[0].raw is None:
        events = [(_NUMBERS[type(event)], event) for event in entry.frames[0].events]
    else:
        raw = [frame.raw or b"" for frame in entry.frames]
    told = _encode(
        _Told(
            entry.dialect,
            entry.content_type,
            entry.model,
            entry.provider,
            entry.finish,
            entry.usage,
            entry.size,
            events,
        )
    )
    before, end = (b"" if len(raw) < 2 else raw[0]), (raw[-1] if raw else b"")
    lengths = (len(told), len(before), len(end))
    head = _HEAD.pack(_MAGIC, 0, _SHAPE, key, entry.expires, entry.ttl, *lengths)[_CHECKED:]
    check = crc32(end, crc32(before, crc32(told, crc32(head))))
    return [_MAGIC + check.to_bytes(4, "little") + head, told, before, end]


def decoded(key: bytes, data: bytes) -> Entry | None:
    """The entry that was stored under ``key``; None for what is torn, altered, another's, or of another version.

    Its ``until`` and ``mark`` are for the caller to set.
    """
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return None
    _, check, shape, whose, expires, ttl, told_size, before_size, end_size = _HEAD.unpack_from(data)
    start = _HEAD.size + told_size
    if shape != _SHAPE or whose != key or len(data) != start + before_size + end_size:
        return None
    if crc32(memoryview(data)[_CHECKED:]) != check:
        return None
    try:
        told = _decode(memoryview(data)[_HEAD.size : start])
        frames = _frames(told.events, data[start : start + before_size], data[start + before_size :])
    except (msgspec.MsgspecError, LookupError):
        return None
    about = (told.dialect, told.content_type, told.model, told.provider, told.finish, told.usage)
    return Entry(frames, *about, until=0.0, size=told.size, expires=expires, ttl=ttl)


def _frames(events: list[tuple[int, Any]] | None, before: bytes, end: bytes) -> list[Frame]:
    if events is not None:
        return [Frame(None, tuple([msgspec.convert(fields, _KINDS[number]) for number, fields in events]))]
    return [*([Frame(before, ())] if before else []), Frame(end, (End(),))]
