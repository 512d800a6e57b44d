"""One exchange with an upstream: a request that was sent, and its reply as it arrives."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.http_coding import Unpacker, unpacker

if TYPE_CHECKING:
    from mainstay.core.room import Room
    from mainstay.upstream.egress import Origin
    from mainstay.upstream.http import Pool
    from mainstay.upstream.http_connection import HttpConnection

UNREAD_BYTES = 256 * 1024
"""Bytes of a body that may wait unread; beyond, the socket is not read."""


class Upstream:
    """One request that was sent, and its reply as it arrives.

    Set ``deadline`` (and ``phase``, for the message) before each wait; the pool's ticker fails a wait that is overdue.
    Always ``release`` it: a whole reply gives the connection back, anything else closes it.
    """

    __slots__ = (
        "_connect_timeout",
        "_connection",
        "_error",
        "_origin",
        "_pieces",
        "_pool",
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

    def __init__(
        self, request: bytes, max_body: int | None, pool: Pool, origin: Origin, connect_timeout: float
    ) -> None:
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
        self._origin = origin
        self._connect_timeout = connect_timeout

    @property
    def room(self) -> Room:
        """Where a large reply finds room."""
        return self._pool.room

    @property
    def ended(self) -> bool:
        """The body is whole and has been read: ``read`` would give ``b""`` at once."""
        return self._whole and not self._pieces and self._unpacker is None

    async def head(self, may_repeat: Callable[[], bool] | None = None) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case. Raises ``UpstreamFailed``.

        Where the connection had been kept and turns out to be dead before any byte of a reply, the request is sent
        once more over a new one, if ``may_repeat``, which is asked once and at that moment.
        """
        while not self.status:
            if self._error is not None:
                raise self._error
            if self._stale:
                self._stale = False
                if may_repeat is None or may_repeat():
                    await self._pool.renew(self, self._origin, self._connect_timeout)
                else:
                    self.fail(UpstreamFailed("connect", "the provider closed a kept connection before replying"))
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
        """The kept connection turned out to be dead, and nothing of a reply had come: it may be asked on a new one."""
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
