"""What a table of attribute names says: which attribute of a dialect means what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "llm", "tool", "retrieval", "embedding", "agent", "chain", "guard", "rerank", "evaluator", "other"
]  # fmt: skip
"""What a span of an application is. ``chain`` is any step that holds others: a chain, a task, a workflow."""

Field = Literal[
    "model",  # that answered
    "requested_model",  # that was asked for; stands in for the former
    "provider",
    "session",
    "user",
    "workflow",
    "environment",
    "prompt_name",
    "prompt_version",
    "agent",
    "tool",
    "finish",  # one reason or several
    "response_id",  # the provider's own id of its answer
    "first_token_s",  # seconds from the span's start to the first token
    "first_token_at",  # the same as a moment, ISO 8601
    "error_type",
    "error_message",
    "level",  # ERROR marks a span as failed
    "tags",  # a list of texts, or such a list as JSON
    "metadata",  # a JSON object
    "call",  # the id of a Mainstay Call
    "usage.input",
    "usage.output",
    "usage.total",
    "usage.cached_input",
    "usage.cache_write",
    "usage.reasoning",
    "usage.input_audio",
    "usage.output_audio",
    "usage.details",  # a JSON object of token counts
    "cost.total",  # dollars
    "cost.input",
    "cost.output",
    "cost.details",  # a JSON object of dollars
    "input",  # content
    "output",
    "content",  # content that is neither what went in nor what came out
]

Place = Literal["input", "output", "content", "metadata", "tag"]


@dataclass(frozen=True, slots=True)
class Family:
    """Attributes that begin alike: a list or an object that was spread over them.

    ``place`` is what they are together; ``wrapper`` is a level of the path that says nothing and is left out.
    """

    prefix: str
    place: Place
    wrapper: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One table. The names of a row are in the order of preference: where a span has several, the first counts.

    ``marks`` are prefixes that no other dialect uses. ``kinds`` gives, per attribute, what its values mean (in lower
    case); ``events`` the span events that hold content, and which side of the call it is.
    """

    name: str
    marks: tuple[str, ...]
    rows: Mapping[Field, tuple[str, ...]]
    kinds: Mapping[str, Mapping[str, Kind]]
    families: tuple[Family, ...] = ()
    events: Mapping[str, Place] = field(default_factory=dict[str, Place])
    first_token_events: frozenset[str] = frozenset()
