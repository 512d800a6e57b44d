"""Chat completions toward callers: canonical events as a plain reply or as a stream of chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.core.errors import MainstayError
from mainstay.core.event import (
    Citation,
    Event,
    Finish,
    FinishReason,
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
from mainstay.wire.openai_errors import error_object
from mainstay.wire.openai_usage import write_usage

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode

# A pause or a reason that nobody knows is no whole answer: "length" is this format's word for that. A refusal in so many
# words, and nothing but them, is an answer that ends as OpenAI's own does, with "stop"; see ``_reason``.
_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "length",
    "other": "length",
}


def _reason(finish: Finish, answered: bool, refused: bool) -> str:
    """Why a choice ended, in this format's words; ``answered`` and ``refused``: there was content, or a refusal in words."""
    if finish.reason == "refusal" and refused and not answered:
        return "stop"
    return _REASONS[finish.reason]


def nested_citation(data: Mapping[str, Any]) -> Json:
    """A citation as an annotation of chat: ``{"type": "url_citation", "url_citation": {…}}``; another format's own
    words for it (``native``) stay out."""
    kind = data.get("type", "url_citation")
    return {"type": kind, kind: {name: value for name, value in data.items() if name not in ("type", "native")}}


def _signed(event: ThinkingSigned, text: str) -> Json:
    if event.redacted:
        return {"type": "redacted_thinking", "data": event.signature}
    return {"type": "thinking", "thinking": text, "signature": event.signature}


