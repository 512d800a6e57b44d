"""A call leaves nothing behind: no growth, and nothing that refers to itself, which only the collector would find.

Collecting took a seventh of all time before that was so.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.errors import NotFound, UpstreamFailed
from tests.gateway.rig import Rig, chat_body, fails, says
from tests.provider import chat_events

PRICE = {"input": 1, "output": 10}
NEVER = {"failures": 10**6, "min_calls": 10**6}
MODELS: dict[str, Any] = {
    **{name: {"target": f"alpha/{name}", "price": PRICE, "breaker": NEVER} for name in ("m", "n", "bad")},
    "c": {"target": "beta/c", "price": PRICE},
}
ROUTES: dict[str, Any] = {
    "r": {"to": {"fallback": [{"weighted": {"m": 9, "n": 1}}, "n"]}},
    "ranked": {"to": {"cheapest": ["m", {"fastest": ["n", "c"]}]}},
    "cached": {"to": "m", "cache": {"ttl": "10m"}},
    "over": {"to": {"fallback": ["bad", "m"]}, "retry": {"attempts": 1}},
    "hedged": {"to": {"fallback": ["m", "n"]}, "hedge": {"after": 0, "max_share": 1}},
}
KEY = {
    "k": {
        "limits": {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "concurrent": 50},
        "budgets": [{"usd": 10_000}],
    }
}
BUDGETS = [{"name": "b", "usd": 10_000, "by": "model"}]
ROUNDS = 400

Step = Callable[[Rig, int], Awaitable[Any]]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, models=MODELS, routes=ROUTES, keys=KEY, budgets=BUDGETS, cache_bytes=20_000)
    rig.targets["alpha"].models = {"bad": fails("timeout", status=504)}
    yield rig
    rig.nothing_held()
    rig.journal.stop()


async def plain(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(model="r", max_tokens=5))).error is None


async def stream(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(model="r", stream=True, max_tokens=5))).error is None


async def translated(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(model="c", max_tokens=5))).error is None


async def translated_stream(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(model="c", stream=True, max_tokens=5))).error is None


async def ranked(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(model="ranked", max_tokens=5))).error is None


async def miss(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body(f"question {i}", model="cached", max_tokens=5))).call.cache == "miss"


async def hit(rig: Rig, i: int) -> None:
    assert (await rig.ask(chat_body("same", model="cached", stream=i % 2 == 0, max_tokens=5))).error is None


async def one_flight(rig: Rig, i: int) -> None:
    body = chat_body(f"flight {i}", model="cached", max_tokens=5)
    rig.targets["alpha"].before = lambda model: asyncio.sleep(0)
    done = await asyncio.gather(*(rig.ask(body) for _ in range(3)))
    rig.targets["alpha"].before = lambda model: None
    assert [one.call.cache for one in done].count("hit") == 2


async def ask(rig: Rig, body: bytes) -> str | None:
    """One call, of whose error only the name is kept."""
    call = rig.make(body)
    try:
        await rig.leave_after(-1, call)
    except UpstreamFailed as error:
        return error.kind
    except NotFound as error:
        return error.code
    return None


async def over(rig: Rig, i: int) -> None:
    assert await ask(rig, chat_body(model="over", max_tokens=5)) is None


async def failed(rig: Rig, i: int) -> None:
    rig.targets["alpha"].script = [fails("invalid", status=400)]
    assert await ask(rig, chat_body(model="m", max_tokens=5)) == "invalid"


async def refused(rig: Rig, i: int) -> None:
    assert await ask(rig, chat_body(model="nothing")) == "model_not_found"


async def broken_off(rig: Rig, i: int) -> None:
    rig.targets["alpha"].script = [lambda ask: [*chat_events(["a ", "b "])[:2], UpstreamFailed("cut", "cut")]] * 2
    assert await ask(rig, chat_body(model="m", stream=True, max_tokens=5)) == "cut"


async def rescued(rig: Rig, i: int) -> None:
    words = ["one ", "two ", "three"]
    rig.targets["alpha"].script = [lambda ask: [*chat_events(words)[:2], UpstreamFailed("cut", "cut")], says(words)]
    assert await ask(rig, chat_body(model="r", stream=True, max_tokens=5)) is None


async def cancelled(rig: Rig, i: int) -> None:
    call = rig.make(chat_body(model="r", stream=True, max_tokens=5))
    try:
        await rig.leave_after(1 + i % 3, call)
    except asyncio.CancelledError:
        return
    raise AssertionError("it was not cancelled")


async def hedged(rig: Rig, i: int) -> None:
    rig.targets["alpha"].before = lambda model: asyncio.sleep(0)
    assert await ask(rig, chat_body(model="hedged", max_tokens=5)) is None
    rig.targets["alpha"].before = lambda model: None


STEPS: list[Step] = [
    *(plain, stream, translated, translated_stream, ranked, miss, hit, one_flight, over, failed, refused, broken_off),
    *(rescued, cancelled, hedged),
]


@pytest.fixture
def collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()


def forget(rig: Rig) -> None:
    """What the rig itself remembers for the tests."""
    for record in rig.records:
        for pool, nano in record.charges.items():
            rig.charged[pool] = rig.charged.get(pool, 0) + nano
    rig.records.clear()
    rig.needs.clear()
    for target in rig.targets.values():
        target.asked.clear()
        target.sources.clear()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_nothing_refers_to_itself_and_nothing_grows(rig: Rig, step: Step, collector: None) -> None:
    for i in range(30):  # what is made once: decoders, pools, tables
        await step(rig, -i)
        await asyncio.sleep(0)
    forget(rig)
    gc.collect()
    before = len(gc.get_objects())
    for i in range(ROUNDS):
        await step(rig, i)
        await asyncio.sleep(0)
    forget(rig)
    gc.set_debug(gc.DEBUG_SAVEALL)
    found = gc.collect()
    kinds = Counter(f"{type(one).__module__}.{type(one).__name__}" for one in gc.garbage).most_common(12)
    gc.set_debug(0)
    gc.garbage.clear()
    assert found == 0, (found / ROUNDS, kinds)
    forget(rig)
    gc.collect()
    assert len(gc.get_objects()) - before < ROUNDS, "fewer than one object a call"
