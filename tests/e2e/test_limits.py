"""Limits and budgets of the running product, with one and with three gateway processes: exact, whatever races."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.provider import Asked, Provider, Wire, chat
from tests.running import Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = ["one ", "two ", "three"]
COST = 10 * 1_000 + 3 * 10_000
"""Nano-dollars of a call: 10 tokens in at 1 dollar a million, 3 out at 10."""

LIMITS: dict[str, dict[str, Any]] = {
    "requests": {"limits": {"requests_per_minute": 60}},
    "tokens": {"limits": {"tokens_per_minute": 1200}},
    "concurrent": {"limits": {"concurrent": 20}},
    "dollars-plain": {"budget": {"usd": 100 * COST / 1e9, "per": "total"}},
    "dollars-stream": {"budget": {"usd": 100 * COST / 1e9, "per": "day"}},
    "soft": {"budget": {"usd": COST / 1e9, "soft": True}},
    "priced": {"budget": {"usd": 1}},
}
TEAMS = {"team-requests": {"limits": {"requests_per_minute": 60}}, "team-dollars": {"budget": {"usd": 50 * COST / 1e9}}}
BUDGETS = [
    {"name": "by-user", "usd": 20 * COST / 1e9, "by": "user", "per": "day"},
    {"name": "by-tag", "usd": 20 * COST / 1e9, "by": "tag", "tag": "feature", "per": "month"},
    {"name": "by-model", "usd": 20 * COST / 1e9, "by": "model", "value": "scarce", "per": "total"},
]


class Bench:
    """The product with a provider behind it that can be held up."""

    def __init__(self, server: Server, provider: Provider, client: httpx.AsyncClient) -> None:
        self.server, self.provider, self.client = server, provider, client
        self.go = asyncio.Event()
        self.go.set()
        provider.default = self._behave

    async def _behave(self, wire: Wire, asked: Asked) -> None:
        await self.go.wait()
        await chat(TOKENS)(wire, asked)

    async def ask(self, key: str, model: str = "m", path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer secret-of-{key}", **more.pop("headers", {})}
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, **more}
        return await self.client.post(path, json=body, headers=headers)

    async def many(self, count: int, key: str, **more: Any) -> Counter[int]:
        return Counter(
            [reply.status_code for reply in await asyncio.gather(*[self.ask(key, **more) for _ in range(count)])]
        )

    async def settled(self, rule: str) -> dict[str, Any]:
        """The budget with this in its name, once nothing is held of it."""

        def look() -> list[dict[str, Any]]:
            lines = self.server.command("budgets", "--json").stdout.splitlines()
            return [json.loads(line) for line in lines if rule in line]

        return (
            await eventually(look, lambda found: bool(found) and all(float(one["held_usd"]) == 0 for one in found), 20)
        )[0]

    async def cost(self, key: str, calls: int) -> tuple[int, int]:
        """What the key's calls cost together, in nano-dollars, and how many of them were answered."""
        found = await self.server.until_calls(calls, f"key={key}", "--limit", "1000")
        assert len(found) == calls
        answered = [call for call in found if call["status"] == 200]
        return sum(round(float(call["cost_usd"]) * 1e9) for call in found), len(answered)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1, 3], ids=["one worker", "three workers"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with Provider(chat(TOKENS)) as provider:
        price = {"input": 1, "output": 10}
        models = {name: {"target": f"alpha/{name}", "price": price} for name in ("m", "scarce", "plenty")}
        models["unpriced"] = {"target": "alpha/unpriced"}
        keys = [
            {"name": name, "team": "tests", "secret": f"secret-of-{name}", **terms} for name, terms in LIMITS.items()
        ]
        keys.append({"name": "free", "team": "tests", "secret": "secret-of-free"})
        for team in TEAMS:
            keys += [{"name": f"{team}-{i}", "team": team, "secret": f"secret-of-{team}-{i}"} for i in (1, 2)]
        made = bundle(
            {"alpha": f"openai@{provider.url}/v1"},
            models,
            routes=[{"name": "r", "to": {"fallback": ["scarce", "plenty"]}}],
            budgets=BUDGETS,
        )
        made["keys"] += keys
        made["teams"] += [{"name": name, **terms} for name, terms in TEAMS.items()]
        with Server(made, workers=request.param) as server:
            limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
            async with server.client(limits=limits) as client:
                yield Bench(server, provider, client)


@pytest.mark.parametrize("owner", ["requests", "team-requests"])
async def test_requests_per_minute_are_exact(bench: Bench, owner: str) -> None:
    names = ["requests"] * 2 if owner == "requests" else ["team-requests-1", "team-requests-2"]
    found = await asyncio.gather(*[bench.many(100, name) for name in names])
    assert (found[0] + found[1])[200] == 60
    assert await bench.many(6, names[0]) == {429: 6}


async def test_tokens_per_minute_are_never_passed_by_what_was_used(bench: Bench) -> None:
    found = await bench.many(200, "tokens")
    while (await bench.ask("tokens")).status_code == 200:
        found[200] += 1
        assert found[200] * 13 <= 1200
    assert 70 < found[200] <= 1200 // 13, "a call holds 28 tokens and uses 13"


async def test_calls_at_a_time_are_exact(bench: Bench) -> None:
    bench.go.clear()
    before = len(bench.provider.asked)
    tasks = [asyncio.ensure_future(bench.ask("concurrent", stream=i % 2 == 0)) for i in range(200)]
    await eventually(lambda: sum(task.done() for task in tasks), lambda done: done == 180, 20)
    assert len(bench.provider.asked) - before == 20
    bench.go.set()
    assert Counter(reply.status_code for reply in await asyncio.gather(*tasks)) == {200: 20, 429: 180}
    assert await bench.many(15, "concurrent") == {200: 15}, "all places are free again"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_refusal_is_in_the_callers_own_shape(bench: Bench, path: str) -> None:
    more: dict[str, Any] = {"max_tokens": 10**9} if path != "/v1/responses" else {"max_output_tokens": 10**9}
    if path == "/v1/responses":
        more |= {"input": "hi", "messages": None, "max_tokens": None}
    body = {
        k: v for k, v in {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}.items() if v is not None
    }
    headers = {"authorization": "Bearer secret-of-dollars-plain"}
    reply = await bench.client.post(path, json=body, headers=headers)
    assert reply.status_code == 429, reply.text
    assert int(reply.headers["retry-after"]) >= 1
    error = reply.json()["error"]
    assert "budget" in error["message"]
    if path == "/v1/messages":
        assert reply.json()["type"] == "error"
        assert error["type"] == "rate_limit_error"
    else:
        assert error["code"] == "budget_exceeded"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_race_for_a_budget_never_overspends_it(bench: Bench, stream: bool) -> None:
    key = "dollars-stream" if stream else "dollars-plain"
    found = await bench.many(300, key, stream=stream)
    assert set(found) == {200, 429}
    assert 0 < found[200] <= 100
    calls = 300 + (0 if stream else 3)  # with the three refusals of the test before
    cost, answered = await bench.cost(key, calls)
    assert (cost, answered) == (found[200] * COST, found[200])
    budget = await bench.settled(key)
    assert round(float(budget["spent_usd"]) * 1e9) == cost
    assert float(budget["left_usd"]) == pytest.approx(float(budget["limit_usd"]) - float(budget["spent_usd"]))


async def test_a_team_shares_one_budget(bench: Bench) -> None:
    found = await asyncio.gather(*[bench.many(100, f"team-dollars-{i}") for i in (1, 2)])
    passed = (found[0] + found[1])[200]
    assert 0 < passed <= 50
    budget = await bench.settled("team-dollars")
    assert round(float(budget["spent_usd"]) * 1e9) == passed * COST


@pytest.mark.parametrize(
    ("name", "headers", "other"),
    [
        ("by-user", {"x-mainstay-user": "ann"}, {"x-mainstay-user": "bob"}),
        ("by-tag", {"x-mainstay-tags": "feature=search"}, {"x-mainstay-tags": "feature=chat"}),
    ],
)
async def test_each_user_and_tag_has_a_budget(
    bench: Bench, name: str, headers: dict[str, str], other: dict[str, str]
) -> None:
    found = await bench.many(60, "free", headers=headers)
    assert 0 < found[200] <= 20
    assert found[200] + found[429] == 60
    assert (await bench.ask("free", headers=other)).status_code == 200
    budget = await bench.settled(name)
    assert round(float(budget["spent_usd"]) * 1e9) in (found[200] * COST, COST)


async def test_a_models_budget_sends_calls_to_the_next(bench: Bench) -> None:
    replies = await asyncio.gather(*[bench.ask("free", model="r") for _ in range(60)])
    assert {reply.status_code for reply in replies} == {200}
    found = Counter(reply.headers["x-mainstay-model"] for reply in replies)
    assert 0 < found["scarce"] <= 20
    assert found["plenty"] == 60 - found["scarce"]
    assert any("scarce:budget" in reply.headers["x-mainstay-why"] for reply in replies)
    budget = await bench.settled("by-model")
    assert round(float(budget["spent_usd"]) * 1e9) == found["scarce"] * COST


async def test_a_soft_budget_lets_pass_and_warns(bench: Bench) -> None:
    replies = [await bench.ask("soft", headers={"x-mainstay-user": b"\xe9\xe8"}) for _ in range(4)]
    assert {reply.status_code for reply in replies} == {200}
    assert "x-mainstay-warning" in replies[-1].headers


async def test_a_model_without_a_price_is_refused_under_a_budget(bench: Bench) -> None:
    refused = await bench.ask("priced", model="unpriced")
    assert refused.status_code == 400
    assert "price" in refused.json()["error"]["message"]
    allowed = await bench.ask("free", model="unpriced")
    assert allowed.status_code == 200
    assert "x-mainstay-cost-usd" not in allowed.headers
