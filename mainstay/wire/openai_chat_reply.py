"""Chat completions toward us: plain replies and streams of chunks as canonical events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

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
from mainstay.wire.openai_chat_chunks import CallPiece, Choice, Chunk, Ending, Head, Outline, Said, json_value, lenient
from mainstay.wire.openai_errors import MESSAGE, kind_of, said
from mainstay.wire.openai_usage import convert_usage, read_usage
from mainstay.wire.sse import SseSplitter
from mainstay.wire.surrogates import Halves

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # what others say instead
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "refusal",
    "pause_turn": "pause",
}

_DONE = (End(),)
_NOTHING = (Opaque("chunk"),)
_COMMENT = (Opaque("comment"),)
_Tools = list[Any] | None


_chunk = msgspec.json.Decoder(Chunk)
_head = msgspec.json.Decoder(Head)
_outline = msgspec.json.Decoder(Outline)


def reason_of(native: str, tools: bool = False) -> FinishReason:
    """The canonical reason for a provider's word. ``tools``: the choice has tool calls, so that "stop" means them."""
    reason = _REASONS.get(native) or _REASONS.get(native.lower(), "other")
    return "tool_calls" if tools and reason == "stop" else reason


def start_of(head: Head | Outline) -> Start:
    """How the reply introduces itself."""
    return Start(
        head.id or "", head.model or "", int(head.created or 0), head.system_fingerprint or None, head.service_tier
    )


class _Calls:
    """The tool calls of one choice, numbered from 0, whatever the provider's numbers and ids do."""

    __slots__ = ("_by_index", "_last", "calls")

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._last: _Call | None = None

    def piece(self, call: CallPiece, choice: int, reply: str, events: list[Event]) -> None:
        """Add what one ``tool_calls`` entry says."""
        name, arguments = _called(call)
        known = self._last if call.index is None else self._by_index.get(call.index)
        # A new number is a new call; so is a new id, unless some server makes up an id for each piece without a name.
        # Without numbers, a name alone begins one too.
        if (
            known is None
            or (call.id and call.id != known.id and (name or (call.index is None and known.named)))
            or (call.index is None and not call.id and name and known.named)
        ):
            known = _Call(len(self.calls), call.id or f"call_{reply[-24:]}_{choice}_{len(self.calls)}")
            self.calls.append(known)
            if call.index is not None:
                self._by_index[call.index] = known
        self._last = known
        if not known.named:
            if not name:
                known.held += arguments
                return
            known.named = True
            events.append(ToolStart(known.number, known.id, name, choice))
            arguments = known.held + arguments
        if arguments:
            events.append(ToolDelta(known.number, arguments, choice))


class _Call:
    __slots__ = ("held", "id", "named", "number")

    def __init__(self, number: int, id: str) -> None:
        self.number, self.id, self.named, self.held = number, id, False, ""


def _called(call: CallPiece) -> tuple[str, str]:
    if call.function is not None:
        return call.function.name or "", call.function.arguments or ""
    if call.custom is not None:
        return str(call.custom.get("name") or ""), str(call.custom.get("input") or "")
    return "", ""


class _State:
    """What has to be remembered of a reply between its chunks."""

    __slots__ = ("calls", "reply", "thought")

    def __init__(self) -> None:
        self.reply = ""
        self.calls: dict[int, _Calls] = {}
        self.thought: dict[int, bool] = {}  # reasoning text came since the last signature

    def choice(self, choice: Choice, events: list[Event]) -> None:
        """The events of one choice of a chunk or a whole reply."""
        index = choice.index
        said = choice.delta or choice.message
        if said is not None:
            text = said.reasoning_content or said.reasoning
            if text:
                events.append(ThinkingDelta(text, index))
                self.thought[index] = True
            if said.thinking_blocks or said.reasoning_details:
                self._signatures(said, index, events)
            logprobs = choice.logprobs
            if said.content:
                tokens = None if logprobs is None or not logprobs.content else tuple(logprobs.content)
                events.append(TextDelta(said.content, index, tokens))
            elif logprobs is not None and logprobs.content:
                events.append(TextDelta("", index, tuple(logprobs.content)))
            if said.refusal:
                events.append(RefusalDelta(said.refusal, index))
            if said.annotations:
                events.extend(Citation(flat_citation(one), index) for one in said.annotations)
            if said.tool_calls or said.function_call is not None:
                calls = self.calls.get(index)
                if calls is None:
                    calls = self.calls[index] = _Calls()
                for i, call in enumerate(said.tool_calls or ()):
                    if choice.delta is None:  # a whole reply: each is a call of its own
                        call.index = i
                    calls.piece(call, index, self.reply, events)
                if said.function_call is not None:
                    calls.piece(CallPiece(-1, None, said.function_call), index, self.reply, events)
        reason = choice.finish_reason
        if reason:
            events.append(Finish(reason_of(reason, index in self.calls), index, None, reason))

    def _signatures(self, said: Said, index: int, events: list[Event]) -> None:
        blocks = said.thinking_blocks or [_block(one) for one in said.reasoning_details or ()]
        for block in blocks:
            redacted = block.get("type") == "redacted_thinking"
            signature = block.get("data") if redacted else block.get("signature")
            text = block.get("thinking")
            if text and isinstance(text, str) and not redacted and not self.thought.get(index):
                events.append(ThinkingDelta(text, index))
                self.thought[index] = True
            if signature and isinstance(signature, str):
                events.append(ThinkingSigned(signature, redacted, index))
                self.thought[index] = False


