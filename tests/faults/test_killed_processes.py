"""SIGKILL of every process under load: a finished reply is on the ledger exactly once, and the budget stays exact."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.faults.rig import Shape, made
from tests.provider import Provider, chat, messages
from tests.running import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "ms-spender-secret-of-the-tests"
RULE = "key:tests>spender:usd:total"
SHAPES = {"o": Shape("oa", 1)}


class Load:
    """Callers who ask one question after the other, plain and streamed in turn, whatever happens to the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.finished: list[str] = []
        """The call of every reply that was read to its end."""
        self.errors: list[str] = []
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        await asyncio.gather(*self._tasks)

    def end(self) -> None:
        """Ask nothing more."""
        self._ending = True

    async def more(self, count: int) -> None:
        """Wait until so many more replies are finished."""
        until = len(self.finished) + count
        async with asyncio.timeout(45):
            while len(self.finished) < until:
                await asyncio.sleep(0.01)

    async def _caller(self, number: int) -> None:
        headers = {"authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient(base_url=self._server.url, headers=headers, timeout=30, trust_env=False) as client:
            turn = number
            while not self._ending:
                turn += 1
                stream = bool(turn % 2)
                body = {"model": "o-0", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
                try:
                    reply = await client.post("/v1/chat/completions", json=body)
                except httpx.TransportError as error:
                    self.errors.append(repr(error))
                    await asyncio.sleep(0.02)
                    continue
                if reply.status_code == 200 and (not stream or reply.content.endswith(b"data: [DONE]\n\n")):
                    self.finished.append(reply.headers["x-mainstay-call"])
                else:
                    self.errors.append(f"{reply.status_code} {reply.text[-300:]}")
                    await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    async with Provider(chat(pause=0.002)) as o, Provider(messages()) as a:
        config = made(SHAPES, {"o": o.url, "g": o.url, "a": a.url})
        spender = {"name": "spender", "team": "tests", "secret": SECRET, "budget": {"usd": 100, "per": "total"}}
        config["keys"].append(spender)
        with Server(config, workers=2) as running:
            yield running


async def exact(server: Server, finished: list[str]) -> list[dict[str, Any]]:
    """Every finished reply is on the ledger once, and the budget is what the ledger says, with nothing held."""
    async with server.client() as client:
        async with asyncio.timeout(45):
            while True:
                try:
                    reply = await client.get("/api/v1/budgets", params={"exact": "true"})
                    rows = await asyncio.to_thread(server.calls, "key=spender")
                    (budget,) = [one for one in reply.json()["data"] if one["rule"] == RULE]
                except (httpx.TransportError, ValueError, KeyError):
                    await asyncio.sleep(0.2)
                    continue
                spent = sum(row["charges"].get(f"{RULE}||", 0) for row in rows)
                whole = set(finished) <= {row["id"] for row in rows}
                settled = float(budget["held_usd"]) == 0 and float(budget["spent_usd"]) == pytest.approx(
                    spent, abs=1e-9
                )
                if whole and settled:
                    break
                await asyncio.sleep(0.2)
    times = Counter(row["id"] for row in rows)
    assert max(times.values()) == 1
    status = {row["id"]: row["outcome"] for row in rows}
    assert {status[call] for call in finished} == {"ok"}
    for row in rows:
        if row["outcome"] == "crashed":  # what it could have cost
            assert row["charges"][f"{RULE}||"] > 100 * 2e-6, row
        else:
            assert row["charges"].get(f"{RULE}||", 0) == pytest.approx(row["cost_usd"] or 0, abs=1e-9)
    return rows


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


async def test_a_gateway_is_killed(server: Server) -> None:
    async with Load(server) as load:
        for _ in range(3):
            await load.more(20)
            victim = server.children("gateway")[0]
            kill(victim)
            await load.more(20)
    rows = await exact(server, load.finished)
    crashed = [row for row in rows if row["outcome"] == "crashed"]
    assert crashed, "eight callers at once, and none of them was hit"
    assert len(load.finished) >= 120


async def test_control_is_killed_and_traffic_flows_on(server: Server) -> None:
    async with Load(server) as load:
        for _ in range(3):
            await load.more(20)
            for process in server.children("control"):
                kill(process)
            await load.more(40)
    assert load.errors == []
    await exact(server, load.finished)


async def test_the_supervisor_is_killed(server: Server) -> None:
    async with Load(server) as load:
        await load.more(20)
        assert server.process is not None
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        await asyncio.to_thread(server.process.wait)
        if server.process.stdout is not None:
            server.process.stdout.close()
        load.end()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 45)
        assert not alive, "the children end by themselves"
        assert gone
    server.start()
    async with Load(server) as more:
        await more.more(20)
    await exact(server, load.finished + more.finished)


async def test_everything_is_killed_at_once(server: Server) -> None:
    async with Load(server) as load:
        await load.more(20)
        assert server.process is not None
        everybody = [*psutil.Process(server.process.pid).children(recursive=True)]
        server.process.kill()
        for process in everybody:
            kill(process)
        await asyncio.to_thread(server.process.wait)
        if server.process.stdout is not None:
            server.process.stdout.close()
        load.end()
    server.start()
    async with Load(server) as more:
        await more.more(20)
    await exact(server, load.finished + more.finished)
