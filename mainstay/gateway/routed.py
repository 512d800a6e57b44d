"""A call with what the pipeline's own stages add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from mainstay.core.call import Call
from mainstay.core.money import Nano

if TYPE_CHECKING:
    from mainstay.access.purse import Hold
    from mainstay.access.rules import Claim
    from mainstay.core.errors import MainstayError
    from mainstay.gateway.active import Active
    from mainstay.gateway.cache import Recording
    from mainstay.gateway.content import Kept
    from mainstay.gateway.plan import Opened, Plan, Route
    from mainstay.gateway.stream import Stream
    from mainstay.gateway.target import Target
    from mainstay.gateway.turn import Compacting, Recent, Turn
    from mainstay.upstream.ask import Ask

NO_HOLDS: Mapping[str, Hold] = MappingProxyType({})


class Routed(Call):
    """A ``Call`` inside the gateway. A stage reads what the stages before it have set."""

    plan: Plan
    """The compiled Snapshot under which the call is answered, from its first stage to its last."""
    opened_by: Opened
    """What the caller's key opens."""
    to: Route
    ask: Ask
    tokens: int = 0
    """The input tokens, estimated."""
    order: Sequence[Target] = ()
    """The targets to try, best first."""
    choice: str = ""
    """The first of them, before budgets or health made it another."""
    branch: tuple[str, ...] = ()
    """Which cases of the route held for this call."""
    hold: Hold | None = None
    model_holds: Mapping[str, Hold]
    """Holds under budgets by model, for each target that may answer."""
    claims: Sequence[Claim] = ()
    bound: Nano | None = None
    """The most that the call can cost; None where a price is unknown."""
    priority: int = 0
    keep_content: bool = False
    fallback: bool = False
    """Another target than the first choice answered, or helped."""
    opened: bool = False
    """An opening record is in the journal."""
    running: Sequence[Active] = ()
    """Every attempt that was begun."""
    stream_of: Stream | None = None
    """What yields the reply's frames."""
    recording: Recording | None = None
    """What the cache keeps of the reply while it passes."""
    reply_type: str = "application/json"
    kept: Kept | None = None
    """What is kept of inputs and outputs."""
    content: str | None = None
    """Where it was put."""
    turn: Turn | Compacting | None = None
    """With the Responses API: what the reply needs of the conversation, and what is kept of it."""
    recent: Recent | None = None
    """The last responses on the same WebSocket connection."""
    warm_up: bool = False
    """No answer is wanted: what was sent is kept for later turns."""
    refusal: MainstayError | None = None
    """Why the call is refused, found out before its body could be read."""

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
        super().__init__(id, at, started, operation, dialect, headers, body, query)
        self.model_holds = NO_HOLDS
