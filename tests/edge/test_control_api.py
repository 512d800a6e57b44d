"""The control API as its document says it is, through the gateway: every operation, errors, paging, health, metrics, audit."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest

from tests.running import KEY, Server

T = TypeVar("T")

BUNDLE = """\
providers: [{name: sim, kind: sim, sim: {latency: 1ms, tokens_per_second: 10000}}]
models:
  - {name: chat, target: sim/m, price: {input: 1, output: 2}}
  - {name: kept, target: sim/k, price: {input: 1, output: 2}}
routes:
  - {name: keeps, to: kept, content: true}
  - {name: caches, to: chat, cache: {ttl: 1h}}
teams: [{name: tests, budget: {usd: 5, per: day}}]
keys: [{name: tests, team: tests, secret: "${TEST_KEY}", admin: true}]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(BUNDLE) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    return http.get("/api/openapi.json").json()


def until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 15.0) -> T:
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.02)


def ask(http: httpx.Client, model: str = "chat", text: str = "hello", **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return http.post("/v1/chat/completions", json=body, headers=headers)


# ---------------------------------------------------------------- the document


def test_the_document_is_sound(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    names: list[str] = []
    for path, operations in document["paths"].items():
        assert path.startswith("/api/v1/")
        assert "internal" not in path
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["description"], where  # each is documented
            assert operation["x-permission"], where
            assert operation["security"], where
            assert "422" not in operation["responses"], where
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error["required"] == ["error"]
            names.append(operation["operationId"])
            declared = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path)), where
    assert len(names) == len(set(names)) > 12
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found, reference


