"""A call with what the pipeline's own stages add to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mainstay.core.call import Call
from mainstay.core.money import Nano

if TYPE_CHECKING:
    from mainstay.access.purse import Hold
    from mainstay.access.rules import Claim
    from mainstay.gateway.active import Active
    from mainstay.gateway.cache import Recording
    from mainstay.gateway.content import Kept
    from mainstay.gateway.plan import Opened, Plan, Route
    from mainstay.gateway.target import Target
    from mainstay.upstream.ask import Ask


@dataclass(slots=True)
class Routed(Call):
    """A ``Call`` inside the gateway. A stage reads what the stages before it have set."""

    plan: Plan = None  # type: ignore[assignment]
    """The compiled Snapshot under which the call is answered, from its first stage to its last."""
    opened_by: Opened = None  # type: ignore[assignment]
    """What the caller's key opens."""
    to: Route = None  # type: ignore[assignment]
    ask: Ask = None  # type: ignore[assignment]
    order: list[Target] = field(default_factory=list["Target"])
    """The targets to try, best first."""
    hold: Hold | None = None
    model_holds: dict[str, Hold] = field(default_factory=dict[str, "Hold"])
    """Holds under budgets by model, for each target that may answer."""
    claims: list[Claim] = field(default_factory=list["Claim"])
    bound: Nano | None = None
    """The most that the call can cost; None where a price is unknown."""
    priority: int = 0
    keep_content: bool = False
    fallback: bool = False
    """Another target than the first choice answered, or helped."""
    opened: bool = False
    """An opening record is in the journal."""
    running: list[Active] = field(default_factory=list["Active"])
    """Every attempt that was begun."""
    recording: Recording | None = None
    """What the cache keeps of the reply while it passes."""
    reply_type: str = "application/json"
    kept: Kept | None = None
    """What is kept of inputs and outputs."""
    content: str | None = None
    """Where it was put."""
