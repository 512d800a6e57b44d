"""What became of one span of an application: the same shape whatever dialect it was told in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainstay.core.money import Nano
from mainstay.core.usage import Usage
from mainstay.observe.spans_dialect import Kind


@dataclass(frozen=True, slots=True)
class Content:
    """What people and models said. It is stored apart from the rest of a span, under its own retention.

    Text as it came, or JSON where it came as a structure. ``other`` holds what is neither what went in nor what came
    out (instructions, tool definitions, embeddings), by attribute.
    """

    input: str | None = None
    output: str | None = None
    other: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span, without content but for ``content``. None is unknown; times are nanoseconds since the epoch.

    ``dialect`` is the first of Langfuse, GenAI and OpenInference that it speaks, empty where it speaks none.
    ``reported_cost`` is what the application says that it cost; it is never mixed with what Mainstay charges.
    ``call`` is the id of the Mainstay Call that the span itself names; ``own`` tells that Mainstay sent it.
    """

    trace: str
    span: str
    parent: str | None
    name: str
    kind: Kind
    start: int
    end: int
    dialect: str
    ok: bool
    service: str | None = None
    error: str | None = None
    message: str | None = None
    model: str | None = None
    requested_model: str | None = None
    provider: str | None = None
    usage: Usage | None = None
    reported_cost: Nano | None = None
    session: str | None = None
    user: str | None = None
    workflow: str | None = None
    prompt_name: str | None = None
    prompt_version: str | None = None
    agent: str | None = None
    tool: str | None = None
    finish: tuple[str, ...] = ()
    response_id: str | None = None
    first_token_ms: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict[str, "str | int | float | bool"])
    dropped_attributes: int = 0
    call: str | None = None
    own: bool = False
    content: Content | None = None
