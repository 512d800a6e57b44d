"""Bursts at three gateway processes: exactly as many calls pass as a limit or a budget pays for, every time."""

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

ROUNDS = 5
CALLS, MOST = 150, 60
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
TOKENS = ["one ", "two ", "three"]
COST = 3 * 10_000
"""Nano-dollars of a call: 3 tokens out at 10 dollars a million, and those in are free, so that it costs what it holds."""
HOLD = len(json.dumps(BODY, separators=(",", ":"))) // 4 + 3
"""Tokens that a call holds: a quarter of the body's bytes, and the most that may come out."""

TERMS: dict[str, dict[str, Any]] = {
    "requests": {"limits": {"requests_per_minute": MOST}},
    "tokens": {"limits": {"tokens_per_minute": MOST * HOLD + HOLD // 2}},
    "concurrent": {"limits": {"concurrent": MOST}},
    "dollars": {"budget": {"usd": MOST * COST / 1e9, "per": "total"}},
    "all": {
        "limits": {"requests_per_minute": MOST, "concurrent": MOST},
        "budget": {"usd": MOST * COST / 1e9, "per": "day"},
    },
}


class Door:
    """The product, and a provider that answers when it is told to."""

    def __init__(self, server: Server, provider: Provider, client: httpx.AsyncClient) -> None:
        self.server, self.provider, self.client = server, provider, client
        self.go = asyncio.Event()
        provider.default = self._behave

    async def _behave(self, wire: Wire, asked: Asked) -> None:
        await self.go.wait()
        await chat(TOKENS)(wire, asked)

    async def ask(self, key: str) -> int:
        headers = {"authorization": f"Bearer secret-of-{key}"}
        reply = await self.client.post("/v1/chat/completions", json=BODY, headers=headers)
        assert reply.status_code != 429 or "does not answer" not in reply.text, reply.text
        return reply.status_code

    async def burst(self, key: str, calls: int, passed: int, *, held: bool) -> None:
        """So many calls at once, of which so many pass; ``held``: none of them ends before all have been decided."""
        self.go.clear()
        if not held:
            self.go.set()
        before = len(self.provider.asked)
        tasks = [asyncio.ensure_future(self.ask(key)) for _ in range(calls)]
        if held:
            refused = calls - passed
            await eventually(
                lambda: (sum(task.done() for task in tasks), len(self.provider.asked) - before),
                lambda seen: sum(seen) >= calls,
                30,
            )
            assert sum(task.done() for task in tasks) == refused
            self.go.set()
        assert Counter(await asyncio.gather(*tasks)) == {200: passed, 429: calls - passed}
        assert len(self.provider.asked) - before == passed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door() -> AsyncIterator[Door]:
    async with Provider(chat(TOKENS)) as provider:
        made = bundle(
            {"alpha": f"openai@{provider.url}/v1"}, {"m": {"target": "alpha/m", "price": {"input": 0, "output": 10}}}
        )
        names = {f"{what}-{i}": terms for what, terms in TERMS.items() for i in range(ROUNDS)}
        names["race"] = {"budget": {"usd": 100 * COST / 1e9, "per": "month"}}
        made["keys"] += [
            {"name": name, "team": "tests", "secret": f"secret-of-{name}", **terms} for name, terms in names.items()
        ]
        with Server(made, workers=3) as server:
            limits = httpx.Limits(max_connections=400, max_keepalive_connections=0)
            async with server.client(limits=limits) as client:
                yield Door(server, provider, client)


@pytest.mark.parametrize("turn", range(ROUNDS))
@pytest.mark.parametrize("what", ["requests", "dollars"])
async def test_a_burst_admits_exactly_what_there_is(door: Door, what: str, turn: int) -> None:
    await door.burst(f"{what}-{turn}", CALLS, MOST, held=False)


@pytest.mark.parametrize("turn", range(ROUNDS))
@pytest.mark.parametrize("what", ["tokens", "concurrent", "all"])
async def test_calls_in_flight_leave_exactly_the_rest(door: Door, what: str, turn: int) -> None:
    await door.burst(f"{what}-{turn}", CALLS, MOST, held=True)


async def test_places_come_back_for_the_next_burst(door: Door) -> None:
    for _ in range(ROUNDS):
        await door.burst("concurrent-0", CALLS, MOST, held=True)


async def test_three_hundred_calls_against_a_budget_that_pays_for_a_hundred(door: Door) -> None:
    await door.burst("race", 300, 100, held=False)

    def look() -> list[dict[str, Any]]:
        return [json.loads(line) for line in door.server.command("budgets", "--json").stdout.splitlines()]

    found = await eventually(look, lambda all_: all(float(one["held_usd"]) == 0 for one in all_), 20)
    (race,) = [one for one in found if "race" in json.dumps(one)]
    assert float(race["left_usd"]) == 0
    assert float(race["spent_usd"]) == float(race["limit_usd"])
