"""Reads Anthropic's replies: streams, whole messages, and a glance at those that pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import msgspec

from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import (
    End,
    Event,
    Failed,
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
from mainstay.core.usage import NOTHING
from mainstay.wire.anthropic_errors import failure_kind
from mainstay.wire.anthropic_message import (
    ContentBlock,
    Delta,
    ErrorObject,
    Head,
    MessageUsage,
    Opening,
    StreamEvent,
    arguments,
    citation,
    ending,
    total,
)
from mainstay.wire.sse import SseEvent, SseSplitter
from mainstay.wire.surrogates import Halves

_event = msgspec.json.Decoder(StreamEvent).decode
_head = msgspec.json.Decoder(Head).decode
_content = msgspec.json.Decoder(list[ContentBlock]).decode

_NOTHING: tuple[Event, ...] = ()
_OPAQUE_COMMENT: tuple[Event, ...] = (Opaque("comment"),)
_OPAQUE_STOP: tuple[Event, ...] = (Opaque("content_block_stop"),)
_END: tuple[Event, ...] = (End(),)

# One of each per token; half the price of calling the classes.
_new_text = cast("Callable[[type[TextDelta], tuple[str, int, None]], TextDelta]", tuple.__new__)
_new_frame = cast("Callable[[type[Frame], tuple[bytes, tuple[Event, ...], bool]], Frame]", tuple.__new__)


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

    __slots__ = ("_blocks", "_halves", "_length", "_splitter", "_tools", "_usage", "done")

    def __init__(self) -> None:
        self.done = False
        self._halves = Halves()
        self._splitter = SseSplitter()
        self._blocks: dict[int, _Open] = {}
        self._length = 0
        self._tools = 0
        self._usage = MessageUsage()

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
                    return _new_frame(Frame, (raw, (_new_text(TextDelta, (text, 0, None)),), False))
                return Frame(raw, self._delta(event.index, delta))
            return Frame(raw, self._other(event, raw))
        except (msgspec.DecodeError, UnicodeDecodeError, _Unreadable):
            if (mended := self._halves.mended(sent.data)) is not None:
                return self._frame(SseEvent(raw, mended, sent.event))
            return Frame(raw, _NOTHING, True)

    def _delta(self, index: int, delta: Delta | None) -> tuple[Event, ...]:
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

    def _other(self, event: StreamEvent, raw: bytes) -> tuple[Event, ...]:
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
            error = event.error or ErrorObject()
            kind = failure_kind(error.type, error.message)
            return (Failed(kind, error.message or "the provider broke off with an error", raw),)
        return (Opaque(type),)

    def _message_start(self, message: Opening | None) -> tuple[Event, ...]:
        if message is None:
            raise _Unreadable
        usage = message.usage
        start = Start(message.id, message.model, 0, None, None if usage is None else usage.service_tier)
        if usage is None:
            return (start,)
        return (start, self._seen(usage))

    def _message_delta(self, event: StreamEvent) -> tuple[Event, ...]:
        events: tuple[Event, ...] = ()
        delta = event.delta
        if delta is not None and delta.stop_reason is not None:
            events = ending(delta.stop_reason, delta.stop_sequence, delta.stop_details)
        if event.usage is not None:
            events = (*events, self._seen(event.usage))
        return events or (Opaque("message_delta"),)

    def _begin(self, index: int, block: ContentBlock | None) -> tuple[Event, ...]:
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
            open.given = arguments(block.input)
            return (ToolStart(open.tool, block.id or "", block.name or ""),)
        return (Opaque(f"content_block_start {block.type}"),)

    def _close(self, index: int) -> tuple[Event, ...]:
        block = self._blocks.pop(index, None)
        if block is None:
            return _OPAQUE_STOP
        if block.tool >= 0 and not block.written:
            return (ToolDelta(block.tool, block.given),)
        if block.citations:
            return tuple(citation(said, block.begun_at, self._length) for said in block.citations)
        return _OPAQUE_STOP

    def _seen(self, usage: MessageUsage) -> UsageSeen:
        """Later figures are totals and replace the earlier ones; a figure that is left out stays."""
        known = self._usage
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            value = getattr(usage, name)
            if value is not None:
                setattr(known, name, value)
        if usage.output_tokens_details is not None:
            known.output_tokens_details = usage.output_tokens_details
        return UsageSeen(total(known))


class _Unreadable(Exception):
    """An event that is JSON, but not what its type promises."""


def glance(operation: str, body: bytes) -> tuple[Event, ...]:
    """Of a plain reply that passes through: Start, Finish, UsageSeen, End. Raises ``UpstreamFailed(unreadable)``."""
    message = _message(body)
    if operation == "count_tokens":
        if message.input_tokens is None:
            raise UpstreamFailed("unreadable", "the provider's reply has no input_tokens", body=body)
        return (Start("", ""), UsageSeen(NOTHING), End())  # counting costs nothing
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
            events += [citation(said, length, length + len(text)) for said in block.citations or ()]
            length += len(text)
        elif block.type == "thinking":
            if block.thinking:
                events.append(ThinkingDelta(block.thinking))
            if block.signature:
                events.append(ThinkingSigned(block.signature))
        elif block.type == "redacted_thinking":
            events.append(ThinkingSigned(block.data or "", redacted=True))
        elif block.type == "tool_use":
            events += (ToolStart(tools, block.id or "", block.name or ""), ToolDelta(tools, arguments(block.input)))
            tools += 1
        else:
            events.append(Opaque(block.type))
    return _envelope(message, body, events)


def _message(body: bytes) -> Head:
    try:
        message = _head(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _not_a_message(body)
    if message.type == "error" or (message.error is not None and not message.content):
        error = message.error or ErrorObject()
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


def _envelope(message: Head, body: bytes, content: list[Event] | tuple[Event, ...]) -> tuple[Event, ...]:
    if not message.content:
        _not_a_message(body)
    usage = message.usage
    events: list[Event] = [Start(message.id, message.model, 0, None, None if usage is None else usage.service_tier)]
    events += content
    if message.stop_reason is not None:
        events += ending(message.stop_reason, message.stop_sequence, message.stop_details)
    if usage is not None:
        events.append(UsageSeen(total(usage)))
    events.append(End())
    return tuple(events)
