"""Streams of the passed-through operations: text completions, transcripts, images, sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from mainstay.core.errors import MainstayError
from mainstay.core.event import End, Event, Failed, Finish, Frame, Opaque, Start, TextDelta, UsageSeen
from mainstay.core.usage import Usage
from mainstay.wire.openai_chat_reply import failure, reason_of
from mainstay.wire.openai_errors import error_object
from mainstay.wire.openai_usage import convert_usage, write_usage
from mainstay.wire.sse import SseSplitter

Json = dict[str, Any]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_LAST = (
    "transcript.text.done",
    "image_generation.completed",
    "image_edit.completed",
    "speech.audio.done",
)
"""Events that say that a transcript, image or speech is whole."""
_PIECE = ("transcript.text.delta", "image_generation.partial_image", "image_edit.partial_image", "speech.audio.delta")
_FINISH = {"length": "length", "content_filter": "content_filter"}


class PlainReader:
    """Reads one stream. Sound that comes as it is has no sign of its end but the end of the body itself."""

    __slots__ = ("_begin", "_operation", "_raw", "_split", "_started", "done")

    def __init__(self, operation: str) -> None:
        self.done = False
        self._operation = operation
        self._split = SseSplitter()
        self._started = False
        self._begin = b""
        self._raw: bool | None = None if operation == "audio.speech" else False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed(too_large)``."""
        if self._raw is None:
            self._begin += data
            data = self._begin
            if len(data) < 8:
                return []
            self._begin = b""
            self._raw = not data.startswith((b"data:", b"event:", b":", b"id:", b"retry:", b"\xef\xbb\xbfdata:"))
        if self._raw:
            return [Frame(data, self._opened(TextDelta("")))] if data else []
        return [self._frame(event.raw, event.data) for event in self._split.feed(data)]

    def finish(self) -> list[Frame]:
        """The frames that the last bytes still hold."""
        if self._raw is not False:
            frames = [Frame(self._begin, self._opened(TextDelta("")))] if self._begin else []
            self._begin = b""
            self.done = True
            return [*frames, Frame(b"", (End(),))]
        return [self._frame(event.raw, event.data) for event in self._split.finish()]

    def _opened(self, *events: Event) -> tuple[Event, ...]:
        if self._started:
            return events
        self._started = True
        return (Start("", ""), *events)

    def _frame(self, raw: bytes, data: bytes) -> Frame:
        if not data:
            return Frame(raw, (Opaque("comment"),))
        if data.strip() == b"[DONE]":
            self.done = True
            return Frame(raw, (End(),))
        try:
            value = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Frame(raw, (), unread=True)
        if not isinstance(value, dict):
            return Frame(raw, (), unread=True)
        chunk = cast(Json, value)
        failed = None if "choices" in chunk and not chunk.get("error") else failure(chunk, data)
        if failed is not None:
            return Frame(raw, (failed,))
        return Frame(raw, self._completion(chunk) if "choices" in chunk else self._media(chunk))

    def _media(self, chunk: Json) -> tuple[Event, ...]:
        kind = chunk.get("type")
        if kind == "error":
            return (Failed("server_error", str(chunk.get("message") or "the provider failed")),)
        if kind in _PIECE:
            # A picture or sound is content too, though it has no text.
            text = chunk.get("delta") if kind == "transcript.text.delta" else ""
            return self._opened(TextDelta(text if isinstance(text, str) else ""))
        usage = convert_usage(chunk.get("usage"))
        seen = () if usage is None else (UsageSeen(usage),)
        if kind in _LAST:
            self.done = True
            content = () if kind in ("transcript.text.done", "speech.audio.done") else (TextDelta(""),)
            return self._opened(*content, Finish("stop", native=str(kind)), *seen, End())
        return seen or (Opaque(str(kind or "event")),)

    def _completion(self, chunk: Json) -> tuple[Event, ...]:
        events: list[Event] = []
        choices = chunk["choices"]
        if choices and not self._started:
            self._started = True
            created = chunk.get("created")
            events.append(
                Start(
                    str(chunk.get("id") or ""),
                    str(chunk.get("model") or ""),
                    int(created) if isinstance(created, int | float) else 0,
                    cast("str | None", chunk.get("system_fingerprint")),
                )
            )
        for choice in cast(list[Any], choices) if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            said = cast(Json, choice)
            index, text, reason = said.get("index"), said.get("text"), said.get("finish_reason")
            number = index if isinstance(index, int) else 0
            if isinstance(text, str) and text:
                events.append(TextDelta(text, number))
            if isinstance(reason, str) and reason:
                events.append(Finish(reason_of(reason), number, None, reason))
        usage = convert_usage(chunk.get("usage"))
        if usage is not None:
            events.append(UsageSeen(usage))
        return tuple(events) or (Opaque("chunk"),)


class CompletionWriter:
    """Writes one stream of text completion chunks."""

    content_type = "text/event-stream"

    __slots__ = ("_start", "_usage", "_wanted")

    def __init__(self, include_usage: bool) -> None:
        self._wanted = include_usage
        self._start = Start("", "")
        self._usage: Usage | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for ``events``; what is not text has no place in a text completion."""
        out: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta):
                out.append(self._chunk(event.text, event.choice, None))
            elif isinstance(event, Finish):
                out.append(self._chunk("", event.choice, _FINISH.get(event.reason, "stop")))
            elif isinstance(event, UsageSeen):
                self._usage = event.usage
            elif isinstance(event, Start):
                self._start = event
        return b"".join(out)

    def end(self) -> bytes:
        """Usage, where it is wanted and known, and ``[DONE]``."""
        if not self._wanted or self._usage is None:
            return b"data: [DONE]\n\n"
        chunk: Json = {**_head(self._start), "choices": [], "usage": write_usage(self._usage)}
        return b"data: %b\n\ndata: [DONE]\n\n" % _encode(chunk)

    def fail(self, error: MainstayError) -> bytes:
        """An error instead of ``[DONE]``."""
        return b"data: %b\n\n" % _encode({"error": error_object(error)})

    def _chunk(self, text: str, index: int, reason: str | None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
        chunk = {**_head(self._start), "choices": [choice], **({"usage": None} if self._wanted else {})}
        return b"data: %b\n\n" % _encode(chunk)


def _head(start: Start) -> Json:
    return {"id": start.id, "object": "text_completion", "created": start.created, "model": start.model}


def write_completion(events: Sequence[Event]) -> bytes:
    """A plain text completion."""
    start, usage = Start("", ""), None
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    for event in events:
        if isinstance(event, Start):
            start = event
        elif isinstance(event, UsageSeen):
            usage = event.usage
        elif isinstance(event, TextDelta):
            texts.setdefault(event.choice, []).append(event.text)
        elif isinstance(event, Finish):
            texts.setdefault(event.choice, [])
            reasons[event.choice] = _FINISH.get(event.reason, "stop")
    reply: Json = {
        **_head(start),
        "choices": [
            {"text": "".join(pieces), "index": index, "logprobs": None, "finish_reason": reasons.get(index)}
            for index, pieces in sorted(texts.items())
        ],
    }
    if usage is not None:
        reply["usage"] = write_usage(usage)
    return _encode(reply)
