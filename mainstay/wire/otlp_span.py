"""A span as OpenTelemetry means it, whatever encoding it came in, and the limits of what is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Value: TypeAlias = "str | bool | int | float | bytes | tuple[Value, ...] | Mapping[str, Value] | None"
"""An attribute's value (``AnyValue``); None is a value that is not set."""

Attributes: TypeAlias = Mapping[str, Value]

Kind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]
KINDS: tuple[Kind, ...] = ("unspecified", "internal", "server", "client", "producer", "consumer")
"""Span kinds, each at its number on the wire."""

StatusCode = Literal["unset", "ok", "error"]
STATUSES: tuple[StatusCode, ...] = ("unset", "ok", "error")
"""Status codes, each at its number on the wire."""

_NONE: Attributes = {}


def _none() -> Attributes:
    return _NONE


@dataclass(frozen=True, slots=True)
class Resource:
    """What made the spans: a service, its version, its host. Spans of one request share it."""

    attributes: Attributes = field(default_factory=_none)
    dropped_attributes: int = 0
    schema_url: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """The instrumentation that made the spans. Spans of one request share it."""

    name: str = ""
    version: str = ""
    attributes: Attributes = field(default_factory=_none)
    dropped_attributes: int = 0
    schema_url: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a span, ``at`` nanoseconds since the epoch."""

    at: int
    name: str
    attributes: Attributes = field(default_factory=_none)
    dropped_attributes: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A span of this or another trace that has to do with this one."""

    trace_id: str
    span_id: str
    trace_state: str = ""
    attributes: Attributes = field(default_factory=_none)
    dropped_attributes: int = 0
    flags: int = 0


NO_RESOURCE = Resource()
NO_SCOPE = Scope()


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Ids are hex digits in lower case (32 and 16), times nanoseconds since the epoch.

    ``dropped_…`` count what the sender, and then the reader, left out for its limits.
    """

    trace_id: str
    span_id: str
    name: str
    start: int
    end: int
    parent_id: str | None = None
    kind: Kind = "internal"
    status: StatusCode = "unset"
    status_message: str = ""
    attributes: Attributes = field(default_factory=_none)
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    resource: Resource = NO_RESOURCE
    scope: Scope = NO_SCOPE
    trace_state: str = ""
    flags: int = 0
    dropped_attributes: int = 0
    dropped_events: int = 0
    dropped_links: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one request is read. What is beyond is left out and counted, never silently.

    A request is held in memory as objects, each far larger than its few bytes on the wire, so that a limit of bytes
    alone would not bound it.
    """

    spans: int = 20_000
    """Spans of a request; the others are rejected (partial success)."""
    attributes: int = 1024
    """Attributes of a span, event, link, scope or resource. OpenInference spreads a chat over hundreds of them."""
    all_attributes: int = 500_000
    """Attributes of a request."""
    value_bytes: int = 256 * 1024
    """Bytes of one text or byte value; a longer one is cut."""
    name_bytes: int = 1024
    """Bytes of a name, a key, a status message or a trace state; a longer one is cut."""
    events: int = 256
    """Events of a span."""
    links: int = 256
    """Links of a span."""
    depth: int = 8
    """Levels of arrays and maps within a value; what is deeper is None."""
    items: int = 4096
    """Elements of one value, those of its inner arrays and maps included."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The spans of a request.

    ``rejected`` counts spans that were not taken, ``reason`` is the sentence for their sender. ``cut`` counts values
    that were shortened or left out.
    """

    spans: list[Span]
    rejected: int = 0
    reason: str = ""
    cut: int = 0
