"""Spans of applications, told in any of three dialects, as records of one shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

from mainstay.core.usage import Usage
from mainstay.observe.spans_content import Gathered, text
from mainstay.observe.spans_dialect import Dialect, Family, Field, Kind
from mainstay.observe.spans_figures import error_of, first_token_ms, names_of, reported_cost, tags_of, usage_of
from mainstay.observe.spans_genai import GENAI
from mainstay.observe.spans_langfuse import LANGFUSE
from mainstay.observe.spans_openinference import OPENINFERENCE
from mainstay.observe.spans_record import SpanRecord
from mainstay.wire.otlp_span import Span, Value

SCOPE = "mainstay"
"""The instrumentation scope of the spans that Mainstay itself sends."""

CALL_ATTRIBUTE = "mainstay.call.id"

OWN = Dialect(
    name="",
    marks=(),
    rows={
        "call": (CALL_ATTRIBUTE, "x-mainstay-call", "http.response.header.x-mainstay-call"),
        "session": ("mainstay.session",),
        "user": ("mainstay.user",),
        "workflow": ("mainstay.workflow",),
    },
    kinds={},
    families=(Family("mainstay.tag.", "tag"),),
)
"""Names of our own, with which any application may say what Mainstay's headers say."""

DIALECTS: tuple[Dialect, ...] = (OWN, LANGFUSE, GENAI, OPENINFERENCE)
"""In the order of preference: a span that speaks several is asked in this order for each field."""

ATTRIBUTES = 128
"""Attributes that a record keeps beside its fields."""
TEXT = 1024
"""Characters that one of them, or a field, may have."""

_Rank = tuple[int, int]


def _index() -> dict[str, list[tuple[Field, int, int]]]:
    found: dict[str, list[tuple[Field, int, int]]] = {}
    for rank, dialect in enumerate(DIALECTS):
        for field, names in dialect.rows.items():
            for order, name in enumerate(names):
                found.setdefault(name, []).append((field, rank, order))
    return found


_NAMES = _index()
_KINDS: dict[str, Mapping[str, Kind]] = {name: kinds for one in DIALECTS for name, kinds in one.kinds.items()}
_FAMILIES = tuple(family for dialect in DIALECTS for family in dialect.families)
_PREFIXES = tuple(family.prefix for family in _FAMILIES)
_EVENTS = {name: place for dialect in DIALECTS for name, place in dialect.events.items()}
_FIRST_TOKEN = frozenset(name for dialect in DIALECTS for name in dialect.first_token_events)
_MARKS = tuple((dialect.name, dialect.marks) for dialect in DIALECTS if dialect.marks)
_CHOICES = 16
_CONTENT = ("input", "output", "content")
_CALL = re.compile(r"call_[0-9a-hjkmnp-tv-z]{26}")


def record_of(span: Span) -> SpanRecord:
    """``span`` as a record. Never raises: what cannot be understood stays an attribute, or is unknown."""
    return _Mapping(span).record()


def records_of(spans: Iterable[Span]) -> list[SpanRecord]:
    """All of ``spans`` as records."""
    return [record_of(span) for span in spans]


