"""A provider over real sockets that does just what a test tells it: answers in each wire format, or misbehaves."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

TOKENS = [f"tok{i} " for i in range(1, 61)]
"""What a provider says unless told otherwise: sixty tokens."""


@dataclass
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        return bool(self.json.get("stream")) or "stream" in self.target

    @property
    def model(self) -> str:
        try:
            return str(self.json["model"])
        except (ValueError, KeyError, TypeError):
            return ""


class Wire:
    """The connection of one request, to be written to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, headers: dict[str, str] | None = None, chunked: bool = True) -> None:
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if chunked:
            lines.append("transfer-encoding: chunked")
        await self.send(("\r\n".join([*lines, "", ""])).encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        head = {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))}
        await self.head(status, head, chunked=False)
        await self.send(body)

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Wire, Asked], Awaitable[None]]


@dataclass
class Part:
    """One model of a provider: ``script`` has the behaviours of its next requests; after it, ``default``."""

    default: Behaviour
    script: list[Behaviour] = field(default_factory=list[Behaviour])
    asked: list[Asked] = field(default_factory=list[Asked])
    times: list[float] = field(default_factory=list[float])


class Provider:
    """Listens on a free port. ``script`` has the behaviours of the next requests; after it, ``default``.

    A model may have a part of its own, so that many cases can run at once: see ``part``.
    """

    def __init__(self, default: Behaviour) -> None:
        self.default = default
        self.script: list[Behaviour] = []
        self.parts: dict[str, Part] = {}
        self.asked: list[Asked] = []
        self.times: list[float] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def part(self, model: str) -> Part:
        """What happens to requests for ``model``, apart from all others."""
        return self.parts.setdefault(model, Part(self.default))

    def _behaviour(self, asked: Asked) -> Behaviour:
        now = asyncio.get_running_loop().time()
        self.asked.append(asked)
        self.times.append(now)
        if self.parts:
            part = self.parts.get(asked.model)
            if part is not None:
                part.asked.append(asked)
                part.times.append(now)
                return part.script.pop(0) if part.script else part.default
        return self.script.pop(0) if self.script else self.default

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=64 * 1024 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(method, target, headers, body)
                behaviour = self._behaviour(asked)
                wire = Wire(reader, writer)
                answering = asyncio.ensure_future(behaviour(wire, asked))
                gone = asyncio.ensure_future(self._gone(reader, writer))
                try:
                    await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if gone.done() and not answering.done():
                        asked.disconnected.set()
                        return
                    await answering
                finally:
                    answering.cancel()
                    gone.cancel()
                    await asyncio.gather(answering, gone, return_exceptions=True)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    @staticmethod
    async def _gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof() and not writer.is_closing():
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- OpenAI chat


def chat_reply(tokens: list[str] = TOKENS, model: str = "m", usage: bool = True, **more: Any) -> bytes:
    message = {"role": "assistant", "content": "".join(tokens), "refusal": None}
    reply: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
    }
    if usage:
        reply["usage"] = {"prompt_tokens": 10, "completion_tokens": len(tokens), "total_tokens": 10 + len(tokens)}
    return json.dumps({**reply, **more}).encode()


def chat_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def chat_events(tokens: list[str] = TOKENS, usage: bool = True) -> list[bytes]:
    events = [chat_chunk({"role": "assistant", "content": ""})]
    events += [chat_chunk({"content": token}) for token in tokens]
    events.append(chat_chunk({}, "stop"))
    if usage:
        figures = {"prompt_tokens": 10, "completion_tokens": len(tokens), "total_tokens": 10 + len(tokens)}
        events.append(chat_chunk({}, None, choices=[], usage=figures))
    return [*events, b"data: [DONE]\n\n"]


SSE = {"content-type": "text/event-stream"}


def chat(tokens: list[str] = TOKENS, pause: float = 0.0) -> Behaviour:
    """Answers as OpenAI does, streamed or plain as asked. A prefilled answer is continued."""

    async def behave(wire: Wire, asked: Asked) -> None:
        if not asked.stream:
            return await wire.plain(200, chat_reply(tokens, asked.json["model"]))
        wants = bool((asked.json.get("stream_options") or {}).get("include_usage"))
        await wire.head(200, SSE)
        for event in chat_events(tokens, wants):
            await wire.chunk(event)
            if pause:
                await asyncio.sleep(pause)
        await wire.end()

    return behave


# ---------------------------------------------------------------- Anthropic


def _sse(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **value})}\n\n".encode()