def test_every_operation_refuses_what_it_does_not_know(http: httpx.Client, document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            target = path.replace("{", "").replace("}", "")
            reply = http.request(method, target, params={"nonsense": "1"})
            assert reply.status_code == 400, (method, path, reply.text)
            error = reply.json()["error"]
            assert error["code"] == "invalid_request"
            assert error["field"] == "nonsense"
            assert "nonsense" in error["message"]
            if "requestBody" in operation:
                reply = http.request(method, target, json={"nonsense": 1})
                assert reply.status_code == 400, (method, path, reply.text)
                reply = http.request(method, target, content=b"{")
                assert "not JSON" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"team": "tests", "name": "x", "team": "other"}', "team"),
        ('{"team": "tests", "name": "x", "Admin": true}', "Admin"),
        ('{"team": "tests", "name": "x", "limits": {"concurrent": 1, "concurrent": 2}}', "concurrent"),
        ('{"team": "tests", "name": "x", "limits": {"x": 1}}', "limits.x"),
        ('{"team": "tests"}', "name"),
        ('{"team": "tests", "name": 5}', "name"),
        ('{"team": "tests", "name": "x", "models": "chat"}', "models"),
        ('{"team": "tests", "name": "x", "expires": "soon"}', "expires"),
        ('{"team": "tests", "name": "x", "budget": {"usd": -1}}', "budget.usd"),
        ('{"team": "tests", "name": "x", "budget": {"usd": 1, "per": "week"}}', "budget.per"),
        ('{"team": "tests", "name": "x", "secret": "mine"}', "secret"),
    ],
)
def test_a_wrong_body_names_its_field(http: httpx.Client, body: str, field: str) -> None:
    reply = http.post("/api/v1/keys", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["field"] == field


def test_not_numbers_are_refused(http: httpx.Client) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = f'{{"team": "tests", "name": "x", "budget": {{"usd": {number}}}}}'
        reply = http.post("/api/v1/keys", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, (number, reply.text)


def test_errors_have_one_shape(http: httpx.Client) -> None:
    replies = [
        (http.get("/api/v1/nothing"), 404, "not_found"),
        (http.get("/api/v1/calls/call_none"), 404, "call_not_found"),
        (http.get("/api/v1/artifacts/nothing"), 404, "not_found"),
        (http.put("/api/v1/keys"), 405, "method_not_allowed"),
        (http.get("/api/v1/keys", headers={"x-api-key": "ms-wrong"}), 401, "invalid_api_key"),
        (http.post("/api/v1/keys", json={"team": "absent", "name": "x"}), 404, "team_not_found"),
        (http.post("/api/v1/keys", json={"team": "tests", "name": "tests"}), 409, "conflict"),
        (http.delete("/api/v1/keys/tests/absent"), 404, "key_not_found"),
        (http.post("/api/v1/bundles", json={"text": "modles: []"}), 422, "invalid_configuration"),
        (http.get("/api/v1/calls", params={"filter": "x"}), 400, "invalid_request"),
        (http.get("/api/v1/calls", params={"limit": "10001"}), 400, "invalid_request"),
        (http.get("/api/v1/calls", params={"limit": "x"}), 400, "invalid_request"),
        (http.get("/api/v1/calls", params={"cursor": "x"}), 400, "invalid_request"),
    ]
    for reply, status, code in replies:
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/json"
        error = reply.json()["error"]
        assert error["code"] == code, error
        assert len(error["message"]) > 10
    assert replies[8][0].json()["error"]["problems"][0].startswith("mainstay.yaml:1: ")


# ---------------------------------------------------------------- what it tells


def test_calls_come_in_pages_each_once(http: httpx.Client) -> None:
    for i in range(7):
        assert ask(http, headers={"x-mainstay-tags": f"page={i}"}).status_code == 200
    wanted = {"filter": "tag.page!=null", "limit": "3"}
    until(lambda: http.get("/api/v1/calls", params={"filter": "tag.page!=null"}).json()["data"], lambda d: len(d) == 7)
    found: list[str] = []
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = http.get("/api/v1/calls", params={**wanted, **more}).json()
        assert len(page["data"]) <= 3
        found += [one["tags"]["page"] for one in page["data"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == [str(i) for i in reversed(range(7))]  # newest first


def test_a_look_at_content_is_recorded(http: httpx.Client) -> None:
    reply = ask(http, "keeps", "a kept question")
    call = reply.headers["x-mainstay-call"]
    until(lambda: http.get(f"/api/v1/calls/{call}").status_code, lambda code: code == 200)
    assert "a kept question" not in http.get(f"/api/v1/calls/{call}").text  # apart from metadata
    content = until(lambda: http.get(f"/api/v1/calls/{call}/content"), lambda one: one.status_code == 200).json()
    assert "a kept question" in content["request"]
    assert reply.json()["choices"][0]["message"]["content"] in content["reply"]
    (change,) = http.get("/api/v1/changes", params={"what": f"content:{call}"}).json()["data"]
    assert change["by"] == "key tests/tests"
    assert change["why"] == "content was looked at"
    unkept = ask(http).headers["x-mainstay-call"]
    until(lambda: http.get(f"/api/v1/calls/{unkept}").status_code, lambda code: code == 200)
    assert http.get(f"/api/v1/calls/{unkept}/content").status_code == 404
    assert http.get("/api/v1/changes", params={"what": f"content:{unkept}"}).json()["data"] == []


def test_the_audit_is_a_chain(server: Server, http: httpx.Client) -> None:
    assert http.get("/api/v1/changes/verify").json() == {"intact": True}
    made = http.post("/api/v1/keys", json={"team": "tests", "name": "audited", "why": "a reason"}).json()
    changes = http.get("/api/v1/changes", params={"what": "key:tests/audited"}).json()["data"]
    assert [(one["by"], one["why"], one["after"]["last4"]) for one in changes] == [
        ("key tests/tests", "a reason", made["last4"])
    ]
    older = http.get("/api/v1/changes", params={"before": changes[0]["seq"], "limit": 2}).json()["data"]
    assert [one["seq"] for one in older] == [changes[0]["seq"] - 1, changes[0]["seq"] - 2]
    database = sqlite3.connect(server.home / "mainstay.db", timeout=10)
    try:
        (why,) = database.execute("SELECT why FROM changes WHERE seq = 2").fetchone()
        database.execute("UPDATE changes SET why = 'another reason' WHERE seq = 2")
        database.commit()
        broken = http.get("/api/v1/changes/verify")
        assert (broken.status_code, broken.json()["error"]["code"]) == (500, "audit_broken")
        database.execute("UPDATE changes SET why = ? WHERE seq = 2", (why,))
        database.commit()
    finally:
        database.close()
    assert http.get("/api/v1/changes/verify").json() == {"intact": True}
    http.delete("/api/v1/keys/tests/audited")


def test_what_is_in_force_and_was(http: httpx.Client) -> None:
    models = http.get("/api/v1/artifacts/model").json()["data"]
    assert {one["name"] for one in models} == {"chat", "kept"}
    versions = http.get("/api/v1/artifacts/model/chat").json()["data"]
    assert versions[0]["digest"] == next(one["digest"] for one in models if one["name"] == "chat")
    (team,) = http.get("/api/v1/teams").json()["data"]
    assert team["budget"]["usd"] == 5
    prices = {one["name"]: one["price"]["output"] for one in http.get("/api/v1/models").json()["data"]}
    assert prices == {"chat": "2", "kept": "2"}


def test_health(http: httpx.Client) -> None:
    for path, headers in (("/health/live", {"x-api-key": ""}), ("/health/ready", {"x-api-key": ""})):
        reply = http.get(path, headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    health = http.get("/health").json()
    assert health["database"] == "ok"
    assert [one["current"] for one in health["gateways"]] == [True]
    assert health["models"] == 2
    assert http.get("/health", headers={"x-api-key": "ms-wrong"}).status_code == 401
    assert http.head("/health/ready").status_code == 200
    assert http.post("/health/ready").status_code in (200, 405)


# ---------------------------------------------------------------- metrics

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (NaN|[+-]Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> tuple[dict[str, str], Samples]:
    """Prometheus' text format, strictly: kinds by name, values by name and labels."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    samples: Samples = {}
    current = ""
    done: set[str] = set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in done, f"{name} is in two places"
            done.add(name)
            current = name
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current
            assert kind in ("counter", "gauge", "histogram")
            assert (kind == "counter") == name.endswith("_total"), name
            kinds[name] = kind
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name, given, value = match.groups()
        family = re.sub(r"_(bucket|sum|count)$", "", name) if kinds.get(current) == "histogram" else name
        assert family == current, line
        labels: dict[str, str] = {}
        at = 0
        while given and at < len(given):
            label = _LABEL.match(given, at)
            assert label is not None, line
            assert label[1] not in labels
            labels[label[1]] = label[2]
            at = label.end()
        key = (name, frozenset(labels.items()))
        assert key not in samples, line
        samples[key] = float(value)
    return kinds, samples


def test_metrics_are_sound_and_say_what_the_ledger_says(http: httpx.Client) -> None:
    asked = [ask(http, "caches", "once").headers["x-mainstay-cache"] for _ in range(2)]
    assert asked == ["miss", "hit"]
    ask(http, "absent")
    ask(http, stream=True)
    last = ask(http, headers={"x-mainstay-tags": 'odd="\\'}).headers["x-mainstay-call"]
    until(lambda: http.get(f"/api/v1/calls/{last}").status_code, lambda code: code == 200)
    calls: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = http.get("/api/v1/calls", params={"limit": 1000, **({"cursor": cursor} if cursor else {})}).json()
        calls += page["data"]
        cursor = page["cursor"]
        if cursor is None:
            break
    stored = f"mainstay_ledger_stored_total {len(calls)}\n"
    reply = until(lambda: http.get("/metrics", headers={"x-api-key": ""}), lambda one: stored in one.text)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds, samples = parsed(reply.text)

    def total(name: str, **labels: str) -> float:
        return sum(value for (one, has), value in samples.items() if one == name and set(labels.items()) <= has)

    assert total("mainstay_calls_total") == len(calls)
    for outcome in {one["outcome"] for one in calls}:
        assert total("mainstay_calls_total", outcome=outcome) == sum(one["outcome"] == outcome for one in calls)
    assert total("mainstay_ledger_stored_total") == len(calls)
    assert total("mainstay_attempts_total") == sum(len(one["attempts"]) for one in calls)
    spent = sum(float(one["cost_usd"]) for one in calls if one["cost_usd"] is not None)
    assert total("mainstay_cost_usd_total") == pytest.approx(spent, abs=1e-12)
    for sort in ("input", "output"):
        counted = sum(one["usage"][sort] for one in calls if one["usage"])
        assert total("mainstay_tokens_total", sort=sort) == counted
    assert total("mainstay_cache_total", state="hit") == sum(one["cache"] == "hit" for one in calls) >= 1
    for name in [name for name, kind in kinds.items() if kind == "histogram"]:
        series = {has for one, has in samples if one == f"{name}_count"}
        for has in series:
            buckets = [
                (float(dict(labels)["le"].replace("+Inf", "inf")), value)
                for (one, labels), value in samples.items()
                if one == f"{name}_bucket" and labels - {("le", dict(labels).get("le", ""))} == has
            ]
            values = [value for _, value in sorted(buckets)]
            assert values == sorted(values), name
            assert sorted(buckets)[-1] == (float("inf"), samples[(f"{name}_count", has)]), name
    for name in ("mainstay_journal_lag_seconds", "mainstay_gateways", "mainstay_gateway_connections"):
        assert kinds[name] == "gauge"
