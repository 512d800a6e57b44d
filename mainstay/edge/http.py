"""The HTTP/1.1 server: small, strict, one task per connection, all its times kept by one ticker."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import ssl
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from mainstay.core.clock import Clock
from mainstay.core.room import Room
from mainstay.edge.http_connection import Connection
from mainstay.edge.http_exchange import Exchange, Raw, status_line
from mainstay.edge.http_limits import HttpLimits

__all__ = ["Exchange", "Handler", "HttpLimits", "HttpServer", "Raw"]

Handler = Callable[[Exchange], Awaitable[None]]

_log = logging.getLogger("mainstay.edge.http")
_HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(second: int) -> str:
    """A moment, in seconds since the epoch, as the Date header says it; in English whatever the locale."""
    year, month, day, hour, minute, sec, weekday, _, _ = time.gmtime(second)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{sec:02} GMT"


class HttpServer:
    """Serves HTTP/1.1 to ``handler``, which answers one ``Exchange`` and is cancelled when its client goes away.

    ``body_limit(method, path)`` gives the largest body in bytes of a request, asked when its head is in.
    ``takes_refused(method, path)`` says whether a request whose body is too large, or more than can be held, is given to
    the handler all the same (without the body, as ``exchange.refused``), so that it is answered and recorded like others.
    ``room`` is where large replies count that a client has still to take, beside those that are still being made.
    ``on_error`` is told of an exception that a handler let out (answered 500); it must not log content.
    """

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits | None = None,
        clock: Clock | None = None,
        *,
        body_limit: Callable[[str, str], int] | None = None,
        takes_refused: Callable[[str, str], bool] | None = None,
        on_error: Callable[[Exchange, Exception], None] | None = None,
        room: Room | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits if limits is not None else HttpLimits()
        self.connections: set[Connection] = set()
        self.deaf: set[Connection] = set()  # those that do not read now
        self.draining = False
        self.held = 0  # bytes of request bodies
        self.room = room if room is not None else Room(self.limits.held_bytes)
        self.refused = 0  # requests that never reached the handler
        self.body_limit = body_limit if body_limit is not None else self._default_limit
        self.takes_refused = takes_refused
        self._clock = clock if clock is not None else Clock()
        self._on_error = on_error
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._second: int = 0
        self._openings: dict[int, bytes] = {}
        self._date = ""
        self.now = self._clock.monotonic()  # as of the last tick
        self._keep_date()

    def _default_limit(self, _method: str, _path: str) -> int:
        return self.limits.body_bytes

    # ------------------------------------------------------------------ listening

    async def listen(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        backlog: int = 1024,
    ) -> list[tuple[str, int]]:
        """Serve on ``host`` and ``port`` (0: any free one) or on a listening socket; the addresses it is bound to.

        May be called several times. Raises ``OSError`` where the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        handshake = self.limits.header_timeout if tls is not None else None
        if sock is not None and sock.family == getattr(socket, "AF_UNIX", None):
            server = await loop.create_unix_server(self._accept, sock=sock, backlog=backlog)
        elif sock is not None:
            server = await loop.create_server(
                self._accept, sock=sock, ssl=tls, backlog=backlog, ssl_handshake_timeout=handshake
            )
        else:
            server = await loop.create_server(
                self._accept, host, port, ssl=tls, backlog=backlog, ssl_handshake_timeout=handshake
            )
        self._servers.append(server)
        if self._ticker is None:
            self.tick()
        sockets: Sequence[Any] = cast("Any", server).sockets  # a tuple or, of uvloop, a list
        return [one.getsockname()[:2] for one in sockets if one.family != getattr(socket, "AF_UNIX", None)]

    def _accept(self) -> asyncio.Protocol:
        return cast("asyncio.Protocol", Connection(self))

    async def drain(self, timeout: float) -> int:
        """Stop accepting, close idle connections, let the others finish; after ``timeout`` seconds cut them off.

        Returns how many were cut off.
        """
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            if connection.idle:
                connection.close()
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._empty,), timeout=timeout)
        left = list(self.connections)
        tasks = [connection.task for connection in left if connection.task is not None]
        for connection in left:
            if connection.task is not None:
                connection.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in left:
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        return len(left)

    async def close(self) -> None:
        """End at once."""
        await self.drain(0)

    # ------------------------------------------------------------------ for connections

    def lost(self, connection: Connection) -> None:
        """A connection has ended; its task may still be settling."""
        self.connections.discard(connection)
        self.deaf.discard(connection)
        task = connection.task
        if task is not None and not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    def failed(self, exchange: Exchange, error: Exception) -> None:
        """A handler let an exception out."""
        if self._on_error is not None:
            self._on_error(exchange, error)
        else:
            frames = "".join(traceback.format_tb(error.__traceback__))  # not the message: it may hold content
            _log.error("a handler failed: %s\n%s", type(error).__name__, frames)

    def opening(self, status: int) -> bytes:
        """The first lines of a reply: status and date."""
        opening = self._openings.get(status)
        if opening is None:
            opening = self._openings[status] = f"{status_line(status)}date: {self._date}\r\n".encode("latin-1")
        return opening

    # ------------------------------------------------------------------ time

    def _keep_date(self) -> None:
        second: int = int(self._clock.now())
        if second != self._second:
            self._second = second
            self._date = http_date(second)
            self._openings.clear()

    def tick(self) -> None:
        """Look at all times once, and again after ``limits.tick`` seconds."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._ticker = asyncio.get_running_loop().call_later(self.limits.tick, self.tick)
        now = self.now = self._clock.monotonic()
        self._keep_date()
        overdue: list[Connection] = []
        for connection in self.connections:
            if connection.write_paused:
                connection.check_write(now)
            if connection.deadline <= now:
                overdue.append(connection)
        for connection in overdue:
            connection.overdue(now)
        if self.deaf:
            self._look_for_the_gone()

    def _look_for_the_gone(self) -> None:
        """A connection whose reading is paused does not notice that its client left: ask the kernel."""
        poll = select.poll()
        by_number: dict[int, Connection] = {}
        for connection in self.deaf:
            number = connection.descriptor
            if number >= 0:
                by_number[number] = connection
                poll.register(number, _HANG_UP)
        for number, _ in poll.poll(0):
            by_number[number].half_gone()
