"""One client's connection: its requests are answered one after the other by one task, and it ends as it should."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, cast

from mainstay.edge.http_exchange import Exchange, Raw, header_block
from mainstay.edge.http_incoming import BODY, BUSY, CHUNKED_BODY, CLOSED, HEAD, LINGER, NEVER, RAW, Incoming
from mainstay.edge.http_limits import Reject

if TYPE_CHECKING:
    from mainstay.edge.http import HttpServer

_BURST = 16
_LINGER_BYTES = 1024 * 1024
_OUTQ: int | None = getattr(termios, "TIOCOUTQ", None)
# A shape that is an error both to who expects OpenAI's and to who expects Anthropic's: the path may not be known yet.
_REFUSAL = b'{"type":"error","error":{"type":"%b","message":"%b","param":null,"code":"http_%d"}}\n'
_KINDS = {413: b"request_too_large", 503: b"overloaded_error"}
_PLAIN = [("content-type", "text/plain; charset=utf-8")]


class Connection(Incoming):
    """The protocol of one connection. ``deadline`` is looked at by the server's ticker."""

    __slots__ = (
        "_drain_waiter",
        "_eof",
        "_lingered",
        "_raw",
        "_reading_paused",
        "_running",
        "_write_check",
        "gone",
        "task",
        "write_paused",
    )

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.gone = False  # the client is away, or sends nothing more
        self.write_paused = False
        self.task: asyncio.Task[None] | None = None
        self._running: Exchange | None = None  # with the handler
        self._drain_waiter: asyncio.Future[None] | None = None
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
        if state <= BUSY:
            try:
                self._feed(data)
            except Reject as reject:
                self._refuse(reject)
        elif state == RAW and self._raw is not None:
            self._raw.feed(data)
        elif state == LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.abort()

    def eof_received(self) -> bool:
        self._eof = True
        if self._state == BUSY or self._state == RAW:
            self._loop.call_soon(self._cancel_waiting)
            # What is ready is still answered; TLS has no half-closed connections.
            return self._transport is not None and self._transport.get_extra_info("sslcontext") is None
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._state = CLOSED
        self.deadline = NEVER
        self._transport = None
        self._buffer.clear()
        self._give_back()
        self._taken()
        self.server.lost(self)
        self._wake_drain()
        if self._raw is not None:
            self._raw.feed(b"")
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._write_check = (self.server.now, self._unread_by_client())

    def resume_writing(self) -> None:
        self.write_paused = False
        self._write_check = None
        self._taken()
        self._wake_drain()

    # ------------------------------------------------------------------ the task

    async def _run(self) -> None:
        server = self.server
        burst = 0
        try:
            while True:
                if self.ready is None or self._state != BUSY:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    burst = 0
                    continue
                burst += 1
                if burst == _BURST:  # a client that pipelines must not keep the others waiting
                    burst = 0
                    await asyncio.sleep(0)
                    continue
                if self.write_paused:
                    await self.drained()
                    continue
                exchange = self._running = self.ready
                self.ready = None
                if self._eof:
                    self._loop.call_soon(self._cancel_waiting)
                await self._answer(exchange)
                self._running = None
                if self._transport is None:
                    return
                if exchange.done:
                    self._advance(exchange)
                elif exchange.promised:
                    self.deadline = server.now + self._limits.write_timeout
                else:
                    self._cut(exchange)
                if self._state == CLOSED:
                    return
        except asyncio.CancelledError:
            self.gone = True
            if self._running is not None and not self._running.done:
                self._cut(self._running)
            else:
                self.close()
        finally:
            self._running = None

    async def _answer(self, exchange: Exchange) -> None:
        server = self.server
        try:
            await server.handler(exchange)
            if not (exchange.done or exchange.promised or self._state == RAW):
                raise RuntimeError("the handler returned without finishing its answer")
        except Exception as error:
            server.failed(exchange, error)
            if not exchange.started:
                exchange.keep_alive = False
                exchange.send(500, _PLAIN, b"the request could not be answered because of a mistake in the server\n")

    def _cut(self, exchange: Exchange) -> None:
        """End a reply before its end, so that the client can tell."""
        if exchange.chunked or not exchange.started or self._state == RAW:
            self.close()
        else:  # an end would look like the reply's own: only a reset tells them apart
            sock = self._transport.get_extra_info("socket") if self._transport is not None else None
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()

    def completed(self, exchange: Exchange) -> None:
        """For the exchange: its last byte was written, perhaps after its handler returned."""
        if exchange is not self._running and self._transport is not None and self._state == BUSY:
            self._advance(exchange)

    def _advance(self, exchange: Exchange) -> None:
        """Go on to the next request, or close."""
        if self._held:
            self._give_back()
        if not exchange.keep_alive or self.server.draining:
            unread = bool(self._buffer) or exchange.refused is not None
            self.close(linger=unread or (self.server.draining and not self._eof))
            return
        self._state = HEAD
        self.deadline = self.server.now + self._limits.idle_timeout
        if self._buffer:
            try:
                self._parse_buffer()
            except Reject as reject:
                self._refuse(reject)
                return
            if self._reading_paused and len(self._buffer) - self._pos <= self._limits.pipelined_bytes:
                self.resume_reading()
        if self._eof and self._state != BUSY:
            self.close()

    def _cancel_waiting(self) -> None:
        """After the end of the client's bytes: what is ready has been answered, what still waits is cancelled."""
        if self._state == RAW and self._raw is not None:
            self._raw.feed(b"")
        if self._running is not None and self.task is not None:
            self.gone = True
            self._buffer.clear()
            self._pos = 0
            self.task.cancel()

    # ------------------------------------------------------------------ writing and ending

    def write_large(self, head: bytes, body: bytes) -> None:
        """Write a whole reply; it counts as held until the client has taken it."""
        self.writelines((head, body))
        if self.write_paused and not self._unsent:
            self._unsent = len(body)
            self.server.room.hold(self._unsent)

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
        self._state = RAW
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
        if self._hand_on(reject):
            return
        self.server.refused += 1
        self.ready = None
        headers = [("content-type", "application/json")]
        if reject.retry_after is not None:
            headers.append(("retry-after", str(reject.retry_after)))
        body = _REFUSAL % (
            _KINDS.get(reject.status, b"invalid_request_error"),
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
        if transport is None or self._state in (CLOSED, LINGER):
            return
        self._buffer.clear()
        self._body = bytearray()
        self._pos = self._scanned = 0
        self._chunked = None
        self._give_back()
        if linger and transport.can_write_eof():
            self._state = LINGER
            self.deadline = self.server.now + self._limits.linger
            self.resume_reading()
            transport.write_eof()
        else:
            self._state = CLOSED
            self.deadline = self.server.now + self._limits.write_timeout
            transport.close()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.cancel()

    def abort(self) -> None:
        """Close at once; what was written and not sent is lost."""
        self._state = CLOSED
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
        return self._state == HEAD and not self._buffer

    def overdue(self, now: float) -> None:
        """For the ticker: the deadline has passed."""
        state = self._state
        if state == HEAD:
            if self._buffer:
                self._refuse(Reject(408, "the request's head did not come in time"))
            else:
                self.close()
        elif state in (BODY, CHUNKED_BODY):
            got = len(self._chunked.body) if self._chunked is not None else len(self._body)
            if got < (now - self._received_since - self._limits.body_grace) * self._limits.body_rate or not got:
                self._refuse(Reject(408, "the request's body came too slowly"))
            else:
                self.deadline = now + 1.0
        elif self.write_paused:  # it ends when the client has read, or ``check_write`` finds that it does not
            self.deadline = now + 1.0
        else:
            self.abort()

    def check_write(self, now: float) -> None:
        """For the ticker: cut off a client that does not read what was written for it."""
        if self._write_check is None or self._transport is None:
            return
        since, size = self._write_check
        if self._transport.get_write_buffer_size() > self._limits.unsent_bytes:
            self.abort()
            return
        if now - since < self._limits.write_timeout:
            return
        left = self._unread_by_client()
        if left > size - self._limits.write_rate * (now - since):
            self.abort()
        else:
            self._write_check = (now, left)

    def _unread_by_client(self) -> int:
        """Bytes written that the client has not taken: ours, and where the kernel tells, those in its buffer."""
        transport = self._transport
        if transport is None:
            return 0
        size = transport.get_write_buffer_size()
        if _OUTQ is not None:
            try:
                size += int.from_bytes(fcntl.ioctl(self.descriptor, _OUTQ, bytes(4)), sys.byteorder)
            except OSError:
                pass
        return size

    def half_gone(self) -> None:
        """For the ticker: the client has gone, which a connection that does not read cannot see by itself."""
        self._eof = True
        if self._state == BUSY or self._state == RAW:
            self._cancel_waiting()
        else:
            self.close()
