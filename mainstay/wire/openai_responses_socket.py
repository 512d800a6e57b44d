"""The WebSocket mode of OpenAI Responses: its messages in terms of requests and event streams; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError
from mainstay.core.event import Finish, Start, UsageSeen
from mainstay.core.usage import NOTHING
from mainstay.wire.json_edit import insert_member
from mainstay.wire.openai_errors import error_object
from mainstay.wire.openai_responses_writer import ResponsesWriter
from mainstay.wire.sse import SseSplitter

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_TRANSPORT = ("type", "generate", "stream_id", "stream", "background")
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.encode


class SocketRequest(NamedTuple):
    """One message of a caller.

    ``kind`` is ``create``, or ``warmup`` where no answer is wanted (``generate: false``). ``body`` is the same as the
    body of a streamed ``POST /v1/responses``. All that is written for it carries ``stream_id``; requests with the
    same one (or none) are answered one after the other.
    """

    kind: Literal["create", "warmup"]
    body: bytes
    stream_id: str | None = None


def read_message(text: str | bytes) -> SocketRequest:
    """What a text message of a caller asks for. Raises ``Invalid``, and the connection can go on."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        given = _outline.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("a message must be a JSON object with a type", code="invalid_json") from None
    kind = _value(given, "type")
    if kind != "response.create":
        raise Invalid("the type of a message must be response.create", field="type", code="unknown_event_type")
    generate = _value(given, "generate")
    if generate is not None and not isinstance(generate, bool):
        raise Invalid("generate must be true or false", field="generate")
    stream_id = _value(given, "stream_id")
    if stream_id is not None and not (isinstance(stream_id, str) and _STREAM_ID.fullmatch(stream_id)):
        raise Invalid("stream_id must be 1 to 256 letters, digits, _, . or -", field="stream_id")
    if _value(given, "background"):
        raise Invalid("background is not for the WebSocket mode; leave it out", field="background")
    body: dict[str, Any] = {key: value for key, value in given.items() if key not in _TRANSPORT}
    body["stream"] = True
    return SocketRequest("warmup" if generate is False else "create", _encode(body), stream_id)


def _value(given: dict[str, msgspec.Raw], key: str) -> Any:
    try:
        return msgspec.json.decode(given[key]) if key in given else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid(f"{key} cannot be read", field=key) from None


def write_event(sse: bytes, stream_id: str | None = None) -> list[str]:
    """The text messages for whole events of a stream, one each; comments and ``[DONE]`` have none."""
    splitter = SseSplitter(len(sse) + 1)
    return [
        _tagged(event.data, stream_id)
        for event in (*splitter.feed(sse), *splitter.finish())
        if event.data.lstrip()[:1] == b"{"
    ]


def warm_up(
    body: bytes, model: str, identifier: str, clock: Clock | None = None, stamp: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, Any]]:
    """The events, and the response object, of a request that asks for no answer (``generate: false``)."""
    writer = ResponsesWriter(clock, body, stamp)
    events = writer.write((Start(identifier, model), Finish("stop"), UsageSeen(NOTHING))) + writer.end()
    return events, writer.response


def socket_error(error: MainstayError, status: int, stream_id: str | None = None) -> str:
    """The message for a request that was refused, or failed before its first event.

    It has the fields both where the documented event has them and inside ``error``, where the service itself puts
    them and clients look for them. ``status`` is the one that HTTP would have had.
    """
    fields = error_object(error)
    flat = {name: fields[name] for name in ("code", "message", "param")}
    return _tagged(
        _encode({"type": "error", "status": status, "error": fields, **flat, "sequence_number": 0}), stream_id
    )


def _tagged(data: bytes, stream_id: str | None) -> str:
    if stream_id is not None:
        data = insert_member(data, "stream_id", _encode(stream_id))
    return data.decode()