def _block(detail: dict[str, Any]) -> dict[str, Any]:
    """One of OpenRouter's ``reasoning_details`` as a thinking block."""
    if detail.get("type") == "reasoning.encrypted":
        return {"type": "redacted_thinking", "data": detail.get("data")}
    return {"type": "thinking", "thinking": detail.get("text"), "signature": detail.get("signature")}


def flat_citation(annotation: dict[str, Any]) -> dict[str, Any]:
    """``{"type": "url_citation", "url_citation": {…}}`` with the inner object's members beside the type."""
    inner = annotation.get(str(annotation.get("type")))
    if not isinstance(inner, dict):
        return annotation
    return {"type": annotation["type"], **cast(dict[str, Any], inner)}


def failure(value: Any, raw: bytes = b"") -> Failed | None:
    """The error that a decoded chunk or reply reports, if it does."""
    error = said(value)
    if error is None:
        return None
    kind = kind_of(None, error)
    if kind == "auth":  # its words may quote our key
        return Failed(kind, "the provider refused the key that is configured for it")
    return Failed(kind, error.message[:MESSAGE] or "the provider failed", raw)


def _mere_text(said: Said | None) -> str | None:
    """The text of a delta that has nothing else: nearly every one, so it is worth a way of its own."""
    if (
        said is None
        or said.tool_calls is not None
        or said.reasoning_content is not None
        or said.reasoning is not None
        or said.refusal is not None
        or said.annotations is not None
        or said.thinking_blocks is not None
        or said.reasoning_details is not None
        or said.function_call is not None
    ):
        return None
    return said.content


# Half the price of calling the classes, once per token.
_new_frame = cast(Callable[[type[Frame], tuple[Any, ...]], Frame], tuple.__new__)
_new_text = cast(Callable[[type[TextDelta], tuple[Any, ...]], TextDelta], tuple.__new__)


