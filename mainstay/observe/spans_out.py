"""Calls as spans for any collector: one for the call, and one below it for each attempt at a provider.

The call is a SERVER span: the gateway serves it. Each attempt is a CLIENT span of the GenAI conventions, and only
attempts carry ``gen_ai.usage.*`` and a finish reason, so that a backend that adds up its spans counts no token twice;
the call's totals are under ``mainstay.usage.*``. Ids follow from the call's id: what is sent again is the same span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from mainstay.ledger.record import AttemptRecord, CallRecord
from mainstay.observe.spans import CALL_ATTRIBUTE, SCOPE
from mainstay.observe.spans_names import ATTRIBUTES, Generation, operation_of
from mainstay.observe.spans_record import Content, SpanRecord
from mainstay.wire.otlp_span import NO_RESOURCE, Resource, Scope, Span, Value

Relation = Literal["own", "caller", "names", "below"]

_PARTS = ("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio")
_SAMPLED = 1
_SCOPE = Scope(SCOPE)
_GOOD = ("ok", "cancelled")


def trace_id(call: str) -> str:
    """The trace of a call whose caller gave none."""
    return _digest("trace", call, 32)


def call_span_id(call: str) -> str:
    """The id of a call's own span."""
    return _digest("call", call, 16)


def attempt_span_id(call: str, number: int) -> str:
    """The id of the span of a call's attempt ``number``, from 0."""
    return _digest(f"attempt {number}", call, 16)


def _digest(what: str, call: str, digits: int) -> str:
    # All zeros would be no id; that a hash begins so is not to be expected in the life of the universe.
    return sha256(f"mainstay {what} {call}".encode()).hexdigest()[:digits]


def relation(record: CallRecord, span: SpanRecord) -> Relation | None:
    """How a span belongs to a call: as one that Mainstay itself sent for it (``own``, come back by way of a collector,
    so not to be counted again), the span that made the call (``caller``), one that names the call (``names``), one below
    it (``below``); None where it does not belong, or is just somewhere in the same trace."""
    ours = {call_span_id(record.id), *(attempt_span_id(record.id, number) for number in range(len(record.attempts)))}
    in_trace = span.trace == (record.trace or trace_id(record.id))
    if in_trace and span.span in ours:
        return "own"
    if in_trace and record.parent is not None and span.span == record.parent:
        return "caller"
    if span.call == record.id:
        return "names"
    return "below" if in_trace and span.parent in ours else None


