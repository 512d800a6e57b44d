"""A Snapshot compiled: what a call sees stays what it was, health outlives a change, nothing is kept for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.errors import Invalid
from tests.gateway.rig import Rig, chat_body, fails, says, settle

PRICE = {"input": 1, "output": 10}


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"target": f"alpha/{name}", "price": PRICE, **more}


async def test_a_call_keeps_the_plan_it_began_with(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models={"m": model("m")}, keys={"k": {"limits": {"concurrent": 1}, "budgets": [{"usd": 1}]}})
    go = asyncio.Event()
    rig.targets["alpha"].default = lambda ask: [go, *says()(ask)]
    first = asyncio.ensure_future(rig.ask(chat_body(stream=True)))
    await settle()
    before = rig.plan
    rig.load(models={"m": model("other", price={"input": 1000, "output": 1000})}, keys={"k": {}})
    second = asyncio.ensure_future(rig.ask(chat_body()))
    await settle()
    assert rig.targets["alpha"].asked == ["m", "other"]
    go.set()
    one, two = await asyncio.gather(first, second)
    assert one.call.plan is before
    assert (one.call.cost, two.call.cost) == (40_000, 13_000_000)
    assert one.call.snapshot == before.digest != two.call.snapshot == rig.plan.digest
    rig.nothing_held()
    rig.journal.stop()


async def test_health_outlives_a_change_that_does_not_concern_it(tmp_path: Path) -> None:
    models = {"m": model("m", concurrency={"limit": 3}), "alias": model("m", concurrency={"limit": 3})}
    rig = Rig(tmp_path, models=models)
    health = rig.plan.targets["m"].health
    assert rig.plan.targets["alias"].health is health, "a breaker belongs to a provider and model together"
    rig.targets["alpha"].default = fails(status=500)
    while health.breaker.admits():
        await rig.ask(chat_body())
    rig.load(models={**models, "n": model("n")})
    assert rig.plan.targets["m"].health is health
    assert not rig.plan.targets["m"].health.breaker.admits()
    rig.load(models={"m": model("m", concurrency={"limit": 4})})
    assert rig.plan.targets["m"].health is not health
    rig.journal.stop()


async def test_two_names_with_other_settings_keep_their_health_apart(tmp_path: Path) -> None:
    models = {"m": model("m", concurrency={"limit": 3}), "alias": model("m", breaker={"failures": 2})}
    rig = Rig(tmp_path, models=models)
    before = {name: rig.plan.targets[name].health for name in models}
    assert before["m"] is not before["alias"]
    rig.load(models={**models, "n": model("n")})
    assert {name: rig.plan.targets[name].health for name in models} == before
    rig.journal.stop()


async def test_what_nothing_refers_to_is_forgotten(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models={"m": model("m")})
    for i in range(50):
        rig.load(models={f"m{i}": model(f"m{i}")})
    assert list(rig.compiler.health()) == [("alpha", "m49")]
    assert len(rig.compiler._gates) == 1
    rig.journal.stop()


def test_a_plan_that_cannot_be_compiled_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models={"m": model("m")}, routes={"r": {"to": {"fallback": ["m"]}}})
    before = rig.plan
    with pytest.raises(Invalid, match="'nothing', which is neither a model nor a route"):
        rig.load(routes={"r": {"to": {"fallback": ["m", "nothing"]}}})
    assert rig.plan is before
    rig.journal.stop()


def test_versions_change_with_everything_a_route_may_lead_to_and_nothing_else(tmp_path: Path) -> None:
    models = {"m": model("m"), "n": model("n"), "x": model("x")}
    routes = {"inner": {"to": {"fallback": ["m"]}}, "r": {"to": {"fallback": ["inner", "n"]}}}
    rig = Rig(tmp_path, models=models, routes=routes)

    def version(**changes: Any) -> str:
        rig.load(**{"models": models, "routes": routes, **changes})
        return rig.plan.routes["r"].version

    first = version()
    assert version() == first
    assert version(models={**models, "x": model("y")}) == first
    changed = [
        version(models={**models, "m": model("m2")}),
        version(models={**models, "n": model("n", price={"input": 2})}),
        version(routes={**routes, "inner": {"to": {"fallback": ["n"]}}}),
        version(routes={**routes, "r": {"to": {"fallback": ["n", "inner"]}}}),
        version(routes={**routes, "r": {**routes["r"], "hold_back": 5}}),
    ]
    assert len({first, *changed}) == 6
    rig.journal.stop()


def test_routes_that_name_each_other_do_not_hang_the_compiler(tmp_path: Path) -> None:
    routes = {"a": {"to": {"fallback": ["b", "m"]}}, "b": {"to": {"fallback": ["a"]}}}
    rig = Rig(tmp_path, models={"m": model("m")}, routes=routes)
    assert rig.plan.routes["a"].table is None
    rig.journal.stop()