class ChatReader:
    """Reads one stream of chunks."""

    __slots__ = ("_halves", "_split", "_started", "_state", "done", "finished")

    def __init__(self) -> None:
        self.done = False
        self.finished = False
        """A finish reason was seen: a stream that ends now lacks only ``[DONE]``."""
        self._split, self._halves = SseSplitter(), Halves()
        self._state = _State()
        self._started = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed(too_large)``."""
        return [self._frame(raw, data, name) for raw, data, name in self._split.feed(data)]

    def finish(self) -> list[Frame]:
        """The frames that the last bytes still hold."""
        return [self._frame(raw, data, name) for raw, data, name in self._split.finish()]

    def _frame(self, raw: bytes, data: bytes, name: bytes) -> Frame:
        if not data:
            return Frame(raw, _COMMENT)
        if data[:1] == b"[" and data.strip() == b"[DONE]":
            self.done = True
            return Frame(raw, _DONE)
        try:
            chunk = _chunk.decode(data) if self._started else _head.decode(data)
        except msgspec.ValidationError:
            return self._odd(raw, data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if (mended := self._halves.mended(data)) is not None:
                return self._frame(raw, mended, name)
            if name == b"error":
                return Frame(raw, (Failed("server_error", data[:300].decode("utf-8", "replace"), data),))
            return Frame(raw, (), unread=True)
        choices = chunk.choices
        if chunk.error is not None or choices is None or name == b"error":
            return self._other(raw, data, chunk)
        if self._started and len(choices) == 1 and chunk.usage is None and chunk.x_groq is None:
            choice = choices[0]
            if choice.finish_reason is None and choice.logprobs is None and (text := _mere_text(choice.delta)):
                return _new_frame(Frame, (raw, (_new_text(TextDelta, (text, choice.index, None)),), False))
        return Frame(raw, self._events(chunk))

    def _events(self, chunk: Chunk) -> tuple[Event, ...]:
        events: list[Event] = []
        choices = chunk.choices
        if choices:
            if not self._started and isinstance(chunk, Head):
                self._started = True
                events.append(start_of(chunk))
                self._state.reply = chunk.id or ""
            for choice in choices:
                self._state.choice(choice, events)
                if choice.finish_reason:
                    self.finished = True
                    if choice.finish_reason == "error":
                        events.append(Failed("server_error", "the provider broke off with the reason error"))
        usage = chunk.usage
        if usage is None and chunk.x_groq is not None:
            usage = chunk.x_groq.usage
        if usage is not None and (counted := read_usage(usage)) is not None:
            events.append(UsageSeen(counted))
        return tuple(events) if events else _NOTHING

    def _other(self, raw: bytes, data: bytes, chunk: Chunk) -> Frame:
        """A chunk without choices: an error, usage alone, or something of the vendor's."""
        failed = failure(json_value(data), data)
        if failed is not None:
            return Frame(raw, (failed,))
        return Frame(raw, self._events(chunk))

    def _odd(self, raw: bytes, data: bytes) -> Frame:
        """JSON that has not quite the usual types: what can be read of it is read."""
        value = json_value(data)
        if not isinstance(value, dict):
            return Frame(raw, (), unread=True)
        failed = failure(value, data)
        if failed is not None:
            return Frame(raw, (failed,))
        chunk = lenient(cast(dict[str, Any], value))
        # Usage that could not be read has been kept apart as a value, since it may come in any chunk.
        events = self._events(chunk)
        usage = convert_usage(cast(dict[str, Any], value).get("usage"))
        if usage is not None:
            events = (*(event for event in events if type(event) is not Opaque), UsageSeen(usage))
        return Frame(raw, events)


def _object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises ``UpstreamFailed(unreadable)``."""
    value = json_value(body)
    if not isinstance(value, dict):
        # Nothing of it is quoted: it may hold what the model said, and messages go into records and to callers.
        raise UpstreamFailed("unreadable", "the provider's reply is not a JSON object")
    return cast(dict[str, Any], value)


def glance(body: bytes) -> tuple[Event, ...]:
    """Start, Finish, UsageSeen and End of a plain reply that passes through. An error inside a reply with a status of
    success gives a Failed and no End. Raises ``UpstreamFailed(unreadable)`` if ``body`` is no chat completion."""
    try:
        reply = _outline.decode(body)
        usage = read_usage(reply.usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        value = _object(body)
        head = lenient(value)
        reply = Outline(
            [Ending(choice.index, choice.finish_reason) for choice in head.choices or ()],
            error=value.get("error"),
            id=head.id,
            model=head.model,
            created=head.created,
            system_fingerprint=head.system_fingerprint,
            service_tier=head.service_tier,
        )
        usage = convert_usage(value.get("usage"))
    if not reply.choices:
        failed = failure(_object(body), body)
        if failed is not None:
            return (failed,)
        raise UpstreamFailed("unreadable", "the provider's reply has no choices")
    events: list[Event] = [start_of(reply)]
    for choice in reply.choices:
        if choice.finish_reason:
            events.append(Finish(reason_of(choice.finish_reason), choice.index, None, choice.finish_reason))
    if usage is not None:
        events.append(UsageSeen(usage))
    events.append(End())
    return tuple(events)


def read_reply(body: bytes) -> tuple[Event, ...]:
    """A whole plain reply as events. Raises ``UpstreamFailed``: ``unreadable`` if it is no chat completion, or what
    the error that it holds means."""
    try:
        reply = _head.decode(body)
        usage = read_usage(reply.usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        value = _object(body)
        reply = lenient(value)
        usage = convert_usage(value.get("usage"))
    if not reply.choices:
        failed = failure(_object(body), body)
        if failed is not None:
            raise UpstreamFailed(cast(Any, failed.kind), failed.message)
        raise UpstreamFailed("unreadable", "the provider's reply has no choices")
    state = _State()
    state.reply = reply.id or ""
    events: list[Event] = [start_of(reply)]
    for choice in reply.choices:
        state.choice(choice, events)
    if usage is None and reply.x_groq is not None:
        usage = read_usage(reply.x_groq.usage)
    if usage is not None:
        events.append(UsageSeen(usage))
    events.append(End())
    return tuple(events)
