"""What is known of a model: its sizes and what it can take."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MAX_OUTPUT = 4096
"""Output tokens assumed where neither the caller nor the model's facts give a limit."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes in tokens and capabilities of one model. None means unknown, and unknown is never a reason to refuse.

    ``prefill``: the model continues a last message of role assistant. ``sampling``: it accepts ``temperature`` and
    ``top_p``. ``max_tokens_field`` is the chat field that bounds its answer. ``roles_developer``: it knows the role.
    """

    context_window: int | None = None
    max_output: int | None = None
    tools: bool | None = None
    images: bool | None = None
    audio: bool | None = None
    documents: bool | None = None
    schema: bool | None = None
    reasoning: bool | None = None
    sampling: bool | None = None
    prefill: bool | None = None
    max_tokens_field: str | None = None
    stream_usage: bool | None = None  # it understands stream_options.include_usage
    roles_developer: bool | None = None
    top_k: bool | None = None  # its chat format has top_k and min_p, which OpenAI's own has not


UNKNOWN = ModelFacts()
"""Nothing is known."""
