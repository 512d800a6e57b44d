"""The circuit breaker under a clock that the tests move."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import FailureKind
from mainstay.upstream.breaker import Breaker


def breaker(
    clock: FixedClock,
    failures: int = 3,
    rate: float = 0.5,
    min_calls: int = 10,
    window: float = 30.0,
    open_for: float = 5.0,
) -> Breaker:
    return Breaker(failures, rate, min_calls, window, open_for, clock)


def fail(one: Breaker, times: int = 1, kind: FailureKind = "server_error") -> None:
    for _ in range(times):
        one.failed(kind, one.begin())


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    one = breaker(FixedClock())
    fail(one, 2)
    one.succeeded(one.begin())
    fail(one, 2)
    assert one.admits()
    fail(one)
    assert (one.state, one.admits(), one.opened) == ("open", False, 1)


@pytest.mark.parametrize("kind", ["server_error", "overloaded", "connect", "timeout", "cut", "unreadable", "too_large"])
def test_what_counts(kind: FailureKind) -> None:
    one = breaker(FixedClock())
    fail(one, 3, kind)
    assert one.state == "open"


@pytest.mark.parametrize("kind", ["invalid", "content_filter", "context_length"])
def test_what_the_caller_did_wrong_does_not_count(kind: FailureKind) -> None:
    one = breaker(FixedClock())
    fail(one, 2)
    fail(one, 50, kind)
    fail(one, 2)
    assert one.admits()


def test_a_refused_key_opens_it_at_once() -> None:
    one = breaker(FixedClock())
    fail(one, 1, "auth")
    assert one.state == "open"


def test_the_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    clock = FixedClock()
    one = breaker(clock, failures=1000)
    for _ in range(4):
        fail(one)
        one.succeeded(one.begin())
        assert one.state == "closed"
    fail(one)
    assert one.state == "closed", "nine calls"
    fail(one)
    assert one.state == "open", "six of ten"
    # What lies further back than the window is forgotten.
    one = breaker(clock, failures=1000)
    fail(one, 9)
    clock.advance(31)
    fail(one)
    assert one.state == "closed"


def test_one_probe_at_a_time_decides() -> None:
    clock = FixedClock()
    one = breaker(clock)
    fail(one, 3)
    clock.advance(4.9)
    assert not one.admits()
    assert one.opens_in() == pytest.approx(0.1)
    clock.advance(0.2)
    assert one.admits()
    probe = one.begin()
    assert probe
    assert one.probing
    assert not one.admits()
    one.failed("server_error", probe)
    assert one.state == "open"
    assert not one.probing
    clock.advance(5.1)
    probe = one.begin()
    one.succeeded(probe)
    assert (one.state, one.admits()) == ("closed", True)
    fail(one, 2)
    assert one.admits(), "the row begins anew"


def test_calls_from_before_it_opened_neither_hold_it_open_nor_close_it() -> None:
    clock = FixedClock()
    one = breaker(clock)
    before = [one.begin() for _ in range(20)]
    assert not any(before)
    fail(one, 3)
    clock.advance(4)
    for old in before[:10]:
        one.failed("timeout", old)
    one.succeeded(before[10])
    assert one.state == "open"
    clock.advance(1.1)
    assert one.admits(), "late failures do not prolong it"
    probe = one.begin()
    one.failed("timeout", before[11])
    one.succeeded(before[12])
    one.gone(before[13])
    assert not one.admits(), "the probe is still under way"
    one.succeeded(probe)
    assert one.admits()


def test_a_probe_that_begins_to_answer_closes_it_and_one_that_then_breaks_off_opens_it() -> None:
    clock = FixedClock()
    one = breaker(clock)
    fail(one, 3)
    clock.advance(5.1)
    probe = one.begin()
    one.answered(probe)
    assert one.admits()
    one.failed("cut", probe)
    assert one.state == "open"
    clock.advance(5.1)
    probe = one.begin()
    one.answered(probe)
    one.succeeded(probe)
    fail(one, 2)
    assert one.state == "closed"


def test_a_probe_whose_caller_goes_away_makes_room_for_the_next() -> None:
    clock = FixedClock()
    one = breaker(clock)
    fail(one, 3)
    clock.advance(5.1)
    one.gone(one.begin())
    assert one.admits()
    assert one.begin()


def test_a_rate_limit_rests_the_target_and_no_longer() -> None:
    clock = FixedClock()
    one = breaker(clock)
    one.failed("rate_limit", one.begin(), 2.0)
    assert not one.admits()
    assert one.opens_in() == pytest.approx(2)
    one.failed("rate_limit", one.begin(), 1.0)
    assert one.opens_in() == pytest.approx(2), "the longer wish counts"
    clock.advance(2.1)
    assert one.admits()
    one.failed("rate_limit", one.begin(), 3600.0)
    clock.advance(20.1)
    assert one.admits(), "a target that came back is found within half a minute"
    one.failed("rate_limit", one.begin())
    assert one.admits(), "it named no time"
    assert one.opened == 0


def test_a_probe_that_is_rate_limited_closes_it_but_the_target_rests() -> None:
    clock = FixedClock()
    one = breaker(clock)
    fail(one, 3)
    clock.advance(5.1)
    one.failed("rate_limit", one.begin(), 4.0)
    assert one.state == "closed"
    assert not one.admits()
    clock.advance(4.1)
    assert one.admits()


def test_no_setting_keeps_a_target_away_for_longer_than_half_a_minute() -> None:
    clock = FixedClock()
    one = breaker(clock, open_for=600)
    fail(one, 3)
    clock.advance(30)
    assert one.admits()


@given(st.integers(0, 2**32), st.floats(0.05, 5))
@settings(max_examples=60, deadline=None)
def test_it_is_always_found_again_and_probed_by_one_at_a_time(seed: int, open_for: float) -> None:
    """Calls at random over an outage: at most one probe is under way, and after the outage it closes within ``open_for``."""
    chance, clock = random.Random(seed), FixedClock()
    one = breaker(clock, open_for=open_for)
    flying: list[bool] = []
    probes = 0
    for _ in range(300):
        clock.advance(chance.random() * open_for / 5)
        if one.admits():
            probe = one.begin()
            probes += probe
            flying.append(probe)
        assert sum(flying) <= 1
        while flying and chance.random() < 0.6:
            probe = flying.pop(chance.randrange(len(flying)))
            match chance.randrange(4):
                case 0:
                    one.gone(probe)
                case _:
                    one.failed("timeout", probe)
    while flying:
        one.failed("timeout", flying.pop())
    assert probes <= 300 / 5 + 60 * 2  # one each open_for, and one more for each whose caller went away
    clock.advance(open_for + 0.01)
    assert one.admits()
    one.succeeded(one.begin())
    assert one.state == "closed"
