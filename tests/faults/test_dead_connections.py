"""Kept connections that turn out to be dead: one request is repeated, it counts and is told, and the bounds hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.rig import Case, Rig, Shape, rigged
from tests.faults.test_refused_attempts import limited, paced
from tests.provider import Asked, Behaviour, Wire, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
KEPT = 6
"""Connections that are warm before each case."""

SHAPES = {
    "o": Shape("o", 16, again=True),
    "patient": Shape("o", 6, {"retry": {"attempts": 10, "base": "20ms"}}, again=True),
    "og": Shape("og", 4, {"retry": {"attempts": 10, "base": "20ms"}}, again=True),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


class Connections:
    """Answers the first request of each connection, at first all at once; ``later`` is what becomes of the others."""

    def __init__(self, later: Behaviour) -> None:
        self.used: list[asyncio.StreamWriter] = []
        self.first: Behaviour = chat()
        self._later = later
        self.meet(KEPT)

    def meet(self, count: int) -> None:
        """Keep the next ones waiting until there are so many connections."""
        self._missing, self._all = count, asyncio.Event()

    async def __call__(self, wire: Wire, asked: Asked) -> None:
        if wire.writer in self.used:
            return await self._later(wire, asked)
        self.used.append(wire.writer)
        self._missing -= 1
        if self._missing == 0:
            self._all.set()
        await self._all.wait()
        await self.first(wire, asked)


async def warmed(shape: str, rig: Rig, later: Behaviour) -> tuple[Case, Connections]:
    """A case with ``KEPT`` connections to its first provider, each of which does ``later`` when it is used again."""
    case = rig.take(shape)
    held = Connections(later)
    case.targets[0].default = held
    answers = await asyncio.gather(*[case.ask(stream=False) for _ in range(KEPT)])
    for answer in answers:
        answer.is_whole()
    case.targets[0].asked.clear()
    case.targets[0].times.clear()
    return case, held


async def reset(wire: Wire, asked: Asked) -> None:
    wire.reset()


async def close(wire: Wire, asked: Asked) -> None:
    wire.writer.close()


@BOTH
@pytest.mark.parametrize("later", [reset, close])
async def test_a_dead_connection_costs_one_repeated_request_that_is_told(
    rig: Rig, stream: bool, later: Behaviour
) -> None:
    """Every kept connection is reset, or closed, when its request has been read: the call asks twice and no more."""
    case, held = await warmed("o", rig, later)
    answer = await case.ask(stream=stream)
    answer.is_whole()
    assert case.asked == [2]
    assert answer.headers["x-mainstay-attempts"] == "1"
    assert answer.why.endswith(f"{case.models[0]}:reconnected; {case.models[0]}"), answer.why
    assert len(held.used) == KEPT + 1  # the repeated one went over a new connection
    record = await rig.record(answer.call)
    assert f"{case.models[0]}:reconnected" in record["why"]
    # Its siblings have gone with it: the next calls meet none of them.
    held.used[:] = held.used[:KEPT]
    held.meet(3)
    for again in await asyncio.gather(*[case.ask(stream=stream) for _ in range(3)]):
        again.is_whole()
        assert "reconnected" not in again.why
    assert case.asked == [5]


@BOTH
async def test_all_connections_closed_at_once_cost_each_call_one_request_at_most(rig: Rig, stream: bool) -> None:
    held: Connections

    async def all_at_once(wire: Wire, asked: Asked) -> None:
        for writer in held.used:
            Wire(wire.reader, writer).reset()

    case, held = await warmed("o", rig, all_at_once)
    answers = await asyncio.gather(*[case.ask(stream=stream) for _ in range(KEPT)])
    for answer in answers:
        answer.is_whole()
        assert answer.headers["x-mainstay-attempts"] == "1"
    # Each was asked once, and those whose request was read by a connection that was going once more.
    assert KEPT <= case.asked[0] <= 2 * KEPT, case.asked


@BOTH
async def test_new_connections_that_die_too_are_ordinary_attempts(rig: Rig, stream: bool) -> None:
    """Once a kept connection has been dead, no attempt of the call takes another, nor is any repeated in silence."""
    case, held = await warmed("o", rig, reset)
    held.first = reset
    answer = await case.ask(stream=stream)
    answer.is_error(503)
    assert answer.headers["x-mainstay-attempts"] == "2"
    assert case.asked == [3]
    name = case.models[0]
    assert answer.why == f"{name}:reconnected; {name}:connect; {name}:connect"


@BOTH
@pytest.mark.parametrize("shape", ["patient", "og"])
async def test_a_call_is_never_more_than_six_requests(rig: Rig, stream: bool, shape: str) -> None:
    case, held = await warmed(shape, rig, reset)
    held.first = reset
    for target in case.targets[1:]:
        target.default = reset
    answer = await case.ask(stream=stream)
    answer.is_error()
    assert sum(case.asked) == 6, (case.asked, answer.why)
    assert answer.why.count("reconnected") == 1


@BOTH
async def test_a_repeated_request_keeps_the_pace_of_429(rig: Rig, stream: bool) -> None:
    case, held = await warmed("patient", rig, reset)
    held.first = limited(retry_after_ms="10")
    answer = await case.ask(stream=stream)
    answer.is_error(429)
    assert "reconnected" in answer.why
    assert sum(case.asked) == 6
    paced(case)


BEGUN = {
    "a byte of the reply": (b"H", "cut"),
    "an interim reply": (b"HTTP/1.1 100 Continue\r\n\r\n", "cut"),
    "nothing in time": (b"", "timeout"),
}


@BOTH
@pytest.mark.parametrize("how", BEGUN)
async def test_what_a_provider_may_have_begun_is_never_repeated_in_silence(rig: Rig, stream: bool, how: str) -> None:
    said, kind = BEGUN[how]

    async def later(wire: Wire, asked: Asked) -> None:
        if not said:
            await asyncio.sleep(3600)
        await wire.send(said)
        wire.writer.close()

    case, _ = await warmed("o", rig, later)
    answer = await case.ask(stream=stream)
    assert "reconnected" not in answer.why
    assert f"{case.models[0]}:{kind}" in answer.why
    assert case.asked == [int(answer.headers["x-mainstay-attempts"])]
