"""The HTTP/1.1 client: keep-alive connections by origin, deadlines by one ticker, and no redirect is ever followed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from mainstay.core.clock import Clock
from mainstay.core.errors import UpstreamFailed
from mainstay.core.room import Room
from mainstay.upstream.egress import Egress, Origin
from mainstay.upstream.http_client import Upstream
from mainstay.upstream.http_connection import HttpConnection
from mainstay.upstream.http_dial import Dialer
from mainstay.upstream.tls import TrustStores

__all__ = ["Egress", "Origin", "Pool", "PoolLimits", "Upstream", "header_lines"]

HELD_BYTES = 48 * 1024 * 1024
"""Bytes of large replies that are held at a time, where nobody says how many."""

_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of the client. Times in seconds."""

    connections: int = 1000  # per origin; those who want one more wait for it, within their connect time
    waiting: int = 1000  # per origin
    idle: float = 50.0  # an unused connection is closed after so long: less than the usual 60 of a provider
    tick: float = 0.05  # how often deadlines are looked at


class Shelf:
    """The connections to one origin."""

    __slots__ = ("idle", "open", "origin", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle: list[HttpConnection] = []  # the last one back is the first one out
        self.open = 0  # in use, idle or being opened
        self.waiting: deque[asyncio.Future[None]] = deque()


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as ``Pool.send`` takes them. Raises ``ValueError`` for a name or value that would break out of its line."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    block = "".join(lines)
    if block.count("\r") != len(lines) or block.count("\n") != len(lines) or "\0" in block:
        raise ValueError("a header may not have a line break or a NUL in it")
    return block.encode("latin-1")


class Pool:
    """Sends requests to origins over connections that it keeps."""

    def __init__(
        self,
        clock: Clock,
        egress: Egress | None = None,
        limits: PoolLimits | None = None,
        trust: TrustStores | None = None,
        room: Room | None = None,
    ) -> None:
        self.room = room if room is not None else Room(HELD_BYTES)
        self._clock = clock
        self._egress = egress if egress is not None else Egress(clock)
        self._limits = limits if limits is not None else PoolLimits()
        self._dialer = Dialer(self._egress, trust if trust is not None else TrustStores())
        self._shelves: dict[Origin, Shelf] = {}
        self._busy: set[HttpConnection] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._now = clock.monotonic()  # as of the last tick
        self._closed = False

    async def send(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: bytes,
        body: bytes = b"",
        *,
        connect_timeout: float,
        max_body: int | None = None,
        fresh: bool = False,
    ) -> Upstream:
        """Send one request; its reply is read from the ``Upstream``, which must be released.

        ``headers`` are whole lines, Host (``origin.authority``) among them and Content-Length not; make them with
        ``header_lines``. ``connect_timeout`` is in seconds; ``max_body`` bounds the reply's body, unpacked, in bytes;
        ``fresh``: over a new connection, not one that was kept.
        Raises ``UpstreamFailed`` (connect, or timeout while connecting), nothing having been sent.
        """
        if method not in _METHODS or not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError("the request's method or target is not one that can be sent")
        if b"\r\n\r\n" in headers or headers[-2:] != b"\r\n":
            raise ValueError("the request's headers are not whole lines")
        if body or method != "GET":
            request = b"%b %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
                method.encode(),
                target.encode(),
                headers,
                len(body),
                body,
            )
        else:
            request = b"GET %b HTTP/1.1\r\n%b\r\n" % (target.encode(), headers)
        upstream = Upstream(request, max_body, self, origin, connect_timeout)
        connection = None if fresh else self._kept(self._shelf(origin))
        if connection is None:
            connection = await self._opened(origin, connect_timeout, fresh)
        self._busy.add(connection)
        connection.send(upstream)
        return upstream

    @property
    def busy(self) -> int:
        """Exchanges under way."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """Connections kept for the next request."""
        return sum(len(shelf.idle) for shelf in self._shelves.values())

    async def close(self) -> None:
        """Close all connections; exchanges under way fail."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for connection in list(self._busy):
            connection.abort()
        for shelf in self._shelves.values():
            for waiter in shelf.waiting:
                waiter.cancel()
            for connection in shelf.idle:
                connection.abort()
            shelf.idle.clear()
        await self._egress.close()
        await asyncio.sleep(0)  # the transports' last calls

    # ------------------------------------------------------------------ connections

    def _shelf(self, origin: Origin) -> Shelf:
        shelf = self._shelves.get(origin)
        if shelf is None:
            shelf = self._shelves[origin] = Shelf(origin)
        return shelf

    def _kept(self, shelf: Shelf) -> HttpConnection | None:
        idle = shelf.idle
        while idle:
            connection = idle.pop()
            if connection.open and self._now - connection.idle_since < self._limits.idle:
                return connection
            connection.abort()
        return None

    async def _opened(self, origin: Origin, timeout: float, fresh: bool) -> HttpConnection:
        """A new connection. Where there may be no more of them: the next one that is given back, or in its place a
        ``fresh`` one."""
        if self._closed:
            raise UpstreamFailed("connect", "the client is closed", sent=False)
        if self._ticker is None:
            self._now = self._clock.monotonic()
            self._ticker = asyncio.get_running_loop().call_later(self._limits.tick, self._tick)
        try:
            async with asyncio.timeout(max(timeout, 0.0)):
                # The shelf is looked up after each wait: one on which nothing is left is swept up.
                while (shelf := self._shelf(origin)).open >= self._limits.connections:
                    if fresh and shelf.idle:
                        shelf.idle.pop(0).abort()  # its place is free in a moment
                    await self._wait_for_place(shelf)
                    if not fresh and (kept := self._kept(shelf)) is not None:
                        return kept
                return await self._dialled(shelf, timeout)
        except TimeoutError:
            why = f"no connection to {origin.host} in time (phase: connect)"
            raise UpstreamFailed("timeout", why, sent=False) from None

    async def _dialled(self, shelf: Shelf, timeout: float) -> HttpConnection:
        shelf.open += 1
        try:
            connection = await self._dialer.dial(shelf.origin, lambda: HttpConnection(self, shelf), timeout)
            if not connection.open:
                raise UpstreamFailed("connect", f"{shelf.origin.host} closed the connection at once", sent=False)
        except BaseException:
            self._freed(shelf)
            raise
        connection.adopted = True
        return connection

    async def renew(self, upstream: Upstream, origin: Origin, timeout: float) -> None:
        """For the exchange: send its request once more, its kept connection having been closed by the other side."""
        left = upstream.deadline - self._clock.monotonic()
        try:
            connection = await self._opened(origin, min(timeout, left), True)
        except UpstreamFailed as error:
            error.sent = True  # over the connection that was closed, perhaps
            raise
        self._busy.add(connection)
        connection.send(upstream)

    def found_dead(self, connection: HttpConnection, shelf: Shelf) -> None:
        """For the connection: it was kept, and has turned out to be dead. What has not been heard of since before it
        was last is not to be trusted either: a provider that restarts, or is far away behind a firewall that forgets,
        loses all its connections at once, and each would cost somebody a request."""
        suspects = [one for one in shelf.idle if one.idle_since <= connection.idle_since]
        shelf.idle = [one for one in shelf.idle if one.idle_since > connection.idle_since]
        for one in suspects:
            one.abort()

    async def _wait_for_place(self, shelf: Shelf) -> None:
        if len(shelf.waiting) >= self._limits.waiting:
            raise UpstreamFailed(
                "connect", f"too many requests wait for a connection to {shelf.origin.host}", sent=False
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        shelf.waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._next(shelf)  # the place was ours, and is the next one's now
            elif waiter in shelf.waiting:
                shelf.waiting.remove(waiter)
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise UpstreamFailed("connect", "the client is closed", sent=False) from None
            raise

    def _next(self, shelf: Shelf) -> None:
        while shelf.waiting:
            waiter = shelf.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _freed(self, shelf: Shelf) -> None:
        shelf.open -= 1
        self._next(shelf)

    def put_back(self, connection: HttpConnection, shelf: Shelf) -> None:
        """For the connection: its reply was whole and it can be used again."""
        self._busy.discard(connection)
        connection.used = True
        connection.idle_since = self._now
        shelf.idle.append(connection)
        if shelf.waiting:
            self._next(shelf)

    def let_go(self, connection: HttpConnection) -> None:
        """For the connection: it is about to be closed."""
        self._busy.discard(connection)

    def lost(self, connection: HttpConnection, shelf: Shelf) -> None:
        """For the connection: it is closed."""
        self._busy.discard(connection)
        if connection in shelf.idle:
            shelf.idle.remove(connection)
        self._freed(shelf)

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        now = self._now = self._clock.monotonic()
        overdue = [upstream for one in self._busy if (upstream := one.upstream) is not None and upstream.overdue(now)]
        for upstream in overdue:
            upstream.expire()
        self._ticks += 1
        if self._ticks % 20 == 0:
            self._reap(now)
        # A process without connections is left to sleep; the next one that is opened starts the ticker again.
        busy = bool(self._shelves)
        self._ticker = asyncio.get_running_loop().call_later(self._limits.tick, self._tick) if busy else None

    def _reap(self, now: float) -> None:
        for origin, shelf in list(self._shelves.items()):
            oldest = now - self._limits.idle
            old = [connection for connection in shelf.idle if connection.idle_since <= oldest]
            if old:
                shelf.idle = [connection for connection in shelf.idle if connection.idle_since > oldest]
                for connection in old:
                    connection.abort()
            if not shelf.open and not shelf.waiting:
                self._shelves.pop(origin)
