"""The WebSocket mode of ``/v1/responses``: each message is a call of its own, through the same pipeline as any other."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from mainstay.access.authenticate import secret
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, Unauthenticated, Unavailable
from mainstay.edge.http import Exchange
from mainstay.edge.model_api import ModelApi
from mainstay.edge.socket_connection import SocketConnection, SocketLimits
from mainstay.edge.status import status_of
from mainstay.gateway.plan import Plan
from mainstay.gateway.turn import Room
from mainstay.wire.openai_errors import write_error


class ResponsesSockets:
    """All connections of this process."""

    def __init__(
        self,
        models: ModelApi,
        plan: Callable[[], Plan | None],
        clock: Clock,
        limits: SocketLimits | None = None,
        on_error: Callable[[Exchange, Exception], None] | None = None,
    ) -> None:
        self.models, self.clock = models, clock
        self.limits = limits or SocketLimits()
        self.on_error = on_error
        self.open: set[SocketConnection] = set()
        self.held = 0
        self.room = Room()
        self._plan = plan

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request for an upgrade, and serve its connection until it ends."""
        try:
            self._admitted(exchange)
            accepted = _accepted(exchange.headers)
        except MainstayError as error:
            status = status_of(error)
            headers = [("content-type", "application/json")]
            if isinstance(error, Unavailable):
                headers.append(("retry-after", "1"))
            if error.code == "websocket_version":
                status = 426
                headers.append(("sec-websocket-version", "13"))
            return exchange.send(status, headers, write_error(error, "openai-responses"))
        raw = exchange.upgrade([("sec-websocket-accept", accepted)])
        connection = SocketConnection(self, exchange, raw)
        self.open.add(connection)
        try:
            await connection.run()
        finally:
            self.open.discard(connection)
            connection.settle()

    def drain(self) -> None:
        """Let every connection finish the turns that it has begun, and close."""
        for connection in list(self.open):
            connection.end("the server ends; open a new connection")

    def _admitted(self, exchange: Exchange) -> None:
        plan = self._plan()
        if plan is None:
            raise Unavailable("no configuration has been loaded yet; try again shortly", code="not_ready")
        if plan.keys.find(secret(exchange.headers), self.clock.now()) is None:
            raise Unauthenticated(
                "the API key is missing or unknown; send it as 'Authorization: Bearer …' or 'x-api-key'"
            )


def _accepted(headers: Mapping[str, str]) -> str:
    """The server's half of the handshake. Raises ``Invalid`` for a handshake that is none."""
    from wsproto.utilities import generate_accept_token

    if headers.get("sec-websocket-version", "").strip() != "13":
        raise Invalid("the version of the WebSocket protocol must be 13", code="websocket_version")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        sound = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        raise Invalid("sec-websocket-key must be 16 bytes in base64", code="websocket_key")
    return generate_accept_token(key.encode()).decode()


def asks_for_upgrade(exchange: Exchange) -> bool:
    """Whether the request wants to become a WebSocket."""
    wanted = [token.strip().lower() for token in exchange.headers.get("connection", "").split(",")]
    upgrade = exchange.headers.get("upgrade", "").strip().lower()
    return exchange.method == "GET" and upgrade == "websocket" and "upgrade" in wanted and exchange.http11
