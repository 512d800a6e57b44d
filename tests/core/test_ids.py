"""Ids are unique, also between processes, and increase."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.ids import Ids, made_at


class Jumping(FixedClock):
    def jump(self, seconds: float) -> None:
        self._ns += int(seconds * 1e9)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50), st.integers(0, 1 << 72))
def test_they_increase_whatever_the_clock_does(jumps: list[float], seed: int) -> None:
    clock = Jumping()
    ids = Ids(clock, seed)
    made: list[str] = []
    for jump in jumps:
        made += [ids.make(), ids.make()]
        clock.jump(jump)
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {26}


def test_they_tell_when_they_were_made_and_sort_by_it() -> None:
    clock = FixedClock(1_800_000_000.123)
    ids, others = Ids(clock), Ids(clock)
    first = ids.make("call_")
    assert first.startswith("call_")
    assert abs(made_at(first) - 1_800_000_000.123) < 0.001
    clock.advance(0.002)
    assert others.make("call_") > first


def test_a_full_counter_carries_over() -> None:
    ids = Ids(FixedClock(), (1 << 72) - 3)
    made = [ids.make() for _ in range(6)]
    assert made == sorted(set(made))


def test_no_two_processes_make_the_same() -> None:
    code = (
        "from mainstay.core.clock import FixedClock\n"
        "from mainstay.core.ids import Ids\n"
        "ids = Ids(FixedClock())\n"
        "print(*[ids.make() for _ in range(2000)], sep='\\n')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = [line for process in running for line in process.communicate()[0].split()]
    assert len(made) == 6000
    assert len(set(made)) == 6000
