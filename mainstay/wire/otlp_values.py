"""Attributes and their values in OTLP's protobuf, read within limits."""

from __future__ import annotations

from mainstay.wire.otlp_protobuf import double, read_length, read_varint, signed, skip, too_long
from mainstay.wire.otlp_span import Limits, Value

_KNOWN = 4096
KNOWN_BYTES = 64
"""Bytes of an attribute up to which it is remembered: a request repeats most of its short ones."""


class ValueReader:
    """Reads attributes of one request; what is over the limits is counted."""

    __slots__ = ("_data", "_items", "_keys", "_known", "_limits", "_room", "cut")

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._room = limits.all_attributes
        self._items = 0
        self._known: dict[bytes, tuple[str, Value]] = {}
        self._keys: dict[bytes, str] = {}
        self.cut = 0

    def _text(self, at: int, end: int, limit: int) -> str:
        if end - at > limit:
            self.cut += 1
            return str(self._data[at : at + limit], "utf-8", "ignore")
        return str(self._data[at:end], "utf-8", "replace")

    def _name(self, at: int, end: int) -> str:
        return self._text(at, end, self._limits.name_bytes)

    def _attribute(self, at: int, end: int, into: dict[str, Value], raw: bytes = b"") -> int:
        """Puts one attribute ``into`` its place; 1 where there was no room. ``raw`` is given where it may recur."""
        self._room -= 1
        if self._room < 0 or len(into) >= self._limits.attributes:
            return 1
        self._items = self._limits.items
        key, value = (self._short(at, end) if end - at > 5 else None) or self._pair(at, end, 1)
        into[key] = value
        if raw and not isinstance(value, tuple | dict):
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[raw] = key, value
        return 0

    def _short(self, at: int, end: int) -> tuple[str, Value] | None:
        """A pair of a known key with a short text or a number, as nearly all are; else None, and ``_pair`` reads it."""
        data = self._data
        value = at + 2 + data[at + 1]
        if data[at] != 0x0A or data[at + 1] > 127 or value + 4 > end or data[value] != 0x12:
            return None
        key = self._keys.get(data[at + 2 : value])
        start = value + 4
        if key is None or data[value + 1] != end - value - 2:  # a length of several bytes never is what is left
            return None
        sort, size = data[value + 2], data[value + 3]
        if sort == 0x0A and size == end - start <= self._limits.value_bytes:
            return key, str(data[start:end], "utf-8", "replace")
        if sort == 0x18 and size < 128 and start == end:
            return key, size
        return None

    def _pair(self, at: int, end: int, depth: int) -> tuple[str, Value]:
        data = self._data
        key, value = "", None
        while at < end:
            tag = data[at]
            if tag == 0x0A:
                at, stop = read_length(data, at + 1, end)
                key = self._key(at, stop)
                at = stop
            elif tag == 0x12:
                at, stop = read_length(data, at + 1, end)
                value = self._value(at, stop, depth)
                at = stop
            else:
                at = skip(data, at + 1, end, tag)
        return key, value

    def _key(self, at: int, end: int) -> str:
        raw = self._data[at:end]
        key = self._keys.get(raw)
        if key is None:
            key = self._name(at, end)
            if len(self._keys) < _KNOWN and end - at <= 128:
                self._keys[raw] = key
        return key

    def _value(self, at: int, end: int, depth: int) -> Value:
        data = self._data
        value: Value = None
        while at < end:
            tag = data[at]
            at += 1
            if tag == 0x0A:
                at, stop = read_length(data, at, end)
                value = self._text(at, stop, self._limits.value_bytes)
                at = stop
            elif tag == 0x18:
                number, at = read_varint(data, at)
                value = signed(number)
            elif tag == 0x10:
                number, at = read_varint(data, at)
                value = number != 0
            elif tag == 0x21:
                value = double.unpack_from(data, at)[0]
                at += 8
            elif tag in (0x2A, 0x32):
                at, stop = read_length(data, at, end)
                value = self._several(at, stop, depth, tag)
                at = stop
            elif tag == 0x3A:
                at, stop = read_length(data, at, end)
                self.cut += stop - at > self._limits.value_bytes
                value = data[at : min(stop, at + self._limits.value_bytes)]
                at = stop
            else:
                at = skip(data, at, end, tag)
        if at > end:
            raise too_long()
        return value

    def _several(self, at: int, end: int, depth: int, sort: int) -> Value:
        """An array or a map. Not entered where it is too deep: so nesting costs nothing."""
        if depth >= self._limits.depth:
            self.cut += 1
            return None
        data = self._data
        array: list[Value] = []
        pairs: dict[str, Value] = {}
        while at < end:
            tag = data[at]
            if tag != 0x0A:
                at = skip(data, at + 1, end, tag)
                continue
            at, stop = read_length(data, at + 1, end)
            self._items -= 1
            if self._items < 0:
                self.cut += self._items == -1
            elif sort == 0x2A:
                array.append(self._value(at, stop, depth + 1))
            else:
                key, value = self._pair(at, stop, depth + 1)
                pairs[key] = value
            at = stop
        return tuple(array) if sort == 0x2A else pairs
