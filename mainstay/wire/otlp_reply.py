"""What a receiver of OTLP answers, in both encodings and both directions: done, done in part, refused."""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError

import msgspec

from mainstay.core.errors import Invalid
from mainstay.wire.otlp_protobuf import CODE, broken, number, part, read_length, read_varint, signed, skip, text

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 10, 413: 8, 415: 3, 429: 8, 500: 13, 502: 14, 503: 14, 504: 4}
_RETRY = frozenset((429, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Reply:
    """A receiver's answer. ``rejected`` spans or data points were not taken and must not be sent again.

    ``message`` is for a person, also where nothing was rejected. ``code`` is gRPC's, of an error.
    """

    rejected: int = 0
    message: str = ""
    code: int = 0


def retryable(status: int) -> bool:
    """Whether the same request may be sent again after this HTTP status, as the OTLP specification lists them."""
    return status in _RETRY


def success(json: bool, rejected: int = 0, message: str = "") -> bytes:
    """The body of a 200: an ``Export…ServiceResponse``, with ``partialSuccess`` where there is something to say.

    Of traces, since no others are received.
    """
    if json:
        partial = {"rejectedSpans": str(rejected), "errorMessage": _mended(message)}
        return msgspec.json.encode({"partialSuccess": partial} if rejected or message else {})
    content = number(0x08, rejected) + text(0x12, message)
    return part(0x0A, content) if content else b""


def failure(json: bool, status: int, message: str) -> bytes:
    """The body of a 4xx or 5xx: a ``google.rpc.Status`` with the code that stands for the HTTP ``status``."""
    code = _CODES.get(status, 13 if status >= 500 else 9)
    if json:
        return msgspec.json.encode({"code": code, "message": _mended(message)})
    return number(0x08, code) + text(0x12, message)


def _mended(message: str) -> str:
    return message.encode("utf-8", "replace").decode()


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int | str | None = None
    rejected_data_points: int | str | None = None
    error_message: str | None = None


class _Body(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None
    code: int | None = None
    message: str | None = None


_body = msgspec.json.Decoder(_Body)


def read(body: bytes, json: bool, ok: bool) -> Reply:
    """What a receiver answered, ``ok`` being whether with a 2xx. Raises ``Invalid`` for what cannot be read."""
    try:
        if json:
            return _from_json(body)
        return _from_protobuf(body) if ok else Reply(0, *_pair(body))
    except (IndexError, StructError):
        raise broken("it ends too early") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Invalid("This is no OTLP reply in JSON.", code=CODE) from None


def _from_json(body: bytes) -> Reply:
    found = _body.decode(body) if body.strip() else _Body()
    partial = found.partial_success or _Partial()
    rejected = int(partial.rejected_spans or partial.rejected_data_points or 0)
    return Reply(max(rejected, 0), partial.error_message or found.message or "", found.code or 0)


def _from_protobuf(body: bytes) -> Reply:
    reply, at = Reply(), 0
    while at < len(body):
        tag = body[at]
        if tag == 0x0A:
            at, stop = read_length(body, at + 1, len(body))
            message, rejected = _pair(body[at:stop])
            reply = Reply(max(rejected, 0), message)
            at = stop
        else:
            at = skip(body, at + 1, len(body), tag)
    return reply


def _pair(body: bytes) -> tuple[str, int]:
    """The text and the number of a partial success or of a status, which are numbered alike."""
    found, message, at = 0, "", 0
    while at < len(body):
        tag = body[at]
        if tag == 0x08:
            raw, at = read_varint(body, at + 1)
            found = signed(raw)
        elif tag == 0x12:
            at, stop = read_length(body, at + 1, len(body))
            message = str(body[at:stop], "utf-8", "replace")
            at = stop
        else:
            at = skip(body, at + 1, len(body), tag)
    return message, found
