"""One request and the reply to it, as a handler sees them; and the raw connection after an upgrade."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from mainstay.edge.http_limits import Reject

if TYPE_CHECKING:
    from mainstay.edge.http_connection import Connection

Headers = Iterable[tuple[str, str]]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS = frozenset(("connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"))
_REMEMBERED = 512
_JOINED = 64 * 1024

_sound_names: set[str] = set()
_reasons = {status.value: status.phrase for status in HTTPStatus}


def _check_name(name: str) -> None:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"a reply may not have a header of the name {name!r}")
    if name.lower() in _OURS:
        raise ValueError(f"the {name} header of a reply is written by the server")
    if len(_sound_names) < _REMEMBERED and len(name) <= 64:
        _sound_names.add(name)


def status_line(status: int) -> str:
    """The first line of a reply, with its line break."""
    return f"HTTP/1.1 {status} {_reasons.get(status, '')}\r\n"


def header_block(headers: Headers) -> bytes:
    """``headers`` as lines of a head. Raises ``ValueError`` for what would break out of its line."""
    lines: list[str] = []
    for name, value in headers:
        if name not in _sound_names:
            _check_name(name)
        lines.append(f"{name}: {value}\r\n")
    block = "".join(lines)
    if block.count("\r") != len(lines) or block.count("\n") != len(lines) or "\0" in block:
        raise ValueError("a header of a reply may not have a line break or a NUL in it")
    return block.encode("latin-1")


class Exchange:
    """One request, whole, and the means to answer it.

    Answer with ``send``, or with ``start``, any number of ``write`` and ``finish``. ``send_later`` and ``finish_later``
    let the handler return at once and have the last bytes written by a callback: the request counts as answered when
    that was called, and the next request of the connection waits for it. Everything written after the client went
    away is thrown away in silence.
    """

    __slots__ = (
        "_bare",
        "_connection",
        "_later",
        "_started",
        "body",
        "chunked",
        "client",
        "done",
        "headers",
        "http11",
        "keep_alive",
        "method",
        "path",
        "query",
        "refused",
        "target",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        target: bytes,
        path: str,
        query: str,
        headers: dict[str, str],
        http11: bool,
    ) -> None:
        self.method = method
        self.target = target  # as it came
        self.path = path  # not percent-decoded
        self.query = query  # without its question mark, not percent-decoded
        self.headers = headers  # names in lower case; several of one name are joined by a comma
        self.body = b""
        self.client = connection.client  # the peer's address; "" on a local socket
        self.http11 = http11
        self.keep_alive = http11
        self.done = False  # the last byte of the reply has been written
        self.refused: Reject | None = None  # its body was not taken in, and this is why
        self._connection = connection
        self._started = False
        self._later = False
        self.chunked = False  # a stream of which the client can tell that it was cut
        self._bare = method == "HEAD"

    @property
    def disconnected(self) -> bool:
        """The client went away, or said that it sends nothing more."""
        return self._connection.gone

    @property
    def started(self) -> bool:
        """A status has been written, or promised to ``send_later``: it can no longer be changed."""
        return self._started

    @property
    def congested(self) -> bool:
        """The client reads more slowly than is written: ``await drain()`` before writing more."""
        return self._connection.write_paused

    def _begin(self, status: int) -> None:
        if self._started:
            raise RuntimeError("this exchange has already been answered")
        if not 200 <= status <= 599:
            raise ValueError("a reply's status is from 200 to 599")
        self._started = True

    def _closing(self) -> bytes:
        """The last lines of the head; decides whether the connection goes on."""
        if self.keep_alive and not self._connection.server.draining:
            return b"\r\n"
        self.keep_alive = False
        return b"connection: close\r\n\r\n"

    def _plain(self, status: int, block: bytes, body: bytes) -> bytes:
        opening = self._connection.server.opening(status)
        if status == 204 or status == 304:
            return b"%b%b%b" % (opening, block, self._closing())
        return b"%b%bcontent-length: %d\r\n%b%b" % (
            opening,
            block,
            len(body),
            self._closing(),
            b"" if self._bare else body,
        )

    def _write_plain(self, status: int, block: bytes, body: bytes) -> None:
        if len(body) <= _JOINED or self._bare or status == 204 or status == 304:
            self._connection.write(self._plain(status, block, body))
            return
        opening = self._connection.server.opening(status)
        head = b"%b%bcontent-length: %d\r\n%b" % (opening, block, len(body), self._closing())
        self._connection.write_large(head, body)

    def send(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer with a whole reply. Content-Length, Date and Connection are added. Raises ``ValueError`` for bad headers."""
        block = header_block(headers)
        self._begin(status)
        self._write_plain(status, block, body)
        self._complete()

    def send_later(self, status: int, headers: Headers) -> Callable[[bytes], None]:
        """Promise a whole reply: the returned function takes the body and writes everything, once."""
        block = header_block(headers)
        self._begin(status)
        self._later = True

        def write(body: bytes = b"") -> None:
            if not self.done:
                self._write_plain(status, block, body)
                self._complete()

        return write

    def start(self, status: int, headers: Headers, first: bytes = b"") -> None:
        """Begin a streamed reply, its first bytes with the head in one write. Raises ``ValueError`` for bad headers."""
        if status == 204 or status == 304:
            raise ValueError("a streamed reply has a status with a body")
        block = header_block(headers)
        self._begin(status)
        chunked = self.chunked = self.http11
        if not chunked:
            self.keep_alive = False
        coding = b"transfer-encoding: chunked\r\n" if chunked else b""
        head = b"%b%b%b%b" % (self._connection.server.opening(status), block, coding, self._closing())
        if first and not self._bare:
            head += b"%x\r\n%b\r\n" % (len(first), first) if chunked else first
        self._connection.write(head)

    def write(self, data: bytes) -> None:
        """Write a piece of a streamed reply. Never waits: ``await drain()`` where the client may be slow."""
        if self.done or not self._started or self._later:
            raise RuntimeError("write needs a reply that has been started and not finished")
        if not data or self._bare:
            return
        connection = self._connection
        if not self.chunked:
            connection.write(data)
        elif len(data) > _JOINED:
            connection.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def drain(self) -> None:
        """Wait until the client has read enough to write more."""
        if self._connection.write_paused:
            await self._connection.drained()

    def finish(self, last: bytes = b"") -> None:
        """End a streamed reply, its last bytes and the end in one write."""
        if self.done or not self._started or self._later:
            raise RuntimeError("finish needs a reply that has been started and not finished")
        self._finish(last)

    def finish_later(self) -> Callable[[bytes], None]:
        """Promise the end of a streamed reply: the returned function takes the last bytes and writes them, once."""
        if self.done or not self._started or self._later:
            raise RuntimeError("finish_later needs a reply that has been started and not finished")
        self._later = True

        def write(last: bytes = b"") -> None:
            if not self.done:
                self._finish(last)

        return write

    def _finish(self, last: bytes) -> None:
        if self._bare:
            last = b""
        elif self.chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n"
        if last:
            self._connection.write(last)
        self._complete()

    def _complete(self) -> None:
        self.done = True
        self._connection.completed(self)

    @property
    def promised(self) -> bool:
        """A callback of ``send_later`` or ``finish_later`` has still to be called."""
        return self._later and not self.done

    def upgrade(self, headers: Headers, on_data: Callable[[bytes], None] | None = None) -> Raw:
        """Answer 101 with ``headers`` and the request's Upgrade, and take the connection over.

        What the client sends goes to ``on_data``, or where that is None to ``Raw.read``. The connection is closed
        when the handler returns, and the handler cancelled when the client goes away. Raises ``ValueError`` where the request
        asked for no upgrade.
        """
        protocol = self.headers.get("upgrade", "")
        wanted = [token.strip().lower() for token in self.headers.get("connection", "").split(",")]
        if not protocol or "upgrade" not in wanted or not self.http11 or self.method != "GET" or self.body:
            raise ValueError("the request does not ask for an upgrade")
        block = header_block(headers)
        self._begin(200)
        opening = self._connection.server.opening(101)
        head = b"%b%bconnection: upgrade\r\nupgrade: %b\r\n\r\n" % (opening, block, protocol.encode("latin-1"))
        self.keep_alive = False
        raw = Raw(self._connection, on_data)
        self._connection.write(head)
        self._connection.take_over(raw)
        return raw


