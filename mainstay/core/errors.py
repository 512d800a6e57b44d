"""The one tree of errors; each has a code and a sentence that says what to do next.

::

    MainstayError
    ├── Refused                  the caller can mend it
    │   ├── Invalid              a field is missing or wrong                          (400)
    │   │   └── Unsupported      no target of this route can express a field          (400)
    │   ├── Unauthenticated      no key, or one that is unknown, expired or revoked   (401)
    │   ├── Forbidden            the key may not do this                              (403)
    │   ├── NotFound             no such model, route, response, resource             (404)
    │   ├── Conflict             the state it would change is another one             (409)
    │   ├── TooLarge             a body or header over its limit                      (413)
    │   ├── OverLimit            a rate limit, concurrency limit or budget            (429)
    │   └── BadConfig            a bundle or setting with a mistake (file and line)   (422)
    ├── Unavailable              Mainstay cannot take it now: shed, draining, disk    (503)
    └── UpstreamFailed           a provider did not answer as it should               (its own, or 502/503/504)

Only ``edge`` turns an error into a status.
"""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "rate_limit",  # 429: wait or go elsewhere
    "overloaded",  # 503, 529: go elsewhere
    "server_error",  # other 5xx
    "connect",  # no connection, or reset before the reply began
    "timeout",  # one of the phases took too long
    "cut",  # the reply stopped before its end
    "unreadable",  # the reply is not what its wire format says
    "too_large",  # the reply is over our limits
    "auth",  # the provider refused our key
    "not_found",  # the provider does not know the model
    "context_length",  # the request is too long for this model
    "content_filter",  # the provider refuses to answer this content
    "invalid",  # the provider calls the request wrong
    "quota",  # the account with the provider is used up
]


class MainstayError(Exception):
    """The root. ``code`` is stable and machine-readable; ``message`` is for a person and has no secret in it."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Refused(MainstayError):
    """The caller can mend it; nothing was asked of a provider."""

    code = "refused"


class Invalid(Refused):
    """A field is missing or has a wrong value; ``field`` is its path in the caller's own terms."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class Unsupported(Invalid):
    """``field`` would change the answer and the target has no way to say it."""

    code = "unsupported_field"


class Unauthenticated(Refused):
    """No key, or one that does not open anything."""

    code = "invalid_api_key"


class Forbidden(Refused):
    """The key is good, but not for this."""

    code = "forbidden"


class NotFound(Refused):
    """Nothing of that name, as far as the caller may know; ``field`` is where the request names it."""

    code = "not_found"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class Conflict(Refused):
    """The change was made against a state that is no longer there."""

    code = "conflict"


class TooLarge(Refused):
    """Over a limit of size."""

    code = "request_too_large"


class OverLimit(Refused):
    """A limit or budget is used up; ``retry_after`` is in seconds, ``rule`` the limit's name."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float, rule: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
        self.rule = rule


class BadConfig(Refused):
    """Mistakes in a bundle, each as ``file:line: sentence``."""

    code = "invalid_configuration"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Unavailable(MainstayError):
    """Mainstay cannot take the request now; try again after ``retry_after`` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class UpstreamFailed(MainstayError):
    """A provider failed. ``status`` is the provider's own or None; ``body`` its error body, in ``dialect``.

    ``retry_after`` is what the provider asked for, in seconds. ``sent`` tells whether the request may have
    reached the provider, so that it may have produced (and charged for) something.
    """

    code = "upstream_failed"

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        dialect: str | None = None,
        provider_code: str | None = None,
        field: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message, code=f"upstream_{kind}")
        self.kind: FailureKind = kind
        self.status = status
        self.retry_after = retry_after
        self.body = body
        self.content_type = content_type
        self.dialect = dialect
        self.provider_code = provider_code
        self.field = field
        self.sent = sent
