"""Answers as they should be on the wire, one after the other, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from mainstay.core.clock import FixedClock
from mainstay.edge.http import Exchange, HttpLimits, HttpServer
from tests.edge.http_rig import Client, Rig, on_uvloop, serving, until
from tests.upstream.http_rig import certificate

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: a", *lines, "", "")).encode()


def post(body: bytes, *lines: str) -> bytes:
    return "\r\n".join(("POST / HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *lines, "", "")).encode() + body


@on_uvloop
async def test_a_plain_reply() -> None:
    async with serving(clock=FixedClock(784111777)) as rig:
        client = await rig.connect()
        await client.send(GET)
        assert await client.line(b"\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-type: text/plain\r\ncontent-length: 5"
        )
        assert await client.take(5) == b"hello"
        await client.send(post(b"x" * 300_000))
        assert (await client.reply()).body == b"hello"
        assert rig.seen[1].body == b"x" * 300_000
        assert rig.seen[1].client == "127.0.0.1"


@on_uvloop
async def test_the_date_goes_on() -> None:
    clock = FixedClock(784111777)
    async with serving(clock=clock) as rig:
        client = await rig.connect()
        clock.advance(1)
        rig.server.tick()
        await client.send(GET)
        assert (await client.reply()).headers["date"] == "Sun, 06 Nov 1994 08:49:38 GMT"


@on_uvloop
async def test_close_and_http_1_0_close_and_nothing_else_does() -> None:
    for request, closes in (
        (get("/"), False),
        (get("/", "Connection: keep-alive"), False),
        (get("/", "Connection: Keep-Alive, X-Other"), False),
        (get("/", "Connection: close"), True),
        (get("/", "Connection: x, CLOSE"), True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ):
        async with serving() as rig:
            client = await rig.connect()
            await client.send(request)
            reply = await client.reply()
            assert (reply.headers.get("connection") == "close") == closes, request
            if closes:
                assert await client.ended()
            else:
                await client.send(GET)
                assert (await client.reply()).status == 200


@on_uvloop
async def test_head_and_statuses_without_a_body() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/stream":
            exchange.start(200, [], b"first")
            exchange.write(b"second")
            exchange.finish(b"last")
        else:
            exchange.send(int(exchange.path[1:]), [], b"hello")

    async with serving(handler) as rig:
        client = await rig.connect()
        for method, path, length in (("HEAD", "/200", "5"), ("GET", "/204", None), ("GET", "/304", None)):
            await client.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            reply = await client.reply(bare=True)
            assert reply.headers.get("content-length") == length
        await client.send(b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n" + get("/200"))
        assert (await client.reply(bare=True)).headers["transfer-encoding"] == "chunked"
        assert (await client.reply()).body == b"hello"


@on_uvloop
async def test_a_stream_is_chunked_and_its_first_bytes_come_with_its_head() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [("content-type", "text/event-stream")], b"one")
        await go.wait()
        exchange.write(b"two" * 50_000)
        exchange.write(b"")
        await exchange.drain()
        exchange.finish(b"three")

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(GET)
        _, headers = await client.head()
        assert headers["transfer-encoding"] == "chunked"
        assert "content-length" not in headers
        assert await client.chunk() == b"one"
        go.set()
        assert await client.chunk() == b"two" * 50_000
        assert await client.chunk() == b"three"
        assert await client.chunk() == b""
        old = await rig.connect()
        await old.send(b"GET / HTTP/1.0\r\n\r\n")
        await old.head()
        await old.ended()
        assert old.rest == b"one" + b"two" * 50_000 + b"three"


@on_uvloop
async def test_promised_last_bytes_come_later_and_in_their_order() -> None:
    promised: list[tuple[str, Callable[[bytes], None]]] = []

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/stream":
            exchange.start(200, [], b"begun")
            promised.append((exchange.path, exchange.finish_later()))
        elif exchange.path == "/plain":
            promised.append((exchange.path, exchange.send_later(201, [("x-a", "1")])))
        else:
            exchange.send(200, [], b"now")

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(get("/stream") + get("/plain") + get("/now"))
        await until(lambda: promised)
        await rig.settled()
        assert [exchange.path for exchange in rig.seen] == ["/stream"]
        promised.pop()[1](b"ended")
        assert (await client.reply()).body == b"begunended"
        await until(lambda: promised)
        path, write = promised.pop()
        assert path == "/plain"
        write(b"body")
        write(b"again")
        reply = await client.reply()
        assert (reply.status, reply.headers["x-a"], reply.body) == (201, "1", b"body")
        assert (await client.reply()).body == b"now"
        await client.send(get("/stream"))
        await until(lambda: promised)
        client.close()
        await until(lambda: not rig.server.connections)
        promised.pop()[1](b"to nobody")


@on_uvloop
async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    running = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        exchange.send(200, [], exchange.path.encode() + exchange.body)
        running -= 1

    async with serving(handler) as rig:
        client = await rig.connect()
        count = 3000
        wire = b"".join(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" % n for n in range(count))
        sending = asyncio.ensure_future(client.send(wire))
        for n in range(count):
            assert (await client.reply()).body == b"/%dx" % n
        await sending


@on_uvloop
async def test_what_is_pipelined_without_bound_waits_in_the_socket_and_the_client_may_still_leave() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/settled":
            exchange.send(200, [])
        else:
            await asyncio.Event().wait()

    async with serving(handler, HttpLimits(pipelined_bytes=1000)) as rig:
        client = await rig.connect()
        await client.send(GET * 100)
        await until(lambda: rig.server.deaf)
        (connection,) = rig.server.connections
        await client.send(GET * 100)
        await rig.settled()
        assert len(connection._buffer) <= len(GET) * 100  # pyright: ignore[reportPrivateUsage]
        assert len(rig.seen) == 1
        client.close()
        await until(lambda: rig.cancelled)
        assert len(rig.seen) == 1
        await until(lambda: not rig.server.connections)


@on_uvloop
async def test_a_client_that_leaves_cancels_the_handler_in_every_phase() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/stream":
            exchange.start(200, [], b"x")
        elif exchange.path == "/full":
            exchange.start(200, [], b"x")
            while True:
                exchange.write(b"y" * 65536)
                await exchange.drain()
        await asyncio.Event().wait()

    for path in ("/waiting", "/stream", "/full"):
        for leave in (lambda c: c.close(), lambda c: c.sock.shutdown(socket.SHUT_WR), reset):
            async with serving(handler) as rig:
                client = await rig.connect()
                await client.send(get(path))
                await until(lambda rig=rig: rig.seen)
                if path == "/stream":
                    await client.head()
                elif path == "/full":
                    await until(lambda rig=rig: rig.seen[0].congested)
                leave(client)
                await until(lambda rig=rig: rig.cancelled)
                assert rig.seen[0].disconnected
                if path != "/full" or leave is reset:
                    await until(lambda rig=rig: not rig.server.connections)


def reset(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@on_uvloop
async def test_half_closed_what_is_ready_is_answered_and_what_waits_is_cancelled() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/wait":
            await asyncio.Event().wait()
        exchange.send(200, [], exchange.path.encode())

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(get("/a") + get("/b"))
        client.sock.shutdown(socket.SHUT_WR)
        assert (await client.reply()).body == b"/a"
        assert (await client.reply()).body == b"/b"
        assert await client.ended()
        client = await rig.connect()
        await client.send(get("/c") + get("/wait") + get("/d"))
        client.sock.shutdown(socket.SHUT_WR)
        assert (await client.reply()).body == b"/c"
        assert await client.ended()
        assert rig.cancelled == 1
        assert [exchange.path for exchange in rig.seen] == ["/a", "/b", "/c", "/wait"]
        client = await rig.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        client.sock.shutdown(socket.SHUT_WR)
        assert await client.ended()
        assert len(rig.seen) == 4


@on_uvloop
async def test_half_closed_a_promise_is_kept_and_the_connection_then_closed() -> None:
    promised: list[Callable[[bytes], None]] = []

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/settled":
            exchange.send(200, [])
        else:
            promised.append(exchange.send_later(200, []))

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(GET)
        await until(lambda: promised)
        client.sock.shutdown(socket.SHUT_WR)
        await rig.settled()
        promised.pop()(b"kept")
        assert (await client.reply()).body == b"kept"
        assert await client.ended()
        assert not rig.cancelled


@on_uvloop
async def test_a_client_that_pipelines_and_does_not_read_is_not_served_on() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.send(200, [], b"" if exchange.path == "/settled" else b"x" * 1_000_000)

    async with serving(handler) as rig:
        client = await rig.connect(receive_buffer=65536)
        await client.send(GET * 100)
        await until(lambda: rig.seen and rig.seen[-1].congested)
        await rig.settled()
        assert len(rig.seen) < 20
        for _ in range(100):
            assert len((await client.reply()).body) == 1_000_000


@on_uvloop
async def test_a_client_that_pipelines_does_not_keep_the_others_waiting() -> None:
    async with serving() as rig:
        first, second = await rig.connect(), await rig.connect()
        await rig.settled()
        await first.send(GET * 1000)
        await second.send(get("/second"))
        assert (await second.reply()).status == 200
        assert [exchange.path for exchange in rig.seen].index("/second") < 100


@on_uvloop
async def test_expect_100_continue() -> None:
    async with serving(body_limit=lambda _method, path: 10 if path == "/" else 0) as rig:
        client = await rig.connect()
        head = "POST {} HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n{}\r\n\r\n"
        for framing, body in (("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")):
            await client.send(head.format("/", framing).encode())
            assert await client.line(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
            await client.send(body)
            assert (await client.reply()).status == 200
            await client.send(head.format("/", framing).encode() + body)
            assert (await client.reply()).status == 200
        await client.send(head.format("/", "Content-Length: 11").encode())
        assert (await client.reply()).status == 413
        assert await client.ended()
        assert [exchange.body for exchange in rig.seen] == [b"abc"] * 4


@on_uvloop
async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with serving(body_limit=lambda _method, _path: 1000) as rig:
        client = await rig.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
        assert (await client.reply()).status == 413
        for _ in range(3):  # nor is it reset while it goes on for a little
            await client.send(b"x" * 1000)
            await rig.settled()
        assert await client.ended()


@on_uvloop
async def test_a_reply_cannot_be_split() -> None:
    refused: list[str] = []

    async def handler(exchange: Exchange) -> None:
        for name, value in (
            ("x-a", "1\r\nset-cookie: b"),
            ("x-a", "1\nset-cookie: b"),
            ("x-a", "1\rset-cookie: b"),
            ("x-a", "1\0"),
            ("x-a", "\u2713"),
            ("x-a\r\nx-b", "1"),
            ("x a", "1"),
            ("x-a:", "1"),
            ("", "1"),
            ("content-length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("connection", "close"),
        ):
            for answer in (exchange.send, exchange.start, exchange.send_later):
                with pytest.raises(ValueError):
                    answer(200, [("x-good", "1"), (name, value)])
                refused.append(name)
        for status in (99, 100, 101, 600):
            with pytest.raises(ValueError):
                exchange.send(status, [])
        assert not exchange.started
        exchange.send(200, [("x-a", "caf\xe9")], b"good")
        for again in (lambda: exchange.send(200, []), lambda: exchange.write(b"x"), exchange.finish):
            with pytest.raises(RuntimeError):
                again()

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(GET)
        reply = await client.reply()
        assert (reply.body, reply.headers["x-a"]) == (b"good", "caf\xe9")
        assert len(refused) == 36
        assert not rig.failures


@on_uvloop
async def test_a_handler_that_fails_never_looks_like_one_that_did_not() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/early":
            raise KeyError("secret")
        if exchange.path == "/silent":
            return
        exchange.start(200, [], b"half")
        if exchange.path == "/unfinished":
            return
        raise KeyError("secret")

    async with serving(handler) as rig:
        for path in ("/early", "/silent"):
            client = await rig.connect()
            await client.send(get(path) + GET)
            reply = await client.reply()
            assert reply.status == 500
            assert b"secret" not in reply.body
            assert await client.ended()
        for path in ("/late", "/unfinished"):
            client = await rig.connect()
            await client.send(get(path))
            await client.head()
            assert await client.chunk() == b"half"
            assert await client.ended()
        old = await rig.connect()
        await old.send(b"GET /late HTTP/1.0\r\n\r\n")
        assert await old.was_reset()
        assert len(rig.failures) == 5
        assert len(rig.seen) == 5


@on_uvloop
async def test_connections_are_bounded() -> None:
    async with serving(limits=HttpLimits(connections=3)) as rig:
        clients = [await rig.connect() for _ in range(3)]
        for client in clients:
            await client.send(GET)
            assert (await client.reply()).status == 200
        fourth = await rig.connect()
        reply = await fourth.reply()
        assert (reply.status, reply.headers["connection"], reply.headers["retry-after"]) == (503, "close", "1")
        assert await fourth.ended()
        clients[0].close()
        await until(lambda: len(rig.server.connections) == 2)
        again = await rig.connect()
        await again.send(GET)
        assert (await again.reply()).status == 200


@on_uvloop
async def test_bodies_held_at_once_are_bounded_and_given_back() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.send(200, [])

    async with serving(handler, HttpLimits(held_bytes=300_000)) as rig:
        first = await rig.connect()
        await first.send(post(b"x" * 200_000))
        await until(lambda: rig.seen)
        second = await rig.connect()
        await second.send(post(b"x" * 200_000))
        assert (await second.reply()).status == 503
        third = await rig.connect()
        await third.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            await third.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert (await third.reply()).status == 503
        go.set()
        assert (await first.reply()).status == 200
        assert rig.server.held == 0
        await first.send(post(b"x" * 200_000))
        assert (await first.reply()).status == 200


@on_uvloop
async def test_draining_finishes_what_runs_and_says_that_it_is_the_last() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.send(200, [], b"done")

    async with serving(handler) as rig:
        idle, running, late = await rig.connect(), await rig.connect(), await rig.connect()
        await running.send(get("/running"))
        await late.send(b"GET /late HTTP/1.1\r\nHost")
        await until(lambda: rig.seen)
        await until(lambda: sum(connection.idle for connection in rig.server.connections) == 1)
        draining = asyncio.ensure_future(rig.server.drain(10))
        assert await idle.ended()
        with pytest.raises(ConnectionRefusedError):
            await rig.connect()
        go.set()
        reply = await running.reply()
        assert (reply.body, reply.headers["connection"]) == (b"done", "close")
        running.close()
        await late.send(b": a\r\n\r\n")
        assert (await late.reply()).headers["connection"] == "close"
        late.close()
        assert await draining == 0


@on_uvloop
async def test_what_is_not_done_when_draining_ends_is_cut_off() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [], b"x")
        await asyncio.Event().wait()

    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(GET)
        await client.head()
        assert await rig.server.drain(0.01) == 1
        assert rig.cancelled == 1
        await client.ended()
        assert not client.rest.endswith(b"0\r\n\r\n")


@on_uvloop
async def test_an_upgraded_connection_is_raw_both_ways() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/callback":
            raw = exchange.upgrade([("x-a", "1")], on_data=lambda data: raw.write(data.upper()))
            await asyncio.Event().wait()
        raw = exchange.upgrade([])
        while data := await raw.read():
            raw.write(data[::-1])
            if data == b"bye":
                return

    ask = ("Connection: keep-alive, Upgrade", "Upgrade: websocket")
    async with serving(handler) as rig:
        client = await rig.connect()
        await client.send(get("/", *ask) + b"abc")
        status, headers = await client.head()
        assert (status, headers["upgrade"], headers["connection"]) == (101, "websocket", "upgrade")
        assert await client.take(3) == b"cba"
        await client.send(b"bye")
        assert await client.take(3) == b"eyb"
        assert await client.ended()
        client = await rig.connect()
        await client.send(get("/callback", *ask))
        await client.head()
        await client.send(b"abc")
        assert await client.take(3) == b"ABC"
        client.close()
        await until(lambda: rig.cancelled == 1)
        client = await rig.connect()
        await client.send(GET)
        assert (await client.reply()).status == 500
        assert isinstance(rig.failures[0], ValueError)


@on_uvloop
async def test_over_a_local_socket(tmp_path: Path) -> None:
    await _over_a_local_socket(tmp_path / "socket")


async def _over_a_local_socket(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    rig = Rig(None)
    assert await rig.server.listen(sock=sock) == []
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(GET)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert rig.seen[0].client == ""
    writer.close()
    await rig.server.close()


@on_uvloop
async def test_over_tls_on_a_socket_that_was_handed_over(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    sock = socket.create_server(("127.0.0.1", 0))
    rig = Rig(None)
    ((_, port),) = await rig.server.listen(sock=sock, tls=context)
    trusting = ssl.create_default_context(cafile=str(pem))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    writer.write(post(b"x" * 100_000, "Connection: close"))
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert rig.seen[0].body == b"x" * 100_000
    writer.close()
    await rig.server.close()


def test_a_server_needs_no_loop_to_be_made() -> None:
    assert HttpServer(lambda exchange: asyncio.sleep(0)).connections == set()