def messages_events(tokens: list[str] = TOKENS, output: int | None = None) -> list[bytes]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }
    events = [_sse("message_start", {"message": message})]
    events.append(_sse("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}))
    for token in tokens:
        events.append(_sse("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": token}}))
    events.append(_sse("content_block_stop", {"index": 0}))
    usage = {"output_tokens": len(tokens) if output is None else output}
    events.append(_sse("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}))
    return [*events, _sse("message_stop", {})]


def messages_reply(tokens: list[str] = TOKENS) -> bytes:
    return json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "c",
            "content": [{"type": "text", "text": "".join(tokens)}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": len(tokens)},
        }
    ).encode()


def messages(tokens: list[str] = TOKENS, prefill: bool = True) -> Behaviour:
    """Answers as Anthropic does. Given the beginning of its answer it goes on, or refuses if ``prefill`` is false."""

    async def behave(wire: Wire, asked: Asked) -> None:
        rest = tokens
        last = asked.json["messages"][-1]
        if last["role"] == "assistant":
            if not prefill:
                body = {
                    "type": "error",
                    "error": {"type": "invalid_request_error", "message": "prefill is not supported"},
                }
                return await wire.plain(400, json.dumps(body).encode())
            content = last["content"]
            given = content if isinstance(content, str) else "".join(part["text"] for part in content)
            whole = "".join(tokens)
            assert whole.startswith(given), (whole, given)
            rest = [whole[len(given) :]]
        if not asked.stream:
            return await wire.plain(200, messages_reply(rest))
        await wire.head(200, SSE)
        for event in messages_events(rest):
            await wire.chunk(event)
        await wire.end()

    return behave


# ---------------------------------------------------------------- misbehaviour


def status(code: int, body: Any = None, headers: dict[str, str] | None = None) -> Behaviour:
    """An error reply."""
    value = body if body is not None else {"error": {"message": f"status {code}", "type": "error", "code": None}}

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.plain(code, value if isinstance(value, bytes) else json.dumps(value).encode(), headers)

    return behave


async def reset(wire: Wire, asked: Asked) -> None:
    """The connection is reset before the reply begins."""
    wire.reset()


async def silent(wire: Wire, asked: Asked) -> None:
    """Accepts and never answers."""
    await asyncio.sleep(3600)


async def late(wire: Wire, asked: Asked) -> None:
    """The head at once, and then nothing."""
    await wire.head(200, SSE if asked.stream else {"content-type": "application/json"})
    await asyncio.sleep(3600)


def broken_off(events: list[bytes], how: str) -> Behaviour:
    """Sends ``events``, then ends: ``reset``, ``close`` (cleanly, no terminal event) or ``stall``."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(200, SSE)
        for event in events:
            await wire.chunk(event)
        if how == "close":
            return await wire.end()
        await asyncio.sleep(0.05)  # so that what was sent arrives before the connection goes
        if how == "reset":
            return wire.reset()
        await asyncio.sleep(3600)

    return behave


def raw(head: str, body: bytes, close: bool = True) -> Behaviour:
    """Just these bytes."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.send(head.replace("\n", "\r\n").encode() + body)
        if close:
            wire.writer.close()

    return behave


def anew(tokens: list[str] = TOKENS) -> Behaviour:
    """Answers as Anthropic does, and begins from the beginning whatever beginning it was given."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(200, SSE)
        for event in messages_events(tokens):
            await wire.chunk(event)
        await wire.end()

    return behave


CHAT_ERROR = b'data: {"error":{"message":"The server had an error","type":"server_error","code":null}}\n\n'
MESSAGES_ERROR = _sse("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})


def chat_tool_events(arguments: list[str], name: str = "look_up") -> list[bytes]:
    """A stream with one tool call, its arguments in those pieces."""
    opened = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    events = [chat_chunk({"role": "assistant", "content": None, "tool_calls": [opened]})]
    for piece in arguments:
        events.append(chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}))
    return [*events, chat_chunk({}, "tool_calls"), b"data: [DONE]\n\n"]


def messages_tool_events(arguments: list[str], name: str = "look_up") -> list[bytes]:
    """The same as Anthropic says it."""
    events = messages_events([])[:1]
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
    events.append(_sse("content_block_start", {"index": 0, "content_block": block}))
    for piece in arguments:
        delta = {"type": "input_json_delta", "partial_json": piece}
        events.append(_sse("content_block_delta", {"index": 0, "delta": delta}))
    events.append(_sse("content_block_stop", {"index": 0}))
    stop = {"stop_reason": "tool_use", "stop_sequence": None}
    return [*events, _sse("message_delta", {"delta": stop, "usage": {"output_tokens": 9}}), _sse("message_stop", {})]


def played(events: list[bytes]) -> Behaviour:
    """A stream of just these events, ended cleanly."""
    return broken_off(events, "close")


def black_hole() -> tuple[socket.socket, list[socket.socket]]:
    """A port at which no connection ever comes to stand: nobody accepts, and the queue is full."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting: list[socket.socket] = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
        waiting.append(one)
    return listening, waiting
