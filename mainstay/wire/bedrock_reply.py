"""Bedrock's Converse reply, plain and as an event stream: read."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
    FinishReason,
    Frame,
    Opaque,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.usage import Usage, clamped
from mainstay.wire import eventstream
from mainstay.wire.bedrock_errors import read_error_body

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "refusal": "refusal",
    "pause_turn": "pause",
}


class _ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str | None = None


class _Web(msgspec.Struct):
    url: str | None = None


class _Location(msgspec.Struct):
    web: _Web | None = None


class _Citation(msgspec.Struct):
    title: str | None = None
    source: str | None = None
    location: _Location | None = None


class _CitedText(msgspec.Struct):
    text: str | None = None


class _Cited(msgspec.Struct):
    content: list[_CitedText] | None = None
    citations: list[_Citation] | None = None


class _Reasoning(msgspec.Struct, rename="camel"):
    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")
    type: str | None = None


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    reasoning_content: _Reasoning | None = None
    tool_use: _ToolUse | None = None
    citations_content: _Cited | None = None


class _Message(msgspec.Struct):
    content: list[_Block] | None = None


class _Output(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct, rename="camel"):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


class _Tier(msgspec.Struct):
    type: str | None = None


class _Reply(msgspec.Struct, rename="camel"):
    output: _Output
    stop_reason: str
    usage: _Usage | None = None
    additional_model_response_fields: Any = None
    service_tier: _Tier | None = None


class _StartToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str
    name: str
    type: str | None = None


class _BlockStart(msgspec.Struct, rename="camel"):
    tool_use: _StartToolUse | None = None


class _ContentBlockStart(msgspec.Struct, rename="camel"):
    content_block_index: int = 0
    start: _BlockStart | None = None


class _ContentBlockStop(msgspec.Struct, rename="camel"):
    content_block_index: int = 0


class _ToolUseDelta(msgspec.Struct):
    input: str = ""


class _ReasoningDelta(msgspec.Struct, rename="camel"):
    text: str | None = None
    signature: str | None = None
    redacted_content: str | None = None


class _Delta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUseDelta | None = None
    reasoning_content: _ReasoningDelta | None = None
    citation: _Citation | None = None


class _ContentBlockDelta(msgspec.Struct, rename="camel"):
    delta: _Delta
    content_block_index: int = 0


class _MessageStop(msgspec.Struct, rename="camel"):
    stop_reason: str
    additional_model_response_fields: Any = None


class _Metadata(msgspec.Struct, rename="camel"):
    usage: _Usage | None = None


_reply = msgspec.json.Decoder(_Reply)
_block_start = msgspec.json.Decoder(_ContentBlockStart)
_block_stop = msgspec.json.Decoder(_ContentBlockStop)
_block_delta = msgspec.json.Decoder(_ContentBlockDelta)
_message_stop = msgspec.json.Decoder(_MessageStop)
_metadata = msgspec.json.Decoder(_Metadata)


def read_reply(body: bytes) -> tuple[Event, ...]:
    """A plain reply as events, ``End`` included. Raises ``UpstreamFailed(unreadable)``.

    Converse names neither the reply nor the model in its body, so both are empty in ``Start``.
    """
    try:
        reply = _reply.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed("unreadable", f"the provider's reply is not a Converse reply: {error}") from None
    tier = reply.service_tier.type if reply.service_tier is not None else None
    events: list[Event] = [Start("", "", service_tier=tier)]
    tools = 0
    for block in reply.output.message.content or ():
        tools += _block(block, tools, events)
    events.append(_finish(reply.stop_reason, reply.additional_model_response_fields))
    if reply.usage is not None:
        events.append(UsageSeen(_usage(reply.usage)))
    events.append(End())
    return tuple(events)


def _block(block: _Block, tools: int, events: list[Event]) -> int:
    """Add the events of ``block``; return how many tool calls it holds."""
    call, reasoning, cited = block.tool_use, block.reasoning_content, block.citations_content
    if block.text is not None:
        if block.text:
            events.append(TextDelta(block.text))
    elif call is not None and call.type != "server_tool_use":
        text = msgspec.json.format(bytes(call.input).decode(), indent=-1)
        events += (ToolStart(tools, call.tool_use_id, call.name), ToolDelta(tools, "{}" if text == "null" else text))
        return 1
    elif reasoning is not None:
        if reasoning.redacted_content is not None:
            events.append(ThinkingSigned(reasoning.redacted_content, redacted=True))
        elif reasoning.reasoning_text is not None:
            if reasoning.reasoning_text.text:
                events.append(ThinkingDelta(reasoning.reasoning_text.text))
            if reasoning.reasoning_text.signature:
                events.append(ThinkingSigned(reasoning.reasoning_text.signature))
    elif cited is not None:
        events.extend(TextDelta(piece.text) for piece in cited.content or () if piece.text)
        events.extend(_citation(citation) for citation in cited.citations or ())
    else:
        events.append(Opaque("content block"))
    return 0


def _citation(citation: _Citation) -> Citation:
    web = citation.location.web if citation.location is not None else None
    url = (web.url if web is not None else None) or citation.source or ""
    return Citation({"type": "url_citation", "url": url, "title": citation.title or ""})


def _finish(native: str, more: Any) -> Finish:
    found: Any = None
    if isinstance(more, dict):
        extra: dict[str, Any] = msgspec.convert(more, dict[str, Any])
        found = extra.get("stop_sequence")
    stop = found if isinstance(found, str) else None
    return Finish(FINISH.get(native, "other"), stop=stop, native=native)


def _usage(usage: _Usage) -> Usage:
    # Bedrock counts cache reads and writes beside the input, the canonical form within it.
    read, written = usage.cache_read_input_tokens or 0, usage.cache_write_input_tokens or 0
    return clamped(
        input=(usage.input_tokens or 0) + max(read, 0) + max(written, 0),
        output=usage.output_tokens or 0,
        cached_input=read,
        cache_write=written,
    )


class StreamReader:
    """Reads one streamed reply. ``metadata`` ends it, or the end of the body after ``messageStop``."""

    __slots__ = ("_bare", "_messages", "_skipped", "_started", "_stopped", "_tools", "done")

    def __init__(self, limit: int = eventstream.LIMIT) -> None:
        self._messages = eventstream.Messages(limit)
        self._tools: dict[int, int] = {}  # content block to tool call
        self._bare: set[int] = set()  # blocks of tool calls without arguments so far
        self._skipped: set[int] = set()  # blocks of tools that Bedrock runs itself
        self._started = self._stopped = False
        self.done = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed``: ``too_large``, ``unreadable`` (checksums)."""
        return [self._frame(message) for message in self._messages.feed(data)]

    def finish(self) -> list[Frame]:
        """``End``, where the body ended after ``messageStop`` without ``metadata``; else nothing."""
        if not self._stopped or self.done or self._messages.pending:
            return []
        self.done = True
        return [Frame(b"", (End(),))]

    def _frame(self, message: eventstream.Message) -> Frame:
        kind = message.text(":message-type")
        if kind == "exception":
            error = read_error_body(message.text(":exception-type"), message.payload, None)
            return Frame(message.raw, (Failed(error.kind, error.message, message.payload),))
        if kind == "error":
            error = read_error_body(message.text(":error-code"), message.payload, None)
            said = message.text(":error-message") or error.message
            return Frame(message.raw, (Failed(error.kind, said, message.payload),))
        try:
            events = self._read(message.text(":event-type"), message.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Frame(message.raw, (), unread=True)
        if not self._started:
            self._started = True
            events = (Start("", ""), *events)
        return Frame(message.raw, events)

    def _read(self, what: str, payload: bytes) -> tuple[Event, ...]:
        match what:
            case "contentBlockDelta":
                delta = _block_delta.decode(payload)
                return self._delta(delta.delta, delta.content_block_index)
            case "contentBlockStart":
                return self._block_start(_block_start.decode(payload))
            case "messageStop":
                stop = _message_stop.decode(payload)
                self._stopped = True
                return (_finish(stop.stop_reason, stop.additional_model_response_fields),)
            case "metadata":
                metadata = _metadata.decode(payload)
                self.done = self._stopped
                ending: tuple[Event, ...] = (End(),) if self.done else ()
                return ending if metadata.usage is None else (UsageSeen(_usage(metadata.usage)), *ending)
            case "messageStart":
                return ()
            case "contentBlockStop":
                block = _block_stop.decode(payload).content_block_index
                if block in self._bare:  # a call without arguments has an empty object, as in a plain reply
                    self._bare.discard(block)
                    return (ToolDelta(self._tools[block], "{}"),)
                return (Opaque(what),)
            case _:
                return (Opaque(what),)

    def _block_start(self, block: _ContentBlockStart) -> tuple[Event, ...]:
        call = block.start.tool_use if block.start is not None else None
        if call is None:
            return (Opaque("contentBlockStart"),)
        if call.type == "server_tool_use":
            self._skipped.add(block.content_block_index)
            return (Opaque("server_tool_use"),)
        number = self._tools[block.content_block_index] = len(self._tools)
        self._bare.add(block.content_block_index)
        return (ToolStart(number, call.tool_use_id, call.name),)

    def _delta(self, delta: _Delta, block: int) -> tuple[Event, ...]:
        if delta.text is not None:
            return (TextDelta(delta.text),)
        if delta.tool_use is not None and block not in self._skipped:
            number = self._tools.get(block)
            if number is None:
                raise msgspec.ValidationError(f"block {block} never began")
            if delta.tool_use.input:
                self._bare.discard(block)
            return (ToolDelta(number, delta.tool_use.input),)
        if delta.reasoning_content is not None:
            reasoning = delta.reasoning_content
            if reasoning.redacted_content is not None:
                return (ThinkingSigned(reasoning.redacted_content, redacted=True),)
            if reasoning.signature is not None:
                return (ThinkingSigned(reasoning.signature),)
            return (ThinkingDelta(reasoning.text or ""),)
        if delta.citation is not None:
            return (_citation(delta.citation),)
        return (Opaque("contentBlockDelta"),)
