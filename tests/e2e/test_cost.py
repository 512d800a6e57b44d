"""What calls cost in the running product: exact nano-dollars from the provider's usage to header, ledger and budget."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.provider import Asked, Behaviour, Provider, Wire, chat, chat_events, chat_reply, messages_reply, status
from tests.running import Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICE = {
    "input": 0.15,
    "output": 0.6,
    "cached_input": 0.075,
    "cache_write": 0.1875,
    "reasoning": 0.7,
    "input_audio": 10,
    "output_audio": 20,
    "request": 0.000123456,
}


class Bench:
    def __init__(self, server: Server, alpha: Provider, beta: Provider, client: httpx.AsyncClient) -> None:
        self.server, self.alpha, self.beta, self.client = server, alpha, beta, client

    async def ask(self, model: str = "m", **more: Any) -> tuple[httpx.Response, dict[str, Any]]:
        """A reply, and its record in the ledger."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 900, **more}
        reply = await self.client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        call = reply.headers["x-mainstay-call"]
        found = await eventually(lambda: [one for one in self.server.calls() if one["id"] == call], bool, 20)
        return reply, found[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with Provider(chat()) as alpha, Provider(chat()) as beta:
        models = {
            "m": {"target": "alpha/m", "price": PRICE},
            "n": {"target": "alpha/n", "price": {"input": 3, "output": 15}},
            "c": {"target": "beta/c", "price": {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75}},
            "unpriced": {"target": "alpha/unpriced"},
        }
        routes = [{"name": "r", "to": {"fallback": ["m", "n"]}, "retry": {"attempts": 1}}]
        made = bundle({"alpha": f"openai@{alpha.url}/v1", "beta": f"anthropic@{beta.url}"}, models, routes=routes)
        made["teams"][0]["budget"] = {"usd": 100, "unpriced": "allow"}
        with Server(made) as server:
            async with server.client() as client:
                yield Bench(server, alpha, beta, client)


def using(usage: dict[str, Any] | None) -> Behaviour:
    async def behave(wire: Wire, asked: Asked) -> None:
        plain = json.loads(chat_reply(["x"], usage=False))
        if usage is not None:
            plain["usage"] = usage
        if not asked.stream:
            return await wire.plain(200, json.dumps(plain).encode())
        await wire.head(200, {"content-type": "text/event-stream"})
        events = chat_events(["x"], False)
        if usage is not None:
            events.insert(
                -1,
                b"data: " + json.dumps({**plain, "object": "chat.completion.chunk", "choices": []}).encode() + b"\n\n",
            )
        for event in events:
            await wire.chunk(event)
        await wire.end()

    return behave


def nano(usd: float | str) -> Fraction:
    """Dollars, by their shortest decimal form, in nano-dollars."""
    return Fraction(str(usd)) * 10**9


def dollars(**tokens: int) -> Fraction:
    """The cost by the price list, in nano-dollars, rounded once, half to even."""
    rated = sum((Fraction(str(PRICE[name])) * 1000 * count for name, count in tokens.items()), Fraction())
    return Fraction(round(rated)) + 123456


SHAPES: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}, {"input": 11, "output": 7}),
    (
        {"prompt_tokens": 101, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}},
        {"input": 37, "cached_input": 64, "output": 7},
    ),
    (
        {"prompt_tokens": 13, "completion_tokens": 401, "completion_tokens_details": {"reasoning_tokens": 333}},
        {"input": 13, "output": 68, "reasoning": 333},
    ),
    (
        {
            "prompt_tokens": 50,
            "completion_tokens": 60,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 21},
            "completion_tokens_details": {"audio_tokens": 31, "reasoning_tokens": 0},
        },
        {"input": 29, "input_audio": 21, "output": 29, "output_audio": 31},
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("usage", "parts"), SHAPES, ids=["plain", "cached", "reasoning", "audio"])
async def test_every_shape_of_usage_costs_what_the_price_list_says(
    bench: Bench, usage: dict[str, Any], parts: dict[str, int], stream: bool
) -> None:
    bench.alpha.script = [using(usage)]
    reply, call = await bench.ask(stream=stream)
    cost = dollars(**parts)
    assert nano(call["cost_usd"]) == cost
    said = reply.headers.get("x-mainstay-cost-usd")
    if stream:
        said = reply.text.split("x-mainstay-cost-usd=")[1].split()[0]
    assert said is not None
    assert nano(said) == cost
    assert call["usage"]["input"] == usage["prompt_tokens"]
    assert call["usage"]["output"] == usage["completion_tokens"]
    assert not call["usage"].get("estimated")


async def test_anthropics_parts_are_added_up_for_openais_dialect(bench: Bench) -> None:
    """16 read anew and 5 from the cache are 21 prompt tokens."""

    async def behave(wire: Wire, asked: Asked) -> None:
        message = json.loads(messages_reply(["x"]))
        message["usage"] = {
            "input_tokens": 16,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "output_tokens": 4,
        }
        await wire.plain(200, json.dumps(message).encode())

    bench.beta.script = [behave]
    reply, call = await bench.ask("c")
    assert reply.json()["usage"]["prompt_tokens"] == 21
    assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    assert nano(call["cost_usd"]) == 16 * 3000 + 5 * 300 + 4 * 15_000


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_usage_that_is_not_told_is_estimated_and_marked(bench: Bench, stream: bool) -> None:
    bench.alpha.script = [using(None)]
    _, call = await bench.ask(stream=stream)
    assert call["usage"]["estimated"] is True
    assert call["usage"]["input"] > 10
    assert call["usage"]["output"] == 1
    assert nano(call["cost_usd"]) > 0


async def test_an_unknown_price_is_null_and_never_nothing(bench: Bench) -> None:
    bench.alpha.script = [using(SHAPES[0][0])]
    reply, call = await bench.ask("unpriced")
    assert call["cost_usd"] is None
    assert call["attempts"][0]["cost_usd"] is None
    assert "x-mainstay-cost-usd" not in reply.headers


async def test_each_attempt_has_its_cost_and_all_sums_agree(bench: Bench) -> None:
    bench.alpha.script = [status(503), using({"prompt_tokens": 10, "completion_tokens": 5})]
    reply, call = await bench.ask("r")
    assert reply.headers["x-mainstay-attempts"] == "2"
    assert [nano(one["cost_usd"]) for one in call["attempts"]] == [0, 105_000]
    assert nano(call["cost_usd"]) == 105_000
    calls = bench.server.calls()
    total = sum(nano(one["cost_usd"]) for one in calls if one["cost_usd"] is not None)

    def budget() -> dict[str, Any]:
        return json.loads(bench.server.command("budgets", "--json").stdout.splitlines()[0])

    spent = await eventually(budget, lambda found: nano(found["spent_usd"]) == total, 20)
    assert nano(spent["held_usd"]) == 0
