"""Writes Anthropic's replies for callers: streams, whole messages, counts of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.core.errors import MainstayError
from mainstay.core.event import (
    Citation,
    Event,
    Failed,
    Finish,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.usage import NOTHING, Usage
from mainstay.wire.anthropic_errors import error_event, stream_error
from mainstay.wire.anthropic_message import FINISH
from mainstay.wire.anthropic_turns import tool_input

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
    "other": "max_tokens",  # a reason that nobody knows is no whole answer, and this is the nearest word for that
}
_TIERS = ("standard", "priority", "batch")
_NO_START = Start("", "")

_encode = msgspec.json.Encoder().encode


class Writer:
    """Writes one streamed reply. One block is open at a time; usage is told at the beginning and at the end."""

    __slots__ = ("_failed", "_finish", "_index", "_kind", "_refused", "_started", "_tool", "_tools", "_usage")

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self) -> None:
        self._started = False
        self._failed = False
        self._index = -1  # of the block begun last
        self._kind = ""  # of the open block; empty: none is open
        self._tool = -1  # the number of the tool call that is the open block
        self._tools: dict[int, int] = {}  # tool calls by number: the index of their block
        self._refused = False
        self._finish: Finish | None = None
        self._usage: Usage | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for ``events``."""
        out: list[bytes] = []
        for i, event in enumerate(events):
            if type(event) is TextDelta and event.choice == 0:
                if event.text:
                    self._open(out, "text")
                    out.append(self._delta(b'"text_delta","text":' + _encode(event.text)))
            elif type(event) is Start:
                following = events[i + 1] if i + 1 < len(events) else None
                if type(following) is UsageSeen:
                    self._usage = following.usage
                self._start(out, event)
            else:
                self._other(out, event)
        return b"".join(out)

    def end(self) -> bytes:
        """The end of the message: why it stopped, what it used, and the terminal event."""
        out: list[bytes] = []
        self._close(out)
        self._start(out, _NO_START)
        delta = _stop(self._finish, bool(self._tools), self._refused)
        usage = _usage(self._usage or NOTHING)
        out.append(_event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def fail(self, error: MainstayError) -> bytes:
        """The event that says that the reply broke off."""
        if self._failed:
            return b""
        self._failed = True
        return stream_error(error)

    def _other(self, out: list[bytes], event: Event) -> None:
        if isinstance(event, UsageSeen):
            self._usage = event.usage
        elif isinstance(event, Failed):
            if not self._failed:
                self._failed = True
                out.append(error_event(event.kind, event.message))
        elif getattr(event, "choice", 0) != 0:
            return  # a message has one choice
        elif isinstance(event, ToolDelta):
            self._tool_delta(out, event)
        elif isinstance(event, ToolStart):
            self._tool_start(out, event)
        elif isinstance(event, ThinkingDelta):
            if event.text:
                self._open(out, "thinking")
                out.append(self._delta(b'"thinking_delta","thinking":' + _encode(event.text)))
        elif isinstance(event, ThinkingSigned):
            self._signed(out, event)
        elif isinstance(event, RefusalDelta):
            self._refused = True
            if event.text:  # words of its own: why there is no answer, or no more of it
                self._open(out, "refusal")
                out.append(self._delta(b'"text_delta","text":' + _encode(event.text)))
        elif isinstance(event, Citation):
            self._open(out, "text")
            out.append(self._delta(b'"citations_delta","citation":' + _encode(_citation(event.data))))
        elif isinstance(event, Finish):
            self._close(out)
            self._finish = event

    def _start(self, out: list[bytes], start: Start) -> None:
        if self._started:
            return
        self._started = True
        usage = _usage(self._usage or NOTHING)
        message = _message(start, [], {"stop_reason": None, "stop_sequence": None}, usage)
        out.append(_event("message_start", {"type": "message_start", "message": message}))

    def _open(self, out: list[bytes], kind: str, block: dict[str, Any] | None = None) -> None:
        if self._kind == kind and block is None:
            return
        self._close(out)
        self._start(out, _NO_START)
        self._index += 1
        self._kind = kind
        content = block or (_THINKING if kind == "thinking" else _TEXT)
        started = {"type": "content_block_start", "index": self._index, "content_block": content}
        out.append(_event("content_block_start", started))

    def _close(self, out: list[bytes]) -> None:
        if self._kind:
            self._kind = ""
            self._tool = -1
            stopped = {"type": "content_block_stop", "index": self._index}
            out.append(_event("content_block_stop", stopped))

    def _delta(self, delta: bytes, index: int | None = None) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b}}\n\n'
            % (
                self._index if index is None else index,
                delta,
            )
        )

    def _tool_start(self, out: list[bytes], event: ToolStart) -> None:
        if event.tool in self._tools:
            return
        self._open(out, "tool_use", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})
        self._tool = event.tool
        self._tools[event.tool] = self._index

    def _tool_delta(self, out: list[bytes], event: ToolDelta) -> None:
        if not event.arguments:
            return
        if event.tool not in self._tools:
            self._tool_start(out, ToolStart(event.tool, f"toolu_{event.tool}", ""))
        # A provider may go on with a call after it began the next one; the index says whose it is.
        index = self._tools[event.tool]
        out.append(self._delta(b'"input_json_delta","partial_json":' + _encode(event.arguments), index))

    def _signed(self, out: list[bytes], event: ThinkingSigned) -> None:
        if event.redacted:
            self._open(out, "redacted_thinking", {"type": "redacted_thinking", "data": event.signature})
        else:
            self._open(out, "thinking")
            out.append(self._delta(b'"signature_delta","signature":' + _encode(event.signature)))
        self._close(out)


