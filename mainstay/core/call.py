"""A call, its reply, and the one shape of everything that answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from mainstay.core.event import Frame
from mainstay.core.money import Nano
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage

Outcome = Literal["ok", "refused", "failed", "cancelled", "crashed"]
CacheState = Literal["hit", "miss", "off"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key, and the team it belongs to."""

    key: str  # the key's name, unique within the team
    key_id: str
    team: str
    models: frozenset[str] | None = None  # the models and routes it may use; None: all
    admin: bool = False


NOBODY = Principal(key="", key_id="", team="", models=frozenset())
"""The principal of a call whose key was refused."""


@dataclass(slots=True)
class Attempt:
    """One try at one target. Times are seconds since the epoch and milliseconds from the attempt's start."""

    target: str  # the model artifact's name
    provider: str
    upstream_model: str
    at: float
    duration_ms: float = 0.0
    first_token_ms: float | None = None
    status: int | None = None  # the provider's HTTP status
    error: str | None = None  # an UpstreamFailed's kind
    message: str | None = None
    usage: Usage | None = None
    cost: Nano | None = None  # None: unknown
    request_id: str | None = None  # the provider's
    rescue: Literal["continued", "regenerated"] | None = None  # this attempt completed what an earlier one began


@dataclass
class Call:
    """One request on its way through the pipeline; each stage fills in its part, `record` writes it down.

    Not slotted: what a stage may set later has its default on the class, so that making a call costs little.
    """

    id: str
    at: float  # seconds since the epoch
    started: float  # the monotonic clock, seconds
    operation: str  # chat, responses, messages, count_tokens, embeddings, completions, images.generations …
    dialect: str  # the caller's wire format
    headers: Mapping[str, str]  # the request's, names in lower case
    body: bytes
    query: str = ""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    why: list[str] = field(default_factory=list[str])
    taps: list[Callable[[list[Frame]], None]] = field(default_factory=list[Callable[[list[Frame]], None]])
    """Called with all frames that go to the caller, in order (the cache, the content store)."""
    peek: Any = field(init=False, default=None)  # wire.dialect.Peek: what the pipeline needs to know of the body
    principal: Principal = field(init=False, default=NOBODY)
    tags: Mapping[str, str] = field(init=False, default_factory=dict[str, str])
    user: str | None = field(init=False, default=None)
    session: str | None = field(init=False, default=None)
    workflow: str | None = field(init=False, default=None)
    trace: str | None = field(init=False, default=None)  # the W3C trace id, 32 hex digits
    parent_span: str | None = field(init=False, default=None)
    snapshot: str = field(init=False, default="")  # the digest of the Snapshot it was answered under
    route: str | None = field(init=False, default=None)
    stream: bool = field(init=False, default=False)
    deadline: float | None = field(init=False, default=None)  # the monotonic time at which the call ends
    # what came of it
    model: str | None = field(init=False, default=None)  # the model artifact that answered
    provider: str | None = field(init=False, default=None)
    cache: CacheState = field(init=False, default="off")
    dropped: tuple[str, ...] = field(init=False, default=())
    usage: Usage | None = field(init=False, default=None)
    cost: Nano | None = field(init=False, default=None)
    finish: str | None = field(init=False, default=None)
    status: int = field(init=False, default=0)
    outcome: Outcome = field(init=False, default="failed")
    error: str | None = field(init=False, default=None)
    message: str | None = field(init=False, default=None)
    first_token: float | None = field(init=False, default=None)  # the monotonic clock, seconds
    upstream_seconds: float = field(init=False, default=0.0)  # waiting for upstreams: all the rest is our overhead
    reply_headers: tuple[tuple[str, str], ...] = field(init=False, default=())


@dataclass(slots=True)
class Reply:
    """An answer that has been committed to: its status is right and its frames are about to come.

    A streamed reply yields lists of frames as they arrive; a plain one yields a single list with a single frame, the
    body. Where ``dialect`` is the caller's, ``Frame.raw`` is what the caller gets; else ``Frame.events`` are written
    in the caller's dialect.
    """

    dialect: str
    stream: bool
    frames: AsyncIterator[list[Frame]]
    status: int = 200
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    progress: Progress | None = None  # what has been yielded so far, so that a broken stream can be ended properly


Answer = Callable[[Call], AbstractAsyncContextManager[Reply]]
"""Everything that answers. Entering commits (refusals and fallbacks happen there); leaving settles, exactly once."""

Stage = Callable[[Call, Answer], AbstractAsyncContextManager[Reply]]
"""Everything that stands in the way of an Answer."""