class ChatWriter:
    """Writes one stream of chunks: the role first, then deltas, the finish, usage if wanted, ``[DONE]``."""

    content_type = "text/event-stream"

    __slots__ = (
        "_after",
        "_answered",
        "_before",
        "_head",
        "_listed",
        "_refused",
        "_roles",
        "_thoughts",
        "_usage",
        "_wanted",
    )

    def __init__(self, include_usage: bool) -> None:
        self._wanted = include_usage
        self._usage: Usage | None = None
        self._roles: set[int] = set()
        self._answered: set[int] = set()
        self._refused: set[int] = set()
        self._listed: dict[tuple[str, int], int] = {}
        self._thoughts: dict[int, list[str]] = {}
        self._head: Json = {}
        self._before = self._after = b""
        self._begin(Start("", ""))

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for ``events``."""
        out: list[bytes] = []
        for event in events:
            if type(event) is TextDelta:
                if event.choice not in self._answered:
                    self._answered.add(event.choice)
                    self._role(event.choice, out)
                if event.logprobs is None:
                    out.append(
                        b'%b{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}%b'
                        % (self._before, event.choice, _encode(event.text), self._after)
                    )
                else:
                    self._delta(
                        event.choice, {"content": event.text}, out, {"content": event.logprobs, "refusal": None}
                    )
            elif type(event) is UsageSeen:
                self._usage = event.usage
            elif type(event) is Start:
                self._begin(event)
                self._role(0, out)
            else:
                self._other(event, out)
        return b"".join(out)

    def end(self) -> bytes:
        """Usage, where it is wanted and known, and ``[DONE]``."""
        if not self._wanted or self._usage is None:
            return b"data: [DONE]\n\n"
        chunk: Json = {**self._head, "choices": [], "usage": write_usage(self._usage)}
        return b"data: %b\n\ndata: [DONE]\n\n" % _encode(chunk)

    def fail(self, error: MainstayError) -> bytes:
        """An error instead of ``[DONE]``."""
        return b"data: %b\n\n" % _encode({"error": error_object(error)})

    def _begin(self, start: Start) -> None:
        self._head = {
            "id": start.id,
            "object": "chat.completion.chunk",
            "created": start.created,
            "model": start.model,
            "service_tier": start.service_tier,
            "system_fingerprint": start.fingerprint,
        }
        self._before = b"data: %b," % _encode(self._head)[:-1] + b'"choices":['
        self._after = b'],"usage":null}\n\n' if self._wanted else b"]}\n\n"

    def _role(self, choice: int, out: list[bytes]) -> None:
        if choice not in self._roles:
            self._roles.add(choice)
            self._delta(choice, {"role": "assistant", "content": "", "refusal": None}, out)

    def _delta(
        self, choice: int, delta: Json, out: list[bytes], logprobs: Json | None = None, finish: str | None = None
    ) -> None:
        if choice not in self._roles:
            self._role(choice, out)
        written = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        out.append(self._before + _encode(written) + self._after)

    def _entry(self, name: str, choice: int, entry: Json, out: list[bytes]) -> None:
        """One entry of a list of the message. OpenAI's SDK adds up the entries of a stream by their ``index``, and breaks
        off where one has none."""
        index = self._listed.get((name, choice), 0)
        self._listed[name, choice] = index + 1
        self._delta(choice, {name: [{"index": index, **entry}]}, out)

    def _other(self, event: Event, out: list[bytes]) -> None:
        if isinstance(event, ToolStart):
            self._answered.add(event.choice)
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.tool, "id": event.id, "type": "function", "function": function}
            self._delta(event.choice, {"tool_calls": [call]}, out)
        elif isinstance(event, ToolDelta):
            call = {"index": event.tool, "function": {"arguments": event.arguments}}
            self._delta(event.choice, {"tool_calls": [call]}, out)
        elif isinstance(event, ThinkingDelta):
            self._thoughts.setdefault(event.choice, []).append(event.text)
            self._delta(event.choice, {"reasoning_content": event.text}, out)
        elif isinstance(event, ThinkingSigned):
            text = "" if event.redacted else "".join(self._thoughts.pop(event.choice, ()))
            self._entry("thinking_blocks", event.choice, _signed(event, text), out)
        elif isinstance(event, RefusalDelta):
            self._refused.add(event.choice)
            self._delta(event.choice, {"refusal": event.text}, out)
        elif isinstance(event, Citation):
            self._entry("annotations", event.choice, nested_citation(event.data), out)
        elif isinstance(event, Finish):
            reason = _reason(event, event.choice in self._answered, event.choice in self._refused)
            self._delta(event.choice, {}, out, None, reason)


class _Choice:
    """One choice being folded together."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.thought: list[str] = []
        self.unsigned: list[str] = []
        self.blocks: list[Json] = []
        self.citations: list[Json] = []
        self.calls: dict[int, tuple[str, str, list[str]]] = {}
        self.logprobs: list[Mapping[str, Any]] | None = None
        self.finish: str | None = None

    def see(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.text.append(event.text)
            if event.logprobs is not None:
                self.logprobs = [*(self.logprobs or ()), *event.logprobs]
        elif isinstance(event, ThinkingDelta):
            self.thought.append(event.text)
            self.unsigned.append(event.text)
        elif isinstance(event, ThinkingSigned):
            self.blocks.append(_signed(event, "" if event.redacted else "".join(self.unsigned)))
            if not event.redacted:
                self.unsigned.clear()
        elif isinstance(event, RefusalDelta):
            self.refusal.append(event.text)
        elif isinstance(event, ToolStart):
            self.calls[event.tool] = (event.id, event.name, [])
        elif isinstance(event, ToolDelta):
            self.calls[event.tool][2].append(event.arguments)
        elif isinstance(event, Citation):
            self.citations.append(nested_citation(event.data))
        elif isinstance(event, Finish):
            self.finish = _reason(event, bool(self.text or self.calls), bool(self.refusal))

    def written(self, index: int) -> Json:
        empty = None if self.calls or self.refusal else ""
        message: Json = {
            "role": "assistant",
            "content": "".join(self.text) if self.text else empty,
            "refusal": "".join(self.refusal) if self.refusal else None,
        }
        if self.citations:
            message["annotations"] = self.citations
        if self.thought:
            message["reasoning_content"] = "".join(self.thought)
        if self.blocks:
            message["thinking_blocks"] = self.blocks
        if self.calls:
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
                for _, (id_, name, arguments) in sorted(self.calls.items())
            ]
        logprobs = None if self.logprobs is None else {"content": self.logprobs, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish}


def write_reply(events: Sequence[Event]) -> bytes:
    """A plain reply."""
    start, usage = Start("", ""), None
    choices: dict[int, _Choice] = {}
    for event in events:
        if isinstance(event, Start):
            start = event
        elif isinstance(event, UsageSeen):
            usage = event.usage
        elif hasattr(event, "choice"):
            index: int = getattr(event, "choice")  # noqa: B009  (every event of a choice names it)
            choice = choices.get(index)
            if choice is None:
                choice = choices[index] = _Choice()
            choice.see(event)
    reply: Json = {
        "id": start.id,
        "object": "chat.completion",
        "created": start.created,
        "model": start.model,
        "choices": [choice.written(index) for index, choice in sorted(choices.items())],
    }
    if usage is not None:
        reply["usage"] = write_usage(usage)
    reply["service_tier"] = start.service_tier
    reply["system_fingerprint"] = start.fingerprint
    return _encode(reply)
