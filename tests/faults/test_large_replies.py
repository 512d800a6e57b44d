"""Large plain replies: whole for the caller, and few enough at a time that the gateway stays small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.faults.rig import Case, Rig, Shape, rigged
from tests.provider import Asked, Behaviour, Wire, chat, chat_reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTE = 1024 * 1024
MOST = 140 * MEGABYTE
"""Resident bytes of a gateway, whatever comes: 120 MB is the goal, and here is what a slow machine adds."""
WRITTEN_ANEW = 160 * MEGABYTE
"""The same while a reply of 8 MB is translated: into a Responses object, it takes about nine times its size."""
SLOW = {"connect": "20s", "first_token": "20s", "idle": "20s", "plain": "20s", "total": "60s"}
SHAPES = {
    "o": Shape("o", 8, {"timeouts": SLOW}, again=True),
    "cached": Shape("o", 1, {"timeouts": SLOW, "cache": {"ttl": "1h"}}, again=True),
    "hasty": Shape("o", 1, {"timeouts": {**SLOW, "idle": "500ms"}, "retry": {"attempts": 1}}, again=True),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


def picture(size: int, chunked: bool) -> Behaviour:
    """An image of ``size`` bytes, in base64, as OpenAI sends it."""
    usage = b'"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}'
    data = b'{"created":1,"data":[{"b64_json":"' + b"A" * size + b'"}],' + usage + b"}"

    async def behave(wire: Wire, asked: Asked) -> None:
        if not chunked:
            return await wire.plain(200, data)
        await wire.head(200, {"content-type": "application/json"})
        for at in range(0, len(data), 65536):
            await wire.chunk(data[at : at + 65536])
        await wire.end()

    return behave


@asynccontextmanager
async def watched(rig: Rig) -> AsyncGenerator[list[int]]:
    """The most resident bytes of the gateway meanwhile, as the only item of a list."""
    gateway = rig.server.children("gateway")[0]
    most = [gateway.memory_info().rss]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], gateway.memory_info().rss)
            await asyncio.sleep(0.005)

    watching = asyncio.ensure_future(watch())
    try:
        yield most
    finally:
        watching.cancel()


async def drawn(case: Case) -> int:
    """The bytes of the answer to a request for an image."""
    request = {"model": case.models[0], "prompt": "a house"}
    reply = await case.rig.client.post("/v1/images/generations", json=request)
    assert reply.status_code == 200, reply.text[:300]
    assert reply.json()["usage"]["output_tokens"] == 2
    return len(reply.content)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_many_large_pictures_at_once_are_all_whole_and_held_a_few_at_a_time(rig: Rig, chunked: bool) -> None:
    case = rig.take("o")
    case.targets[0].default = picture(20 * MEGABYTE, chunked)
    async with watched(rig) as most:
        sizes = await asyncio.gather(*[drawn(case) for _ in range(8)])
    assert min(sizes) > 20 * MEGABYTE
    assert most[0] < MOST, most[0] / MEGABYTE


async def test_a_full_cache_leaves_the_gateway_small(rig: Rig) -> None:
    """24 MiB of entries of 100 KB, which is all that the cache takes by itself, and large replies beside them."""
    case = rig.take("cached")
    case.targets[0].default = chat(["x" * 100_000])
    for start in range(0, 300, 10):
        several = [case.ask(stream=bool(i % 2), user=f"nobody {start + i}") for i in range(10)]
        for answer in await asyncio.gather(*several):
            assert answer.success
    assert rig.gateway_bytes() < 110 * MEGABYTE, rig.gateway_bytes() / MEGABYTE
    other = rig.take("o")
    other.targets[0].default = picture(20 * MEGABYTE, True)
    async with watched(rig) as most:
        await asyncio.gather(*[drawn(other) for _ in range(6)])
    assert most[0] < MOST, most[0] / MEGABYTE


async def test_replies_that_nobody_takes_leave_no_room_for_more_and_that_is_said(rig: Rig) -> None:
    """Callers who do not read hold what was written for them; the next large reply is a 503, a small one is not."""
    case, hasty = rig.take("o"), rig.take("hasty")
    for one in (case, hasty):
        one.targets[0].default = picture(20 * MEGABYTE, False)
    request = rig.client.build_request(
        "POST", "/v1/images/generations", json={"model": case.models[0], "prompt": "a house"}
    )
    deaf: list[asyncio.StreamWriter] = []
    for _ in range(2):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.server.port, limit=1024)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        writer.write(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        deaf.append(writer)
    body = {"model": hasty.name, "prompt": "a house"}
    async with asyncio.timeout(20):
        while (reply := await rig.client.post("/v1/images/generations", json=body)).status_code == 200:
            pass  # the deaf ones have not been written to yet
    assert reply.status_code == 503, reply.text
    assert int(reply.headers["retry-after"]) >= 1
    assert "large replies" in reply.json()["error"]["message"]
    assert (await case.rig.record(reply.headers["x-mainstay-call"]))["status"] == 503
    small = rig.take("o")
    (await small.ask(stream=False)).is_whole()
    for writer in deaf:
        writer.transport.abort()
    async with asyncio.timeout(20):
        while (await rig.client.post("/v1/images/generations", json=body)).status_code != 200:
            pass  # what they held is given back


async def test_a_large_reply_that_must_be_written_anew_is_bounded_lower(rig: Rig) -> None:
    case = rig.take("o")
    said = chat_reply(["x" * (8 * MEGABYTE)])

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.plain(200, said)

    case.targets[0].default = behave
    async with watched(rig) as most:
        for caller in ("openai", "anthropic", "responses"):
            answer = await case.ask(stream=False, caller=caller)
            assert answer.success, answer.error
            assert len(answer.text) == 8 * MEGABYTE
    assert most[0] < WRITTEN_ANEW, most[0] / MEGABYTE
    said = chat_reply(["x" * (17 * MEGABYTE)])
    assert (await case.ask(stream=False)).success
    (await case.ask(stream=False, caller="anthropic")).is_error(502)
