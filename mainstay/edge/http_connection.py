"""One client's connection: cuts requests out of its bytes and has them answered one after the other by one task."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, cast

from mainstay.edge.http_chunked import ChunkedBody
from mainstay.edge.http_exchange import Exchange, Raw, header_block
from mainstay.edge.http_head import CHUNKED, body_length, parse_head, text_only
from mainstay.edge.http_limits import HttpLimits, Reject

if TYPE_CHECKING:
    from mainstay.edge.http import HttpServer

_NEVER = math.inf
_BLANK_LINES = 8
_BURST = 16
_LINGER_BYTES = 1024 * 1024
_SMALL_BODY = 64 * 1024

# What the bytes that come are for.
_HEAD, _BODY, _CHUNKED, _BUSY, _RAW, _LINGER, _CLOSED = range(7)


class Connection(asyncio.Protocol):
    """The protocol of one connection. ``deadline`` is looked at by the server's ticker."""

    __slots__ = (
        "_blank",
        "_body",
        "_buffer",
        "_chunked",
        "_drain_waiter",
        "_eof",
        "_held",
        "_limits",
        "_lingered",
        "_loop",
        "_need",
        "_next",
        "_pos",
        "_raw",
        "_reading_paused",
        "_received_since",
        "_running",
        "_scanned",
        "_state",
        "_transport",
        "_waiter",
        "_write_check",
        "client",
        "deadline",
        "gone",
        "server",
        "task",
        "write_paused",
    )

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.client = ""
        self.deadline = _NEVER
        self.gone = False  # the client is away, or sends nothing more
        self.write_paused = False
        self.task: asyncio.Task[None] | None = None
        self._limits: HttpLimits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._state = _HEAD
        self._buffer = bytearray()  # an unfinished head, or what was pipelined
        self._pos = 0  # where in the buffer the next request begins
        self._scanned = 0  # up to where the buffer is known to hold no end of a head
        self._blank = 0
        self._next: Exchange | None = None  # read and not yet begun, or waiting for the rest of its body
        self._running: Exchange | None = None  # with the handler
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._chunked: ChunkedBody | None = None
        self._need = 0
        self._held = 0
        self._received_since = 0.0
        self._eof = False
        self._reading_paused = False
        self._raw: Raw | None = None
        self._lingered = 0
        self._write_check: tuple[float, int] | None = None

    # ------------------------------------------------------------------ the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        server = self.server
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and peer:
            self.client = str(cast("tuple[object, ...]", peer)[0])
        full = len(server.connections) >= self._limits.connections
        server.connections.add(self)
        if full or server.draining:
            self._refuse(
                Reject(503, "the server takes no more connections now; try again", retry_after=1), linger=False
            )
            return
        self.deadline = server.now + self._limits.idle_timeout
        self.task = self._loop.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        state = self._state
        try:
            if state == _HEAD:
                if self._buffer:
                    self._buffer += data
                    self._parse_buffer()
                else:
                    at = self._parse(data, 0)
                    if at < len(data):
                        self._keep(data[at:])
                        self._scanned = max(self._scanned - at, 0)
            elif state == _BODY:
                self._feed_body(data)
            elif state == _CHUNKED:
                self._feed_chunked(data)
            elif state == _BUSY:
                self._keep(data)
            elif state == _RAW and self._raw is not None:
                self._raw.feed(data)
            elif state == _LINGER:
                self._lingered += len(data)
                if self._lingered > _LINGER_BYTES:
                    self.abort()
        except Reject as reject:
            self._refuse(reject)

    def eof_received(self) -> bool:
        self._eof = True
        if self._state == _BUSY or (self._state == _RAW and self._raw is not None):
            self._loop.call_soon(self._cancel_waiting)
            return True
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._state = _CLOSED
        self.deadline = _NEVER
        self._transport = None
        self._buffer.clear()
        self._give_back()
        self.server.lost(self)
        self._wake_drain()
        if self._raw is not None:
            self._raw.feed(b"")
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        transport = self._transport
        self._write_check = (self.server.now, transport.get_write_buffer_size() if transport else 0)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._write_check = None
        self._wake_drain()

    # ------------------------------------------------------------------ from bytes to requests

    def _keep(self, data: bytes) -> None:
        """Keep what came while a request is being answered; beyond the limit the socket keeps it."""
        self._buffer += data
        if len(self._buffer) - self._pos > self._limits.pipelined_bytes:
            self.pause_reading()

    def _parse_buffer(self) -> None:
        buffer = self._buffer
        self._pos = self._parse(buffer, self._pos)
        if self._pos >= len(buffer):
            buffer.clear()
            self._pos = self._scanned = 0
        elif self._pos > 65536:
            del buffer[: self._pos]
            self._scanned = max(self._scanned - self._pos, 0)
            self._pos = 0

    def _parse(self, data: bytes | bytearray, at: int) -> int:
        """Read the request that begins at ``at``; how far it was read (not at all while its head is unfinished)."""
        while data[at] == 0x0D:
            if data[at : at + 2] != b"\r\n":
                if at + 1 < len(data):
                    raise Reject(400, "a line break must be CR LF")
                break
            at += 2
            self._blank += 1
            if self._blank > _BLANK_LINES:
                raise Reject(400, "there are too many empty lines before the request")
            if at == len(data):
                self._scanned = 0
                return at
        end = data.find(b"\r\n\r\n", max(at, self._scanned - 3))
        if end < 0 or end - at > self._limits.head_bytes:
            self._unfinished(data, at)
            return at
        self._scanned = 0
        self._blank = 0
        method, target, path, query, headers, http11 = parse_head(bytes(data[at:end]), self._limits)
        exchange = Exchange(self, method, target, path, query, headers, http11)
        connection = headers.get("connection")
        if connection is not None and connection != "keep-alive":
            exchange.keep_alive = http11 and "close" not in [token.strip() for token in connection.lower().split(",")]
        at = end + 4
        length = body_length(headers, http11)
        expect = headers.get("expect")
        if expect is not None and expect.lower() != "100-continue":
            raise Reject(417, "the only expectation that can be met is 100-continue")
        if length == 0:
            self._dispatch(exchange)
            return at
        return self._begin_body(exchange, length, data, at, expect is not None and http11)

    def _unfinished(self, data: bytes | bytearray, at: int) -> None:
        """Refuse at once a head that can no longer become a good one; else let it wait for its rest, for a time."""
        size = len(data) - at
        limits = self._limits
        line = data.find(b"\r\n", at, at + limits.target_bytes + 64)
        if line < 0 and size > limits.target_bytes + 64:
            raise Reject(414, f"the request's target is longer than {limits.target_bytes} bytes")
        if size > limits.head_bytes:
            raise Reject(431, f"the request's headers are larger than {limits.head_bytes} bytes")
        new = data[max(at, self._scanned - 1) :]
        if new and new[0] == 0x0A and self._scanned > at:
            new = new[1:]  # the second half of a pair of which the first was looked at
        if not text_only(new):
            raise Reject(400, "the request's head has a control character or a line break that is not CR LF")
        if self._scanned <= at:
            self.deadline = self.server.now + limits.header_timeout
        self._scanned = len(data)

    def _begin_body(self, exchange: Exchange, length: int, data: bytes | bytearray, at: int, expected: bool) -> int:
        limit = self.server.body_limit(exchange.method, exchange.path)
        if length > limit:
            raise Reject(413, f"the request's body is larger than {limit} bytes")
        end = len(data)
        if 0 < length <= end - at:
            exchange.body = bytes(data[at : at + length])
            self._hold(length)
            self._dispatch(exchange)
            return at + length
        if expected and end == at:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._next = exchange
        self._received_since = self.server.now
        self.deadline = self.server.now + self._limits.body_grace
        rest = bytes(data[at:])
        if length == CHUNKED:
            self._state = _CHUNKED
            self._chunked = ChunkedBody(limit, self._limits)
            left = self._feed_chunked(rest, keep=False) if rest else 0
            return end - left
        self._hold(length)
        self._state = _BODY
        self._body += rest
        self._need = length - len(rest)
        return end

    def _feed_body(self, data: bytes) -> None:
        need = self._need
        if len(data) < need:
            self._body += data
            self._need = need - len(data)
            return
        self._body += data if len(data) == need else data[:need]
        self._need = 0
        self._dispatch_body(self._body)
        self._body = bytearray()
        if len(data) > need:
            self._keep(data[need:])

    def _feed_chunked(self, data: bytes, keep: bool = True) -> int:
        """Read on in a chunked body; how many bytes of ``data`` belong to what follows it."""
        chunked = self._chunked
        assert chunked is not None
        rest = chunked.feed(data)
        self._hold(len(chunked.body) - self._held)
        if rest is None:
            return 0
        self._chunked = None
        self._dispatch_body(chunked.body)
        if rest and keep:
            self._keep(rest)
        return len(rest)

    def _dispatch_body(self, body: bytearray) -> None:
        exchange = self._next
        assert exchange is not None
        exchange.body = bytes(body)
        self._dispatch(exchange)

    def _dispatch(self, exchange: Exchange) -> None:
        """Hand a whole request to the task."""
        self._next = exchange
        self._state = _BUSY
        self.deadline = _NEVER
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._eof:
            self._loop.call_soon(self._cancel_waiting)

    def _hold(self, size: int) -> None:
        """Count ``size`` more bytes of a body among those held by the server."""
        if size > 0:
            server = self.server
            if self._held + size > _SMALL_BODY and server.held + size > self._limits.held_bytes:
                raise Reject(503, "the server holds too many request bodies now; try again", retry_after=1)
            self._held += size
            server.held += size

    def _give_back(self) -> None:
        self.server.held -= self._held
        self._held = 0

    # ------------------------------------------------------------------ the task

    async def _run(self) -> None:
        server = self.server
        burst = 0
        try:
            while True:
                if self._next is None or self._state != _BUSY:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    burst = 0
                    continue
                burst += 1
                if burst == _BURST:  # a client that pipelines must not keep the others waiting
                    burst = 0
                    await asyncio.sleep(0)
                exchange = self._running = self._next
                self._next = None
                try:
                    await server.handler(exchange)
                except Exception as error:
                    server.failed(exchange, error)
                    if not exchange.started:
                        exchange.keep_alive = False
                        exchange.send(
                            500, _PLAIN, b"the request could not be answered because of a mistake in the server\n"
                        )
                self._running = None
                if self._transport is None:
                    return
                if exchange.done:
                    if self.write_paused:
                        await self.drained()
                    self._advance(exchange)
                elif exchange.promised:
                    self.deadline = server.now + self._limits.write_timeout
                else:
                    self._unanswered(exchange)
                if self._state == _CLOSED:
                    return
        except asyncio.CancelledError:
            self.gone = True
            if self._running is not None and not self._running.done:
                self._cut(self._running)
            else:
                self.close()
        finally:
            self._running = None

    def _unanswered(self, exchange: Exchange) -> None:
        """The handler returned without an end of its reply: a stream is cut, so that nobody takes it for whole."""
        if not exchange.started:
            self.server.failed(exchange, RuntimeError("the handler returned without answering"))
            exchange.keep_alive = False
            exchange.send(500, _PLAIN, b"the request was not answered\n")  # and goes on to close
        else:
            self._cut(exchange)

    def _cut(self, exchange: Exchange) -> None:
        """End a reply before its end, so that the client can tell."""
        if exchange.chunked or not exchange.started:
            self.close()
        else:
            self.abort()

    def completed(self, exchange: Exchange) -> None:
        """For the exchange: its last byte was written, perhaps after its handler returned."""
        if exchange is not self._running and self._transport is not None and self._state == _BUSY:
            self._advance(exchange)

    def _advance(self, exchange: Exchange) -> None:
        """Go on to the next request, or close."""
        if self._held:
            self._give_back()
        if not exchange.keep_alive or self.server.draining:
            self.close(linger=bool(self._buffer) or (self.server.draining and not self._eof))
            return
        self._state = _HEAD
        self.deadline = self.server.now + self._limits.idle_timeout
        if self._buffer:
            try:
                self._parse_buffer()
            except Reject as reject:
                self._refuse(reject)
                return
            if self._reading_paused and len(self._buffer) - self._pos <= self._limits.pipelined_bytes:
                self.resume_reading()
        if self._eof and self._state != _BUSY:
            self.close()

    def _cancel_waiting(self) -> None:
        """After the end of the client's bytes: what is ready has been answered, what still waits is cancelled."""
        if self._state == _RAW and self._raw is not None:
            self._raw.feed(b"")
        if self._running is not None and self.task is not None:
            self.gone = True
            self._buffer.clear()
            self._pos = 0
            self.task.cancel()

    # ------------------------------------------------------------------ writing and ending

    def write(self, data: bytes) -> None:
        """Write, or throw away when the client is gone."""
        if self._transport is not None and self._state != _CLOSED:
            self._transport.write(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        """Write several pieces without joining them."""
        if self._transport is not None and self._state != _CLOSED:
            self._transport.writelines(pieces)

    async def drained(self) -> None:
        """Wait until the transport takes more."""
        while self.write_paused and self._transport is not None:
            if self._drain_waiter is None:
                self._drain_waiter = self._loop.create_future()
            await asyncio.shield(self._drain_waiter)

    def _wake_drain(self) -> None:
        waiter = self._drain_waiter
        if waiter is not None:
            self._drain_waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def take_over(self, raw: Raw) -> None:
        """For the exchange: from now on the bytes are ``raw``'s."""
        self._state = _RAW
        self._raw = raw
        rest = bytes(self._buffer[self._pos :])
        self._buffer.clear()
        self._pos = 0
        if rest:
            raw.feed(rest)
        self.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading from the socket; the ticker then looks whether the client is still there."""
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
            self.server.deaf.add(self)

    def resume_reading(self) -> None:
        """Read from the socket again."""
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self.server.deaf.discard(self)
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _refuse(self, reject: Reject, linger: bool = True) -> None:
        """Answer a request that is no good, and close."""
        self.server.refused += 1
        self._next = None
        headers = [("content-type", "application/json")]
        if reject.retry_after is not None:
            headers.append(("retry-after", str(reject.retry_after)))
        body = b'{"error":{"message":"%b","type":"invalid_request_error","code":"http_%d"}}\n' % (
            reject.message.encode("ascii", "replace"),
            reject.status,
        )
        head = b"%b%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        self.write(head % (self.server.opening(reject.status), header_block(headers), len(body)) + body)
        self.close(linger=linger)

    def close(self, linger: bool = False) -> None:
        """Close when what was written has gone out.

        With ``linger`` what the client still sends is read for a moment, since closing a socket with unread bytes
        makes the kernel throw away the reply that is under way.
        """
        transport = self._transport
        if transport is None or self._state in (_CLOSED, _LINGER):
            return
        self._buffer.clear()
        self._body = bytearray()
        self._pos = self._scanned = 0
        self._chunked = None
        self._give_back()
        if linger and transport.can_write_eof():
            self._state = _LINGER
            self.deadline = self.server.now + self._limits.linger
            self.resume_reading()
            transport.write_eof()
        else:
            self._state = _CLOSED
            self.deadline = self.server.now + self._limits.write_timeout
            transport.close()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.cancel()

    def abort(self) -> None:
        """Close at once; what was written and not sent is lost."""
        self._state = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------ time

    @property
    def descriptor(self) -> int:
        """The socket's number, -1 when it is closed."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def idle(self) -> bool:
        """Between two requests, with nothing of the next."""
        return self._state == _HEAD and not self._buffer

    def overdue(self, now: float) -> None:
        """For the ticker: the deadline has passed."""
        state = self._state
        if state == _HEAD:
            if self._buffer:
                self._refuse(Reject(408, "the request's head did not come in time"))
            else:
                self.close()
        elif state in (_BODY, _CHUNKED):
            got = len(self._chunked.body) if self._chunked is not None else len(self._body)
            if got < (now - self._received_since - self._limits.body_grace) * self._limits.body_rate or not got:
                self._refuse(Reject(408, "the request's body came too slowly"))
            else:
                self.deadline = now + 1.0
        else:
            self.abort()

    def check_write(self, now: float) -> None:
        """For the ticker: cut off a client that does not read what was written for it."""
        if self._write_check is None or self._transport is None:
            return
        since, size = self._write_check
        if now - since < self._limits.write_timeout:
            return
        left = self._transport.get_write_buffer_size()
        if left > size - self._limits.write_rate * (now - since):
            self.abort()
        else:
            self._write_check = (now, left)

    def half_gone(self) -> None:
        """For the ticker: the client has gone, which a connection that does not read cannot see by itself."""
        self._eof = True
        if self._state == _BUSY or self._state == _RAW:
            self._cancel_waiting()
        else:
            self.close()


_PLAIN = [("content-type", "text/plain; charset=utf-8")]
