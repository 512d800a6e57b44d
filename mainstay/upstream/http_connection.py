"""One connection to an upstream: sends a request, reads its reply with llhttp, and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpResponseParser

from mainstay.core.errors import UpstreamFailed

if TYPE_CHECKING:
    from mainstay.upstream.http import Pool, Shelf
    from mainstay.upstream.http_client import Upstream

HEAD_BYTES = 64 * 1024
HEADERS = 256
INTERIM = 16

_REMEMBERED = 512
_names: dict[bytes, str] = {}


def _name(raw: bytes) -> str:
    name = raw.decode("latin-1").lower()
    if len(_names) < _REMEMBERED and len(raw) <= 40:
        _names[raw] = name
    return name


class HttpConnection:
    """One connection: sends a request, reads its reply with llhttp, and again.

    An ``asyncio.Protocol`` in all but name: what inherits from an interpreted class cannot be compiled to the full.
    """

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
        "_shelf",
        "_trailers",
        "_transport",
        "adopted",
        "idle_since",
        "upstream",
        "used",
    )

    def __init__(self, pool: Pool, shelf: Shelf) -> None:
        self.upstream: Upstream | None = None
        self.idle_since = 0.0
        self.adopted = False  # counted by the pool
        self.used = False  # it has carried an exchange before the one at hand
        self._pool = pool
        self._shelf = shelf
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._in_head = False
        self._finished = True  # no reply is expected, or the one expected is whole
        self._keep = False
        self._paused = False
        self._failure: UpstreamFailed | None = None
        self._head_size = 0
        self._interim = 0
        self._trailers = 0

    @property
    def open(self) -> bool:
        """It can still be written to."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, upstream: Upstream) -> None:
        """Send the request of ``upstream``, whose reply comes next."""
        transport = self._transport
        assert transport is not None
        self.upstream = upstream
        upstream.attach(self)
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

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        pass  # what is sent is one request, of which the caller had no more than a body in memory

    def resume_writing(self) -> None:
        pass

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
            elif self.used:
                self._pool.found_dead(self, self._shelf)
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
