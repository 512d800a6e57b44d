"""A call, its reply, and the one shape of everything that answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from mainstay.core.event import Frame
from mainstay.core.money import Nano
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage

Outcome = Literal["ok", "refused", "failed", "cancelled", "crashed"]
CacheState = Literal["hit", "miss", "off"]
Rescue = Literal["continued", "regenerated"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key, and the team it belongs to."""

    key: str  # the key's name, unique within the team
    key_id: str
    team: str
    models: frozenset[str] | None = None  # the models and routes it may use; None: all
    admin: bool = False


NO_TAGS: Mapping[str, str] = MappingProxyType({})

NOBODY = Principal(key="", key_id="", team="", models=frozenset())
"""The principal of a call whose key was refused."""


class Attempt:
    """One try at one target. Times are seconds since the epoch and milliseconds from the attempt's start."""

    __slots__ = (
        "at",
        "cost",
        "duration_ms",
        "error",
        "first_token_ms",
        "message",
        "provider",
        "request_id",
        "rescue",
        "status",
        "target",
        "upstream_model",
        "usage",
    )

    def __init__(
        self,
        target: str,
        provider: str,
        upstream_model: str,
        at: float,
        duration_ms: float = 0.0,
        first_token_ms: float | None = None,
        status: int | None = None,
        error: str | None = None,
        message: str | None = None,
        usage: Usage | None = None,
        cost: Nano | None = None,
        request_id: str | None = None,
        rescue: Rescue | None = None,
    ) -> None:
        self.target = target  # the model artifact's name
        self.provider = provider
        self.upstream_model = upstream_model
        self.at = at
        self.duration_ms = duration_ms
        self.first_token_ms = first_token_ms
        self.status = status  # the provider's HTTP status
        self.error = error  # an UpstreamFailed's kind
        self.message = message
        self.usage = usage
        self.cost = cost  # None: unknown
        self.request_id = request_id  # the provider's
        self.rescue = rescue  # this attempt completed what an earlier one began


class Call:
    """One request on its way through the pipeline; each stage fills in its part, `record` writes it down.

    What a stage may set later has its default on the class, so that making a call costs little.
    """

    peek: Any = None  # wire.dialect.Peek: what the pipeline needs to know of the body
    user: str | None = None
    session: str | None = None
    workflow: str | None = None
    trace: str | None = None  # the W3C trace id, 32 hex digits
    parent_span: str | None = None
    snapshot: str = ""  # the digest of the Snapshot it was answered under
    route: str | None = None
    stream: bool = False
    deadline: float | None = None  # the monotonic time at which the call ends
    # what came of it
    model: str | None = None  # the model artifact that answered
    provider: str | None = None
    cache: CacheState = "off"
    dropped: tuple[str, ...] = ()
    usage: Usage | None = None
    cost: Nano | None = None
    finish: str | None = None
    status: int = 0
    outcome: Outcome = "failed"
    error: str | None = None
    message: str | None = None
    first_token: float | None = None  # the monotonic clock, seconds
    upstream_seconds: float = 0.0  # waiting for upstreams: all the rest is our overhead
    reply_headers: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        id: str,
        at: float,
        started: float,
        operation: str,
        dialect: str,
        headers: Mapping[str, str],
        body: bytes,
        query: str = "",
    ) -> None:
        self.id = id
        self.at = at  # seconds since the epoch
        self.started = started  # the monotonic clock, seconds
        self.operation = (
            operation  # chat, responses, messages, count_tokens, embeddings, completions, images.generations …
        )
        self.dialect = dialect  # the caller's wire format
        self.headers = headers  # the request's, names in lower case
        self.body = body
        self.query = query
        self.principal = NOBODY
        self.tags = NO_TAGS
        self.attempts: list[Attempt] = []
        self.why: list[str] = []
        self.taps: list[Callable[[list[Frame]], None]] = []
        """Called with all frames that go to the caller, in order (the cache, the content store)."""


class Reply:
    """An answer that has been committed to: its status is right and its frames are about to come.

    A streamed reply yields lists of frames as they arrive; a plain one yields a single list with a single frame, the
    body. Where ``dialect`` is the caller's, ``Frame.raw`` is what the caller gets; else ``Frame.events`` are written
    in the caller's dialect.
    """

    __slots__ = ("content_type", "dialect", "frames", "headers", "progress", "status", "stream")

    def __init__(
        self,
        dialect: str,
        stream: bool,
        frames: AsyncIterator[list[Frame]],
        status: int = 200,
        content_type: str = "application/json",
        headers: list[tuple[str, str]] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.dialect = dialect
        self.stream = stream
        self.frames = frames
        self.status = status
        self.content_type = content_type
        self.headers: list[tuple[str, str]] = [] if headers is None else headers
        self.progress = progress  # what has been yielded so far, so that a broken stream can be ended properly


Answer = Callable[[Call], AbstractAsyncContextManager[Reply]]
"""Everything that answers. Entering commits (refusals and fallbacks happen there); leaving settles, exactly once."""

Stage = Callable[[Call, Answer], AbstractAsyncContextManager[Reply]]
"""Everything that stands in the way of an Answer."""