_TEXT = {"type": "text", "text": ""}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}


def write_reply(events: Sequence[Event]) -> bytes:
    """A plain reply: all events of it, folded into one message."""
    folded = _Folded()
    for event in events:
        folded.add(event)
    return _encode(folded.message())


def write_count(tokens: int) -> bytes:
    """The body that answers ``count_tokens``."""
    return b'{"input_tokens":%d}' % tokens


class _Folded:
    """The blocks of a message as they grow."""

    def __init__(self) -> None:
        self._start = _NO_START
        self._blocks: list[dict[str, Any]] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}  # of the text that grows, by the block's index
        self._sealed = True  # the last block takes no more
        self._refused = False
        self._finish: Finish | None = None
        self._usage: Usage = NOTHING

    def add(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, Start):
            if self._start is _NO_START:
                self._start = event
        elif isinstance(event, UsageSeen):
            self._usage = event.usage
        elif getattr(event, "choice", 0) != 0:
            return
        elif isinstance(event, TextDelta):
            if event.text:
                self._grow("text", event.text)
        elif isinstance(event, RefusalDelta):
            if event.text:
                self._sealed = self._sealed or not self._refused
                self._grow("text", event.text)
            self._refused = True
        elif isinstance(event, ThinkingDelta):
            if event.text:
                self._grow("thinking", event.text)
        elif isinstance(event, ThinkingSigned):
            self._sign(event)
        elif isinstance(event, ToolStart):
            block: dict[str, Any] = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            self._tools.setdefault(event.tool, block)
            self._add(block)
            self._sealed = True
        elif isinstance(event, ToolDelta):
            if event.tool not in self._tools:
                self.add(ToolStart(event.tool, f"toolu_{event.tool}", ""))
            self._pieces.setdefault(id(self._tools[event.tool]), []).append(event.arguments)
        elif isinstance(event, Citation):
            self._grow("text", "")
            self._blocks[-1].setdefault("citations", []).append(_citation(event.data))
        elif isinstance(event, Finish):
            self._finish = event

    def message(self) -> dict[str, Any]:
        """The whole message."""
        for block in self._blocks:
            grown = "".join(self._pieces.get(id(block), ()))
            if block["type"] == "tool_use":
                block["input"] = tool_input(grown)
            elif block["type"] in ("text", "thinking"):
                block[block["type"]] = grown
        delta = _stop(self._finish, bool(self._tools), self._refused)
        return _message(self._start, self._blocks, delta, _usage(self._usage))

    def _add(self, block: dict[str, Any]) -> None:
        self._blocks.append(block)
        self._sealed = False

    def _grow(self, kind: str, text: str) -> None:
        if self._sealed or self._blocks[-1]["type"] != kind:
            self._add(dict(_TEXT if kind == "text" else _THINKING))
        self._pieces.setdefault(id(self._blocks[-1]), []).append(text)

    def _sign(self, event: ThinkingSigned) -> None:
        if event.redacted:
            self._add({"type": "redacted_thinking", "data": event.signature})
        else:
            self._grow("thinking", "")
            self._blocks[-1]["signature"] = event.signature
        self._sealed = True


def _message(start: Start, content: list[Any], stop: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    if start.service_tier in _TIERS:
        usage["service_tier"] = start.service_tier
    head = {"id": start.id, "type": "message", "role": "assistant", "model": start.model, "content": content}
    return {**head, **stop, "usage": usage}


def _stop(finish: Finish | None, tools: bool, refused: bool) -> dict[str, Any]:
    """Anthropic's stop reason and sequence. Its own words stay as they are."""
    if finish is None:
        reason, sequence = ("tool_use" if tools else "end_turn"), None
    else:
        sequence = finish.stop
        if finish.native in FINISH and FINISH[finish.native] == finish.reason:
            reason = finish.native
        elif finish.reason == "stop" and sequence is not None:
            reason = "stop_sequence"
        elif finish.reason == "stop" and tools:
            reason = "tool_use"  # some providers say stop after a call; clients of this format look for the word
        else:
            reason = _STOP[finish.reason]
    if refused and reason == "end_turn":
        reason = "refusal"
    return {"stop_reason": reason, "stop_sequence": sequence}


def _usage(usage: Usage) -> dict[str, Any]:
    """The three parts of the input beside each other, as Anthropic counts them."""
    written: dict[str, Any] = {
        "input_tokens": usage.input - usage.cached_input - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return written


def _citation(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A source in Anthropic's shape. What only Anthropic's own search knows is left empty."""
    native = data.get("native")
    if isinstance(native, dict):
        return native  # pyright: ignore[reportUnknownVariableType]
    if data.get("url"):
        return {
            "type": "web_search_result_location",
            "cited_text": data.get("cited_text") or "",
            "encrypted_index": "",
            "title": data.get("title"),
            "url": data["url"],
        }
    return {
        "type": "char_location",
        "cited_text": data.get("cited_text") or "",
        "document_index": data.get("index") or 0,
        "document_title": data.get("title") or data.get("filename"),
        "file_id": data.get("file_id"),
        "start_char_index": 0,
        "end_char_index": 0,
    }


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))
