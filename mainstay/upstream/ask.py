"""What is asked of one target, and the source of frames that comes back: the same for HTTP and the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from mainstay.core.errors import Unsupported, UpstreamFailed
from mainstay.core.event import Frame
from mainstay.core.model import ModelFacts
from mainstay.core.request import Message, Request, Text
from mainstay.wire.dialect import Dialect, Peek


@dataclass(frozen=True, slots=True)
class Phases:
    """How long each phase may take, in seconds."""

    connect: float = 5.0
    first_token: float = 60.0
    idle: float = 60.0
    plain: float = 300.0
    total: float = 600.0


class Repeats(Protocol):
    """Says whether a request may be put on the wire once more for one and the same attempt."""

    repeated: bool
    """One has been: a kept connection was dead, so that from then on none is trusted."""

    def repeats(self, now: float) -> bool:
        """Whether it may be done at ``now`` on the monotonic clock; if so it is counted."""
        ...


class Ask:
    """One caller's request, ready to be put to any target; what translation needs is made once, when first needed."""

    __slots__ = (
        "_request",
        "body",
        "deadline",
        "dialect",
        "dropped",
        "headers",
        "operation",
        "pace",
        "peek",
        "phases",
        "prefilled",
        "prompt_cache",
        "repeated",
        "sent",
    )

    def __init__(
        self,
        operation: str,
        dialect: Dialect,
        body: bytes,
        peek: Peek,
        phases: Phases,
        deadline: float,
        headers: Mapping[str, str] | None = None,
        prompt_cache: str | None = None,
    ) -> None:
        self.operation = operation
        self.dialect = dialect
        self.body = body
        self.peek = peek
        self.phases = phases
        self.deadline = deadline  # monotonic
        self.headers = headers or {}
        """Of the caller's headers, those that go along (traceparent, a vendor's beta flags)."""
        self.prompt_cache = prompt_cache
        self.dropped: set[str] = set()
        """Hints that a target had no word for, in the caller's words."""
        self.prefilled = False
        """The canonical request says more than the body, so that no target may be given the body itself."""
        self.sent = 0
        """How many targets it has been put to; what was not put to anybody costs nothing."""
        self.pace: Repeats | None = None
        """The bounds of the call's requests; without it each exchange may repeat its own once."""
        self.repeated = ""
        """The model whose request has just been repeated over a new connection; for whoever tells of it."""
        self._request: Request | None = None

    def request(self) -> Request:
        """The canonical request. Raises ``Invalid`` or ``Unsupported``."""
        if self._request is None:
            request = self.dialect.read_request(self.body)
            if self.peek.stream:
                request = replace(request, stream=True, include_usage=True)
            if self.prompt_cache is not None:
                request = replace(request, cache_prompt=self.prompt_cache)
            self._request = request
        return self._request

    def connect_timeout(self, now: float) -> float:
        """Seconds that connecting may take, at ``now`` on the monotonic clock."""
        left = self.deadline - now
        connect = self.phases.connect
        return connect if connect < left else left if left > 0.0 else 0.0

    def continuing(self, sent: str) -> Ask:
        """The same question with the beginning of the answer already given, for a target that continues a prefill."""
        request = self.request()
        prefilled = Message("assistant", (Text(sent),))
        other = Ask(
            self.operation,
            self.dialect,
            self.body,
            self.peek,
            self.phases,
            self.deadline,
            self.headers,
            self.prompt_cache,
        )
        other._request = replace(request, messages=(*request.messages, prefilled))
        other.dropped = self.dropped
        other.pace = self.pace
        other.prefilled = True
        return other

    def write(self, dialect: Dialect, model: str, facts: ModelFacts) -> bytes:
        """The request in ``dialect``. Errors name the field as the caller wrote it."""
        request = self.request()  # what is wrong with it is said in the caller's words already
        try:
            written = dialect.write_request(request, model, facts)
        except Unsupported as error:
            raise Unsupported(
                f"{self.word(error.field)}: {error.message}", field=self.word(error.field), code=error.code
            ) from None
        self.dropped.update(self.word(name) for name in written.dropped)
        return written.body

    def word(self, attribute: str | None) -> str:
        """The caller's word for an attribute of the canonical request."""
        if attribute is None:
            return ""
        for name, field in self.dialect.fields.items():
            if attribute in field.to.split(", "):
                return name
        return attribute


class Source(Protocol):
    """One attempt that a target has accepted: its frames are about to come."""

    status: int
    request_id: str | None
    dialect: Dialect
    raw: bool
    """Frames carry bytes of the caller's own dialect."""
    stream: bool
    content_type: str
    headers: list[tuple[str, str]]
    done: bool
    """The wire's own sign of the end was seen."""

    async def next(self) -> list[Frame]:
        """The next frames; an empty list at the end. Raises ``UpstreamFailed``."""
        ...

    def hide(self, failure: UpstreamFailed) -> None:
        """Take out of ``failure``, made of what the provider said, what it quotes of our own secrets."""
        ...

    def close(self) -> None:
        """Done with it: the connection is reused if the reply is complete, else closed, which cancels the upstream."""
        ...


class Answerer(Protocol):
    """What a target sends its asks to."""

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> Source:
        """Put the question; returns when the reply's head is there. Raises ``UpstreamFailed``, ``Unsupported``, ``Invalid``."""
        ...
