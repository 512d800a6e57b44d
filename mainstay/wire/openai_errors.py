"""Errors in OpenAI's shape, and what those of OpenAI and of the many who copy it mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, cast

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import (
    FailureKind,
    Forbidden,
    Invalid,
    MainstayError,
    NotFound,
    OverLimit,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)

MESSAGE = 2000
"""Characters of a provider's message that are passed on."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_AUTH = re.compile(
    r"(incorrect|invalid|missing|no|expired|revoked) (api[ _-]?key|authentication|bearer|access token)"
    r"|api key not valid|invalid_api_key|not authenticated"
)
_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credit|funds)|exceeded your current quota|credit balance|billing[_ ]|out of credits"
    r"|payment required|used all available credits|spending limit|monthly spend"
)
_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum (context|number of tokens|prompt|input|sequence)"
    r"|prompt is too long|prompt too long"
    r"|input is too long|too many (input )?tokens|reduce the length"
    r"|exceeds? (the )?(model|maximum|max|limit|available).{0,60}(context|token|length)"
    r"|longer than the (model|maximum)|max_new_tokens. must be|max_input_tokens|input token count"
    r"|prompt contains \d+ tokens|range of input length"
)
_FILTER = re.compile(
    r"content[_ -]?(filter|policy|management|moderation|safety)|responsibleai|moderation_blocked|safety system"
    r"|data_inspection_failed|content exists risk|flagged|usage policies|usage guidelines|safety_check|prohibited content"
)
_NO_MODEL = re.compile(
    r"model_not_found|deploymentnotfound|unknown_model|model_not_available|invalid_model\b"
    r"|model\b.{0,200}\b(does not exist|not found|is not available|do(es)? not have access|isn't available)"
    r"|no such model|unknown model|invalid model\b|model .{0,100}decommissioned|not a valid model"
)
_BUSY = re.compile(
    r"overloaded|engine_overloaded|at capacity|capacity[_ ]exceeded|is (currently )?loading|server is busy|no instances"
)
_RATE = re.compile(
    r"rate[_ ]?limit|too many requests|tokens per (min|day)|requests per (min|day)|\((tpm|rpm|tpd|rpd)\)|throttl"
)
_AGAIN = re.compile(
    r"(?:try|retry)(?: your request)? (?:again )?(?:in|after) ((?:\d+(?:\.\d+)?(?:ms|[smh]|(?= seconds?)))+)",
    re.IGNORECASE,
)
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|[smh])?")
_SCALE = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}

_CODES: dict[FailureKind, tuple[str, str]] = {
    "rate_limit": ("rate_limit_error", "rate_limit_exceeded"),
    "overloaded": ("server_error", "overloaded"),
    "server_error": ("server_error", "upstream_server_error"),
    "connect": ("server_error", "upstream_connect"),
    "timeout": ("server_error", "upstream_timeout"),
    "cut": ("server_error", "upstream_cut"),
    "unreadable": ("server_error", "upstream_unreadable"),
    "too_large": ("server_error", "upstream_too_large"),
    "auth": ("server_error", "upstream_auth"),
    "not_found": ("invalid_request_error", "model_not_found"),
    "context_length": ("invalid_request_error", "context_length_exceeded"),
    "content_filter": ("invalid_request_error", "content_filter"),
    "invalid": ("invalid_request_error", "upstream_invalid"),
    "quota": ("insufficient_quota", "insufficient_quota"),
}
_TYPES: tuple[tuple[type[MainstayError], str], ...] = (
    (Unauthenticated, "authentication_error"),
    (Forbidden, "permission_error"),
    (NotFound, "invalid_request_error"),
    (OverLimit, "rate_limit_error"),
    (TooLarge, "invalid_request_error"),
    (Invalid, "invalid_request_error"),
    (Unavailable, "server_error"),
)


