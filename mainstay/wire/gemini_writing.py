"""Gemini's generateContent reply written, plain and as a stream: for the simulator, and for tests that play a provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from mainstay.core.errors import MainstayError, UpstreamFailed
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
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
from mainstay.core.usage import Usage
from mainstay.wire.gemini_errors import write_error
from mainstay.wire.gemini_reply import FINISH
from mainstay.wire.gemini_request import SIGNED, Json
from mainstay.wire.json_shape import arguments

_NATIVE: dict[str, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
    "pause": "CONTINUATION",
}


class _Parts:
    """Collects the parts of one candidate; function calls and signatures wait until they are whole."""

    __slots__ = ("_arguments", "_call", "_merge", "_signature", "finish", "logprobs", "parts")

    def __init__(self, merge: bool) -> None:
        self._merge = merge  # neighbouring texts become one part
        self._call: ToolStart | None = None
        self._arguments: list[str] = []
        self._signature: str | None = None
        self.finish: Finish | None = None
        self.logprobs: list[Json] = []
        self.parts: list[Json] = []

    def add(self, event: Event) -> None:
        match event:
            case TextDelta() | RefusalDelta():
                self._flush_call()
                if isinstance(event, TextDelta) and event.logprobs:
                    self.logprobs.extend(dict(entry) for entry in event.logprobs)
                self._text(event.text, {})
            case ThinkingDelta():
                self._flush_call()
                self._text(event.text, {"thought": True})
            case ThinkingSigned() if not event.redacted:
                self._flush_call()
                self._flush_signature()
                self._signature = event.signature.removeprefix(SIGNED)
            case ToolStart():
                self._flush_call()
                self._call = event
            case ToolDelta():
                self._arguments.append(event.arguments)
            case Finish():
                self.flush()
                self.finish = event
            case _:
                pass

    def flush(self) -> None:
        self._flush_call()
        self._flush_signature()

    def _text(self, text: str, marks: Json) -> None:
        if marks:
            self._flush_signature()
        last = self.parts[-1] if self.parts else None
        signed = self._signature is not None
        if (
            self._merge
            and last is not None
            and not signed
            and "text" in last
            and "thoughtSignature" not in last
            and bool(last.get("thought")) == bool(marks)
        ):
            last["text"] += text
        elif text or signed:
            self._append({"text": text} | marks)

    def _append(self, part: Json) -> None:
        if self._signature is not None:
            part["thoughtSignature"], self._signature = self._signature, None
        self.parts.append(part)

    def _flush_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            text, self._arguments = "".join(self._arguments), []
            self._append({"functionCall": {"id": call.id, "name": call.name, "args": arguments(text)}})

    def _flush_signature(self) -> None:
        if self._signature is not None:
            self._append({"text": ""})

    def take(self, number: int) -> Json | None:
        """The candidate as far as it is whole; None if there is nothing new."""
        if not self.parts and not self.logprobs:
            return None
        candidate: Json = {"content": {"role": "model", "parts": self.parts}, "index": number}
        if self.logprobs:
            candidate["logprobsResult"] = {
                "chosenCandidates": [_token(entry) for entry in self.logprobs],
                "topCandidates": [
                    {"candidates": [_token(other) for other in entry.get("top_logprobs") or ()]}
                    for entry in self.logprobs
                ],
            }
        self.parts, self.logprobs = [], []
        return candidate


def _token(entry: Json) -> Json:
    return {"token": entry["token"], "logProbability": entry["logprob"]}


def _usage_json(usage: Usage) -> Json:
    counts = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "totalTokenCount": usage.total,
        "thoughtsTokenCount": usage.reasoning,
        "cachedContentTokenCount": usage.cached_input,
    }
    written: Json = {name: count for name, count in counts.items() if count or (name[0] in "pt" and name[1] in "ro")}
    for name, audio in (("promptTokensDetails", usage.input_audio), ("candidatesTokensDetails", usage.output_audio)):
        if audio:
            written[name] = [{"modality": "AUDIO", "tokenCount": audio}]
    return written


class StreamWriter:
    """Writes one streamed reply. The finish reasons and the usage go into the last chunk, which ``end`` makes."""

    content_type = "text/event-stream"

    def __init__(self) -> None:
        self._choices: dict[int, _Parts] = {}
        self._finishes: list[Finish] = []
        self._head: Json = {}
        self._usage: Json = {}

    def write(self, events: Sequence[Event]) -> bytes:
        """The chunks for ``events``; a tool call is held back until its arguments are whole."""
        out = bytearray()
        for event in events:
            if isinstance(event, Start):
                self._head = _head(event)
            elif isinstance(event, UsageSeen):
                self._usage = {"usageMetadata": _usage_json(event.usage)}
            elif isinstance(event, Finish):
                self._choice(event.choice).flush()
                self._finishes.append(event)
            elif not isinstance(event, Failed | End | Opaque | Citation):
                self._choice(event.choice).add(event)
        for number, choice in self._choices.items():
            candidate = choice.take(number)
            if candidate is not None:
                out += self._chunk([candidate])
        return bytes(out)

    def end(self) -> bytes:
        """The last chunk: why each candidate ended, and the usage."""
        rest = bytearray()
        for number, choice in self._choices.items():
            choice.flush()
            candidate = choice.take(number)
            if candidate is not None:
                rest += self._chunk([candidate])
        candidates = [{"finishReason": _native(finish), "index": finish.choice} for finish in self._finishes]
        return bytes(rest) + self._chunk(candidates)

    def fail(self, error: MainstayError) -> bytes:
        """An error in the place of a chunk."""
        status = error.status if isinstance(error, UpstreamFailed) and error.status else 503
        return b"data: " + write_error(error, status) + b"\r\n\r\n"

    def _choice(self, number: int) -> _Parts:
        if number not in self._choices:
            self._choices[number] = _Parts(merge=False)
        return self._choices[number]

    def _chunk(self, candidates: list[Json]) -> bytes:
        body = ({"candidates": candidates} if candidates else {}) | self._usage | self._head
        return b"data: " + msgspec.json.encode(body) + b"\r\n\r\n"


def write_reply(events: Sequence[Event]) -> bytes:
    """A plain reply: all events of it, folded."""
    choices: dict[int, _Parts] = {}
    body: Json = {"candidates": []}
    for event in events:
        if isinstance(event, Start):
            body |= _head(event)
        elif isinstance(event, UsageSeen):
            body["usageMetadata"] = _usage_json(event.usage)
        elif not isinstance(event, Failed | End | Opaque | Citation):
            choices.setdefault(event.choice, _Parts(merge=True)).add(event)
    for number, choice in sorted(choices.items()):
        choice.flush()
        candidate = choice.take(number) or {"content": {"role": "model"}, "index": number}
        if choice.finish is not None:
            candidate["finishReason"] = _native(choice.finish)
        body["candidates"].append(candidate)
    return msgspec.json.encode(body)


def _head(start: Start) -> Json:
    head: Json = {}
    if start.model:
        head["modelVersion"] = start.model
    if start.id:
        head["responseId"] = start.id
    if start.created:
        head["createTime"] = datetime.fromtimestamp(start.created, UTC).isoformat().replace("+00:00", "Z")
    return head


def _native(finish: Finish) -> str:
    native = finish.native
    if native is not None and native.isupper() and FINISH.get(native, "other") == finish.reason:
        return native
    return _NATIVE.get(finish.reason, "OTHER")
