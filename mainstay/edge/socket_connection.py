"""One WebSocket connection of the Responses API: its messages, its turns, its times, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mainstay.core.errors import Invalid, MainstayError, OverLimit
from mainstay.edge.http import Exchange, Raw
from mainstay.edge.model_api import ENDPOINTS
from mainstay.edge.socket_turn import SocketTurn
from mainstay.gateway.routed import Routed
from mainstay.gateway.turn import Recent
from mainstay.wire.openai_responses_socket import SocketRequest, read_message

if TYPE_CHECKING:
    from wsproto.connection import Connection as Frames

    from mainstay.edge.responses_socket import ResponsesSockets

PATH = "/v1/responses"

NORMAL, AWAY, PROTOCOL, UNSUPPORTED, POLICY, TOO_BIG, LATER = 1000, 1001, 1002, 1003, 1008, 1009, 1013
"""The codes with which connections are closed."""

_PATIENCE = 30.0
"""Seconds to wait until the record of a turn is written and its last message out; a full disk delays it for 5."""

_log = logging.getLogger("mainstay.edge.socket")


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """How much of everything a connection may have; times in seconds, sizes in bytes.

    ``lanes`` are the turns in flight, one for each stream id; ``waiting`` are those that wait behind them. ``held`` is
    what the messages of all connections of the process may have together.
    """

    lifetime: float = 3600.0
    idle: float = 900.0
    ping: float = 20.0
    silence: float = 60.0
    closing: float = 2.0
    lanes: int = 8
    waiting: int = 8
    message: int = 32 * 1024 * 1024
    held: int = 256 * 1024 * 1024


class _Waiting(NamedTuple):
    request: SocketRequest
    size: int


class SocketConnection:
    """One connection: reads messages, answers those of one stream id one after the other, and ends in time."""

    def __init__(self, sockets: ResponsesSockets, exchange: Exchange, raw: Raw) -> None:
        from wsproto.connection import Connection as Frames
        from wsproto.connection import ConnectionType

        self._sockets, self._exchange, self._raw = sockets, exchange, raw
        self._limits, self._clock = sockets.limits, sockets.clock
        self._frames: Frames = Frames(ConnectionType.SERVER)
        self._recent = Recent(sockets.room)
        # Each turn is identified by what the connection was opened with; a body of its own is always JSON.
        dropped = ("content-type", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version")
        self._headers = {name: value for name, value in exchange.headers.items() if name not in dropped}
        now = self._clock.monotonic()
        self._ends = now + self._limits.lifetime
        self._active = self._heard = self._pinged = now
        self._message: list[str] = []
        self._size = 0  # of the message that is coming in
        self._held = 0  # of that and those that wait
        self._waiting: deque[_Waiting] = deque()
        self._lanes: set[str | None] = set()
        self._alarm: asyncio.Timeout | None = None
        self._ending: str | None = None
        self._broken = False
        self._closing: tuple[int, str] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._turns: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until either side closes. Cancelled when the client goes away, and with it what it waits for."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._serve()
            for task in self._turns:  # nobody waits for the answers any more
                task.cancel()
        if self._closing is not None:
            await self._close(*self._closing)

    async def _serve(self) -> None:
        """Read until it is over."""
        while self._closing is None:
            data = await self._read(self._until())
            if data is None:
                self._look_at_the_clock()
            elif not data or not self._received(data):
                return

    async def _read(self, until: float) -> bytes | None:
        """What came, ``b""`` at the end; None when it is time to look at the clock."""
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())) as self._alarm:
                return await self._raw.read()
        except TimeoutError:
            return None
        finally:
            self._alarm = None

    # ---- time

    def _until(self) -> float:
        limits = self._limits
        until = min(self._pinged + limits.ping, self._heard + limits.silence)
        if not self._lanes:
            until = min(until, self._active + limits.idle)
        if self._ending is None:
            until = min(until, self._ends)
        return until

    def _look_at_the_clock(self) -> None:
        from wsproto.events import Ping

        now, limits = self._clock.monotonic(), self._limits
        if self._ending is None and now >= self._ends:
            self.end("the connection has reached its limit of time; open a new one")
        if self._ending is not None:
            if not self._lanes:
                self._closing = (AWAY, self._ending)
        elif now >= self._heard + limits.silence:
            self._closing = (AWAY, "no sign of life")
        elif not self._lanes and now >= self._active + limits.idle:
            self._closing = (NORMAL, "idle")
        if self._closing is None and now >= self._pinged + limits.ping:
            self._pinged = now
            self._raw.write(self._frames.send(Ping()))

    def end(self, why: str) -> None:
        """Take no more turns; close when those that were begun are done."""
        self._ending = self._ending or why
        self._wake()

    def _wake(self) -> None:
        if self._alarm is not None:
            self._alarm.reschedule(asyncio.get_running_loop().time())

    # ---- what comes in

    def _received(self, data: bytes) -> bool:
        """Take in bytes; false where the client has closed."""
        from wsproto.connection import ConnectionState
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

        self._heard = self._clock.monotonic()
        self._frames.receive_data(data)
        for event in self._frames.events():
            if isinstance(event, Ping):
                self._raw.write(self._frames.send(event.response()))
            elif isinstance(event, TextMessage):
                self._text(event.data, event.message_finished)
            elif isinstance(event, BytesMessage):
                self._closing = (UNSUPPORTED, "messages are text: JSON")
            elif isinstance(event, CloseConnection):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    self._raw.write(self._frames.send(event.response()))
                    return False
                self._broken = True  # what comes now means nothing; it is read so that the client can read why
                self._closing = (int(event.code), event.reason or "the frames are not those of a WebSocket")
            if self._closing is not None:
                break
        return True

    def _text(self, piece: str, whole: bool) -> None:
        size = len(piece.encode("utf-8", "surrogatepass"))
        self._size += size
        self._hold(size)
        if self._size > self._limits.message:
            self._closing = (TOO_BIG, f"a message may have {self._limits.message} bytes")
        elif self._sockets.held > self._limits.held:
            self._closing = (LATER, "too much is waiting here; try again")
        self._message.append(piece)
        if not whole or self._closing is not None:
            return
        text, size = "".join(self._message), self._size
        self._message.clear()
        self._size = 0
        self._asked(text, size)

    def _hold(self, size: int) -> None:
        self._held += size
        self._sockets.held += size

    def settle(self) -> None:
        """The connection is over: what it held is free."""
        self._sockets.held -= self._held
        self._held = 0
        self._recent.clear()

    def _asked(self, text: str, size: int) -> None:
        """Begin a turn, let it wait for its lane, or refuse it."""
        self._active = self._clock.monotonic()
        try:
            request = read_message(text)
        except Invalid as error:
            request, refused = SocketRequest("create", text.encode("utf-8", "replace"), None), error
        else:
            refused = self._refused(request)
        if refused is not None:  # that, too, is a call, and recorded as one
            self._hold(-size)
            self._go(self._answer(self._new(request), None, False, refused))
        elif request.stream_id in self._lanes or len(self._lanes) >= self._limits.lanes:
            self._waiting.append(_Waiting(request, size))
        else:
            self._begin(_Waiting(request, size))

    def _refused(self, request: SocketRequest) -> MainstayError | None:
        if self._ending is not None:
            return Invalid(self._ending, code="websocket_connection_limit_reached")
        if len(self._waiting) >= self._limits.waiting:
            return OverLimit(
                f"{self._limits.waiting} requests wait on this connection already; send the next one when one of them "
                "is answered",
                retry_after=1.0,
                rule="websocket",
            )
        return None

    # ---- turns

    def _begin(self, waiting: _Waiting) -> None:
        self._lanes.add(waiting.request.stream_id)
        self._go(self._turn(waiting))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None
        task = self._group.create_task(work)
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)

    async def _turn(self, waiting: _Waiting) -> None:
        request = waiting.request
        turn = self._new(request)
        try:
            await self._answer(turn, self._recent, request.kind == "warmup", None)
        finally:
            self._hold(-waiting.size)
            self._lanes.discard(request.stream_id)
            self._active = self._clock.monotonic()
        self._wake()
        if turn.status == 401:
            self._closing = (POLICY, "the key opens nothing any more")
            return
        for next_one in self._waiting:
            if next_one.request.stream_id not in self._lanes:
                self._waiting.remove(next_one)
                self._begin(next_one)
                break

    def _new(self, request: SocketRequest) -> SocketTurn:
        return SocketTurn(
            self._headers, self._exchange.query, request.body, request.stream_id, self._tell, self._raw.drain
        )

    async def _answer(
        self, turn: SocketTurn, recent: Recent | None, warm_up: bool, refusal: MainstayError | None
    ) -> None:
        def prepare(call: Routed) -> None:
            call.recent, call.warm_up, call.refusal = recent, warm_up, refusal

        try:
            await self._sockets.models.answer(turn, ENDPOINTS[PATH], prepare)
        except Exception as error:  # it has been told and recorded; the connection goes on
            if self._sockets.on_error is not None:
                self._sockets.on_error(self._exchange, error)
            else:
                _log.error("a turn failed: %s", type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(turn.done.wait(), _PATIENCE)

    # ---- what goes out

    def _tell(self, text: str) -> None:
        from wsproto.connection import ConnectionState
        from wsproto.events import TextMessage

        if self._frames.state is ConnectionState.OPEN:
            self._raw.write(self._frames.send(TextMessage(text)))

    async def _close(self, code: int, reason: str) -> None:
        """Say that it is over, and give the client a moment to say the same."""
        from wsproto.connection import ConnectionState
        from wsproto.events import CloseConnection

        if self._frames.state is not ConnectionState.OPEN:
            return
        self._raw.write(self._frames.send(CloseConnection(code, reason.encode()[:120].decode(errors="ignore"))))
        until = self._clock.monotonic() + self._limits.closing
        while (left := until - self._clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    data = await self._raw.read()
            except TimeoutError:
                return
            if not data or (not self._broken and self._says_close(data)):
                return

    def _says_close(self, data: bytes) -> bool:
        from wsproto.events import CloseConnection

        self._frames.receive_data(data)
        return any(isinstance(event, CloseConnection) for event in self._frames.events())
