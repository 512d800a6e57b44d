"""The doors for an application's own spans: OTLP over HTTP, and plain JSON records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from mainstay.core.errors import Invalid, MainstayError, OverLimit, TooLarge, Unavailable
from mainstay.core.money import nano_from_usd
from mainstay.core.usage import clamped
from mainstay.edge.passing import TRACES
from mainstay.edge.status import retry_after, status_of
from mainstay.ledger.filter import moment
from mainstay.observe.intake import Rows, Sender
from mainstay.observe.span_prices import SpanPrices
from mainstay.observe.spans import record_of
from mainstay.observe.spans_dialect import Kind
from mainstay.observe.spans_record import Content, SpanRecord
from mainstay.wire import otlp, otlp_reply

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

log = logging.getLogger("mainstay.control")

_AT_ONCE, _QUEUE, _PATIENCE = 2, 24, 10.0
_STEP = 1024 * 1024
_HEX = "^[0-9a-f]{%d}$"


class TokensBody(BaseModel):
    """Tokens; all but ``input`` and ``output`` are parts of those two."""

    model_config = ConfigDict(extra="forbid")

    input: int = Field(0, ge=0, lt=2**53)
    output: int = Field(0, ge=0, lt=2**53)
    cached_input: int = Field(0, ge=0, lt=2**53)
    cache_write: int = Field(0, ge=0, lt=2**53)
    reasoning: int = Field(0, ge=0, lt=2**53)


class CallBody(BaseModel):
    """One call or step of an application. ``id`` is its own name for it: sent again, it is the same one."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, min_length=1, max_length=256, description="The application's own id of it")
    at: str = Field(max_length=40, description="When it began, ISO 8601")
    duration_ms: float | None = Field(None, ge=0, lt=1e12, allow_inf_nan=False)
    trace: str | None = Field(None, pattern=_HEX % 32, description="32 hex digits, as in a traceparent")
    span: str | None = Field(None, pattern=_HEX % 16)
    parent: str | None = Field(None, pattern=_HEX % 16, description="The span that it is part of")
    call: str | None = Field(
        None, pattern="^call_[0-9a-hjkmnp-tv-z]{26}$", description="The Mainstay call it waited for"
    )
    kind: Kind = "llm"
    name: str = Field("", max_length=256)
    service: str | None = Field(None, max_length=256)
    model: str | None = Field(None, max_length=256)
    provider: str | None = Field(None, max_length=256)
    usage: TokensBody | None = None
    cost_usd: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    first_token_ms: float | None = Field(None, ge=0, lt=1e12, allow_inf_nan=False)
    finish: str | None = Field(None, max_length=256)
    error: str | None = Field(None, max_length=256, description="What kind of error it ended with")
    message: str | None = Field(None, max_length=1000)
    session: str | None = Field(None, max_length=256)
    user: str | None = Field(None, max_length=256)
    workflow: str | None = Field(None, max_length=256)
    prompt: str | None = Field(None, max_length=256)
    prompt_version: str | None = Field(None, max_length=256)
    agent: str | None = Field(None, max_length=256)
    tool: str | None = Field(None, max_length=256)
    tags: dict[str, str] = Field(default_factory=dict, max_length=32)
    attributes: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=128)
    input: str | None = Field(None, max_length=1024 * 1024, description="Kept only where the key or a setting says so")
    output: str | None = Field(None, max_length=1024 * 1024, description="Kept only where the key or a setting says so")


class CallsBody(BaseModel):
    """Calls of an application."""

    model_config = ConfigDict(extra="forbid")

    calls: list[CallBody] = Field(min_length=1, max_length=1000)


class _Places:
    """So many requests are worked on at once, some wait, and those beyond are told to come again."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._in_hand = 0

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        said = "too many spans are being taken in; send them again shortly"
        if self._in_hand >= _QUEUE:
            raise OverLimit(said, retry_after=2.0, rule="spans", code="spans_overloaded")
        self._in_hand += 1
        try:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._free.acquire()
            except TimeoutError:
                raise Unavailable(said, retry_after=5.0, code="spans_overloaded") from None
            try:
                yield
            finally:
                self._free.release()
        finally:
            self._in_hand -= 1


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""
    places = _Places()

    async def traces(request: Request) -> Response:
        """Spans of an application, as OTLP over HTTP: an ``ExportTraceServiceRequest`` in protobuf or JSON, gzip or not."""
        headers = request.headers
        encoding = otlp.encoding_of(headers.get("content-type", ""))
        tracing = control.tracing
        async with places.one():
            body = await _body(request)
            sender, prices = tracing.sender(request.state.caller), await tracing.prices()
            decoded = await asyncio.to_thread(
                _decoded, body, headers.get("content-encoding", ""), encoding, sender, prices
            )
            rejected, reason, rows = decoded
            await tracing.intake.take(rows)
        rejected, reason = rejected + rows.rejected, reason or rows.reason
        reply = otlp_reply.success(encoding == "json", rejected, reason)
        return Response(reply, media_type=otlp.CONTENT_TYPES[encoding])

    def _decoded(
        body: bytes, coding: str, encoding: otlp.Encoding, sender: Sender, prices: SpanPrices
    ) -> tuple[int, str, Rows]:
        found = otlp.read_traces(unpacked(body, coding), encoding)
        records = (record_of(span) for span in found.spans)
        return found.rejected, found.reason, control.tracing.intake.rows(records, sender, "otlp", prices)

    async def calls(request: Request, body: CallsBody) -> dict[str, Any]:
        """Record calls that an application made by itself. Those with an ``id`` or a ``span`` are recorded once, however
        often they are sent. They are no calls of Mainstay's: nothing is charged for them."""
        tracing = control.tracing
        sender = tracing.sender(request.state.caller)
        records = [_record(one, control.ids.make(), sender, f"calls.{i}") for i, one in enumerate(body.calls)]
        async with places.one():
            rows = tracing.intake.rows(records, sender, "api", await tracing.prices())
            if rows.rejected:
                at = rows.ids.index(None)
                raise Invalid(f"calls.{at}.at: {rows.reason}", field=f"calls.{at}.at")
            new = await tracing.intake.take(rows)
        told = [
            {"id": ident, "trace": one.trace, "span": one.span} for ident, one in zip(rows.ids, records, strict=True)
        ]
        return {"data": told, "new": new}

    routes.add("POST", TRACES, "calls:write", traces, include_in_schema=False)  # OTLP describes it
    routes.add("POST", "/api/v1/calls", "calls:write", calls)


