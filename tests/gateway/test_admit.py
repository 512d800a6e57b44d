"""Limits and budgets of a call: what is held, what is charged, and that nothing stays held, whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, OverLimit, UpstreamFailed
from mainstay.core.event import TextDelta, UsageSeen
from mainstay.gateway.admit import bound_at
from tests.gateway.rig import TOKENS, Done, Rig, chat_body, fails, reported, reports, says, settle
from tests.provider import chat_events, chat_reply, messages_events

PRICE = {"input": 1, "output": 10}
COST = 10 * 1000 + 3 * 10_000
"""Nano-dollars of a call whose provider reports 10 tokens in and 3 out, at 1 and 10 dollars a million."""


async def asked(rig: Rig, count: int, body: bytes | None = None, **headers: str) -> list[Done]:
    done = await asyncio.gather(*(rig.ask(body, headers) for _ in range(count)))
    rig.nothing_held()
    return list(done)


def passed(done: Sequence[Done]) -> int:
    return sum(one.error is None for one in done)


@pytest.mark.parametrize("owner", ["keys", "teams"])
async def test_requests_per_minute_are_a_sliding_window(tmp_path: Path, owner: str) -> None:
    terms = {"limits": {"requests_per_minute": 50}}
    rig = Rig(tmp_path, **{owner: {"k" if owner == "keys" else "t": terms}})  # type: ignore[arg-type]
    assert isinstance(rig.clock, FixedClock)
    done = await asked(rig, 200)
    assert passed(done) == 50
    refused = next(one.error for one in done if one.error is not None)
    assert isinstance(refused, OverLimit)
    assert 60 <= refused.retry_after <= 61
    rig.clock.advance(30)
    assert passed(await asked(rig, 10)) == 0
    rig.clock.advance(29.9)
    assert passed(await asked(rig, 10)) == 0, "no 60 seconds ever hold more than the limit"
    rig.clock.advance(1.2)
    assert passed(await asked(rig, 200)) == 50
    rig.journal.stop()


async def test_no_sixty_seconds_hold_more_than_the_limit(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"limits": {"requests_per_minute": 20}}})
    assert isinstance(rig.clock, FixedClock)
    times: list[float] = []
    for _ in range(400):
        if passed(await asked(rig, 1)):
            times.append(rig.clock.monotonic())
        rig.clock.advance(0.7)
    for at in times:
        assert sum(at <= other < at + 60 for other in times) <= 20
    assert len(times) > 80, "and nearly as many are let through"
    rig.journal.stop()


async def test_tokens_per_minute_settle_to_what_was_used(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"limits": {"tokens_per_minute": 1000}}})
    assert isinstance(rig.clock, FixedClock)
    body = chat_body(max_tokens=100)  # holds 100 and a quarter of its bytes, uses 13
    assert passed(await asked(rig, 1, body)) == 1
    assert next(iter(rig.pools.values())).used == 13
    assert passed(await asked(rig, 200, body)) < 200
    for _ in range(100):
        await asked(rig, 1, body)
    used = sum((record.input or 0) + (record.output or 0) for record in rig.records)
    assert 860 < used <= 1000
    rig.clock.advance(61)
    assert passed(await asked(rig, 1, body)) == 1
    rig.journal.stop()


async def test_calls_at_a_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"limits": {"concurrent": 10}}, "other": {}})
    go = asyncio.Event()
    rig.targets["alpha"].default = lambda ask: [go, *says()(ask)]
    tasks = [asyncio.ensure_future(rig.ask(chat_body(str(i), stream=i % 2 == 0))) for i in range(200)]
    await settle(10)
    assert len(rig.targets["alpha"].asked) == 10
    go.set()
    assert passed(await asyncio.gather(*tasks)) == 10
    rig.nothing_held()
    assert passed(await asked(rig, 10)) == 10
    rig.journal.stop()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_budget_is_never_overspent_and_nothing_stays_held(tmp_path: Path, stream: bool) -> None:
    rig = Rig(tmp_path, keys={"k": {"budgets": [{"usd": 100 * COST / 1e9}]}})
    body = chat_body(stream=stream, max_tokens=3)
    done = await asked(rig, 300, body)
    assert 0 < passed(done) <= 100
    while passed(await asked(rig, 1, body)):
        pass
    spent = sum(record.cost_nano or 0 for record in rig.records)
    hold = bound_at(rig.plan.targets["m"], done[0].call)
    assert hold is not None
    assert 100 * COST - 2 * hold < spent <= 100 * COST, "it is used up but for what one call may need"
    assert {type(one.error) for one in done} == {type(None), OverLimit}
    assert all(one.call.error == "budget_exceeded" for one in done if one.error)
    rig.journal.stop()


@pytest.mark.parametrize("per", ["day", "month", "total"])
@pytest.mark.parametrize("by", ["key", "team", "user", "tag", "model", "all"])
async def test_budgets_by_everything_per_every_period(tmp_path: Path, by: str, per: str) -> None:
    terms = {"usd": 3 * COST / 1e9, "per": per}
    named: list[dict[str, Any]] = []
    keys: dict[str, Any] = {"k": {}}
    teams: dict[str, Any] = {"t": {}}
    if by == "key":
        keys["k"] = {"budgets": [terms]}
    elif by == "team":
        teams["t"] = {"budgets": [terms]}
    else:
        named = [{"name": "b", "by": by, "tag": "feature" if by == "tag" else None, **terms}]
    rig = Rig(tmp_path, keys=keys, teams=teams, budgets=named, clock=FixedClock(1_798_761_500.0))  # the last of 2026
    assert isinstance(rig.clock, FixedClock)
    # A call holds little more than it costs: its body is 72 bytes, of which the provider reads 10 tokens.
    rig.targets["alpha"].default = reports({"prompt_tokens": 60, "completion_tokens": 0})
    headers = {"x-mainstay-user": "u", "x-mainstay-tags": "feature=a"}
    count = 0
    while (done := await rig.ask(chat_body(max_tokens=1), headers)).error is None:
        count += 1
        assert count < 10
    assert count == 1
    assert isinstance(done.error, OverLimit)
    rig.nothing_held()
    other = {"x-mainstay-user": "v", "x-mainstay-tags": "feature=b"}
    assert ((await rig.ask(chat_body(max_tokens=1), other)).error is None) == (by in ("user", "tag"))
    assert ((await rig.ask(chat_body(max_tokens=1))).error is None) == (by in ("user", "tag"))
    rig.clock.advance(600)  # into the new year
    assert ((await rig.ask(chat_body(max_tokens=1), headers)).error is None) == (per != "total")
    rig.nothing_held()
    rig.journal.stop()


async def test_a_soft_budget_lets_pass_and_warns(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"budgets": [{"usd": COST / 1e9, "soft": True}]}})
    done = await asked(rig, 5)
    assert passed(done) == 5
    assert any(name == "x-mainstay-warning" for name, _ in done[-1].call.reply_headers)
    rig.journal.stop()


MODELS = {
    "m": {"target": "alpha/m", "price": PRICE},
    "free": {"target": "alpha/free", "price": {"input": 0}},
    "unknown": {"target": "alpha/unknown"},
    "bound": {"target": "alpha/bound", "price": PRICE, "max_call_usd": 0.5},
}
BUDGET = {"k": {"budgets": [{"usd": 1}]}}


async def test_an_unknown_price_is_refused_under_a_budget_unless_that_allows_it(tmp_path: Path) -> None:
    routes = {"r": {"to": {"fallback": ["unknown", "m"]}}}
    rig = Rig(tmp_path, models=MODELS, routes=routes, keys=BUDGET)
    refused = await rig.ask(chat_body(model="unknown"))
    assert isinstance(refused.error, Invalid)
    assert refused.error.code == "unpriced_model"
    other = await rig.ask(chat_body(model="r"))
    assert (other.call.model, "unknown:no price" in other.why) == ("m", True)
    rig.load(keys={"k": {"budgets": [{"usd": 1, "unpriced": "allow"}]}})
    allowed = await rig.ask(chat_body(model="unknown"))
    assert (allowed.error, allowed.call.cost, rig.records[-1].cost_nano) == (None, None, None), "unknown, not nothing"
    rig.nothing_held()
    rig.load(keys={"k": {}})
    assert (await rig.ask(chat_body(model="unknown"))).call.cost is None
    rig.journal.stop()


async def test_a_budget_for_one_model_minds_the_price_of_that_model_only(tmp_path: Path) -> None:
    budgets = [{"name": "b", "usd": 1, "by": "model", "value": "m"}]
    rig = Rig(tmp_path, models=MODELS, budgets=budgets)
    assert (await rig.ask(chat_body(model="unknown"))).error is None
    assert (await rig.ask(chat_body(model="m"))).error is None
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/p.png"}}
    body = json.dumps({"model": "free", "messages": [{"role": "user", "content": [picture]}]}).encode()
    assert (await rig.ask(body)).error is None
    rig.nothing_held()
    rig.journal.stop()


async def test_what_the_size_of_a_request_does_not_bound_needs_a_declared_bound(tmp_path: Path) -> None:
    routes = {"r": {"to": {"fallback": ["m", "bound"]}}}
    rig = Rig(tmp_path, models=MODELS, routes=routes, keys=BUDGET)
    content = [{"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}]

    def body(model: str) -> bytes:
        return json.dumps(
            {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
        ).encode()

    refused = await rig.ask(body("m"))
    assert isinstance(refused.error, Invalid)
    assert refused.error.code == "unbounded_cost"
    assert "max_call_usd" in refused.error.message
    declared = await rig.ask(body("bound"))
    assert (declared.error, declared.call.bound) == (None, 500_000_000)
    other = await rig.ask(body("r"))
    assert (other.call.model, "m:no max_call_usd" in other.why) == ("bound", True)
    rig.load(keys={"k": {"budgets": [{"usd": 1, "soft": True}]}})
    assert (await rig.ask(body("m"))).error is None
    rig.nothing_held()
    rig.journal.stop()


async def test_small_images_and_tools_cost_more_than_their_bytes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=BUDGET)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = {"messages": [{"role": "user", "content": [picture, picture]}], "max_tokens": 1}
    rig.targets["alpha"].default = reports({"prompt_tokens": 2 * 2833, "completion_tokens": 1})
    done = await rig.ask(json.dumps({"model": "m", **content}).encode())
    assert (done.call.cost or 0) <= (done.call.bound or 0)
    tool = {"type": "function", "function": {"name": "f"}}
    rig.targets["alpha"].default = reports({"prompt_tokens": 700, "completion_tokens": 1})
    done = await rig.ask(chat_body(max_tokens=1, tools=[tool]))
    assert (done.call.cost or 0) <= (done.call.bound or 0)
    rig.nothing_held()
    rig.journal.stop()


async def test_a_budget_by_model_passes_that_model_over(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    budgets = [{"name": "b", "usd": 0.002, "by": "model", "value": "m"}]
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fallback": ["m", "n"]}}}, budgets=budgets)
    rig.targets["alpha"].default = reports({"prompt_tokens": 0, "completion_tokens": 90})
    answered = [(await rig.ask(chat_body(model="r", max_tokens=90))).call.model for _ in range(4)]
    assert answered == ["m", "m", "n", "n"]
    refused = await rig.ask(chat_body(model="m", max_tokens=90))
    assert isinstance(refused.error, OverLimit)
    rig.nothing_held()
    assert rig.pools["budget:bm"].spent == 2 * 900_000
    rig.journal.stop()


@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")  # the tokenizer's, as it loads
async def test_a_refused_call_holds_nothing_and_a_hit_costs_nothing(tmp_path: Path) -> None:
    limits = {"requests_per_minute": 10, "tokens_per_minute": 10_000, "concurrent": 2}
    routes = {"r": {"to": "m", "cache": {"ttl": "1m"}}}
    rig = Rig(tmp_path, routes=routes, keys={"k": {"limits": limits, "budgets": [{"usd": 1}]}})
    await rig.ask(chat_body(model="r"))
    spent = rig.pools["key:t>k:usd:month"].spent
    for _ in range(3):
        assert (await rig.ask(chat_body(model="r"))).call.cache == "hit"
    assert rig.pools["key:t>k:usd:month"].spent == spent == COST
    assert rig.pools["key:t>k:tokens"].used == 13
    assert rig.pools["key:t>k:requests"].used == 4, "a hit is a request all the same"
    assert (
        isinstance((await rig.ask(chat_body(model="r", n=0))).error, Invalid) or rig.pools["key:t>k:requests"].used == 5
    )
    count = rig.pools["key:t>k:requests"].used
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}).encode()
    assert (await rig.ask(body, operation="count_tokens", dialect="anthropic")).error is None
    assert rig.pools["key:t>k:requests"].used == count + 1, "as is a count that is made here"
    rig.nothing_held()
    rig.journal.stop()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_its_caller_left_is_charged_for_what_was_produced(tmp_path: Path, stream: bool) -> None:
    rig = Rig(tmp_path, keys={"k": {"limits": {"tokens_per_minute": 10**6}, "budgets": [{"usd": 1}]}})
    never = asyncio.Event()
    pieces: list[Any] = [*chat_events(["word "] * 40)[:41], never] if stream else [never]
    rig.targets["alpha"].default = lambda ask: pieces
    task = asyncio.ensure_future(rig.ask(chat_body("x" * 400, stream=stream)))
    await settle(80)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = rig.records[0]
    assert record.outcome == "cancelled"
    usage = record.attempts[0].usage
    assert usage is not None
    assert usage.estimated
    assert usage.input == -(-len(chat_body("x" * 400, stream=stream)) // 4)
    assert usage.output == (50 if stream else 0), "40 words of 5 characters are 50 tokens of 4"
    assert record.cost_nano == usage.input * 1000 + usage.output * 10_000
    rig.nothing_held()
    rig.journal.stop()


async def test_what_a_provider_said_at_the_start_is_not_all_that_it_produced(tmp_path: Path) -> None:
    """Anthropic reports its input and one token of output first, and the rest only with the end."""
    models = {"c": {"target": "beta/c", "price": PRICE}}
    rig = Rig(tmp_path, models=models, keys={"k": {"budgets": [{"usd": 1}]}})
    never = asyncio.Event()
    rig.targets["beta"].default = lambda ask: [*messages_events(["word "] * 40)[:42], never]
    body = json.dumps({"model": "c", "max_tokens": 99, "stream": True, "messages": [{"role": "user", "content": "x"}]})
    task = asyncio.ensure_future(rig.ask(body.encode(), operation="messages", dialect="anthropic"))
    await settle(80)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    usage = rig.records[0].attempts[0].usage
    assert usage is not None
    assert (usage.input, usage.output, usage.estimated) == (10, 50, True)
    rig.nothing_held()
    rig.journal.stop()


def cut(count: int, usage: bool = False) -> Any:
    """A stream of OpenAI's that ends after ``count`` tokens, having reported ten tokens each if ``usage``."""
    events = chat_events(["word "] * 60, False)[: count + 1]
    if usage:
        figures = {"prompt_tokens": 50, "completion_tokens": 60, "total_tokens": 110}
        events.append(b'data: {"choices":[],"usage":' + json.dumps(figures).encode() + b"}\n\n")
    return lambda ask: [*events, UpstreamFailed("cut", "cut")]


