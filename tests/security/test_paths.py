"""Path confusion and Host tricks: what may be done is decided on the route that matched, and on nothing else."""

from __future__ import annotations

import json

import pytest

from tests.security.rig import ADMIN, RED, House, status

NOTHING = [
    "/v1/../api/v1/keys",
    "/health/live/../../api/v1/keys",
    "/health/ready/..%2f..%2fapi/v1/keys",
    "//api/v1/keys",
    "/api//v1/keys",
    "/api/v1//keys",
    "/api/v1/keys/",
    "/api/v1/keys;x",
    "/api/v1/keys;/health/live",
    "/api;x/v1/keys",
    "/api/./v1/keys",
    "/api/v1/./keys",
    "/api/v1/x/../keys",
    "/api/v1/%2e%2e/v1/keys",
    "/api/v1/keys.",
    "/api/v1/keys%00",
    "/api/v1/keys%20",
    "/api/v1/keys%09",
    "/api%2fv1%2fkeys%3f",
    "/API/v1/keys",
    "/Api/V1/Keys",
    "/api/v1/KEYS",
    "/api/v1/keys%252f",
    "/api\u00ff".encode().decode("latin-1").replace("\u00c3\u00bf", "%c3%bf") + "/v1/keys",
]
INTERNAL = [
    "/internal/v1/responses?team=red&id=x",
    "/internal/v1/responses/history?team=red&id=x",
    "/internal/v1/responses/input_items?team=red&id=x",
    "/api/../internal/v1/responses?team=red&id=x",
    "/api/%2e%2e/internal/v1/responses?team=red&id=x",
    "/health/../internal/v1/responses?team=red&id=x",
    "/metrics/../internal/v1/responses?team=red&id=x",
    "/docs/..//internal/v1/responses?team=red&id=x",
    "/v1/responses/..%2f..%2f..%2finternal%2fv1%2fresponses?team=red&id=x",
    "/v1/responses/%2e%2e/%2e%2e/internal/v1/responses",
    "//internal/v1/responses?team=red&id=x",
]


@pytest.mark.parametrize("key", [None, RED, ADMIN])
@pytest.mark.parametrize("target", NOTHING)
def test_a_path_that_is_almost_one_is_none(house: House, target: str, key: str | None) -> None:
    reply = house.get(target, key=key)
    assert status(reply) in (400, 404), reply[:300]
    assert b"last4" not in reply


@pytest.mark.parametrize("key", [None, RED, ADMIN])
@pytest.mark.parametrize("target", INTERNAL)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_internal_is_not_there_from_outside(house: House, target: str, key: str | None, method: str) -> None:
    reply = house.get(target, key=key, method=method)
    # below /v1/responses a key is asked for before it is said that there is nothing
    assert status(reply) in ((401, 404, 405) if target.startswith("/v1/") else (404,)), reply[:300]
    assert b"resp_" not in reply


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=control;proto=https"),
        ("x-forwarded-host", "control"),
        ("x-original-url", "/internal/v1/responses"),
        ("x-rewrite-url", "/internal/v1/responses"),
        ("x-http-method-override", "DELETE"),
        ("mainstay.local", "1"),
        ("x-mainstay-local", "1"),
        ("x-forwarded-prefix", "/api"),
        ("x-mainstay-key", ADMIN),
        ("cookie", f"authorization=Bearer {ADMIN}"),
    ],
)
def test_no_header_says_who_somebody_is(house: House, line: str, value: str) -> None:
    assert status(house.get("/api/v1/keys", f"{line}: {value}", key=None)) == 401
    assert status(house.get("/api/v1/keys", f"{line}: {value}", key=RED)) == 403
    assert status(house.get("/internal/v1/responses?team=red&id=x", f"{line}: {value}", key=RED)) == 404


@pytest.mark.parametrize(
    "host",
    ["control", "localhost", "127.0.0.1:1", "[::1]:80", "example.com", "health", "x:65535"],
)
def test_the_host_header_decides_nothing(house: House, host: str) -> None:
    assert status(house.get("/api/v1/keys", key=None, host=host)) == 401
    assert status(house.get("/api/v1/keys", key=RED, host=host)) == 403
    assert status(house.get("/api/v1/keys", key=ADMIN, host=host)) == 200
    assert status(house.get("/internal/v1/responses?team=red&id=x", key=ADMIN, host=host)) == 404


@pytest.mark.parametrize(
    "host", ["x/health/live", "x?y", "x#", "x@y", "x y", "x\\y", "x/../internal", "", ":80", "x:99999", "x:8a", "[::1"]
)
def test_a_host_header_that_is_no_host_is_refused(house: House, host: str) -> None:
    assert status(house.get("/api/v1/keys", host=host)) == 400


def test_two_hosts_are_refused(house: House) -> None:
    assert status(house.get("/api/v1/keys", "Host: y")) == 400
    assert status(house.get("http://other/api/v1/keys")) == 400


@pytest.mark.parametrize("key", [None, RED])
def test_an_absolute_target_is_its_path(house: House, key: str | None) -> None:
    assert status(house.get("http://x/api/v1/keys", key=key)) == (401 if key is None else 403)
    assert status(house.get("http://x/api/v1/keys", key=ADMIN)) == 200
    assert status(house.get("http://x/internal/v1/responses?team=red&id=x", key=key)) == 404
    assert status(house.get("ftp://x/api/v1/keys", key=ADMIN)) == 400
    assert status(house.get("x/api/v1/keys", key=ADMIN)) == 400


def test_percent_encoding_names_the_same_route_with_the_same_right(house: House) -> None:
    for target in ("/api/v1/%6beys", "/%61pi/v1/keys", "/api/v1/key%73"):
        for key, allowed in ((None, (401, 404)), (RED, (403, 404)), (ADMIN, (200, 404))):
            assert status(house.get(target, key=key)) in allowed, target


@pytest.mark.parametrize("method", ["get", "GETT", "TRACE", "CONNECT", "PURGE", "PATCH", "PUT", "OPTIONS"])
def test_another_method_is_another_route(house: House, method: str) -> None:
    assert status(house.get("/api/v1/keys", method=method)) in (400, 405, 501)


def test_a_wrong_method_names_those_that_are_right(house: House) -> None:
    reply = house.ask("PUT", "/api/v1/calls")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET"
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/V1/chat/completions", "//v1/models", "/v1/chat%2fcompletions"]
)
def test_the_model_api_has_just_its_paths(house: House, path: str) -> None:
    reply = house.get(path, key=RED, method="POST")
    assert status(reply) == 404
    assert "error" in json.loads(reply.split(b"\r\n\r\n", 1)[1])