RAW_LIMIT = 256 * 1024
"""Unread bytes of a connection after an upgrade from which on reading pauses."""


class Raw:
    """The bytes of a connection after an upgrade."""

    __slots__ = ("_connection", "_ended", "_on_data", "_pieces", "_size", "_waiter")

    def __init__(self, connection: Connection, on_data: Callable[[bytes], None] | None) -> None:
        self._connection = connection
        self._on_data = on_data
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def deadline(self) -> float:
        """The monotonic time at which the connection is cut, set anew by its user; at first there is none (infinity)."""
        return self._connection.deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._connection.deadline = at

    def feed(self, data: bytes) -> None:
        """For the connection: what the client sent; empty at its end."""
        if not data:
            self._ended = True
        elif self._on_data is not None:
            self._on_data(data)
            return
        else:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > RAW_LIMIT:
                self._connection.pause_reading()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        """All that has come since the last read, waiting for something; ``b""`` at the end."""
        if not self._pieces and not self._ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._connection.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Write raw bytes; nothing happens when the client is gone."""
        self._connection.write(data)

    async def drain(self) -> None:
        """Wait until the client has read enough to write more."""
        if self._connection.write_paused:
            await self._connection.drained()

    def close(self) -> None:
        """Close the connection when what was written has gone out."""
        self._connection.close()