@pytest.mark.parametrize("reported", [True, False])
async def test_a_rescue_never_exceeds_the_hold(tmp_path: Path, reported: bool) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n", "o")}
    routes = {"r": {"to": {"fallback": ["m", "n", "o"]}}}
    budgets = [{"name": "b", "usd": 1, "by": "model"}]
    rig = Rig(tmp_path, models=models, routes=routes, keys=BUDGET, budgets=budgets)
    target = rig.targets["alpha"]
    target.models = {"m": cut(20, reported), "n": cut(40, reported), "o": says(["word "] * 60)}
    done = await rig.ask(chat_body(model="r", stream=True, max_tokens=60))
    held, cost = done.call.bound or 0, done.call.cost or 0
    assert cost <= held
    if reported:
        assert target.asked == ["m", "n"], "two that were charged in full leave nothing for a third"
        assert done.error is not None
    else:
        assert done.error is None
        assert "".join(event.text for event in done.events if isinstance(event, TextDelta)) == "word " * 60
    for record in rig.records:
        assert record.cost_nano == sum(attempt.cost_nano or 0 for attempt in record.attempts)
    rig.nothing_held()
    rig.journal.stop()


async def test_a_hedge_never_exceeds_the_hold_and_its_loser_is_charged(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    routes = {"r": {"to": {"fallback": ["m", "n"]}, "hedge": {"after": 0, "max_share": 1}}}
    rig = Rig(tmp_path, models=models, routes=routes, keys=BUDGET)
    never = asyncio.Event()
    rig.targets["alpha"].models = {"m": lambda ask: [never], "n": says()}
    done = await rig.ask(chat_body(model="r", max_tokens=5))
    assert (done.error, done.call.model) == (None, "n")
    record = rig.records[0]
    assert {attempt.target: attempt.error for attempt in record.attempts} == {"m": "cancelled", "n": None}
    assert record.cost_nano is not None
    assert COST < record.cost_nano <= (done.call.bound or 0)
    rig.nothing_held()
    rig.journal.stop()


async def test_a_hedge_that_could_cost_too_much_is_not_made(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    hedge = {"after": 0, "max_share": 1, "max_usd": 0.02}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fallback": ["m", "n"]}, "hedge": hedge}})
    wait = asyncio.Event()
    rig.targets["alpha"].models = {"m": lambda ask: [wait, *says()(ask)]}
    # Without max_tokens the answer may have 4096 tokens, which are 0.04 dollars.
    task = asyncio.ensure_future(rig.ask(chat_body(model="r")))
    await settle(20)
    assert rig.targets["alpha"].asked == ["m"]
    wait.set()
    assert (await task).error is None
    wait.clear()
    task = asyncio.ensure_future(rig.ask(chat_body(model="r", max_tokens=100)))
    await settle(20)
    assert rig.targets["alpha"].asked == ["m", "m", "n"]
    wait.set()
    assert (await task).call.model == "n"
    rig.nothing_held()
    rig.journal.stop()


async def test_hedges_are_a_share_of_calls(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    hedge = {"after": 0, "max_share": 0.5}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fallback": ["m", "n"]}, "hedge": hedge}})
    rig.targets["alpha"].before = lambda model: settle(30) if model == "m" else None
    for i in range(100):
        assert (await rig.ask(chat_body(str(i), model="r"))).error is None
    assert 55 <= rig.targets["alpha"].asked.count("n") <= 60, "half of them, and the reserve of ten"
    rig.journal.stop()


async def test_another_answer_for_a_filtered_one_is_within_the_hold(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    routes = {"r": {"to": {"fallback": ["m", "n"]}, "on_filter": "fallback"}}
    rig = Rig(tmp_path, models=models, routes=routes, keys=BUDGET)
    filtered = json.loads(chat_reply([""]))
    filtered["choices"][0]["finish_reason"] = "content_filter"
    rig.targets["alpha"].models = {"m": lambda ask: [json.dumps(filtered).encode()]}
    done = await rig.ask(chat_body(model="r", max_tokens=3))
    assert (done.error, done.call.model) == (None, "n")
    assert COST < (done.call.cost or 0) <= (done.call.bound or 0)
    rig.nothing_held()
    rig.journal.stop()


usage_within = st.tuples(st.integers(0, 150), st.integers(0, 400), st.integers(0, 150), st.integers(0, 400))
rate = st.integers(0, 1000).map(lambda number: number / 100)


@given(
    usage_within,
    st.fixed_dictionaries(
        {"input": rate, "output": rate},
        optional={"cached_input": rate, "cache_write": rate, "reasoning": rate, "request": st.just(0.001)},
    ),
    st.booleans(),
    st.sampled_from([{}, {"n": 2}, {"max_completion_tokens": 300}]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_usage_within_the_bounds_costs_more_than_is_held(
    tmp_path_factory: pytest.TempPathFactory,
    usage: tuple[int, int, int, int],
    price: dict[str, float],
    stream: bool,
    more: dict[str, int],
) -> None:
    rig = Rig(tmp_path_factory.mktemp("journal"), models={"m": {"target": "alpha/m", "price": price}}, keys=BUDGET)
    body = chat_body("x" * 100, stream=stream, max_tokens=200, **more)
    bound = max(200, more.get("max_completion_tokens", 0)) * more.get("n", 1)
    read, written, cached, reasoned = min(usage[0], len(body)), min(usage[1], bound), usage[2], usage[3]
    figures = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoned},
    }
    last = b'data: {"choices":[],"usage":' + json.dumps(figures).encode() + b"}\n\n"
    plain, events = reported(figures), chat_events(TOKENS, False)
    if more.get("n"):
        second = json.loads(chat_reply(TOKENS))["choices"][0]
        plain = json.dumps({**json.loads(plain), "choices": [{**second, "index": i} for i in (0, 1)]}).encode()
        events.insert(-1, events[-2].replace(b'"index": 0', b'"index": 1'))
    rig.targets["alpha"].default = lambda ask: [*events[:-1], last, events[-1]] if stream else [plain]
    done = await rig.ask(body)
    assert done.error is None
    assert done.call.cost is not None
    assert done.call.bound is not None
    assert done.call.cost <= done.call.bound
    assert any(isinstance(event, UsageSeen) for event in done.events)
    rig.nothing_held()
    rig.journal.stop()


async def test_what_a_provider_reports_beyond_the_bound_is_a_debt(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"budgets": [{"usd": 0.01}]}})
    rig.targets["alpha"].default = reports({"prompt_tokens": 20_000, "completion_tokens": 5})
    done = await rig.ask(chat_body(max_tokens=5))
    assert (done.error, done.call.cost) == (None, 20_050_000)
    pool = rig.pools["key:t>k:usd:month"]
    assert pool.spent == 20_050_000
    assert pool.idle < 0
    assert isinstance((await rig.ask(chat_body(max_tokens=5))).error, OverLimit)
    rig.nothing_held()
    rig.journal.stop()


async def test_a_failed_attempt_costs_nothing_unless_it_said_so(tmp_path: Path) -> None:
    models = {name: {"target": f"alpha/{name}", "price": PRICE} for name in ("m", "n")}
    rig = Rig(tmp_path, models=models, routes={"r": {"to": {"fallback": ["m", "n"]}}}, keys=BUDGET)
    rig.targets["alpha"].models = {"m": fails("timeout", status=504)}
    done = await rig.ask(chat_body(model="r"))
    assert [attempt.cost for attempt in done.call.attempts] == [0, COST]
    assert done.call.cost == COST
    rig.nothing_held()
    rig.journal.stop()


async def test_an_upstream_error_of_ours_leaves_nothing_held(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={"k": {"limits": {"concurrent": 1, "requests_per_minute": 100}, "budgets": [{"usd": 1}]}})

    def broken(ask: Any) -> Any:
        raise RuntimeError("a bug")

    rig.targets["alpha"].default = broken
    for _ in range(3):
        done = await rig.ask()
        assert isinstance(done.error, RuntimeError)
        assert (done.call.error, done.call.outcome, done.call.status) == ("internal_error", "failed", 500)
    rig.nothing_held()
    rig.journal.stop()


async def test_priority_decides_who_goes_first_through_a_full_gate(tmp_path: Path) -> None:
    models = {"m": {"target": "alpha/m", "price": PRICE, "concurrency": {"limit": 1, "queue": 10}}}
    rig = Rig(tmp_path, models=models, keys={"k": {}, "vip": {"priority": 5}})
    order: list[str] = []
    go = asyncio.Event()
    rig.targets["alpha"].before = lambda model: go.wait()

    async def ask(name: str) -> None:
        headers = {"authorization": f"Bearer ms-secret{'-vip' if name.startswith('vip') else ''}"}
        assert (await rig.ask(chat_body(name), headers)).error is None
        order.append(name)

    tasks: list[asyncio.Task[None]] = []
    for name in ("first", "second", "third", "vip"):
        tasks.append(asyncio.ensure_future(ask(name)))
        await settle()
    go.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "vip", "second", "third"]
    rig.nothing_held()
    rig.journal.stop()
