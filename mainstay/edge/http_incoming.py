"""From the bytes of one connection to whole requests: where each begins and ends, and within what bounds."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, cast

from mainstay.edge.http_chunked import ChunkedBody
from mainstay.edge.http_exchange import Exchange
from mainstay.edge.http_head import CHUNKED, body_length, parse_head, text_only
from mainstay.edge.http_limits import Reject

if TYPE_CHECKING:
    from mainstay.edge.http import HttpServer
    from mainstay.edge.http_connection import Connection

NEVER = math.inf
_BLANK_LINES = 8
_BODY_REFUSED = (413, 503)
_SMALL_BODY = 64 * 1024

# What the bytes that come are for.
HEAD, BODY, CHUNKED_BODY, BUSY, RAW, LINGER, CLOSED = range(7)


class Incoming:
    """What has come and is not yet a request. A request that is whole is left in ``ready``, the state then ``BUSY``.

    An ``asyncio.Protocol`` in all but name: what inherits from an interpreted class cannot be compiled to the full.
    Nothing of the next request is looked at before the one at hand has been answered: its bytes wait as they came.
    """

    __slots__ = (
        "_blank",
        "_body",
        "_buffer",
        "_chunked",
        "_held",
        "_limits",
        "_loop",
        "_need",
        "_pos",
        "_received_since",
        "_scanned",
        "_state",
        "_transport",
        "_unsent",
        "_waiter",
        "client",
        "deadline",
        "ready",
        "server",
    )

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.client = ""
        self.deadline = NEVER
        self.ready: Exchange | None = None  # whole and not yet begun, or waiting for the rest of its body
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None  # the task, waiting for a request
        self._state = HEAD
        self._buffer = bytearray()  # an unfinished head, or what was pipelined
        self._pos = 0  # where in the buffer the next request begins
        self._scanned = 0  # up to where the buffer is known to hold no end of a head
        self._blank = 0
        self._body = bytearray()
        self._chunked: ChunkedBody | None = None
        self._need = 0
        self._held = 0
        self._unsent = 0  # bytes of a large reply that the client has still to take
        self._received_since = 0.0

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write, or throw away when the client is gone."""
        if self._transport is not None and self._state != CLOSED:
            self._transport.write(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        """Write several pieces without joining them."""
        if self._transport is not None and self._state != CLOSED:
            self._transport.writelines(pieces)

    def _feed(self, data: bytes) -> None:
        """Take what has come. Raises ``Reject``."""
        state = self._state
        if state == HEAD:
            if self._buffer:
                self._buffer += data
                self._parse_buffer()
                return
            at = self._parse(data, 0)
            if at < len(data):
                self._keep(data[at:])
                self._scanned = max(self._scanned - at, 0)
        elif state == BODY:
            self._feed_body(data)
        elif state == CHUNKED_BODY:
            self._feed_chunked(data)
        else:
            self._keep(data)

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
        exchange = Exchange(cast("Connection", self), method, target, path, query, headers, http11)
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
            self.ready = exchange
            raise Reject(413, f"the request's body is larger than {limit} bytes")
        end = len(data)
        if 0 < length <= end - at:
            exchange.body = bytes(data[at : at + length])
            self._hold(length)
            self._dispatch(exchange)
            return at + length
        if expected and end == at:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.ready = exchange
        self._received_since = self.server.now
        self.deadline = self.server.now + self._limits.body_grace
        rest = bytes(data[at:])
        if length == CHUNKED:
            self._state = CHUNKED_BODY
            self._chunked = ChunkedBody(limit, self._limits)
            left = self._feed_chunked(rest, keep=False) if rest else 0
            return end - left
        self._hold(length)
        self._state = BODY
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
        exchange = self.ready
        assert exchange is not None
        exchange.body = bytes(body)
        self._dispatch(exchange)

    def _dispatch(self, exchange: Exchange) -> None:
        """Hand a whole request to the task."""
        self.ready = exchange
        self._state = BUSY
        self.deadline = NEVER
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _hand_on(self, reject: Reject) -> bool:
        """Let the handler refuse a request whose body is not taken in, if it wants to."""
        exchange, takes = self.ready, self.server.takes_refused
        if exchange is None or takes is None or reject.status not in _BODY_REFUSED:
            return False
        if not takes(exchange.method, exchange.path):
            return False
        exchange.refused = reject
        exchange.keep_alive = False
        self._buffer.clear()
        self._body = bytearray()
        self._pos = self._scanned = self._need = 0
        self._chunked = None
        self._give_back()
        self._dispatch(exchange)
        return True

    def _hold(self, size: int) -> None:
        """Count ``size`` more bytes of a body among those held by the server."""
        if size > 0:
            server = self.server
            if self._held + size > _SMALL_BODY and server.held + size > self._limits.held_bytes:
                raise Reject(503, "the server holds too many request bodies now; try again", retry_after=1)
            self._held += size
            server.held += size

    def _taken(self) -> None:
        """The client has taken what was written, or is gone."""
        if self._unsent:
            self.server.room.give(self._unsent)
            self._unsent = 0

    def _give_back(self) -> None:
        self.server.held -= self._held
        self._held = 0
