"""Clients that take their time: each kind of slowness has its bound, kept by a clock that the test moves."""

from __future__ import annotations

import asyncio

from mainstay.core.clock import FixedClock
from mainstay.edge.http import Exchange, HttpLimits
from tests.edge.http_rig import Rig, on_uvloop, serving, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def pass_time(rig: Rig, clock: FixedClock, seconds: float) -> None:
    clock.advance(seconds)
    rig.server.tick()


@on_uvloop
async def test_a_head_must_be_whole_in_time_however_busily_it_drips() -> None:
    clock = FixedClock()
    async with serving(clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client, early = await rig.connect(), await rig.connect()
        await early.send(b"\r")
        for n in range(19):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: yyyyyyy"[2 * n : 2 * n + 2])
            await rig.settled()
            pass_time(rig, clock, 0.5)
        assert client.silent()
        await rig.settled()
        pass_time(rig, clock, 1)
        for one in (client, early):
            assert (await one.reply()).status == 408
            assert await one.ended()
        assert not rig.seen


@on_uvloop
async def test_the_time_for_a_head_begins_anew_with_each_request() -> None:
    clock = FixedClock()
    async with serving(clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client = await rig.connect()
        for _ in range(5):
            await client.send(GET[:10])
            await rig.settled()
            pass_time(rig, clock, 9)
            await client.send(GET[10:])
            assert (await client.reply()).status == 200


@on_uvloop
async def test_an_unused_connection_is_closed_without_a_word() -> None:
    clock = FixedClock()
    async with serving(clock=clock, limits=HttpLimits(tick=1000)) as rig:
        never, once = await rig.connect(), await rig.connect()
        await once.send(GET)
        await once.reply()
        await rig.settled()
        pass_time(rig, clock, 74)
        assert never.silent()
        assert once.silent()
        pass_time(rig, clock, 2)
        assert await never.ended()
        assert await once.ended()


@on_uvloop
async def test_a_body_must_come_at_a_rate() -> None:
    clock = FixedClock()
    async with serving(clock=clock, limits=HttpLimits(tick=1000)) as rig:
        steady, slow, stalled, chunked = [await rig.connect() for _ in range(4)]
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        await steady.send(head)
        await slow.send(head)
        await stalled.send(head + b"x" * 500)
        await chunked.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n")
        for _ in range(20):
            await steady.send(b"x" * 5000)
            if slow.silent():
                await slow.send(b"x" * 10)
            await rig.settled()
            pass_time(rig, clock, 1)
        assert (await steady.reply()).status == 200
        for client in (slow, stalled, chunked):
            assert (await client.reply()).status == 408
            assert await client.ended()
        assert len(rig.seen) == 1


@on_uvloop
async def test_a_handler_may_take_its_time() -> None:
    clock = FixedClock()
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/":
            await go.wait()
        exchange.send(200, [])

    async with serving(handler, clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client = await rig.connect()
        await client.send(GET)
        await until(lambda: rig.seen)
        pass_time(rig, clock, 3600)
        await rig.settled()
        go.set()
        assert (await client.reply()).status == 200


@on_uvloop
async def test_a_client_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not() -> None:
    clock = FixedClock()

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/plain":
            exchange.send(200, [], b"y" * 30_000_000)
            return
        exchange.start(200, [])
        while True:
            exchange.write(b"x" * 65536)
            await exchange.drain()

    async with serving(handler, clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client = await rig.connect(receive_buffer=65536)
        await client.send(GET)
        await until(lambda: rig.seen and rig.seen[0].congested)
        pass_time(rig, clock, 29)
        assert not rig.cancelled
        pass_time(rig, clock, 2)
        await until(lambda: rig.cancelled)
        assert not rig.server.connections
        slow = await rig.connect(receive_buffer=65536)
        await slow.send(GET.replace(b"/ ", b"/plain ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await until(lambda: len(rig.seen) == 2)
        for _ in range(5):
            for _ in range(20):
                await slow.more()
            await until(lambda: len(rig.server.connections) == 1)
            pass_time(rig, clock, 31)
        reply = await slow.reply()
        assert len(reply.body) == 30_000_000


@on_uvloop
async def test_a_handler_that_never_waits_for_its_client_is_stopped() -> None:
    clock = FixedClock()

    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        while not exchange.disconnected:
            exchange.write(b"x" * 65536)
            await asyncio.sleep(0)

    async with serving(handler, clock=clock, limits=HttpLimits(tick=0.01, unsent_bytes=1_000_000)) as rig:
        client = await rig.connect(receive_buffer=65536)
        await client.send(GET)
        await until(lambda: rig.cancelled)
        assert not rig.server.connections


@on_uvloop
async def test_a_promise_that_is_not_kept_ends_the_connection() -> None:
    clock = FixedClock()

    async def handler(exchange: Exchange) -> None:
        exchange.send_later(200, [])

    async with serving(handler, clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client = await rig.connect()
        await client.send(GET)
        await until(lambda: rig.seen and rig.seen[0].promised)
        await asyncio.sleep(0)
        pass_time(rig, clock, 31)
        assert await client.ended()


@on_uvloop
async def test_after_a_refusal_a_client_cannot_go_on_for_ever() -> None:
    clock = FixedClock()
    async with serving(clock=clock, limits=HttpLimits(tick=1000)) as rig:
        quiet, loud = await rig.connect(), await rig.connect()
        for client in (quiet, loud):
            await client.send(b"NONSENSE\r\n\r\n")
            assert (await client.reply()).status == 400
        pass_time(rig, clock, 3)
        await until(lambda: not rig.server.connections)
        client = await rig.connect()
        await client.send(b"NONSENSE\r\n\r\n")
        assert (await client.reply()).status == 400
        try:
            for _ in range(100):
                await client.send(b"x" * 65536)
        except ConnectionError:
            pass
        await until(lambda: not rig.server.connections)


@on_uvloop
async def test_an_upgraded_connection_has_the_deadline_that_its_user_sets() -> None:
    clock = FixedClock()

    async def handler(exchange: Exchange) -> None:
        raw = exchange.upgrade([])
        raw.deadline = clock.monotonic() + 5
        await raw.read()

    async with serving(handler, clock=clock, limits=HttpLimits(tick=1000)) as rig:
        client = await rig.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await client.head())[0] == 101
        pass_time(rig, clock, 4)
        assert client.silent()
        pass_time(rig, clock, 2)
        assert await client.ended()
        await until(lambda: rig.cancelled)
