"""Smuggling, splitting, floods and slow clients: through the gateway's door, on to control as well as to models."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.provider import Asked, Behaviour, Wire, chat, chat_reply
from tests.security.rig import ADMIN, RED, House, status, until

HIDDEN = b"GET /api/v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + ADMIN.encode() + b"\r\n\r\n"
PATHS = ["/api/v1/prices", "/v1/chat/completions", "/v1/responses/x", "/health/live", "/metrics"]


def head(path: str, *lines: str, key: str = RED, method: str = "POST") -> bytes:
    given = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}", *lines, "", ""]
    return "\r\n".join(given).encode("latin-1")


def replies(found: bytes) -> int:
    return found.count(b"HTTP/1.1 ")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "lines",
    [
        ("content-length: 5", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked", "content-length: 5"),
        ("content-length: 5", "content-length: 6"),
        ("content-length: 5, 5",),
        ("content-length: +5",),
        ("content-length: 5 ",) * 2,
        ("content-length: 0x5",),
        ("content-length: -1",),
        ("transfer-encoding: chunked", "transfer-encoding: identity"),
        ("transfer-encoding: xchunked",),
        ("transfer-encoding: chunked, identity",),
        ("transfer-encoding : chunked",),
        (" transfer-encoding: chunked",),
        ("transfer-encoding:\x0bchunked",),
        ("content-length : 5",),
        ("x: y\rtransfer-encoding: chunked",),
        ("x: y\ncontent-length: 5",),
        ("x\x00y: z",),
        ("x: y\x00z",),
        ("no colon",),
    ],
)
def test_what_two_readers_may_read_differently_is_refused_and_closed(
    house: House, path: str, lines: tuple[str, ...]
) -> None:
    found = house.raw(head(path, *lines) + b"0\r\n\r\n" + HIDDEN)
    assert 400 <= status(found) <= 501
    assert replies(found) == 1, found
    assert b"last4" not in found


@pytest.mark.parametrize("path", PATHS)
def test_a_body_is_never_the_next_request(house: House, path: str) -> None:
    found = house.raw(head(path, f"content-length: {len(HIDDEN)}", "connection: close") + HIDDEN)
    assert replies(found) == 1, found
    assert b"last4" not in found
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    found = house.raw(head(path, "transfer-encoding: chunked", "connection: close") + chunk)
    assert replies(found) == 1, found
    assert b"last4" not in found


@pytest.mark.parametrize(
    "chunks",
    [b"5\r\nhello\r\n0\r\n\r\n", b"5;ext=1\r\nhello\r\n0\r\nX-Mainstay-Local: 1\r\n\r\n"],
    ids=["chunks", "extension and trailer"],
)
def test_pipelined_requests_are_answered_in_order_each_with_its_own_key(house: House, chunks: bytes) -> None:
    first = head("/api/v1/keys", "transfer-encoding: chunked", method="GET") + chunks
    second = head("/api/v1/keys", "connection: close", key=ADMIN, method="GET")
    found = house.raw(first + second)
    assert replies(found) == 2, found
    assert status(found) == 403
    assert b"HTTP/1.1 200" in found


def test_hop_headers_do_not_reach_control(house: House) -> None:
    for line in ("connection: authorization, host", "upgrade: h2c", "te: trailers", "expect: 100-continue"):
        found = house.get("/api/v1/keys", line)
        assert b"HTTP/1.1 200" in found, (line, found[:200])
    found = house.get("/api/v1/keys", "connection: upgrade, close", "upgrade: websocket", key=None)
    assert status(found) == 401


def test_oversized_heads_targets_and_bodies_are_refused(house: House) -> None:
    assert status(house.get("/api/v1/keys", f"x: {'y' * 70_000}")) == 431
    assert status(house.get("/api/v1/keys", *(f"x{i}: y" for i in range(200)))) == 431
    assert status(house.get("/api/v1/keys?" + "x" * 10_000)) == 414
    assert status(house.raw(head("/v1/chat/completions", f"content-length: {10**12}"))) == 413
    assert status(house.raw(head("/api/v1/bundles", f"content-length: {10**12}", key=ADMIN))) == 413
    house.upstream.provider.script.append(echo)
    assert house.chat(user="x" * 100_000).status_code == 200


async def echo(wire: Wire, asked: Asked) -> None:
    await wire.plain(200, chat_reply(["ok"]))


def test_slow_clients_hold_nobody_else(house: House) -> None:
    """Heads and bodies that never come whole, and replies that nobody reads, on model and control paths."""
    begun = [
        head("/api/v1/keys", method="GET")[:-2],
        head("/v1/chat/completions", "content-length: 1000") + b"{",
        head("/api/v1/bundles", "content-length: 1000", key=ADMIN) + b"{",
        head("/api/v1/bundles", "transfer-encoding: chunked", key=ADMIN) + b"5\r\n{",
        head("/metrics", method="GET") * 50,
        head("/api/openapi.json", method="GET") * 50,
    ]
    with contextlib.ExitStack() as stack:
        for sent in begun * 30:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", house.server.port), timeout=10))
            connection.sendall(sent)
        house.upstream.provider.script.append(chat(["quick"]))
        started = time.monotonic()
        assert house.chat().status_code == 200
        assert house.ask("GET", "/api/v1/keys").status_code == 200
        assert time.monotonic() - started < 8


def test_a_flood_at_control_does_not_slow_model_calls_down(house: House) -> None:
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            house.get("/api/v1/calls?limit=1000&filter=" + "a%20and%20" * 50)

    floods = [threading.Thread(target=flood) for _ in range(8)]
    for one in floods:
        one.start()
    try:
        for _ in range(10):
            assert house.chat().status_code == 200
    finally:
        ended.set()
        for one in floods:
            one.join()


def answers_with(*headers: tuple[str, str]) -> Behaviour:
    async def behave(wire: Wire, asked: Asked) -> None:
        body = chat_reply(["ok"])
        lines = [f"{name}: {value}" for name, value in headers]
        first = ["HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {len(body)}", *lines, "", ""]
        await wire.send("\r\n".join(first).encode("latin-1") + body)

    return behave


@pytest.mark.parametrize(
    "value",
    ["a\r\nset-cookie: x=1", "a\nset-cookie: x=1", "a\rset-cookie: x=1", "a\x00b", "caf\xe9", "\x85set-cookie: x=1"],
)
@pytest.mark.parametrize("name", ["x-request-id", "request-id", "openai-version", "x-ratelimit-remaining-tokens"])
def test_a_providers_headers_do_not_split_the_reply(house: House, name: str, value: str) -> None:
    house.upstream.provider.script.append(answers_with((name, value)))
    reply = house.chat()
    assert "set-cookie" not in reply.headers
    assert reply.status_code in (200, 502, 503)
    house.upstream.provider.script.clear()


@pytest.mark.parametrize(
    "model", ["a\r\nset-cookie: x=1", "a\nb", "a\x00b", "\u2028set-cookie: x=1", "caf\xe9", "\U0001f600", "x" * 5000]
)
def test_a_models_name_does_not_split_the_reply(house: House, model: str) -> None:
    for asked in (house.chat(model=model), house.ask("GET", "/v1/models/" + "%0d%0aset-cookie:%20x")):
        assert asked.status_code == 404
        assert "set-cookie" not in asked.headers


@pytest.mark.parametrize("name", ["x-mainstay-tags", "x-mainstay-user", "x-mainstay-session", "x-mainstay-workflow"])
@pytest.mark.parametrize("value", ["a=%0d%0aset-cookie:%20x%3d1", "a=%00", "a=%e2%80%a8set-cookie:x", "caf\xe9=1"])
def test_tags_do_not_split_the_reply_nor_the_metrics(house: House, name: str, value: str) -> None:
    reply = house.chat(headers={name: value.encode("latin-1")})  # type: ignore[dict-item]
    assert reply.status_code == 200, reply.text
    assert "set-cookie" not in reply.headers
    call = reply.headers["x-mainstay-call"]
    until(lambda: house.ask("GET", f"/api/v1/calls/{call}").status_code, lambda code: code == 200)
    assert "set-cookie: x" not in house.ask("GET", "/metrics").text
