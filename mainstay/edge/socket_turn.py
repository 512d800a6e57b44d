"""One turn of a WebSocket connection, as the model API sees it: an exchange whose reply goes out in messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import msgspec

from mainstay.wire.json_edit import insert_member
from mainstay.wire.openai_responses_socket import write_event


class Answerable(Protocol):
    """What the model API needs of an exchange to answer it: that of HTTP, or a turn on a WebSocket."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def started(self) -> bool: ...
    @property
    def congested(self) -> bool: ...
    def start(self, status: int, headers: Iterable[tuple[str, str]], first: bytes = b"") -> None: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def send_later(self, status: int, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], None]: ...
    def finish_later(self) -> Callable[[bytes], None]: ...


class SocketTurn:
    """``tell`` puts one text message on its way; ``drain`` waits until the client has read enough of them.

    ``done`` is set once the last message of the reply was told, and ``status`` is then that of an error, or 200.
    """

    method, path = "POST", "/v1/responses"
    congested = True  # whether the client is slow is known to ``drain``

    def __init__(
        self,
        headers: Mapping[str, str],
        query: str,
        body: bytes,
        stream_id: str | None,
        tell: Callable[[str], None],
        drain: Callable[[], Any],
    ) -> None:
        self.headers, self.query, self.body = headers, query, body
        self.started = False
        self.status = 200
        self.done = asyncio.Event()
        self._stream_id, self._tell, self._drain = stream_id, tell, drain

    def start(self, status: int, headers: Iterable[tuple[str, str]], first: bytes = b"") -> None:
        """Begin the stream of events."""
        self.started = True
        self.write(first)

    def write(self, data: bytes) -> None:
        """Tell whole events."""
        if data:
            for message in write_event(data, self._stream_id):
                self._tell(message)

    async def drain(self) -> None:
        """Wait for a slow client."""
        await self._drain()

    def finish_later(self) -> Callable[[bytes], None]:
        """The returned function tells the last events."""

        def finish(last: bytes) -> None:
            self.write(last)
            self.done.set()

        return finish

    def send_later(self, status: int, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], None]:
        """The returned function tells that the turn was refused, and why."""
        self.started = True
        self.status = status

        def finish(body: bytes) -> None:
            self._tell(refusal(body, status, self._stream_id))
            self.done.set()

        return finish


def refusal(body: bytes, status: int, stream_id: str | None) -> str:
    """The message for an error whose HTTP body would be ``body``.

    Its fields are both where the documented event has them and inside ``error``, where the service puts them.
    """
    try:
        told = cast(object, msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = None
    error = cast(dict[str, Any], told).get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict):  # a provider's own, in a shape of its own
        error = {"message": body.decode("utf-8", "replace")[:2000], "type": "server_error", "code": None}
    fields = cast(dict[str, Any], error)
    if fields.get("code") == "previous_response_not_found":
        status = 400  # the one that clients know it by in this mode
    flat = {name: fields.get(name) for name in ("code", "message", "param")}
    data = msgspec.json.encode({"type": "error", "status": status, "error": fields, **flat, "sequence_number": 0})
    if stream_id is not None:
        data = insert_member(data, "stream_id", msgspec.json.encode(stream_id))
    return data.decode()
