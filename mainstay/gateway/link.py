"""The gateway's end of the link to control: connects for ever, says Hello, passes messages to the purse and the snapshot."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import cast

from mainstay.access.purse import Purse
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

log = logging.getLogger("mainstay.gateway.link")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two tries to connect; the pause doubles."""

TICK = 1.0
"""Seconds between two rounds of giving idle units back and of telling gauges."""

MOST_WAITING = 16 * 1024 * 1024
"""Bytes that may wait to be sent; control does not read any more where there are more."""


class Link:
    """Keeps one connection to control, for as long as ``run`` runs.

    ``load(digest, body)`` puts a Snapshot in force, or raises and leaves the one before; ``digest()`` is the digest of
    the one in force. ``stats()`` gives the gauges and breaker states of this moment. ``chance`` gives numbers in [0, 1).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        gateway: str,
        purse: Purse,
        *,
        load: Callable[[str, bytes], None],
        digest: Callable[[], str | None],
        stats: Callable[[], tuple[dict[str, float], dict[str, str]]] = lambda: ({}, {}),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._path = os.fspath(path)
        self._gateway = gateway
        self._purse = purse
        self._load = load
        self._digest = digest
        self._stats = stats
        self._chance = chance
        self._session: _Session | None = None
        self.greeted = asyncio.Event()
        """Control has been reached at least once, and has said which Snapshot is in force."""

    @property
    def connected(self) -> bool:
        """Whether control is there."""
        return self._session is not None

    def ask(self, need: int, wants: dict[str, int]) -> None:
        """Send a Need; its answer goes to the purse. Raises ``ConnectionError`` where control is away."""
        session = self._session
        if session is None:
            raise ConnectionError("the control process is not connected")
        session.send(Need(need, wants))

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost, until cancelled."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        ticking = loop.create_task(self._tick(), name="link-tick")
        try:
            while True:
                try:
                    _, session = await loop.create_unix_connection(lambda: _Session(self), self._path)
                except (OSError, ValueError) as error:
                    log.debug("control cannot be reached: %s", error)
                else:
                    try:
                        await session.closed
                    finally:
                        session.abort()
                    if session.useful:
                        pause = FIRST_PAUSE
                await asyncio.sleep(pause * (0.5 + self._chance() / 2))
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            ticking.cancel()
            try:
                await ticking
            except asyncio.CancelledError:
                pass

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self.tick()
            except Exception:
                log.exception("a round of the link failed")

    def tick(self) -> None:
        """Hand idle units back and tell the gauges; nothing while control is away."""
        session = self._session
        if session is None:
            return
        units = self._purse.idle_to_give()
        if units:
            session.send(Give(units))
        self._tell(session)

    def _tell(self, session: _Session) -> None:
        gauges, breakers = self._stats()
        session.send(Stats({**gauges, **self._purse.gauges()}, breakers))

    def opened(self, session: _Session) -> None:
        """A connection stands."""
        session.send(Hello(self._gateway, os.getpid(), self._digest(), self._purse.shares()))
        self._session = session

    def received(self, session: _Session, message: Message) -> None:
        """A message has come."""
        if isinstance(message, Grant):
            self._purse.credit(message.id, message.units, message.wait, message.left)
        elif isinstance(message, Reclaim):
            given, wait = self._purse.reclaim(message.pool, message.units)
            session.send(Reclaimed(message.id, given, wait))
        elif isinstance(message, Snapshot):
            try:
                if message.digest != self._digest():
                    self._load(message.digest, message.body)
            except Exception:
                log.exception("the snapshot %s cannot be used; the last good one stays", message.digest)
            else:
                session.send(Loaded(message.digest))
                self._tell(session)
            self.greeted.set()
        else:
            raise ValueError(f"control may not send {type(message).__name__}")

    def lost(self, session: _Session) -> None:
        """The connection is gone."""
        if self._session is session:
            self._session = None
            self._purse.cut()


class _Session(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.useful = False  # control has said something

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self.useful = True
                self._link.received(self, message)
        except Exception:  # msgspec's errors are no ValueErrors in every case: whatever it is, start afresh
            log.exception("control sent what cannot be read; connecting again")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._link.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: Message) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionError("the control process is not connected")
        if transport.get_write_buffer_size() > MOST_WAITING:
            self.abort()
            raise ConnectionError("the control process does not read")
        transport.write(encode(message))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
