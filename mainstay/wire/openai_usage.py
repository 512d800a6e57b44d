"""Usage as OpenAI and those who copy it write it, and as we do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.core.usage import Usage, clamped

_Number = int | float | None


class Details(msgspec.Struct, gc=False):
    """The parts of a total."""

    cached_tokens: _Number = None
    cache_write_tokens: _Number = None
    cache_creation_tokens: _Number = None
    audio_tokens: _Number = None
    reasoning_tokens: _Number = None


class Reported(msgspec.Struct, gc=False):
    """A ``usage`` object of chat, completions, embeddings, images or transcriptions, with the words of several vendors."""

    prompt_tokens: _Number = None
    completion_tokens: _Number = None
    total_tokens: _Number = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens: _Number = None  # images, transcriptions
    output_tokens: _Number = None
    input_tokens_details: Details | None = None
    input_token_details: Details | None = None
    output_tokens_details: Details | None = None
    prompt_cache_hit_tokens: _Number = None  # DeepSeek
    cached_tokens: _Number = None  # Moonshot
    num_cached_tokens: _Number = None  # Mistral
    cache_read_input_tokens: _Number = None  # proxies of Anthropic
    cache_creation_input_tokens: _Number = None
    reasoning_tokens: _Number = None  # Perplexity


def read_usage(said: Reported | None) -> Usage | None:
    """The usage in our terms; None where nothing was counted in tokens (an audio's seconds, say)."""
    if said is None:
        return None
    prompt = said.prompt_tokens if said.prompt_tokens is not None else said.input_tokens
    completion = said.completion_tokens if said.completion_tokens is not None else said.output_tokens
    if prompt is None and completion is None:
        return None if said.total_tokens is None else clamped(int(said.total_tokens), 0)
    inside = said.prompt_tokens_details or said.input_tokens_details or said.input_token_details or _NONE
    out = said.completion_tokens_details or said.output_tokens_details or _NONE
    cached = _first(
        inside.cached_tokens,
        said.prompt_cache_hit_tokens,
        said.cached_tokens,
        said.num_cached_tokens,
        said.cache_read_input_tokens,
    )
    written = _first(inside.cache_write_tokens, inside.cache_creation_tokens, said.cache_creation_input_tokens)
    reasoning = _first(out.reasoning_tokens, said.reasoning_tokens)
    read, made = int(prompt or 0), int(completion or 0)
    excess = int(said.total_tokens or 0) - read - made
    if excess > 0 and completion is not None:
        # The total is what is billed. Some leave reasoning out of the completion (xAI), or do so without telling the
        # number (Gemini); some leave what the cache gave out of the prompt.
        if excess == reasoning:
            made += excess
        elif excess == cached + written:
            read += excess
        elif not reasoning:
            made += excess
            reasoning = excess
    parts = (cached, written, reasoning, int(inside.audio_tokens or 0), int(out.audio_tokens or 0))
    if min(parts) >= 0 and cached + written + parts[3] <= read and reasoning + parts[4] <= made:
        return Usage(read, made, *parts)
    return clamped(read, made, *parts)


_NONE = Details()


def _first(*figures: _Number) -> int:
    for figure in figures:
        if figure:
            return int(figure)
    return 0


def convert_usage(value: Any) -> Usage | None:
    """Like ``read_usage`` for a decoded value of which nothing is known; what is odd in it is passed over."""
    if not isinstance(value, Mapping):
        return None
    kept: dict[str, Any] = {}
    for name in Reported.__struct_fields__:
        inner: Any = value.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        try:
            msgspec.convert({name: inner}, Reported, strict=False)
        except msgspec.ValidationError:
            continue
        kept[name] = inner
    try:
        return read_usage(msgspec.convert(kept, Reported, strict=False))
    except (OverflowError, ValueError):  # a number that is none
        return None


def write_usage(usage: Usage) -> dict[str, Any]:
    """Chat's ``usage`` object."""
    inside = {"cached_tokens": usage.cached_input, "audio_tokens": usage.input_audio}
    if usage.cache_write:
        inside["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": inside,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.output_audio,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
