"""The budget race: real gateway processes on a real socket, many calls at once, one of them killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from mainstay.access.shares import Shares, Status
from mainstay.core.clock import Clock
from mainstay.edge.link import LinkServer
from mainstay.store.database import Database
from mainstay.store.shares import SqlShares
from tests.access.gateway_process import AT_ONCE, BUDGET
from tests.running import of_the_source

ROOT = Path(__file__).parents[2]
COST = 7_777_777
RULES = {BUDGET.id: BUDGET, AT_ONCE.id: AT_ONCE}


class Process:
    """A gateway process, and what it says."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name, self.process = name, process

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return json.loads(await self.process.stdout.readline())


class Control:
    """The control process's part, in this process."""

    def __init__(self, database: Database, socket: Path) -> None:
        self.database, self.socket = database, socket
        self.shares = Shares(database, SqlShares(), RULES.get, Clock())
        self.server = LinkServer(self.shares, lambda: None, Clock())

    async def status(self) -> dict[str, Status]:
        return {one.rule: one for one in await self.shares.status(exact=True)}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncGenerator[Control]:
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:  # a socket's path must be short
        database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
        control = Control(database, Path(folder) / "link.sock")
        await control.server.start(control.socket)
        yield control
        await control.server.close()
        await control.shares.close()
        await database.close()


@pytest.fixture
async def processes(control: Control) -> AsyncGenerator[list[Process]]:
    started: list[Process] = []
    for number in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.access.gateway_process",
            str(control.socket),
            f"gateway-{number}",
            cwd=ROOT,
            env=of_the_source(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(Process(f"gateway-{number}", process))
    for one in started:
        assert await one.hear() == {"ready": one.name}
    yield started
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
        assert one.process.stdin is not None
        one.process.stdin.close()
        await one.process.wait()


async def everybody(processes: list[Process], line: str) -> list[dict[str, Any]]:
    for one in processes:
        one.tell(line)
    return [await one.hear() for one in processes]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def charge(control: Control, processes: list[Process], said: list[dict[str, Any]]) -> None:
    """What ingest does with the journals."""
    async with control.database.write() as connection:
        for one, result in zip(processes, said, strict=True):
            await control.shares.settle(connection, one.name, {BUDGET.pool("", 0): result["charged"]})


async def test_three_hundred_calls_against_a_budget_for_a_hundred(control: Control, processes: list[Process]) -> None:
    said = await everybody(processes, f"go 75 {COST}")
    assert sum(one["passed"] for one in said) == 100
    assert sum(one["refused"] for one in said) == 200

    said = await everybody(processes, f"settle {COST // 2}")
    await charge(control, processes, said)
    status = await control.status()
    assert status[BUDGET.id].spent == 100 * (COST // 2)
    assert status[BUDGET.id].held == 0
    assert status[AT_ONCE.id].held == 0

    # What the calls did not use can be used: half of the budget, and the rest of the halves.
    said = await everybody(processes, f"go 75 {COST}")
    assert sum(one["passed"] for one in said) == 50
    said = await everybody(processes, f"settle {COST}")
    await charge(control, processes, said)
    status = await control.status()
    assert status[BUDGET.id].left == 100 * COST - 100 * (COST // 2) - 50 * COST
    assert status[BUDGET.id].held == 0


async def test_calls_that_cost_less_than_they_hold_never_overspend(control: Control, processes: list[Process]) -> None:
    said = await everybody(processes, f"go 75 {3 * COST}")
    assert 30 <= sum(one["passed"] for one in said) <= 33


async def test_a_killed_gateway_is_recovered(control: Control, processes: list[Process]) -> None:
    said = await everybody(processes, f"go 25 {COST}")
    assert sum(one["passed"] for one in said) == 100
    victim, others = processes[0], processes[1:]
    os.kill(victim.process.pid, signal.SIGKILL)
    await victim.process.wait()
    await until(lambda: all(one.gateway != victim.name for one in control.server.gateways()))

    async with control.database.write() as connection:  # five of its calls had been closed, twenty are owed their hold
        await control.shares.settle(connection, victim.name, {BUDGET.pool("", 0): 5 * 1_000 + 20 * COST})
        await control.shares.recovered(connection, victim.name)
    await charge(control, others, await everybody(others, "settle 0"))

    status = await control.status()
    assert status[BUDGET.id].spent == 5_000 + 20 * COST
    assert status[BUDGET.id].held == 0
    assert status[AT_ONCE.id].held == 0
    said = await everybody(others, f"go 50 {COST}")
    assert sum(one["passed"] for one in said) == 79  # 80 less the 5,000


async def test_control_killed_and_started_again(control: Control, processes: list[Process]) -> None:
    said = await everybody(processes, f"go 10 {COST}")
    assert sum(one["passed"] for one in said) == 40
    await control.server.close()
    await control.shares.close()

    again = Control(control.database, control.socket)
    await again.server.start(again.socket)
    try:
        await until(lambda: len(again.server.gateways()) == 4)
        said = await everybody(processes, f"go 75 {COST}")
        assert sum(one["passed"] for one in said) == 100
        await everybody(processes, "settle 0")
        assert (await again.status())[BUDGET.id].held == 0
    finally:
        await again.server.close()
        await again.shares.close()
