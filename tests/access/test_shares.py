"""Shares and purses together: nothing is overspent whatever dies or is lost when, and nothing stays held."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mainstay.access.rules import SPAN, Rule
from tests.access.simulation import World

MONEY = Rule("team:t:usd:day", "usd", "day", 1_000, "money")
REQUESTS_RULE = Rule("key:k:requests", "requests", "minute", 12, "requests")
TOKENS_RULE = Rule("key:k:tokens", "tokens", "minute", 300, "tokens")
AT_ONCE = Rule("key:k:concurrent", "concurrent", None, 6, "calls")

which = st.integers(0, 3)
gateways = st.integers(0, 5)


class Machine(RuleBasedStateMachine):
    """Control and gateways; every rule is one event that can happen between any two others."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world: World | None = None
        self.bounds: dict[str, int] = {}

    @initialize(count=st.integers(1, 3), rules=st.sampled_from([(MONEY,), (MONEY, AT_ONCE), None]))
    def start(self, count: int, rules: tuple[Rule, ...] | None) -> None:
        chosen = [MONEY, REQUESTS_RULE, TOKENS_RULE, AT_ONCE] if rules is None else list(rules)
        self.world = World(Path(self._folder.name), chosen, count)
        self.world.flow()

    def teardown(self) -> None:
        if self.world is not None:
            try:
                self.nothing_leaks()
            finally:
                self.world.close()
        self._folder.cleanup()

    def _gateway(self, number: int):
        assert self.world is not None
        return self.world.gateways[number % len(self.world.gateways)]

    @rule(number=gateways, tokens=st.integers(0, 120), nano=st.integers(0, 400), count=st.integers(1, 4), ending=which)
    def call(self, number: int, tokens: int, nano: int, count: int, ending: int) -> None:
        gateway = self._gateway(number)
        if gateway.alive:
            for _ in range(count):
                self.world.call(gateway, tokens, nano)
            self._deliver(ending)

    @rule(number=gateways, one=which, tokens=st.integers(0, 120), nano=st.integers(0, 400), count=st.integers(1, 3))
    def end(self, number: int, one: int, tokens: int, nano: int, count: int) -> None:
        for _ in range(count):
            self.world.end(self._gateway(number), one, tokens, nano)

    def _deliver(self, ending: int) -> None:
        """Most messages arrive: how far they get is the chance here."""
        if ending == 3:
            self.world.flow()
        elif ending:
            for gateway in self.world.gateways:
                self.world.to_control(gateway)
            if ending == 2:
                for gateway in self.world.gateways:
                    self.world.to_gateway(gateway)

    @rule(number=gateways, one=which)
    def give_up(self, number: int, one: int) -> None:
        self.world.give_up(self._gateway(number), one)

    @rule(number=gateways)
    def to_control(self, number: int) -> None:
        self.world.to_control(self._gateway(number))

    @rule(number=gateways)
    def to_gateway(self, number: int) -> None:
        self.world.to_gateway(self._gateway(number))

    @rule()
    def flow(self) -> None:
        self.world.flow()

    @rule(number=gateways, late=st.booleans())
    def disconnect(self, number: int, late: bool) -> None:
        self.world.disconnect(self._gateway(number), late=late)

    @rule(number=gateways, ending=which)
    def connect(self, number: int, ending: int) -> None:
        self.world.connect(self._gateway(number))
        self._deliver(ending)

    @rule(connected=st.booleans(), ending=which)
    def kill_control(self, connected: bool, ending: int) -> None:
        self.world.kill_control()
        if connected:
            for gateway in self.world.gateways:
                self.world.connect(gateway)
            self._deliver(ending)

    @rule(number=gateways)
    def kill_gateway(self, number: int) -> None:
        gateway = self._gateway(number)
        if gateway.alive:
            self.world.kill(gateway)

    @rule(ending=which)
    def new_gateway(self, ending: int) -> None:
        if len(self.world.gateways) < 6:
            self.world.spawn()
            self._deliver(ending)

    @rule(number=gateways, most=st.integers(1, 3), fails=st.booleans())
    def ingest(self, number: int, most: int, fails: bool) -> None:
        gateway = self._gateway(number)
        if not gateway.recovered:
            self.world.ingest(gateway, most, fails=fails)

    @rule(number=gateways)
    def recover(self, number: int) -> None:
        self.world.recover(self._gateway(number))

    @rule(seconds=st.sampled_from([0.1, 0.3, 2.5, 31.0, 45.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.world.settled()

    @rule(number=gateways)
    def sweep(self, number: int) -> None:
        gateway = self._gateway(number)
        if gateway.alive:
            self.world.sweep(gateway)

    @rule(amount=st.sampled_from([300, 1_000, 1_500]))
    def change_budget(self, amount: int) -> None:
        self.world.set_amount(MONEY.id, amount)

    @invariant()
    def nothing_is_overspent(self) -> None:
        if self.world is None:
            return
        world = self.world
        for pool, row in world.booked().items():
            amount = world.rules[pool.partition("|")[0]].amount
            most = amount + world.overrun.get(pool, 0)
            # Where the amount was lowered, what is out already may stay out, but may not grow.
            bound = max(most, min(self.bounds.get(pool, most), row.taken + world.overrun.get(pool, 0)))
            self.bounds[pool] = bound
            out = world.out(pool)
            assert out <= bound, f"{pool}: {out} units are out of {bound}"
            for gateway in world.gateways:
                if gateway.alive:
                    has = gateway.purse.shares().get(pool, 0)
                    booked = row.shares[gateway.id].granted if gateway.id in row.shares else 0
                    assert has <= booked, f"{gateway.id} has {has} of {pool}, and control knows of {booked}"

    @invariant()
    def no_minute_has_more_than_its_limit(self) -> None:
        if self.world is None:
            return
        if REQUESTS_RULE.id in self.world.rules:
            now = self.world.clock.monotonic()
            assert sum(at > now - SPAN for at in self.world.admitted) <= REQUESTS_RULE.amount

    def nothing_leaks(self) -> None:
        world = self.world
        assert world is not None
        world.heal()
        for _ in range(4):
            world.clock.advance(62)
            for gateway in world.gateways:
                if gateway.alive:
                    world.sweep(gateway)
            world.flow()
        spent: dict[str, int] = {}
        for gateway in world.gateways:
            for record in (*gateway.journal, gateway.crashed):
                for pool, nano in record.items():
                    spent[pool] = spent.get(pool, 0) + nano
        for pool, row in world.booked().items():
            assert row.spent == spent.get(pool, 0)
            for gateway, share in row.shares.items():
                assert share.granted <= share.spent, f"{gateway} still holds {share} of {pool}"
        # And all that is left can be used again by whoever asks first.
        if world.rules.keys() == {MONEY.id} and world.rules[MONEY.id].amount > sum(spent.values()):
            world.refusals.clear()
            gateway = world.spawn()
            world.flow()
            world.call(gateway, 0, world.rules[MONEY.id].amount - sum(spent.values()))
            world.flow()
            assert len(gateway.holds) == 1
            assert not world.refusals


TestShares = Machine.TestCase
TestShares.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
