"""Bodies that are not what they should be, cut, or far too large: recovered or a clean error, and memory stays bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.rig import Case, Rig, Shape, rigged, together
from tests.provider import SSE, Asked, Behaviour, Wire, chat_events, chat_reply, messages_reply, status

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTE = 1024 * 1024
MOST = 120 * MEGABYTE
CALLERS = ("openai", "anthropic", "responses")
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
JSON = {"content-type": "application/json"}
HTML = b"<html><head><title>Welcome</title></head><body>secret-portal-page</body></html>"
SLOW = {"connect": "2s", "first_token": "5s", "idle": "5s", "plain": "5s", "total": "30s"}

SHAPES = {
    "o": Shape("o", 8, {"timeouts": SLOW}, again=True),
    "oa": Shape("oa", 8, {"timeouts": SLOW}, again=True),
    "ao": Shape("ao", 8, {"timeouts": SLOW}, again=True),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


def body(data: bytes, kind: str = "application/json", code: int = 200, **headers: str) -> Behaviour:
    """This body, whole, whatever was asked."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return status(code, data, {"content-type": kind, **more})


def short(data: bytes, by: int, how: str) -> Behaviour:
    """A body that ends before the length that its head names."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(200, {**JSON, "content-length": str(len(data))}, chunked=False)
        await wire.send(data[: len(data) - by])
        if how == "reset":
            await asyncio.sleep(0.05)
            return wire.reset()
        wire.writer.close()

    return behave


def torn_chunks(data: bytes, how: str) -> Behaviour:
    """A chunked body that ends without its last chunk."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(200, JSON)
        await wire.chunk(data)
        if how == "reset":
            await asyncio.sleep(0.05)
            return wire.reset()
        wire.writer.close()

    return behave


WRONG: dict[str, Behaviour] = {
    "html": body(HTML, "text/html"),
    "html that says it is json": body(HTML),
    "html with 502": body(HTML, "text/html", 502),
    "nothing at all": body(b""),
    "not json": body(b'{"id": "chatcmpl-1", "choices": [}'),
    "cut json of the right length": body(chat_reply()[:-40]),
    "a list": body(b"[]"),
    "a string": body(b'"hello"'),
    "null": body(b"null"),
    "an empty object": body(b"{}"),
    "no choices": body(b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[]}'),
    "invalid utf-8": body(b'{"id":"\xff\xfe","choices":[{"index":0,"message":{"content":"\xff"}}]}'),
    "an error with status 200": body(json.dumps({"error": {"message": "upstream is down", "code": 502}}).encode()),
    "short, closed": short(chat_reply(), 20, "close"),
    "short, reset": short(chat_reply(), 20, "reset"),
    "chunks without an end": torn_chunks(chat_reply(), "close"),
    "chunks, reset": torn_chunks(chat_reply()[:-20], "reset"),
    "broken gzip": body(b"\x1f\x8b\x08\x00nonsense" + bytes(100), content_encoding="gzip"),
    "cut gzip": body(gzip.compress(chat_reply())[:-12], content_encoding="gzip"),
    "an encoding nobody asked for": body(chat_reply(), content_encoding="br"),
}


@BOTH
@pytest.mark.parametrize("wrong", WRONG)
async def test_an_unreadable_reply_is_recovered_or_a_clean_error(rig: Rig, wrong: str, stream: bool) -> None:
    async def judged(caller: str) -> None:
        case = rig.take("oa")
        case.targets[0].default = WRONG[wrong]
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_whole()
        assert case.asked[1] == 1, (case.asked, answer.why)
        alone = rig.take("o")
        alone.targets[0].default = WRONG[wrong]
        answer = await alone.ask(stream=stream, caller=caller)
        answer.is_error()
        assert answer.status in (502, 503), (answer.status, answer.error)
        assert b"secret-portal-page" not in answer.raw
        assert answer.headers["content-type"].startswith("application/json")
        assert 1 <= alone.asked[0] <= 4

    await together([judged(caller) for caller in CALLERS])


async def test_a_plain_answer_to_a_stream_is_streamed(rig: Rig) -> None:
    for caller in CALLERS:
        case = rig.take("o")
        case.targets[0].default = body(chat_reply())
        (await case.ask(stream=True, caller=caller)).is_whole()
        case = rig.take("ao")
        case.targets[0].default = body(messages_reply())
        (await case.ask(stream=True, caller=caller)).is_whole()
        assert case.asked == [1, 0]


