"""A gateway's purse by itself: holding, settling, sliding windows, waiting, warnings, giving back."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.access.hold import Hold
from mainstay.access.purse import REST, Purse, Shortage
from mainstay.access.rules import Claim, Rule
from mainstay.core.clock import FixedClock
from mainstay.core.errors import OverLimit

MONEY = Rule("team:t:usd:month", "usd", "month", 1_000, "1 USD per month for team t", warn_at=0.8)
SOFT = Rule("team:t:usd:month:soft", "usd", "month", 100, "0.1 USD per month for team t", soft=True)
OPEN = Rule("team:t:usd:total", "usd", "total", 100, "0.1 USD", unreachable="allow")
PER_MINUTE = Rule("key:k:requests", "requests", "minute", 5, "5 requests per minute for key k")
TOKENS = Rule("key:k:tokens", "tokens", "minute", 100, "100 tokens per minute for key k")
AT_ONCE = Rule("key:k:concurrent", "concurrent", None, 2, "2 calls at a time for key k")


class Control:
    """Answers every Need from one account, when it is told to."""

    def __init__(self, purse: Purse, **free: int) -> None:
        self.purse, self.free = purse, free
        self.asked: deque[tuple[int, dict[str, int]]] = deque()

    def ask(self, need: int, wants: dict[str, int]) -> None:
        self.asked.append((need, wants))

    def answer(self, units: int | None = None, wait: float = 7.0) -> None:
        need, wants = self.asked.popleft()
        given = {name: want if units is None else min(units, want) for name, want in wants.items()}
        self.purse.credit(need, given, {name: wait for name in wants if given[name] < wants[name]})


def away(need: int, wants: dict[str, int]) -> None:
    raise ConnectionError


def claim(rule: Rule, units: int = 1, clock: FixedClock | None = None) -> Claim:
    return Claim(rule, rule.pool("", (clock or FixedClock()).now()), units)


def filled(clock: FixedClock, *claims: Claim) -> Purse:
    purse = Purse(clock)
    purse.try_hold(claims)
    purse.credit(0, {one.pool: one.rule.amount for one in claims}, left={one.pool: 0 for one in claims})
    return purse


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_hold_takes_all_or_nothing() -> None:
    clock = FixedClock()
    wanted = [claim(MONEY, 10), claim(AT_ONCE), claim(PER_MINUTE), claim(TOKENS, 200)]
    purse = filled(clock, *wanted)
    short = purse.try_hold(wanted)
    assert isinstance(short, Shortage)
    assert [(one.rule.id, missing) for one, missing in short.missing] == [(TOKENS.id, 100)]
    assert purse.reclaim(wanted[0].pool, 10_000)[0] == 1_000
    assert purse.reclaim(wanted[2].pool, 10_000)[0] == 5


def test_settling_gives_the_difference_back_and_counts_once() -> None:
    clock = FixedClock()
    wanted = [claim(MONEY, 600), claim(TOKENS, 60), claim(AT_ONCE)]
    purse = filled(clock, *wanted)
    hold = purse.try_hold(wanted)
    assert isinstance(hold, Hold)
    assert hold.holds == {wanted[0].pool: 600}
    assert hold.charges == {}
    hold.settle(tokens=10, nano=250)
    hold.settle(tokens=60, nano=600)
    hold.release()
    assert hold.charges == {wanted[0].pool: 250}
    assert hold.holds == {}
    assert purse.reclaim(wanted[0].pool, 10_000) == (750, None)
    assert purse.reclaim(wanted[1].pool, 10_000)[0] == 90
    assert purse.reclaim(wanted[2].pool, 10_000)[0] == 2


def test_what_is_unknown_is_charged_as_held() -> None:
    purse = filled(FixedClock(), claim(MONEY, 600))
    hold = purse.try_hold([claim(MONEY, 600)])
    assert isinstance(hold, Hold)
    hold.settle()
    assert list(hold.charges.values()) == [600]


def test_more_than_was_held_is_a_debt_that_is_paid_before_anything_else() -> None:
    clock = FixedClock()
    purse = Purse(clock)
    first = claim(MONEY, 10)
    purse.try_hold([first])
    purse.credit(0, {first.pool: 10})
    hold = purse.try_hold([first])
    assert isinstance(hold, Hold)
    hold.settle(nano=25)
    short = purse.try_hold([first])
    assert isinstance(short, Shortage)
    assert short.missing == [(first, 25)]  # ten and the debt of fifteen


def test_a_released_request_is_not_counted() -> None:
    clock = FixedClock()
    purse = filled(clock, claim(PER_MINUTE))
    for seconds in (0, 5, 30):
        clock.advance(seconds)
        hold = purse.try_hold([claim(PER_MINUTE)])
        assert isinstance(hold, Hold)
        clock.advance(2)
        hold.release()
    assert purse.remaining([claim(PER_MINUTE)])[0].remaining == 5
    assert purse.remaining([claim(PER_MINUTE)])[0].reset == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 3), st.booleans()), max_size=60))
def test_no_sixty_seconds_contain_more_than_the_limit(steps: list[tuple[float, int, bool]]) -> None:
    clock = FixedClock()
    purse = filled(clock, claim(PER_MINUTE))
    admitted: list[float] = []
    for pause, calls, release in steps:
        clock.advance(pause)
        for _ in range(calls):
            hold = purse.try_hold([claim(PER_MINUTE)])
            if isinstance(hold, Hold):
                if release:
                    hold.release()
                else:
                    hold.settle()
                    admitted.append(clock.monotonic())
    for at in admitted:
        assert sum(at - 60 < other <= at for other in admitted) <= PER_MINUTE.amount
    clock.advance(61.001)
    assert purse.remaining([claim(PER_MINUTE)])[0].remaining == PER_MINUTE.amount  # and all comes back


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60), st.integers(0, 60)), max_size=60))
def test_no_sixty_seconds_contain_more_tokens_than_the_limit(steps: list[tuple[float, int, int]]) -> None:
    clock = FixedClock()
    purse = filled(clock, claim(TOKENS))
    used: list[tuple[float, int]] = []
    for pause, estimate, actual in steps:
        clock.advance(pause)
        hold = purse.try_hold([claim(TOKENS, estimate)])
        if isinstance(hold, Hold):
            clock.advance(1.5)
            hold.settle(tokens=min(actual, estimate))
            used.append((clock.monotonic(), min(actual, estimate)))
    for at, _ in used:
        assert sum(tokens for other, tokens in used if at - 60 < other <= at) <= TOKENS.amount


async def test_a_shortage_asks_once_for_everybody_and_serves_them_in_order() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    order: list[int] = []

    async def call(number: int) -> None:
        await purse.acquire([claim(MONEY, 10)], control.ask)
        order.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(4)]
    await turn()
    assert [want for _, wants in control.asked for want in wants.values()] == [10]
    control.answer(10)
    await turn()
    assert order == [0]
    assert [want for _, wants in control.asked for want in wants.values()] == [30]
    assert isinstance(purse.try_hold([claim(MONEY, 0)]), Shortage)  # nobody overtakes those who wait
    control.answer(30)
    await asyncio.gather(*calls)
    assert order == [0, 1, 2, 3]


async def test_too_little_refuses_with_the_time_at_which_more_is_expected() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    calls = [asyncio.create_task(purse.acquire([claim(MONEY, 10)], control.ask)) for _ in range(3)]
    await turn()
    control.answer(10)
    await turn()
    control.answer(10, wait=42.0)
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, Hold) for one in done] == [True, True, False]
    error = done[2]
    assert isinstance(error, OverLimit)
    assert error.rule == MONEY.id
    assert error.code == "budget_exceeded"
    assert error.retry_after == 1.0  # two calls in flight hold units that may come back
    assert "1 USD per month for team t" in error.message
    hold = done[0]
    assert isinstance(hold, Hold)
    hold.settle(nano=10)
    assert isinstance(done[1], Hold)
    done[1].settle(nano=10)


async def until_asked(control: Control) -> dict[str, int]:
    while not control.asked:
        await asyncio.sleep(0)
    return control.asked[0][1]


async def test_who_comes_later_is_refused_by_no_older_answer() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    first = asyncio.create_task(purse.acquire([claim(MONEY, 10)], control.ask))
    await turn()
    second = asyncio.create_task(purse.acquire([claim(MONEY, 10)], control.ask))  # its want is not in that Need
    await turn()
    control.answer(0, wait=42.0)
    with pytest.raises(OverLimit) as refused:
        await first
    assert refused.value.retry_after == 42.0
    third = asyncio.create_task(purse.acquire([claim(MONEY, 10)], control.ask))
    await turn()
    assert not control.asked, "control has just been asked: they wait for the next question"
    assert list((await until_asked(control)).values()) == [20]
    control.answer(10)
    assert isinstance(await second, Hold)
    with pytest.raises(OverLimit):
        await third
    assert not control.asked


async def test_a_soft_rule_keeps_nobody_waiting_for_the_next_question() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    first = asyncio.create_task(purse.acquire([claim(SOFT, 10)], control.ask))
    await turn()
    control.answer(0)
    assert (await first).warnings
    second = asyncio.create_task(purse.acquire([claim(SOFT, 10)], control.ask))
    await turn()
    assert second.done()
    assert not control.asked


async def test_a_need_names_what_its_calls_have_already() -> None:
    clock = FixedClock()
    purse = filled(clock, claim(AT_ONCE))
    control = Control(purse)
    wanted = [claim(AT_ONCE), claim(MONEY, 10), claim(PER_MINUTE)]
    call = asyncio.create_task(purse.acquire(wanted, control.ask))
    await turn()
    assert control.asked[0][1] == {wanted[0].pool: 0, wanted[1].pool: 10, wanted[2].pool: 1}
    control.answer()
    assert isinstance(await call, Hold)


def test_a_forgotten_pool_finds_what_it_had_not_given_back() -> None:
    purse = Purse(FixedClock(), most=1)
    per_user = Rule("budget:u", "usd", "total", 50, "each user")
    one, two = (Claim(per_user, per_user.pool(name, 0), 5) for name in ("one", "two"))
    purse.try_hold([one])
    purse.credit(1, {one.pool: 20})
    purse.try_hold([two])  # the first makes room for it
    assert isinstance(purse.try_hold([one]), Hold)
    assert purse.reclaim(one.pool, 100)[0] == 15
    assert purse.idle_to_give() == {}


async def test_a_call_larger_than_the_limit_is_refused_without_asking() -> None:
    control = Control(Purse(FixedClock()))
    with pytest.raises(OverLimit, match="more than the whole budget"):
        await control.purse.acquire([claim(MONEY, 1_001)], control.ask)
    assert not control.asked


async def test_a_minute_limit_says_when_its_units_come_back() -> None:
    clock = FixedClock()
    purse = filled(clock, claim(PER_MINUTE))
    control = Control(purse)
    for _ in range(5):
        hold = purse.try_hold([claim(PER_MINUTE)])
        assert isinstance(hold, Hold)
        hold.settle()
        clock.advance(2)
    call = asyncio.create_task(purse.acquire([claim(PER_MINUTE)], control.ask))
    await turn()
    control.answer(0, wait=99.0)
    with pytest.raises(OverLimit) as refused:
        await call
    assert 50 <= refused.value.retry_after <= 51
    clock.advance(refused.value.retry_after)
    assert isinstance(purse.try_hold([claim(PER_MINUTE)]), Hold)


async def test_units_that_come_back_meanwhile_are_taken() -> None:
    purse = filled(FixedClock(), claim(AT_ONCE))
    control = Control(purse)
    holds = [purse.try_hold([claim(AT_ONCE)]) for _ in range(2)]
    call = asyncio.create_task(purse.acquire([claim(AT_ONCE)], control.ask))
    await turn()
    assert isinstance(holds[0], Hold)
    holds[0].settle()
    assert isinstance(await call, Hold)


async def test_a_caller_that_goes_away_leaves_nothing_held() -> None:
    purse = filled(FixedClock(), claim(AT_ONCE))
    control = Control(purse)
    holds = [purse.try_hold([claim(AT_ONCE)]) for _ in range(2)]
    call = asyncio.create_task(purse.acquire([claim(AT_ONCE)], control.ask))
    await turn()
    assert isinstance(holds[0], Hold)
    holds[0].release()  # the call has it now, and is cancelled before it knows
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert purse.reclaim(claim(AT_ONCE).pool, 9)[0] == 1
    assert purse.gauges()["calls_waiting_for_units"] == 0


async def test_rules_say_what_happens_while_control_is_away() -> None:
    purse = Purse(FixedClock())
    with pytest.raises(OverLimit, match="control process does not answer") as refused:
        await purse.acquire([claim(MONEY)], away)
    assert refused.value.retry_after >= 1
    hold = await purse.acquire([claim(OPEN, 70)], away)
    assert hold.warnings == ["over 0.1 USD"]
    hold.settle(nano=60)
    assert list(hold.charges.values()) == [60]  # it passed, and counts all the same


async def test_a_lost_connection_decides_what_waits() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    calls = [
        asyncio.create_task(purse.acquire([claim(rule, 5)], lambda *_: away(*_) if lost else control.ask(*_)))
        for rule in (MONEY, OPEN)
    ]
    lost = False
    await turn()
    assert len(control.asked) == 2
    lost = True
    purse.cut()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(done[0], OverLimit)
    assert isinstance(done[1], Hold)


async def test_silence_lets_open_rules_pass_soon() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert isinstance(await purse.acquire([claim(OPEN, 5), claim(SOFT, 5)], control.ask), Hold)
    assert 0.2 < loop.time() - start < 2
    control.answer()  # late, but not lost
    assert purse.reclaim(claim(OPEN).pool, 100)[0] == 0  # it paid for the debt


async def test_a_soft_rule_warns_and_lets_pass() -> None:
    purse = Purse(FixedClock())
    control = Control(purse)
    call = asyncio.create_task(purse.acquire([claim(SOFT, 500)], control.ask))
    await turn()
    if control.asked:
        control.answer(100)
    hold = await call
    assert hold.warnings == ["over 0.1 USD per month for team t"]


def test_a_budget_that_is_near_its_end_warns() -> None:
    purse = filled(FixedClock(), claim(MONEY))
    first = purse.try_hold([claim(MONEY, 790)])
    second = purse.try_hold([claim(MONEY, 20)])
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    assert first.warnings == []
    assert second.warnings == ["81 % of 1 USD per month for team t is used"]
    assert purse.left_share([claim(MONEY), claim(AT_ONCE)]) == pytest.approx(0.19)


def test_remaining_counts_what_control_has_free() -> None:
    clock = FixedClock()
    purse = Purse(clock)
    one = claim(PER_MINUTE)
    purse.try_hold([one])
    purse.credit(1, {one.pool: 2}, left={one.pool: 3})
    assert purse.remaining([one])[0].remaining == 5
    assert isinstance(purse.try_hold([one]), Hold)
    left = purse.remaining([one])[0]
    assert (left.limit, left.remaining) == (5, 4)
    assert 60 <= left.reset <= 61


def test_what_nobody_used_is_given_back_and_forgotten() -> None:
    clock = FixedClock()
    purse = filled(clock, claim(MONEY), claim(AT_ONCE))
    hold = purse.try_hold([claim(AT_ONCE)])
    assert purse.idle_to_give() == {}  # in use a moment ago
    clock.advance(REST + 1)
    assert purse.idle_to_give() == {claim(MONEY).pool: 1_000, claim(AT_ONCE).pool: 1}
    assert isinstance(hold, Hold)
    hold.settle()
    clock.advance(REST + 1)
    assert purse.idle_to_give() == {claim(AT_ONCE).pool: 1}
    for _ in range(3):
        clock.advance(REST + 1)
        assert purse.idle_to_give() == {}
    assert purse.gauges()["pools"] == 0


def test_a_pool_with_spent_money_is_remembered_until_its_window_ends() -> None:
    clock = FixedClock()
    wanted = claim(MONEY, 10, clock)
    purse = filled(clock, wanted)
    hold = purse.try_hold([wanted])
    assert isinstance(hold, Hold)
    hold.settle(nano=10)
    for _ in range(3):
        clock.advance(REST + 1)
        purse.idle_to_give()
    assert purse.shares() == {wanted.pool: 10}
    clock.advance(32 * 86_400)
    for _ in range(2):
        clock.advance(REST + 1)
        purse.idle_to_give()
    assert purse.shares() == {}


def test_the_number_of_pools_is_bounded() -> None:
    clock = FixedClock()
    purse = Purse(clock, most=100)
    per_user = Rule("budget:u", "usd", "total", 50, "each user")
    given = 0
    for number in range(1_000):
        one = Claim(per_user, per_user.pool(f"user-{number}", clock.now()), 5)
        purse.try_hold([one])
        purse.credit(number, {one.pool: 20})
        hold = purse.try_hold([one])
        assert isinstance(hold, Hold)
        hold.settle(nano=2)
        given += sum(purse.idle_to_give().values()) if number % 10 == 0 else 0
    given += sum(purse.idle_to_give().values())
    assert purse.gauges()["pools"] <= 100
    assert given == 900 * 18  # nothing of the forgotten ones is lost


def test_a_forgotten_pool_is_no_longer_reported() -> None:
    clock = FixedClock()
    purse = Purse(clock, most=1)
    rule = Rule("budget:u", "usd", "total", 50, "each user")
    for user in ("a", "b", "a"):
        one = Claim(rule, rule.pool(user, 0), 5)
        purse.try_hold([one])
        purse.credit(1, {one.pool: 5})
        hold = purse.try_hold([one])
        assert isinstance(hold, Hold)
        hold.settle(nano=5)
    # of "a" it has five more than it knows of: only control knows all
    assert purse.shares() == {}