class _Mapping:
    __slots__ = ("_content", "_dropped", "_fields", "_finish", "_kinds", "_metadata", "_rest", "_span", "_tags")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._fields: dict[Field, dict[int, tuple[int, Value]]] = {}  # by dialect: usage is never mixed
        self._kinds: dict[str, Kind] = {}
        self._rest: dict[str, str | int | float | bool] = {}
        self._metadata: dict[str, Value] = {}
        self._tags: dict[str, Value] = {}
        self._finish: list[Value] = []  # told per choice, beside or instead of the attribute for all of them
        self._content = Gathered()
        self._dropped = span.dropped_attributes
        for name, value in span.attributes.items():
            self._sort(name, value)
        for event in span.events:
            if (place := _EVENTS.get(event.name)) is not None:
                self._content.event(place, event)
                self._choice(event.attributes.get("finish_reason"))
            elif event.name == "gen_ai.client.inference.operation.details":
                for name, value in event.attributes.items():
                    if name not in span.attributes:
                        self._sort(name, value)

    def _sort(self, name: str, value: Value) -> None:
        meanings = _NAMES.get(name)
        if meanings is not None:
            for field, dialect, order in meanings:
                if field in _CONTENT:
                    self._content.whole(field, dialect * 100 + order, name, value)
                elif field == "metadata":
                    self._metadata |= {key: one for key, one in names_of(value).items() if key not in self._metadata}
                    if not names_of(value):
                        self._keep(name, value)
                elif value is not None and value != "":
                    held = self._fields.setdefault(field, {})
                    if dialect not in held or order < held[dialect][0]:
                        held[dialect] = order, value
            return
        if name in _KINDS:
            if (kind := _KINDS[name].get(text(value).lower())) is not None:
                self._kinds[name] = kind
            return
        if name.startswith(_PREFIXES):
            family = next(family for family in _FAMILIES if name.startswith(family.prefix))
            if family.place == "metadata":
                self._metadata.setdefault(name[len(family.prefix) :], value)
            elif family.place == "tag":
                self._tags[name[len(family.prefix) :]] = value
            else:
                self._content.spread(family, name, value)
                self._choice(value if name.endswith(".finish_reason") else None)
            return
        self._keep(name, value)

    def _choice(self, reason: Value) -> None:
        if reason is not None and len(self._finish) < _CHOICES:
            self._finish.append(reason)

    def _keep(self, name: str, value: Value) -> None:
        if len(self._rest) >= ATTRIBUTES:
            self._dropped += 1
        elif isinstance(value, bool | int | float):
            self._rest[name[:TEXT]] = value
        elif value is not None:
            self._rest[name[:TEXT]] = text(value)[:TEXT]

    def _value(self, field: Field) -> Value:
        held = self._fields.get(field)
        return held[min(held)][1] if held else None

    def _text(self, field: Field) -> str | None:
        value = self._value(field)
        if isinstance(value, tuple):  # headers are lists
            value = value[0] if value else None
        return None if value is None else text(value)[:TEXT]

    def _usage(self) -> Usage | None:
        """Of the first dialect that tells any: parts of one are not parts of another's total."""
        for dialect in range(len(DIALECTS)):
            figures = {
                field[6:]: held[dialect][1]
                for field, held in self._fields.items()
                if field.startswith("usage.") and dialect in held
            }
            if (found := usage_of(figures)) is not None:
                return found
        return None

    def _kind(self, usage: Usage | None) -> Kind:
        for name in _KINDS:  # in the order of the dialects
            if name in self._kinds:
                return self._kinds[name]
        if usage is not None and (self._value("model") or self._value("requested_model")):
            return "llm"
        return "tool" if "mcp.method.name" in self._rest else "other"

    def _dialect(self) -> str:
        for name, marks in _MARKS:
            if any(key.startswith(marks) for key in self._span.attributes):
                return name
        return ""

    def record(self) -> SpanRecord:
        """The record."""
        span, usage = self._span, self._usage()
        named = self._text("call")
        call = named if named is not None and _CALL.fullmatch(named) else None
        ok, error, message = error_of(
            span, self._text("level"), self._text("error_type"), self._text("error_message"), TEXT
        )
        environment = self._text("environment") or _resource_text(
            span, "deployment.environment.name", "deployment.environment"
        )
        for name, value in self._metadata.items():
            self._keep(f"metadata.{name}", value)
        requested = self._text("requested_model")
        return SpanRecord(
            trace=span.trace_id,
            span=span.span_id,
            parent=span.parent_id,
            name=span.name,
            kind=self._kind(usage),
            start=span.start,
            end=span.end,
            dialect=self._dialect(),
            ok=ok,
            service=_resource_text(span, "service.name"),
            error=error,
            message=message,
            model=self._text("model") or requested,
            requested_model=requested,
            provider=self._text("provider"),
            usage=usage,
            reported_cost=reported_cost({field: self._value(cast(Field, field)) for field in _COSTS}),
            session=self._text("session"),
            user=self._text("user"),
            workflow=self._text("workflow"),
            prompt_name=self._text("prompt_name"),
            prompt_version=self._text("prompt_version"),
            agent=self._text("agent"),
            tool=self._text("tool"),
            finish=_several(self._value("finish") or tuple(self._finish)),
            response_id=self._text("response_id"),
            first_token_ms=first_token_ms(
                span, self._value("first_token_s"), self._text("first_token_at"), _FIRST_TOKEN
            ),
            tags=tags_of(self._value("tags"), self._tags, environment),
            attributes=self._rest,
            dropped_attributes=self._dropped,
            call=call,
            own=call is not None and span.scope.name == SCOPE,
            content=self._content.content(),
        )


_COSTS = ("cost.total", "cost.input", "cost.output", "cost.details")


def _resource_text(span: Span, *names: str) -> str | None:
    for name in names:
        if isinstance(found := span.resource.attributes.get(name), str) and found:
            return found[:TEXT]
    return None


def _several(value: Value) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return tuple(text(one)[:TEXT] for one in value[:_CHOICES])
    return () if value is None else (text(value)[:TEXT],)
