"""One connection to an upstream, and one exchange over it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpResponseParser

from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.http_coding import Unpacker, unpacker

if TYPE_CHECKING:
    from mainstay.upstream.http import Pool, Shelf

HEAD_BYTES = 64 * 1024
HEADERS = 256
INTERIM = 16
UNREAD_BYTES = 256 * 1024
"""Bytes of a body that may wait unread; beyond, the socket is not read."""

_REMEMBERED = 512
_names: dict[bytes, str] = {}


def _name(raw: bytes) -> str:
    name = raw.decode("latin-1").lower()
    if len(_names) < _REMEMBERED and len(raw) <= 40:
        _names[raw] = name
    return name


class Upstream:
    """One request that was sent, and its reply as it arrives.

    Set ``deadline`` (and ``phase``, for the message) before each wait; the pool's ticker fails a wait that is overdue.
    Always ``release`` it: a whole reply gives the connection back, anything else closes it.
    """

    __slots__ = (
        "_connect_timeout",
        "_connection",
        "_error",
        "_pieces",
        "_pool",
        "_shelf",
        "_stale",
        "_unpacker",
        "_unread",
        "_waiter",
        "_whole",
        "deadline",
        "delimited",
        "headers",
        "max_body",
        "phase",
        "request",
        "size",
        "status",
    )

    def __init__(self, request: bytes, max_body: int | None, pool: Pool, shelf: Shelf, connect_timeout: float) -> None:
        self.request = request
        self.max_body = max_body  # bytes, unpacked; None: no limit, for streams that are read and passed on
        self.deadline = math.inf  # monotonic seconds
        self.phase = ""
        self.status = 0
        self.headers: dict[str, str] = {}  # names in lower case
        self.delimited = True  # the reply says where it ends; else a cut cannot be told from its end
        self.size = 0  # bytes of body so far, unpacked
        self._connection: HttpConnection | None = None
        self._pieces: list[bytes] = []
        self._unread = 0
        self._unpacker: Unpacker | None = None
        self._whole = False
        self._stale = False  # a kept connection was closed before any byte of the reply
        self._error: UpstreamFailed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pool: Pool = pool
        self._shelf: Shelf = shelf
        self._connect_timeout = connect_timeout

    @property
    def ended(self) -> bool:
        """The body is whole and has been read: ``read`` would give ``b""`` at once."""
        return self._whole and not self._pieces and self._unpacker is None

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case. Raises ``UpstreamFailed``."""
        while not self.status:
            if self._error is not None:
                raise self._error
            if self._stale:
                self._stale = False
                await self._pool.renew(self, self._shelf, self._connect_timeout)
            else:
                await self._wait()
        return self.status, self.headers

    async def read(self) -> bytes:
        """All of the body that has arrived since the last read, waiting for something; ``b""`` at its end.

        Raises ``UpstreamFailed`` (cut, timeout, too_large, unreadable), after what had arrived before it was read.
        """
        while True:
            pieces = self._pieces
            if pieces:
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                if self._unpacker is None:
                    self._make_room()
                    return data
                self._unpacker.feed(data)
            if self._unpacker is not None:
                data = self._unpacker.take()
                if data:
                    self._count(len(data))
                    return data
                self._make_room()
            if self._error is not None:
                raise self._error
            if self._whole:
                if self._unpacker is not None:
                    self._unpacker.finish()
                    self._unpacker = None
                return b""
            await self._wait()

    async def body(self) -> bytes:
        """The rest of the body, whole. Raises ``UpstreamFailed``."""
        data = await self.read()
        if self.ended:
            return data
        pieces: list[bytes] = []
        while data:
            pieces.append(data)
            data = await self.read()
        return b"".join(pieces)

    def release(self) -> None:
        """Done with it: give the connection back if the reply is whole, else close it, which cancels the upstream."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.release(self._whole)
        if not self._whole and self._error is None:
            self._error = UpstreamFailed("cut", "the exchange was given up before the reply's end")

    def abort(self) -> None:
        """Close the connection, whatever has come."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.release(False)
        self._whole = False
        self.fail(UpstreamFailed("cut", "the exchange was given up"))

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """For the connection: something has come."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _make_room(self) -> None:
        if self._unread > UNREAD_BYTES and self._connection is not None:
            self._connection.resume_reading()
        self._unread = 0

    def _count(self, size: int) -> None:
        self.size += size
        if self.max_body is not None and self.size > self.max_body:
            error = UpstreamFailed("too_large", f"the reply is larger than {self.max_body} bytes", status=self.status)
            self.fail(error)
            raise error

    # ------------------------------------------------------------------ for the connection and the pool

    def attach(self, connection: HttpConnection) -> None:
        """It goes over this connection."""
        self._connection = connection

    def detach(self) -> None:
        """Its connection is no more."""
        self._connection = None

    def begin(self, status: int, headers: dict[str, str], delimited: bool) -> None:
        """The reply's head is in. Raises ``UpstreamFailed`` for one that cannot be read."""
        coding = headers.get("content-encoding")
        if coding is not None:
            self._unpacker = unpacker(coding)
        length = headers.get("content-length")
        if self.max_body is not None and length is not None and int(length) > self.max_body:
            raise UpstreamFailed("too_large", f"the reply is larger than {self.max_body} bytes", status=status)
        self.delimited = delimited
        self.headers = headers
        self.status = status

    def add(self, data: bytes) -> bool:
        """Some of the body has come; whether it is time to stop reading. Raises ``UpstreamFailed(too_large)``."""
        self._pieces.append(data)
        size = self._unread = self._unread + len(data)
        if self._unpacker is None:
            self._count(len(data))
        return size > UNREAD_BYTES

    def complete(self) -> None:
        """The body is whole."""
        self._whole = True

    def lost_before_reply(self) -> None:
        """The kept connection turned out to be closed: it will be asked once more on a fresh one."""
        self._stale = True
        self.wake()

    def fail(self, error: UpstreamFailed) -> None:
        """The exchange has failed; what has come can still be read."""
        if self._error is None and not self._whole:
            self._error = error
        self.wake()

    def overdue(self, now: float) -> bool:
        """Somebody waits, and for too long."""
        return now >= self.deadline and self._waiter is not None

    def expire(self) -> None:
        """For the ticker: fail, and close the connection."""
        phase = self.phase or ("idle" if self.status else "reply")
        connection = self._connection
        self._connection = None
        self.fail(
            UpstreamFailed("timeout", f"the provider sent nothing in time (phase: {phase})", status=self.status or None)
        )
        if connection is not None:
            connection.release(False)


