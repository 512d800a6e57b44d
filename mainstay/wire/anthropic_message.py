"""The parts of Anthropic's replies, typed, and what they mean."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.core.event import Citation, Event, Finish, FinishReason, RefusalDelta
from mainstay.core.usage import Usage, clamped

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


class OutputDetails(msgspec.Struct):
    """Parts of the output tokens."""

    thinking_tokens: int | None = None


class MessageUsage(msgspec.Struct):
    """Token counts; a stream leaves out those that have not changed."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None
    service_tier: str | None = None


class StopDetails(msgspec.Struct):
    """Why an answer was refused."""

    explanation: str | None = None


class ContentBlock(msgspec.Struct):
    """A block of the answer."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    citations: list[dict[str, Any]] | None = None


class Delta(msgspec.Struct, gc=False):
    """What a stream adds to a block, or to the message at its end."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class Opening(msgspec.Struct):
    """The message as a stream begins it."""

    id: str = ""
    model: str = ""
    usage: MessageUsage | None = None


class ErrorObject(msgspec.Struct):
    """An error inside a reply."""

    type: str | None = None
    message: str | None = None


class StreamEvent(msgspec.Struct, gc=False):
    """Any event of a stream."""

    type: str
    index: int = 0
    delta: Delta | None = None
    content_block: ContentBlock | None = None
    message: Opening | None = None
    usage: MessageUsage | None = None
    error: ErrorObject | None = None


class Head(msgspec.Struct):
    """A whole message but for its content, or an error, or a count of tokens."""

    id: str = ""
    model: str = ""
    type: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: MessageUsage | None = None
    error: ErrorObject | None = None
    input_tokens: int | None = None


def ending(reason: str, stop: str | None, details: StopDetails | None) -> tuple[Event, ...]:
    """Why the answer ended, and, where it was refused, the provider's words on that."""
    finish = Finish(FINISH.get(reason, "other"), 0, stop, reason)
    if details is not None and details.explanation:
        return (RefusalDelta(details.explanation), finish)
    return (finish,)


def arguments(input: msgspec.Raw) -> str:
    """A call's input as JSON text; what is no object is none."""
    text = bytes(input).decode()
    return text if text.startswith("{") else "{}"


def total(usage: MessageUsage) -> Usage:
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


def citation(said: dict[str, Any], start: int, end: int) -> Citation:
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
