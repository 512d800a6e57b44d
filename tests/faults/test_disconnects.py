"""Callers who go away, in every phase: the upstream is let go within a second, nothing stays held, one call is billed."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.provider import (
    TOKENS,
    Asked,
    Part,
    Provider,
    black_hole,
    broken_off,
    chat,
    chat_events,
    late,
    messages,
    messages_events,
    silent,
    status,
)
from tests.running import Server, bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOWS = ("close", "reset", "half")
PHASES = ("connecting", "head", "first token", "stream", "anthropic stream", "plain", "queue", "pause", "follower")
SLOW = {"connect": "20s", "first_token": "20s", "idle": "20s", "plain": "20s", "total": "60s"}
IN, OUT = 1e-6, 2e-6  # US dollars per token


@dataclass
class Rig:
    server: Server
    client: httpx.AsyncClient
    openai: Provider
    anthropic: Provider


def secret(name: str) -> str:
    return f"ms-secret-of-{name}"


def key(how: str, phase: str) -> str:
    return f"{how}-{phase.replace(' ', '-')}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    hole, waiting = black_hole()
    names = [key(how, phase) for how in HOWS for phase in PHASES]
    price = {"input": 1, "output": 2}
    async with Provider(chat()) as o, Provider(messages()) as a:
        places = {
            "alpha": f"openai@{o.url}/v1",
            "beta": f"anthropic@{a.url}",
            "hole": f"openai@http://127.0.0.1:{hole.getsockname()[1]}/v1",
        }
        models: dict[str, dict[str, Any]] = {}
        routes: list[dict[str, Any]] = []
        for name in names:
            provider = "hole" if name.endswith("connecting") else "beta" if "anthropic" in name else "alpha"
            models[f"m-{name}"] = {"target": f"{provider}/u-{name}", "price": price, "max_output": 1000}
            if name.endswith("queue"):
                models[f"m-{name}"]["concurrency"] = {"limit": 1, "queue": 5, "wait": "20s"}
            route: dict[str, Any] = {"name": name, "to": f"m-{name}", "timeouts": SLOW}
            if name.endswith("follower"):
                route["cache"] = {"ttl": "1m"}
            routes.append(route)
        config = bundle(places, models, routes=routes)
        for name in names:
            limits = {"concurrent": 2 if name.endswith(("queue", "follower")) else 1}
            budget = {"usd": 1, "per": "total"}
            one = {"name": name, "team": "tests", "secret": secret(name), "limits": limits, "budget": budget}
            config["keys"].append(one)
        with Server(config) as server:
            async with server.client() as client:
                yield Rig(server, client, o, a)
    for one in (hole, *waiting):
        one.close()


async def eventually(look: Callable[[], Any], seconds: float = 5.0) -> Any:
    """What ``look`` gives (awaited), once it is not None."""
    async with asyncio.timeout(seconds):
        while (seen := await look()) is None:
            await asyncio.sleep(0.02)
        return seen


class Caller:
    """A raw connection with one request on its way."""

    def __init__(self, rig: Rig, name: str, stream: bool, tag: str) -> None:
        self._rig, self._name, self._stream, self._tag = rig, name, stream, tag
        self.got = b""

    async def ask(self) -> None:
        body = {"model": self._name, "stream": self._stream, "messages": [{"role": "user", "content": "Count."}]}
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret(self._name)}\r\n"
            f"x-mainstay-tags: case={self._tag}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._rig.server.port)
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> None:
        async with asyncio.timeout(5):
            while mark not in self.got:
                piece = await self.reader.read(65536)
                assert piece, self.got
                self.got += piece

    async def leave(self, how: str) -> None:
        if how == "half":
            self.writer.write_eof()
            return
        if how == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def leaves(rig: Rig, how: str, phase: str) -> None:
    name = key(how, phase)
    provider = rig.anthropic if "anthropic" in phase else rig.openai
    part = provider.part(f"u-{name}")
    go = asyncio.Event()
    stream = phase in ("first token", "stream", "anthropic stream")
    asked_before = 0
    leading: asyncio.Task[httpx.Response] | None = None

    async def held(wire: Any, asked: Asked) -> None:
        await go.wait()
        await chat()(wire, asked)

    match phase:
        case "head" | "plain":
            part.default = silent
        case "first token":
            part.default = late
        case "stream":
            part.default = broken_off(chat_events()[:31], "stall")
        case "anthropic stream":
            part.default = broken_off(messages_events()[:32], "stall")
        case "pause":
            part.default = status(429, headers={"retry-after": "7"})
        case "queue" | "follower":
            part.default = held
            leading = asyncio.ensure_future(_good(rig, name))
            asked_before = 1
            await eventually(lambda: _count(part, 1))
        case _:
            pass
    caller = Caller(rig, name, stream, name)
    await caller.ask()
    if phase in ("stream", "anthropic stream"):
        await caller.read_until(b"tok30 ")
    elif phase in ("head", "plain", "first token", "pause"):
        await eventually(lambda: _count(part, asked_before + 1))
        await asyncio.sleep(0.05)  # until what the provider said has come
    else:
        await asyncio.sleep(0.15)  # nobody can see it wait
    await caller.leave(how)
    if phase in ("head", "plain", "first token", "stream", "anthropic stream"):
        async with asyncio.timeout(1):
            await part.asked[0].disconnected.wait()
    # A concurrency limit of one call: the next one passes as soon as the first is let go.
    go.set()
    if leading is not None:
        assert (await leading).status_code == 200
    part.default = chat() if provider is rig.openai else messages()
    if phase != "connecting":

        async def passes() -> bool | None:
            return True if (await _good(rig, name)).status_code == 200 else None

        await eventually(passes, 1.0)
        assert len(part.asked) <= asked_before + 3
    caller.writer.close()
    await settled(rig, name, phase)


async def _good(rig: Rig, name: str) -> httpx.Response:
    body = {"model": name, "stream": False, "messages": [{"role": "user", "content": "Count."}]}
    headers = {"authorization": f"Bearer {secret(name)}"}
    return await rig.client.post("/v1/chat/completions", json=body, headers=headers)


async def _count(part: Part, count: int) -> bool | None:
    return True if len(part.asked) >= count else None


async def settled(rig: Rig, name: str, phase: str) -> None:
    """One cancelled call on the ledger, billed for what was produced; nothing held; the budget exact."""

    async def look() -> list[dict[str, Any]] | None:
        reply = await rig.client.get("/api/v1/calls", params={"filter": f"key={name}"})
        rows = reply.json()["data"]
        return rows if any(row["tags"].get("case") == name for row in rows) else None

    rows = await eventually(look, 10)
    mine = [row for row in rows if row["tags"].get("case") == name]
    (row,) = mine
    assert (row["outcome"], row["status"]) == ("cancelled", 499), row
    asked = {"connecting": 1, "pause": 1, "queue": 0, "follower": 0}.get(phase, 1)
    assert len(row["attempts"]) == asked, row
    if phase == "stream":
        assert row["attempts"][0]["usage"]["estimated"] is True
        produced = len("".join(TOKENS[:30])) // 4
        assert produced <= row["attempts"][0]["usage"]["output"] <= produced + 2
        assert row["cost_usd"] > 0
        assert row["usage"] == row["attempts"][0]["usage"]
        assert row["cost_estimated"] is True
    elif phase == "anthropic stream":
        usage = row["attempts"][0]["usage"]
        assert usage["input"] == 10  # as reported when it began
        assert usage["output"] >= len("".join(TOKENS[:30])) // 4
        assert row["cost_usd"] == pytest.approx(10 * IN + usage["output"] * OUT)
    elif phase in ("pause", "connecting", "queue", "follower"):
        assert row["cost_usd"] == 0, row
    else:
        assert row["cost_usd"] is not None
        assert row["cost_usd"] < 1e-4

    async def budget() -> bool | None:
        found = (await rig.client.get("/api/v1/budgets", params={"exact": "true"})).json()["data"]
        (one,) = [one for one in found if one["rule"] == f"key:tests>{name}:usd:total"]
        rows = (await rig.client.get("/api/v1/calls", params={"filter": f"key={name}"})).json()["data"]
        spent = sum(row["cost_usd"] for row in rows)
        return True if (float(one["held_usd"]), float(one["spent_usd"])) == (0, pytest.approx(spent)) else None

    await eventually(budget, 10)


@pytest.mark.parametrize("how", HOWS)
async def test_a_caller_who_goes_away(rig: Rig, how: str) -> None:
    results = await asyncio.gather(*[leaves(rig, how, phase) for phase in PHASES], return_exceptions=True)
    failed = {phase: repr(one) for phase, one in zip(PHASES, results, strict=True) if one is not None}
    assert not failed, "\n\n".join(f"{phase}: {error}" for phase, error in failed.items())


async def test_nothing_stays_behind(rig: Rig) -> None:
    async def idle() -> bool | None:
        lines = (await rig.client.get("/metrics")).text.splitlines()
        gauges = {
            line.partition(" ")[0].partition("{")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line[:1] != "#"
        }
        assert any("in_flight" in name for name in gauges), sorted(gauges)
        return (
            True
            if all(value == 0 for name, value in gauges.items() if name.endswith(("in_flight", "waiting")))
            else None
        )

    await eventually(idle, 10)
