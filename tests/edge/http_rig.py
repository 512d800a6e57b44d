"""A server of the HTTP door on a real socket, and a client that sends exactly the bytes it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import uvloop

from mainstay.core.clock import Clock
from mainstay.edge.http import Exchange, HttpLimits, HttpServer


def on_uvloop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on the loop that gateways run on; one that hangs fails after 20 seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test(*args, **kwargs)

        uvloop.run(limited())

    return run


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0.001)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection. What was received and not yet taken is in ``rest``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def more(self) -> bytes:
        """What comes next; ``b""`` at the end, a reset being one."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionError:
            data = b""
        self.rest += data
        return data

    async def take(self, size: int) -> bytes:
        while len(self.rest) < size:
            assert await self.more(), f"the connection ended after {self.rest!r}"
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    async def line(self, end: bytes = b"\r\n") -> bytes:
        while end not in self.rest:
            assert await self.more(), f"the connection ended after {self.rest!r}"
        data, _, self.rest = self.rest.partition(end)
        return data

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.line(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [line.split(": ", 1) for line in lines[1:]]
        assert len({name for name, _ in headers}) == len(headers)
        return int(status), {name: value for name, value in headers}  # noqa: C416

    async def chunk(self) -> bytes:
        size = int(await self.line(), 16)
        data = await self.take(size)
        assert await self.take(2) == b"\r\n"
        return data

    async def reply(self, bare: bool = False) -> Reply:
        status, headers = await self.head()
        body = b""
        if bare or status in (100, 204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        else:
            body = await self.take(int(headers["content-length"]))
        return Reply(status, headers, body)

    async def ended(self) -> bool:
        """Wait for the end of the connection; whether nothing more came before it."""
        while await self.more():
            pass
        return not self.rest

    async def was_reset(self) -> bool:
        """Wait for the end of the connection; whether it was an abrupt one."""
        try:
            while await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                pass
        except ConnectionResetError:
            return True
        return False

    def silent(self) -> bool:
        """Nothing has come, and the connection is open."""
        if self.rest:
            return False
        try:
            self.rest = self.sock.recv(1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


class Rig:
    """The server, and the exchanges that its handler saw."""

    def __init__(self, handler: Callable[[Exchange], Awaitable[None]] | None, **options: Any) -> None:
        self.seen: list[Exchange] = []
        self.cancelled = 0
        self.failures: list[Exception] = []
        self.port = 0
        self._handler = handler
        self._clients: list[Client] = []
        self.server = HttpServer(self.handle, on_error=self._failed, **options)

    def _failed(self, _exchange: Exchange, error: Exception) -> None:
        self.failures.append(error)

    async def handle(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        try:
            if self._handler is None:
                exchange.send(200, [("content-type", "text/plain")], b"hello")
            else:
                await self._handler(exchange)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def connect(self, receive_buffer: int = 0) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client = Client(sock)
        self._clients.append(client)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return client

    async def settled(self) -> None:
        """Everything that was sent before has been looked at by the server."""
        for _ in range(2):
            client = await self.connect()
            await client.send(b"GET /settled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await client.reply()
            await client.ended()
            client.close()
        self.seen = [exchange for exchange in self.seen if exchange.path != "/settled"]

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Exchange], Awaitable[None]] | None = None,
    limits: HttpLimits | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[Rig]:
    rig = Rig(handler, limits=limits, clock=clock, **options)
    rig.port = (await rig.server.listen("127.0.0.1"))[0][1]
    try:
        yield rig
    finally:
        rig.close()
        await rig.server.close()
