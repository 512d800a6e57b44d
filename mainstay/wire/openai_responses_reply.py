"""OpenAI Responses replies as upstreams send them: a whole reply as events, its glance, its errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from mainstay.core.errors import FailureKind, UpstreamFailed
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
    FinishReason,
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
from mainstay.wire.openai_errors import Said, kind_of, said
from mainstay.wire.openai_responses_items import Json, signature_of

NAME = "openai-responses"


class _InputDetails(msgspec.Struct):
    cached_tokens: int | float | None = None
    cache_write_tokens: int | float | None = None
    audio_tokens: int | float | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | float | None = None
    audio_tokens: int | float | None = None


class WireUsage(msgspec.Struct):
    """The field ``usage``; the API counts cached tokens within the input and reasoning within the output."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def canonical(self) -> Usage:
        """The same as a ``Usage``."""
        read, made = self.input_tokens_details, self.output_tokens_details
        return clamped(
            int(self.input_tokens or 0),
            int(self.output_tokens or 0),
            cached_input=int((read.cached_tokens or 0) if read else 0),
            cache_write=int((read.cache_write_tokens or 0) if read else 0),
            reasoning=int((made.reasoning_tokens or 0) if made else 0),
            input_audio=int((read.audio_tokens or 0) if read else 0),
            output_audio=int((made.audio_tokens or 0) if made else 0),
        )


