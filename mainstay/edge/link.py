"""Control's end of the link: greets gateways, passes their requests to the shares, and hands out snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from mainstay.access.shares import Shares
from mainstay.core.clock import Clock
from mainstay.wire.link import (
    Frames,
    Give,
    Grant,
    Hello,
    Loaded,
    Message,
    Need,
    Reclaim,
    Reclaimed,
    Snapshot,
    Stats,
    encode,
)

log = logging.getLogger("mainstay.edge.link")

LONGEST_FRAME = 32 * 1024 * 1024
"""Bytes of the longest message that a gateway may send: a Hello with all its shares."""

MOST_WAITING = 64 * 1024 * 1024
"""Bytes that may wait for a gateway beside the message in hand; one that reads more slowly is cut off."""

MOST_TASKS = 10_000
"""Requests of one gateway in work at a time."""

MOST_SESSIONS = 1_024

GREETING = 5.0
"""Seconds until a connection must have said Hello."""

ACKNOWLEDGE = 1.0
"""Seconds that gateways have to load a snapshot before they are named as laggards."""

LONGEST_PATH = 103
"""Bytes of a socket's path that every system takes."""


@dataclass(slots=True)
class Connected:
    """A gateway that is connected, as ``/health`` and ``/metrics`` show it."""

    gateway: str
    pid: int
    since: float  # seconds since the epoch
    snapshot: str | None = None  # the digest it answers under
    seen: float = 0.0  # when it last told its gauges
    gauges: dict[str, float] = field(default_factory=dict[str, float])
    breakers: dict[str, str] = field(default_factory=dict[str, str])


