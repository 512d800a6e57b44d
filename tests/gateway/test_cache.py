"""The exact cache: who may see what, for how long, what is kept, and one call for all who ask the same at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import Clock, FixedClock
from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.core.event import End, Frame, TextDelta
from mainstay.core.usage import Usage
from mainstay.gateway.cache import Entry, Memory, canonical
from tests.gateway.rig import SECRET, Behaviour, Done, Rig, chat_body, fails, says, settle
from tests.provider import chat_events, chat_reply

PRICE = {"input": 1, "output": 10}
MODELS = {
    "m": {"target": "alpha/m", "price": PRICE},
    "n": {"target": "alpha/n", "price": PRICE},
    "c": {"target": "beta/c", "price": PRICE},
}
CACHE = {"ttl": "10m"}
ROUTES: dict[str, Any] = {
    "r": {"to": {"fallback": ["m", "n"]}, "cache": CACHE, "retry": {"attempts": 1}},
    "k": {"to": "m", "cache": {"ttl": "10m", "scope": "key"}},
    "small": {"to": "m", "cache": {"ttl": "10m", "max_bytes": 300}},
    "far": {"to": "c", "cache": CACHE},
    "off": {"to": "m"},
    "w": {"to": {"when": [{"if": {"tags": {"tier": "free"}}, "to": "m"}], "else": "n"}, "cache": CACHE},
    "two": {"to": {"weighted": {"m": 1, "n": 1}}, "cache": CACHE},
}
KEYS: dict[str, Any] = {"k": {}, "other": {}, "stranger": {"team": "s"}}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, models=MODELS, routes=ROUTES, keys=KEYS, teams={"t": {}, "s": {}})
    rig.targets["alpha"].default = counted(rig)
    yield rig
    rig.nothing_held()
    rig.journal.stop()


def counted(rig: Rig) -> Behaviour:
    """Says which request it is that it answers."""
    return lambda ask: says([f"answer {len(rig.targets['alpha'].asked)} ", "end"])(ask)


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET}-{name}"}


def asked(rig: Rig) -> int:
    return sum(len(target.asked) for target in rig.targets.values())


async def states(rig: Rig, *bodies: bytes, headers: Any = None, **more: Any) -> list[str]:
    return [(await rig.ask(body, headers, **more)).call.cache for body in bodies]


async def test_a_hit_is_the_same_answer_and_costs_nothing(rig: Rig) -> None:
    first = await rig.ask(chat_body(model="r"))
    again = await rig.ask(chat_body(model="r"))
    assert (first.call.cache, again.call.cache, asked(rig)) == ("miss", "hit", 1)
    assert again.raw == first.raw
    assert again.error is None
    record = rig.records[1]
    assert (record.cache, record.cost_nano, record.attempts, record.status, record.outcome) == ("hit", 0, [], 200, "ok")
    assert (record.model, record.provider, record.finish) == ("m", "alpha", "stop")
    assert (record.input, record.output) == (10, 2), "the usage is that of the answer that was made once"
    assert rig.records[0].cost_nano == 30_000


async def test_off_and_refresh_and_nothing_else(rig: Rig) -> None:
    body = chat_body(model="r")
    assert await states(rig, body, headers={"x-mainstay-cache": "off"}) == ["off"]
    assert await states(rig, body) == ["miss"], "what was asked past the cache is not in it"
    assert await states(rig, body, headers={"x-mainstay-cache": "refresh"}) == ["miss"]
    renewed = await rig.ask(body, {"x-mainstay-cache": ""})
    assert renewed.call.cache == "hit"
    assert b"answer 3" in renewed.raw
    assert await states(rig, chat_body(model="off"), chat_body(model="off")) == ["off", "off"]
    wrong = await rig.ask(body, {"x-mainstay-cache": "no"})
    assert isinstance(wrong.error, Invalid)
    assert wrong.error.field == "x-mainstay-cache"


async def test_an_entry_ends_with_its_time(rig: Rig) -> None:
    assert isinstance(rig.clock, FixedClock)
    body = chat_body(model="r")
    assert await states(rig, body) == ["miss"]
    rig.clock.advance(599)
    assert await states(rig, body) == ["hit"]
    rig.clock.advance(1)
    assert await states(rig, body) == ["miss"]


async def test_nobody_sees_what_is_not_theirs(rig: Rig) -> None:
    for route, other in (("r", "hit"), ("k", "miss")):
        body = chat_body(model=route)
        assert await states(rig, body) == ["miss"]
        assert await states(rig, body, headers=key("other")) == [other], "another key of the team"
        assert await states(rig, body, headers=key("stranger")) == ["miss"], "another team"
        assert await states(rig, body) == ["hit"]


async def test_a_team_named_as_a_key_is_no_way_in(tmp_path: Path) -> None:
    """The tenant of one scope is never that of the other."""
    routes = {"r": {"to": "m", "cache": {"ttl": "1m", "scope": "key"}}}
    rig = Rig(tmp_path, models=MODELS, routes=routes, keys={"k": {"id": "x"}, "other": {"id": "y", "team": "x"}})
    rig.targets["alpha"].default = counted(rig)
    assert await states(rig, chat_body(model="r")) == ["miss"]
    routes["r"]["cache"]["scope"] = "team"  # type: ignore[index]
    rig.load(routes=routes)
    assert await states(rig, chat_body(model="r"), headers=key("other")) == ["miss"]
    rig.journal.stop()


@pytest.mark.parametrize(
    "other",
    [
        {"text": "another"},
        {"a_field_of_tomorrow": 1},
        {"temperature": 0.5},
        {"temperature": 1},
        {"stream": True},
        {"max_tokens": 10},
        {"user": "u"},
        {"model": "two"},
    ],
)
async def test_every_part_of_the_request_counts(rig: Rig, other: dict[str, Any]) -> None:
    assert await states(rig, chat_body(model="r"), chat_body(**{"model": "r", **other})) == ["miss", "miss"]
    assert await states(rig, chat_body(model="r"), chat_body(**{"model": "r", **other})) == ["hit", "hit"]


async def test_other_formats_operations_and_headers_are_other_entries(rig: Rig) -> None:
    body = chat_body(model="r", max_tokens=9)
    assert await states(rig, body) == ["miss"]
    assert await states(rig, body, operation="messages", dialect="anthropic") == ["miss"]
    assert await states(rig, body, headers={"openai-beta": "x=1"}) == ["miss"]
    assert await states(rig, body, headers={"openai-beta": "x=1"}) == ["hit"]
    far = chat_body(model="far", max_tokens=9)
    for headers in ({"anthropic-beta": "a"}, {"anthropic-beta": "b"}, {"anthropic-version": "2023-06-01"}):
        assert await states(rig, far, headers=headers, operation="messages", dialect="anthropic") == ["miss"]


async def test_the_order_of_keys_and_white_space_do_not_count(rig: Rig) -> None:
    one = b'{"model":"r","messages":[{"role":"user","content":"\\u00e9 hello"}],"seed":1}'
    two = '{ "seed": 1,\n "messages": [ {"content": "é hello", "role": "user"} ], "model": "r" }'.encode()
    assert await states(rig, one, two) == ["miss", "hit"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4), st.randoms(use_true_random=False))
def test_equal_values_have_one_form(value: dict[str, Any], chance: Any) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, dict):
            items = [(name, shuffled(inner)) for name, inner in part.items()]  # type: ignore[misc]
            chance.shuffle(items)
            return dict(items)
        return [shuffled(inner) for inner in part] if isinstance(part, list) else part  # type: ignore[misc]

    def form(part: Any, indent: int | None) -> bytes | None:
        return canonical(json.dumps(part, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass"))

    assert form(value, None) == form(shuffled(value), 2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"r","messages":[{"role":"user","content":"good","content":"bad"}]}',
        b'{"model":"r","messages":[{"role":"user","content":"good","content":"bad\\u0022:"}]}',
        b'{"model":"r","messages":[{"role":"user","content":"good","c\\u006fntent":"bad"}]}',
        b'{"model":"r","messages":[{"role":"user","content" : "good","content":"bad"}]}',
    ],
)
def test_a_body_that_two_parsers_read_differently_is_no_other_body(body: bytes) -> None:
    """Else its answer, to what the provider took for the question, would be given to those who ask the other one."""

    last = msgspec.json.encode(msgspec.json.decode(body))
    assert canonical(last) != canonical(body)
    assert canonical(body) == body


def test_what_is_not_json_has_no_form() -> None:
    assert canonical(b"--boundary") is None
    assert canonical(b"[" * 100_000) is None


async def test_another_version_of_the_route_or_its_models_is_another_entry(rig: Rig) -> None:
    body = chat_body(model="r")
    assert await states(rig, body) == ["miss"]
    rig.load(keys={**KEYS, "new": {}})
    assert await states(rig, body) == ["hit"], "a new key changes no route"
    rig.load(models={**MODELS, "n": {"target": "alpha/n-2", "price": PRICE}})
    assert await states(rig, body) == ["miss"], "a model that it may lead to"
    rig.load(routes={**ROUTES, "r": {**ROUTES["r"], "rescue": "off"}})
    assert await states(rig, body) == ["miss"], "the route's own settings"
    rig.load(routes={**ROUTES, "r": {**ROUTES["r"], "to": "k"}})
    assert await states(rig, body) == ["miss"]
    rig.load(routes={**ROUTES, "r": {**ROUTES["r"], "to": "k"}, "k": {"to": "n"}})
    assert await states(rig, body) == ["miss"], "a route that it leads to"


async def test_a_case_of_the_route_is_part_of_the_question(rig: Rig) -> None:
    free = {"x-mainstay-tags": "tier=free"}
    assert await states(rig, chat_body(model="w"), headers=free) == ["miss"]
    paid = await rig.ask(chat_body(model="w"))
    assert (paid.call.cache, paid.call.model) == ("miss", "n")
    assert (await rig.ask(chat_body(model="w"), free)).call.model == "m"


async def test_any_drawn_choice_may_answer_for_the_other(rig: Rig) -> None:
    assert (await rig.ask(chat_body(model="two"))).call.model == "m"
    rig.chance = lambda: 0.9
    hit = await rig.ask(chat_body(model="two"))
    assert (hit.call.cache, hit.call.model) == ("hit", "m")


@pytest.mark.parametrize("route", ["r", "far"])
@pytest.mark.parametrize("stream", [True, False])
async def test_streams_and_plain_replies_are_replayed_whole(rig: Rig, route: str, stream: bool) -> None:
    """Raw ones byte for byte; translated ones as the same events."""
    body = chat_body(model=route, stream=stream)
    first, again = await rig.ask(body), await rig.ask(body)
    assert again.call.cache == "hit"
    assert again.raw == first.raw
    assert again.reply is not None
    assert first.reply is not None
    assert (again.reply.dialect, again.reply.stream) == (first.reply.dialect, stream)
    assert again.reply.content_type == first.reply.content_type
    assert type(again.events[-1]) is End
    if route == "far":
        assert again.events == first.events
        assert "".join(event.text for event in again.events if isinstance(event, TextDelta)) == "one two three"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_not_whole_is_not_kept(rig: Rig, stream: bool) -> None:
    body, target = chat_body(model="k", stream=stream), rig.targets["alpha"]
    cut = [*chat_events(["a ", "b "])[:3], UpstreamFailed("cut", "cut")] if stream else [UpstreamFailed("cut", "cut")]
    target.default = lambda ask: cut
    broken = await rig.ask(body)
    assert isinstance(broken.error, UpstreamFailed)
    assert len(rig.memory) == 0
    target.default = says()
    assert await states(rig, body) == ["miss"]


async def test_a_stream_that_its_caller_left_is_not_kept(rig: Rig) -> None:
    call = rig.make(chat_body(model="r", stream=True))
    with pytest.raises(asyncio.CancelledError):
        await rig.leave_after(1, call)
    assert len(rig.memory) == 0
    assert call.outcome == "cancelled"


async def test_another_targets_answer_is_not_kept(rig: Rig) -> None:
    body, target = chat_body(model="r"), rig.targets["alpha"]
    target.models = {"m": fails(status=500)}
    fallback = await rig.ask(body)
    assert (fallback.call.model, fallback.call.cache, len(rig.memory)) == ("n", "miss", 0)


async def test_an_answer_in_place_of_a_resting_target_is_not_kept(rig: Rig) -> None:
    body, target = chat_body(model="r"), rig.targets["alpha"]
    target.models = {"m": fails(status=500)}
    while rig.plan.targets["m"].health.breaker.admits():
        await rig.ask(body)
    target.asked.clear()
    passed = await rig.ask(body)
    assert (passed.call.model, target.asked, passed.error) == ("n", ["n"], None)
    assert len(rig.memory) == 0


async def test_a_rescued_stream_is_not_kept(rig: Rig) -> None:
    cut = [*chat_events(["a ", "b "])[:2], UpstreamFailed("cut", "cut")]
    rig.targets["alpha"].models = {"m": lambda ask: cut, "n": says(["a ", "b "])}
    done = await rig.ask(chat_body(model="r", stream=True))
    assert done.error is None
    assert "regenerated" in done.why or "continued" in done.why
    assert len(rig.memory) == 0


async def test_a_large_answer_is_not_kept(rig: Rig) -> None:
    rig.targets["alpha"].default = says(["x" * 400])
    assert await states(rig, chat_body(model="small"), chat_body(model="small")) == ["miss", "miss"]
    stream = chat_body(model="small", stream=True)
    assert await states(rig, stream, stream) == ["miss", "miss"]
    rig.targets["alpha"].default = says(["x"])
    assert await states(rig, chat_body(model="small"), chat_body(model="small")) == ["miss", "hit"]


def test_memory_is_bounded_and_drops_what_was_not_used() -> None:
    clock = FixedClock()
    memory = Memory(1000, clock)

    def entry(size: int) -> Entry:
        return Entry([Frame(b"x", ())], "openai", "", "m", "p", None, Usage(1, 1), clock.monotonic() + 60, size)

    for name in (b"a", b"b", b"c"):
        assert memory.put(name, entry(300))
    assert memory.get(b"a") is not None
    assert memory.put(b"d", entry(300))
    assert [name for name in (b"a", b"b", b"c", b"d") if memory.get(name)] == [b"a", b"c", b"d"]
    assert memory.put(b"a", entry(400))
    assert memory.size == 1000
    assert not memory.put(b"a", entry(1001))
    assert memory.get(b"a") is None, "what it had is out of date"
    clock.advance(60)
    assert memory.get(b"c") is None
    assert memory.size == 300
    memory.clear()
    assert (len(memory), memory.size) == (0, 0)


async def test_entries_count_what_they_take(rig: Rig) -> None:
    await rig.ask(chat_body(model="r", stream=True))
    raw = len(b"".join(chat_events(["answer 1 ", "end"])))
    assert raw <= rig.memory.size <= raw + 2048
    before = rig.memory.size
    await rig.ask(chat_body(model="far", stream=True))
    assert rig.memory.size - before > 3 * 200, "events take more room than their text"


# ---------------------------------------------------------------- one flight


class Held:
    """Answers of a target that wait for a word."""

    def __init__(self, rig: Rig, behave: Behaviour | None = None) -> None:
        self.go = asyncio.Event()
        inner = behave or counted(rig)
        rig.targets["alpha"].default = lambda ask: [self.go, *inner(ask)]


async def many(rig: Rig, count: int, body: bytes) -> list[asyncio.Task[Done]]:
    tasks = [asyncio.ensure_future(rig.ask(body)) for _ in range(count)]
    await settle()
    return tasks


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hundred_at_once_ask_once(rig: Rig, stream: bool) -> None:
    held = Held(rig)
    tasks = await many(rig, 100, chat_body(model="r", stream=stream))
    held.go.set()
    done = await asyncio.gather(*tasks)
    assert asked(rig) == 1
    assert [one.call.cache for one in done] == ["miss"] + ["hit"] * 99
    assert {one.raw for one in done} == {done[0].raw}
    assert sum(record.cost_nano or 0 for record in rig.records) == 30_000


async def test_when_the_first_fails_another_takes_its_place(rig: Rig) -> None:
    held = Held(rig)
    answers = [fails("invalid", status=400), counted(rig)]
    rig.targets["alpha"].default = lambda ask: [held.go, *answers.pop(0)(ask)]
    rig.targets["alpha"].script = [lambda ask: [held.go, UpstreamFailed("invalid", "no", status=400)]]
    tasks = await many(rig, 20, chat_body(model="r"))
    held.go.set()
    answers.pop(0)
    done = await asyncio.gather(*tasks)
    assert asked(rig) == 2
    assert [one.error is None for one in done].count(False) == 1
    assert sorted(one.call.cache for one in done if one.error is None) == ["hit"] * 18 + ["miss"]


async def test_after_two_failures_nobody_waits_in_a_row(rig: Rig) -> None:
    """A provider that is down answers a hundred callers in the time of two, not of a hundred."""
    held = Held(rig, lambda ask: [UpstreamFailed("invalid", "no", status=400)])
    tasks = await many(rig, 100, chat_body(model="r"))
    held.go.set()
    await settle(60)
    assert all(task.done() for task in tasks)
    assert all(task.result().error is not None for task in tasks)


async def test_what_is_not_kept_is_asked_for_by_all_at_once(rig: Rig) -> None:
    held = Held(rig, says(["x" * 400]))
    tasks = await many(rig, 50, chat_body(model="small"))
    assert asked(rig) == 1
    held.go.set()
    await settle(12)
    assert asked(rig) == 50
    assert [done.error for done in await asyncio.gather(*tasks)] == [None] * 50


async def test_the_first_callers_departure_hands_over(rig: Rig) -> None:
    held = Held(rig)
    tasks = await many(rig, 10, chat_body(model="r"))
    for gone in (0, 1, 2):
        tasks[gone].cancel()
        await settle()
    assert asked(rig) == 4, "each that takes over asks anew; departures are no failures of the provider"
    held.go.set()
    done = await asyncio.gather(*tasks[3:])
    assert [one.error for one in done] == [None] * 7
    assert asked(rig) == 4
    await asyncio.gather(*tasks[:3], return_exceptions=True)


async def test_who_waits_and_leaves_disturbs_nobody(rig: Rig) -> None:
    held = Held(rig)
    tasks = await many(rig, 10, chat_body(model="r"))
    tasks[5].cancel()
    await settle()
    held.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asked(rig) == 1
    assert tasks[5].cancelled()
    assert [record.outcome for record in rig.records].count("ok") == 9


async def test_nobody_waits_for_longer_than_half_its_time(tmp_path: Path) -> None:
    """A first caller that reads slowly must not cost the others their answers."""

    routes = {"r": {"to": "m", "cache": CACHE, "timeouts": {"total": "200ms"}}}
    rig = Rig(tmp_path, models=MODELS, routes=routes, clock=Clock())
    held = Held(rig)
    first = asyncio.ensure_future(rig.ask(chat_body(model="r")))
    await settle()
    rig.targets["alpha"].default = says()
    second = await rig.ask(chat_body(model="r"))
    assert (second.error, second.call.cache) == (None, "miss")
    held.go.set()
    assert (await first).error is None
    rig.journal.stop()


async def test_a_refresh_does_not_wait(rig: Rig) -> None:
    held = Held(rig)
    tasks = await many(rig, 1, chat_body(model="r"))
    renew = asyncio.ensure_future(rig.ask(chat_body(model="r"), {"x-mainstay-cache": "refresh"}))
    await settle()
    assert asked(rig) == 2
    held.go.set()
    await asyncio.gather(renew, *tasks)
    assert await states(rig, chat_body(model="r")) == ["hit"]


async def test_content_of_a_hit_is_kept_as_well(tmp_path: Path) -> None:
    routes = {"r": {"to": "m", "cache": CACHE, "content": True}, "far": {"to": "c", "cache": CACHE, "content": True}}
    rig = Rig(tmp_path, models=MODELS, routes=routes)
    for model in ("r", "far"):
        for stream in (False, True):
            for _ in range(2):
                await rig.ask(chat_body(model=model, stream=stream))
            miss, hit = rig.spool.given[-2:]
            assert hit.reply == miss.reply if model == "r" else json.loads(hit.reply)["choices"]
    assert [record.cache for record in rig.records] == ["miss", "hit"] * 4
    assert json.loads(rig.spool.given[0].reply) == json.loads(chat_reply(["one ", "two ", "three"]))
    rig.journal.stop()
