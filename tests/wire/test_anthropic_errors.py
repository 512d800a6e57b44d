"""Errors of the Messages API, read from upstreams and written for callers."""

from __future__ import annotations

import json

import pytest
from anthropic.types import ErrorResponse

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, MainstayError, NotFound, Unauthenticated, Unsupported, UpstreamFailed
from mainstay.wire.anthropic import Anthropic

DIALECT = Anthropic(FixedClock(1_800_000_000.0))


def body(type: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}).encode()


@pytest.mark.parametrize(
    ("status", "type", "message", "kind"),
    [
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", "context_length"),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 9", "context_length"),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API", "quota"),
        (400, "invalid_request_error", "You have reached your specified API usage limits.", "quota"),
        (400, "invalid_request_error", "Output blocked by content filtering policy", "content_filter"),
        (400, "invalid_request_error", "messages.0.content: Field required", "invalid"),
        (401, "authentication_error", "invalid x-api-key", "auth"),
        (402, "billing_error", "payment needed", "quota"),
        (403, "permission_error", "not yours", "auth"),
        (404, "not_found_error", "model: claude-0", "not_found"),
        (413, "request_too_large", "Request exceeds the maximum size", "context_length"),
        (429, "rate_limit_error", "This request would exceed your rate limit", "rate_limit"),
        (500, "api_error", "Internal server error", "server_error"),
        (503, "api_error", "later", "overloaded"),
        (504, "timeout_error", "timed out", "timeout"),
        (529, "overloaded_error", "Overloaded", "overloaded"),
    ],
)
def test_what_an_error_means(status: int, type: str, message: str, kind: str) -> None:
    failure = DIALECT.read_error(status, {"content-type": "application/json"}, body(type, message))
    assert failure.kind == kind
    assert (failure.status, failure.provider_code, failure.dialect) == (status, type, "anthropic")
    assert failure.body == body(type, message)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid"),
        (401, "auth"),
        (404, "not_found"),
        (413, "context_length"),
        (429, "rate_limit"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "overloaded"),
        (504, "timeout"),
        (529, "overloaded"),
    ],
)
def test_the_status_speaks_where_the_body_is_unreadable(status: int, kind: str) -> None:
    failure = DIALECT.read_error(status, {}, b"<html>Bad gateway</html>")
    assert failure.kind == kind
    assert kind == "auth" or "Bad gateway" in failure.message


def test_the_key_is_not_repeated() -> None:
    failure = DIALECT.read_error(401, {}, body("authentication_error", "invalid x-api-key: sk-ant-SECRET"))
    assert "SECRET" not in failure.message
    assert b"SECRET" not in DIALECT.write_error(failure, 502)


def test_the_field_is_named() -> None:
    failure = DIALECT.read_error(400, {}, body("invalid_request_error", "max_tokens: 9 > 8, the maximum"))
    assert failure.field == "max_tokens"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        # The provider's own clock, an hour behind ours.
        ({"retry-after": "Fri, 15 Jan 2027 07:00:30 GMT", "date": "Fri, 15 Jan 2027 07:00:10 GMT"}, 20.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "whenever"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert DIALECT.read_error(429, headers, b"").retry_after == seconds


@pytest.mark.parametrize(
    ("status", "type"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_the_type_for_a_status(status: int, type: str) -> None:
    written = DIALECT.write_error(MainstayError("what to do"), status, "call_1")
    assert json.loads(written) == {
        "type": "error",
        "error": {"type": type, "message": "what to do"},
        "request_id": "call_1",
    }
    if type != "request_too_large":  # which the SDK's own types do not list
        assert ErrorResponse.model_validate_json(written).error.message == "what to do"


def test_the_field_stands_in_the_message() -> None:
    for error in (Invalid("must be positive", field="max_tokens"), Unsupported("no", field="seed")):
        assert error.field is not None
        assert json.loads(DIALECT.write_error(error, 400))["error"]["message"].startswith(error.field + ": ")
    named = Invalid("max_tokens: Field required", field="max_tokens")
    assert json.loads(DIALECT.write_error(named, 400))["error"]["message"] == "max_tokens: Field required"


def test_a_provider_of_the_same_format_is_quoted() -> None:
    said = body("invalid_request_error", "messages.0: bad")
    assert DIALECT.write_error(DIALECT.read_error(400, {}, said), 400) == said
    other = UpstreamFailed("invalid", "no", status=400, body=b'{"error":{"message":"x"}}', dialect="openai")
    assert json.loads(DIALECT.write_error(other, 400))["error"] == {"type": "invalid_request_error", "message": "no"}
    page = DIALECT.read_error(502, {}, b"<html>")
    assert json.loads(DIALECT.write_error(page, 502))["error"]["type"] == "api_error"


def test_our_own_errors() -> None:
    assert json.loads(DIALECT.write_error(Unauthenticated("no key"), 401))["error"]["type"] == "authentication_error"
    assert json.loads(DIALECT.write_error(NotFound("no model"), 404))["error"]["type"] == "not_found_error"
