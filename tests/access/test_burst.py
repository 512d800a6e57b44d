"""Bursts at several gateways, the messages in any order: exactly what there is gets admitted, and nobody is refused early."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mainstay.access.rules import Rule
from tests.access.simulation import Call, World

PER_MINUTE = Rule("key:k:requests", "requests", "minute", 12, "requests")
TOKENS = Rule("key:k:tokens", "tokens", "minute", 300, "tokens")
AT_ONCE = Rule("key:k:concurrent", "concurrent", None, 12, "calls")
MONEY = Rule("team:t:usd:day", "usd", "day", 1_200, "money")
OTHER = Rule("team:u:usd:total", "usd", "total", 600, "other money")

EACH = {PER_MINUTE: (0, 0), TOKENS: (25, 0), AT_ONCE: (0, 0), MONEY: (0, 100)}
"""Rules that let twelve such calls pass: their tokens and nano-dollars."""

often = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def burst(
    world: World, calls: list[tuple[int, list[Rule], int, int]], chance: random.Random, leaving: float = 0.0
) -> list[Call]:
    """These calls (gateway, rules, tokens, nano) come while messages arrive, and some leave, until all are decided."""
    made: list[Call] = []
    waiting = list(calls)
    while True:
        # What is not awaited here happens together with the next step: in one transaction, or in one turn of a loop.
        wait = chance.random() < 0.6
        one = chance.choice(world.gateways)
        step = chance.randrange(4)
        if waiting and step == 0:
            for number, rules, tokens, nano in (waiting.pop() for _ in range(min(chance.randint(1, 9), len(waiting)))):
                made.append(world.ask(world.gateways[number], rules, tokens, nano, wait=wait))
        elif step == 1:
            world.to_control(one, wait=wait)
        elif step == 2:
            world.to_gateway(one, wait=wait)
        elif made and chance.random() < leaving:
            world.leave(chance.choice(made))
        elif not waiting:
            world.settled()
            if all(call.decided for call in made):
                return made
            if not any(each.up or each.down for each in world.gateways):
                world.flow()  # time passes


@often
@given(
    seed=st.integers(0, 2**32),
    rules=st.sampled_from([[PER_MINUTE], [TOKENS], [AT_ONCE], [MONEY], [AT_ONCE, MONEY], list(EACH)]),
    count=st.integers(2, 4),
    calls=st.integers(1, 40),
)
def test_a_burst_admits_exactly_what_there_is(seed: int, rules: list[Rule], count: int, calls: int) -> None:
    chance = random.Random(seed)
    tokens, nano = (max(EACH[rule][i] for rule in rules) for i in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), rules, count)
        try:
            world.flow()
            made = burst(world, [(chance.randrange(count), rules, tokens, nano) for _ in range(calls)], chance)
            assert sum(call.admitted for call in made) == min(calls, 12)
        finally:
            world.close()


@often
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(2, 4),
    calls=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.sampled_from([*EACH, OTHER]), min_size=1, max_size=3, unique_by=lambda rule: rule.id),
            st.integers(1, 120),
            st.integers(1, 400),
        ),
        min_size=4,
        max_size=40,
    ),
    leaving=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_nobody_is_refused_what_others_do_not_use(
    seed: int, count: int, calls: list[tuple[int, list[Rule], int, int]], leaving: float
) -> None:
    """Calls of all sizes over some of the rules: a refused one must lack units that admitted ones have."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), [*EACH, OTHER], count)
        try:
            world.flow()
            made = burst(
                world, [(number % count, rules, tokens, nano) for number, rules, tokens, nano in calls], chance, leaving
            )
            left = world.unused()
            for call in made:
                if call.error is not None:
                    short = [claim for claim in call.claims if claim.units > left.get(claim.pool, claim.rule.amount)]
                    assert short, f"refused ({call.error}), and there are {left}"
        finally:
            world.close()


@pytest.mark.parametrize("late", [False, True])
def test_units_that_were_in_use_when_asked_for_and_came_back_go_to_who_asks_next(late: bool) -> None:
    """A call that comes after a place became free elsewhere gets it, however short a time ago nothing was left."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), [AT_ONCE], 2)
        try:
            world.flow()
            one, two = world.gateways
            for _ in range(AT_ONCE.amount):
                world.ask(one, [AT_ONCE], 0, 0)
            world.flow()
            assert len(one.holds) == AT_ONCE.amount
            refused = world.ask(two, [AT_ONCE], 0, 0)
            world.flow()
            assert refused.error is not None
            if not late:
                world.end(one, 0, 0, 0)
            next_one = world.ask(two, [AT_ONCE], 0, 0)
            if late:
                world.end(one, 0, 0, 0)
            world.flow()
            assert next_one.admitted
        finally:
            world.close()
