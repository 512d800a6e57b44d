"""A lean upstream that streams: every event a write of its own, ``gap`` seconds apart, OpenAI's and Anthropic's by path.

``python -m bench.upstream EVENTS GAP`` prints its port and runs until its input ends. A gap of 0 means as fast as it
can, still a write for each event. A request that asks for no stream is answered plainly. It is not counted, and reads
no more of a request than it must to know where it ends.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench import traffic

_PHASES = 5
_AT_ONCE = 2  # the first event says only who speaks; the first content comes with it
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Replies:
    """What is answered, and the clock that sends it: streams are spread over the phases of one gap."""

    def __init__(self, events: int, gap: float) -> None:
        self.streams = {b"/v1/messages": _chunked(traffic.messages_events(events))}
        self.streams[b"/v1/chat/completions"] = _chunked(traffic.chat_events(events))
        self.plain = {b"/v1/messages": traffic.messages_reply(), b"/v1/chat/completions": traffic.chat_reply()}
        self._gap = gap / _PHASES
        self._phases: list[dict[Connection, int]] = [{} for _ in range(_PHASES)]
        self._phase = self._next = 0
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._awake = False
        if gap:
            self._tick()

    def begin(self, connection: Connection) -> None:
        """Stream to ``connection`` from its third event on."""
        if not self._gap and not self._awake:
            self._awake = True
            self._loop.call_soon(self._tick)
        self._phases[self._next][connection] = _AT_ONCE
        self._next = (self._next + 1) % _PHASES

    def _tick(self) -> None:
        running = self._phases[self._phase]
        self._phase = (self._phase + 1) % _PHASES
        for connection, at in list(running.items()):
            if not connection.write(at):
                del running[connection]
            else:
                running[connection] = at + 1
        if not self._gap:
            self._awake = any(self._phases)
            if self._awake:
                self._loop.call_soon(self._tick)
            return
        self._at += self._gap
        now = self._loop.time()
        if self._at < now - 10 * self._gap:  # it cannot keep up: it does not try to catch up
            self._at = now
        self._loop.call_at(self._at, self._tick)


def _chunked(events: list[bytes]) -> list[bytes]:
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    pieces[-1] += b"0\r\n\r\n"
    return pieces


class Connection(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._pieces: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length, at = 0, head.find(b"\r\ncontent-length:")
            if at >= 0:
                length = int(head[at + 17 :].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            body = self._data[end + 4 : end + 4 + length]
            path = self._data.split(b" ", 2)[1]
            self._data = self._data[end + 4 + length :]
            self._answer(path, b'"stream":true' in body or b'"stream": true' in body)

    def _answer(self, path: bytes, stream: bool) -> None:
        assert self._transport is not None
        if path not in self._replies.plain:  # a peer may look for more than it is asked for
            self._transport.write(_NOTHING)
            return
        if not stream:
            reply = self._replies.plain[path]
            self._transport.write(_PLAIN % (len(reply), reply))
            return
        self._pieces = self._replies.streams[path]
        self._transport.write(_HEAD + b"".join(self._pieces[:_AT_ONCE]))
        self._replies.begin(self)

    def write(self, at: int) -> bool:
        """Write event number ``at``; whether there are more."""
        if self._transport is None:
            return False
        self._transport.write(self._pieces[at])
        return at + 1 < len(self._pieces)


async def serve(events: int, gap: float) -> None:
    """Print the port, and answer until standard input ends."""
    loop = asyncio.get_running_loop()
    replies = Replies(events, gap)
    server = await loop.create_server(lambda: Connection(replies), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
