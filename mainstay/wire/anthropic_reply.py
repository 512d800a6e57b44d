"""Reads Anthropic's replies: streams, whole messages, and a glance at those that pass through."""

from __future__ import annotations

from typing import Any, NoReturn

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
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.usage import Usage, clamped
from mainstay.wire.anthropic_errors import failure_kind
from mainstay.wire.sse import SseEvent, SseSplitter

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "length",
}
"""Anthropic's stop reasons; every other one is ``other``."""


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None


class _StopDetails(msgspec.Struct):
    explanation: str | None = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    citations: list[dict[str, Any]] | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None


class _Opening(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Opening | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Head(msgspec.Struct):
    """A whole message but for its content, or an error, or a count of tokens."""

    id: str = ""
    model: str = ""
    type: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None
    usage: _Usage | None = None
    error: _Error | None = None
    input_tokens: int | None = None


_event = msgspec.json.Decoder(_Event).decode
_head = msgspec.json.Decoder(_Head).decode
_content = msgspec.json.Decoder(list[_Block]).decode

_NOTHING: tuple[Event, ...] = ()
_OPAQUE_COMMENT: tuple[Event, ...] = (Opaque("comment"),)
_OPAQUE_STOP: tuple[Event, ...] = (Opaque("content_block_stop"),)
_END: tuple[Event, ...] = (End(),)


class _Open:
    """A content block that has begun and not ended."""

    __slots__ = ("begun_at", "citations", "given", "kind", "tool", "written")

    def __init__(self, kind: str, begun_at: int) -> None:
        self.kind = kind
        self.begun_at = begun_at  # characters of text before it
        self.citations: list[dict[str, Any]] = []
        self.tool = -1
        self.given: str = "{}"  # the arguments that stood in its beginning
        self.written = False  # arguments came as deltas


class Reader:
    """Reads the bytes of one streamed reply."""

    __slots__ = ("_blocks", "_length", "_splitter", "_tools", "_usage", "done")

    def __init__(self) -> None:
        self.done = False
        self._splitter = SseSplitter()
        self._blocks: dict[int, _Open] = {}
        self._length = 0
        self._tools = 0
        self._usage = _Usage()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed(too_large)``."""
        return [self._frame(event) for event in self._splitter.feed(data)]

    def finish(self) -> list[Frame]:
        """The frames that the last bytes still hold."""
        return [self._frame(event) for event in self._splitter.finish()]

    def _frame(self, sent: SseEvent) -> Frame:
        raw = sent.raw
        if not sent.data:
            return Frame(raw, _OPAQUE_COMMENT)
        try:
            event = _event(sent.data)
            type = event.type
            if type == "content_block_delta":
                delta = event.delta
                # By far the most events are these, of a text block.
                if delta is not None and delta.type == "text_delta" and (text := delta.text) is not None:
                    self._length += len(text)
                    return Frame(raw, (TextDelta(text),))
                return Frame(raw, self._delta(event.index, delta))
            return Frame(raw, self._other(event, raw))
        except (msgspec.DecodeError, UnicodeDecodeError, _Unreadable):
            return Frame(raw, _NOTHING, True)

    def _delta(self, index: int, delta: _Delta | None) -> tuple[Event, ...]:
        if delta is None:
            raise _Unreadable
        type = delta.type
        block = self._blocks.get(index)
        if type == "input_json_delta":
            if delta.partial_json is None:
                raise _Unreadable
            if block is None or block.tool < 0:
                return (Opaque("server_tool_use"),)
            if not delta.partial_json:
                return (Opaque("input_json_delta"),)
            block.written = True
            return (ToolDelta(block.tool, delta.partial_json),)
        if type == "thinking_delta":
            if delta.thinking is None:
                raise _Unreadable
            return (ThinkingDelta(delta.thinking),)
        if type == "signature_delta":
            if delta.signature is None:
                raise _Unreadable
            return (ThinkingSigned(delta.signature),)
        if type == "citations_delta":
            if delta.citation is None:
                raise _Unreadable
            if block is not None:
                block.citations.append(delta.citation)  # told at the block's end: only then is its place known
            return (Opaque("citations_delta"),)
        if type == "text_delta":
            raise _Unreadable
        return (Opaque(type),)

    def _other(self, event: _Event, raw: bytes) -> tuple[Event, ...]:
        type = event.type
        if type == "content_block_start":
            return self._begin(event.index, event.content_block)
        if type == "content_block_stop":
            return self._close(event.index)
        if type == "message_delta":
            return self._message_delta(event)
        if type == "message_start":
            return self._message_start(event.message)
        if type == "message_stop":
            self.done = True
            return _END
        if type == "error":
            error = event.error or _Error()
            kind = failure_kind(error.type, error.message)
            return (Failed(kind, error.message or "the provider broke off with an error", raw),)
        return (Opaque(type),)

    def _message_start(self, message: _Opening | None) -> tuple[Event, ...]:
        if message is None:
            raise _Unreadable
        usage = message.usage
        start = Start(message.id, message.model, 0, None, None if usage is None else usage.service_tier)
        if usage is None:
            return (start,)
        return (start, self._seen(usage))

    def _message_delta(self, event: _Event) -> tuple[Event, ...]:
        events: tuple[Event, ...] = ()
        delta = event.delta
        if delta is not None and delta.stop_reason is not None:
            events = _ending(delta.stop_reason, delta.stop_sequence, delta.stop_details)
        if event.usage is not None:
            events = (*events, self._seen(event.usage))
        return events or (Opaque("message_delta"),)

    def _begin(self, index: int, block: _Block | None) -> tuple[Event, ...]:
        if block is None:
            raise _Unreadable
        open = self._blocks[index] = _Open(block.type, self._length)
        if block.type == "text":
            open.citations += block.citations or ()
            if block.text:
                self._length += len(block.text)
                return (TextDelta(block.text),)
        elif block.type == "thinking":
            events: tuple[Event, ...] = (ThinkingDelta(block.thinking),) if block.thinking else ()
            if block.signature:
                events = (*events, ThinkingSigned(block.signature))
            return events or (Opaque("content_block_start"),)
        elif block.type == "redacted_thinking":
            return (ThinkingSigned(block.data or "", redacted=True),)
        elif block.type == "tool_use":
            open.tool = self._tools
            self._tools += 1
            open.given = _arguments(block.input)
            return (ToolStart(open.tool, block.id or "", block.name or ""),)
        return (Opaque(f"content_block_start {block.type}"),)

    def _close(self, index: int) -> tuple[Event, ...]:
        block = self._blocks.pop(index, None)
        if block is None:
            return _OPAQUE_STOP
        if block.tool >= 0 and not block.written:
            return (ToolDelta(block.tool, block.given),)
        if block.citations:
            return tuple(_citation(said, block.begun_at, self._length) for said in block.citations)
        return _OPAQUE_STOP

    def _seen(self, usage: _Usage) -> UsageSeen:
        """Later figures are totals and replace the earlier ones; a figure that is left out stays."""
        known = self._usage
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            value = getattr(usage, name)
            if value is not None:
                setattr(known, name, value)
        if usage.output_tokens_details is not None:
            known.output_tokens_details = usage.output_tokens_details
        return UsageSeen(_total(known))


class _Unreadable(Exception):
    """An event that is JSON, but not what its type promises."""


def glance(operation: str, body: bytes) -> tuple[Event, ...]:
    """Of a plain reply that passes through: Start, Finish, UsageSeen, End. Raises ``UpstreamFailed(unreadable)``."""
    message = _message(body)
    if operation == "count_tokens":
        if message.input_tokens is None:
            raise UpstreamFailed("unreadable", "the provider's reply has no input_tokens", body=body)
        return (Start("", ""), End())
    return tuple(event for event in _envelope(message, body, ()) if not isinstance(event, RefusalDelta))


def read_reply(body: bytes) -> tuple[Event, ...]:
    """A whole plain reply as events. Raises ``UpstreamFailed(unreadable)``, or what the error in it says."""
    message = _message(body)
    if not message.content:
        _not_a_message(body)
    try:
        blocks = _content(message.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _not_a_message(body)
    events: list[Event] = []
    length = tools = 0
    for block in blocks:
        if block.type == "text":
            text = block.text or ""
            if text:
                events.append(TextDelta(text))
            events += [_citation(said, length, length + len(text)) for said in block.citations or ()]
            length += len(text)
        elif block.type == "thinking":
            if block.thinking:
                events.append(ThinkingDelta(block.thinking))
            if block.signature:
                events.append(ThinkingSigned(block.signature))
        elif block.type == "redacted_thinking":
            events.append(ThinkingSigned(block.data or "", redacted=True))
        elif block.type == "tool_use":
            events += (ToolStart(tools, block.id or "", block.name or ""), ToolDelta(tools, _arguments(block.input)))
            tools += 1
        else:
            events.append(Opaque(block.type))
    return _envelope(message, body, events)


def _message(body: bytes) -> _Head:
    try:
        message = _head(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _not_a_message(body)
    if message.type == "error" or (message.error is not None and not message.content):
        error = message.error or _Error()
        raise UpstreamFailed(
            failure_kind(error.type, error.message),
            error.message or "the provider answered with an error",
            body=body,
            dialect="anthropic",
            provider_code=error.type,
        )
    return message


def _not_a_message(body: bytes) -> NoReturn:
    excerpt = body[:80].decode(errors="replace")
    raise UpstreamFailed("unreadable", f"the provider's reply is not a Messages reply; it begins {excerpt!r}")


def _envelope(message: _Head, body: bytes, content: list[Event] | tuple[Event, ...]) -> tuple[Event, ...]:
    if not message.content:
        _not_a_message(body)
    usage = message.usage
    events: list[Event] = [Start(message.id, message.model, 0, None, None if usage is None else usage.service_tier)]
    events += content
    if message.stop_reason is not None:
        events += _ending(message.stop_reason, message.stop_sequence, message.stop_details)
    if usage is not None:
        events.append(UsageSeen(_total(usage)))
    events.append(End())
    return tuple(events)


def _ending(reason: str, stop: str | None, details: _StopDetails | None) -> tuple[Event, ...]:
    finish = Finish(FINISH.get(reason, "other"), 0, stop, reason)
    if details is not None and details.explanation:
        return (RefusalDelta(details.explanation), finish)
    return (finish,)


def _arguments(input: msgspec.Raw) -> str:
    """A call's input as JSON text; what is no object is none."""
    text = bytes(input).decode()
    return text if text.startswith("{") else "{}"


def _total(usage: _Usage) -> Usage:
    """Anthropic counts what it read from and wrote to its cache beside ``input_tokens``; here they are within."""
    read = max(usage.cache_read_input_tokens or 0, 0)
    written = max(usage.cache_creation_input_tokens or 0, 0)
    details = usage.output_tokens_details
    return clamped(
        max(usage.input_tokens or 0, 0) + read + written,
        usage.output_tokens or 0,
        cached_input=read,
        cache_write=written,
        reasoning=0 if details is None else details.thinking_tokens or 0,
    )


def _citation(said: dict[str, Any], start: int, end: int) -> Citation:
    """OpenAI's shape, with Anthropic's own words under ``native``, so that nothing is lost on the way back."""
    data: dict[str, Any] = {"type": "url_citation", "start_index": start, "end_index": end, "native": said}
    title = said.get("title") or said.get("document_title")
    if title:
        data["title"] = title
    if said.get("url"):
        data["url"] = said["url"]
    else:
        data["type"] = "file_citation"
        named = {"filename": title, "file_id": said.get("file_id")}
        data |= {name: value for name, value in named.items() if value}
    return Citation(data)