class Said(NamedTuple):
    """A provider's error, whatever the shape in which it was written down."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str | None = None
    status: int | None = None  # a status named inside the body

    @property
    def words(self) -> str:
        """Everything by which its meaning can be recognised, in lower case."""
        return f"{self.code} {self.type} {self.message}".lower()


def said(value: Any) -> Said | None:
    """The error in a decoded error body or stream chunk; None if ``value`` holds none.

    Reads OpenAI's ``{"error": {…}}``, Azure's with ``innererror``, vLLM's ``{"object": "error", …}``, FastAPI's
    ``{"detail": …}``, ``{"errors": […]}``, ``{"message": …}`` and a mere string.
    """
    if not isinstance(value, dict):
        return None
    body = cast(dict[str, Any], value)
    for name in ("error", "errors", "detail"):
        error = body.get(name)
        if not error:
            continue
        if isinstance(error, list):
            error = cast(list[Any], error)[0]
        if isinstance(error, dict):
            return _read(cast(dict[str, Any], error), body)
        return Said(_text(error), _text(body.get("code")), _text(body.get("type")))
    if isinstance(body.get("message"), str | dict) and "choices" not in body:
        return _read(body, body)
    return None


def _read(error: dict[str, Any], body: dict[str, Any]) -> Said:
    message = error.get("message", error.get("msg"))
    code = _text(error.get("code", body.get("code")))
    for inner in (error.get("innererror"), error.get("inner_error"), error.get("metadata"), error.get("details")):
        if isinstance(inner, dict):
            found = cast(dict[str, Any], inner)
            code += "".join(f" {word}" for key in ("code", "type", "raw") if (word := _text(found.get(key))))
            if found.get("reasons") is not None and "flagged_input" in found:
                code += " content_filter"  # OpenRouter's moderation
    status = next((n for n in (error.get("code"), error.get("status_code"), body.get("status")) if _is_status(n)), None)
    param = error.get("param")
    return Said(
        _text(message),
        code.strip()[:MESSAGE],
        _text(error.get("type", body.get("type"))),
        param if isinstance(param, str) else None,
        status,
    )


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, dict | list) else str(value)


def kind_of(status: int | None, error: Said) -> FailureKind:
    """What went wrong, from the status (None inside a stream) and the provider's own words."""
    words = error.words
    if status is None:
        status = error.status or 0
    limited = status == 429 or _RATE.search(words) is not None
    if status in (401, 402, 403) or (status in (0, 400, 422) and _AUTH.search(words)):
        return _denied(status, words)
    if status in (0, 400, 429) and _QUOTA.search(words) and "retry in" not in words:
        return "quota"
    if limited and status in (0, 413, 429):
        return "rate_limit"
    if status == 404:
        return "not_found"
    if status >= 500 or status == 0:
        return _broken(status, words)
    if status == 408:
        return "timeout"
    if _FILTER.search(words):
        return "content_filter"
    if _CONTEXT.search(words):
        return "context_length"
    if _NO_MODEL.search(words):
        return "not_found"
    return "invalid" if status >= 400 else "unreadable"


def _denied(status: int, words: str) -> FailureKind:
    if status == 402 or _QUOTA.search(words):
        return "quota"
    if status == 403 and _FILTER.search(words):
        return "content_filter"
    if status == 403 and _NO_MODEL.search(words):
        return "not_found"
    if status == 403 and _RATE.search(words):
        return "rate_limit"
    return "auth"


def _broken(status: int, words: str) -> FailureKind:
    # Some answer 500 to what is the caller's mistake; inside a stream there is no status at all.
    if _FILTER.search(words):
        return "content_filter"
    if _CONTEXT.search(words):
        return "context_length"
    if status in (503, 529, 498) or _BUSY.search(words):
        return "overloaded"
    if status == 0 and "invalid_request" in words:
        return "not_found" if _NO_MODEL.search(words) else "invalid"
    return "server_error"


def read_error(status: int, headers: Mapping[str, str], body: bytes, clock: Clock, dialect: str) -> UpstreamFailed:
    """What an upstream's error reply means; header names are in lower case.

    The body is kept for a caller of the same dialect if it is a JSON object, and never if our key was refused: such
    a body may quote the key, and the caller could take it for a word about its own.
    """
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    error = said(value)
    if error is None:
        error = Said(_plain(body) if value is None else "")
    kind = kind_of(status, error)
    if kind == "auth":
        message = f"the provider refused the key that is configured for it (status {status})"
    else:
        message = error.message[:MESSAGE] or f"the provider answered with status {status}"
    return UpstreamFailed(
        kind,
        message,
        status=status,
        retry_after=retry_after(headers, clock, error.message if status in (429, 503) else ""),
        body=body if isinstance(value, dict) and kind != "auth" else None,
        content_type=headers.get("content-type", "application/json"),
        dialect=dialect,
        provider_code=(error.code or error.type or None),
        field=error.param,
    )


def _plain(body: bytes) -> str:
    """A short plain-text body as it is; of markup, its title."""
    text = body[:4096].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
        text = title[1].strip() if title else ""
    return text[:300]


def retry_after(headers: Mapping[str, str], clock: Clock, message: str = "") -> float | None:
    """In how many seconds the provider wants to be asked again, or None if it does not say.

    Reads ``retry-after-ms``, ``retry-after`` (seconds, or a date, taken relative to the reply's own ``date``), and
    OpenAI's "try again in 1.5s".
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if said:
        seconds = _number(said)
        if seconds is not None:
            return seconds
        at, now = _date(said), _date(headers.get("date"))
        if at is not None:
            return max(0.0, at - (clock.now() if now is None else now))
    again = _AGAIN.search(message)
    if again is None:
        return None
    return sum(float(number) * _SCALE[unit] for number, unit in _PIECE.findall(again[1]))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def error_object(error: MainstayError) -> dict[str, Any]:
    """``error`` as the inner object of OpenAI's error shape."""
    field: str | None = None
    if isinstance(error, UpstreamFailed):
        type_, code = _CODES[error.kind]
        field = error.field
        if error.kind in ("invalid", "content_filter") and error.provider_code:
            code = error.provider_code
    else:
        type_ = next((name for kind, name in _TYPES if isinstance(error, kind)), "server_error")
        code = error.code
        if isinstance(error, NotFound) and code == "not_found":
            code = "model_not_found"
        if isinstance(error, Invalid | NotFound):
            field = error.field
    return {"message": error.message, "type": type_, "param": field, "code": code}


def write_error(error: MainstayError, dialect: str) -> bytes:
    """The body of an error reply: the provider's own where it speaks ``dialect``, else ours in the same shape."""
    if isinstance(error, UpstreamFailed) and error.body is not None and error.dialect == dialect:
        return error.body
    return _encode({"error": error_object(error)})