class _Reason(msgspec.Struct):
    reason: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: msgspec.Raw = msgspec.Raw()

    def refuses(self) -> bool:
        """Whether a part of the message is a refusal."""
        if b'"refusal"' not in bytes(self.content):
            return False
        try:
            parts = dicts(msgspec.json.decode(self.content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return any(part.get("type") == "refusal" for part in parts)


class Envelope(msgspec.Struct):
    """What a ``response`` object says about itself; its content is not decoded."""

    id: str | None = None
    model: str | None = None
    created_at: float | None = None
    status: str | None = None
    service_tier: str | None = None
    incomplete_details: _Reason | None = None
    error: Any = None
    usage: WireUsage | None = None
    output: list[_Item] | None = None

    def start(self) -> Start:
        """How the reply began."""
        return Start(self.id or "", self.model or "", int(self.created_at or 0), None, self.service_tier)

    def finish(self, refused: bool = False, called: bool = False) -> Finish:
        """Why it ended; ``refused`` and ``called`` tell what else was seen of its content."""
        reason: FinishReason
        if self.status == "incomplete":
            native = self.incomplete_details.reason if self.incomplete_details else None
            reason = "length" if native == "max_output_tokens" else "other"
            if native == "content_filter":
                reason = "content_filter"
            return Finish(reason, native=native or "incomplete")
        for item in self.output or ():
            called = called or item.type == "function_call"
            refused = refused or (item.type == "message" and item.refuses())
        reason = "tool_calls" if called else "refusal" if refused else "stop"
        if self.status not in (None, "completed"):
            reason = "pause"  # queued, in progress: an answer in the background
        return Finish(reason, native=self.status or "completed")


_envelope = msgspec.json.Decoder(Envelope)
_loose = msgspec.json.Decoder(dict[str, Any])


def begins(raw: msgspec.Raw, prefix: bytes) -> bool:
    """Whether a JSON value that is not decoded begins with ``prefix``; no copy of it is made."""
    return bytes(memoryview(raw)[: len(prefix)]) == prefix


def text_of(value: Any) -> str:
    """``value`` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def dicts(value: Any) -> list[Json]:
    """The objects in ``value`` if it is an array; what is no object is left out."""
    if not isinstance(value, list):
        return []
    return [cast(Json, one) for one in cast(list[Any], value) if isinstance(one, dict)]


def logprobs_of(value: Any) -> tuple[Mapping[str, Any], ...] | None:
    """The entries of a ``logprobs`` array; None where there are none."""
    return tuple(dicts(value)) or None


def read_envelope(body: bytes | msgspec.Raw) -> Envelope:
    """The envelope of a response object; fields of another type than the published one are passed over.

    Raises ``msgspec.DecodeError``, ``UnicodeDecodeError`` or ``RecursionError`` if it is no JSON object.
    """
    try:
        return _envelope.decode(body)
    except msgspec.ValidationError:
        told = _loose.decode(body)
    fitting: Json = {}
    for name, value in told.items():
        if name not in Envelope.__struct_fields__:
            continue
        try:
            msgspec.convert({name: value}, Envelope, strict=False)
        except msgspec.ValidationError:
            continue
        fitting[name] = value
    return msgspec.convert(fitting, Envelope, strict=False)


def item_events(item: Json, tool: int) -> list[Event]:
    """The content of one finished output item; ``tool`` is the number of the next tool call."""
    kind = item.get("type")
    events: list[Event] = []
    if kind == "message":
        for part in dicts(item.get("content")):
            if part.get("type") == "refusal":
                events.append(RefusalDelta(text_of(part.get("refusal"))))
            elif part.get("type") == "output_text":
                events.append(TextDelta(text_of(part.get("text")), 0, logprobs_of(part.get("logprobs"))))
                events.extend(Citation(note) for note in dicts(part.get("annotations")))
    elif kind == "function_call":
        events.append(ToolStart(tool, text_of(item.get("call_id")), text_of(item.get("name"))))
        events.append(ToolDelta(tool, text_of(item.get("arguments"))))
    elif kind == "reasoning":
        pieces = dicts(item.get("summary")) or dicts(item.get("content"))
        text = "\n\n".join(text_of(piece.get("text")) for piece in pieces)
        if text:
            events.append(ThinkingDelta(text))
        encrypted = text_of(item.get("encrypted_content"))
        if encrypted:
            events.append(ThinkingSigned(signature_of(encrypted), redacted=not text))
    else:
        events.append(Opaque(text_of(kind)))
    return events


def read_reply(body: bytes) -> tuple[Event, ...]:
    """A whole plain reply as events. Raises ``UpstreamFailed(unreadable)``."""
    try:
        head, whole = read_envelope(body), _loose.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unreadable() from None
    if head.output is None and head.error is None:
        raise _unreadable()
    events: list[Event] = [head.start()]
    tools = 0
    for item in dicts(whole.get("output")):
        events += item_events(item, tools)
        tools += item.get("type") == "function_call"
    return (*events, *_ending(head, body))


def glance(body: bytes) -> tuple[Event, ...]:
    """Start, Finish, UsageSeen and End of a plain reply (a response or a compaction) that passes through."""
    try:
        head = read_envelope(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unreadable() from None
    if head.output is None and head.error is None and head.usage is None:
        raise _unreadable()
    return (head.start(), *_ending(head, body))


def _ending(head: Envelope, body: bytes) -> list[Event]:
    seen: list[Event] = [UsageSeen(head.usage.canonical())] if head.usage is not None else []
    if head.status in ("failed", "cancelled"):
        kind, message = failure(head.error)
        return [*seen, Failed(kind, message, body)]
    return [head.finish(), *seen, End()]


def _unreadable() -> UpstreamFailed:
    return UpstreamFailed("unreadable", "the provider's reply is not a response object of the Responses API")


_KINDS: Mapping[str, FailureKind] = {
    "rate_limit_exceeded": "rate_limit",
    "invalid_prompt": "invalid",
    "bio_policy": "content_filter",
    "misalignment_policy_violation": "content_filter",
    "image_content_policy_violation": "content_filter",
    "server_is_overloaded": "overloaded",
}
"""What the codes of a failed response mean; all others go by their words."""
_IMAGE = ("invalid_image", "invalid_base64_image", "image_", "unsupported_image", "empty_image")


def failure(error: Any) -> tuple[FailureKind, str]:
    """The kind and message of an error object inside a stream or a failed response."""
    given = said({"error": error}) or Said()
    kind = _KINDS.get(given.code) or ("invalid" if given.code.startswith(_IMAGE) else kind_of(None, given))
    return kind, given.message or "the provider reported that the response failed"
