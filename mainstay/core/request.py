"""The canonical request: what a caller asks of a model, whatever the wire format.

A wire reads its own format into a ``Request`` and writes a ``Request`` in its own format; a request goes through this
only where the caller's format is not the upstream's. Each wire's field table says of every field of its format
whether it is mapped to one of these, a hint, or refused (docs/decisions/0003-canonical-request.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. ``cache`` asks the provider to cache the prompt up to here, for ``"5m"`` or ``"1h"``."""

    text: str
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: a ``url``, or base64 ``data`` with its ``media_type`` (exactly one of the two)."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound: base64 ``data`` in ``format`` (``wav``, ``mp3``)."""

    data: str
    format: str


@dataclass(frozen=True, slots=True)
class Document:
    """A file such as a PDF: a ``url``, base64 ``data`` with ``media_type``, or a provider's ``file_id``."""

    url: str | None = None
    data: str | None = None
    file_id: str | None = None
    media_type: str | None = None
    name: str | None = None
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asked for a tool; ``arguments`` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool gave back for the call of that ``id``."""

    id: str
    content: tuple[Text | Image | Document, ...]
    is_error: bool = False
    name: str | None = None  # the tool's name, where the wire format repeats it
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning of an earlier turn. ``signature`` is the provider's proof or encrypted content, opaque to us."""

    text: str
    signature: str | None = None
    redacted: bool = False
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model declined, in its own words."""

    text: str


Part = Text | Image | Audio | Document | ToolCall | ToolResult | Thinking | Refusal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. A tool's result is a message of role ``tool`` with one ``ToolResult``."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may (``auto``), must (``required``), must not (``none``) use a tool, or which (``named``)."""

    mode: Literal["auto", "required", "none", "named"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """The shape of the answer: any ``json`` object, or one that fits ``schema``."""

    kind: Literal["json", "schema"]
    schema: Mapping[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much to think first: an ``effort`` (none, minimal, low, medium, high, xhigh) or a ``budget`` in tokens.

    ``summary`` asks for a readable summary (``auto``, ``concise``, ``detailed``); ``adaptive`` lets the model decide.
    """

    effort: str | None = None
    budget: int | None = None
    summary: str | None = None
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model. None means that the caller did not say."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    format: Format | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    stream: bool = False
    include_usage: bool = False  # the caller of a stream asked for usage in it
    cache_prompt: str | None = None  # put provider cache marks in: "5m" or "1h" (a route's option)
    hints: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields that cannot change the answer (``user``, ``metadata`` …), under their canonical names."""
