"""Providers that quote our key in an error inside a 200: the caller, the log, the metrics and the ledger never see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.hiding import HIDDEN, forms, hide
from mainstay.wire import eventstream
from tests.provider import SSE, Asked, Wire, chat_chunk, messages_events
from tests.running import Server
from tests.security.rig import ADMIN, BLUE, House, Upstream, until

CANARY = "canaryup"
KEY = f"{CANARY}stream/key+7f3a9c51d2=="
WIRES = ("openai", "openai-responses", "anthropic", "gemini", "bedrock")
SAYINGS = {
    "quoted": f"bad key {KEY} (Bearer {KEY})",
    "cut off": "x" * 1985 + KEY,
    "escaped": KEY,
}
PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
    "/v1/responses": {"input": "hello", "store": False},
}
WHENS = ("at once", "after content", "plain", "beside an answer")


def dumped(value: Any, saying: str) -> bytes:
    """JSON, as some write it who escape more than they must."""
    text = json.dumps(value)
    return (text.replace("/", "\\/").replace("+", "\\u002B") if saying == "escaped" else text).encode()


def sse(value: Any, saying: str = "", name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + dumped(value, saying) + b"\n\n"


def bedrock(kind: str, name: str, payload: bytes) -> bytes:
    which = ":event-type" if kind == "event" else ":exception-type"
    return eventstream.encode({":message-type": kind, which: name, ":content-type": "application/json"}, payload)


def content(wire: str) -> bytes:
    """The beginning of an answer."""
    match wire:
        case "openai":
            return chat_chunk({"role": "assistant", "content": "tok"})
        case "anthropic":
            return b"".join(messages_events()[:4])
        case "gemini":
            candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": "tok"}]}}
            return sse({"candidates": [candidate], "modelVersion": "m"})
        case "bedrock":
            delta = {"contentBlockIndex": 0, "delta": {"text": "tok"}}
            start = bedrock("event", "messageStart", b'{"role":"assistant"}')
            return start + bedrock("event", "contentBlockDelta", json.dumps(delta).encode())
        case _:
            created: dict[str, Any] = {
                "id": "resp_1",
                "object": "response",
                "created_at": 1,
                "status": "in_progress",
                "output": [],
            }
            item: dict[str, Any] = {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
            place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
            events: list[dict[str, Any]] = [
                {"type": "response.created", "response": {**created, "model": "m"}},
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                {"type": "response.content_part.added", **place, "part": part},
                {"type": "response.output_text.delta", **place, "delta": "tok"},
            ]
            return b"".join(sse({**event, "sequence_number": i}, name=event["type"]) for i, event in enumerate(events))


def error(wire: str, saying: str) -> bytes:
    """The wire's own event of an error."""
    said = SAYINGS[saying]
    match wire:
        case "openai":
            return sse({"error": {"message": said, "type": "server_error", "code": said}}, saying)
        case "anthropic":
            return sse({"type": "error", "error": {"type": "api_error", "message": said}}, saying, "error")
        case "gemini":
            return sse({"error": {"code": 500, "message": said, "status": "INTERNAL"}}, saying)
        case "bedrock":
            return bedrock("exception", "internalServerException", dumped({"message": said}, saying))
        case _:
            return sse(
                {"type": "error", "code": "server_error", "message": said, "sequence_number": 9}, saying, "error"
            )


def plain(wire: str, saying: str) -> bytes:
    """A whole body that is an error, with status 200."""
    said = SAYINGS[saying]
    values: dict[str, Any] = {
        "openai": {"error": {"message": said, "type": "server_error", "code": said}},
        "anthropic": {"type": "error", "error": {"type": "api_error", "message": said}},
        "gemini": {"error": {"code": 500, "message": said, "status": "INTERNAL"}},
        "bedrock": {"message": said, "__type": "InternalServerException"},
        "openai-responses": {
            **{"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": []},
            **{"status": "failed", "error": {"code": "server_error", "message": said}},
        },
    }
    return dumped(values[wire], saying)


def beside(saying: str) -> bytes:
    """An answer that broke off, and why, as some routers tell it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "tok"}, "finish_reason": "error"}
    told = {"message": SAYINGS[saying], "code": 502}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    return dumped({**answer, "choices": [{**choice, "error": told}]}, saying)


MODELS = {
    f"m.{wire}.{saying}.{when}".replace(" ", "_"): (wire, saying, when)
    for wire in WIRES
    for saying in SAYINGS
    for when in WHENS
}


async def behave(wire: Wire, asked: Asked) -> None:
    """The model's name tells what to do."""
    text = asked.body.decode() + asked.target
    kind, saying, when = next(MODELS[name] for name in MODELS if name in text)
    if not asked.stream:
        return await wire.plain(200, beside(saying) if (kind, when) == ("openai", WHENS[-1]) else plain(kind, saying))
    await wire.head(200, {"content-type": "application/vnd.amazon.eventstream"} if kind == "bedrock" else SSE)
    if when != "at once":
        await wire.chunk(content(kind))
    await wire.chunk(error(kind, saying))
    await wire.end()


