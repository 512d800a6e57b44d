"""What the pipeline needs to know of a Messages request, read without building the canonical request."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mainstay.core.errors import Invalid
from mainstay.wire.dialect import Peek
from mainstay.wire.json_edit import members


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _ToolName(msgspec.Struct):
    type: str | None = None


class _Source(msgspec.Struct):
    type: str = ""
    content: Any = None


class _Block(msgspec.Struct):
    type: str = ""
    source: _Source | str | None = None
    content: Any = None


class _Message(msgspec.Struct):
    content: str | list[_Block] = ""


class _OutputConfig(msgspec.Struct):
    format: Any = None


_text = msgspec.json.Decoder(str).decode
_flag = msgspec.json.Decoder(bool | None).decode
_count = msgspec.json.Decoder(int | None).decode
_metadata = msgspec.json.Decoder(_Metadata | None).decode
_tools = msgspec.json.Decoder(list[_ToolName] | None).decode
_messages = msgspec.json.Decoder(list[_Message]).decode
_output_config = msgspec.json.Decoder(_OutputConfig | None).decode
_any = msgspec.json.Decoder().decode

# Letters and underscores written as escapes could hide a word from a search of the bytes.
_HIDDEN = re.compile(rb"\\u00[567]")

# Tools that Anthropic defines and the caller runs: what they cost lies in the conversation itself.
_CALLER_RUN = ("custom", "bash_", "text_editor_", "computer_", "memory_", "browser_")

_EXTENDS = {
    "mcp_servers": "tools that the provider runs",
    "container": "files and skills kept by the provider",
    "thread": "a conversation kept by the provider",
    "context_management": "further passes by the provider",
    "compaction": "further passes by the provider",
    "fallbacks": "further models of the provider",
}


def peek(operation: str, body: bytes) -> Peek:
    """What the pipeline needs to know of ``body``. Raises ``Invalid`` where it is no Messages request or ambiguous."""
    values, model_at = members(body)
    model = _value(values, "model", _text, "a string")
    if not model:
        raise Invalid("model: Field required", field="model")
    if "messages" not in values:
        raise Invalid("messages: Field required", field="messages")
    max_tokens = _value(values, "max_tokens", _count, "an integer")
    if operation == "messages":
        if max_tokens is None:
            raise Invalid("max_tokens: Field required", field="max_tokens")
        if max_tokens < 0:
            raise Invalid("max_tokens: must not be negative", field="max_tokens")
    found = Peek(
        model=model,
        stream=bool(_value(values, "stream", _flag, "true or false")) and operation == "messages",
        max_tokens=max_tokens,
        usage_wanted=True,  # a Messages stream always reports usage
        model_at=model_at,
    )
    if len(values) > 3:
        _look_at_options(values, found)
    # Every image and document has a source.
    if b'"source"' in body or b'"container_upload"' in body or (b"\\u00" in body and _HIDDEN.search(body)):
        _look_at_content(values["messages"], found)
    return found


def _value(values: dict[str, msgspec.Raw], name: str, decode: Any, wanted: str) -> Any:
    raw = values.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid(f"{name}: Input should be {wanted}", field=name) from None


def _look_at_options(values: dict[str, msgspec.Raw], found: Peek) -> None:
    unbounded: list[str] = []
    if "metadata" in values:
        metadata = _value(values, "metadata", _metadata, "an object whose user_id is a string")
        found.user = None if metadata is None else metadata.user_id
    if "tools" in values:
        tools = _value(values, "tools", _tools, "a list of tools")
        found.tools = bool(tools)
        for tool in tools or ():
            if tool.type is not None and not tool.type.startswith(_CALLER_RUN):
                unbounded.append(f"tools.{tool.type}")
    if "output_config" in values:
        config = _value(values, "output_config", _output_config, "an object")
        found.schema = config is not None and config.format is not None
    if "output_format" in values and values["output_format"] != b"null":
        found.schema = True
    if not values.keys().isdisjoint(_EXTENDS):
        unbounded += [name for name in _EXTENDS if _any(values.get(name) or b"null")]
    if "speed" in values and _any(values["speed"]) == "fast":
        unbounded.append("speed")
    found.unbounded = tuple(dict.fromkeys(unbounded))


def _look_at_content(raw: msgspec.Raw, found: Peek) -> None:
    unbounded = dict.fromkeys(found.unbounded)
    try:
        messages = _messages(raw)
        pending = [block for message in messages if isinstance(message.content, list) for block in message.content]
        while pending:
            block = pending.pop()
            found.images = found.images or block.type == "image"
            if block.type == "container_upload":
                unbounded["messages.content.container_upload"] = None
            inner = block.content if block.type == "tool_result" else None
            if isinstance(block.source, _Source):
                # A few kilobytes of a compressed file may hold hundreds of pages.
                kind = "url file base64" if block.type == "document" else "url file"
                if block.source.type in kind.split():
                    unbounded[f"messages.content.source.{block.source.type}"] = None
                inner = block.source.content
            if isinstance(inner, list):
                pending += msgspec.convert(inner, list[_Block])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"messages: {error}", field="messages") from None
    found.unbounded = tuple(unbounded)
