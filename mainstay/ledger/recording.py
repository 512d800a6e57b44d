"""From a call on its way to what the journal keeps of it: the note before an upstream is asked, and the row at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mainstay.core.call import Attempt, Call
from mainstay.core.money import Nano
from mainstay.core.usage import Usage
from mainstay.ledger.record import VERSION, AttemptRecord, CallRecord, OpenRecord, UsageRecord


def opened(call: Call, holds: Mapping[str, Nano], targets: Sequence[str] = ()) -> OpenRecord:
    """The opening record of ``call``, with its holds per pool and the models that may be tried."""
    principal = call.principal
    return OpenRecord(
        id=call.id,
        at=int(call.at * 1e6 + 0.5),
        operation=call.operation,
        dialect=call.dialect,
        stream=call.stream,
        key=principal.key or None,
        key_id=principal.key_id or None,
        team=principal.team or None,
        user=call.user,
        session=call.session,
        workflow=call.workflow,
        tags=dict(call.tags),
        trace=call.trace,
        parent=call.parent_span,
        route=call.route,
        snapshot=call.snapshot or None,
        request_bytes=len(call.body),
        targets=list(targets),
        holds=dict(holds),
    )


def closed(
    call: Call,
    *,
    ended: float,
    charges: Mapping[str, Nano],
    reply_bytes: int | None = None,
    content: str | None = None,
) -> CallRecord:
    """The row of ``call``, which ended at ``ended`` on the monotonic clock, with what it costs each pool."""
    principal, usage, attempts = call.principal, call.usage, call.attempts
    started = call.started
    seconds = ended - started
    first = call.first_token
    answered = attempts[-1] if attempts and call.model is not None else None
    record = CallRecord(
        v=VERSION,
        id=call.id,
        at=int(call.at * 1e6 + 0.5),
        operation=call.operation,
        dialect=call.dialect,
        stream=call.stream,
        status=call.status,
        outcome=call.outcome,
        parent=call.parent_span,
        trace=call.trace,
        error=call.error,
        message=call.message,
        key=principal.key or None,
        key_id=principal.key_id or None,
        team=principal.team or None,
        user=call.user,
        session=call.session,
        workflow=call.workflow,
        tags=dict(call.tags),
        route=call.route,
        model=call.model,
        provider=call.provider,
        upstream_model=answered.upstream_model if answered is not None else None,
        attempts=[_attempt(attempt) for attempt in attempts] if attempts else [],
        cost_nano=call.cost,
        duration_ms=int(seconds * 1e6 + 0.5) / 1e3,
        first_token_ms=None if first is None else int((first - started) * 1e6 + 0.5) / 1e3,
        overhead_ms=max(int((seconds - call.upstream_seconds) * 1e6 + 0.5), 0) / 1e3,
        cache=call.cache,
        finish=call.finish,
        why=call.why,
        dropped=list(call.dropped),
        snapshot=call.snapshot or None,
        request_bytes=len(call.body),
        reply_bytes=reply_bytes,
        content=content,
        charges=dict(charges),
    )
    if usage is not None:
        _set_usage(record, usage)
    return record


def _set_usage(record: CallRecord, usage: Usage) -> None:
    record.input = usage.input
    record.output = usage.output
    record.cached_input = usage.cached_input
    record.cache_write = usage.cache_write
    record.reasoning = usage.reasoning
    record.input_audio = usage.input_audio
    record.output_audio = usage.output_audio
    record.usage_estimated = usage.estimated
    if record.cost_nano is not None:
        record.cost_estimated = usage.estimated


def _attempt(attempt: Attempt) -> AttemptRecord:
    first, usage = attempt.first_token_ms, attempt.usage
    return AttemptRecord(
        attempt.target,
        attempt.provider,
        attempt.upstream_model,
        int(attempt.at * 1e6 + 0.5),
        int(attempt.duration_ms * 1e3 + 0.5) / 1e3,
        None if first is None else int(first * 1e3 + 0.5) / 1e3,
        attempt.status,
        attempt.error,
        attempt.message,
        None if usage is None else _usage(usage),
        attempt.cost,
        attempt.request_id,
        attempt.rescue,
    )


def _usage(usage: Usage) -> UsageRecord:
    return UsageRecord(
        usage.input,
        usage.output,
        usage.cached_input,
        usage.cache_write,
        usage.reasoning,
        usage.input_audio,
        usage.output_audio,
        usage.estimated,
    )
