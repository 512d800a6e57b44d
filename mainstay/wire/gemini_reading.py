"""Gemini's generateContent request read as a canonical request: for the simulator and the tests, not for callers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

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
from mainstay.wire.gemini_request import CONFIG, FIELDS, INTEGERS, SIGNED, UNSIGNED, Json
from mainstay.wire.json_shape import as_list, as_object, decode_object

_UNDERSCORED = re.compile(r"_([a-z])")


def read_request(body: bytes) -> Request:
    """A generateContent body as a canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
    content = _message(decode_object(body), "the body")
    hints: Json = {}
    for name, value in content.items():
        field = FIELDS.get(name)
        if field is None or field.fate == "refused":
            raise Unsupported("this cannot be said in other formats; leave it out", field=name)
        if field.fate == "hint":
            hints[name] = value
    messages: list[Message] = []
    if "systemInstruction" in content:
        parts = as_list(_message(content["systemInstruction"], "systemInstruction").get("parts"), "systemInstruction")
        messages.append(Message("system", tuple(_read_part(part) for part in parts)))
    for turn in as_list(content.get("contents"), "contents"):
        messages.extend(_read_turn(_message(turn, "contents")))
    if not messages:
        raise Invalid("there must be at least one turn", field="contents")
    return Request(
        model=str(content.get("model", "")).removeprefix("models/"),
        messages=tuple(messages),
        tools=tuple(_read_tools(as_list(content.get("tools"), "tools"))),
        tool_choice=_read_choice(_message(content.get("toolConfig") or {}, "toolConfig")),
        hints=hints,
        **_read_config(_message(content.get("generationConfig") or {}, "generationConfig")),
    )


def _read_config(config: Json) -> Json:
    values: Json = {}
    for name, value in config.items():
        where = f"generationConfig.{name}"
        if name in CONFIG:
            allowed = bool if name == "responseLogprobs" else (int, float)
            if not isinstance(value, allowed) or (name in INTEGERS and value != int(value)):
                raise Invalid(f"{value!r} is not a value of {name}", field=where)
            values[CONFIG[name]] = int(value) if name in INTEGERS else value
        elif name == "stopSequences":
            values["stop"] = tuple(str(item) for item in as_list(value, where))
        elif name not in ("responseMimeType", "responseSchema", "responseJsonSchema", "thinkingConfig"):
            raise Unsupported("this cannot be said in other formats; leave it out", field=where)
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        values["format"] = Format("schema", schema=as_object(schema, "generationConfig.responseJsonSchema"))
    elif config.get("responseMimeType") == "application/json":
        values["format"] = Format("json")
    thinking = config.get("thinkingConfig")
    if thinking is not None:
        values["reasoning"] = _read_thinking(_message(thinking, "generationConfig.thinkingConfig"))
    return values


def _read_thinking(thinking: Json) -> Reasoning:
    budget, level = thinking.get("thinkingBudget"), thinking.get("thinkingLevel")
    summary = "auto" if thinking.get("includeThoughts") else None
    if budget == 0:
        return Reasoning(effort="none", summary=summary)
    if budget == -1:
        return Reasoning(adaptive=True)
    if budget is not None:
        return Reasoning(budget=int(budget))
    return Reasoning(effort=str(level).lower() if level is not None else None, summary=summary)


def _read_tools(tools: list[Any]) -> Iterable[Tool]:
    for item in tools:
        tool = _message(item, "tools")
        for name in tool:
            if name != "functionDeclarations":
                raise Unsupported("Google's own tools do not exist elsewhere; leave them out", field=f"tools.{name}")
        for entry in as_list(tool.get("functionDeclarations"), "tools"):
            declaration = _message(entry, "tools")
            parameters = declaration.get("parametersJsonSchema") or declaration.get("parameters")
            yield Tool(str(declaration.get("name", "")), declaration.get("description"), parameters)


