"""The names under which Mainstay's own spans and metrics leave, in one table: OpenTelemetry's GenAI conventions, both
generations.

*old*: semantic conventions 1.41 (with ``gen_ai.system``, which they had until 1.36). *new*: the conventions' own
repository after it, whose migration guide lists what was renamed. All of it is at Development status there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Generation = Literal["old", "new", "both"]

OPT_IN = "gen_ai_latest_experimental"
"""The word in ``OTEL_SEMCONV_STABILITY_OPT_IN`` that means the new generation; with ``/dup`` after it, both."""


def generation_of(setting: str) -> Generation:
    """What ``old``, ``new``, ``both``, or a list as in ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for. Without it: old.

    Raises ``ValueError`` for a single word that is none of them.
    """
    words = [word.strip() for word in setting.split(",") if word.strip()]
    if "both" in words or f"{OPT_IN}/dup" in words or {"old", "new"} <= set(words):
        return "both"
    if "new" in words or OPT_IN in words:
        return "new"
    if not words or "old" in words or len(words) > 1 or "/" in words[0]:
        return "old"
    if words[0] in ("http", "database", "messaging", "rpc", "k8s", "code"):  # other conventions' words
        return "old"
    raise ValueError(f"{setting!r} is no generation of names; write old, new or both")


@dataclass(frozen=True, slots=True)
class Name:
    """What something is called in the old and in the new generation; more than one where it was said twice."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    def of(self, generation: Generation) -> tuple[str, ...]:
        """Its names in ``generation``, each once."""
        if generation == "both":
            return tuple(dict.fromkeys(self.old + self.new))
        return self.old if generation == "old" else self.new


def _same(name: str) -> Name:
    return Name((name,), (name,))


ATTRIBUTES: Mapping[str, Name] = {
    "operation": _same("gen_ai.operation.name"),
    "provider": Name(("gen_ai.provider.name", "gen_ai.system"), ("gen_ai.provider.name",)),
    "request_model": _same("gen_ai.request.model"),
    "response_model": _same("gen_ai.response.model"),
    "stream": _same("gen_ai.request.stream"),
    "finish": _same("gen_ai.response.finish_reasons"),
    "first_token": _same("gen_ai.response.time_to_first_chunk"),
    "session": _same("gen_ai.conversation.id"),
    "workflow": _same("gen_ai.workflow.name"),
    "input": _same("gen_ai.usage.input_tokens"),
    "output": _same("gen_ai.usage.output_tokens"),
    "cached_input": _same("gen_ai.usage.cache_read.input_tokens"),
    "cache_write": Name(("gen_ai.usage.cache_creation.input_tokens",), ("gen_ai.usage.cache_write.input_tokens",)),
    "reasoning": _same("gen_ai.usage.reasoning.output_tokens"),
    "input_audio": Name((), ("gen_ai.usage.audio.input_tokens",)),
    "output_audio": Name((), ("gen_ai.usage.audio.output_tokens",)),
    "input_messages": _same("gen_ai.input.messages"),
    "output_messages": _same("gen_ai.output.messages"),
    "token_type": Name(("gen_ai.token.type",), ()),
    "modality": Name((), ("gen_ai.token.modality",)),
}
"""Attributes of spans and metrics."""

METRICS: Mapping[str, Name] = {
    "duration": Name(("gen_ai.client.operation.duration",), ("gen_ai.client.inference.duration",)),
    "embeddings_duration": Name(("gen_ai.client.operation.duration",), ("gen_ai.client.embeddings.duration",)),
    "other_duration": _same("gen_ai.client.operation.duration"),  # of what is neither
    "first_token": Name(
        ("gen_ai.client.operation.time_to_first_chunk",), ("gen_ai.client.inference.time_to_first_chunk",)
    ),
    "served_first_token": _same("gen_ai.server.time_to_first_token"),
    "served_output_token": _same("gen_ai.server.time_per_output_token"),
    "tokens": Name(("gen_ai.client.token.usage",), ()),
    "input_each": Name((), ("gen_ai.client.inference.operation.input_tokens",)),
    "output_each": Name((), ("gen_ai.client.inference.operation.output_tokens",)),
    "embeddings_each": Name((), ("gen_ai.client.embeddings.operation.input_tokens",)),
    "input": Name((), ("gen_ai.client.inference.usage.input_tokens",)),
    "output": Name((), ("gen_ai.client.inference.usage.output_tokens",)),
    "cached_input": Name((), ("gen_ai.client.inference.usage.cache_read.input_tokens",)),
    "cache_write": Name((), ("gen_ai.client.inference.usage.cache_write.input_tokens",)),
    "reasoning": Name((), ("gen_ai.client.inference.usage.reasoning.output_tokens",)),
}
"""Metrics."""

INFERENCE: frozenset[str] = frozenset(("chat", "text_completion", "generate_content"))
"""Operations that are inference, as the new generation divides them."""

_OPERATIONS = {
    "messages": "chat",
    "responses": "chat",
    "responses.compact": "chat",
    "completions": "text_completion",
}

PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""Provider kinds whose well-known name is another; ``openai``, ``anthropic``, ``groq`` and others are the same."""


def operation_of(operation: str) -> str:
    """The conventions' word for an operation of ours; ours where they have none."""
    return _OPERATIONS.get(operation, operation)
