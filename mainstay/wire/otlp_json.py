"""OTLP's trace requests in JSON, read: protobuf's JSON mapping, but with ids in hex and enums as numbers."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from math import isfinite

import msgspec

from mainstay.core.errors import Invalid
from mainstay.wire.otlp_protobuf import CODE
from mainstay.wire.otlp_span import (
    KINDS,
    NO_RESOURCE,
    NO_SCOPE,
    STATUSES,
    Decoded,
    Event,
    Kind,
    Limits,
    Link,
    Resource,
    Scope,
    Span,
    StatusCode,
    Value,
)

OBJECTS = 1_000_000
"""Braces that a request may have: its objects are held in memory while it is read. A brace within a text counts."""

_Whole = int | float | str | None


class _Shape(msgspec.Struct, rename="camel", gc=False):
    pass


class _Array(_Shape):
    values: list[_Value | None] | None = None


class _Map(_Shape):
    values: list[_Pair | None] | None = None


class _Value(_Shape):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: _Whole = None
    double_value: int | float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Map | None = None
    bytes_value: str | None = None


class _Pair(_Shape):
    key: str | None = None
    value: _Value | None = None


_Pairs = list[_Pair | None] | None


class _Event(_Shape):
    time_unix_nano: _Whole = None
    name: str | None = None
    attributes: _Pairs = None
    dropped_attributes_count: _Whole = None


class _Link(_Shape):
    trace_id: str | None = None
    span_id: str | None = None
    trace_state: str | None = None
    attributes: _Pairs = None
    dropped_attributes_count: _Whole = None
    flags: _Whole = None


class _Status(_Shape):
    code: _Whole = None
    message: str | None = None


class _Span(_Shape):
    trace_id: str | None = None
    span_id: str | None = None
    trace_state: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: _Whole = None
    start_time_unix_nano: _Whole = None
    end_time_unix_nano: _Whole = None
    attributes: _Pairs = None
    dropped_attributes_count: _Whole = None
    events: list[_Event | None] | None = None
    dropped_events_count: _Whole = None
    links: list[_Link | None] | None = None
    dropped_links_count: _Whole = None
    status: _Status | None = None
    flags: _Whole = None


class _Resource(_Shape):
    attributes: _Pairs = None
    dropped_attributes_count: _Whole = None


class _Scope(_Resource):
    name: str | None = None
    version: str | None = None


class _ScopeSpans(_Shape):
    scope: _Scope | None = None
    spans: list[msgspec.Raw] | None = None  # one is made into objects at a time
    schema_url: str | None = None


class _ResourceSpans(_Shape):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans | None] | None = None
    schema_url: str | None = None


class _Request(_Shape):
    resource_spans: list[_ResourceSpans | None] | None = None


_HALF = re.compile(
    rb"(?<!\\)((?:\\\\)*)\\u(?:([dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""Escapes of UTF-16's halves, whole pairs in group 2. JavaScript writes a lone one where it cut a text in two; it is
no reason to lose a request."""

_request = msgspec.json.Decoder(_Request)
_span = msgspec.json.Decoder(_Span)


def read(data: bytes, limits: Limits) -> Decoded:
    """The spans of an ``ExportTraceServiceRequest``. Raises ``Invalid`` for a text that is none."""
    if data.count(b"{") > OBJECTS:
        raise _invalid(f"it has over {OBJECTS} objects; send smaller batches")
    if b"\\ud" in data or b"\\uD" in data:
        data = _HALF.sub(lambda found: found[0] if found[2] else found[1] + b"?", data)
    reader = _Reader(limits)
    try:
        reader.request(_request.decode(data))
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    return Decoded(reader.spans, reader.rejected, reader.reason, reader.cut)


def _invalid(what: str) -> Invalid:
    return Invalid(f"This is no OTLP trace request in JSON: {what}.", code=CODE)


