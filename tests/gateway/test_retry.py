"""When it is tried again, after what pause, and the bounds that keep retries from becoming a storm."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import FailureKind, UpstreamFailed
from mainstay.gateway.retry import BURST, BURST_SECONDS, Pace, RetryBudget, RetryRule, decide, pause

RULE = RetryRule()
AGAIN = ("server_error", "overloaded", "connect", "cut", "unreadable")
ELSEWHERE = ("timeout", "auth", "not_found", "quota", "too_large", "context_length")
FINAL = ("content_filter", "invalid")


def failed(kind: str, **more: float) -> UpstreamFailed:
    return UpstreamFailed(kind, "x", **more)  # type: ignore[arg-type]


def test_every_kind_of_failure_is_decided() -> None:
    assert {*AGAIN, *ELSEWHERE, *FINAL, "rate_limit"} == set(get_args(FailureKind))
    for others in (False, True):
        for kind in AGAIN:
            assert decide(failed(kind), 1, RULE, others) == "same"
            assert decide(failed(kind), 2, RULE, others) == "next"
        for kind in ELSEWHERE:
            assert decide(failed(kind), 1, RULE, others) == "next"
        for kind in FINAL:
            assert decide(failed(kind), 1, RULE, others) == "final"


def test_a_rate_limit_is_waited_for_only_where_there_is_nobody_else_and_not_for_long() -> None:
    assert decide(failed("rate_limit", retry_after=1), 1, RULE, True) == "next"
    assert decide(failed("rate_limit", retry_after=1), 1, RULE, False) == "same"
    assert decide(failed("rate_limit"), 1, RULE, False) == "same"
    assert decide(failed("rate_limit", retry_after=8.5), 1, RULE, False) == "next"
    assert decide(failed("rate_limit", retry_after=1), 2, RULE, False) == "next"


def test_a_filter_is_final_unless_the_route_says_otherwise() -> None:
    assert decide(failed("content_filter"), 1, RetryRule(on_filter="fallback"), True) == "next"


@given(
    st.sampled_from(get_args(FailureKind)),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.integers(1, 10),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.001, 10),
    st.floats(0.001, 60),
)
def test_a_pause_is_jittered_bounded_and_never_shorter_than_asked(
    kind: FailureKind, retry_after: float | None, tries: int, chance: float, base: float, cap: float
) -> None:
    rule = RetryRule(10, base, cap)
    wait = pause(UpstreamFailed(kind, "x", retry_after=retry_after), tries, rule, chance)
    assert 0 <= wait <= cap
    if retry_after is not None:
        assert wait == min(retry_after, cap)
    else:
        assert wait <= base * 2 ** (tries - 1)


def test_the_jitter_is_full() -> None:
    waits = [pause(failed("server_error"), 3, RULE, i / 1000) for i in range(1000)]
    assert min(waits) == 0
    assert max(waits) == pytest.approx(4 * RULE.base, rel=0.01)
    assert sum(waits) / 1000 == pytest.approx(2 * RULE.base, rel=0.01)


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_retries_are_a_share_of_calls_and_a_reserve(seed: int, share: float) -> None:
    chance, clock = random.Random(seed), FixedClock()
    budget = RetryBudget(share, clock)
    calls: list[float] = []
    retries: list[float] = []
    for _ in range(200):
        clock.advance(chance.random() * 0.2)
        now = clock.monotonic()
        budget.called()
        calls.append(now)
        recent = sum(now - at <= RetryBudget.WINDOW for at in calls)
        for _ in range(3):
            if budget.allows():
                before = sum(now - at < RetryBudget.WINDOW for at in retries)
                assert before < RetryBudget.RESERVE + share * recent
                retries.append(now)
    assert retries


def test_an_outage_costs_a_fifth_and_a_reserve() -> None:
    budget = RetryBudget(0.2, FixedClock())
    allowed = 0
    for _ in range(200):
        budget.called()
        allowed += budget.allows()
    assert allowed == 10 + 40


@given(st.lists(st.floats(0, 2), min_size=1, max_size=40))
def test_the_pace_is_never_exceeded(gaps: list[float]) -> None:
    pace, now = Pace(), 0.0
    times: list[float] = []
    for gap in gaps:
        now += gap
        now += pace.wait(now)
        assert pace.wait(now) == pytest.approx(0, abs=1e-9)
        pace.attempted(now)
        times.append(now)
    assert pace.count == len(times)
    for first, fifth in zip(times, times[BURST:], strict=False):
        assert fifth - first >= BURST_SECONDS - 1e-9