def _read_choice(config: Json) -> ToolChoice | None:
    calling = _message(config.get("functionCallingConfig") or {}, "toolConfig")
    mode, allowed = calling.get("mode"), as_list(calling.get("allowedFunctionNames"), "toolConfig")
    if mode is None or mode == "MODE_UNSPECIFIED":
        return None
    if mode == "ANY" and allowed:
        if len(allowed) > 1:
            raise Unsupported("other formats force one tool or any; name one", field="toolConfig")
        return ToolChoice("named", str(allowed[0]))
    if mode == "ANY":
        return ToolChoice("required")
    if mode in ("AUTO", "NONE"):
        return ToolChoice("auto" if mode == "AUTO" else "none")
    raise Unsupported(f"the mode {mode!r} does not exist elsewhere", field="toolConfig")


def _read_turn(turn: Json) -> Iterable[Message]:
    role = "assistant" if turn.get("role") == "model" else "user"
    parts: list[Part] = []
    for item in as_list(turn.get("parts"), "contents.parts"):
        part = _message(item, "contents.parts")
        if "functionResponse" in part:
            if parts:
                yield Message(role, tuple(parts))
                parts = []
            result = _read_result(_message(part["functionResponse"], "contents.parts.functionResponse"))
            yield Message("tool", (result,))
            continue
        signature = part.get("thoughtSignature")
        thought = bool(part.get("thought"))
        if isinstance(signature, str) and signature and signature != UNSIGNED and not thought:
            _sign(parts, SIGNED + signature)
        if thought:
            signed = SIGNED + signature if isinstance(signature, str) and signature else None
            parts.append(Thinking(str(part.get("text", "")), signed))
        elif part.get("text") != "" or signature is None:
            parts.append(_read_part(part))
    if parts:
        yield Message(role, tuple(parts))


def _sign(parts: list[Part], signature: str) -> None:
    last = parts[-1] if parts else None
    if isinstance(last, Thinking) and last.signature is None:
        parts[-1] = Thinking(last.text, signature)
    else:
        parts.append(Thinking("", signature))


def _read_result(result: Json) -> ToolResult:
    response = as_object(result.get("response") or {}, "contents.parts.functionResponse.response")
    is_error = set(response) == {"error"}
    output: Any = response["error"] if is_error else response["output"] if set(response) == {"output"} else response
    outputs: list[Any] = cast("list[Any]", output) if isinstance(output, list) else [output]
    texts = [Text(item if isinstance(item, str) else msgspec.json.encode(item).decode()) for item in outputs]
    media = [_read_part(part) for part in as_list(result.get("parts"), "contents.parts.functionResponse.parts")]
    content = (*texts, *(part for part in media if isinstance(part, Image | Document)))
    name = str(result.get("name", ""))
    return ToolResult(str(result.get("id") or name), content, is_error, name)


def _read_part(item: Any) -> Part:
    part = _message(item, "contents.parts")
    if "text" in part:
        return Text(str(part["text"]))
    if "functionCall" in part:
        call = _message(part["functionCall"], "contents.parts.functionCall")
        name = str(call.get("name", ""))
        return ToolCall(str(call.get("id") or name), name, msgspec.json.encode(call.get("args") or {}).decode())
    if "inlineData" in part or "fileData" in part:
        media = _message(part.get("inlineData") or part.get("fileData"), "contents.parts")
        media_type, data, url = media.get("mimeType"), media.get("data"), media.get("fileUri")
        kind = str(media_type or "").partition("/")[0]
        if kind == "audio" and data is not None:
            return Audio(data, str(media_type).partition("/")[2])
        if kind == "image":
            return Image(url=url, data=data, media_type=media_type)
        return Document(url=url, data=data, media_type=media_type)
    raise Unsupported("this kind of part does not exist elsewhere", field=f"contents.parts.{next(iter(part), '')}")


def _message(value: Any, where: str) -> Json:
    """An object of Google's, whose names may be written in camel case or, as its SDKs do, with underscores."""
    return {
        _UNDERSCORED.sub(lambda found: found[1].upper(), name): item for name, item in as_object(value, where).items()
    }
