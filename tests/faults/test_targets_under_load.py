"""Targets that flap, are slow, full or down: few probes, hedges within their bounds, queues by priority, no storms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio

from tests.faults.rig import NEVER, Rig, Shape, ask, made, rigged, together
from tests.provider import TOKENS, Asked, Behaviour, Provider, Wire, chat, messages, silent, status
from tests.running import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
PATIENT = {"connect": "2s", "first_token": "8s", "idle": "8s", "plain": "8s", "total": "20s"}
QUICK = {"breaker": {"failures": 3, "open_for": "300ms"}}

SHAPES = {
    "flap": Shape("oa", 8, models=QUICK),
    "probe": Shape("o", 2, models=QUICK),
    "hedge": Shape("oa", 6, {"timeouts": PATIENT, "hedge": {"after": "150ms", "max_share": 1}}),
    "cheap": Shape("oa", 2, {"timeouts": PATIENT, "hedge": {"after": "100ms", "max_usd": 0.00001, "max_share": 1}}),
    "share": Shape("oa", 1, {"timeouts": PATIENT, "hedge": {"after": "20ms", "max_share": 0}}, {"breaker": NEVER}),
    "gate": Shape(
        "o", 3, {"timeouts": PATIENT}, {"concurrency": {"limit": 1, "queue": 3, "wait": "5s"}, "breaker": NEVER}
    ),
    "short": Shape("o", 1, {"timeouts": PATIENT}, {"concurrency": {"limit": 1, "queue": 9, "wait": "200ms"}}),
    "full": Shape("oa", 1, {"timeouts": PATIENT}, each=[{"concurrency": {"limit": 1}}, {}]),
    "storm": Shape("o", 1, models={"breaker": NEVER}),
}
SECRETS = {"low": "ms-low-secret-of-the-tests", "high": "ms-high-secret-of-the-tests"}
KEYS = [
    {"name": name, "team": "tests", "secret": secret, "priority": priority}
    for (name, secret), priority in zip(SECRETS.items(), (-5, 5), strict=True)
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    keys = made({}, {"o": "http://127.0.0.1:1", "g": "http://127.0.0.1:1", "a": "http://127.0.0.1:1"})["keys"]
    async with rigged(SHAPES, more={"keys": [*keys, *KEYS]}) as made_rig:
        yield made_rig


async def until(good: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not good():
            await asyncio.sleep(0.005)


class Held:
    """A behaviour that answers when it is let."""

    def __init__(self, then: Behaviour) -> None:
        self.go = asyncio.Event()
        self._then = then

    async def __call__(self, wire: Wire, asked: Asked) -> None:
        await self.go.wait()
        await self._then(wire, asked)


@BOTH
async def test_a_primary_that_flaps_is_left_alone_and_found_again(rig: Rig, stream: bool) -> None:
    for down in (status(503), status(500)):
        case = rig.take("flap")
        case.targets[0].default = down
        began = time.monotonic()
        served = 0
        while time.monotonic() - began < 1.5:
            (await case.ask(stream=stream)).is_whole()
            served += 1
        # Until it opens, three failures; from then on a probe each 300 ms. Traffic was served by the other throughout.
        assert case.asked[0] <= 3 + (time.monotonic() - began) / 0.3 + 1, case.asked
        assert case.asked[1] == served > 5
        case.targets[0].default = chat()
        recovered = time.monotonic()
        asked = case.asked[0]
        while case.asked[0] < asked + 5:
            answer = await case.ask(stream=stream)
            answer.is_whole()
            assert time.monotonic() - recovered < 10
        assert answer.headers["x-mainstay-model"] == case.models[0]
        assert time.monotonic() - recovered < 5


async def test_concurrent_calls_send_one_probe(rig: Rig) -> None:
    case = rig.take("flap")
    case.targets[0].default = status(500)
    for _ in range(3):
        (await case.ask(stream=False)).is_whole()
    before = case.asked[0]
    held = Held(chat())
    case.targets[0].default = held
    await asyncio.sleep(0.35)  # until the next probe is due
    probing = asyncio.ensure_future(case.ask(stream=True))
    await until(lambda: case.asked[0] == before + 1)
    await together([_whole(case.ask(stream=False)) for _ in range(30)])
    assert case.asked[0] == before + 1
    held.go.set()
    (await probing).is_whole()
    (await case.ask(stream=False)).is_whole()
    assert case.asked[0] == before + 2, "it is back"


async def _whole(asked: Awaitable[object]) -> None:
    answer = await asked
    answer.is_whole()  # type: ignore[attr-defined]


async def test_a_long_answer_to_the_probe_brings_the_target_back_at_once(rig: Rig) -> None:
    case = rig.take("flap")
    case.targets[0].default = status(500)
    for _ in range(3):
        (await case.ask(stream=False)).is_whole()
    going = asyncio.Event()

    async def long(wire: Wire, asked: Asked) -> None:
        from tests.provider import SSE, chat_events

        if not asked.stream:
            return await chat()(wire, asked)
        await wire.head(200, SSE)
        events = chat_events()
        for event in events[:5]:
            await wire.chunk(event)
        while not going.is_set():
            await wire.chunk(b'data: {"choices":[{"index":0,"delta":{"content":""}}]}\n\n')
            await asyncio.sleep(0.1)
        for event in events[5:]:
            await wire.chunk(event)
        await wire.end()

    case.targets[0].default = long
    before = case.asked[0]
    await asyncio.sleep(0.35)
    probing = asyncio.ensure_future(case.ask(stream=True))
    await until(lambda: case.asked[0] == before + 1)
    await asyncio.sleep(0.1)
    answer = await case.ask(stream=False)
    answer.is_whole()
    assert answer.headers["x-mainstay-model"] == case.models[0]
    going.set()
    (await probing).is_whole()


async def test_with_every_breaker_open_one_call_at_a_time_probes(rig: Rig) -> None:
    case = rig.take("probe")
    case.targets[0].default = status(500)
    for _ in range(3):
        (await case.ask(stream=False)).is_error()
    held = Held(chat())
    case.targets[0].default = held
    before = case.asked[0]
    probing = asyncio.ensure_future(case.ask(stream=False))
    await until(lambda: case.asked[0] == before + 1)
    refused = await case.ask(stream=True)
    refused.is_error(503)
    assert int(refused.headers["retry-after"]) >= 1
    assert case.asked[0] == before + 1
    held.go.set()
    (await probing).is_whole()
    (await case.ask(stream=False)).is_whole()


@BOTH
async def test_a_hedge_wins_and_the_slower_is_cancelled(rig: Rig, stream: bool) -> None:
    case = rig.take("hedge")
    case.targets[0].default = silent
    answer = await case.ask(stream=stream)
    answer.is_whole()
    assert case.asked == [1, 1]
    assert answer.headers["x-mainstay-model"] == case.models[1]
    async with asyncio.timeout(1):
        await case.targets[0].asked[0].disconnected.wait()
    record = await rig.record(answer.call)
    assert sorted(one["error"] or "" for one in record["attempts"]) == ["", "cancelled"]
    # The first one is quick: nobody else is asked.
    case = rig.take("hedge")
    (await case.ask(stream=stream)).is_whole()
    assert case.asked == [1, 0]
    # The first one is slow and still the quicker.
    case = rig.take("hedge")

    async def slow(wire: Wire, asked: Asked) -> None:
        await until(lambda: len(case.targets[1].asked) == 1)
        await chat()(wire, asked)

    case.targets[0].default, case.targets[1].default = slow, silent
    answer = await case.ask(stream=stream)
    answer.is_whole()
    assert answer.headers["x-mainstay-model"] == case.models[0]
    async with asyncio.timeout(1):
        await case.targets[1].asked[0].disconnected.wait()


async def test_hedges_keep_within_their_bounds(rig: Rig) -> None:
    case = rig.take("cheap")
    case.targets[0].default = chat(pause=0.0)

    async def slow(wire: Wire, asked: Asked) -> None:
        await asyncio.sleep(0.3)
        await chat()(wire, asked)

    case.targets[0].default = slow
    (await case.ask(stream=False)).is_whole()
    assert case.asked == [1, 0], "a second attempt could cost too much"
    case = rig.take("share")
    case.targets[0].default = slow
    await together([_whole(case.ask(stream=False)) for _ in range(40)])
    assert case.asked[1] <= 10, "beyond a small reserve no share of calls may be hedged"


async def test_a_queue_is_bounded_and_goes_by_priority(rig: Rig) -> None:
    case = rig.take("gate")
    held = Held(chat())
    case.targets[0].default = held
    order: list[str] = []

    async def one(name: str, secret: str) -> None:
        answer = await ask(
            rig.client, case.name, stream=False, headers={"authorization": f"Bearer {secret}"}, user=name
        )
        answer.is_whole()
        order.append(name)

    running = [asyncio.ensure_future(one("first", SECRETS["low"]))]
    await until(lambda: case.asked[0] == 1)
    for name in ("low", "high", "middle"):
        secret = SECRETS.get(name, "ms-test-secret-of-the-tests")
        running.append(asyncio.ensure_future(one(name, secret)))
        await asyncio.sleep(0.05)
    shed = await case.ask(stream=True)
    shed.is_error(503)
    assert int(shed.headers["retry-after"]) >= 1
    assert case.asked[0] == 1
    held.go.set()
    await asyncio.gather(*running)
    assert [asked.json["user"] for asked in case.targets[0].asked] == ["first", "high", "middle", "low"]
    (await case.ask(stream=False)).is_whole()


async def test_nobody_waits_longer_than_the_queue_or_the_call_allows(rig: Rig) -> None:
    for shape, headers, most in (("short", {}, 1.0), ("gate", {"x-mainstay-timeout": "300ms"}, 1.0)):
        case = rig.take(shape)
        held = Held(chat())
        case.targets[0].default = held
        running = asyncio.ensure_future(case.ask(stream=False))
        await until(lambda case=case: case.asked[0] == 1)
        began = time.monotonic()
        answer = await case.ask(stream=False, headers=headers)
        answer.is_error(503)
        assert time.monotonic() - began < most
        held.go.set()
        (await running).is_whole()
        (await case.ask(stream=False)).is_whole()


async def test_a_full_target_is_passed_over(rig: Rig) -> None:
    case = rig.take("full")
    held = Held(chat())
    case.targets[0].default = held
    running = asyncio.ensure_future(case.ask(stream=False))
    await until(lambda: case.asked[0] == 1)
    answer = await case.ask(stream=True)
    answer.is_whole()
    assert answer.headers["x-mainstay-model"] == case.models[1]
    held.go.set()
    (await running).is_whole()


async def test_retries_cannot_storm(rig: Rig) -> None:
    case = rig.take("storm")
    case.targets[0].default = status(503)
    for _ in range(4):
        await asyncio.gather(*[case.ask(stream=False) for _ in range(50)])
    assert 200 < case.asked[0] <= 200 + 10 + 0.2 * 200, case.asked


async def test_sigterm_lets_a_running_stream_finish() -> None:
    async with Provider(chat(TOKENS, pause=0.01)) as o, Provider(messages()) as a:
        shapes = {"o": Shape("o", 1)}
        config = made(shapes, {"o": o.url, "g": o.url, "a": a.url})
        with Server(config) as server:
            async with server.client() as client:
                started = asyncio.Event()

                async def stream() -> bytes:
                    body = {"model": "o-0", "messages": [{"role": "user", "content": "x"}], "stream": True}
                    got = b""
                    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                        async for piece in reply.aiter_raw():
                            got += piece
                            started.set()
                    return got

                running = asyncio.ensure_future(stream())
                await started.wait()
                stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
                got = await running
                assert got.endswith(b"data: [DONE]\n\n")
                assert b"tok60 " in got
                assert await stopping == 0
                with pytest.raises(httpx.TransportError):
                    await client.get("/health/live")