class HttpConnection(asyncio.Protocol):
    """One connection: sends a request, reads its reply with llhttp, and again."""

    __slots__ = (
        "_failure",
        "_finished",
        "_head_size",
        "_headers",
        "_in_head",
        "_interim",
        "_keep",
        "_parser",
        "_paused",
        "_pool",
        "_reused",
        "_shelf",
        "_trailers",
        "_transport",
        "adopted",
        "idle_since",
        "upstream",
    )

    def __init__(self, pool: Pool, shelf: Shelf) -> None:
        self.upstream: Upstream | None = None
        self.idle_since = 0.0
        self.adopted = False  # counted by the pool
        self._pool = pool
        self._shelf = shelf
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._in_head = False
        self._finished = True  # no reply is expected, or the one expected is whole
        self._keep = False
        self._reused = False
        self._paused = False
        self._failure: UpstreamFailed | None = None
        self._head_size = 0
        self._interim = 0
        self._trailers = 0

    @property
    def open(self) -> bool:
        """It can still be written to."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, upstream: Upstream, reused: bool) -> None:
        """Send the request of ``upstream``, whose reply comes next."""
        transport = self._transport
        assert transport is not None
        self.upstream = upstream
        upstream.attach(self)
        self._reused = reused
        self._headers = {}
        self._in_head = True
        self._finished = False
        self._head_size = self._interim = self._trailers = 0
        transport.write(upstream.request)

    def release(self, whole: bool) -> None:
        """For the exchange: it is over."""
        self.upstream = None
        transport = self._transport
        if transport is None:
            return
        if (
            whole
            and self._finished
            and self._keep
            and not self._paused
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        ):
            self._pool.put_back(self, self._shelf)
        else:
            self._pool.let_go(self)
            transport.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def resume_reading(self) -> None:
        """The body is being read again."""
        if self._paused and self._transport is not None:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # ------------------------------------------------------------------ the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        upstream = self.upstream
        if upstream is None:  # nothing was asked: whatever this is, it is not ours
            self.abort()
            return
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._unreadable(upstream)
        else:
            if self._in_head and self._head_size > HEAD_BYTES:
                self._fail(upstream, UpstreamFailed("unreadable", "the head of the provider's reply is too large"))
        upstream.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.adopted:
            self._pool.lost(self, self._shelf)
        upstream = self.upstream
        if upstream is None:
            return
        self.upstream = None
        upstream.detach()
        if self._finished:
            return
        if not upstream.status:
            if self._head_size:
                upstream.fail(UpstreamFailed("cut", "the provider's reply stopped within its head"))
            elif self._reused:
                upstream.lost_before_reply()
            else:
                upstream.fail(UpstreamFailed("connect", "the provider closed the connection before replying"))
        elif upstream.delimited or exc is not None:
            upstream.fail(UpstreamFailed("cut", "the provider's reply stopped before its end", status=upstream.status))
        else:
            upstream.complete()
            upstream.wake()

    def _fail(self, upstream: Upstream, error: UpstreamFailed) -> None:
        self.upstream = None
        upstream.detach()
        upstream.fail(error)
        self._pool.let_go(self)
        self.abort()

    def _unreadable(self, upstream: Upstream) -> None:
        failure, self._failure = self._failure, None
        if self._finished:  # a whole reply, and then something that is none
            self._keep = False
            return
        self._fail(
            upstream,
            failure or UpstreamFailed("unreadable", "the provider's reply is not HTTP", status=upstream.status or None),
        )

    # ------------------------------------------------------------------ the parser's calls

    def on_message_begin(self) -> None:
        if self._finished:  # a reply to nothing
            self._keep = False
            raise ValueError

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._trailers += 1
            if self._trailers > HEADERS:
                self._refuse(UpstreamFailed("unreadable", "the provider's reply has too many trailers"))
            return
        key = _names.get(name) or _name(name)
        headers = self._headers
        if key in headers:
            headers[key] = f"{headers[key]}, {value.decode('latin-1')}"
        else:
            headers[key] = value.decode("latin-1")
            if len(headers) > HEADERS:
                self._refuse(UpstreamFailed("unreadable", "the provider's reply has too many headers"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers = self._headers
        if status < 200:
            self._interim += 1
            headers.clear()
            if status == 101 or self._interim > INTERIM:
                self._refuse(UpstreamFailed("unreadable", "the provider switched protocols without being asked"))
            return
        self._in_head = False
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            self._refuse(UpstreamFailed("unreadable", "the reply has a Transfer-Encoding other than chunked"))
        if self._head_size > HEAD_BYTES and sum(map(len, headers)) + sum(map(len, headers.values())) > HEAD_BYTES:
            self._refuse(UpstreamFailed("unreadable", "the head of the provider's reply is too large"))
        upstream = self.upstream
        assert upstream is not None
        delimited = coding is not None or "content-length" in headers or status == 204 or status == 304
        try:
            upstream.begin(status, headers, delimited)
        except UpstreamFailed as error:
            self._refuse(error)

    def on_body(self, data: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        try:
            if upstream.add(data) and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        except UpstreamFailed as error:
            self._refuse(error)

    def on_message_complete(self) -> None:
        if self._in_head:  # an interim reply
            return
        upstream = self.upstream
        assert upstream is not None
        self._finished = True
        self._keep = self._parser.should_keep_alive()
        upstream.complete()

    def _refuse(self, error: UpstreamFailed) -> None:
        """Stop the parser in the middle of its call."""
        self._failure = error
        raise error
