"""Gemini's generateContent reply, plain and as a stream of server-sent events: read and written."""

from __future__ import annotations

import hashlib
from datetime import datetime

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
from mainstay.wire.gemini_errors import ErrorStatus, meaning
from mainstay.wire.gemini_request import SIGNED, Json
from mainstay.wire.sse import SseEvent, SseSplitter
from mainstay.wire.surrogates import Halves

FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "pause",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
}


class _Camel(msgspec.Struct, rename="camel"):
    """What a provider may leave out or send as null."""


class _FunctionCall(_Camel):
    name: str
    args: msgspec.Raw = msgspec.Raw(b"")
    id: str | None = None


class _Part(_Camel):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(_Camel):
    parts: list[_Part] | None = None


class _Token(_Camel):
    token: str | None = None
    log_probability: float | None = None


class _Tokens(_Camel):
    candidates: list[_Token] | None = None


class _Logprobs(_Camel):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Tokens] | None = None


class _Source(_Camel):
    uri: str | None = None
    title: str | None = None


class _Chunk(_Camel):
    web: _Source | None = None
    retrieved_context: _Source | None = None


class _Segment(_Camel):
    start_index: int | None = None
    end_index: int | None = None


class _Support(_Camel):
    segment: _Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class _Grounding(_Camel):
    grounding_chunks: list[_Chunk] | None = None
    grounding_supports: list[_Support] | None = None


class _Quote(_Camel):
    start_index: int | None = None
    end_index: int | None = None
    uri: str | None = None
    title: str | None = None


class _Quotes(_Camel):
    citations: list[_Quote] | None = None
    citation_sources: list[_Quote] | None = None


class _Candidate(_Camel):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int | None = None
    logprobs_result: _Logprobs | None = None
    grounding_metadata: _Grounding | None = None
    citation_metadata: _Quotes | None = None


class _Feedback(_Camel):
    block_reason: str | None = None


class _Modality(_Camel):
    modality: str | None = None
    token_count: int | None = None


class _Usage(_Camel):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None


class _Reply(_Camel):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    create_time: str | None = None
    error: ErrorStatus | None = None


_reply_decoder = msgspec.json.Decoder(_Reply)
_DONE = frozenset((b"[DONE]",))  # Gemini sends none; servers that imitate it may


class _Choice:
    """What has been read of one candidate."""

    __slots__ = ("calls", "cited", "finished", "text")

    def __init__(self) -> None:
        self.calls = 0
        self.cited: set[tuple[str, int, int]] = set()
        self.finished = False
        self.text: list[str] = []


class _Events:
    """Turns the chunks of one reply into events."""

    __slots__ = ("_choices", "_going", "_id", "_started", "blocked", "failed")

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._going = 0  # candidates that were seen and have not ended
        self._started = False
        self._id = ""
        self.blocked = False
        self.failed = False

    @property
    def complete(self) -> bool:
        """Every candidate that was seen has ended, or the prompt was blocked."""
        return self._going == 0 and (self.blocked or bool(self._choices))

    def of(self, reply: _Reply, raw: bytes) -> list[Event]:
        events: list[Event] = []
        if reply.error is not None:
            self.failed = True
            error = meaning(reply.error, None)
            return [Failed(error.kind, error.message, raw)]
        if not self._started:
            self._started = True
            self._id = reply.response_id or ""
            events.append(Start(self._id, reply.model_version or "", _epoch(reply.create_time)))
        for position, candidate in enumerate(reply.candidates or ()):
            number = candidate.index if candidate.index is not None else position
            self._candidate(candidate, number, events)
        feedback = reply.prompt_feedback
        if feedback is not None and feedback.block_reason and not self._choices and not self.blocked:
            self.blocked = True
            events.append(Finish("content_filter", native=feedback.block_reason))
        if reply.usage_metadata is not None:
            events.append(UsageSeen(_usage(reply.usage_metadata)))
        return events

    def _candidate(self, candidate: _Candidate, number: int, events: list[Event]) -> None:
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice()
            self._going += 1
        logprobs = None if candidate.logprobs_result is None else _logprobs(candidate.logprobs_result)
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                if part.text and not part.thought and logprobs:
                    self._part(part, number, choice, events, logprobs)
                    logprobs = None
                else:
                    self._part(part, number, choice, events, None)
        if logprobs:
            events.append(TextDelta("", number, logprobs))
        if candidate.grounding_metadata is not None or candidate.citation_metadata is not None:
            self._citations(candidate, number, choice, events)
        if candidate.finish_reason:
            if not choice.finished:
                choice.finished = True
                self._going -= 1
            native = candidate.finish_reason
            reason = FINISH.get(native, "other")
            if reason == "stop" and choice.calls:
                reason = "tool_calls"
            events.append(Finish(reason, number, native=native))

    def _part(
        self,
        part: _Part,
        number: int,
        choice: _Choice,
        events: list[Event],
        logprobs: tuple[Json, ...] | None,
    ) -> None:
        signature = part.thought_signature
        if part.thought:
            if part.text:
                events.append(ThinkingDelta(part.text, number))
            if signature:
                events.append(ThinkingSigned(SIGNED + signature, choice=number))
            return
        if signature:  # it stands before the part that it belongs to
            events.append(ThinkingSigned(SIGNED + signature, choice=number))
        call = part.function_call
        if call is not None:
            text = bytes(call.args).decode()
            text = "{}" if text in ("", "null") else msgspec.json.format(text, indent=-1)
            events.append(
                ToolStart(choice.calls, call.id or self._call_id(choice.calls, call.name, text), call.name, number)
            )
            events.append(ToolDelta(choice.calls, text, number))
            choice.calls += 1
        elif part.text:
            choice.text.append(part.text)
            events.append(TextDelta(part.text, number, logprobs))
        elif part.text is None and not signature:
            events.append(Opaque("part"))

    def _call_id(self, number: int, name: str, text: str) -> str:
        # Older versions give calls no id. The same reply always gets the same ids, and another reply of the
        # conversation gets others.
        scope = self._id or hashlib.sha256(f"{name}\n{text}".encode()).hexdigest()[:12]
        return f"call_{scope}_{number}"

    def _citations(self, candidate: _Candidate, number: int, choice: _Choice, events: list[Event]) -> None:
        found: list[tuple[str, str, int, int]] = []
        grounding = candidate.grounding_metadata
        if grounding is not None and grounding.grounding_supports:
            sources = [chunk.web or chunk.retrieved_context for chunk in grounding.grounding_chunks or ()]
            text = "".join(choice.text).encode()
            for support in grounding.grounding_supports:
                segment = support.segment or _Segment()
                start, end = _characters(text, segment.start_index or 0), _characters(text, segment.end_index or 0)
                for index in support.grounding_chunk_indices or ():
                    source = sources[index] if 0 <= index < len(sources) else None
                    if source is not None:
                        found.append((source.uri or "", source.title or "", start, end))
        quotes = candidate.citation_metadata
        if quotes is not None:
            for quote in quotes.citations or quotes.citation_sources or ():
                if quote.uri:
                    found.append((quote.uri, quote.title or "", quote.start_index or 0, quote.end_index or 0))
        for url, title, start, end in found:
            if (url, start, end) not in choice.cited:
                choice.cited.add((url, start, end))
                data = {"type": "url_citation", "url": url, "title": title, "start_index": start, "end_index": end}
                events.append(Citation(data, number))