async def _body(request: Request) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > otlp.BODY_LIMIT:
            raise _too_large()
        pieces.append(piece)
    return b"".join(pieces)


def _too_large() -> TooLarge:
    return TooLarge(f"a request of spans may have {otlp.BODY_LIMIT} bytes, unpacked; send smaller batches")


def unpacked(body: bytes, coding: str) -> bytes:
    """``body`` without its content coding. Raises ``TooLarge`` as soon as there is too much, ``Invalid`` for another coding."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding != "gzip":
        raise Invalid("a request of spans is sent as it is or with gzip", field="content-encoding")
    pieces: list[bytes] = []
    size = 0
    while body:
        unpacker = zlib.decompressobj(31)
        while body and not unpacker.eof:
            try:
                pieces.append(unpacker.decompress(body, _STEP))
            except zlib.error:
                raise Invalid("the body is no gzip, though it says so", field="content-encoding") from None
            size += len(pieces[-1])
            if size > otlp.BODY_LIMIT:
                raise _too_large()
            body = unpacker.unconsumed_tail or unpacker.unused_data
        if not unpacker.eof:
            pieces.append(unpacker.flush())
            raise Invalid("the body ends in the middle of its gzip", field="content-encoding")
    return b"".join(pieces)


def _record(body: CallBody, fresh: str, sender: Sender, place: str) -> SpanRecord:
    """``body`` as a span. Ids that it does not give follow from its own id, else from ``fresh``, which nothing else has."""
    named = body.id if body.id is not None else fresh
    seed = f"{sender.team or ''} {named}".encode()
    try:
        start = moment(body.at) * 1000
    except (ValueError, OverflowError):
        said = f"{place}.at: {body.at!r} is no time such as 2026-11-21T10:00:00Z"
        raise Invalid(said, field=f"{place}.at") from None
    usage = body.usage
    content = Content(body.input, body.output) if body.input is not None or body.output is not None else None
    return SpanRecord(
        trace=body.trace or sha256(b"trace " + seed).hexdigest()[:32],
        span=body.span or sha256(b"span " + seed).hexdigest()[:16],
        parent=body.parent,
        name=body.name or body.kind,
        kind=body.kind,
        start=start,
        end=start + round(body.duration_ms * 1e6) if body.duration_ms is not None else start - 1,
        dialect="",
        ok=body.error is None,
        service=body.service,
        error=body.error,
        message=body.message,
        model=body.model,
        provider=body.provider,
        usage=None
        if usage is None
        else clamped(usage.input, usage.output, usage.cached_input, usage.cache_write, usage.reasoning),
        reported_cost=None if body.cost_usd is None else nano_from_usd(body.cost_usd),
        session=body.session,
        user=body.user,
        workflow=body.workflow,
        prompt_name=body.prompt,
        prompt_version=body.prompt_version,
        agent=body.agent,
        tool=body.tool,
        finish=() if body.finish is None else (body.finish,),
        first_token_ms=body.first_token_ms,
        tags={name[:256]: value[:256] for name, value in body.tags.items()},
        attributes={
            name[:1024]: value[:1024] if isinstance(value, str) else value for name, value in body.attributes.items()
        }
        | ({} if body.id is None else {"id": body.id}),
        call=body.call,
        content=content,
    )


def refused(request: Request, error: MainstayError) -> Response:
    """``error`` as a receiver of OTLP answers it: a ``google.rpc.Status`` in the encoding of the request."""
    status = status_of(error)
    encoding: Literal["json", "protobuf"] = (
        "json" if request.headers.get("content-type", "").startswith("application/json") else "protobuf"
    )
    wait = retry_after(error, status)
    return Response(
        otlp_reply.failure(encoding == "json", status, error.message),
        status,
        {} if wait is None else {"retry-after": wait},
        otlp.CONTENT_TYPES[encoding],
    )