class LinkServer:
    """Listens for gateways on a Unix socket.

    ``current()`` is the Snapshot in force, or None before there is one. Each gateway is served by itself: one that is
    slow, silent or broken holds up no other.
    """

    def __init__(self, shares: Shares, current: Callable[[], Snapshot | None], clock: Clock) -> None:
        self._shares = shares
        self._current = current
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._path = ""
        self._sessions: dict[str, _Session] = {}
        self._open: set[_Session] = set()
        shares.reclaim = self.reclaim

    async def start(self, path: str | os.PathLike[str]) -> None:
        """Listen at ``path``, replacing whatever socket an earlier control process left there.

        The caller holds the home's lock, and the folder is its own (0700). Raises ``ValueError`` for a path that is too
        long for a socket's address.
        """
        self._path = os.fspath(path)
        if len(os.fsencode(self._path)) > LONGEST_PATH:
            raise ValueError(f"{self._path!r} is too long for a socket's address (at most {LONGEST_PATH} bytes)")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Session(self), self._path)
        os.chmod(self._path, 0o600)

    async def close(self) -> None:
        """Cut all connections and wait for what is in work."""
        if self._server is not None:
            self._server.close()
        sessions = list(self._open)
        for session in sessions:
            session.abort()
        for session in sessions:
            await session.finished()
        if self._server is not None:
            await self._server.wait_closed()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def gateways(self) -> list[Connected]:
        """All gateways that are connected now."""
        return [session.info for session in self._sessions.values() if session.info is not None]

    async def broadcast(self, snapshot: Snapshot, timeout: float = ACKNOWLEDGE) -> list[str]:
        """Hand the snapshot to all connected gateways and wait until each has loaded it; the ids of those that have not."""
        sessions = [session for session in self._sessions.values() if session.loaded != snapshot.digest]
        frame = encode(snapshot)
        for session in sessions:
            if session.ready:
                session.write(frame)
        waits = {asyncio.ensure_future(session.until_loaded(snapshot.digest)): session for session in sessions}
        if not waits:
            return []
        done, late = await asyncio.wait(waits, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        del done
        return sorted(session.gateway for session in waits.values() if session.lags(snapshot.digest))

    async def reclaim(self, gateway: str, pool: str, units: int) -> float | None:
        """Ask a gateway for idle units; see ``access.shares.Reclaim``."""
        session = self._sessions.get(gateway)
        if session is None or not session.ready:
            raise ConnectionError(f"gateway {gateway} is not connected")
        return await session.reclaim(pool, units)

    # what sessions need

    def admit(self, session: _Session) -> bool:
        """Whether there is room for one more connection."""
        if len(self._open) >= MOST_SESSIONS:
            return False
        self._open.add(session)
        return True

    async def greet(self, session: _Session, hello: Hello) -> None:
        """Put the gateway's shares right, then send it what is in force."""
        earlier = self._sessions.get(hello.gateway)
        if earlier is not None:
            earlier.abort()  # what it still had to say is void: the Hello says it all
        self._sessions[hello.gateway] = session
        session.info = Connected(hello.gateway, hello.pid, self._clock.now(), hello.snapshot)
        await self._shares.present(hello.gateway, hello.shares)
        snapshot = self._current()
        session.greeted(hello.snapshot)
        if snapshot is not None:
            session.write(encode(snapshot))

    async def need(self, session: _Session, message: Need) -> None:
        """Answer a Need."""
        granted = await self._shares.need(session.gateway, message.wants)
        session.write(encode(Grant(message.id, granted.units, granted.wait, granted.left)))

    async def give(self, session: _Session, units: dict[str, int]) -> None:
        """Take units back."""
        await self._shares.give(session.gateway, units)

    def told(self, session: _Session, stats: Stats) -> None:
        """Keep a gateway's gauges."""
        if session.info is not None:
            session.info.seen = self._clock.now()
            session.info.gauges, session.info.breakers = stats.gauges, stats.breakers

    def gone(self, session: _Session) -> None:
        """The connection is lost."""
        self._open.discard(session)
        if self._sessions.get(session.gateway) is session:
            del self._sessions[session.gateway]


class _Session(asyncio.Protocol):
    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._frames = Frames(LONGEST_FRAME)
        self._transport: asyncio.WriteTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._early: list[Message] = []  # what came before the Hello was dealt with
        self._reclaims: dict[int, tuple[str, asyncio.Future[float | None]]] = {}
        self._last = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._deadline: asyncio.TimerHandle | None = None
        self.gateway = ""
        self.info: Connected | None = None
        self.ready = False
        self.loaded: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self._server.admit(self):
            self._deadline = asyncio.get_running_loop().call_later(GREETING, self.abort)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                if self._transport is None:
                    return
                self._receive(message)
        except Exception as error:
            log.error("a gateway (%s) sent what cannot be read: %s", self.gateway or "before its Hello", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _receive(self, message: Message) -> None:
        if not self.gateway:
            if not isinstance(message, Hello) or not message.gateway:
                raise ValueError("the first message must be a Hello")
            self.gateway = message.gateway
            if self._deadline is not None:
                self._deadline.cancel()
            self._spawn(self._server.greet(self, message))
        elif not self.ready:
            self._early.append(message)
            if len(self._early) > MOST_TASKS:
                raise ValueError("too many messages before the greeting was over")
        elif isinstance(message, Need):
            self._spawn(self._server.need(self, message))
        elif isinstance(message, Give):
            self._spawn(self._server.give(self, message.units))
        elif isinstance(message, Reclaimed):
            self._reclaimed(message)
        elif isinstance(message, Loaded):
            self._set_loaded(message.digest)
        elif isinstance(message, Stats):
            self._server.told(self, message)
        else:
            raise ValueError(f"a gateway may not send {type(message).__name__}")

    def greeted(self, snapshot: str | None) -> None:
        """The Hello has been dealt with: now for what came after it."""
        self.ready = True
        self._set_loaded(snapshot)
        early, self._early = self._early, []
        for message in early:
            self._receive(message)

    def write(self, frame: bytes) -> None:
        """Send, without waiting; nothing where the connection is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MOST_WAITING:
            log.error("gateway %s does not read: cutting it off", self.gateway)
            self.abort()
            return
        transport.write(frame)

    async def reclaim(self, pool: str, units: int) -> float | None:
        """Ask for idle units. Cancelled or not, what comes back later is still booked."""
        if len(self._reclaims) >= MOST_TASKS:
            raise ConnectionError(f"gateway {self.gateway} does not answer")
        self._last += 1
        future: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._reclaims[self._last] = (pool, future)
        self.write(encode(Reclaim(self._last, pool, units)))
        return await future

    def _reclaimed(self, message: Reclaimed) -> None:
        known = self._reclaims.pop(message.id, None)
        if known is None:
            raise ValueError(f"there was no Reclaim {message.id}")
        pool, future = known
        if message.units > 0:
            self._spawn(self._server.give(self, {pool: message.units}))
        if not future.done():
            future.set_result(message.wait)  # its waiter runs after the task above has queued the units

    async def until_loaded(self, digest: str) -> None:
        """Return when the gateway answers under that snapshot, or is gone."""
        while self._transport is not None and self.loaded != digest:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def lags(self, digest: str) -> bool:
        """Whether it is connected and answers under another snapshot."""
        return self._transport is not None and self.loaded != digest

    def _set_loaded(self, digest: str | None) -> None:
        self.loaded = digest
        if self.info is not None:
            self.info.snapshot = digest
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MOST_TASKS:
            work.close()
            raise ValueError("too many requests at a time")
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Without an answer the gateway would wait: let it connect again and say what it has.
            log.error("a request of gateway %s failed", self.gateway, exc_info=error)
            self.abort()

    async def finished(self) -> None:
        """Wait for the requests in work."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """Cut the connection now; whatever it still sends is void."""
        transport = self._transport
        self._end()
        if transport is not None:
            transport.abort()

    def _end(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        for _, future in self._reclaims.values():
            if not future.done():
                future.set_exception(ConnectionError(f"gateway {self.gateway} is gone"))
                future.exception()
        self._reclaims.clear()
        self._early.clear()
        self._wake()
        self._server.gone(self)
