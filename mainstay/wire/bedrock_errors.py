"""Errors of Bedrock's runtime, as replies and inside event streams: what they mean, and how they are written."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from mainstay.core.errors import FailureKind, MainstayError

_KINDS: dict[str, FailureKind] = {
    "throttling": "rate_limit",
    "toomanyrequests": "rate_limit",
    "limitexceeded": "rate_limit",
    "requestlimitexceeded": "rate_limit",
    "servicequotaexceeded": "quota",
    "validation": "invalid",
    "serialization": "invalid",
    "conflict": "invalid",
    "accessdenied": "auth",
    "unrecognizedclient": "auth",
    "expiredtoken": "auth",
    "invalidsignature": "auth",
    "signaturedoesnotmatch": "auth",
    "incompletesignature": "auth",
    "missingauthenticationtoken": "auth",
    "invalidclienttokenid": "auth",
    "unauthorized": "auth",
    "notauthorized": "auth",
    "optinrequired": "auth",
    "resourcenotfound": "not_found",
    "unknownoperation": "not_found",
    "modeltimeout": "timeout",
    "requesttimeout": "timeout",
    "modelnotready": "overloaded",
    "serviceunavailable": "overloaded",
    "modelstreamerror": "server_error",
    "modelerror": "server_error",
    "internalserver": "server_error",
    "internalfailure": "server_error",
}
_STATUSES: dict[int, FailureKind] = {
    401: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    413: "context_length",
    424: "server_error",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
}
_TYPES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    413: "ValidationException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_TOO_LONG = re.compile(
    r"too long|too many (input )?tokens(?! per)|context (length|window)|maximum (context|number of tokens|input)"
    r"|exceeds? (the )?(context|maximum|max)|input length and|too large for model",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model identifier is invalid|end of its life|model .{0,80}not (found|supported in this region)", re.I
)
_DAILY = re.compile(r"per day|daily", re.IGNORECASE)
_FILTERED = re.compile(r"content filter|blocked by", re.IGNORECASE)


class AwsError(NamedTuple):
    """What an error of AWS means to us, what it says, and its type in AWS's words."""

    kind: FailureKind
    message: str
    type: str | None


class _Body(msgspec.Struct):
    message: str | None = None
    Message: str | None = None
    type_: str | None = msgspec.field(name="__type", default=None)
    code: str | None = None
    originalMessage: str | None = None
    originalStatusCode: int | None = None


_decoder = msgspec.json.Decoder(_Body)


def read_error_body(named: str, body: bytes, status: int | None) -> AwsError:
    """What an error means; ``named`` is its type from a header, where there is one."""
    try:
        said = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = _Body()
    # The header may hold more than the name: "ThrottlingException:http://…", the body "com.amazon…#Throttling…".
    name = (named or said.type_ or said.code or "").split(":")[0].rpartition("#")[2].strip()
    message = said.message or said.Message or said.originalMessage or ""
    short = name.lower().removesuffix("exception").removesuffix("error").removesuffix("exception")
    full = name.lower().removesuffix("exception")
    kind = _KINDS.get(full) or _KINDS.get(short)
    if kind is None:
        kind = _STATUSES.get(status or 0, "server_error" if (status or 500) >= 500 else "invalid")
    if kind == "server_error" and said.originalStatusCode == 429:
        kind = "rate_limit"
    elif kind == "rate_limit" and _DAILY.search(message):
        kind = "quota"
    elif kind == "invalid" or (kind == "server_error" and said.originalStatusCode == 400):
        if _TOO_LONG.search(message):
            kind = "context_length"
        elif _NO_MODEL.search(message):
            kind = "not_found"
        elif _FILTERED.search(message):
            kind = "content_filter"
    return AwsError(kind, message or name or f"the provider answered with status {status}", name or None)


def error_type(status: int) -> str:
    """The exception that Bedrock's runtime would name for ``status``."""
    return _TYPES.get(status, "ValidationException" if status < 500 else "InternalServerException")


def write_error(error: MainstayError, status: int) -> bytes:
    """The body of an error reply in AWS's shape."""
    return msgspec.json.encode({"__type": error_type(status), "message": error.message})
