"""Errors of Anthropic's Messages API: the upstream's read, the caller's written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import FailureKind, Invalid, MainstayError, Unavailable, UpstreamFailed

_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_KINDS: dict[str, FailureKind] = {
    "invalid_request_error": "invalid",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "quota",
    "not_found_error": "not_found",
    "request_too_large": "context_length",
    "rate_limit_error": "rate_limit",
    "timeout_error": "timeout",
    "api_error": "server_error",
    "overloaded_error": "overloaded",
}

_STATUS_KINDS: dict[int, FailureKind] = {
    401: "auth",
    402: "quota",
    403: "auth",
    404: "not_found",
    408: "timeout",
    413: "context_length",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

_KIND_TYPES: dict[str, str] = {
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "auth": "authentication_error",
    "not_found": "not_found_error",
    "context_length": "invalid_request_error",
    "content_filter": "invalid_request_error",
    "invalid": "invalid_request_error",
    "quota": "billing_error",
}

# What only the words of a message tell, most telling first.
_WORDS: tuple[tuple[str, FailureKind], ...] = (
    ("prompt is too long", "context_length"),
    ("exceed context limit", "context_length"),
    ("exceeds the context window", "context_length"),
    ("exceeds the maximum context", "context_length"),
    ("credit balance", "quota"),
    ("spend limit", "quota"),
    ("api usage limits", "quota"),
    ("content filtering policy", "content_filter"),
)

_FIELD = re.compile(r"^([a-z_]+(?:\.[A-Za-z0-9_-]+)*): ")
_EXCERPT = 500


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Body(msgspec.Struct):
    error: _Error
    request_id: str | None = None


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def read_error(status: int, headers: Mapping[str, str], body: bytes, clock: Clock) -> UpstreamFailed:
    """An error reply as what it means for us. Header names are in lower case."""
    try:
        error = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _Error()
    kind = failure_kind(error.type, error.message, status)
    if error.message:
        message = error.message
    else:
        message = f"the provider answered with status {status} and no readable error"
        if body:
            message += f": {body[:_EXCERPT].decode(errors='replace')}"
    if kind == "auth":  # the provider's words may repeat a part of the key
        message = f"the provider refused its key ({error.type or status}); check the provider's api_key"
    found = _FIELD.match(message) if kind == "invalid" else None
    return UpstreamFailed(
        kind,
        message,
        status=status,
        retry_after=retry_after(headers, clock),
        body=body,
        content_type=headers.get("content-type", "application/json"),
        dialect="anthropic",
        provider_code=error.type,
        field=None if found is None else found[1],
    )


def failure_kind(type: str | None, message: str | None, status: int | None = None) -> FailureKind:
    """The kind of a failure from Anthropic's word for it, what its message says, and the status if there is one."""
    kind = _KINDS.get(type or "")
    if kind is None and status is not None:
        kind = _STATUS_KINDS.get(status) or ("server_error" if status >= 500 else "invalid")
    if kind is None or (kind == "server_error" and status in (503, 529)):
        kind = "overloaded" if status in (503, 529) else "server_error"
    if message and kind in ("invalid", "rate_limit", "context_length"):
        said = message.lower()
        for words, meant in _WORDS:
            if words in said:
                return meant
    return kind


def retry_after(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or an HTTP date); None if not said."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            seconds = _until(value, headers.get("date"), clock) if unit == 1.0 else -1.0
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _until(date: str, sent: str | None, clock: Clock) -> float:
    try:
        then = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return -1.0
    now = clock.now()
    if sent is not None:
        try:
            now = parsedate_to_datetime(sent).timestamp()  # the provider's own clock, which may differ from ours
        except (ValueError, TypeError, OverflowError):
            pass
    return max(0.0, then - now)


def write_error(error: MainstayError, status: int, request_id: str | None = None) -> bytes:
    """The body of an error reply; an Anthropic provider's own body is passed on."""
    if isinstance(error, UpstreamFailed) and error.dialect == "anthropic" and error.body and error.kind != "auth":
        try:
            _decode(error.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        else:
            return error.body
    type = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return _encode(_shape(type, _sentence(error), request_id))


def stream_error(error: MainstayError) -> bytes:
    """The event that says inside a stream that it broke off."""
    if isinstance(error, UpstreamFailed):
        return error_event(error.kind, error.message)
    type = "overloaded_error" if isinstance(error, Unavailable) else "api_error"
    return b"event: error\ndata: %b\n\n" % _encode(_shape(type, _sentence(error)))


def error_event(kind: str, message: str) -> bytes:
    """The event for a failure of that kind."""
    return b"event: error\ndata: %b\n\n" % _encode(_shape(_KIND_TYPES.get(kind, "api_error"), message))


def _sentence(error: MainstayError) -> str:
    field = error.field if isinstance(error, Invalid) else None
    return error.message if not field or field in error.message else f"{field}: {error.message}"


def _shape(type: str, message: str, request_id: str | None = None) -> dict[str, object]:
    shape: dict[str, object] = {"type": "error", "error": {"type": type, "message": message}}
    if request_id is not None:
        shape["request_id"] = request_id
    return shape