@dataclass(frozen=True, slots=True)
class Exporter:
    """How calls are told: the generation of names, who tells it, and what the conventions call each provider.

    ``providers`` maps the names of providers in the ledger to well-known ones (``spans_names.PROVIDERS`` by kind);
    a provider that is not in it goes by its own name.
    """

    generation: Generation = "old"
    resource: Resource = NO_RESOURCE
    scope: Scope = _SCOPE
    providers: Mapping[str, str] | None = None

    def spans(self, record: CallRecord, content: Content | None = None) -> list[Span]:
        """The spans of one call, its own first. ``content`` is told only where it is given."""
        trace = record.trace or trace_id(record.id)
        attempts = record.attempts
        said = self._content(content)
        spans = [self._call(record, trace, said if not attempts else {})]
        for number, attempt in enumerate(attempts):
            last = number == len(attempts) - 1
            spans.append(self._attempt(record, attempt, number, trace, last, said if last else {}))
        return spans

    def all(self, records: Sequence[CallRecord]) -> list[Span]:
        """The spans of several calls, without content."""
        return [span for record in records for span in self.spans(record)]

    def _put(self, into: dict[str, Value], meaning: str, value: Value) -> None:
        if value is not None:
            for name in ATTRIBUTES[meaning].of(self.generation):
                into[name] = value

    def _content(self, content: Content | None) -> dict[str, Value]:
        said: dict[str, Value] = {}
        if content is not None:
            self._put(said, "input_messages", content.input)
            self._put(said, "output_messages", content.output)
        return said

    def _call(self, record: CallRecord, trace: str, said: Mapping[str, Value]) -> Span:
        operation = operation_of(record.operation)
        asked = record.route or record.model
        found: dict[str, Value] = {CALL_ATTRIBUTE: record.id}
        self._put(found, "operation", operation)
        self._put(found, "request_model", asked)
        self._put(found, "stream", record.stream)
        self._put(found, "session", record.session)
        self._put(found, "workflow", record.workflow)
        given: dict[str, Value] = {
            "session.id": record.session,
            "user.id": record.user,
            "http.response.status_code": record.status or None,
            "error.type": record.error if record.outcome != "ok" else None,
            "mainstay.outcome": record.outcome,
            "mainstay.dialect": record.dialect,
            "mainstay.team": record.team,
            "mainstay.key": record.key,
            "mainstay.route": record.route,
            "mainstay.model": record.model,
            "mainstay.provider": record.provider,
            "mainstay.cache": record.cache,
            "mainstay.attempts": len(record.attempts),
            "mainstay.cost.nano_usd": record.cost_nano,
            "mainstay.overhead_ms": record.overhead_ms,
            "mainstay.first_token_ms": record.first_token_ms,
            "mainstay.snapshot": record.snapshot,
            "mainstay.usage.estimated": record.usage_estimated,
            **{f"mainstay.usage.{part}": getattr(record, part) for part in _PARTS},
            **{f"mainstay.tag.{name}": value for name, value in record.tags.items()},
        }
        found |= {name: value for name, value in given.items() if value is not None}
        good = record.outcome in _GOOD or (record.outcome == "refused" and record.status < 500)
        start = record.at * 1000
        return Span(
            trace_id=trace,
            span_id=call_span_id(record.id),
            parent_id=record.parent,
            name=f"{operation} {asked}" if asked else operation,
            kind="server",
            start=start,
            end=start + _ns(record.duration_ms),
            status="unset" if good else "error",
            status_message="" if good else record.message or "",
            attributes=found | dict(said),
            resource=self.resource,
            scope=self.scope,
            flags=_SAMPLED,
        )

    def _attempt(
        self, record: CallRecord, attempt: AttemptRecord, number: int, trace: str, last: bool, said: Mapping[str, Value]
    ) -> Span:
        operation = operation_of(record.operation)
        found: dict[str, Value] = {CALL_ATTRIBUTE: record.id}
        self._put(found, "operation", operation)
        self._put(found, "provider", (self.providers or {}).get(attempt.provider, attempt.provider))
        self._put(found, "request_model", attempt.upstream_model)
        self._put(found, "stream", record.stream)
        self._put(found, "session", record.session)
        if record.stream and attempt.first_token_ms is not None:
            self._put(found, "first_token", attempt.first_token_ms / 1e3)
        if last and record.finish is not None:
            self._put(found, "finish", (record.finish,))
        if attempt.usage is not None:
            for part in _PARTS:
                count = getattr(attempt.usage, part)
                if count or part in ("input", "output"):
                    self._put(found, part, count)
        given: dict[str, Value] = {
            "http.response.status_code": attempt.status,
            "error.type": attempt.error,
            "mainstay.attempt": number,
            "mainstay.target": attempt.target,
            "mainstay.provider": attempt.provider,
            "mainstay.provider.request_id": attempt.request_id,
            "mainstay.rescue": attempt.rescue,
            "mainstay.cost.nano_usd": attempt.cost_nano,
        }
        found |= {name: value for name, value in given.items() if value is not None}
        start = attempt.at * 1000
        return Span(
            trace_id=trace,
            span_id=attempt_span_id(record.id, number),
            parent_id=call_span_id(record.id),
            name=f"{operation} {attempt.upstream_model}",
            kind="client",
            start=start,
            end=start + _ns(attempt.duration_ms),
            status="unset" if attempt.error is None else "error",
            status_message="" if attempt.error is None else attempt.message or "",
            attributes=found | dict(said),
            resource=self.resource,
            scope=self.scope,
            flags=_SAMPLED,
        )


def _ns(ms: float | None) -> int:
    return 0 if ms is None else max(round(ms * 1e6), 0)
