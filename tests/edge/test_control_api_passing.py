"""How a gateway passes requests on to control: what reaches it, and what becomes of them when it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from mainstay.core.errors import Unavailable
from mainstay.edge.passing import ControlDoor

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@pytest.fixture
async def listen(tmp_path: Path) -> AsyncIterator[Callable[[Answer], Coroutine[None, None, Path]]]:
    """A control process that answers as it is told."""
    servers: list[asyncio.Server] = []

    async def start(answer: Answer) -> Path:
        path = tmp_path / "c.sock"
        servers.append(await asyncio.start_unix_server(answer, str(path)))
        return path

    yield start
    for server in servers:
        server.close()


def says(reply: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    return answer


async def test_a_request_and_its_reply(listen: Callable[[Answer], Coroutine[None, None, Path]]) -> None:
    path = await listen(says(b"HTTP/1.1 201 X\r\ncontent-length: 2\r\nx-y: z\r\n\r\n{}"))
    assert await ControlDoor(path).request("GET", "/x", {}, b"") == (201, [("x-y", "z")], b"{}")


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await ControlDoor(tmp_path / "absent.sock").request("GET", "/x", {}, b"")
    assert refused.value.code == "control_unavailable"


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 2", b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{}"]
)
async def test_a_reply_that_is_none(listen: Callable[[Answer], Coroutine[None, None, Path]], reply: bytes) -> None:
    path = await listen(says(reply))
    with pytest.raises(Unavailable):
        await ControlDoor(path).request("GET", "/x", {}, b"")


async def test_a_busy_control_is_not_waited_for_without_end(
    listen: Callable[[Answer], Coroutine[None, None, Path]],
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    door = ControlDoor(await listen(slow), limit=1, patience=0.05)
    first = asyncio.create_task(door.request("GET", "/x", {}, b""))
    await begun.wait()
    with pytest.raises(Unavailable) as refused:
        await door.request("GET", "/x", {}, b"")
    assert refused.value.code == "control_busy"
    go.set()
    assert (await first)[0] == 200
    assert (await door.request("GET", "/x", {}, b""))[0] == 200  # the place is free again
