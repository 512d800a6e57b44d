"""What every wire format offers, in both directions; no I/O here or in any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from mainstay.core.errors import MainstayError, UpstreamFailed
from mainstay.core.event import Event, Frame
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request

Fate = Literal["mapped", "hint", "refused"]


class Field(NamedTuple):
    """What becomes of one request field when it has to be said in another dialect.

    ``mapped``: it has the canonical meaning ``to`` (an attribute of ``core.request.Request``).
    ``hint``: it cannot change the answer; where the target has no word for it, it is dropped and named in
    ``x-mainstay-dropped``. ``refused``: it would change the answer and has no canonical meaning: a 400 that names it.
    """

    fate: Fate
    to: str = ""
    note: str = ""


class Peek:
    """What the pipeline needs to know of a request's body, read without building the canonical request."""

    __slots__ = (
        "audio",
        "images",
        "max_tokens",
        "model",
        "model_at",
        "n",
        "schema",
        "stream",
        "tools",
        "unbounded",
        "usage_wanted",
        "user",
    )

    def __init__(
        self,
        model: str,
        stream: bool = False,
        max_tokens: int | None = None,
        n: int = 1,
        tools: bool = False,
        images: bool = False,
        audio: bool = False,
        schema: bool = False,
        usage_wanted: bool = False,
        user: str | None = None,
        unbounded: tuple[str, ...] = (),
        model_at: tuple[int, int] = (0, 0),
    ) -> None:
        self.model = model
        self.stream = stream
        self.max_tokens = max_tokens
        self.n = n
        self.tools = tools
        self.images = images
        self.audio = audio
        self.schema = schema
        self.usage_wanted = usage_wanted  # the caller of a stream asked for usage in it
        self.user = user  # the body's own end-user field
        self.unbounded = unbounded
        """Fields whose cost the body's size does not bound: media by url, file ids, stored context, server-side tools."""
        self.model_at = model_at
        """Where the value of "model" lies in the body, quotes included; (0, 0) where the path names the model."""


class Written(NamedTuple):
    """A request in a target's format: its body, and the hints that the format has no word for."""

    body: bytes
    dropped: tuple[str, ...]


class Reader(Protocol):
    """Reads the bytes of one streamed reply of an upstream."""

    done: bool
    """The wire's terminal sign was read: what ends now was not cut."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ``UpstreamFailed(too_large)`` if one event exceeds the limit."""
        ...

    def finish(self) -> list[Frame]:
        """Call at the end of the body: the frames that the last bytes still hold (an event without a blank line)."""
        ...


class Writer(Protocol):
    """Writes one streamed reply for a caller. Holds the format's state (open blocks, sequence numbers)."""

    content_type: str

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for ``events``; the terminal sign is written by ``end``, not on ``End``."""
        ...

    def end(self) -> bytes:
        """The bytes that say that the reply is whole."""
        ...

    def fail(self, error: MainstayError) -> bytes:
        """The bytes that say, in this format, that the reply broke off, and why."""
        ...


class Dialect(Protocol):
    """One wire format. ``peek`` … ``write_error`` face callers, ``path`` … ``read_error`` face upstreams."""

    name: str
    fields: Mapping[str, Field]
    """Every request field of the format at its top level, and what becomes of it in another dialect."""
    expresses: Mapping[str, Fate]
    """Every attribute of ``core.request.Request``: whether ``write_request`` can say it here."""

    # toward callers
    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """What the pipeline needs to know. Raises ``Invalid`` for a body that is not this format's, or is ambiguous."""
        ...

    def read_request(self, body: bytes) -> Request:
        """The canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
        ...

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A plain reply: all events of it, folded. ``request`` is the caller's body, for formats that repeat parts of it."""
        ...

    def writer(self, include_usage: bool, request: bytes | None = None) -> Writer:
        """A writer for one streamed reply. ``request`` is the caller's body, for formats that repeat parts of it."""
        ...

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply in this format's own shape."""
        ...

    # toward upstreams
    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path, and query, below the provider's base URL."""
        ...

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The caller's body for an upstream of the same format: model renamed, usage asked for, else untouched."""
        ...

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request in this format. Raises ``Unsupported`` for what it cannot say."""
        ...

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Of a plain reply that will pass through untouched: Start, Finish, UsageSeen, End; no content."""
        ...

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events. Raises ``UpstreamFailed(unreadable)``."""
        ...

    def reader(self, operation: str) -> Reader:
        """A reader for one streamed reply."""
        ...

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means; its body is kept for a caller of the same dialect."""
        ...