@BOTH
async def test_compressed_answers_are_read(rig: Rig, stream: bool) -> None:
    async def packed(wire: Wire, asked: Asked) -> None:
        if not stream:
            data = gzip.compress(chat_reply())
            return await wire.plain(200, data, {"content-encoding": "gzip"})
        await wire.head(200, {**SSE, "content-encoding": "gzip"})
        packer = zlib.compressobj(wbits=31)
        for event in chat_events():
            await wire.chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
        await wire.chunk(packer.flush())
        await wire.end()

    for caller in CALLERS:
        case = rig.take("o")
        case.targets[0].default = packed
        (await case.ask(stream=stream, caller=caller)).is_whole()


def bomb(kind: str) -> Behaviour:
    """A gigabyte of zeros in a megabyte."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(16 * MEGABYTE)
    start = b"data: " if "event-stream" in kind else b'{"choices": "'
    data = packer.compress(start) + b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
    return body(data, kind, content_encoding="gzip")


def bomb_of_events() -> Behaviour:
    """More than a hundred megabytes of events, all alike and all good, in a few hundred kilobytes."""
    packer = zlib.compressobj(9, wbits=31)
    many = chat_events()[5] * 20_000
    data = b"".join(packer.compress(many) for _ in range(40)) + packer.flush()
    return body(data, "text/event-stream", content_encoding="gzip")


def huge(kind: str, chunked: bool, piece: bytes, size: int = 100 * MEGABYTE) -> Behaviour:
    """A body of ``size`` bytes."""

    async def behave(wire: Wire, asked: Asked) -> None:
        head = {"content-type": kind}
        if not chunked:
            head["content-length"] = str(size // len(piece) * len(piece))
        await wire.head(200, head, chunked)
        for _ in range(size // len(piece)):
            await (wire.chunk(piece) if chunked else wire.send(piece))
        if chunked:
            await wire.end()

    return behave


BOMBS: dict[str, tuple[bool, Behaviour]] = {
    "gzip bomb": (False, bomb("application/json")),
    "gzip bomb as a stream": (True, bomb("text/event-stream")),
    "gzip bomb of events": (True, bomb_of_events()),
    "gzip bomb of json to a stream": (True, bomb("application/json")),
    "100 MB with a length": (False, huge("application/json", False, b" " * MEGABYTE)),
    "100 MB in chunks": (False, huge("application/json", True, b" " * MEGABYTE)),
    "100 MB of html to a stream": (True, huge("text/html", False, b"<p>" * MEGABYTE)),
    "100 MB of html in chunks to a stream": (True, huge("text/html", True, b"<p>" * MEGABYTE)),
    "one event of 100 MB": (True, huge("text/event-stream", True, b"data: " + b"x" * MEGABYTE)),
    "100 MB of comments": (True, huge("text/event-stream", True, b": hello\n\n" * 100_000)),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_too_much_is_refused_and_memory_stays_bounded(rig: Rig, name: str) -> None:
    stream, behaviour = BOMBS[name]
    gateway = rig.server.children("gateway")[0]
    most = 0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, gateway.memory_info().rss)
            await asyncio.sleep(0.01)

    async def recovered(case: Case) -> None:
        case.targets[0].default = behaviour
        answer = await case.ask(stream=stream)
        if name == "gzip bomb of events":  # its beginning is a good answer and has reached the caller
            assert answer.success or answer.error is not None
        else:
            answer.is_whole()

    async def told(case: Case) -> None:
        case.targets[0].default = behaviour
        answer = await case.ask(stream=stream)
        answer.is_error()

    watching = asyncio.ensure_future(watch())
    try:
        await together([recovered(rig.take("oa")), told(rig.take("o"))])
    finally:
        done.set()
        await watching
    assert gateway.is_running()
    assert rig.server.children("gateway")[0].pid == gateway.pid
    assert most < MOST, most / MEGABYTE
    good = rig.take("o")
    (await good.ask(stream=stream)).is_whole()


@BOTH
async def test_an_endless_error_body_is_cut(rig: Rig, stream: bool) -> None:
    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(500, {"content-type": "text/html"})
        while True:
            await wire.chunk(b"<p>" * MEGABYTE)

    case = rig.take("oa")
    case.targets[0].default = behave
    (await case.ask(stream=stream)).is_whole()
    assert rig.gateway_bytes() < MOST
