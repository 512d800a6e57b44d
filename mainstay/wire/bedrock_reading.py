"""Bedrock's Converse request read as a canonical request: for the simulator and the tests, not for callers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.request import (
    Audio,
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
from mainstay.wire.bedrock_messages import DOCUMENTS, IMAGES, Json
from mainstay.wire.bedrock_request import FIELDS
from mainstay.wire.json_shape import as_list, as_object, decode_object

_IMAGE_TYPES = {name: media_type for media_type, name in IMAGES.items() if media_type != "image/jpg"}
_DOCUMENT_TYPES = {name: media_type for media_type, name in DOCUMENTS.items()}
_CONFIG = {"maxTokens": "max_tokens", "temperature": "temperature", "topP": "top_p"}


def read_request(body: bytes) -> Request:
    """A Converse body as a canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
    content = decode_object(body)
    hints: Json = {}
    for name, value in content.items():
        field = FIELDS.get(name)
        if field is None or field.fate == "refused":
            raise Unsupported("this cannot be said in other formats; leave it out", field=name)
        if field.fate == "hint" and name != "additionalModelResponseFieldPaths":
            hints[name] = value
    messages: list[Message] = []
    if content.get("system"):
        messages.append(Message("system", tuple(_parts(content["system"], "system"))))
    for turn in as_list(content.get("messages"), "messages"):
        messages.extend(_turn(as_object(turn, "messages")))
    if not messages:
        raise Invalid("there must be at least one message", field="messages")
    values: Json = {}
    for name, value in as_object(content.get("inferenceConfig") or {}, "inferenceConfig").items():
        where = f"inferenceConfig.{name}"
        if name == "stopSequences":
            values["stop"] = tuple(str(item) for item in as_list(value, where))
        elif name not in _CONFIG:
            raise Unsupported("this cannot be said in other formats; leave it out", field=where)
        elif not isinstance(value, int | float) or (name == "maxTokens" and not isinstance(value, int)):
            raise Invalid(f"{value!r} is not a value of {name}", field=where)
        else:
            values[_CONFIG[name]] = value
    output = as_object(content.get("outputConfig") or {}, "outputConfig")
    if "textFormat" in output:
        values["format"] = _format(as_object(output["textFormat"], "outputConfig.textFormat"))
    more = as_object(content.get("additionalModelRequestFields") or {}, "additionalModelRequestFields")
    values |= _more(more, output.get("effort"))
    return Request(
        model=str(content.get("modelId", "")),
        messages=tuple(messages),
        hints=hints,
        **_tools(as_object(content.get("toolConfig") or {}, "toolConfig")),
        **values,
    )


def _format(asked: Json) -> Format:
    structure = as_object(asked.get("structure"), "outputConfig.textFormat.structure")
    schema = as_object(structure.get("jsonSchema"), "outputConfig.textFormat.structure.jsonSchema")
    decoded = decode_object(str(schema.get("schema", "")).encode())
    return Format("schema", schema=decoded, name=schema.get("name"), description=schema.get("description"))


def _more(more: Json, effort: Any) -> Json:
    values: Json = {}
    reasoning = Reasoning(effort=effort) if effort is not None else None
    for name, value in more.items():
        where = f"additionalModelRequestFields.{name}"
        if name in ("top_k", "k"):
            values["top_k"] = value
        elif name == "inferenceConfig":
            values["top_k"] = as_object(value, where).get("topK")
        elif name == "reasoning_effort":
            reasoning = Reasoning(effort=str(value))
        elif name == "reasoningConfig":
            asked = as_object(value, where)
            reasoning = Reasoning(effort="none" if asked.get("type") == "disabled" else asked.get("maxReasoningEffort"))
        elif name == "thinking":
            reasoning = _thinking(as_object(value, where), reasoning or Reasoning())
        elif name == "tool_choice":
            if as_object(value, where).get("disable_parallel_tool_use"):
                values["parallel_tools"] = False
        else:
            raise Unsupported("this cannot be said in other formats; leave it out", field=where)
    if reasoning is not None:
        values["reasoning"] = reasoning
    return values


def _thinking(asked: Json, reasoning: Reasoning) -> Reasoning:
    kind = asked.get("type")
    if kind == "disabled":
        return replace(reasoning, effort="none")
    if kind == "enabled":
        return replace(reasoning, budget=asked.get("budget_tokens"))
    return replace(
        reasoning, adaptive=reasoning.effort is None, summary="auto" if asked.get("display") == "summarized" else None
    )


