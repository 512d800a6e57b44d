"""Callers who go away while a connection is being opened: nothing stays open, waiting or counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from mainstay.core.clock import Clock
from mainstay.upstream.http import Origin, Pool, PoolLimits
from tests.edge.http_rig import on_uvloop, until
from tests.upstream.http_rig import Peer, provider

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Mute:
    """Accepts connections, takes what comes and says nothing."""

    def __init__(self) -> None:
        self.heard = b""
        self.open = 0
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(65536):
                self.heard += data
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def mute() -> AsyncGenerator[Mute]:
    made = Mute()
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.mark.parametrize("phase", ["TLS", "tunnel"])
@pytest.mark.parametrize("times", [1, 20])
@on_uvloop
async def test_giving_up_while_a_connection_is_being_made_closes_it(phase: str, times: int) -> None:
    async with mute() as peer:
        here = f"127.0.0.1:{peer.port}"
        if phase == "TLS":
            origin, _ = Origin.parse(f"https://{here}", private=True)
        else:
            origin, _ = Origin.parse("https://192.0.2.1", private=True, proxy=f"http://{here}")
        pool = Pool(Clock(), limits=PoolLimits(connections=times))
        asking = [
            asyncio.ensure_future(pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=10))
            for _ in range(times)
        ]
        await until(lambda: peer.open == times and peer.heard)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert all(one.cancelled() for one in asking)
        await until(lambda: not peer.open)
        assert (pool.busy, pool.idle) == (0, 0)
        # Their places are free again: as many can be asked for at once.
        again = [
            asyncio.ensure_future(pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=10))
            for _ in range(times)
        ]
        await until(lambda: peer.open == times)
        for one in again:
            one.cancel()
        await asyncio.gather(*again, return_exceptions=True)
        await pool.close()


@on_uvloop
async def test_giving_up_while_a_request_is_being_repeated_frees_its_place() -> None:
    """The kept connection was dead; the caller goes away while the new one waits for a place, or for its reply."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number in (1, 3):
            await peer.send(OK)
            await peer.request()
            return peer.reset()
        if peer.number == 2:
            return await peer.gone()
        await peer.send(OK)
        await peer.gone()

    async with provider(script, limits=PoolLimits(connections=1)) as rig:
        assert (await rig.answer())[0] == 200
        task = asyncio.ensure_future(rig.answer())
        await until(lambda: rig.connections == 2 and rig.pool.busy == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert rig.pool.busy == 0
        assert (await rig.answer())[0] == 200  # on the third, in the only place
        assert (await rig.answer())[0] == 200  # which is dead now, and on the fourth
        assert rig.connections == 4
