"""Shares and purses together: nothing is overspent whatever dies or is lost when, and nothing stays held."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
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

    # Few rules with many outcomes each, so that what matters happens often: calls, and messages lost under way.

    @rule(number=gateways, tokens=st.integers(0, 120), nano=st.integers(0, 400), count=st.integers(1, 4), ending=which)
    def call(self, number: int, tokens: int, nano: int, count: int, ending: int) -> None:
        gateway = self._gateway(number)
        if gateway.alive:
            for _ in range(count):
                self.world.call(gateway, tokens, nano)
            self._deliver(ending)

    @rule(number=gateways, tokens=st.integers(0, 120), nano=st.integers(0, 400), count=st.integers(1, 9))
    def nobody_is_refused_what_others_do_not_use(self, number: int, tokens: int, nano: int, count: int) -> None:
        """Whatever has happened: once all that live are connected, a refusal means that the units are in use."""
        world = self.world
        assert world is not None
        for one in world.gateways:
            world.connect(one)
        world.flow()
        living = [one for one in world.gateways if one.alive]
        if not living:
            return
        rules = list(world.rules.values())
        calls = [world.ask(living[(number + i) % len(living)], rules, tokens, nano) for i in range(count)]
        world.flow()
        left = world.unused()
        for call in calls:
            if call.error is None:
                continue
            assert call.error.code != "limit_unverifiable"
            for claim in call.claims:
                # Time has passed meanwhile, and gives units of the others back; a debt is not in the books yet.
                known = claim.rule.id in (MONEY.id, AT_ONCE.id) and not world.overrun.get(claim.pool)
                if claim.rule.id == call.error.rule and known:
                    assert claim.units > left.get(claim.pool, claim.rule.amount), f"{call.error}, and there are {left}"

    @rule(number=gateways, tokens=st.integers(0, 120), nano=st.integers(0, 400), count=st.integers(1, 3), made=which)
    def end(self, number: int, tokens: int, nano: int, count: int, made: int) -> None:
        gateway = self._gateway(number)
        for one in range(count):
            if made:
                self.world.end(gateway, one, tokens, nano)
            else:
                self.world.give_up(gateway, one)

    @rule(number=gateways, kind=st.sampled_from(["control", "gateway", "gateway", "all"]))
    def deliver(self, number: int, kind: str) -> None:
        gateway = self._gateway(number)
        if kind == "control":
            self.world.to_control(gateway)
        elif kind == "gateway":
            self.world.to_gateway(gateway)
        else:
            self.world.flow()

    @rule(
        number=gateways,
        kind=st.sampled_from(["cut", "cut late", "control", "control", "kill", "new", "connect"]),
        connected=st.booleans(),
        ending=which,
    )
    def trouble(self, number: int, kind: str, connected: bool, ending: int) -> None:
        gateway = self._gateway(number)
        if kind.startswith("cut"):
            self.world.disconnect(gateway, late=kind == "cut late")
        elif kind == "control":
            self.world.kill_control()
        elif kind == "kill" and gateway.alive:
            self.world.kill(gateway)
        elif kind == "new" and len(self.world.gateways) < 6:
            self.world.spawn()
        if connected or kind == "connect":
            for one in self.world.gateways:
                self.world.connect(one)
            self._deliver(ending)

    @rule(
        number=gateways,
        kind=st.sampled_from(["ingest", "ingest", "fail", "recover", "sweep", "wait", "wait", "amount"]),
        seconds=st.sampled_from([0.1, 0.3, 2.5, 31.0, 45.0, 61.0]),
        most=st.integers(1, 3),
    )
    def upkeep(self, number: int, kind: str, seconds: float, most: int) -> None:
        gateway = self._gateway(number)
        if kind in ("ingest", "fail") and not gateway.recovered:
            self.world.ingest(gateway, most, fails=kind == "fail")
        elif kind == "recover":
            self.world.recover(gateway)
        elif kind == "sweep" and gateway.alive:
            self.world.sweep(gateway)
        elif kind == "wait":
            self.world.clock.advance(seconds)
            self.world.settled()
        elif kind == "amount":
            self.world.set_amount(MONEY.id, (300, 1_000, 1_500)[most - 1])

    def _deliver(self, ending: int) -> None:
        """Messages arrive: how far they get is the chance here."""
        if ending == 3:
            self.world.flow()
        elif ending:
            for gateway in self.world.gateways:
                self.world.to_control(gateway)
            if ending == 2:
                for gateway in self.world.gateways:
                    self.world.to_gateway(gateway)

    @invariant()
    def nothing_is_overspent(self) -> None:
        if self.world is None:
            return
        world = self.world
        for pool, row in world.booked().items():
            amount = world.rules[pool.partition("|")[0]].amount
            # Where the amount was lowered, what is out already may stay out, but may not grow.
            bound = max(amount, min(self.bounds.get(pool, amount), row.taken))
            self.bounds[pool] = bound
            out, overrun = world.out(pool), world.overrun.get(pool, 0)
            assert out <= bound + overrun, f"{pool}: {out} units are out of {bound}, and {overrun} that were not held"
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
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes: switch it on to find a mistake
    suppress_health_check=list(HealthCheck),
)
