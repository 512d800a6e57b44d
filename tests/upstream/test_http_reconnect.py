"""What the pool does with kept connections that are dead, with a full shelf, and when there is nothing left to do."""

from __future__ import annotations

import asyncio

import pytest

from mainstay.core.clock import Clock
from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.http import PoolLimits
from tests.edge.http_rig import on_uvloop, until
from tests.upstream.http_rig import Peer, Provider, provider

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def dies_when_used_again(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    await peer.request()
    peer.reset()


async def warmed(rig: Provider, count: int) -> None:
    """``count`` connections, all kept."""
    several = [await rig.ask() for _ in range(count)]
    for one in several:
        await one.head()
    for one in several:
        one.release()
    assert rig.pool.idle == count


@on_uvloop
async def test_the_siblings_of_a_dead_connection_go_with_it() -> None:
    async with provider(dies_when_used_again) as rig:
        await warmed(rig, 5)
        assert (await rig.answer())[0] == 200
        assert rig.connections == 6
        assert rig.pool.idle == 1


@on_uvloop
async def test_a_connection_given_back_since_is_not_suspected() -> None:
    """Only what has not been heard of for at least as long as the dead one is dropped."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            if peer.number == 2:
                await go.wait()
            await peer.send(OK)
            if peer.number == 1:
                await peer.request()
                await until(lambda: rig.pool.idle == 1)
                return peer.reset()

    async with provider(script, limits=PoolLimits(tick=0.001)) as rig:
        first, second = await rig.ask(), await rig.ask()
        await first.head()
        first.release()
        again = await rig.ask()  # on the first connection, whose end is near
        go.set()
        await second.head()
        clock, now = Clock(), Clock().monotonic()
        await until(lambda: clock.monotonic() > now + 0.02)  # many ticks, by which idle times are told apart
        second.release()
        assert (await again.head())[0] == 200
        again.release()
        assert rig.connections == 3
        assert rig.pool.idle == 2


@on_uvloop
async def test_whoever_sends_may_forbid_the_repetition() -> None:
    asked: list[int] = []

    def never() -> bool:
        asked.append(1)
        return False

    async with provider(dies_when_used_again) as rig:
        await warmed(rig, 2)
        up = await rig.ask()
        with pytest.raises(UpstreamFailed) as caught:
            await up.head(never)
        assert (caught.value.kind, caught.value.sent, asked) == ("connect", True, [1])
        up.release()
        assert rig.connections == 2
        assert rig.pool.busy == 0


@on_uvloop
async def test_a_fresh_connection_takes_the_place_of_a_kept_one_where_there_may_be_no_more() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK.replace(b"{}", b"%02d" % peer.number))

    async with provider(script, limits=PoolLimits(connections=1)) as rig:
        assert (await rig.answer())[2] == b"01"
        up = await rig.pool.send(rig.origin, "GET", "/", b"host: a\r\n", connect_timeout=5, fresh=True)
        await up.head()
        assert await up.body() == b"02"
        up.release()
        assert rig.pool.idle == 1
        assert (await rig.answer())[2] == b"02"


@on_uvloop
async def test_the_last_place_is_handed_on_and_its_connection_found_again() -> None:
    """A shelf that is swept up while somebody is about to use it would keep connections that nobody finds or closes."""

    there: set[int] = set()

    async def script(peer: Peer) -> None:
        there.add(peer.number)
        try:
            while await peer.request():
                await peer.send(OK)
        finally:
            there.discard(peer.number)

    async with provider(script, limits=PoolLimits(connections=1, tick=0.0)) as rig:

        async def cut() -> None:
            up = await rig.ask()
            await up.head()
            up.abort()

        for _ in range(200):
            await asyncio.gather(cut(), rig.answer())
            await until(lambda: len(there) == rig.pool.idle == 1)


@on_uvloop
async def test_a_pool_without_connections_sleeps_and_wakes() -> None:
    """Nothing wakes an idle process twenty times a second; deadlines hold again with the next connection."""

    class Counting(Clock):
        asked = 0

        def monotonic(self) -> float:
            self.asked += 1
            return super().monotonic()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(OK)
        await peer.gone()

    clock = Counting()
    async with provider(script, limits=PoolLimits(idle=0.01, tick=0.001), clock=clock) as rig:
        assert (await rig.answer())[0] == 200
        await until(lambda: not rig.pool.idle)
        asked = -1
        while clock.asked != asked:
            asked = clock.asked
            await asyncio.sleep(0.02)  # twenty ticks, if there were any
        up = await rig.ask()
        up.deadline = super(Counting, clock).monotonic() + 0.02
        with pytest.raises(UpstreamFailed) as caught:
            await up.head()
        assert caught.value.kind == "timeout"
        up.release()