def the_bundle(url: str) -> dict[str, Any]:
    never = {"failures": 1_000_000, "min_calls": 1_000_000}
    providers = [
        {"name": wire, "wire": wire, "base_url": url + ("/v1" if wire.startswith("openai") else ""), "api_key": KEY}
        for wire in WIRES
    ]
    models = [
        {"name": name, "target": f"{wire}/{name}", "price": {"input": 1, "output": 2}, "breaker": never}
        for name, (wire, _, _) in MODELS.items()
    ]
    routes = [{"name": f"r-{name}", "to": name, "retry": {"attempts": 1}, "rescue": "off"} for name in MODELS]
    keys = [
        {"name": "admin", "team": "house", "secret": ADMIN, "admin": True},
        {"name": "web", "team": "house", "secret": BLUE},
    ]
    return {"providers": providers, "models": models, "routes": routes, "teams": [{"name": "house"}], "keys": keys}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Upstream(behave) as upstream, Server(the_bundle(upstream.provider.url), MAINSTAY_LOG="DEBUG") as server:
        made = House(server, upstream)
        yield made
        made.http.close()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("path", PATHS)
def test_no_caller_is_told_the_key(house: House, wire: str, path: str) -> None:
    asked = len(house.upstream.provider.asked)
    for name in MODELS:
        if MODELS[name][0] != wire:
            continue
        stream = MODELS[name][2] not in ("plain", "beside an answer")
        reply = house.body(json.dumps({"model": f"r-{name}", "stream": stream, **PATHS[path]}), path, BLUE)
        asked += 1
        assert len(house.upstream.provider.asked) == asked, reply.text
        seen = reply.content + repr(reply.headers).encode()
        assert CANARY.encode() not in seen, (name, reply.text)
        if MODELS[name][1] == "quoted" and MODELS[name][2] in ("at once", "after content"):
            assert HIDDEN in reply.text, (name, reply.text)  # it is told, but for the key


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/images/generations"])
def test_nor_where_an_operation_only_passes_through(house: House, path: str) -> None:
    for name in MODELS:
        if MODELS[name][0] != "openai":
            continue
        for stream in (False, True):
            body = {"model": f"r-{name}", "prompt": "x", "input": "x", "stream": stream}
            reply = house.body(json.dumps(body), path, BLUE)
            assert CANARY.encode() not in reply.content + repr(reply.headers).encode(), (name, reply.text)


def test_nothing_that_is_left_behind_has_the_key(house: House) -> None:
    provider = house.upstream.provider
    stored = until(
        lambda: house.ask("GET", "/api/v1/health").json()["ledger"],
        lambda seen: seen["stored"] >= len(provider.asked) and seen["lag_bytes"] == 0,
        20,
    )
    assert stored["dropped"] == 0
    sought = CANARY.encode()
    assert sought not in house.server.log.read_bytes()
    for path in sorted(house.server.home.rglob("*")):
        if path.is_file():
            assert sought not in path.read_bytes(), path
        if path.suffix == ".parquet":
            rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()
            assert sought not in repr(rows).encode(), path
    for told in ("/metrics", "/api/v1/calls?limit=1000", "/api/v1/health"):
        assert sought not in house.ask("GET", told).content, told


def test_every_form_of_a_secret_is_hidden_in_every_part_of_an_error() -> None:
    secrets = forms([KEY, "short", ""])
    for said in (KEY, KEY.replace("/", "\\/"), KEY.replace("+", "\\u002b"), "canaryupstream%2Fkey%2B7f3a9c51d2%3D%3D"):
        body = f'{{"x":"{said}"}}'.encode()
        failure = UpstreamFailed(
            "server_error", f"a {said} b", body=body, provider_code=said, field=said, content_type=said
        )
        hide(failure, secrets)
        told = repr([failure.message, failure.args, failure.body, failure.provider_code, failure.field])
        assert CANARY not in told + failure.content_type
        assert failure.message == f"a {HIDDEN} b"
    cut = UpstreamFailed("server_error", f"a {KEY[:-1]}", body=b"b " + KEY[:9].encode())
    hide(cut, secrets)
    assert (cut.message, cut.body) == (f"a {HIDDEN}", b"b " + HIDDEN.encode())
    untouched = UpstreamFailed("server_error", f"a {KEY[:7]}", body=b"short")
    hide(untouched, secrets)
    assert (untouched.message, untouched.body) == (f"a {KEY[:7]}", b"short")
