"""Passes the control API and the console on to the control process, over its local socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import httptools

from mainstay.core.errors import Unavailable
from mainstay.edge.http import Exchange

RESPONSES = "/internal/v1/responses"
"""Where control answers about stored responses, on the socket that only this installation's own processes can open."""

TRACES = "/v1/traces"
"""Where applications send their spans: control's, though it lies below the model API's paths."""

_DROPPED = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "expect",
    )
)
_OURS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"date", b"server"))
_WAIT = 120.0


class ControlDoor:
    """Where the control process can be reached. Every request has a connection of its own: this is not the hot path."""

    def __init__(self, path: Path, limit: int = 64, patience: float = 10.0) -> None:
        """``limit`` requests at once; another waits ``patience`` seconds for a place, then it is refused."""
        self._path, self._patience = path, patience
        self._places = asyncio.Semaphore(limit)

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(
                "the control process has too many requests in hand; model calls go on, try this again shortly",
                code="control_busy",
                retry_after=5.0,
            ) from None
        try:
            yield
        finally:
            self._places.release()

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, timeout: float = _WAIT
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """One request and its whole reply. Raises ``Unavailable`` when control does not answer."""
        async with self._place():
            try:
                async with asyncio.timeout(timeout):
                    reader, writer = await asyncio.open_unix_connection(str(self._path))
                    try:
                        writer.write(_head(method, target, headers, len(body)) + body)
                        reply = _Reply()
                        while not reply.done and (data := await reader.read(65536)):
                            reply.parser.feed_data(data)
                        if not reply.done:
                            raise ConnectionError("it closed the connection")
                        return reply.parser.get_status_code(), reply.headers, b"".join(reply.body)
                    finally:
                        writer.close()
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                raise Unavailable(
                    f"the control process does not answer ({error}); model calls go on, try this again shortly",
                    code="control_unavailable",
                    retry_after=2.0,
                ) from None

    async def pass_on(self, exchange: Exchange) -> None:
        """Answer ``exchange`` with what control says, streams as they come."""
        headers = {name: value for name, value in exchange.headers.items() if name not in _DROPPED}
        headers["x-forwarded-for"] = exchange.client
        target = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        async with self._place():
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                raise Unavailable(
                    "the control process is not running; model calls go on, try this again shortly",
                    code="control_unavailable",
                    retry_after=2.0,
                ) from None
            try:
                writer.write(_head(exchange.method, target, headers, len(exchange.body)) + exchange.body)
                await self._relay(exchange, reader)
            finally:
                writer.close()

    async def _relay(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        reply = _Reply(head=exchange.method == "HEAD")
        started = False
        while not reply.done:
            try:
                data = await asyncio.wait_for(reader.read(65536), None if started else _WAIT)
                if not data:
                    break
                reply.parser.feed_data(data)
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                if started:
                    raise ConnectionError("control broke off its reply") from error
                break
            if reply.begun and reply.streams and not reply.done:
                piece = b"".join(reply.body)
                reply.body.clear()
                if not started:
                    exchange.start(reply.parser.get_status_code(), reply.headers, piece)
                    started = True
                elif piece:
                    exchange.write(piece)
                    await exchange.drain()
        if not reply.done:
            raise Unavailable(
                "the control process broke off its reply; try this again shortly", code="control_unavailable"
            )
        if started:
            exchange.finish(b"".join(reply.body))
        else:
            exchange.send(reply.parser.get_status_code(), reply.headers, b"".join(reply.body))


class _Reply:
    """A reply of control while it is read."""

    def __init__(self, head: bool = False) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body: list[bytes] = []
        self.begun = self.done = self.streams = False
        self._head = head
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"transfer-encoding":
            self.streams = True
        if lower not in _OURS:
            self.headers.append((lower.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.begun = True
        if self._head:
            self.done = True

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.done = True


def _head(method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if "host" not in headers:
        lines.append("host: control")
    lines += [f"content-length: {length}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")
