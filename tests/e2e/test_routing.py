"""Routes of the running product: the quickest of two real providers, what is sticky, what is passed over, changes under way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.provider import Asked, Behaviour, Provider, Wire, chat
from tests.running import Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = ["one ", "two ", "three"]
ROUTES: dict[str, Any] = {
    "quick": {"fastest": ["a", "b"]},
    "shared": {"weighted": {"a": 1, "b": 1, "never": 0}, "sticky": "session"},
    "cases": {
        "when": [
            {"if": {"tags": {"tier": "free"}}, "to": "a"},
            {"if": {"tools": True}, "to": {"fallback": ["plain", "b"]}},
            {"if": {"min_tokens": 500}, "to": {"fallback": ["short", "shared"]}},
        ],
        "else": "org/model:7b",
    },
    "cheap": {"cheapest": ["unpriced", "dear", "a"]},
    "in/route:x": {"fallback": ["cases"]},
}


class Bench:
    def __init__(self, server: Server, alpha: Provider, beta: Provider, client: httpx.AsyncClient) -> None:
        self.server, self.alpha, self.beta, self.client = server, alpha, beta, client

    async def ask(self, model: str, text: str = "hi", **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 3, **more}
        reply = await self.client.post("/v1/chat/completions", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        return reply

    async def answers(self, model: str, count: int, **more: Any) -> Counter[str]:
        return Counter([(await self.ask(model, **more)).headers["x-mainstay-model"] for _ in range(count)])


def made(alpha: Provider, beta: Provider) -> dict[str, Any]:
    price = {"input": 1, "output": 10}
    models: dict[str, Any] = {
        "a": {"target": "alpha/a", "price": price},
        "b": {"target": "beta/b", "price": price},
        "never": {"target": "alpha/never", "price": price},
        "plain": {"target": "alpha/plain", "tools": False},
        "short": {"target": "alpha/short", "context_window": 100},
        "dear": {"target": "alpha/dear", "price": {"input": 100, "output": 100}},
        "unpriced": {"target": "alpha/unpriced"},
        "org/model:7b": {"target": "alpha/org/model:7b"},
    }
    places = {"alpha": f"openai@{alpha.url}/v1", "beta": f"openai@{beta.url}/v1"}
    return bundle(places, models, routes=[{"name": name, "to": to} for name, to in ROUTES.items()])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with Provider(chat(TOKENS)) as alpha, Provider(chat(TOKENS)) as beta:
        with Server(made(alpha, beta)) as server:
            async with server.client() as client:
                yield Bench(server, alpha, beta, client)


def after(seconds: float) -> Behaviour:
    async def behave(wire: Wire, asked: Asked) -> None:
        await asyncio.sleep(seconds)
        await chat(TOKENS)(wire, asked)

    return behave


@pytest.mark.parametrize("stream", [True, False])
async def test_the_quicker_of_two_is_found_and_left_when_it_slows(bench: Bench, stream: bool) -> None:
    bench.alpha.default, bench.beta.default = after(0.0), after(0.15)
    await bench.answers("quick", 3, stream=stream)
    assert (await bench.answers("quick", 30, stream=stream))["a"] >= 28
    bench.alpha.default = after(0.6)
    for _ in range(30):
        if (await bench.answers("quick", 1, stream=stream))["b"]:
            break
    else:
        raise AssertionError("it stays with the one that has become slow")
    bench.alpha.default = bench.beta.default = chat(TOKENS)


async def test_a_session_stays_with_its_choice(bench: Bench) -> None:
    first: set[str] = set()
    for i in range(16):
        found = await bench.answers("shared", 3, headers={"x-mainstay-session": f"s{i}"})
        assert len(found) == 1
        first |= set(found)
    assert first == {"a", "b"}


async def test_cases_and_what_is_passed_over_are_told(bench: Bench) -> None:
    free = await bench.ask("cases", headers={"x-mainstay-tags": "tier=free"})
    assert (free.headers["x-mainstay-model"], free.headers["x-mainstay-provider"]) == ("a", "alpha")
    assert free.headers["x-mainstay-why"] == "when[0]; a"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    tools = await bench.ask("cases", tools=[tool])
    assert tools.headers["x-mainstay-why"] == "when[1]; plain:no tools; b"
    long = await bench.ask("cases", "word " * 600)
    assert long.headers["x-mainstay-why"].startswith("when[2]; weighted:")
    assert "short:context of 100" in long.headers["x-mainstay-why"]
    other = await bench.ask("in/route:x")
    assert (other.headers["x-mainstay-model"], other.json()["model"]) == ("org/model:7b", "org/model:7b")
    assert bench.alpha.asked[-1].json["model"] == "org/model:7b"
    assert (await bench.answers("cheap", 2)) == {"a": 2}


async def test_a_call_has_the_time_that_its_caller_gives_it(bench: Bench) -> None:
    bench.alpha.default = after(30)
    began = asyncio.get_running_loop().time()
    reply = await bench.client.post(
        "/v1/chat/completions",
        json={"model": "a", "messages": [{"role": "user", "content": "x"}]},
        headers={"x-mainstay-timeout": "300ms"},
    )
    bench.alpha.default = chat(TOKENS)
    assert reply.status_code == 504, reply.text
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_call_keeps_the_plan_it_began_with(bench: Bench) -> None:
    go = asyncio.Event()

    async def held(wire: Wire, asked: Asked) -> None:
        await go.wait()
        await chat(TOKENS)(wire, asked)

    bench.alpha.script = [held]
    count = len(bench.alpha.asked)
    under_way = asyncio.ensure_future(bench.ask("dear", stream=True))
    await eventually(lambda: len(bench.alpha.asked), lambda asked: asked > count)
    changed = made(bench.alpha, bench.beta)
    for model in changed["models"]:
        if model["name"] == "dear":
            model |= {"target": "beta/other", "price": {"input": 1, "output": 1}}
    bench.server.write(changed)
    while (now := await bench.ask("dear")).headers["x-mainstay-provider"] != "beta":
        await asyncio.sleep(0.05)
    assert now.headers["x-mainstay-cost-usd"] == "0.000013"
    go.set()
    before = await under_way
    assert before.headers["x-mainstay-provider"] == "alpha"
    assert "x-mainstay-cost-usd=0.0013" in before.text
    found = await bench.server.until_calls(2, "model=dear", "--limit", "100")
    costs = {call["provider"]: call["cost_usd"] for call in found}
    assert {provider: float(cost) for provider, cost in costs.items()} == {"alpha": 0.0013, "beta": 0.000013}
