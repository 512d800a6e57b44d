"""Reads the event stream of an OpenAI Responses upstream as canonical events."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Frame,
    Opaque,
    RefusalDelta,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.wire.openai_responses_reply import (
    begins,
    dicts,
    failure,
    item_events,
    logprobs_of,
    read_envelope,
    text_of,
)
from mainstay.wire.sse import SseEvent, SseSplitter
from mainstay.wire.surrogates import Halves

Json = dict[str, Any]


class _Wire(msgspec.Struct):
    """The fields of all events that have a canonical meaning."""

    type: str = ""
    delta: Any = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    logprobs: Any = None
    annotation: Any = None
    item: Json | None = None
    response: msgspec.Raw = msgspec.Raw()
    error: Any = None
    code: Any = None
    message: Any = None

    def has_response(self) -> bool:
        """Whether the event holds a response object."""
        return begins(self.response, b"{")


class _TextDelta(msgspec.Struct, gc=False):
    """Of the event that most of a stream consists of, what has a meaning."""

    delta: str
    output_index: int = 0
    content_index: int = 0
    logprobs: list[Json] | None = None


class _Item:
    """What was read of one output item."""

    __slots__ = ("reasons_in", "said", "tool")

    def __init__(self) -> None:
        self.tool = -1  # the number of the tool call, for a function call
        self.said: set[tuple[str, int]] = set()  # the parts of which something was passed on
        self.reasons_in = ""  # "summary" or "content": the first in which reasoning came; the other repeats it


_decoder = msgspec.json.Decoder(_Wire)
_text_delta = msgspec.json.Decoder(_TextDelta)
_loose = msgspec.json.Decoder(dict[str, Any])


class ResponsesReader:
    """Reads one stream. Raises ``UpstreamFailed(too_large)`` for an event over ``limit`` bytes."""

    __slots__ = ("_called", "_failed", "_halves", "_items", "_refused", "_splitter", "_started", "_tools", "done")

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self.done = False
        self._halves = Halves()
        self._splitter = SseSplitter(limit)
        self._started = False
        self._failed = False
        self._called = False
        self._refused = False
        self._tools = 0
        self._items: dict[int, _Item] = {}

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        return [self._frame(event) for event in self._splitter.feed(data)]

    def finish(self) -> list[Frame]:
        """The frames that the last bytes still hold."""
        return [self._frame(event) for event in self._splitter.finish()]

    def _frame(self, event: SseEvent) -> Frame:
        data = event.data
        if not data or data == b"[DONE]":
            return Frame(event.raw, (Opaque("comment" if not data else "done"),))
        if event.event == b"response.output_text.delta":
            try:
                text = _text_delta.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                pass  # the general way will tell what it is
            else:
                self._item(text.output_index).said.add(("text", text.content_index))
                return Frame(event.raw, (TextDelta(text.delta, 0, tuple(text.logprobs) if text.logprobs else None),))
        try:
            wire = _decoder.decode(data)
            if not wire.type:
                wire.type = event.event.decode()
            return Frame(event.raw, self._meaning(wire, data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if (mended := self._halves.mended(data)) is not None:
                return self._frame(SseEvent(event.raw, mended, event.event))
            return Frame(event.raw, (), unread=True)

    def _meaning(self, wire: _Wire, data: bytes) -> tuple[Event, ...]:
        kind = wire.type
        if kind == "response.output_text.delta":
            self._item(wire.output_index).said.add(("text", wire.content_index))
            return (TextDelta(text_of(wire.delta), 0, logprobs_of(wire.logprobs) if wire.logprobs else None),)
        if kind == "response.function_call_arguments.delta":
            item = self._item(wire.output_index)
            if item.tool < 0:
                return (Opaque(kind),)
            item.said.add(("arguments", 0))
            return (ToolDelta(item.tool, text_of(wire.delta)),)
        return tuple(self._other(kind, wire, data)) or (Opaque(kind),)

    def _other(self, kind: str, wire: _Wire, data: bytes) -> list[Event]:
        match kind:
            case "response.created" | "response.queued" | "response.in_progress":
                return self._created(wire)
            case "response.output_item.added":
                return self._added(wire)
            case "response.reasoning_summary_part.added":
                return self._part_added(wire)
            case "response.reasoning_summary_text.delta":
                return self._reasoning("summary", wire.summary_index, wire)
            case "response.reasoning_text.delta":
                return self._reasoning("content", wire.content_index, wire)
            case "response.refusal.delta":
                return self._refusal(wire)
            case "response.output_text.done":
                return self._text_done(wire)
            case "response.refusal.done":
                return self._refusal_done(wire)
            case "response.function_call_arguments.done":
                return self._arguments_done(wire)
            case "response.output_text.annotation.added":
                return self._annotation(wire)
            case "response.output_item.done":
                return self._item_done(wire)
            case "response.completed" | "response.incomplete" | "response.done":
                return self._completed(wire)
            case "response.failed" | "response.cancelled" | "error":
                return self._failure(wire, data)
            case _:
                return []

    def _item(self, index: int) -> _Item:
        item = self._items.get(index)
        if item is None:
            item = self._items[index] = _Item()
        return item

    def _created(self, wire: _Wire) -> list[Event]:
        if self._started or not wire.has_response():
            return []
        self._started = True
        return [read_envelope(wire.response).start()]

    def _added(self, wire: _Wire) -> list[Event]:
        if wire.item is None:
            return []
        item = self._item(wire.output_index)
        if wire.item.get("type") != "function_call" or item.tool >= 0:
            return []
        item.tool = self._tools
        self._tools += 1
        self._called = True
        return [ToolStart(item.tool, text_of(wire.item.get("call_id")), text_of(wire.item.get("name")))]

    def _part_added(self, wire: _Wire) -> list[Event]:
        # Pieces of a summary are paragraphs.
        item = self._item(wire.output_index)
        if item.reasons_in == "summary" and ("summary", wire.summary_index) not in item.said and wire.summary_index:
            return [ThinkingDelta("\n\n")]
        return []

    def _reasoning(self, where: str, part: int, wire: _Wire) -> list[Event]:
        item = self._item(wire.output_index)
        if not item.reasons_in:
            item.reasons_in = where
        if item.reasons_in != where:
            return []
        item.said.add((where, part))
        return [ThinkingDelta(text_of(wire.delta))]

    def _refusal(self, wire: _Wire) -> list[Event]:
        self._refused = True
        self._item(wire.output_index).said.add(("refusal", wire.content_index))
        return [RefusalDelta(text_of(wire.delta))]

    # Some servers send a finished part, or a finished item, without its deltas: what was not said before is said then.

    def _text_done(self, wire: _Wire) -> list[Event]:
        said, part = self._item(wire.output_index).said, ("text", wire.content_index)
        if part in said or not wire.text:
            return []
        said.add(part)
        return [TextDelta(wire.text, 0, logprobs_of(wire.logprobs))]

    def _refusal_done(self, wire: _Wire) -> list[Event]:
        said, part = self._item(wire.output_index).said, ("refusal", wire.content_index)
        if part in said or not wire.refusal:
            return []
        said.add(part)
        self._refused = True
        return [RefusalDelta(wire.refusal)]

    def _arguments_done(self, wire: _Wire) -> list[Event]:
        item = self._item(wire.output_index)
        if item.tool < 0 or item.said or not wire.arguments:
            return []
        item.said.add(("arguments", 0))
        return [ToolDelta(item.tool, wire.arguments)]

    def _annotation(self, wire: _Wire) -> list[Event]:
        note = cast(object, wire.annotation)
        if not isinstance(note, dict):
            return []
        self._item(wire.output_index).said.add(("annotation", wire.content_index))
        return [Citation(cast(Json, note))]

    def _item_done(self, wire: _Wire) -> list[Event]:
        return self._whole_item(wire.output_index, wire.item) if wire.item is not None else []

    def _whole_item(self, index: int, whole: Json) -> list[Event]:
        """What ``whole``, a finished item, holds beyond what was passed on of it."""
        item = self._item(index)
        kind = whole.get("type")
        events: list[Event] = []
        if kind == "reasoning":
            told = bool(item.said)
            events = item_events(whole, 0)
            if told:
                events = [event for event in events if not isinstance(event, ThinkingDelta)]
                events = [e._replace(redacted=False) if isinstance(e, ThinkingSigned) else e for e in events]
            if ("signature", 0) in item.said:
                events = [event for event in events if not isinstance(event, ThinkingSigned)]
            if whole.get("encrypted_content"):
                item.said.add(("signature", 0))
        elif kind == "function_call":
            begun = item.tool >= 0
            if not begun:
                item.tool = self._tools
                self._tools += 1
                self._called = True
            events = item_events(whole, item.tool)
            if item.said or not whole.get("arguments"):
                events.pop()
            if begun:
                events = [event for event in events if not isinstance(event, ToolStart)]
            item.said.add(("arguments", 0))
        elif kind == "message":
            events = [] if item.said else item_events(whole, 0)
            self._refused = self._refused or any(isinstance(event, RefusalDelta) for event in events)
            if events:
                item.said.add(("text", 0))
        return events

    def _completed(self, wire: _Wire) -> list[Event]:
        if not wire.has_response() or self._failed or self.done:
            return []
        events = self._created(wire)
        head = read_envelope(wire.response)
        if wire.type == "response.incomplete":
            head.status = "incomplete"
        if not any(item.said for item in self._items.values()) and head.output:
            for index, item in enumerate(dicts(_loose.decode(wire.response).get("output"))):
                events += self._whole_item(index, item)
        self.done = True
        events.append(head.finish(self._refused, self._called))
        if head.usage is not None:
            events.append(UsageSeen(head.usage.canonical()))
        events.append(End())
        return events

    def _failure(self, wire: _Wire, data: bytes) -> list[Event]:
        if self._failed or self.done:
            self.done = True
            return []
        self._failed = True
        events: list[Event] = []
        error: Any = wire.error
        if wire.has_response():
            events += self._created(wire)
            head = read_envelope(wire.response)
            error = head.error
            if head.usage is not None:
                events.append(UsageSeen(head.usage.canonical()))
        elif error is None:
            error = {"code": wire.code, "message": wire.message}
        self.done = True
        kind, message = failure(error)
        events.append(Failed(kind, message, data))
        return events
