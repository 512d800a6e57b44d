"""The model API: each path in its dialect, all through the one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, UpstreamFailed
from mainstay.core.event import End, Event, Frame
from mainstay.core.ids import Ids
from mainstay.core.money import usd
from mainstay.edge.socket_turn import Answerable
from mainstay.edge.status import retry_after, status_of
from mainstay.gateway.pipeline import Pipeline
from mainstay.gateway.routed import Routed
from mainstay.gateway.turn import Turn
from mainstay.ledger.journal import Journal
from mainstay.wire.dialect import Dialect, Writer


class Endpoint(NamedTuple):
    """One path of the model API."""

    operation: str
    dialect: str


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint("chat", "openai"),
    "/v1/responses": Endpoint("responses", "openai-responses"),
    "/v1/responses/compact": Endpoint("responses.compact", "openai-responses"),
    "/v1/messages": Endpoint("messages", "anthropic"),
    "/v1/messages/count_tokens": Endpoint("count_tokens", "anthropic"),
    "/v1/embeddings": Endpoint("embeddings", "openai"),
    "/v1/completions": Endpoint("completions", "openai"),
    "/v1/moderations": Endpoint("moderations", "openai"),
    "/v1/rerank": Endpoint("rerank", "openai"),
    "/v1/images/generations": Endpoint("images.generations", "openai"),
    "/v1/images/edits": Endpoint("images.edits", "openai"),
    "/v1/images/variations": Endpoint("images.variations", "openai"),
    "/v1/audio/transcriptions": Endpoint("audio.transcriptions", "openai"),
    "/v1/audio/translations": Endpoint("audio.translations", "openai"),
    "/v1/audio/speech": Endpoint("audio.speech", "openai"),
}
"""Every path that asks a model, all by POST."""


class ModelApi:
    """Answers an exchange on one of ``ENDPOINTS``."""

    def __init__(
        self, pipeline: Pipeline, dialects: Mapping[str, Dialect], journal: Journal, ids: Ids, clock: Clock
    ) -> None:
        self._pipeline, self._dialects, self._journal, self._ids, self._clock = pipeline, dialects, journal, ids, clock

    async def answer(
        self, exchange: Answerable, endpoint: Endpoint, prepare: Callable[[Routed], None] | None = None
    ) -> None:
        """Answer one call; whatever happens, it is recorded, and the caller gets its own dialect.

        ``prepare`` is given the call before it goes through the pipeline.
        """
        call = Routed(
            self._ids.make("call_"),
            self._clock.now(),
            self._clock.monotonic(),
            endpoint.operation,
            endpoint.dialect,
            exchange.headers,
            exchange.body,
            exchange.query,
        )
        if prepare is not None:
            prepare(call)
        dialect = self._dialects[endpoint.dialect]
        running = Streaming(exchange, call, dialect)
        body = b""
        try:
            async with self._pipeline.open(call) as reply:
                if reply.stream:
                    await running.run(reply)
                else:
                    body = await _plain(call, dialect, reply)
        except Exception as error:
            self._failed(exchange, call, dialect, running, error)
            return
        if reply.stream:
            finish = exchange.finish_later()
            last = running.last()
            if call.turn is not None:
                call.turn.keep(call)
            self._journal.after_flush(lambda: finish(last))
            return
        if call.turn is not None:
            call.turn.keep(call)
        headers = _headers(call, self._clock, reply.headers)
        headers.append(("content-type", reply.content_type))
        write = exchange.send_later(reply.status, headers)
        self._journal.after_flush(lambda: write(body))

    def error_body(self, dialect: str, error: MainstayError, status: int) -> bytes:
        """The body of an error reply in ``dialect``, for what is no call."""
        return self._dialects[dialect].write_error(error, status)

    def _failed(
        self, exchange: Answerable, call: Routed, dialect: Dialect, running: Streaming, error: Exception
    ) -> None:
        shown = (
            error
            if isinstance(error, MainstayError)
            else MainstayError(f"Mainstay failed inside; nothing more is known here, the record is {call.id}")
        )
        if exchange.started:
            last = running.failed(shown)
            finish = exchange.finish_later()
            self._journal.after_flush(lambda: finish(last))
        else:
            status = status_of(error)
            headers = _headers(call, self._clock)
            wait = retry_after(error, status)
            if wait is not None:
                headers.append(("retry-after", wait))
            passed = _passed_through(error, call)
            if passed is not None:
                body, content_type = passed
            else:
                body, content_type = dialect.write_error(shown, status), "application/json"
            headers.append(("content-type", content_type))
            write = exchange.send_later(status, headers)
            self._journal.after_flush(lambda: write(body))
        if shown is not error:
            raise error


async def _plain(call: Routed, dialect: Dialect, reply: Reply) -> bytes:
    """A plain reply as its body: the bytes that came, or the events folded."""
    body: list[bytes] = []
    events: list[Event] = []
    async for frames in reply.frames:
        for frame in frames:
            if reply.dialect:
                body.append(frame.raw or b"")
            else:
                events += frame.events
    turn = call.turn
    if reply.dialect:
        whole = b"".join(body)
        return turn.whole(whole) if isinstance(turn, Turn) else whole
    return turn.reply(call, events) if turn is not None else dialect.write_reply(events, request=call.body)


class Streaming:
    """Writes one streamed reply, and holds its terminal sign back until the call is settled."""

    __slots__ = ("_call", "_dialect", "_exchange", "_raw", "_reply", "_tail", "_writer")

    def __init__(self, exchange: Answerable, call: Routed, dialect: Dialect) -> None:
        self._exchange, self._call, self._dialect = exchange, call, dialect
        self._reply: Reply | None = None
        self._raw = False
        self._writer: Writer | None = None
        self._tail = b""

    async def run(self, reply: Reply) -> None:
        """Write all frames as they come."""
        exchange, call = self._exchange, self._call
        self._reply = reply
        self._raw = bool(reply.dialect)
        if not self._raw:
            self._writer = self._new_writer()
        passed = call.turn.passed if isinstance(call.turn, Turn) and self._writer is None else None
        async for frames in reply.frames:
            if passed is not None:
                frames = passed(frames)
            out = self._bytes(frames)
            if not exchange.started:
                exchange.start(200, self._head(reply), out)
            elif out:
                exchange.write(out)
            if exchange.congested:
                await exchange.drain()
        if not exchange.started:
            exchange.start(200, self._head(reply))

    def _new_writer(self) -> Writer:
        call = self._call
        if isinstance(call.turn, Turn):
            return call.turn.writer()
        return self._dialect.writer(call.peek.usage_wanted, request=call.body)

    def _head(self, reply: Reply) -> list[tuple[str, str]]:
        headers = _headers(self._call, None, reply.headers)
        content_type = reply.content_type if self._writer is None else self._writer.content_type
        headers.append(("content-type", content_type))
        headers.append(("cache-control", "no-cache"))
        return headers

    def _bytes(self, frames: list[Frame]) -> bytes:
        if self._writer is not None:
            return b"".join([self._writer.write(frame.events) for frame in frames])
        if len(frames) == 1 and not self._tail:
            frame = frames[0]
            if not frame.events or type(frame.events[-1]) is not End:
                return frame.raw or b""
        out = [self._tail]
        self._tail = b""
        for i, frame in enumerate(frames):
            if frame.events and type(frame.events[-1]) is End:
                self._tail = b"".join([one.raw or b"" for one in frames[i:]])
                break
            out.append(frame.raw or b"")
        return b"".join(out)

    def last(self) -> bytes:
        """The last bytes: what is known only now, as a comment, and the terminal sign."""
        tail = self._writer.end() if self._writer is not None else self._tail
        if not tail.startswith((b"data:", b"event:")):
            return tail  # not server-sent events, where a comment has no place
        call = self._call
        facts = [f"x-mainstay-attempts={len(call.attempts)}", f"x-mainstay-model={call.model}"]
        if call.cost is not None:
            facts.insert(0, f"x-mainstay-cost-usd={usd(call.cost)}")
        return f": {' '.join(facts)}\n\n".encode() + tail

    def failed(self, error: MainstayError) -> bytes:
        """The bytes that tell the caller that the stream broke off."""
        writer = self._writer
        if writer is None:
            turn = self._call.turn
            writer = turn.ender() if isinstance(turn, Turn) else self._new_writer()
            progress = self._reply.progress if self._reply is not None else None
            if progress is not None:
                writer.write(progress.condensed())
        return writer.fail(error)


def _headers(call: Routed, clock: Clock | None, passed_on: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Our own headers, and those of the provider that are ``passed_on``. The SDKs show a request's id: the provider's,
    else ours."""
    headers = [
        ("x-mainstay-call", call.id),
        ("x-mainstay-attempts", str(len(call.attempts))),
        ("x-mainstay-cache", call.cache),
    ]
    if call.model is not None:
        headers.append(("x-mainstay-model", call.model))
        headers.append(("x-mainstay-provider", call.provider or ""))
    if call.why:
        headers.append(("x-mainstay-why", _latin("; ".join(call.why))))
    if call.dropped:
        headers.append(("x-mainstay-dropped", _latin(", ".join(call.dropped))))
    if clock is not None:
        if call.cost is not None and (call.attempts or call.cache == "hit"):
            headers.append(("x-mainstay-cost-usd", usd(call.cost)))
        overhead = (clock.monotonic() - call.started - call.upstream_seconds) * 1000
        headers.append(("x-mainstay-overhead-ms", f"{max(overhead, 0.0):.3f}"))
    request_id = "request-id" if call.dialect == "anthropic" else "x-request-id"
    if not any(name == request_id for name, _ in passed_on):
        headers.append((request_id, call.id))
    headers += passed_on
    headers += [(name, value if _sendable(value) else _latin(value)) for name, value in call.reply_headers]
    return headers


def _sendable(value: str) -> bool:
    return len(value) < 2000 and value.isascii() and value.isprintable()


def _latin(text: str) -> str:
    """``text`` as a header value may hold it."""
    if not (text.isascii() and text.isprintable()):
        text = "".join([char if " " <= char <= "~" else "?" for char in text])
    return text if len(text) <= 2000 else text[:2000]


def _passed_through(error: BaseException, call: Routed) -> tuple[bytes, str] | None:
    """A provider's own error body, where the caller speaks its dialect and it says nothing of our key."""
    if not isinstance(error, UpstreamFailed) or error.body is None or error.dialect != call.dialect:
        return None
    if error.kind in ("auth", "quota", "unreadable") or error.status != status_of(error):
        return None
    return error.body, _latin(error.content_type)
