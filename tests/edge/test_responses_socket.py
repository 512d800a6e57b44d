"""The WebSocket mode at the level of frames: handshake, limits, order, time, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from wsproto.frame_protocol import CloseReason, Opcode

from mainstay.core.clock import Clock
from mainstay.edge.http import Exchange
from mainstay.edge.http_limits import HttpLimits
from mainstay.edge.model_api import Endpoint
from mainstay.edge.responses_socket import ResponsesSockets
from mainstay.edge.socket_connection import SocketLimits
from mainstay.edge.socket_turn import SocketTurn, refusal
from mainstay.gateway.routed import Routed
from tests.edge.http_rig import Client, Rig, on_uvloop, serving, until

HANDSHAKE = {
    "host": "a",
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "authorization": "Bearer good",
    "sec-websocket-extensions": "permessage-deflate",
}
CLOSE, PING, PONG, TEXT, BINARY, MORE = 8, 9, 10, 1, 2, 0


class Models:
    """Stands in for the model API: answers each turn with one event that repeats its input, when it is let."""

    def __init__(self) -> None:
        self.turns: list[SocketTurn] = []
        self.calls: list[Routed] = []
        self.cancelled = 0
        self.go: asyncio.Event | None = None
        self.events = 1
        self.fail: Exception | None = None
        self.status = 200

    async def answer(self, turn: SocketTurn, endpoint: Endpoint, prepare: Callable[[Routed], None]) -> None:
        call = Routed("call_1", 0.0, 0.0, endpoint.operation, endpoint.dialect, turn.headers, turn.body)
        prepare(call)
        self.turns.append(turn)
        self.calls.append(call)
        if call.refusal is not None or self.status != 200:
            code = call.refusal.code if call.refusal is not None else "refused"
            turn.send_later(self.status if call.refusal is None else 429, [])(
                json.dumps({"error": {"code": code, "message": "no", "param": None}}).encode()
            )
            return
        if self.fail is not None:
            turn.send_later(500, [])(b"{}")
            raise self.fail
        try:
            if self.go is not None:
                await self.go.wait()
            told = json.dumps({"type": "said", "input": json.loads(turn.body)["input"]})
            turn.start(200, [], f"event: said\ndata: {told}\n\n".encode())
            for _ in range(self.events - 1):
                turn.write(f"data: {told}\n\n".encode())
                await turn.drain()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        turn.finish_later()(b": a comment\n\ndata: [DONE]\n\n")


class _Keys:
    def find(self, secret: str, now: float) -> object | None:
        return object() if secret == "good" else None


class _Plan:
    keys = _Keys()


class Socket:
    """A client that sends just the frames it is told to."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def send(self, opcode: int, payload: bytes = b"", fin: bool = True, masked: bool = True) -> None:
        head = bytes([opcode | (0x80 if fin else 0)])
        mask = 0x80 if masked else 0
        size = len(payload)
        if size < 126:
            head += bytes([mask | size])
        elif size < 65536:
            head += bytes([mask | 126]) + size.to_bytes(2, "big")
        else:
            head += bytes([mask | 127]) + size.to_bytes(8, "big")
        if masked:
            key = os.urandom(4)
            payload = key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        await self.client.send(head + payload)

    async def ask(self, text: str, **more: Any) -> None:
        await self.send(TEXT, json.dumps({"type": "response.create", "model": "m", "input": text, **more}).encode())

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.client.take(2)
        assert first & 0x80, "messages of ours are whole"
        assert not first & 0x70, "no extension was agreed on"
        assert not second & 0x80, "a server does not mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self.client.take(2 if size == 126 else 8), "big")
        return first & 0x0F, await self.client.take(size)

    async def told(self) -> dict[str, Any]:
        while True:
            opcode, payload = await self.frame()
            if opcode == PING:
                await self.send(PONG, payload)
                continue
            assert opcode == TEXT, (opcode, payload)
            return json.loads(payload)

    async def said(self) -> str:
        event = await self.told()
        assert event["type"] == "said", event
        return event["input"]

    async def closed(self) -> tuple[int, str]:
        """The code and reason with which the server closes; the connection ends after the client has said the same."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                break
        with contextlib.suppress(OSError):
            await self.send(CLOSE, payload)
        assert await self.client.ended()
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class World:
    def __init__(self, rig: Rig, models: Models, sockets: ResponsesSockets) -> None:
        self.rig, self.models, self.sockets = rig, models, sockets

    async def handshake(self, **headers: str | None) -> tuple[Client, int, dict[str, str]]:
        wanted = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        client = await self.rig.connect()
        lines = [f"{name}: {value}" for name, value in wanted.items() if value is not None]
        await client.send(("GET /v1/responses HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        status, replied = await client.head()
        return client, status, replied

    async def connect(self, **headers: str | None) -> Socket:
        client, status, _ = await self.handshake(**headers)
        assert status == 101
        return Socket(client)


def in_world(**limits: Any) -> Callable[[Callable[[World], Awaitable[None]]], Callable[..., None]]:
    """Run a test against a server with these limits."""

    def decorate(test: Callable[[World], Awaitable[None]]) -> Callable[..., None]:
        async def run() -> None:
            async with world(**limits) as made:
                await test(made)

        run.__name__ = test.__name__
        wrapped = on_uvloop(run)
        del wrapped.__wrapped__  # pytest would look for the fixtures of what is within
        return wrapped

    return decorate


@contextlib.asynccontextmanager
async def world(**limits: Any) -> AsyncIterator[World]:
    models = Models()
    sockets = ResponsesSockets(cast(Any, models), lambda: cast(Any, _Plan()), Clock(), SocketLimits(**limits))

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/settled":
            return exchange.send(200, [], b"")
        await sockets.answer(exchange)

    async with serving(handler, HttpLimits(tick=0.01)) as rig:
        yield World(rig, models, sockets)
        assert not rig.failures
    assert not sockets.open
    assert sockets.held == 0
    assert sockets.room.used == 0


# ---------------------------------------------------------------- the handshake


@in_world()
async def test_the_handshake(world: World) -> None:
    _, status, headers = await world.handshake()
    assert status == 101
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["upgrade"] == "websocket"
    assert "sec-websocket-extensions" not in headers
    assert "sec-websocket-protocol" not in headers


@in_world()
async def test_a_handshake_that_is_none_is_refused(world: World) -> None:
    for headers, expected in (
        ({"authorization": "Bearer bad"}, 401),
        ({"authorization": None}, 401),
        ({"sec_websocket_version": "8"}, 426),
        ({"sec_websocket_version": None}, 426),
        ({"sec_websocket_key": "c2hvcnQ="}, 400),
        ({"sec_websocket_key": "no base64"}, 400),
        ({"sec_websocket_key": None}, 400),
    ):
        _, status, replied = await world.handshake(**cast(Any, headers))
        assert status == expected, headers
        assert ("sec-websocket-version" in replied) == (expected == 426)
    assert not world.models.turns


# ---------------------------------------------------------------- frames


@in_world()
async def test_a_turn_has_the_headers_of_the_handshake(world: World) -> None:
    socket = await world.connect(**{"x_mainstay_user": "ada"})
    await socket.ask("hello", stream=False, store=False)
    assert await socket.said() == "hello"
    (turn,) = world.models.turns
    assert turn.headers["x-mainstay-user"] == "ada"
    assert turn.headers["authorization"] == "Bearer good"
    assert "upgrade" not in turn.headers
    assert json.loads(turn.body) == {"model": "m", "input": "hello", "store": False, "stream": True}
    assert world.models.calls[0].recent is not None


@in_world()
async def test_messages_in_pieces_with_pings_between(world: World) -> None:
    socket = await world.connect()
    message = json.dumps({"type": "response.create", "model": "m", "input": "grüße"}, ensure_ascii=False).encode()
    cut = message.index("ü".encode()) + 1  # within a character
    await socket.send(TEXT, message[:5], fin=False)
    await socket.send(PING, b"are you there")
    assert await socket.frame() == (PONG, b"are you there")
    await socket.send(MORE, message[5:cut], fin=False)
    await socket.send(PONG)  # asked for by nobody
    await socket.send(MORE, message[cut:])
    assert await socket.said() == "grüße"


@in_world()
async def test_a_frame_byte_by_byte(world: World) -> None:
    socket = await world.connect()
    sent = bytearray()
    whole = socket.client.send

    async def gather(data: bytes) -> None:
        sent.extend(data)

    socket.client.send = gather  # type: ignore[method-assign]
    await socket.ask("slowly")
    for byte in sent:
        await whole(bytes([byte]))
        await asyncio.sleep(0)
    socket.client.send = whole  # type: ignore[method-assign]
    assert await socket.said() == "slowly"


@in_world(message=1000, closing=0.05)
async def test_frames_that_break_the_rules_end_the_connection(world: World) -> None:
    async def sends(*frames: tuple[int, bytes, bool, bool]) -> int:
        socket = await world.connect()
        for opcode, payload, fin, masked in frames:
            await socket.send(opcode, payload, fin, masked)
        return (await socket.closed())[0]

    assert await sends((TEXT, b"{}", True, False)) == CloseReason.PROTOCOL_ERROR
    assert await sends((3, b"", True, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((MORE, b"x", True, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((TEXT, b"x", False, True), (TEXT, b"y", True, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((PING, b"x" * 126, True, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((PING, b"x", False, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((TEXT | 0x40, b"x", True, True)) == CloseReason.PROTOCOL_ERROR
    assert await sends((TEXT, b"\xff\xfe", True, True)) == CloseReason.INVALID_FRAME_PAYLOAD_DATA
    assert await sends((BINARY, b"x", True, True)) == CloseReason.UNSUPPORTED_DATA
    assert await sends((TEXT, b"x" * 1001, True, True)) == CloseReason.MESSAGE_TOO_BIG
    assert await sends(*[(TEXT if not n else MORE, b"x" * 100, False, True) for n in range(11)]) == 1009
    assert not world.models.turns
    assert Opcode.TEXT == TEXT


@in_world(held=2000)
async def test_all_connections_together_hold_so_much(world: World) -> None:
    first, second = await world.connect(), await world.connect()
    await first.send(TEXT, b"x" * 1500, fin=False)
    await until(lambda: world.sockets.held == 1500)
    await second.send(TEXT, b"x" * 600, fin=False)
    assert (await second.closed())[0] == 1013
    first.client.close()
    await until(lambda: not world.sockets.open)


@in_world()
async def test_the_client_closes(world: World) -> None:
    socket = await world.connect()
    await socket.send(CLOSE, (1000).to_bytes(2, "big") + b"bye")
    opcode, payload = await socket.frame()
    assert (opcode, payload[:2]) == (CLOSE, (1000).to_bytes(2, "big"))
    assert await socket.client.ended()


# ---------------------------------------------------------------- turns


@in_world()
async def test_one_turn_after_the_other(world: World) -> None:
    models = world.models
    models.go = asyncio.Event()
    socket = await world.connect()
    for n in range(3):
        await socket.ask(f"turn {n}")
    await until(lambda: models.turns)
    await socket.send(PING, b"still here")
    assert await socket.frame() == (PONG, b"still here")
    assert len(models.turns) == 1
    models.go.set()
    assert [await socket.said() for _ in range(3)] == ["turn 0", "turn 1", "turn 2"]


@in_world(lanes=2)
async def test_turns_of_different_stream_ids_at_once(world: World) -> None:
    models = world.models
    models.go = asyncio.Event()
    socket = await world.connect()
    for text, stream in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")):
        await socket.ask(text, stream_id=stream)
    await until(lambda: len(models.turns) == 2)
    models.go.set()
    events = [await socket.told() for _ in range(4)]
    assert {(event["stream_id"], event["input"]) for event in events} == {
        ("a", "a1"),
        ("a", "a2"),
        ("b", "b1"),
        ("c", "c1"),
    }
    order = [event["input"] for event in events]
    assert order.index("a1") < order.index("a2")


@in_world(waiting=2)
async def test_what_waits_is_bounded(world: World) -> None:
    models = world.models
    models.go = asyncio.Event()
    socket = await world.connect()
    for n in range(4):
        await socket.ask(f"turn {n}", stream_id="s")
    event = await socket.told()
    assert (event["type"], event["status"], event["stream_id"]) == ("error", 429, "s")
    assert event["code"] == event["error"]["code"] == "rate_limit_exceeded"
    assert sum(call.refusal is not None for call in models.calls) == 1  # it is recorded as a call
    models.go.set()
    assert [await socket.said() for _ in range(3)] == ["turn 0", "turn 1", "turn 2"]


@in_world()
async def test_messages_that_ask_for_nothing_known(world: World) -> None:
    socket = await world.connect()
    for message, code in ((b"no JSON", "invalid_json"), (b'{"type":"response.cancel"}', "unknown_event_type")):
        await socket.send(TEXT, message)
        assert (await socket.told())["code"] == code
    await socket.ask("go on")
    assert await socket.said() == "go on"


@in_world()
async def test_a_turn_that_fails_does_not_end_the_connection(world: World) -> None:
    socket = await world.connect()
    world.models.fail = RuntimeError("broken")
    await socket.ask("x")
    assert (await socket.told())["status"] == 500
    world.models.fail = None
    await socket.ask("y")
    assert await socket.said() == "y"


@in_world()
async def test_a_key_that_ends_ends_the_connection(world: World) -> None:
    socket = await world.connect()
    world.models.status = 401
    await socket.ask("x")
    assert (await socket.told())["status"] == 401
    assert (await socket.closed())[0] == 1008


@pytest.mark.parametrize("how", ["close", "frame", "half"])
def test_a_client_that_goes_away_cancels_its_turns(how: str) -> None:
    @in_world()
    async def run(world: World) -> None:
        models = world.models
        models.go = asyncio.Event()
        socket = await world.connect()
        await socket.ask("x", stream_id="a")
        await socket.ask("y", stream_id="b")
        await socket.ask("z", stream_id="b")
        await until(lambda: len(models.turns) == 2)
        if how == "close":
            socket.client.close()
        elif how == "half":
            socket.client.sock.shutdown(1)
        else:
            await socket.send(CLOSE, (1001).to_bytes(2, "big"))
        await until(lambda: models.cancelled == 2)
        await until(lambda: not world.sockets.open)
        assert len(models.turns) == 2

    run()


@in_world()
async def test_a_client_that_does_not_read_is_waited_for(world: World) -> None:
    models = world.models
    models.events = 3000
    socket = await world.connect()
    text = "x" * 10_000
    await socket.ask(text)
    await until(lambda: any(connection.write_paused for connection in world.rig.server.connections))
    (connection,) = [one for one in world.rig.server.connections if one.write_paused]
    waiting = cast(Any, connection)._transport.get_write_buffer_size()
    assert waiting < 2_000_000  # of thirty million bytes
    for _ in range(models.events):
        assert await socket.said() == text


# ---------------------------------------------------------------- time


@in_world(idle=0.05, ping=10)
async def test_an_idle_connection_is_closed(world: World) -> None:
    socket = await world.connect()
    await socket.ask("x")
    assert await socket.said() == "x"
    assert (await socket.closed())[0] == 1000


@in_world(ping=0.02, silence=0.2, idle=60)
async def test_a_client_without_a_sign_of_life_is_left(world: World) -> None:
    alive, dead = await world.connect(), await world.connect()

    async def answer_pings() -> None:
        while True:
            opcode, payload = await alive.frame()
            assert opcode == PING
            await alive.send(PONG, payload)

    answering = asyncio.ensure_future(answer_pings())
    assert (await dead.closed())[0] == 1001
    assert len(world.sockets.open) == 1
    assert not answering.done()
    answering.cancel()


@in_world(lifetime=0.1, idle=60)
async def test_a_connection_does_not_live_for_ever(world: World) -> None:
    models = world.models
    models.go = asyncio.Event()
    socket = await world.connect()
    await socket.ask("begun")
    (connection,) = world.sockets.open
    await until(lambda: connection._ending is not None)
    await socket.ask("late")
    assert (await socket.told())["code"] == "websocket_connection_limit_reached"
    models.go.set()
    assert await socket.said() == "begun"
    assert (await socket.closed())[0] == 1001


@in_world()
async def test_draining_lets_turns_finish(world: World) -> None:
    models = world.models
    models.go = asyncio.Event()
    busy, idle = await world.connect(), await world.connect()
    await busy.ask("begun")
    await until(lambda: models.turns)
    world.sockets.drain()
    assert (await idle.closed())[0] == 1001
    models.go.set()
    assert await busy.said() == "begun"
    assert (await busy.closed())[0] == 1001


@in_world(closing=0.05)
async def test_a_client_that_does_not_close_is_not_waited_for_long(world: World) -> None:
    socket = await world.connect()
    world.sockets.drain()
    opcode, _ = await socket.frame()
    assert opcode == CLOSE
    assert await socket.client.ended()


# ---------------------------------------------------------------- messages


def test_a_refusal_has_its_fields_where_clients_look() -> None:
    body = b'{"error":{"message":"m","type":"t","param":"p","code":"previous_response_not_found"}}'
    told = json.loads(refusal(body, 404, "s"))
    assert told["status"] == 400
    assert told["error"] == {"message": "m", "type": "t", "param": "p", "code": "previous_response_not_found"}
    assert (told["code"], told["message"], told["param"], told["stream_id"]) == (
        "previous_response_not_found",
        "m",
        "p",
        "s",
    )


def test_a_refusal_of_another_shape_is_told_all_the_same() -> None:
    assert json.loads(refusal(b"<html>busy", 503, None))["message"] == "<html>busy"