def _characters(text: bytes, offset: int) -> int:
    """Gemini counts bytes of UTF-8, the canonical form characters."""
    return len(text[:offset].decode(errors="ignore"))


def _epoch(time: str | None) -> int:
    if not time:
        return 0
    try:
        return max(0, int(datetime.fromisoformat(time).timestamp()))
    except (ValueError, OverflowError, OSError):
        return 0


def _logprobs(result: _Logprobs) -> tuple[Json, ...] | None:
    if not result.chosen_candidates:
        return None
    tops = result.top_candidates or []
    entries: list[Json] = []
    for position, token in enumerate(result.chosen_candidates):
        top = tops[position].candidates if position < len(tops) else None
        entries.append(_entry(token) | {"top_logprobs": [_entry(other) for other in top or ()]})
    return tuple(entries)


def _entry(token: _Token) -> Json:
    text = token.token or ""
    logprob = token.log_probability if token.log_probability is not None else -9999.0
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _audio(details: list[_Modality] | None) -> int:
    return sum(entry.token_count or 0 for entry in details or () if entry.modality == "AUDIO")


def _usage(usage: _Usage) -> Usage:
    thoughts = usage.thoughts_token_count or 0
    return clamped(
        input=(usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        output=(usage.candidates_token_count or 0) + thoughts,
        cached_input=usage.cached_content_token_count or 0,
        reasoning=thoughts,
        input_audio=_audio(usage.prompt_tokens_details) - _audio(usage.cache_tokens_details),
        output_audio=_audio(usage.candidates_tokens_details),
    )


def read_reply(body: bytes) -> tuple[Event, ...]:
    """A plain reply as events, ``End`` included. Raises ``UpstreamFailed``: ``unreadable`` if it is none, or its error."""
    try:
        reply = _reply_decoder.decode(body)
        reading = _Events()
        events = reading.of(reply, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed("unreadable", f"the provider's reply is not a generateContent reply: {error}") from None
    if reply.error is not None:
        error = meaning(reply.error, None)
        raise UpstreamFailed(error.kind, error.message, retry_after=error.retry_after, provider_code=error.status)
    if not reading.complete:
        raise UpstreamFailed("unreadable", "the provider's reply has no candidate that ended")
    return (*events, End())


class StreamReader:
    """Reads one streamed reply. Gemini has no event that ends a stream: a finish reason for every candidate does."""

    __slots__ = ("_events", "_halves", "_splitter", "done")

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._splitter, self._events, self._halves = SseSplitter(limit), _Events(), Halves()
        self.done = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed(too_large)`` for an event over the limit."""
        return [self._frame(event) for event in self._splitter.feed(data)]

    def finish(self) -> list[Frame]:
        """The frames of what is left, and ``End`` if the reply is whole: usage may come after the finish reason."""
        frames = [self._frame(event) for event in self._splitter.finish()]
        return [*frames, Frame(b"", (End(),))] if self.done else frames

    def _frame(self, event: SseEvent) -> Frame:
        data = event.data
        if not data or data in _DONE:
            return Frame(event.raw, (Opaque("comment"),))
        try:
            events = self._events.of(_reply_decoder.decode(data), data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (mended := self._halves.mended(data)) is not None:
                return self._frame(SseEvent(event.raw, mended, event.event))
            return Frame(event.raw, (), unread=True)
        self.done = self._events.complete and not self._events.failed
        return Frame(event.raw, tuple(events))
