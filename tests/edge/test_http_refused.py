"""A body that is too large can be refused by the handler, so that it is answered and recorded like any other request."""

from __future__ import annotations

import asyncio

from mainstay.edge.http import Exchange, HttpLimits, HttpServer
from tests.edge.http_rig import on_uvloop


async def _ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def _serve(takes: bool) -> tuple[HttpServer, int, list[Exchange]]:
    seen: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        status = 200 if exchange.refused is None else exchange.refused.status
        exchange.send(status, [("x-by", "handler")], b"mine")

    server = HttpServer(
        handler, HttpLimits(body_bytes=10), takes_refused=lambda method, path: takes and path == "/mine"
    )
    [(_, port)] = await server.listen("127.0.0.1")
    return server, port, seen


WHOLE = b"POST /mine HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000
CHUNKED = b"POST /mine HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n40\r\n" + b"x" * 64


@on_uvloop
async def test_the_handler_refuses() -> None:
    server, port, seen = await _serve(True)
    for data in (WHOLE, CHUNKED):
        reply = await _ask(port, data)
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in reply
        assert reply.endswith(b"mine")
    assert [exchange.body for exchange in seen] == [b"", b""]
    assert server.refused == 0
    assert server.held == 0
    await server.close()


@on_uvloop
async def test_a_waiting_client_is_told_at_once() -> None:
    """One that asks before it sends gets no 100 Continue."""
    server, port, _ = await _serve(True)
    head = b"POST /mine HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n"
    assert (await _ask(port, head)).startswith(b"HTTP/1.1 413 ")
    await server.close()


@on_uvloop
async def test_what_follows_a_refused_body_is_never_a_request() -> None:
    server, port, seen = await _serve(True)
    smuggled = b"POST /mine HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nGET /mine HTTP/1.1\r\nhost: a\r\n\r\n"
    reply = await _ask(port, smuggled)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert len(seen) == 1
    await server.close()


@on_uvloop
async def test_others_are_refused_by_the_server_itself() -> None:
    server, port, seen = await _serve(True)
    reply = await _ask(port, WHOLE.replace(b"/mine", b"/other"))
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"x-by" not in reply
    assert seen == []
    assert server.refused == 1
    await server.close()
    server, port, seen = await _serve(False)
    assert b"x-by" not in await _ask(port, WHOLE)
    assert seen == []
    await server.close()
