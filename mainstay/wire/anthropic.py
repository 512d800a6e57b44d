"""Anthropic's Messages API: ``messages`` and ``count_tokens``, toward callers and toward upstreams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError, UpstreamFailed
from mainstay.core.event import Event
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire import (
    anthropic_body,
    anthropic_errors,
    anthropic_peek,
    anthropic_reply,
    anthropic_request,
    anthropic_writer,
)
from mainstay.wire.anthropic_cache import mark
from mainstay.wire.anthropic_foreign import without_foreign
from mainstay.wire.dialect import Fate, Field, Peek, Written
from mainstay.wire.json_edit import splice

_MAPPED = {
    "model": "model",
    "messages": "messages",
    "system": "messages",
    "max_tokens": "max_tokens",
    "stop_sequences": "stop",
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "tools": "tools",
    "tool_choice": "tool_choice, parallel_tools",
    "thinking": "reasoning",
    "output_config": "format",
    "output_format": "format",
    "cache_control": "cache_prompt",
}
_NOTES = {
    "system": "the first message, of role system",
    "tools": "custom tools; those that Anthropic defines are refused by name",
    "tool_choice": "disable_parallel_tool_use is parallel_tools",
    "output_config": "effort is reasoning, format is format; task_budget is refused",
    "output_format": "the older name of output_config.format",
}

FIELDS: dict[str, Field] = {
    **{name: Field("mapped", to, _NOTES.get(name, "")) for name, to in _MAPPED.items()},
    "metadata": Field("hint", "user", "user_id is the hint user"),
    **{name: Field("hint", name) for name in anthropic_request.HINTS},
    **{name: Field("refused", "", why) for name, why in anthropic_request.REFUSED.items()},
}
"""Every field of the Messages API, betas included."""

_PATHS = {"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}
_MARKED = ("tools", "system", "messages", "cache_control")

_encode = msgspec.json.Encoder().encode
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode


class Anthropic:
    """The dialect. ``clock`` reads a ``retry-after`` that is a date."""

    name: str = "anthropic"
    fields: Mapping[str, Field] = FIELDS
    expresses: Mapping[str, Fate] = anthropic_body.EXPRESSES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    # toward callers
    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """What the pipeline needs to know of ``body``. Raises ``Invalid``."""
        return anthropic_peek.peek(operation, body)

    def read_request(self, body: bytes) -> Request:
        """The canonical request of a body that was peeked at. Raises ``Invalid`` or ``Unsupported``."""
        return anthropic_request.read_request(body)

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A plain reply: one message; it repeats nothing of the request."""
        return anthropic_writer.write_reply(events)

    def writer(self, include_usage: bool = True, request: bytes | None = None) -> anthropic_writer.Writer:
        """A writer for one streamed reply; this format reports usage always, and repeats nothing of the request."""
        return anthropic_writer.Writer()

    def write_error(self, error: MainstayError, status: int, request_id: str | None = None) -> bytes:
        """The body of an error reply, with the error type that Anthropic gives ``status``."""
        return anthropic_errors.write_error(error, status, request_id)

    # toward upstreams
    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below the base URL. Raises ``KeyError`` for an operation that this format does not have."""
        return _PATHS[operation]

    def rewrite(
        self,
        operation: str,
        body: bytes,
        peek: Peek,
        model: str,
        ask_usage: bool,
        *,
        cache_prompt: str | None = None,
    ) -> bytes:
        """The caller's body with the model renamed. Nothing else changes, unless ``cache_prompt`` (``5m``, ``1h``)
        asks for cache marks: then tools, system prompt and messages are written anew; taken out are only thoughts
        that we passed on to the caller from a provider of another format."""
        if cache_prompt is not None and operation == "messages":
            return _with_marks(without_foreign(body, model), model, cache_prompt)
        return without_foreign(body if peek.model == model else splice(body, peek.model_at, _encode(model)), model)

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request in this format. Raises ``Unsupported`` for what it cannot say."""
        return anthropic_body.write_request(request, model, facts)

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Start, Finish, UsageSeen and End of a plain reply. Raises ``UpstreamFailed(unreadable)``."""
        return anthropic_reply.glance(operation, body)

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events. Raises ``UpstreamFailed(unreadable)``."""
        return anthropic_reply.read_reply(body)

    def reader(self, operation: str) -> anthropic_reply.Reader:
        """A reader for one streamed reply."""
        return anthropic_reply.Reader()

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means; header names are in lower case."""
        return anthropic_errors.read_error(status, headers, body, self._clock)


def _with_marks(body: bytes, model: str, ttl: str) -> bytes:
    values: dict[str, Any] = dict(_outline(body))
    payload = {name: _any(values[name]) for name in _MARKED if name in values}
    mark(payload, ttl)
    values |= payload
    values["model"] = model
    return _encode(values)