def _tools(config: Json) -> Json:
    tools: list[Tool] = []
    for item in as_list(config.get("tools"), "toolConfig.tools"):
        entry = as_object(item, "toolConfig.tools")
        if "cachePoint" in entry and tools:
            tools[-1] = replace(tools[-1], cache=_ttl(entry))
            continue
        if "toolSpec" not in entry:
            raise Unsupported("Bedrock's own tools do not exist elsewhere; leave them out", field="toolConfig.tools")
        spec = as_object(entry["toolSpec"], "toolConfig.tools.toolSpec")
        schema = as_object(spec.get("inputSchema") or {}, "toolConfig.tools.toolSpec.inputSchema").get("json")
        tools.append(Tool(str(spec.get("name", "")), spec.get("description"), schema, spec.get("strict")))
    values: Json = {"tools": tuple(tools)}
    choice = as_object(config.get("toolChoice") or {}, "toolConfig.toolChoice")
    if "tool" in choice:
        named = as_object(choice["tool"], "toolConfig.toolChoice.tool").get("name")
        values["tool_choice"] = ToolChoice("named", named)
    elif choice:
        values["tool_choice"] = ToolChoice("required" if "any" in choice else "auto")
    return values


def _turn(turn: Json) -> Iterable[Message]:
    role = "assistant" if turn.get("role") == "assistant" else "user"
    run: list[Part] = []
    for part in _parts(turn.get("content"), "messages.content"):
        if isinstance(part, ToolResult):
            if run:
                yield Message(role, tuple(run))
                run = []
            yield Message("tool", (part,))
        else:
            run.append(part)
    if run:
        yield Message(role, tuple(run))


def _parts(blocks: Any, where: str) -> list[Part]:
    parts: list[Part] = []
    for item in as_list(blocks, where):
        block = as_object(item, where)
        if "cachePoint" not in block:
            parts.append(_part(block, where))
        elif parts and not isinstance(parts[-1], Audio | Thinking) and hasattr(parts[-1], "cache"):
            marked: Any = parts[-1]
            parts[-1] = replace(marked, cache=_ttl(block))
    return parts


def _ttl(block: Json) -> str:
    return str(as_object(block["cachePoint"], "cachePoint").get("ttl") or "5m")


def _part(block: Json, where: str) -> Part:
    kind = next(iter(block), "")
    value: Any = block.get(kind)
    at = f"{where}.{kind}"
    if kind == "text":
        return Text(str(value))
    if kind == "toolUse":
        call = as_object(value, at)
        text = msgspec.json.encode(call.get("input") or {}).decode()
        return ToolCall(str(call.get("toolUseId", "")), str(call.get("name", "")), text)
    if kind == "toolResult":
        result = as_object(value, at)
        found = [_result_part(as_object(item, at), at) for item in as_list(result.get("content"), at)]
        content = tuple(part for part in found if isinstance(part, Text | Image | Document))
        return ToolResult(str(result.get("toolUseId", "")), content, result.get("status") == "error")
    if kind == "reasoningContent":
        return _reasoning(as_object(value, at))
    if kind in ("image", "document", "audio"):
        return _media(kind, as_object(value, at), at)
    raise Unsupported("this kind of block does not exist elsewhere", field=at)


def _result_part(block: Json, where: str) -> Part:
    if "json" in block:
        return Text(msgspec.json.encode(block["json"]).decode())
    return _part(block, where)


def _reasoning(content: Json) -> Thinking:
    if "redactedContent" in content:
        return Thinking("", str(content["redactedContent"]), redacted=True)
    text = as_object(content.get("reasoningText") or {}, "reasoningContent.reasoningText")
    return Thinking(str(text.get("text", "")), text.get("signature"))


def _media(kind: str, block: Json, where: str) -> Part:
    source = as_object(block.get("source"), f"{where}.source")
    data, form = source.get("bytes"), str(block.get("format", ""))
    url = as_object(source.get("s3Location") or {}, f"{where}.source.s3Location").get("uri")
    if data is None and url is None:
        raise Unsupported("only bytes and s3Location can be read", field=f"{where}.source")
    if kind == "audio":
        if data is None:
            raise Unsupported("only bytes can be read", field=f"{where}.source")
        return Audio(data, form)
    if kind == "image":
        return Image(url=url, data=data, media_type=_IMAGE_TYPES.get(form))
    return Document(url=url, data=data, media_type=_DOCUMENT_TYPES.get(form), name=block.get("name"))
