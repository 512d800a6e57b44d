"""OTLP's trace requests in protobuf, read without a protobuf library.

Why: docs/decisions/0006-otlp.md. Everything is read in one pass over the bytes; nothing is built before its limit
is checked.
"""

from __future__ import annotations

from struct import error as StructError

from mainstay.wire.otlp_protobuf import broken, fixed32, fixed64, read_length, read_varint, skip, too_long
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
from mainstay.wire.otlp_values import KNOWN_BYTES, ValueReader

_NO_SPAN, _NO_TRACE = "0" * 16, "0" * 32


def read(data: bytes, limits: Limits) -> Decoded:
    """The spans of an ``ExportTraceServiceRequest``. Raises ``Invalid`` for bytes that are none."""
    reader = _Reader(data, limits)
    try:
        reader.request()
    except (IndexError, StructError):
        raise broken("it ends too early") from None
    return Decoded(reader.spans, reader.rejected, reader.reason, reader.cut)


class _Rest:
    """What most spans have little of."""

    __slots__ = (
        "dropped_attributes", "dropped_events", "dropped_links", "events", "flags", "links", "message", "state", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status: StatusCode = "unset"
        self.message = self.state = ""
        self.events: list[Event] = []
        self.links: list[Link] = []
        self.flags = self.dropped_attributes = self.dropped_events = self.dropped_links = 0


class _Reader(ValueReader):
    __slots__ = ("reason", "rejected", "spans")

    def __init__(self, data: bytes, limits: Limits) -> None:
        super().__init__(data, limits)
        self.spans: list[Span] = []
        self.rejected = 0
        self.reason = ""

    def request(self) -> None:
        """Fills ``spans``."""
        data = self._data
        at, end = 0, len(data)
        while at < end:
            tag = data[at]
            at += 1
            if tag == 0x0A:
                at, stop = read_length(data, at, end)
                self._resource_spans(at, stop)
                at = stop
            else:
                at = skip(data, at, end, tag)

    def _resource_spans(self, at: int, end: int) -> None:
        # Fields may come in any order, and the spans need their resource: first what there is, then the spans.
        data = self._data
        groups: list[tuple[int, int]] = []
        found, schema = None, ""
        while at < end:
            tag = data[at]
            at += 1
            if tag in (0x0A, 0x12, 0x1A):
                at, stop = read_length(data, at, end)
                if tag == 0x12:
                    groups.append((at, stop))
                elif tag == 0x0A:
                    found = (at, stop)
                else:
                    schema = self._name(at, stop)
                at = stop
            else:
                at = skip(data, at, end, tag)
        resource = NO_RESOURCE
        if found is not None:
            attributes, dropped, _ = self._scope_like(*found, attributes=0x0A, dropped=0x10)
            resource = Resource(attributes, dropped, schema)
        elif schema:
            resource = Resource(schema_url=schema)
        for start, stop in groups:
            self._scope_spans(start, stop, resource)

    def _scope_spans(self, at: int, end: int, resource: Resource) -> None:
        data = self._data
        first = at
        found, schema = None, ""
        while at < end:
            tag = data[at]
            at += 1
            if tag in (0x0A, 0x1A):
                at, stop = read_length(data, at, end)
                if tag == 0x0A:
                    found = (at, stop)
                else:
                    schema = self._name(at, stop)
                at = stop
            else:
                at = skip(data, at, end, tag)
        scope = NO_SCOPE
        if found is not None:
            attributes, dropped, (name, version) = self._scope_like(*found, attributes=0x1A, dropped=0x20)
            scope = Scope(name, version, attributes, dropped, schema)
        elif schema:
            scope = Scope(schema_url=schema)
        at, limit = first, self._limits.spans
        while at < end:  # once more, now for the spans: a list of their places could be long
            tag = data[at]
            at += 1
            if tag == 0x12:
                at, stop = read_length(data, at, end)
                if len(self.spans) >= limit:
                    self._reject(f"a request may have {limit} spans")
                else:
                    self._span(at, stop, resource, scope)
                at = stop
            else:
                at = skip(data, at, end, tag)

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.reason = self.reason or reason

    def _scope_like(
        self, at: int, end: int, attributes: int, dropped: int
    ) -> tuple[dict[str, Value], int, tuple[str, str]]:
        """A resource (with nothing but attributes) or a scope, by the tags of its attributes and their count."""
        data = self._data
        found: dict[str, Value] = {}
        left_out, texts = 0, {0x0A: "", 0x12: ""}
        while at < end:
            tag = data[at]
            at += 1
            if tag == attributes:
                at, stop = read_length(data, at, end)
                left_out += self._attribute(at, stop, found)
                at = stop
            elif tag in texts:
                at, stop = read_length(data, at, end)
                texts[tag] = self._name(at, stop)
                at = stop
            elif tag == dropped:
                count, at = read_varint(data, at)
                left_out += count & 0xFFFF_FFFF
            else:
                at = skip(data, at, end, tag)
        return found, left_out, (texts[0x0A], texts[0x12])

    def _span(self, at: int, end: int, resource: Resource, scope: Scope) -> None:
        """Adds one span, or rejects it. Most of a request's time is spent here, so what is frequent comes first."""
        data, known, limit = self._data, self._known, self._limits.attributes
        attributes: dict[str, Value] = {}
        left_out = start = ended = kind = 0
        trace_id = span_id = name = ""
        parent_id: str | None = None
        rest: _Rest | None = None
        while at < end:
            tag = data[at]
            at += 1
            if tag & 7 == 2 and tag < 128:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = read_varint(data, at - 1)
                stop = at + size
                if stop > end:
                    raise too_long()
                if tag == 0x4A:
                    raw = data[at:stop] if size <= KNOWN_BYTES else b""
                    pair = known.get(raw)
                    if pair is not None and len(attributes) < limit and self._room > 0:
                        self._room -= 1
                        attributes[pair[0]] = pair[1]
                    else:
                        left_out += self._attribute(at, stop, attributes, raw)
                elif tag == 0x12:
                    span_id = data[at:stop].hex() if size == 8 else ""
                elif tag == 0x0A:
                    trace_id = data[at:stop].hex() if size == 16 else ""
                elif tag == 0x2A:
                    name = self._name(at, stop)
                elif tag == 0x22:
                    parent_id = data[at:stop].hex() if size == 8 else None
                else:
                    rest = rest or _Rest()
                    self._part(tag, at, stop, rest)
                at = stop
            elif tag == 0x39:
                start = fixed64.unpack_from(data, at)[0]
                at += 8
            elif tag == 0x41:
                ended = fixed64.unpack_from(data, at)[0]
                at += 8
            elif tag == 0x30:
                kind, at = read_varint(data, at)
            else:
                rest = rest or _Rest()
                at = self._number(tag, at, end, rest)
        if at > end:
            raise too_long()
        if not trace_id or not span_id or trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return self._reject("a span needs a trace id of 16 bytes and a span id of 8, not all of them zero")
        self.spans.append(
            _made(trace_id, span_id, parent_id, name, kind, start, ended, attributes, resource, scope, rest, left_out)
        )
        return None

    def _part(self, tag: int, at: int, end: int, rest: _Rest) -> None:
        """What most spans have little of: the status, events, links, the trace state."""
        if tag == 0x7A:
            rest.status, rest.message = self._status(at, end)
        elif tag == 0x5A:
            if len(rest.events) < self._limits.events:
                rest.events.append(self._event(at, end))
            else:
                rest.dropped_events += 1
        elif tag == 0x6A:
            link = self._link(at, end) if len(rest.links) < self._limits.links else None
            if link is None:
                rest.dropped_links += 1
            else:
                rest.links.append(link)
        elif tag == 0x1A:
            rest.state = self._name(at, end)

    def _number(self, tag: int, at: int, end: int, rest: _Rest) -> int:
        data = self._data
        if tag == 0x85 and data[at] == 1:
            rest.flags = fixed32.unpack_from(data, at + 1)[0]
            return at + 5
        if tag not in (0x50, 0x60, 0x70):
            return skip(data, at, end, tag)
        number, at = read_varint(data, at)
        number &= 0xFFFF_FFFF
        if tag == 0x50:
            rest.dropped_attributes += number
        elif tag == 0x60:
            rest.dropped_events += number
        else:
            rest.dropped_links += number
        return at

    def _status(self, at: int, end: int) -> tuple[StatusCode, str]:
        data, message, code = self._data, "", 0
        while at < end:
            tag = data[at]
            at += 1
            if tag == 0x12:
                at, stop = read_length(data, at, end)
                message = self._name(at, stop)
                at = stop
            elif tag == 0x18:
                code, at = read_varint(data, at)
            else:
                at = skip(data, at, end, tag)
        return (STATUSES[code] if code < 3 else "unset"), message

    def _event(self, at: int, end: int) -> Event:
        data = self._data
        attributes: dict[str, Value] = {}
        when = dropped = 0
        name = ""
        while at < end:
            tag = data[at]
            at += 1
            if tag == 0x1A:
                at, stop = read_length(data, at, end)
                dropped += self._attribute(at, stop, attributes)
                at = stop
            elif tag == 0x12:
                at, stop = read_length(data, at, end)
                name = self._name(at, stop)
                at = stop
            elif tag == 0x09:
                when = fixed64.unpack_from(data, at)[0]
                at += 8
            elif tag == 0x20:
                number, at = read_varint(data, at)
                dropped += number & 0xFFFF_FFFF
            else:
                at = skip(data, at, end, tag)
        if at > end:
            raise too_long()
        return Event(when, name, attributes, dropped)

    def _link(self, at: int, end: int) -> Link | None:
        data = self._data
        attributes: dict[str, Value] = {}
        dropped = flags = 0
        trace_id = span_id = state = ""
        while at < end:
            tag = data[at]
            at += 1
            if tag in (0x0A, 0x12, 0x1A, 0x22):
                at, stop = read_length(data, at, end)
                if tag == 0x22:
                    dropped += self._attribute(at, stop, attributes)
                elif tag == 0x1A:
                    state = self._name(at, stop)
                elif tag == 0x0A:
                    trace_id = data[at:stop].hex() if stop - at == 16 else ""
                else:
                    span_id = data[at:stop].hex() if stop - at == 8 else ""
                at = stop
            elif tag == 0x35:
                flags = fixed32.unpack_from(data, at)[0]
                at += 4
            elif tag == 0x28:
                number, at = read_varint(data, at)
                dropped += number & 0xFFFF_FFFF
            else:
                at = skip(data, at, end, tag)
        if at > end:
            raise too_long()
        return Link(trace_id, span_id, state, attributes, dropped, flags) if trace_id and span_id else None


def _made(
    trace_id: str,
    span_id: str,
    parent_id: str | None,
    name: str,
    kind: int,
    start: int,
    end: int,
    attributes: dict[str, Value],
    resource: Resource,
    scope: Scope,
    rest: _Rest | None,
    dropped_attributes: int,
) -> Span:
    parent_id = None if parent_id == _NO_SPAN else parent_id
    sort: Kind = KINDS[kind] if kind < len(KINDS) else "unspecified"
    if rest is None:
        return Span(
            trace_id, span_id, name, start, end, parent_id, sort, "unset", "", attributes, (), (), resource, scope,
            "", 0, dropped_attributes,
        )  # fmt: skip
    return Span(
        trace_id, span_id, name, start, end, parent_id, sort, rest.status, rest.message, attributes,
        tuple(rest.events), tuple(rest.links), resource, scope, rest.state, rest.flags,
        dropped_attributes + rest.dropped_attributes, rest.dropped_events, rest.dropped_links,
    )  # fmt: skip
