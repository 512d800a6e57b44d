"""From a tree to an order of targets: every kind of node, chance, what sticks, and the tables that stand in for it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.core.order import order, table
from mainstay.core.route import Facts, Fallback, Name, Node, Weighted, names, parse

MODELS = ["a", "b", "c", "d", "e"]
GRID = 4096


class World:
    """What is known of the targets, and the next draws of chance."""

    def __init__(self, chance: Any = 0.0, **known: Mapping[str, float]) -> None:
        self.known = known
        self.draws = [chance] if isinstance(chance, float) else list(chance)

    def price(self, model: str) -> float | None:
        return self.known.get("price", {}).get(model)

    def latency(self, model: str) -> float:
        return self.known.get("latency", {}).get(model, 0.0)

    def busy(self, model: str) -> float:
        return self.known.get("busy", {}).get(model, 0.0)

    def random(self) -> float:
        return self.draws.pop(0) if len(self.draws) > 1 else self.draws[0]


def said(
    tree: Any, world: World | None = None, routes: Mapping[str, Any] | None = None, **facts: Any
) -> tuple[list[str], list[str]]:
    why: list[str] = []
    trees = {name: parse(body) for name, body in (routes or {}).items()}
    return order(parse(tree), trees, Facts(**{"tags": {}, **facts}), world or World(), why), why


def test_fallback_is_tried_in_turn_and_each_target_once() -> None:
    assert said({"fallback": ["a", "b", {"fallback": ["b", "c"]}, "a"]})[0] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("chance", "first", "rest"),
    [(0.0, "b", ["c", "a"]), (0.59, "b", ["c", "a"]), (0.6, "c", ["b", "a"]), (0.9, "a", ["b", "c"])],
)
def test_weighted_draws_one_and_puts_the_others_behind_it_by_weight(chance: float, first: str, rest: list[str]) -> None:
    tree = {"weighted": [{"to": "b", "weight": 6}, {"to": "c", "weight": 3}, {"to": "a", "weight": 1}]}
    assert said(tree, World(chance)) == ([first, *rest], [f"weighted:{first}"])


@given(st.floats(0, 1, exclude_max=True), st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]), min_size=2, max_size=5))
def test_a_weight_of_zero_is_never_drawn_nor_tried(chance: float, weights: list[float]) -> None:
    if not any(weights):
        weights[0] = 1.0
    tree = {"weighted": dict(zip(MODELS, weights, strict=False))}
    found = said(tree, World(chance))[0]
    assert set(found) == {model for model, weight in zip(MODELS, weights, strict=False) if weight}


def test_a_session_sticks_to_one_choice_and_sessions_spread_by_weight() -> None:
    tree = {"weighted": {"a": 3, "b": 1}, "sticky": "session"}
    first = Counter(said(tree, session=f"s{i}")[0][0] for i in range(4000))
    assert 0.72 < first["a"] / 4000 < 0.78
    one = said(tree, World(0.99), session="s1")
    assert one == said(tree, World(0.0), session="s1")
    assert one[1] == [f"weighted:{one[0][0]},sticky=session"]
    assert said(tree, World(0.99))[0][0] == "b", "who has no session is drawn by chance"
    said(tree, session="\ud800")  # what JSON may hold, though it is no text


def test_a_weighted_choice_below_another_draws_anew_for_those_who_stick() -> None:
    tree = {
        "weighted": [{"to": {"weighted": {"a": 1, "b": 1}, "sticky": "user"}, "weight": 1}, {"to": "c", "weight": 1}],
        "sticky": "user",
    }
    first = Counter(said(tree, user=f"u{i}")[0][0] for i in range(4000))
    assert 900 < first["a"] < 1100
    assert 900 < first["b"] < 1100


def test_cheapest_puts_unknown_prices_last() -> None:
    world = World(price={"a": 3.0, "c": 1.0, "d": 0.0})
    assert said({"cheapest": ["a", "b", "c", "d"]}, world) == (["d", "c", "a", "b"], ["cheapest:d"])


def test_least_busy_and_fastest_of_two() -> None:
    assert said({"least_busy": ["a", "b"]}, World(busy={"a": 0.5, "b": 0.2}))[0] == ["b", "a"]
    assert said({"fastest": ["a", "b"]}, World(latency={"a": 0.5, "b": 0.2}))[0] == ["b", "a"]


def test_fastest_of_many_is_the_better_of_two_drawn() -> None:
    latency = {"a": 0.4, "b": 0.1, "c": 0.3, "d": 0.2}
    # The two draws take the first (a) and the second after it (c); the others follow by their estimates.
    assert said({"fastest": ["a", "b", "c", "d"]}, World([0.0, 0.5, 0.0], latency=latency))[0] == ["c", "b", "d", "a"]
    chance = random.Random(1)
    first = Counter(
        said({"fastest": ["a", "b", "c", "d"]}, World([chance.random(), chance.random(), 0.0], latency=latency))[0][0]
        for _ in range(6000)
    )
    assert {model: round(count / 1000) for model, count in first.items()} == {"b": 3, "d": 2, "c": 1}, "never the worst"


def test_a_tree_is_judged_by_what_it_would_really_do() -> None:
    """The draw that decides how a weighted child ranks is the one that it is then tried with."""
    inner = {"weighted": {"a": 1, "b": 1}}
    world = World([0.9, 0.1, 0.1], price={"a": 9.0, "b": 1.0, "c": 5.0})
    assert said({"cheapest": [inner, "c"]}, world) == (["b", "a", "c"], ["cheapest:b", "weighted:b"])


def test_a_child_without_targets_ranks_last() -> None:
    nothing = {"when": [{"if": {"team": "other"}, "to": "a"}]}
    for kind in ("cheapest", "fastest", "least_busy"):
        assert said({kind: [nothing, "b", "c"]}, World(latency={"b": 1.0, "c": 2.0}))[0] == ["b", "c"]


@pytest.mark.parametrize(
    ("condition", "facts", "holds"),
    [
        ({"tags": {"tier": ["free", "trial"]}}, {"tags": {"tier": "trial"}}, True),
        ({"tags": {"tier": "free"}}, {"tags": {"tier": "paid"}}, False),
        ({"tags": {"tier": "free"}}, {}, False),
        ({"team": "t"}, {"team": "t"}, True),
        ({"team": ["s", "u"]}, {"team": "t"}, False),
        ({"key": "k"}, {"key": "k"}, True),
        ({"key": "k"}, {"key": "l"}, False),
        ({"min_tokens": 100}, {"tokens": 100}, True),
        ({"min_tokens": 100}, {"tokens": 99}, False),
        ({"max_tokens": 100}, {"tokens": 100}, True),
        ({"max_tokens": 100}, {"tokens": 101}, False),
        ({"tools": True}, {"tools": True}, True),
        ({"tools": False}, {"tools": True}, False),
        ({"images": True}, {"images": False}, False),
        ({"data_class": ["personal"]}, {"tags": {"data_class": "personal"}}, True),
        ({"data_class": "personal"}, {"tags": {"data_class": "public"}}, False),
        ({"budget_left_below": 0.2}, {"budget_left": 0.19}, True),
        ({"budget_left_below": 0.2}, {"budget_left": 0.2}, False),
        ({"team": "t", "tools": True}, {"team": "t", "tools": False}, False),
        ({"team": "t", "tools": True}, {"team": "t", "tools": True}, True),
    ],
)
def test_conditions(condition: dict[str, Any], facts: dict[str, Any], holds: bool) -> None:
    tree = {"when": [{"if": condition, "to": "a"}], "else": "b"}
    assert said(tree, **facts) == ((["a"], ["when[0]"]) if holds else (["b"], ["when:else"]))


def test_the_first_case_that_holds_decides_and_without_one_there_is_nothing() -> None:
    cases = [{"if": {"team": "x"}, "to": "a"}, {"if": {"tools": True}, "to": "b"}, {"if": {"team": "t"}, "to": "c"}]
    assert said({"when": cases}, team="t", tools=True) == (["b"], ["when[1]"])
    assert said({"when": cases}, team="z") == ([], ["when:else"])


def test_routes_name_routes() -> None:
    routes = {"inner": {"weighted": {"a": 1}}, "middle": {"fallback": ["inner", "b"]}}
    assert said({"fallback": ["middle", "inner", "c"]}, routes=routes)[0] == ["a", "b", "c"]
    with pytest.raises(Invalid, match="leads back to itself"):
        said("x", routes={"x": "y", "y": "x"})


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({}, "to"),
        ({"fallback": []}, "to.fallback"),
        ({"fallback": ["a"], "weighted": {"a": 1}}, "to"),
        ({"fallback": ["a"], "sticky": "user"}, "to.sticky"),
        ({"fallback": ["a", {"fasted": ["b"]}]}, "to.fallback[1].fasted"),
        ({"weighted": {"a": 0}}, "to.weighted"),
        ({"weighted": {"a": -1}}, "to.weighted.a"),
        ({"weighted": {"a": 1}, "sticky": "key"}, "to.weighted"),
        ({"when": [{"if": {"tool": True}, "to": "a"}]}, "to.when[0].if.tool"),
        ({"when": [{"if": {}, "to": "a"}]}, "to.when[0].if"),
        ({"when": [{"if": {"min_tokens": True}, "to": "a"}]}, "to.when[0].if.min_tokens"),
        ({"when": [{"to": "a"}]}, "to.when[0]"),
    ],
)
def test_mistakes_are_named(tree: Any, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(tree)
    assert caught.value.field == field


# ---------------------------------------------------------------- tables

weights = st.integers(0, 8).map(lambda number: number / 2)


def node(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    weighted = st.lists(st.tuples(children, weights), min_size=1, max_size=4)
    return st.lists(children, min_size=1, max_size=4).map(lambda to: Fallback(tuple(to))) | weighted.filter(
        lambda to: any(weight for _, weight in to)
    ).map(lambda to: Weighted(tuple(to)))


trees = st.recursive(st.sampled_from([*MODELS, "r1", "r2"]).map(Name), node, max_leaves=8)
plain_trees = st.recursive(st.sampled_from(MODELS).map(Name), node, max_leaves=4)


@given(trees, plain_trees, plain_trees)
@settings(max_examples=300, deadline=None)
def test_a_table_gives_what_the_tree_gives_for_every_draw(tree: Node, one: Node, two: Node) -> None:
    routes = {"r1": one, "r2": Fallback((two, Name("r1")))}
    made = table(tree, routes)
    if made is None:
        assert sum(1 for _ in _weighted(tree, routes)) > 1, "only what draws twice has no table"
        return
    for i in range(0, GRID, 37):
        chance = i / GRID
        why: list[str] = []
        found = order(tree, routes, Facts({}), World(chance), why)
        _, names_, reason = made.draw(chance)
        assert list(names_) == found
        assert why == ([] if reason is None else [reason])


def _weighted(tree: Node, routes: Mapping[str, Node]) -> Any:
    if isinstance(tree, Name):
        if tree.name in routes:
            yield from _weighted(routes[tree.name], routes)
        return
    if isinstance(tree, Weighted):
        yield tree
    assert isinstance(tree, Fallback | Weighted)
    for child in tree.to:
        yield from _weighted(child[0] if isinstance(child, tuple) else child, routes)


@pytest.mark.parametrize(
    "tree",
    [
        {"cheapest": ["a", "b"]},
        {"fastest": ["a", "b"]},
        {"least_busy": ["a", "b"]},
        {"when": [{"if": {"tools": True}, "to": "a"}]},
        {"weighted": {"a": 1, "b": 1}, "sticky": "user"},
        {"fallback": ["c", {"weighted": {"a": 1, "b": 1}, "sticky": "session"}]},
        {"fallback": [{"weighted": {"a": 1}}, {"weighted": {"b": 1}}]},
    ],
)
def test_what_depends_on_the_call_or_on_two_draws_has_no_table(tree: Any) -> None:
    assert table(parse(tree), {}) is None


def test_a_route_that_leads_to_itself_has_no_table() -> None:
    assert table(Name("x"), {"x": Name("y"), "y": Name("x")}) is None


def test_names_are_found_in_every_kind_of_node() -> None:
    tree = {
        "when": [
            {"if": {"tools": True}, "to": {"cheapest": ["a", {"fastest": ["b"]}]}},
            {"if": {"images": True}, "to": {"weighted": {"c": 1}}},
        ],
        "else": {"fallback": ["d", {"least_busy": ["e"]}]},
    }
    assert list(names(parse(tree))) == MODELS
