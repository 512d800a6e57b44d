"""One pipeline: every control acts on every endpoint of the model API, plain and streamed, and each call is recorded once."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from mainstay.edge.model_api import ENDPOINTS
from tests.conformance.asks import ASKS, CASES, answers
from tests.provider import Asked, Provider, Wire, status
from tests.running import KEY, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 64 * 1024
CANARY = {
    "key": "ms-canary-of-the-key-5f1d",
    "provider key": "sk-canary-of-the-provider-77aa",
    "prompt": "canary-of-the-prompt-c0ffee",
    "reply": "canary-of-the-reply-facade",
}
TYPES = {  # the error types that each dialect has for a status
    "openai": {
        400: "invalid_request_error",
        401: "authentication_error|invalid_request_error",
        403: "permission_error|invalid_request_error",
        404: "invalid_request_error|not_found_error",
        413: "invalid_request_error|request_too_large",
        429: "rate_limit_error|rate_limit_exceeded|requests|tokens|insufficient_quota",
        503: "api_error|server_error|service_unavailable_error|overloaded_error",
    },
    "anthropic": {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "api_error|overloaded_error",
    },
}
TYPES["openai-responses"] = TYPES["openai"]


class Control(NamedTuple):
    """One thing that stands in the way, and how it shows."""

    name: str
    status: int
    outcome: str
    error: str  # the record's code
    model: str = "good"
    key: str | None = KEY
    change: Callable[[bytes], bytes] | None = None
    code: str | None = None  # the error body's own code, where the dialect has codes
    attempts: int = 0


CONTROLS = [
    Control("no key", 401, "refused", "invalid_api_key", key=None, code="invalid_api_key"),
    Control("unknown key", 401, "refused", "invalid_api_key", key="ms-nobody", code="invalid_api_key"),
    Control("revoked model", 403, "refused", "model_not_allowed", key="ms-narrow", code="model_not_allowed"),
    Control("unknown model", 404, "refused", "model_not_found", model="nobody", code="model_not_found"),
    Control("malformed body", 400, "refused", "", change=lambda body: body[:-3]),
    Control("no body", 400, "refused", "", change=lambda body: b""),
    Control("oversized", 413, "refused", "request_too_large", change=lambda body: body + b" " * LIMIT),
    Control("over its rate", 429, "refused", "rate_limit_exceeded", key="ms-slow"),
    Control("over its budget", 429, "refused", "", key="ms-poor", model="dear"),
    Control("provider down", 503, "failed", "upstream_connect", model="no-way", attempts=1),
    Control("provider's key refused", 503, "failed", "upstream_auth", model="locked", attempts=1),
]


@dataclass
class Stage:
    server: Server
    provider: Provider
    client: httpx.AsyncClient
    sent: dict[str, tuple[Control | None, str, bool, int]] = field(default_factory=dict)
    """By call id: what was asked, and with which status it was answered."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async def locked(wire: Wire, asked: Asked) -> None:
        """Refuses our key, and repeats it, as providers do."""
        shown = asked.headers["authorization"].removeprefix("Bearer ")
        error = {
            "message": f"Incorrect API key provided: {shown}.",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
        await wire.plain(401, json.dumps({"error": error}).encode())

    async with (
        Provider(answers(CANARY["reply"])) as provider,
        Provider(locked) as refusing,
        Provider(status(500)) as gone,
    ):
        down = gone.url
        await gone.__aexit__()
        made = {"wire": "openai", "api_key": CANARY["provider key"]}
        price = {"input": 1, "output": 2}
        closed = {"failures": 1000, "min_calls": 1000}  # breakers stay out of this
        document: dict[str, Any] = {
            "providers": [
                {"name": "up", "base_url": f"{provider.url}/v1", **made},
                {"name": "gone", "base_url": f"{down}/v1", **made},
                {"name": "locked", "base_url": f"{refusing.url}/v1", **made},
            ],
            "models": [
                {"name": "good", "target": "up/gpt-4o-mini", "price": price},
                {"name": "dear", "target": "up/gpt-4o", "price": {"input": 1e6, "output": 1e6}, "max_call_usd": 100},
                {"name": "down", "target": "gone/gpt-4o-mini", "price": price, "breaker": closed},
                {"name": "locked", "target": "locked/gpt-4o-mini", "price": price, "breaker": closed},
            ],
            "routes": [{"name": "no-way", "to": "down", "retry": {"attempts": 1}}],
            "teams": [{"name": "tests"}],
            "keys": [
                {"name": "tests", "team": "tests", "secret": "${TEST_KEY}", "admin": True},
                {"name": "canary", "team": "tests", "secret": CANARY["key"]},
                {"name": "narrow", "team": "tests", "secret": "ms-narrow", "models": ["down"]},
                {"name": "slow", "team": "tests", "secret": "ms-slow", "limits": {"requests_per_minute": 1}},
                {
                    "name": "limited",
                    "team": "tests",
                    "secret": "ms-limited",
                    "limits": {"requests_per_minute": 600, "tokens_per_minute": 100000, "concurrent": 5},
                },
                {"name": "poor", "team": "tests", "secret": "ms-poor", "budget": {"usd": 0.000001, "per": "day"}},
                {
                    "name": "warned",
                    "team": "tests",
                    "secret": "ms-warned",
                    "budget": {"usd": 0.001, "per": "day", "soft": True},
                },
            ],
        }
        with Server(document, MAINSTAY_MAX_BODY=str(LIMIT)) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
                yield Stage(server, provider, client)


async def ask(
    stage: Stage, path: str, stream: bool, control: Control | None, key: str | None, model: str
) -> httpx.Response:
    """Ask, and note the call under its id."""
    body, content_type = ASKS[path].body(model, stream, CANARY["prompt"])
    if control is not None and control.change is not None:
        body = control.change(body)
    anthropic = ENDPOINTS[path].dialect == "anthropic"
    headers = {"content-type": content_type}
    if key is not None:
        headers |= {"x-api-key": key} if anthropic else {"authorization": f"Bearer {key}"}
    reply = await stage.client.post(path, content=body, headers=headers)
    identifier = reply.headers.get("x-mainstay-call")
    assert identifier, (reply.status_code, reply.text)
    assert identifier not in stage.sent
    stage.sent[identifier] = (control, path, stream, reply.status_code)
    return reply


async def test_every_endpoint_has_a_row() -> None:
    assert set(ASKS) == set(ENDPOINTS), "a new endpoint needs a request in tests/conformance/asks.py"


@pytest.mark.parametrize(("path", "stream"), CASES)
async def test_answers(stage: Stage, path: str, stream: bool) -> None:
    """With nothing in the way the answer comes, in the caller's dialect."""
    reply = await ask(stage, path, stream, None, CANARY["key"], "good")
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-mainstay-model"] == "good"
    assert reply.headers["x-mainstay-cache"] in ("off", "miss")
    if stream:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.content.count(b": x-mainstay-") <= 1
    elif path == "/v1/audio/speech":
        assert reply.headers["content-type"] == "audio/mpeg"
    else:
        assert reply.headers["content-type"].startswith("application/json")
        assert reply.json()
    shown = (
        b""
        if "count_tokens" in path or path in ("/v1/embeddings", "/v1/responses/compact")
        else CANARY["reply"].encode()
    )
    if "/images/" not in path and not (path == "/v1/audio/speech" and stream):
        assert shown in reply.content


@pytest.mark.parametrize("control", CONTROLS, ids=lambda one: one.name)
@pytest.mark.parametrize(("path", "stream"), CASES)
async def test_controls(stage: Stage, path: str, stream: bool, control: Control) -> None:
    if path == "/v1/messages/count_tokens" and control.name in (
        "provider down",
        "provider's key refused",
        "over its budget",
    ):
        pytest.skip("an OpenAI target has no counter: the estimate asks nobody, and costs nothing")
    if control.name == "over its rate":
        await stage.client.post(  # whoever comes first uses up the one request
            "/v1/chat/completions", json={"model": "good", "messages": []}, headers={"authorization": "Bearer ms-slow"}
        )
    before = len(stage.provider.asked)
    reply = await ask(stage, path, stream, control, control.key, control.model)
    assert reply.status_code == control.status, reply.text
    dialect = ENDPOINTS[path].dialect
    _error_shape(dialect, control, reply)
    assert len(stage.provider.asked) == before, "nothing was asked of a provider"
    if control.status in (429, 503):
        assert int(reply.headers["retry-after"]) >= 1
    if control.name == "over its rate":
        assert reply.headers["x-ratelimit-limit-requests"] == "1"
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"\d+s|1m\d+s", reply.headers["x-ratelimit-reset-requests"])
    assert not any(secret in reply.text or secret in str(reply.headers) for secret in CANARY.values())


