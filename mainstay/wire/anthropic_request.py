"""Reads a Messages request into the canonical request."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.request import (
    Document,
    Format,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from mainstay.wire.anthropic_fields import (
    AnyBlock,
    Body,
    CacheControl,
    DocumentBlock,
    FileSource,
    ImageBlock,
    MessageParam,
    PlainSource,
    RedactedBlock,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolChoiceParam,
    ToolKind,
    ToolParam,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)

REFUSED: dict[str, str] = {
    "betas": "betas of Anthropic's API mean nothing elsewhere",
    "billing_policy": "only Anthropic can bill by it",
    "compaction": "only Anthropic compacts a conversation",
    "container": "only Anthropic runs containers",
    "context_management": "only Anthropic edits the context",
    "fallback_credit_token": "only Anthropic redeems it",
    "fallbacks": "only Anthropic falls back by it; a route's fallback does the same here",
    "inference_geo": "where the answer is computed cannot be promised elsewhere",
    "mcp_servers": "only Anthropic calls MCP servers for the model",
    "thread": "only Anthropic keeps this conversation",
}
"""Fields that would change the answer and that no other format can say, each with the reason."""

HINTS = ("service_tier", "speed", "diagnostics", "user_profile_id", "workspace_id")
"""Fields that cannot change the answer, kept under their own names."""

_decode = msgspec.json.Decoder(Body).decode
_tool_kind = msgspec.json.Decoder(ToolKind).decode
_tool = msgspec.json.Decoder(ToolParam).decode
_PATH = re.compile(r"^(.*?)(?: - at `\$(.*?)`)?$", re.DOTALL)
_NAMED = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)


def read_request(body: bytes) -> Request:
    """The canonical request of ``body``. Raises ``Invalid`` or ``Unsupported`` with the field's path.

    That ``max_tokens`` is there is for ``peek`` to see, which knows whether the request only counts tokens.
    """
    said = _decoded(_decode, body)
    if not said.messages:
        raise Invalid("messages: at least one message is required", field="messages")
    if said.max_tokens is not None and said.max_tokens < 1:
        if said.max_tokens == 0:
            raise Unsupported(
                "max_tokens: 0 only warms Anthropic's prompt cache; ask for 1 or more", field="max_tokens"
            )
        raise Invalid("max_tokens: Input should be greater than or equal to 0", field="max_tokens")
    for name, why in REFUSED.items():
        if getattr(said, name) not in (None, [], {}, ""):
            raise Unsupported(f"{name}: {why}; leave it out, or ask a target of Anthropic's format", field=name)
    hints: dict[str, Any] = {name: value for name in HINTS if (value := getattr(said, name)) is not None}
    _read_metadata(said.metadata, hints)
    choice, parallel = _tool_choice(said.tool_choice)
    return Request(
        model=said.model,
        messages=(*_system(said.system), *_messages(said.messages, hints)),
        tools=_tools(said.tools or (), hints),
        tool_choice=choice,
        parallel_tools=parallel,
        format=_format(said),
        max_tokens=said.max_tokens,
        temperature=said.temperature,
        top_p=said.top_p,
        top_k=said.top_k,
        stop=tuple(said.stop_sequences or ()),
        reasoning=_reasoning(said, hints),
        stream=bool(said.stream),
        include_usage=bool(said.stream),
        cache_prompt=_cache(said.cache_control),
        hints=hints,
    )


def _decoded(decode: Any, body: bytes | msgspec.Raw, below: str = "") -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _complaint(str(error), below) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("the body is not valid JSON; check its syntax", code="invalid_json") from None


def _complaint(text: str, below: str) -> Invalid:
    """msgspec's complaint in the format's own words: paths such as ``messages.0.content``."""
    found = _PATH.match(text)
    what, path = (text, "") if found is None else (found[1], found[2] or "")
    field = ".".join(part for part in (below, path.replace("[", ".").replace("]", "").strip(".")) if part)
    named = _NAMED.match(what)
    if named is not None:
        field = f"{field}.{named[2]}" if field else named[2]
        if named[1] == "missing required":
            return Invalid(f"{field}: Field required", field=field)
        return Unsupported(
            f"{field}: this field is not known and cannot be translated; leave it out, or ask a target of "
            "Anthropic's format",
            field=field,
        )
    if what.startswith("Invalid value ") and field.endswith(".type"):
        return Unsupported(
            f"{field}: {what.removeprefix('Invalid value ')} has no counterpart in other formats; leave it out, or "
            "ask a target of Anthropic's format",
            field=field,
        )
    return Invalid(f"{field}: {what}" if field else what, field=field or None)


def _read_metadata(metadata: dict[str, Any] | None, hints: dict[str, Any]) -> None:
    if not metadata:
        return
    rest = dict(metadata)
    user = rest.pop("user_id", None)
    if user is not None:
        if not isinstance(user, str):
            raise Invalid("metadata.user_id: Input should be a valid string", field="metadata.user_id")
        hints["user"] = user
    if rest:
        hints["metadata"] = rest


def _cache(mark: CacheControl | None) -> str | None:
    return None if mark is None else mark.ttl or "5m"


def _system(system: str | list[TextBlock] | None) -> tuple[Message, ...]:
    if not system:
        return ()
    parts = (Text(system),) if isinstance(system, str) else tuple(Text(b.text, _cache(b.cache_control)) for b in system)
    return (Message("system", parts),)


def _messages(messages: list[MessageParam], hints: dict[str, Any]) -> list[Message]:
    found: list[Message] = []
    for i, message in enumerate(messages):
        if isinstance(message.content, str):
            found.append(Message(message.role, (Text(message.content),)))
            continue
        run: list[Part] = []
        for j, block in enumerate(message.content):
            part = _part(block, message.role, f"messages.{i}.content.{j}", hints)
            if isinstance(part, ToolResult):  # the canonical form has a message of its own for each
                if run:
                    found.append(Message(message.role, tuple(run)))
                    run = []
                found.append(Message("tool", (part,)))
            else:
                run.append(part)
        if run or not message.content:
            found.append(Message(message.role, tuple(run)))
    return found


_PLACE: dict[type, tuple[str, ...]] = {
    TextBlock: ("user", "assistant", "system"),
    ThinkingBlock: ("assistant",),
    RedactedBlock: ("assistant",),
    ToolUseBlock: ("assistant",),
}


def _part(block: AnyBlock, role: str, at: str, hints: dict[str, Any]) -> Part:
    if role not in _PLACE.get(type(block), ("user",)):
        name = str(type(block).__struct_config__.tag)
        raise Invalid(f"{at}: a {name} block cannot stand in a message of role {role}", field=at)
    if isinstance(block, ThinkingBlock):
        return Thinking(block.thinking, block.signature or None)
    if isinstance(block, RedactedBlock):
        return Thinking("", block.data, redacted=True)
    if isinstance(block, ToolUseBlock):
        return _tool_call(block, at)
    if not isinstance(block, ToolResultBlock):
        return _content(block, at, hints)
    _refuse_toolset(block.toolset_name, at)
    if isinstance(block.content, str):
        content: tuple[Any, ...] = (Text(block.content),) if block.content else ()
    else:
        content = tuple(_content(b, f"{at}.content.{k}", hints) for k, b in enumerate(block.content or ()))
    return ToolResult(block.tool_use_id, content, bool(block.is_error), cache=_cache(block.cache_control))


def _tool_call(block: ToolUseBlock, at: str) -> ToolCall:
    if block.caller is not None and block.caller.type != "direct":
        raise _untranslatable(f"{at}.caller", "a call made by code that Anthropic runs")
    _refuse_toolset(block.toolset_name, at)
    arguments = bytes(block.input).decode()
    if not arguments.startswith("{"):
        raise Invalid(f"{at}.input: Input should be a valid dictionary", field=f"{at}.input")
    return ToolCall(block.id, block.name, arguments, _cache(block.cache_control))


def _content(
    block: TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, at: str, hints: dict[str, Any]
) -> Text | Image | Document:
    cache = _cache(block.cache_control)
    if isinstance(block, TextBlock):
        if block.citations:  # of an earlier answer; its text stays
            hints["messages.content.citations"] = True
        return Text(block.text, cache)
    if isinstance(block, ImageBlock):
        if block.transformations and block.transformations.get("oversized_image", "downsize") != "downsize":
            raise _untranslatable(f"{at}.transformations", "an error for images that are too large")
        if isinstance(block.source, UrlSource):
            return Image(url=block.source.url, cache=cache)
        return Image(data=block.source.data, media_type=block.source.media_type, cache=cache)
    if block.citations is not None and block.citations.enabled:
        raise _untranslatable(f"{at}.citations", "citing from a document")
    if isinstance(block, SearchResultBlock):
        words = "\n".join(text.text for text in block.content)
        return Text(f"{block.title}\n{block.source}\n\n{words}", cache)
    if block.context:
        raise _untranslatable(f"{at}.context", "context beside a document")
    return _document(block, cache)


def _document(block: DocumentBlock, cache: str | None) -> Document:
    source = block.source
    if isinstance(source, UrlSource):
        return Document(url=source.url, name=block.title, cache=cache)
    if isinstance(source, FileSource):
        return Document(file_id=source.file_id, name=block.title, cache=cache)
    data = base64.b64encode(source.data.encode()).decode() if isinstance(source, PlainSource) else source.data
    return Document(data=data, media_type=source.media_type, name=block.title, cache=cache)


def _refuse_toolset(name: str | None, at: str) -> None:
    if name is not None:
        raise _untranslatable(f"{at}.toolset_name", "a toolset of Anthropic's")


def _untranslatable(field: str, what: str) -> Unsupported:
    return Unsupported(
        f"{field}: {what} cannot be said in other formats; leave it out, or ask a target of Anthropic's format",
        field=field,
    )


def _tools(tools: Sequence[msgspec.Raw], hints: dict[str, Any]) -> tuple[Tool, ...]:
    found: list[Tool] = []
    for i, raw in enumerate(tools):
        at = f"tools.{i}"
        kind = cast(ToolKind, _decoded(_tool_kind, raw, at))
        if kind.type not in (None, "custom"):
            raise _untranslatable(at, f"{kind.type}, a tool that Anthropic defines,")
        tool = cast(ToolParam, _decoded(_tool, raw, at))
        if tool.defer_loading:
            raise _untranslatable(f"{at}.defer_loading", "a tool that is found by search")
        if tool.allowed_callers is not None and tool.allowed_callers != ["direct"]:
            raise _untranslatable(f"{at}.allowed_callers", "a tool for code that Anthropic runs")
        if tool.input_examples:
            raise _untranslatable(f"{at}.input_examples", "examples of a tool's input")
        if tool.eager_input_streaming is not None:
            hints["tools.eager_input_streaming"] = tool.eager_input_streaming
        found.append(Tool(tool.name, tool.description, tool.input_schema, tool.strict, _cache(tool.cache_control)))
    return tuple(found)


def _tool_choice(choice: ToolChoiceParam | None) -> tuple[ToolChoice | None, bool | None]:
    if choice is None:
        return None, None
    parallel = None if choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use
    if choice.type == "tool":
        if not choice.name:
            raise Invalid("tool_choice.name: Field required", field="tool_choice.name")
        return ToolChoice("named", choice.name), parallel
    if choice.type == "any":
        return ToolChoice("required"), parallel
    return ToolChoice(choice.type), parallel


def _format(said: Body) -> Format | None:
    wanted = said.output_format
    if said.output_config is not None and said.output_config.format is not None:
        wanted = said.output_config.format
    return None if wanted is None else Format("schema", wanted.schema, strict=True)


def _reasoning(said: Body, hints: dict[str, Any]) -> Reasoning | None:
    effort: str | None = None
    if said.output_config is not None:
        effort = said.output_config.effort
        if said.output_config.task_budget is not None:
            raise _untranslatable("output_config.task_budget", "a budget for a whole task")
    thinking = said.thinking
    if thinking is None:
        return None if effort is None else Reasoning(effort)
    summary = "auto" if thinking.display == "summarized" else None
    if thinking.display == "omitted":
        hints["thinking.display"] = "omitted"
    if thinking.type == "disabled":
        if effort is not None:
            hints["output_config.effort"] = effort
        return Reasoning("none")
    if thinking.type == "adaptive":
        return Reasoning(effort, summary=summary, adaptive=True)
    if thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise Invalid("thinking.budget_tokens: Field required", field="thinking.budget_tokens")
        return Reasoning(effort, thinking.budget_tokens, summary)
    if thinking.type == "between_tools":
        raise _untranslatable("thinking.type", "between_tools")
    raise Invalid("thinking.type: use enabled, disabled or adaptive", field="thinking.type")
