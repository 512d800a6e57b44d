"""Which HTTP status each error is: the only place that knows."""

from __future__ import annotations

from mainstay.core.errors import (
    BadConfig,
    Conflict,
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

_STATUSES: tuple[tuple[type[MainstayError], int], ...] = (
    (Invalid, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TooLarge, 413),
    (BadConfig, 422),
    (OverLimit, 429),
    (Unavailable, 503),
)

_FAILED = {"timeout": 504, "cut": 502, "unreadable": 502, "too_large": 502, "auth": 503, "connect": 503}


def status_of(error: BaseException) -> int:
    """The status of a reply that says ``error``; 500 for what is no error of ours."""
    if isinstance(error, UpstreamFailed):
        own = _FAILED.get(error.kind)
        if own is not None:
            return own
        if error.status is not None and 400 <= error.status <= 599:
            return error.status
        return {"rate_limit": 429, "context_length": 400, "content_filter": 400, "invalid": 400}.get(error.kind, 503)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return 500


def retry_after(error: BaseException, status: int) -> str | None:
    """The value of ``retry-after`` in whole seconds; every 429 and 503 has one."""
    wait = getattr(error, "retry_after", None)
    if wait is None:
        if status not in (429, 503):
            return None
        wait = 1.0
    return str(max(1, -int(-wait // 1)))
