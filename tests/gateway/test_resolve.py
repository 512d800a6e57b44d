"""Which targets are tried, in which order: routes applied to real calls, through the whole pipeline."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Unavailable, Unsupported
from mainstay.gateway.target import HALF_LIFE, Latency, estimated_tokens
from tests.gateway.rig import SECRET, Rig, chat_body, says, settle

PRICE = {"input": 1, "output": 10}


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"target": f"alpha/{name}", "price": PRICE, **more}


async def answered(rig: Rig, body: bytes, **headers: str) -> tuple[str | None, str]:
    done = await rig.ask(body, {name.replace("_", "-"): value for name, value in headers.items()})
    assert done.error is None, done.error
    return done.call.model, done.why


@pytest.mark.parametrize("name", ["org/model-1", "llama3:8b", "a/b/c:d.e", "ft:gpt-4o:org::id"])
async def test_names_may_have_slashes_and_colons(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path, models={name: {"target": f"alpha/{name}"}}, routes={f"r/{name}": {"to": {"fallback": [name]}}})
    assert (await answered(rig, chat_body(model=name)))[0] == name
    assert (await answered(rig, chat_body(model=f"r/{name}")))[0] == name
    assert rig.targets["alpha"].asked == [name, name]
    rig.journal.stop()


async def test_cheapest_for_the_size_of_the_call(tmp_path: Path) -> None:
    """One is cheap to read, another cheap to answer; a price that is unknown comes last."""
    models = {
        "reader": model("reader", price={"input": 1, "output": 100}),
        "writer": model("writer", price={"input": 10, "output": 1, "cache_write": 1000}),
        "unknown": {"target": "alpha/unknown"},
    }
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"cheapest": ["unknown", "reader", "writer"]}}})
    assert (await answered(rig, chat_body("x" * 4000, model="r", max_tokens=10)))[0] == "reader"
    assert (await answered(rig, chat_body("x", model="r", max_tokens=1000)))[0] == "writer"
    assert (await answered(rig, chat_body("x" * 40_000, model="r", max_tokens=10, n=100)))[0] == "writer"
    done = await rig.ask(chat_body(model="r"))
    assert [target.name for target in done.call.order][-1] == "unknown"
    rig.journal.stop()


async def test_weighted_follows_the_weights_and_leaves_zero_out(tmp_path: Path) -> None:
    chance = random.Random(7)
    models = {name: model(name) for name in "abc"}
    routes = {"r": {"to": {"weighted": {"a": 3, "b": 1, "c": 0}}}}
    rig = Rig(tmp_path, models=models, routes=routes, chance=chance.random)
    found = Counter([(await answered(rig, chat_body(model="r")))[0] for _ in range(1000)])
    assert set(found) == {"a", "b"}
    assert 700 < found["a"] < 800
    rig.journal.stop()


@pytest.mark.parametrize("by", ["session", "user"])
async def test_sticky_by_header(tmp_path: Path, by: str) -> None:
    chance = random.Random(7)
    models = {name: model(name) for name in "ab"}
    routes = {"r": {"to": {"weighted": {"a": 1, "b": 1}, "sticky": by}}}
    rig = Rig(tmp_path, models=models, routes=routes, chance=chance.random)
    for i in range(20):
        header = {f"x_mainstay_{by}": f"one-{i}"}
        assert len({await answered(rig, chat_body(model="r"), **header) for _ in range(5)}) == 1
    found = {(await answered(rig, chat_body(model="r"), **{f"x_mainstay_{by}": f"s{i}"}))[0] for i in range(20)}
    assert found == {"a", "b"}
    if by == "user":
        assert len({(await answered(rig, chat_body(model="r", user="body")))[0] for _ in range(5)}) == 1
    rig.journal.stop()


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
LOOKING = [{"role": "user", "content": [IMAGE]}]


@pytest.mark.parametrize(
    ("condition", "body", "headers"),
    [
        ({"tags": {"tier": ["free"]}}, chat_body(model="r"), {"x-mainstay-tags": "tier=free,a=b"}),
        ({"team": "t"}, chat_body(model="r"), {}),
        ({"key": "k"}, chat_body(model="r"), {}),
        ({"min_tokens": 1000}, chat_body("x" * 4000, model="r"), {}),
        ({"max_tokens": 30}, chat_body(model="r"), {}),
        ({"tools": True}, chat_body(model="r", tools=TOOLS), {}),
        ({"images": True}, json.dumps({"model": "r", "messages": LOOKING}).encode(), {}),
        ({"data_class": "personal"}, chat_body(model="r"), {"x-mainstay-tags": "data_class=personal"}),
    ],
)
async def test_when(tmp_path: Path, condition: dict[str, Any], body: bytes, headers: dict[str, str]) -> None:
    routes = {"r": {"to": {"when": [{"if": condition, "to": "a"}], "else": "b"}}}
    rig = Rig(tmp_path, models={"a": model("a"), "b": model("b")}, routes=routes, keys={"k": {}, "l": {"team": "s"}})
    assert (await rig.ask(body, headers)).call.model == "a"
    other = chat_body("y" * 200, model="r")
    done = await rig.ask(other, {"authorization": f"Bearer {SECRET}-l"})
    assert (done.call.model, "when:else" in done.why) == ("b", True)
    rig.journal.stop()


@pytest.mark.parametrize("nested", [False, True])
async def test_when_the_budget_is_nearly_used_up(tmp_path: Path, nested: bool) -> None:
    """Also where the case is in a route that the one asked for leads to."""
    routes: dict[str, Any] = {
        "r": {"to": {"when": [{"if": {"budget_left_below": 0.5}, "to": "b"}], "else": "a"}},
        "outer": {"to": {"fallback": ["r"]}},
    }
    budget = {"k": {"budgets": [{"usd": 0.001}]}}
    rig = Rig(tmp_path, models={"a": model("a"), "b": model("b")}, routes=routes, keys=budget)
    body = chat_body(model="outer" if nested else "r", max_tokens=3)
    found = [(await answered(rig, body))[0] for _ in range(20)]
    # 40,000 nano-dollars a call of a million: half is left until the thirteenth.
    assert found == ["a"] * 13 + ["b"] * 7
    rig.nothing_held()
    rig.journal.stop()


async def test_a_route_without_a_case_that_holds_is_refused_clearly(tmp_path: Path) -> None:
    routes = {"r": {"to": {"when": [{"if": {"team": "other"}, "to": "a"}]}}}
    rig = Rig(tmp_path, models={"a": model("a")}, routes=routes)
    done = await rig.ask(chat_body(model="r"))
    assert isinstance(done.error, Unavailable)
    assert "when:else" in done.error.message
    rig.journal.stop()


@pytest.mark.parametrize(
    ("lack", "body", "said"),
    [
        ({"tools": False}, {"tools": TOOLS}, "no tools"),
        ({"images": False}, {"messages": LOOKING}, "no images"),
        ({"audio": False}, {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "no audio"),
        (
            {"schema": False},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
            "no schema",
        ),
        ({"context_window": 1000}, {"messages": [{"role": "user", "content": "x" * 9000}]}, "context of 1000"),
    ],
)
async def test_a_target_that_lacks_something_is_passed_over(
    tmp_path: Path, lack: dict[str, Any], body: dict[str, Any], said: str
) -> None:
    models = {"a": model("a", **lack), "b": model("b")}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fallback": ["a", "b"]}}})
    assert await answered(rig, chat_body(model="r", **body)) == ("b", f"a:{said}; b")
    assert (await answered(rig, chat_body(model="r")))[0] == "a"
    refused = await rig.ask(chat_body(model="a", **body))
    assert isinstance(refused.error, Unsupported)
    assert said in refused.error.message
    rig.journal.stop()


def test_media_and_escapes_do_not_count_as_text() -> None:
    text = "Some words of English text. " * 400
    plain = chat_body(text)
    assert estimated_tokens(plain) == -(-len(plain) // 4)
    russian = "Слово за слово. " * 1000
    escaped, raw = chat_body(russian), json.dumps({"content": russian}, ensure_ascii=False).encode()
    assert abs(estimated_tokens(escaped) - estimated_tokens(raw)) < estimated_tokens(raw)
    picture = base64.b64encode(random.Random(1).randbytes(3_000_000)).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": [url]}]}).encode()
    assert 1600 <= estimated_tokens(body, media=True) < 2000


async def test_a_large_picture_fits_a_small_window(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models={"a": model("a", context_window=8000)})
    picture = base64.b64encode(random.Random(1).randbytes(1_000_000)).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    assert (await rig.ask(chat_body(model="a", messages=[{"role": "user", "content": [url]}]))).error is None
    rig.journal.stop()


async def test_least_busy_goes_by_the_limit(tmp_path: Path) -> None:
    models = {
        "large": model("large", concurrency={"limit": 100}),
        "small": model("small", concurrency={"limit": 4}),
    }
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"least_busy": ["small", "large"]}}})
    go = asyncio.Event()
    rig.targets["alpha"].before = lambda name: go.wait()
    tasks = [asyncio.ensure_future(rig.ask(chat_body(str(i), model="r"))) for i in range(52)]
    await settle(10)
    found = Counter(rig.targets["alpha"].asked)
    assert found == {"small": 2, "large": 50}, "each is half full"
    go.set()
    await asyncio.gather(*tasks)
    rig.nothing_held()
    rig.journal.stop()


# ---------------------------------------------------------------- fastest


def test_an_estimate_follows_what_is_measured_and_sinks_when_nothing_is() -> None:
    clock = FixedClock()
    latency = Latency(clock)
    assert latency.estimate() == 0.0, "never tried: worth a try"
    for _ in range(100):
        latency.seen(0.1)
        clock.advance(0.1)
    assert 0.09 < latency.estimate() < 0.11
    for _ in range(200):
        latency.seen(0.5)
        clock.advance(0.1)
    assert 0.35 < latency.estimate() < 0.5
    before = latency.estimate()
    clock.advance(HALF_LIFE)
    assert latency.estimate() == pytest.approx(before / 2)
    assert latency.estimate(trying=True) == pytest.approx(before, rel=0.02), "one who tries is enough"


class Timed:
    """Targets that take so many seconds of a clock that stands still otherwise."""

    def __init__(self, rig: Rig, **seconds: float) -> None:
        assert isinstance(rig.clock, FixedClock)
        self.rig, self.clock, self.seconds = rig, rig.clock, seconds
        rig.targets["alpha"].before = self._before

    def _before(self, name: str) -> None:
        self.clock.advance(self.seconds[name])

    async def ask(self, count: int, stream: bool, every: float = 0.5) -> Counter[str | None]:
        found: Counter[str | None] = Counter()
        for i in range(count):
            self.clock.advance(every)
            found[(await self.rig.ask(chat_body(str(i), model="r", stream=stream))).call.model] += 1
        return found


@pytest.mark.parametrize("stream", [True, False])
async def test_fastest_converges_notices_a_slowdown_and_comes_back(tmp_path: Path, stream: bool) -> None:
    models = {name: model(name) for name in "ab"}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fastest": ["a", "b"]}}})
    timed = Timed(rig, a=0.05, b=0.4)
    await timed.ask(2, stream)
    assert (await timed.ask(100, stream))["a"] >= 95
    timed.seconds["a"] = 2.0
    await timed.ask(30, stream)
    assert (await timed.ask(50, stream))["b"] >= 45
    timed.seconds["a"] = 0.05
    await timed.ask(100, stream)
    assert (await timed.ask(50, stream))["a"] >= 47, "it has been tried again"
    rig.journal.stop()


async def test_one_call_tries_a_slow_target_again_and_not_a_herd(tmp_path: Path) -> None:
    models = {name: model(name) for name in "ab"}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fastest": ["a", "b"]}}})
    timed = Timed(rig, a=0.05, b=1.0)
    await timed.ask(10, True)
    timed.clock.advance(200)
    await timed.ask(1, True)  # so that a has just been measured, and b is due
    go = asyncio.Event()
    rig.targets["alpha"].asked.clear()
    rig.targets["alpha"].default = lambda ask: [go, *says()(ask)]
    timed.seconds = {"a": 0.0, "b": 0.0}
    tasks: list[asyncio.Task[Any]] = []
    for i in range(20):
        tasks.append(asyncio.ensure_future(rig.ask(chat_body(str(i), model="r", stream=True))))
        await settle()
    assert Counter(rig.targets["alpha"].asked) == {"b": 1, "a": 19}
    go.set()
    await asyncio.gather(*tasks)
    rig.journal.stop()


async def test_plain_and_streamed_calls_are_not_compared(tmp_path: Path) -> None:
    """The first token of one comes sooner, the whole answer of the other."""
    models = {name: model(name) for name in "ab"}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fastest": ["a", "b"]}}})
    clock = rig.clock
    assert isinstance(clock, FixedClock)
    for _ in range(20):
        for name, first, whole in (("a", 0.1, 3.0), ("b", 0.5, 1.0)):
            health = rig.plan.targets[name].health
            health.latency.seen(first)
            health.plain.seen(whole)
    assert (await answered(rig, chat_body(model="r", stream=True)))[0] == "a"
    assert (await answered(rig, chat_body(model="r")))[0] == "b"
    rig.journal.stop()
