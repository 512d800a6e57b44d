"""The fields of a Messages request, typed; a field that is not here cannot be translated."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class CacheControl(msgspec.Struct):
    """A cache mark."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """What all content blocks share."""

    cache_control: CacheControl | None = None


class TextBlock(Block, tag="text"):
    """Text."""

    text: str
    citations: list[Any] | None = None


class Base64Source(msgspec.Struct, tag_field="type", tag="base64", forbid_unknown_fields=True):
    """Content in the request itself."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url", forbid_unknown_fields=True):
    """Content that Anthropic fetches."""

    url: str


class FileSource(msgspec.Struct, tag_field="type", tag="file", forbid_unknown_fields=True):
    """Content that lies with Anthropic."""

    file_id: str


class PlainSource(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A document of plain text."""

    data: str
    media_type: str = "text/plain"


class ImageBlock(Block, tag="image"):
    """An image."""

    source: Base64Source | UrlSource
    transformations: dict[str, Any] | None = None


class CitationsConfig(msgspec.Struct):
    """Whether the model shall cite from a document."""

    enabled: bool = False


class DocumentBlock(Block, tag="document"):
    """A document."""

    source: Base64Source | UrlSource | FileSource | PlainSource
    title: str | None = None
    context: str | None = None
    citations: CitationsConfig | None = None


class SearchResultBlock(Block, tag="search_result"):
    """A result of the caller's own search."""

    source: str
    title: str
    content: list[TextBlock]
    citations: CitationsConfig | None = None


class ThinkingBlock(Block, tag="thinking"):
    """Signed reasoning of an earlier turn."""

    thinking: str
    signature: str = ""


class RedactedBlock(Block, tag="redacted_thinking"):
    """Encrypted reasoning of an earlier turn."""

    data: str


class Caller(msgspec.Struct):
    """Who made a tool call: the model, or code that Anthropic runs."""

    type: str = "direct"


class ToolUseBlock(Block, tag="tool_use"):
    """A tool call of the model."""

    id: str
    name: str
    input: msgspec.Raw
    caller: Caller | None = None
    toolset_name: str | None = None


class ToolResultBlock(Block, tag="tool_result"):
    """What a tool gave back."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


AnyBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedBlock
    | ToolUseBlock
    | ToolResultBlock
)


class MessageParam(msgspec.Struct, forbid_unknown_fields=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[AnyBlock]


class ToolKind(msgspec.Struct):
    """Enough of a tool to tell a custom one from one that Anthropic defines."""

    type: str | None = None
    name: str = ""


class ToolParam(msgspec.Struct, forbid_unknown_fields=True):
    """A custom tool."""

    name: str
    input_schema: dict[str, Any]
    type: str | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    input_examples: list[Any] | None = None


class ToolChoiceParam(msgspec.Struct, forbid_unknown_fields=True):
    """Whether and which tool to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Whether and how much to think."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, forbid_unknown_fields=True):
    """The schema of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer shall be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole request."""

    model: str
    messages: list[MessageParam]
    max_tokens: int | None = None
    system: str | list[TextBlock] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: CacheControl | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    speed: str | None = None
    diagnostics: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None
    betas: Any = None
    billing_policy: Any = None
    compaction: Any = None
    container: Any = None
    context_management: Any = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    inference_geo: Any = None
    mcp_servers: Any = None
    thread: Any = None