def _error_shape(dialect: str, control: Control, reply: httpx.Response) -> None:
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    error = body["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert re.fullmatch(TYPES[dialect][control.status], error["type"]), error
    if dialect == "anthropic":
        assert body["type"] == "error"
        assert set(body) <= {"type", "error", "request_id"}
        assert set(error) == {"type", "message"}
        return
    assert set(body) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    if control.code is not None:
        assert error["code"] == control.code


@pytest.mark.parametrize(("path", "stream"), CASES)
async def test_what_is_left_is_told(stage: Stage, path: str, stream: bool) -> None:
    """The headers of limits, on good answers too."""
    reply = await ask(stage, path, stream, None, "ms-limited", "good")
    assert reply.status_code == 200
    headers = reply.headers
    assert headers["x-ratelimit-limit-requests"] == "600"
    assert 500 < int(headers["x-ratelimit-remaining-requests"]) < 600
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    assert 50000 < int(headers["x-ratelimit-remaining-tokens"]) < 100000
    assert re.fullmatch(r"\d+s|1m\d+s", headers["x-ratelimit-reset-requests"])
    assert re.fullmatch(r"\d+s|1m\d+s", headers["x-ratelimit-reset-tokens"])
    assert "x-mainstay-warning" not in headers


async def test_a_soft_budget_warns(stage: Stage) -> None:
    for number in range(3):
        reply = await ask(stage, "/v1/chat/completions", bool(number % 2), None, "ms-warned", "dear")
        assert reply.status_code == 200
    assert "0.001 USD per day for key warned of team tests" in reply.headers["x-mainstay-warning"]


async def test_no_limits_no_headers(stage: Stage) -> None:
    reply = await ask(stage, "/v1/chat/completions", False, None, KEY, "good")
    assert not [name for name in reply.headers if name.startswith("x-ratelimit") or name == "x-mainstay-warning"]


async def test_each_is_one_call_on_the_ledger(stage: Stage) -> None:
    """Exactly one record of each request, with what it came to."""
    assert len(stage.sent) > 200
    unmarked = 0
    calls = await stage.server.until_calls(len(stage.sent), "--since", "1h", "--limit", "100000")
    found: dict[str, dict[str, Any]] = {}
    for call in calls:
        assert call["id"] not in found, "one record each"
        found[call["id"]] = call
        unmarked += call["id"] not in stage.sent
    assert set(stage.sent) <= set(found)
    assert unmarked == len(CASES), "and the requests that used up the rate"
    for identifier, (control, path, stream, status_code) in stage.sent.items():
        call = found[identifier]
        endpoint = ENDPOINTS[path]
        assert (call["status"], call["operation"], call["dialect"]) == (status_code, *endpoint), (control, call)
        if control is None:
            assert (call["outcome"], call["model"], call["stream"]) == ("ok", call["model"], stream)
            assert call["cost_usd"] is not None
            continue
        assert call["outcome"] == control.outcome, (control, call)
        assert call["error"]
        if control.error:
            assert call["error"] == control.error, (control, call)
        assert len(call["attempts"]) == control.attempts, (control, call)
        if control.key not in (None, "ms-nobody"):
            assert call["team"] == "tests"
        if not control.attempts:
            assert call["cost_usd"] in (0, None)


async def test_no_secret_and_no_content_is_anywhere(stage: Stage) -> None:
    """Not in the logs, the metrics, the ledger, or any file of the home, sealed or not."""
    calls = stage.server.command("calls", "--json", "--since", "1h", "--limit", "100000").stdout
    metrics = (await stage.client.get("/metrics", headers={"authorization": f"Bearer {KEY}"})).text
    assert "mainstay_" in metrics
    places: dict[str, bytes] = {"ledger": calls.encode(), "metrics": metrics.encode()}
    places["log"] = stage.server.log.read_bytes()
    for file in stage.server.home.rglob("*"):
        if file.is_file():
            places[str(file.relative_to(stage.server.home))] = file.read_bytes()
    assert len(places) > 5
    for place, content in places.items():
        for what, secret in CANARY.items():
            assert secret.encode() not in content, f"the {what} is in {place}"


@pytest.mark.parametrize("path", [*ASKS, "/v1/models", "/v1/models/nobody", "/v1/nothing"])
async def test_what_is_no_call_is_refused_in_the_callers_shape(stage: Stage, path: str) -> None:
    """Wrong methods, wrong paths, unknown models and keys: in the caller's shape, and no call of it."""
    wanted = 405 if path in ENDPOINTS else 404
    for anthropic in (False, True):
        headers = {"authorization": f"Bearer {KEY}"} | ({"anthropic-version": "2023-06-01"} if anthropic else {})
        if path == "/v1/models":
            headers, wanted = {**headers, "authorization": "Bearer ms-nobody"}, 401
        reply = await stage.client.get(path, headers=headers)
        assert reply.status_code == wanted
        assert "x-mainstay-call" not in reply.headers
        if wanted == 405:
            assert reply.headers["allow"] == "POST"
        error = reply.json()["error"]
        if ENDPOINTS[path].dialect == "anthropic" if path in ENDPOINTS else anthropic:
            assert reply.json()["type"] == "error"
            assert set(error) == {"type", "message"}
        else:
            assert set(error) == {"message", "type", "param", "code"}
