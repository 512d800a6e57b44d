"""What a key may do: never more than its maker, nothing of another team, nothing after its end, and nothing by default."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute

from mainstay.core.clock import Clock
from mainstay.edge.control_api import control_api
from mainstay.edge.model_api import ENDPOINTS
from mainstay.settings import Settings
from tests.security.rig import ADMIN, BLUE, RED, House, until

INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE keys; --",
    'x"; DELETE FROM changes; --',
    "red' UNION SELECT * FROM keys --",
    "%",
    "_ed",
    "red\x00",
    "../red",
    "*",
    "{{7*7}}",
    "red/*",
    "x' AND pg_sleep(5) --",
    "\\",
    "\ud7ff\u202e",
]


def make(house: House, name: str, key: str | None = ADMIN, team: str = "red", **more: Any) -> dict[str, Any]:
    reply = house.ask("POST", "/api/v1/keys", key=key, json={"team": team, "name": name, **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


@pytest.fixture
def before(house: House) -> Iterator[None]:
    """The keys are the same afterwards, but for those that the test made and ended."""
    seen = sorted(one["id"] for one in house.ask("GET", "/api/v1/keys").json()["data"])
    yield
    after = sorted(one["id"] for one in house.ask("GET", "/api/v1/keys").json()["data"])
    assert after == seen


# ---------------------------------------------------------------- SQL


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.usefixtures("before")
def test_sql_in_names_is_only_a_name(house: House, text: str) -> None:
    assert house.ask("GET", "/api/v1/keys", params={"team": text}).json()["data"] == []
    for body in ({"team": text, "name": "n"}, {"team": "red", "name": text}):
        reply = house.ask("POST", "/api/v1/keys", json={**body, "create_team": True})
        assert reply.status_code == 400, reply.text
    part = quote(text, safe="")
    assert house.ask("DELETE", f"/api/v1/keys/{part}/web").status_code in (400, 404)
    assert house.ask("DELETE", f"/api/v1/keys/red/{part}").status_code in (400, 404)
    assert house.ask("POST", f"/api/v1/keys/red/{part}/rotate", json={}).status_code in (400, 404)
    assert house.ask("GET", f"/api/v1/artifacts/model/{part}").json()["data"] == []
    assert house.ask("GET", f"/api/v1/artifacts/{part}").status_code == 404
    assert house.ask("GET", "/api/v1/changes", params={"what": text}).json()["data"] == []
    assert house.ask("GET", f"/api/v1/calls/{part}").status_code == 404


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_a_filter_is_only_a_value(house: House, text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for field in ("team", "model", "tag.x", f"tag.{quoted}", "key", "id"):
        for operator in ("=", "~"):
            reply = house.ask("GET", "/api/v1/calls", params={"filter": f"{field}{operator}{quoted} and team=nobody"})
            assert reply.status_code == 200, reply.text
            assert reply.json()["data"] == []
    reply = house.ask("GET", "/api/v1/calls", params={"filter": text})
    assert reply.status_code == 400
    assert "position" in reply.json()["error"]["message"]
    for name in ("cursor", "since", "until", "limit"):
        assert house.ask("GET", "/api/v1/calls", params={name: text}).status_code == 400


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_a_callers_headers_is_recorded_as_it_is(house: House, text: str) -> None:
    reply = house.chat(headers={"x-mainstay-tags": f"x={quote(text, safe='')}"})
    assert reply.status_code == 200, reply.text
    call = reply.headers["x-mainstay-call"]
    found = until(lambda: house.ask("GET", f"/api/v1/calls/{call}"), lambda one: one.status_code == 200).json()
    assert found["tags"] == {"x": text}


# ---------------------------------------------------------------- teams


def test_a_team_sees_its_own_calls_and_no_others(house: House) -> None:
    mine = house.chat(RED).headers["x-mainstay-call"]
    theirs = house.chat(BLUE).headers["x-mainstay-call"]
    for call in (mine, theirs):
        until(lambda call=call: house.ask("GET", f"/api/v1/calls/{call}").status_code, lambda code: code == 200)
    assert house.ask("GET", f"/api/v1/calls/{mine}", key=RED).status_code == 200
    other = house.ask("GET", f"/api/v1/calls/{theirs}", key=RED)
    never = house.ask("GET", f"/api/v1/calls/{theirs[:-4]}zzzz", key=RED)
    assert other.status_code == never.status_code == 404
    assert other.json()["error"]["code"] == never.json()["error"]["code"]
    assert other.text.replace(theirs, "") == never.text.replace(f"{theirs[:-4]}zzzz", "")  # existence is not told
    for wanted in ("", "team=blue", "team=blue or team=red", "not team=red", "team!=red", f"id={theirs}"):
        listed = house.ask("GET", "/api/v1/calls", key=RED, params={"filter": wanted, "limit": 1000}).json()["data"]
        assert {one["team"] for one in listed} <= {"red"}, wanted
    page = house.ask("GET", "/api/v1/calls", params={"limit": 1}).json()
    listed = house.ask("GET", "/api/v1/calls", key=RED, params={"cursor": page["cursor"], "limit": 1000}).json()["data"]
    assert {one["team"] for one in listed} <= {"red"}
    assert house.ask("GET", f"/api/v1/calls/{mine}/content", key=RED).status_code == 403


def test_a_team_reads_its_own_stored_responses_only(house: House) -> None:
    body = {"model": "chat", "input": "hello", "store": True}
    made = house.body(json.dumps(body), "/v1/responses", BLUE)
    assert made.status_code == 200, made.text
    ident = made.json()["id"]
    until(lambda: house.ask("GET", f"/v1/responses/{ident}", key=BLUE).status_code, lambda code: code == 200)
    never = "resp_" + "0" * (len(ident) - 5)
    for path in ("", "/input_items"):
        other = house.ask("GET", f"/v1/responses/{ident}{path}", key=RED)
        none = house.ask("GET", f"/v1/responses/{never}{path}", key=RED)
        assert other.status_code == none.status_code == 404
        assert other.text.replace(ident, "") == none.text.replace(never, "")
    for team in ("team=blue", "team=blue&team=red", "id=x&team=blue"):
        assert house.ask("GET", f"/v1/responses/{ident}/input_items?{team}", key=RED).status_code == 404
    assert house.ask("DELETE", f"/v1/responses/{ident}", key=RED).status_code == 404
    for named in (ident, f"{ident}&team=blue", f"{ident}?team=blue", f"../{ident}"):
        more = json.dumps({**body, "previous_response_id": named})
        assert house.body(more, "/v1/responses", RED).status_code in (400, 404)
    assert house.ask("GET", f"/v1/responses/{ident}", key=BLUE).status_code == 200
    for name in ("tmp", f"{ident}%26team%3Dblue", f"{ident}%3Fteam=blue"):
        assert house.ask("GET", f"/v1/responses/{name}", key=RED).status_code == 404


# ---------------------------------------------------------------- rights


@pytest.mark.usefixtures("before")
def test_a_key_never_grants_more_than_its_maker_has(house: House) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    own = {
        "models": ["chat"],
        "limits": {"requests_per_minute": 100},
        "budget": {"usd": 5, "per": "day"},
        "expires": soon,
    }
    lesser = make(house, "lesser", admin=True, **own)["secret"]
    more: list[dict[str, Any]] = [
        {"models": None},
        {"models": ["dear"]},
        {"models": ["chat", "dear"]},
        {"limits": None},
        {"limits": {"requests_per_minute": 101}},
        {"limits": {"concurrent": 5}},
        {"budget": None},
        {"budget": {"usd": 5.01, "per": "day"}},
        {"budget": {"usd": 1, "per": "month"}},
        {"budget": {"usd": 5, "per": "day", "soft": True}},
        {"expires": None},
        {"expires": "2999-01-01"},
    ]
    try:
        for change in more:
            body = {"team": "red", "name": "greater", **own, **change}
            reply = house.ask("POST", "/api/v1/keys", key=lesser, json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "exceeds_own_rights"), (
                change,
                reply.text,
            )
            bundle = json.dumps({"keys": [{**body, "secret": "ms-a-secret-that-is-chosen"}]})
            reply = house.ask("POST", "/api/v1/bundles", key=lesser, json={"text": bundle, "source": "lesser"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "exceeds_own_rights"), (
                change,
                reply.text,
            )
        # Whoever rotates a key learns its secret; whoever declares it anew would give it one that they know.
        assert house.ask("POST", "/api/v1/keys/house/admin/rotate", key=lesser, json={}).status_code == 403
        taken = json.dumps({"keys": [{"team": "house", "name": "admin", "admin": True, "secret": "ms-now-it-is-mine"}]})
        assert house.ask("POST", "/api/v1/bundles", key=lesser, json={"text": taken}).status_code == 403
        raised = json.dumps({"keys": [{"team": "red", "name": "lesser", "admin": True}]})
        assert house.ask("POST", "/api/v1/bundles", key=lesser, json={"text": raised}).status_code == 403
        assert house.ask("GET", "/api/v1/keys", key=ADMIN).status_code == 200
        equal = make(house, "equal", key=lesser, **own)
        assert equal["models"] == ["chat"]
        assert house.ask("DELETE", "/api/v1/keys/red/equal", key=lesser).status_code == 200
    finally:
        house.ask("DELETE", "/api/v1/keys/red/lesser")


def test_a_key_that_is_no_administrators_may_only_read_its_calls(house: House) -> None:
    document = house.ask("GET", "/api/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            target = path.replace("{", "").replace("}", "")
            none = house.ask(method.upper(), target, key=None)
            wrong = house.ask(method.upper(), target, key="ms-no-such-key-at-all")
            reply = house.ask(method.upper(), target, key=RED)
            if operation["x-permission"] == "public":
                continue
            assert none.status_code == wrong.status_code == 401, (method, path)
            assert none.json()["error"]["code"] == "invalid_api_key"
            if operation["x-permission"] == "calls:read":
                assert reply.status_code in (200, 404), (method, path)
            elif operation["x-permission"] in ("calls:write", "verdicts:write"):  # it may, and says nothing here
                assert reply.status_code == 400, (method, path)
            else:
                assert reply.status_code == 403, (method, path)


def test_who_asks_is_decided_before_a_body_is_read(house: House) -> None:
    for content in (b"{", b'{"wrong": 1}', b"\xff" * 1000):
        reply = house.ask("POST", "/api/v1/keys", key=None, content=content)
        assert reply.status_code == 401
        reply = house.ask("POST", "/api/v1/keys", key=RED, content=content)
        assert reply.status_code == 403


def test_every_route_of_control_names_its_permission(tmp_path: Any) -> None:
    """Deny by default: the walk over the route table."""
    from mainstay.control import Control
    from mainstay.edge import permissions

    app = control_api(Control(Settings(home=tmp_path), {}, Clock()))
    known = set(permissions.Permission.__args__)  # type: ignore[attr-defined]
    routes = app.routes
    assert len(routes) > 15
    for route in routes:
        assert isinstance(route, APIRoute), route  # nothing is mounted, and nothing made beside ``Routes``
        permission = (route.openapi_extra or {}).get("x-permission")
        assert permission in known, route.path
        if permission == "public":
            assert route.path in ("/metrics", "/api/openapi.json"), route.path
        if permission == "internal":
            assert route.path.startswith("/internal/")
        if route.path.startswith("/internal/"):
            assert permission == "internal"
    with pytest.raises(KeyError):
        app.router.add_api_route("/x", lambda: None, route_class_override=type(routes[0]))


def test_every_path_of_the_model_api_needs_a_key(house: House) -> None:
    asked = len(house.upstream.provider.asked)
    for path in ENDPOINTS:
        for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Basic eDp5"}, {"x-api-key": "ms-wrong"}):
            reply = house.http.post(path, content=b"{}", headers={**headers, "content-type": "application/json"})
            assert reply.status_code == 401, (path, headers)
    for path in ("/v1/models", "/v1/models/chat", "/v1/responses/resp_1", "/v1/responses/resp_1/input_items"):
        assert house.ask("GET", path, key=None).status_code == 401
    for path in ("/v1/files", "/v1/batches", "/v1/assistants", "/mcp", "/admin", "/debug", "/v1", "/api", "/console"):
        assert house.ask("GET", path, key=ADMIN).status_code == 404
    assert len(house.upstream.provider.asked) == asked


@pytest.mark.parametrize(
    "shown",
    [RED + "x", RED[:-1], RED.upper(), f"{RED} x", f"x {RED}", f"{RED},{ADMIN}", "x" * 5000, "caf\xe9", "null", "*"],
)
def test_a_secret_opens_only_if_it_is_just_it(house: House, shown: str) -> None:
    for headers in ({"authorization": f"Bearer {shown}"}, {"x-api-key": shown}):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        assert house.http.get("/v1/models", headers=raw).status_code == 401


# ---------------------------------------------------------------- the life of a key


def statuses(house: House, secret: str, times: int = 12) -> set[int]:
    """What a secret gets on both gateways: each request has a connection of its own."""
    return {
        house.http.get("/v1/models", headers={"x-api-key": secret, "connection": "close"}).status_code
        for _ in range(times)
    }


@pytest.mark.usefixtures("before")
def test_a_revoked_key_opens_nothing_on_any_gateway_within_a_second(house: House) -> None:
    secret = make(house, "short")["secret"]
    assert statuses(house, secret) == {200}
    started = time.monotonic()
    done = house.ask("DELETE", "/api/v1/keys/red/short")
    assert done.json()["warnings"] == []
    assert time.monotonic() - started < 1
    assert statuses(house, secret, 24) == {401}
    assert house.ask("GET", "/api/v1/calls", key=secret).status_code == 401
    assert house.ask("DELETE", "/api/v1/keys/red/short").status_code == 404


@pytest.mark.usefixtures("before")
def test_a_rotated_key_opens_with_both_secrets_until_the_overlap_ends(house: House) -> None:
    old = make(house, "turning")["secret"]
    new = house.ask("POST", "/api/v1/keys/red/turning/rotate", json={"overlap": 2}).json()["secret"]
    assert statuses(house, old) == statuses(house, new) == {200}
    until(lambda: statuses(house, old, 4), lambda seen: seen == {401}, 5)
    assert statuses(house, new) == {200}
    newest = house.ask("POST", "/api/v1/keys/red/turning/rotate", json={}).json()["secret"]
    assert statuses(house, new) == {401}
    assert statuses(house, newest) == {200}
    assert house.ask("POST", "/api/v1/keys/red/turning/rotate", json={"overlap": 1e9}).status_code == 400
    assert house.ask("POST", "/api/v1/keys/red/turning/rotate", json={"overlap": -1}).status_code == 400
    house.ask("DELETE", "/api/v1/keys/red/turning")


@pytest.mark.usefixtures("before")
def test_an_expired_key_opens_nothing(house: House) -> None:
    ends = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    secret = make(house, "ending", expires=ends)["secret"]
    assert statuses(house, secret, 4) == {200}
    until(lambda: statuses(house, secret, 4), lambda seen: seen == {401}, 5)
    past = make(house, "past", expires="2020-01-01")["secret"]
    assert statuses(house, past, 4) == {401}
    for name in ("ending", "past"):
        house.ask("DELETE", f"/api/v1/keys/red/{name}")


def test_names_with_slashes_are_not_confused(house: House) -> None:
    for team, name in (("a/b", "c"), ("a", "b/c")):
        make(house, name, team=team, create_team=True)
    assert house.ask("DELETE", "/api/v1/keys/a%2Fb/c").json()["team"] == "a/b"
    left = [(one["team"], one["name"]) for one in house.ask("GET", "/api/v1/keys").json()["data"]]
    assert ("a", "b/c") in left
    assert ("a/b", "c") not in left
    assert house.ask("DELETE", "/api/v1/keys/a/b%2Fc").status_code == 200


def test_the_lookup_of_a_secret_compares_only_hashes() -> None:
    """There is nothing to time: what is presented is hashed with a pepper that no caller knows, and only that is compared."""
    import inspect

    from mainstay.access.authenticate import KeyRing, hash_secret

    ring = KeyRing({hash_secret("ms-right", "pepper" * 8): ("opened", None)}, "pepper" * 8)
    assert all(isinstance(known, bytes) and len(known) == 32 for known in ring._entries)
    assert ring.find("ms-right", 0) == "opened"
    source = inspect.getsource(KeyRing.find)
    assert "digest()" in source
    assert "==" not in source
    assert KeyRing({hash_secret("ms-right", "another" * 8): ("opened", None)}, "pepper" * 8).find("ms-right", 0) is None
