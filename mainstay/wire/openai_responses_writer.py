"""Writes canonical events as an OpenAI Responses reply: its event stream, or the whole response object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, UpstreamFailed
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
from mainstay.core.usage import Usage
from mainstay.wire.openai_responses_items import encrypted_of
from mainstay.wire.openai_responses_object import (
    Json,
    OpenItem,
    OpenPart,
    annotation_json,
    echo,
    failure_code,
    logprobs_json,
    outcome,
    response_id_of,
    usage_json,
)

Status = Literal["in_progress", "completed", "incomplete", "failed"]

_encode = msgspec.json.encode


class ResponsesWriter:
    """One streamed reply. ``request`` is the caller's body, of which the response repeats some fields.

    ``stamp`` are top-level fields of the response object that the gateway decides: ``id``, ``previous_response_id``,
    ``store``. After ``end`` or ``fail``, ``response`` is the whole response object, as it was sent last.
    """

    content_type = "text/event-stream"

    def __init__(
        self, clock: Clock | None = None, request: bytes | None = None, stamp: Mapping[str, Any] | None = None
    ) -> None:
        self.response: Json = {}
        self._clock = clock or Clock()
        self._request = request
        self._stamp = dict(stamp or {})
        self._sequence = 0
        self._out: list[bytes] = []
        self._output: list[Json | None] = []  # finished items in their places
        self._current: OpenItem | None = None  # the message or the reasoning that is being written
        self._tools: dict[int, OpenItem] = {}  # function calls that are not finished
        self._finish: Finish | None = None
        self._refused = False
        self._usage: Usage | None = None
        self._failed: Failed | None = None
        self._ended = False

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for ``events``."""
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                self._said("output_text", cast(TextDelta, event))
            elif kind is ToolDelta:
                self._arguments(cast(ToolDelta, event))
            elif kind is Start:
                self._start(cast(Start, event))
            elif kind is ThinkingDelta:
                self._thought(cast(ThinkingDelta, event))
            elif kind is ThinkingSigned:
                self._signed(cast(ThinkingSigned, event))
            elif kind is RefusalDelta:
                self._refused = True
                self._said("refusal", cast(RefusalDelta, event))
            elif kind is ToolStart:
                self._tool(cast(ToolStart, event))
            elif kind is Citation:
                self._cited(cast(Citation, event))
            elif kind is Finish:
                self._finish = self._finish or cast(Finish, event)
            elif kind is UsageSeen:
                self._usage = cast(UsageSeen, event).usage
            elif kind is Failed:
                self._failed = cast(Failed, event)
        return self._taken()

    def end(self) -> bytes:
        """The bytes that say that the reply is whole: ``response.completed``, or ``response.incomplete``."""
        if self._ended:
            return b""
        self._ended = True
        self._begun()
        status, details = outcome(self._finish, self._refused)
        self._close_all(status)
        self.response["status"] = status
        self.response["incomplete_details"] = details
        self._settle()
        self._emit(f"response.{status}", {"response": self.response})
        return self._taken()

    def fail(self, error: MainstayError) -> bytes:
        """The bytes that say that the reply broke off: an ``error`` event, then ``response.failed``."""
        if self._ended:
            return b""
        self._ended = True
        self._begun()
        self._close_all("incomplete", events=False)
        self.response["status"] = "failed"
        self.response["error"] = {"code": failure_code(error), "message": error.message}
        self._settle()
        self.response["completed_at"] = None
        param = getattr(error, "field", None)
        self._emit("error", {"code": error.code, "message": error.message, "param": param})
        self._emit("response.failed", {"response": self.response})
        return self._taken()

    def whole(self) -> Json:
        """Ends the reply and gives the response object alone; a ``Failed`` among the events makes it a failed one."""
        if self._failed is not None:
            kind = cast(Any, self._failed.kind)
            self.fail(UpstreamFailed(kind, self._failed.message))
        else:
            self.end()
        return self.response

    # ---- the frame

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _emit(self, kind: str, fields: Json) -> None:
        data = _encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _delta(self, head: bytes, text: str, tail: bytes = b"") -> None:
        self._out.append(b'%b%b%b,"sequence_number":%d}\n\n' % (head, _encode(text), tail, self._sequence))
        self._sequence += 1

    def _start(self, start: Start) -> None:
        if self.response:
            return
        now = int(self._clock.now())
        self.response = {
            "id": response_id_of(start.id),
            "object": "response",
            "created_at": start.created or now,
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": start.model,
            "output": [],
            "service_tier": start.service_tier or "default",
            "usage": None,
            **echo(self._request),
            **self._stamp,
        }
        self._emit("response.created", {"response": self.response})
        self._emit("response.in_progress", {"response": self.response})

    def _begun(self) -> None:
        if not self.response:
            self._start(Start("", ""))

    def _settle(self) -> None:
        self.response["output"] = [item for item in self._output if item is not None]
        self.response["completed_at"] = int(self._clock.now()) if self.response["status"] == "completed" else None
        self.response["usage"] = None if self._usage is None else usage_json(self._usage)

    # ---- items

    def _open(self, kind: Literal["message", "reasoning", "function_call"], prefix: str, fields: Json) -> OpenItem:
        self._begun()
        index = len(self._output)
        self._output.append(None)
        tail = cast(str, self.response["id"]).rpartition("_")[2]
        item = {"id": f"{prefix}_{tail}_{index}", "type": kind, **fields}
        self._emit("response.output_item.added", {"output_index": index, "item": item})
        return OpenItem(kind, index, dict(item))

    def _head(self, kind: str, item: OpenItem, **place: int) -> bytes:
        fields = _encode({"type": kind, "item_id": item.id, "output_index": item.index, **place})
        return b'event: %b\ndata: %b,"delta":' % (kind.encode(), fields[:-1])

    def _done(self, item: OpenItem) -> None:
        self._output[item.index] = item.json
        self._emit("response.output_item.done", {"output_index": item.index, "item": item.json})

    def _close_all(self, status: Status, events: bool = True) -> None:
        """Finish what is open; as incomplete where the reply is. Without ``events`` it is only noted."""
        kept = len(self._out)
        sequence = self._sequence
        self._close_current("completed" if status == "completed" else "incomplete")
        for number in sorted(self._tools, key=lambda number: self._tools[number].index):
            self._close_tool(number, "completed" if status == "completed" else "incomplete")
        if not events:
            del self._out[kept:]
            self._sequence = sequence

    def _close_current(
        self, status: Status = "completed", signature: str | None = None, redacted: bool = False
    ) -> None:
        item, self._current = self._current, None
        if item is None:
            return
        if item.kind == "message":
            self._close_part(item)
        else:
            self._close_summary(item)
            if signature is not None:
                item.json["encrypted_content"] = encrypted_of(signature, redacted)
        if item.kind == "message":
            item.json["status"] = status
        self._done(item)

    # ---- messages

    def _said(self, kind: Literal["output_text", "refusal"], event: TextDelta | RefusalDelta) -> None:
        if event.choice or (not event.text and getattr(event, "logprobs", None) is None):
            return
        part = self._part(kind)
        part.text.append(event.text)
        if kind == "refusal":
            self._delta(part.head, event.text)
            return
        logprobs = cast(TextDelta, event).logprobs
        if logprobs is None:
            self._delta(part.head, event.text, b',"logprobs":[]')
        else:
            written = logprobs_json(logprobs)
            part.logprobs += [{"top_logprobs": [], **entry} for entry in written]
            self._delta(part.head, event.text, b',"logprobs":' + _encode(written))

    def _part(self, kind: Literal["output_text", "refusal"]) -> OpenPart:
        """The open part of that kind; what must be closed before it is closed."""
        item = self._current
        if item is not None and item.part is not None and item.part.kind == kind:
            return item.part
        if item is None or item.kind != "message":
            self._close_current()
            self._close_whole_tools()
            item = self._open("message", "msg", {"status": "in_progress", "role": "assistant", "content": []})
            item.json["content"] = []
            self._current = item
        self._close_part(item)
        index = len(cast(list[Json], item.json["content"]))
        name = "response.output_text.delta" if kind == "output_text" else "response.refusal.delta"
        part = OpenPart(kind, index, self._head(name, item, content_index=index))
        item.part = part
        self._emit("response.content_part.added", self._place(item, part) | {"part": part.json()})
        return part

    def _place(self, item: OpenItem, part: OpenPart) -> Json:
        return {"item_id": item.id, "output_index": item.index, "content_index": part.index}

    def _close_part(self, item: OpenItem) -> None:
        part, item.part = item.part, None
        if part is None:
            return
        written = part.json()
        item.json["content"].append(written)
        place = self._place(item, part)
        if part.kind == "output_text":
            done: Json = place | {"text": written["text"], "logprobs": part.logprobs}
            self._emit("response.output_text.done", done)
        else:
            self._emit("response.refusal.done", place | {"refusal": written["refusal"]})
        self._emit("response.content_part.done", place | {"part": written})

    def _cited(self, event: Citation) -> None:
        if event.choice:
            return
        part = self._part("output_text")
        note = annotation_json(event.data)
        place = self._place(cast(OpenItem, self._current), part)
        number = len(part.annotations)
        part.annotations.append(note)
        self._emit("response.output_text.annotation.added", place | {"annotation_index": number, "annotation": note})

    # ---- reasoning

    def _thought(self, event: ThinkingDelta) -> None:
        if event.choice or not event.text:
            return
        item = self._current
        if item is None or item.kind != "reasoning":
            item = self._open_reasoning()
            place = {"item_id": item.id, "output_index": item.index, "summary_index": 0}
            part = {"type": "summary_text", "text": ""}
            self._emit("response.reasoning_summary_part.added", place | {"part": part})
            item.head = self._head("response.reasoning_summary_text.delta", item, summary_index=0)
        item.text.append(event.text)
        self._delta(item.head, event.text)

    def _open_reasoning(self) -> OpenItem:
        self._close_current()
        self._close_whole_tools()
        self._current = item = self._open("reasoning", "rs", {"summary": []})
        return item

    def _close_summary(self, item: OpenItem) -> None:
        text = "".join(item.text)
        item.json["summary"] = []
        if not item.text:
            return
        part = {"type": "summary_text", "text": text}
        cast(list[Json], item.json["summary"]).append(part)
        place = {"item_id": item.id, "output_index": item.index, "summary_index": 0}
        self._emit("response.reasoning_summary_text.done", place | {"text": text})
        self._emit("response.reasoning_summary_part.done", place | {"part": part})

    def _signed(self, event: ThinkingSigned) -> None:
        if event.choice:
            return
        if self._current is None or self._current.kind != "reasoning" or event.redacted:
            self._open_reasoning()
        self._close_current(signature=event.signature, redacted=event.redacted)

    # ---- function calls

    def _tool(self, event: ToolStart) -> None:
        if event.choice or event.tool in self._tools:
            return
        self._close_current()
        self._close_whole_tools()
        fields: Json = {"status": "in_progress", "arguments": "", "call_id": event.id, "name": event.name}
        item = self._open("function_call", "fc", fields)
        item.head = self._head("response.function_call_arguments.delta", item)
        self._tools[event.tool] = item

    def _arguments(self, event: ToolDelta) -> None:
        item = self._tools.get(event.tool)
        if event.choice or item is None or not event.arguments:
            return
        item.text.append(event.arguments)
        self._delta(item.head, event.arguments)

    def _close_whole_tools(self) -> None:
        """Close the calls whose arguments are whole: agents run a tool as soon as its item is done.

        Calls may be written interleaved, so that the next item does not prove that one is over; its JSON does.
        """
        for number, item in list(self._tools.items()):
            if item.text and _is_whole("".join(item.text)):
                self._close_tool(number, "completed")

    def _close_tool(self, number: int, status: Status) -> None:
        item = self._tools.pop(number)
        if not item.text and status == "completed":
            item.text.append("{}")  # no arguments at all: what parses them wants an object
            self._delta(item.head, "{}")
        arguments = "".join(item.text)
        item.json["arguments"] = arguments
        item.json["status"] = status
        done = {"item_id": item.id, "output_index": item.index, "name": item.json["name"], "arguments": arguments}
        self._emit("response.function_call_arguments.done", done)
        self._done(item)


def _is_whole(arguments: str) -> bool:
    """Whether nothing but white space can follow: only of a JSON object is that certain."""
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def write_reply(
    events: Sequence[Event],
    clock: Clock | None = None,
    request: bytes | None = None,
    stamp: Mapping[str, Any] | None = None,
) -> bytes:
    """A plain reply: all of its events, folded into one response object."""
    writer = ResponsesWriter(clock, request, stamp)
    writer.write(events)
    return _encode(writer.whole())
