"""Savings: each figure is tokens times prices, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mainstay.core.money import Price
from mainstay.core.usage import Usage
from mainstay.ledger.cost_use import Looks, Use
from mainstay.observe.cost_savings import Prices, prices, savings
from mainstay.registry import kinds
from mainstay.registry.snapshot import Resolved, ResolvedModel, ResolvedRoute

USD = 1_000_000_000
SMALL = Price(1 * USD, 2 * USD, cached_input=USD // 10, cache_write=USD * 5 // 4)
LARGE = Price(10 * USD, 20 * USD)
USE = Use("chat", "small", False, False, 10, 0, 0, Usage(1_000_000, 500_000), 0, 0, 0, 0)


def known(**more: Any) -> Prices:
    models = {"small": SMALL, "large": LARGE, "free": None, **more}
    return prices(
        Resolved(
            models=[
                ResolvedModel(
                    digest="", body=kinds.Model(name, f"p/{name}"), provider="p", upstream_model=name, price=price
                )
                for name, price in models.items()
            ],
            routes=[
                ResolvedRoute(digest="", body=kinds.Route("inner", {"weighted": {"small": 9, "large": 1}})),
                ResolvedRoute(digest="", body=kinds.Route("chat", {"fallback": ["inner", "free"]})),
                ResolvedRoute(digest="", body=kinds.Route("fixed", {"fallback": ["small", "large"]})),
            ],
        )
    )


def section(found: dict[str, Any], when: str, kind: str) -> dict[str, Any]:
    return next(one for one in found[when] if one["kind"] == kind)


def test_a_hit_saves_what_its_answer_costs() -> None:
    hits = [replace(USE, hit=True), replace(USE, hit=True, model="free", calls=3)]
    found = section(savings(hits, [], known()), "made", "exact_cache")
    assert (found["usd"], found["unpriced_calls"]) == ("2", 3)
    said = "10 hits: (1000000 input × 1 + 500000 output × 2) USD per million = 2 USD"
    assert [row["arithmetic"] for row in found["data"]] == [said]
    assert savings([replace(USE, hit=True)], [], known())["possible"][1]["data"] == []  # a hit asks no model


def test_a_price_per_request_counts_for_every_hit() -> None:
    found = savings([replace(USE, hit=True)], [], known(small=replace(SMALL, request=5)))
    assert section(found, "made", "exact_cache")["usd"] == "2.00000005"


def test_prompt_caching_is_told_with_what_writing_costs_more() -> None:
    use = replace(USE, usage=Usage(1_000_000, 0, cached_input=400_000, cache_write=200_000))
    found = section(savings([use], [], known()), "made", "prompt_cache")
    assert found["usd"] == "0.31"  # 0.4 × 0.9 - 0.2 × 0.25
    assert "400000 cached_input × (1 - 0.1) - 200000 cache_write × (1.25 - 1)" in found["data"][0]["arithmetic"]
    loss = replace(USE, usage=Usage(1_000_000, 0, cache_write=400_000))
    assert section(savings([loss], [], known()), "made", "prompt_cache")["usd"] == "-0.1"


def test_routing_is_compared_with_the_dearest_and_the_cheapest_of_the_route() -> None:
    large = replace(USE, model="large", calls=4)
    found = savings([USE, large], [], known())
    made = section(found, "made", "routing")
    assert (made["usd"], [row["usd"] for row in made["data"]]) == ("18", ["18", "0"])
    assert made["data"][0]["arithmetic"] == "20 USD at large - 2 USD at small, for the same tokens"
    possible = section(found, "possible", "routing")
    assert [(row["model"], row["usd"]) for row in possible["data"]] == [("large", "18")]


def test_a_route_that_chooses_by_nothing_saves_nothing_by_routing() -> None:
    found = savings([replace(USE, route="fixed"), replace(USE, route="small")], [], known())
    assert section(found, "made", "routing")["data"] == []


def test_long_requests_are_compared_at_the_right_rates() -> None:
    tiered = replace(SMALL, above=(200_000, Price(4 * USD, 8 * USD)))
    assert (
        section(savings([replace(USE, hit=True, long=True)], [], known(small=tiered)), "made", "exact_cache")["usd"]
        == "8"
    )
    # The sum of many short calls is no long call.
    assert section(savings([replace(USE, hit=True)], [], known(small=tiered)), "made", "exact_cache")["usd"] == "2"
    large = replace(USE, model="large")
    found = section(savings([large], [], known(small=tiered)), "possible", "routing")
    assert found["usd"] == "12"  # as if all of it were long at the other model: never too much is promised


def test_what_the_cache_could_save_is_told_only_from_enough_look_ups() -> None:
    off = Looks("other", 0, 0, 50, 3 * USD)
    few = savings([], [Looks("chat", 24, 75, 0, None), off], known())
    assert section(few, "possible", "exact_cache")["data"] == []
    enough = section(savings([], [Looks("chat", 25, 75, 0, None), off], known()), "possible", "exact_cache")
    assert enough["usd"] == "0.75"
    assert enough["data"][0]["arithmetic"] == "3 USD of 50 calls × 25 hits / 100 look-ups = 0.75 USD"


def test_uncached_and_long_prompts_are_bounds() -> None:
    use = replace(USE, uncached=5, uncached_input=600_000, median_input=1000, excess_input=250_000)
    found = savings([use, replace(use, model="large")], [], known())
    uncached = section(found, "possible", "prompt_cache")
    assert [(row["model"], row["usd"]) for row in uncached["data"]] == [("small", "0.54")]  # large has no such price
    shorter = section(found, "possible", "shorter_prompts")
    assert [(row["model"], row["usd"]) for row in shorter["data"]] == [("large", "2.5"), ("small", "0.25")]
    assert all(one["assumption"] for one in found["possible"])