class _Reader:
    __slots__ = ("_items", "_limits", "_room", "cut", "reason", "rejected", "spans")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = limits.all_attributes
        self._items = 0
        self.spans: list[Span] = []
        self.rejected = 0
        self.reason = ""
        self.cut = 0

    def request(self, request: _Request) -> None:
        """Fills ``spans``."""
        for group in request.resource_spans or ():
            if group is None:
                continue
            resource, schema = NO_RESOURCE, self._name(group.schema_url)
            if group.resource is not None or schema:
                found = group.resource or _Resource()
                attributes, dropped = self._attributes(found.attributes, found.dropped_attributes_count)
                resource = Resource(attributes, dropped, schema)
            for members in group.scope_spans or ():
                if members is not None:
                    self._scope_spans(members, resource)

    def _scope_spans(self, members: _ScopeSpans, resource: Resource) -> None:
        scope, schema = NO_SCOPE, self._name(members.schema_url)
        if members.scope is not None or schema:
            found = members.scope or _Scope()
            attributes, dropped = self._attributes(found.attributes, found.dropped_attributes_count)
            scope = Scope(self._name(found.name), self._name(found.version), attributes, dropped, schema)
        for raw in members.spans or ():
            if len(self.spans) >= self._limits.spans:
                self._reject(f"a request may have {self._limits.spans} spans")
            else:
                self._span(_span.decode(raw), resource, scope)

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.reason = self.reason or reason

    def _span(self, span: _Span, resource: Resource, scope: Scope) -> None:
        trace_id, span_id = _id(span.trace_id, 32), _id(span.span_id, 16)
        if trace_id is None or span_id is None:
            return self._reject("a span needs a trace id of 32 hex digits and a span id of 16, not all of them zero")
        kind = _enum(span.kind, KINDS, "SPAN_KIND_")
        status = span.status or _Status()
        attributes, dropped = self._attributes(span.attributes, span.dropped_attributes_count)
        events, links = span.events or (), span.links or ()
        kept_links = tuple(made for link in links[: self._limits.links] if (made := self._link(link)) is not None)
        code: StatusCode = STATUSES[_enum(status.code, STATUSES, "STATUS_CODE_")]
        sort: Kind = KINDS[kind]
        self.spans.append(
            Span(
                trace_id,
                span_id,
                self._name(span.name),
                _uint(span.start_time_unix_nano, 64),
                _uint(span.end_time_unix_nano, 64),
                _id(span.parent_span_id, 16),
                sort,
                code,
                self._name(status.message),
                attributes,
                tuple(self._event(event) for event in events[: self._limits.events] if event is not None),
                kept_links,
                resource,
                scope,
                self._name(span.trace_state),
                _uint(span.flags, 32),
                dropped,
                _uint(span.dropped_events_count, 32) + max(0, len(events) - self._limits.events),
                _uint(span.dropped_links_count, 32) + len(links) - len(kept_links),
            )
        )
        return None

    def _event(self, event: _Event) -> Event:
        attributes, dropped = self._attributes(event.attributes, event.dropped_attributes_count)
        return Event(_uint(event.time_unix_nano, 64), self._name(event.name), attributes, dropped)

    def _link(self, link: _Link | None) -> Link | None:
        if link is None or (trace_id := _id(link.trace_id, 32)) is None or (span_id := _id(link.span_id, 16)) is None:
            return None
        attributes, dropped = self._attributes(link.attributes, link.dropped_attributes_count)
        return Link(trace_id, span_id, self._name(link.trace_state), attributes, dropped, _uint(link.flags, 32))

    def _attributes(self, pairs: _Pairs, dropped: _Whole) -> tuple[dict[str, Value], int]:
        found: dict[str, Value] = {}
        left_out = _uint(dropped, 32)
        for pair in pairs or ():
            if pair is None:
                continue
            self._room -= 1
            if self._room < 0 or len(found) >= self._limits.attributes:
                left_out += 1
                continue
            self._items = self._limits.items
            found[self._name(pair.key)] = self._value(pair.value, 1)
        return found, left_out

    def _value(self, value: _Value | None, depth: int) -> Value:
        if value is None:
            return None
        if value.string_value is not None:
            return self._text(value.string_value, self._limits.value_bytes)
        if value.int_value is not None:
            return _whole(value.int_value, -(1 << 63), 1 << 63)
        if value.bool_value is not None:
            return value.bool_value
        if value.double_value is not None:
            return _double(value.double_value)
        if value.bytes_value is not None:
            raw = _bytes(value.bytes_value)
            self.cut += len(raw) > self._limits.value_bytes
            return raw[: self._limits.value_bytes]
        if value.array_value is None and value.kvlist_value is None:
            return None
        if depth >= self._limits.depth:
            self.cut += 1
            return None
        if value.array_value is not None:
            items = value.array_value.values or ()
            return tuple(self._value(one, depth + 1) for one in items if self._another())
        pairs = value.kvlist_value.values if value.kvlist_value is not None else None
        members = (pair for pair in pairs or () if pair is not None)
        return {self._name(pair.key): self._value(pair.value, depth + 1) for pair in members if self._another()}

    def _another(self) -> bool:
        self._items -= 1
        self.cut += self._items == -1
        return self._items >= 0

    def _name(self, text: str | None) -> str:
        return self._text(text, self._limits.name_bytes) if text else ""

    def _text(self, text: str, limit: int) -> str:
        if len(text) * 4 > limit and len(raw := text.encode()) > limit:
            self.cut += 1
            return raw[:limit].decode(errors="ignore")
        return text


def _id(text: str | None, digits: int) -> str | None:
    if not text or len(text) != digits:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw.hex() if len(raw) * 2 == digits and any(raw) else None


def _whole(number: _Whole, least: int, beyond: int) -> int:
    """A whole number as protobuf's JSON allows it: as a number, or as a text of digits."""
    if number is None or number == "":
        return 0
    try:
        found = int(number)
        if isinstance(number, float) and not number.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        raise _invalid(f"{str(number)[:40]!r} is no whole number") from None
    if not least <= found < beyond:
        raise _invalid(f"{str(number)[:40]!r} is out of its range")
    return found


def _uint(number: _Whole, bits: int) -> int:
    return _whole(number, 0, 1 << bits)


def _enum(number: _Whole, names: tuple[str, ...], prefix: str) -> int:
    # Numbers, the standard says; protobuf's own mapping writes names, and some senders have it so.
    if isinstance(number, str) and number.startswith(prefix):
        name = number[len(prefix) :].lower()
        return names.index(name) if name in names else 0
    found = _whole(number, -(1 << 31), 1 << 31)
    return found if 0 <= found < len(names) else 0


def _double(number: int | float | str) -> float:
    try:
        found = float(number)
    except (ValueError, OverflowError):
        raise _invalid(f"{str(number)[:40]!r} is no number") from None
    if isinstance(number, str) and not isfinite(found) and number not in ("NaN", "Infinity", "-Infinity"):
        raise _invalid(f"{number[:40]!r} is no number")
    return found


def _bytes(text: str) -> bytes:
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("a value of bytes is not in base64") from None
