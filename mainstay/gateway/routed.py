"""A call with what the pipeline's own stages add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Routed(Call):
    """A ``Call`` inside the gateway. A stage reads what the stages before it have set."""

    plan: Plan = field(init=False)
    """The compiled Snapshot under which the call is answered, from its first stage to its last."""
    opened_by: Opened = field(init=False)
    """What the caller's key opens."""
    to: Route = field(init=False)
    ask: Ask = field(init=False)
    tokens: int = field(init=False, default=0)
    """The input tokens, estimated."""
    order: Sequence[Target] = field(init=False, default=())
    """The targets to try, best first."""
    choice: str = field(init=False, default="")
    """The first of them, before budgets or health made it another."""
    branch: tuple[str, ...] = field(init=False, default=())
    """Which cases of the route held for this call."""
    hold: Hold | None = field(init=False, default=None)
    model_holds: Mapping[str, Hold] = field(init=False, default_factory=dict[str, "Hold"])
    """Holds under budgets by model, for each target that may answer."""
    claims: Sequence[Claim] = field(init=False, default=())
    bound: Nano | None = field(init=False, default=None)
    """The most that the call can cost; None where a price is unknown."""
    priority: int = field(init=False, default=0)
    keep_content: bool = field(init=False, default=False)
    fallback: bool = field(init=False, default=False)
    """Another target than the first choice answered, or helped."""
    opened: bool = field(init=False, default=False)
    """An opening record is in the journal."""
    running: Sequence[Active] = field(init=False, default=())
    """Every attempt that was begun."""
    stream_of: Stream | None = field(init=False, default=None)
    """What yields the reply's frames."""
    recording: Recording | None = field(init=False, default=None)
    """What the cache keeps of the reply while it passes."""
    reply_type: str = field(init=False, default="application/json")
    kept: Kept | None = field(init=False, default=None)
    """What is kept of inputs and outputs."""
    content: str | None = field(init=False, default=None)
    """Where it was put."""
    turn: Turn | Compacting | None = field(init=False, default=None)
    """With the Responses API: what the reply needs of the conversation, and what is kept of it."""
    recent: Recent | None = field(init=False, default=None)
    """The last responses on the same WebSocket connection."""
    warm_up: bool = field(init=False, default=False)
    """No answer is wanted: what was sent is kept for later turns."""
    refusal: MainstayError | None = field(init=False, default=None)
    """Why the call is refused, found out before its body could be read."""
