"""Bedrock's Converse reply written, plain and as an event stream: for the simulator, and for tests that play a provider."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mainstay.core.errors import MainstayError, UpstreamFailed
from mainstay.core.event import (
    Event,
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
from mainstay.core.usage import Usage
from mainstay.wire import eventstream
from mainstay.wire.bedrock_errors import error_type
from mainstay.wire.bedrock_messages import Json, tool_id
from mainstay.wire.bedrock_reply import FINISH
from mainstay.wire.json_shape import arguments

_NATIVE: dict[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
    "refusal": "content_filtered",
    "pause": "end_turn",
    "other": "malformed_model_output",
}
_STREAM_TYPES = {
    "ValidationException": "validationException",
    "ThrottlingException": "throttlingException",
    "ServiceUnavailableException": "serviceUnavailableException",
    "ModelErrorException": "modelStreamErrorException",
    "ModelTimeoutException": "modelStreamErrorException",
}


def _stop_reason(finish: Finish) -> str:
    if finish.native is not None and FINISH.get(finish.native) == finish.reason:
        return finish.native
    if finish.reason == "stop" and finish.stop is not None:
        return "stop_sequence"
    return _NATIVE[finish.reason]


def _stop(finish: Finish) -> Json:
    body: Json = {"stopReason": _stop_reason(finish)}
    if finish.stop is not None:
        body["additionalModelResponseFields"] = {"stop_sequence": finish.stop}
    return body


def _usage(usage: Usage) -> Json:
    body: Json = {
        "inputTokens": usage.input - usage.cached_input - usage.cache_write,
        "outputTokens": usage.output,
        "totalTokens": usage.total,
    }
    if usage.cached_input or usage.cache_write:
        body |= {"cacheReadInputTokens": usage.cached_input, "cacheWriteInputTokens": usage.cache_write}
    return body


def write_reply(events: Sequence[Event]) -> bytes:
    """A plain reply: all events of it, folded. Converse has one choice; others are left out."""
    blocks: list[Json] = []
    calls: dict[int, tuple[Json, list[str]]] = {}
    body: Json = {
        "output": {"message": {"role": "assistant", "content": blocks}},
        "stopReason": "end_turn",
        "usage": _usage(Usage()),
        "metrics": {"latencyMs": 0},
    }
    for event in events:
        if getattr(event, "choice", 0):
            continue
        match event:
            case ToolStart():
                call: Json = {"toolUseId": tool_id(event.id), "name": event.name, "input": {}}
                calls[event.tool] = (call, [])
                blocks.append({"toolUse": call})
            case ToolDelta():
                calls[event.tool][1].append(event.arguments)
            case Finish():
                body |= _stop(event)
            case UsageSeen():
                body["usage"] = _usage(event.usage)
            case _:
                _fold(event, blocks)
    for call, pieces in calls.values():
        call["input"] = arguments("".join(pieces))
    return msgspec.json.encode(body)


def _fold(event: Event, blocks: list[Json]) -> None:
    """Add text or reasoning to the last block where it is still open, else to a new one."""
    last = blocks[-1] if blocks else {}
    thought: Json | None = last.get("reasoningContent", {}).get("reasoningText")
    match event:
        case TextDelta() | RefusalDelta():
            if "text" in last:
                last["text"] += event.text
            else:
                blocks.append({"text": event.text})
        case ThinkingSigned(redacted=True):
            blocks.append({"reasoningContent": {"redactedContent": event.signature}})
        case ThinkingDelta() | ThinkingSigned():
            if thought is None or "signature" in thought:
                thought = {"text": ""}
                blocks.append({"reasoningContent": {"reasoningText": thought}})
            if isinstance(event, ThinkingDelta):
                thought["text"] += event.text
            else:
                thought["signature"] = event.signature
        case _:
            pass


class StreamWriter:
    """Writes one streamed reply. ``metadata``, which tells the usage, is written by ``end``."""

    content_type = eventstream.CONTENT_TYPE

    def __init__(self) -> None:
        self._started = False
        self._block = -1
        self._open = ""  # what the open block holds
        self._usage = Usage()
        self._stop: Json | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        """The messages for ``events``. Converse has one choice; others are left out."""
        out = bytearray()
        for event in events:
            if isinstance(event, Start):
                out += self._start()
            elif not getattr(event, "choice", 0):
                self._one(event, out)
        return bytes(out)

    def end(self) -> bytes:
        """The messages that end a reply: ``messageStop`` and ``metadata``."""
        out = bytearray(self._start())
        self._close(out)
        if self._stop is not None:
            out += _message("messageStop", self._stop)
        return bytes(out) + _message("metadata", {"usage": _usage(self._usage), "metrics": {"latencyMs": 0}})

    def fail(self, error: MainstayError) -> bytes:
        """An exception in the place of a message."""
        status = error.status if isinstance(error, UpstreamFailed) and error.status else 503
        name = _STREAM_TYPES.get(error_type(status), "internalServerException")
        headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
        return eventstream.encode(headers, msgspec.json.encode({"message": error.message}))

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return _message("messageStart", {"role": "assistant"})

    def _one(self, event: Event, out: bytearray) -> None:
        match event:
            case TextDelta() | RefusalDelta():
                self._delta("text", {"text": event.text}, out)
            case ThinkingDelta():
                self._delta("thinking", {"reasoningContent": {"text": event.text}}, out)
            case ThinkingSigned(redacted=True):
                self._close(out)
                self._delta("thinking", {"reasoningContent": {"redactedContent": event.signature}}, out)
                self._close(out)
            case ThinkingSigned():
                self._delta("thinking", {"reasoningContent": {"signature": event.signature}}, out)
                self._close(out)
            case ToolStart():
                self._close(out)
                self._begin("tool", out)
                start = {"toolUse": {"toolUseId": tool_id(event.id), "name": event.name}}
                out += _message("contentBlockStart", {"start": start, "contentBlockIndex": self._block})
            case ToolDelta():
                self._delta("tool", {"toolUse": {"input": event.arguments}}, out)
            case Finish():
                self._stop = _stop(event)
            case UsageSeen():
                self._usage = event.usage
            case _:
                pass

    def _begin(self, what: str, out: bytearray) -> None:
        out += self._start()
        self._block += 1
        self._open = what

    def _delta(self, what: str, delta: Json, out: bytearray) -> None:
        if self._open != what:
            self._close(out)
            self._begin(what, out)
        out += _message("contentBlockDelta", {"delta": delta, "contentBlockIndex": self._block})

    def _close(self, out: bytearray) -> None:
        if self._open:
            out += _message("contentBlockStop", {"contentBlockIndex": self._block})
            self._open = ""


def _message(what: str, body: Json) -> bytes:
    headers = {":event-type": what, ":content-type": "application/json", ":message-type": "event"}
    return eventstream.encode(headers, msgspec.json.encode(body))
