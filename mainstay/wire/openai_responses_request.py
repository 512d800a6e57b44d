"""Reads an OpenAI Responses request into the canonical request, and says what becomes of every field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.core.errors import Invalid
from mainstay.core.request import Format, Reasoning, Request, Tool, ToolChoice
from mainstay.wire.dialect import Field
from mainstay.wire.openai_responses_items import (
    Expand,
    Json,
    array_of,
    object_of,
    read_messages,
    refuse,
    string_of,
    wrong,
)

FIELDS: Mapping[str, Field] = {
    "model": Field("mapped", "model"),
    "input": Field("mapped", "messages", "item_reference, compaction_trigger and hosted tools' items are refused"),
    "instructions": Field("mapped", "messages", "becomes the first system message"),
    "tools": Field("mapped", "tools", "functions; hosted, custom and namespaced tools are refused by name"),
    "tool_choice": Field("mapped", "tool_choice", "allowed_tools becomes the tools that are left"),
    "parallel_tool_calls": Field("mapped", "parallel_tools"),
    "text": Field("mapped", "format", "and verbosity"),
    "reasoning": Field("mapped", "reasoning", "effort and summary; context and mode are refused unless the default"),
    "max_output_tokens": Field("mapped", "max_tokens"),
    "temperature": Field("mapped", "temperature"),
    "top_p": Field("mapped", "top_p"),
    "top_logprobs": Field("mapped", "top_logprobs"),
    "stream": Field("mapped", "stream"),
    "include": Field(
        "mapped",
        "logprobs",
        "message.output_text.logprobs; reasoning.encrypted_content is a hint, all others are refused",
    ),
    "stream_options": Field("hint", note="only obfuscation of the stream's length"),
    "metadata": Field("hint"),
    "user": Field("hint"),
    "safety_identifier": Field("hint"),
    "prompt_cache_key": Field("hint"),
    "prompt_cache_retention": Field("hint"),
    "prompt_cache_options": Field("hint"),
    "service_tier": Field("hint"),
    "store": Field("hint", note="the gateway keeps responses itself, and removes the field when it does"),
    "max_tool_calls": Field("hint", note="bounds hosted tools only, and those are refused"),
    "previous_response_id": Field("refused", note="the gateway puts the earlier items in before"),
    "conversation": Field("refused"),
    "background": Field("refused", note="false is no request at all"),
    "truncation": Field("refused", note="auto; disabled is the default and no request at all"),
    "prompt": Field("refused", note="a template stored with the provider"),
    "moderation": Field("refused", note="it may block the answer"),
    "context_management": Field("refused", note="it may compact the input"),
    "access_programs": Field("refused"),
    "image": Field("refused", note="it may compress images in the input"),
}

HINTS = (
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    "stream_options",
    "max_tool_calls",
)
"""Hints that keep their name and value in this format."""

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

_HARMLESS: Mapping[str, tuple[Any, ...]] = {"background": (False,), "truncation": ("disabled",)}
_loose = msgspec.json.Decoder(dict[str, Any])


def read_request(body: bytes, expand: Expand | None = None) -> Request:
    """The canonical request that ``body`` says. Raises ``Invalid`` or ``Unsupported`` naming the field."""
    try:
        given = _loose.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("the body is not a JSON object; check its syntax", code="invalid_json") from None
    for key, value in given.items():
        field = FIELDS.get(key)
        if value is None or (field is not None and field.fate != "refused") or value in _HARMLESS.get(key, ()):
            continue
        note = f" ({field.note})" if field and field.note and key not in _HARMLESS else ""
        refuse(f"{key} cannot be said to this model's provider{note}; leave it out", key)
    hints: Json = {name: given[name] for name in HINTS if given.get(name) is not None}
    if given.get("store") is True:
        hints["store"] = True
    messages = read_messages(given, hints, expand)
    tools = _tools(given.get("tools"))
    choice, tools = _choice(given.get("tool_choice"), tools)
    form, verbosity = _text(given.get("text"))
    logprobs = _include(given.get("include"), hints)
    stream = _boolean(given, "stream") or False
    return Request(
        model=string_of(given.get("model"), "model"),
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tools=_boolean(given, "parallel_tool_calls"),
        format=form,
        max_tokens=_integer(given, "max_output_tokens", 1),
        temperature=_number(given, "temperature", 2),
        top_p=_number(given, "top_p", 1),
        logprobs=logprobs,
        top_logprobs=_integer(given, "top_logprobs", 0, 20),
        reasoning=_reasoning(given.get("reasoning")),
        verbosity=verbosity,
        stream=stream,
        include_usage=stream,
        hints=hints,
    )


def _boolean(given: Json, field: str) -> bool | None:
    value = given.get(field)
    if value is not None and not isinstance(value, bool):
        wrong("true or false", field)
    return value


def _integer(given: Json, field: str, least: int, most: int | None = None) -> int | None:
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        wrong(f"a whole number from {least}" + ("" if most is None else f" to {most}"), field)
    return value


def _number(given: Json, field: str, most: float) -> float | None:
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        wrong(f"a number from 0 to {most}", field)
    return float(value)


_FUNCTION = {"type", "name", "description", "parameters", "strict", "output_schema", "defer_loading", "allowed_callers"}


def _tools(value: Any) -> tuple[Tool, ...]:
    if value is None:
        return ()
    found: list[Tool] = []
    for index, one in enumerate(array_of(value, "tools")):
        where = f"tools[{index}]"
        tool = object_of(one, where)
        kind = tool.get("type")
        if kind != "function":
            refuse(f"{where}: tools of type {kind} are known at OpenAI only; take it out", f"{where}.type")
        for key in tool.keys() - _FUNCTION:
            refuse(f"{where}.{key} cannot be said to this model's provider", f"{where}.{key}")
        for key, neutral in (("output_schema", None), ("defer_loading", False), ("allowed_callers", ["direct"])):
            if tool.get(key) not in (None, neutral):
                refuse(f"{where}.{key} cannot be said to this model's provider", f"{where}.{key}")
        description, parameters, strict = tool.get("description"), tool.get("parameters"), tool.get("strict")
        if strict is not None and not isinstance(strict, bool):
            wrong("true or false", f"{where}.strict")
        found.append(
            Tool(
                string_of(tool.get("name"), f"{where}.name"),
                None if description is None else string_of(description, f"{where}.description"),
                None if parameters is None else object_of(parameters, f"{where}.parameters"),
                strict,
            )
        )
    return tuple(found)


def _choice(value: Any, tools: tuple[Tool, ...]) -> tuple[ToolChoice | None, tuple[Tool, ...]]:
    if value is None:
        return None, tools
    if isinstance(value, str):
        if value not in ("auto", "required", "none"):
            wrong("auto, required, none or an object", "tool_choice")
        return ToolChoice(value), tools
    choice = object_of(value, "tool_choice")
    kind = choice.get("type")
    if kind == "function":
        return ToolChoice("named", string_of(choice.get("name"), "tool_choice.name")), tools
    if kind != "allowed_tools":
        refuse(f"tool_choice {kind} names a tool that this model's provider does not have", "tool_choice")
    mode = choice.get("mode", "auto")
    if mode not in ("auto", "required"):
        wrong("auto or required", "tool_choice.mode")
    allowed: set[str] = set()
    for index, one in enumerate(array_of(choice.get("tools"), "tool_choice.tools")):
        where = f"tool_choice.tools[{index}]"
        tool = object_of(one, where)
        if tool.get("type", "function") != "function":
            refuse(f"{where} names a tool that this model's provider does not have", where)
        allowed.add(string_of(tool.get("name"), f"{where}.name"))
    left = tuple(tool for tool in tools if tool.name in allowed)
    return ToolChoice(mode if left else "none"), left or tools


def _text(value: Any) -> tuple[Format | None, str | None]:
    if value is None:
        return None, None
    text = object_of(value, "text")
    for key in text.keys() - {"format", "verbosity"}:
        refuse(f"text.{key} cannot be said to this model's provider", f"text.{key}")
    verbosity = text.get("verbosity")
    if verbosity is not None:
        verbosity = string_of(verbosity, "text.verbosity")
    if text.get("format") is None:
        return None, verbosity
    form = object_of(text["format"], "text.format")
    kind = form.get("type")
    if kind == "text":
        return None, verbosity
    if kind == "json_object":
        return Format("json"), verbosity
    if kind != "json_schema":
        refuse(f"text.format {kind} cannot be said to this model's provider", "text.format.type")
    name, description, strict = form.get("name"), form.get("description"), form.get("strict")
    if strict is not None and not isinstance(strict, bool):
        wrong("true or false", "text.format.strict")
    return Format(
        "schema",
        object_of(form.get("schema"), "text.format.schema"),
        None if name is None else string_of(name, "text.format.name"),
        None if description is None else string_of(description, "text.format.description"),
        strict,
    ), verbosity


def _reasoning(value: Any) -> Reasoning | None:
    if value is None:
        return None
    given = object_of(value, "reasoning")
    for key, neutral in (("context", "auto"), ("mode", "standard")):
        if given.get(key) not in (None, neutral):
            refuse(f"reasoning.{key} cannot be said to this model's provider", f"reasoning.{key}")
    for key in given.keys() - {"effort", "summary", "generate_summary", "context", "mode"}:
        refuse(f"reasoning.{key} cannot be said to this model's provider", f"reasoning.{key}")
    effort = given.get("effort")
    summary = given.get("summary") or given.get("generate_summary")
    if effort is None and summary is None:
        return None
    return Reasoning(
        effort=None if effort is None else string_of(effort, "reasoning.effort"),
        summary=None if summary is None else string_of(summary, "reasoning.summary"),
    )


def _include(value: Any, hints: Json) -> bool:
    if value is None:
        return False
    logprobs = False
    for index, one in enumerate(array_of(value, "include")):
        if one == LOGPROBS:
            logprobs = True
        elif one == ENCRYPTED:
            hints["include"] = [ENCRYPTED]
        else:
            refuse(f"include: {one} belongs to tools that this model's provider does not have", f"include[{index}]")
    return logprobs
