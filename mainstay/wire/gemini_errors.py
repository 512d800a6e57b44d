"""Error bodies of Google's interfaces: what they mean, and how they are written."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgspec

from mainstay.core.errors import FailureKind, MainstayError

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The names that Google's interfaces give to statuses."""
_KINDS: dict[str, FailureKind] = {
    "INVALID_ARGUMENT": "invalid",
    "FAILED_PRECONDITION": "invalid",
    "OUT_OF_RANGE": "invalid",
    "UNIMPLEMENTED": "invalid",
    "UNAUTHENTICATED": "auth",
    "PERMISSION_DENIED": "auth",
    "NOT_FOUND": "not_found",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "timeout",
    "INTERNAL": "server_error",
    "UNKNOWN": "server_error",
    "ABORTED": "server_error",
    "CANCELLED": "server_error",
    "DATA_LOSS": "server_error",
}


class ErrorStatus(msgspec.Struct):
    """What stands under ``error``."""

    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[dict[str, Any]] | None = None


class _Body(msgspec.Struct):
    error: ErrorStatus


_decoder: msgspec.json.Decoder[_Body | list[_Body]] = msgspec.json.Decoder(_Body | list[_Body])


class GoogleError(NamedTuple):
    """An error body of Google's: what it means to us, and what it says."""

    kind: FailureKind
    message: str
    status: str | None
    retry_after: float | None
    field: str | None


def read_error_body(body: bytes, status: int | None) -> GoogleError | None:
    """What an error body means, by its own status and else by the HTTP ``status``; None if it is not Google's."""
    try:
        decoded = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(decoded, list):
        if not decoded:
            return None
        decoded = decoded[0]
    return meaning(decoded.error, status)


def meaning(error: ErrorStatus, status: int | None) -> GoogleError:
    """What ``error`` means, by its own status and else by the HTTP ``status``."""
    code = error.code if error.code is not None else status
    name = error.status if error.status in _KINDS else STATUSES.get(code or 0)
    message = error.message or name or "the provider reports an error without words"
    kind: FailureKind = _KINDS.get(name or "", "server_error" if (code or 500) >= 500 else "invalid")
    retry_after: float | None = None
    field: str | None = None
    for detail in error.details or ():
        what = str(detail.get("@type", "")).rpartition(".")[2]
        if what == "RetryInfo":
            retry_after = _seconds(detail.get("retryDelay"))
        elif what == "ErrorInfo" and detail.get("reason") == "API_KEY_INVALID":
            kind = "auth"
        elif what == "QuotaFailure" and kind == "rate_limit" and "PerDay" in msgspec.json.encode(detail).decode():
            kind = "quota"
        elif what == "BadRequest":
            field = _violated(detail.get("fieldViolations"))
    lower = message.lower()
    if kind == "invalid" and (
        "token count" in lower or "context length" in lower or ("tokens" in lower and "exceed" in lower)
    ):
        kind = "context_length"
    elif kind == "invalid" and "api key" in lower:
        kind = "auth"
    return GoogleError(kind, message, error.status, retry_after, field)


def _violated(violations: Any) -> str | None:
    first: Any = cast("list[Any]", violations)[0] if isinstance(violations, list) and violations else None
    return str(cast("dict[str, Any]", first).get("field") or "") or None if isinstance(first, dict) else None


def _seconds(duration: Any) -> float | None:
    """Google's JSON form of a duration, such as ``17s`` or ``0.25s``."""
    try:
        return max(0.0, float(str(duration).removesuffix("s")))
    except ValueError:
        return None


def write_error(error: MainstayError, status: int) -> bytes:
    """The body of an error reply in Google's shape."""
    named = STATUSES.get(status) or ("INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return msgspec.json.encode({"error": {"code": status, "message": error.message, "status": named}})
