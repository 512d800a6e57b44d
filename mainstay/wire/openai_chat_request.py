"""Chat completion requests as canonical ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from mainstay.wire.openai_chat_fields import FIELDS

Json = dict[str, Any]

_decode = msgspec.json.Decoder().decode
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")
_TOP_LEVEL_HINTS = tuple(name for name, field in FIELDS.items() if field.fate == "hint")
_ANSWERED = ("annotations", "provider_specific_fields", "parsed", "reasoning_details")
"""Members of an earlier answer that SDKs send back whole and no provider reads."""


def read_request(body: bytes) -> Request:
    """The canonical request. Raises ``Invalid`` for what is wrong and ``Unsupported`` for what has no canonical
    meaning, each naming the field."""
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Invalid("the body is not a JSON object; check its syntax", code="invalid_json")
    given = {name: value for name, value in cast(Json, given).items() if value is not None}
    _refuse(given)
    hints: Json = {name: given[name] for name in _TOP_LEVEL_HINTS if name in given}
    options: Json = _typed(given, "stream_options", dict, "an object") or {}
    if options.get("include_obfuscation") is not None:
        hints["stream_options.include_obfuscation"] = options["include_obfuscation"]
    return Request(
        model=_model(given),
        messages=_messages(given.get("messages"), hints),
        tools=(*_tools(given, hints), *_functions(given)),
        tool_choice=_tool_choice(given),
        parallel_tools=_typed(given, "parallel_tool_calls", bool, "true or false"),
        format=_format(given.get("response_format")),
        max_tokens=_whole(given, "max_completion_tokens", 1) or _whole(given, "max_tokens", 1),
        top_k=_whole(given, "top_k"),
        stop=_stop(given.get("stop")),
        seed=_seed(given),
        n=_whole(given, "n", 1) or 1,
        logit_bias=_logit_bias(given),
        logprobs=_typed(given, "logprobs", bool, "true or false") or False,
        top_logprobs=_whole(given, "top_logprobs", 0),
        reasoning=_reasoning(given),
        verbosity=_typed(given, "verbosity", str, "a string"),
        stream=_typed(given, "stream", bool, "true or false") or False,
        include_usage=options.get("include_usage") is True,
        cache_prompt=_cache(given, ""),
        hints=hints,
        **{name: _number(given, name) for name in _NUMBERS},
    )


def _refuse(given: Json) -> None:
    for name, value in given.items():
        field = FIELDS.get(name)
        if field is None:
            raise Unsupported(
                f"the field {name} is not one of chat completions, so it cannot be said to the model that was chosen; "
                "leave it out, or use a model whose provider speaks this format",
                field=name,
            )
        if (
            field.fate == "refused"
            and (value not in ([], {}, False) or (name == "web_search_options" and value == {}))
            and not (name == "modalities" and value == ["text"])
        ):
            raise Unsupported(
                f"the field {name} cannot be said to the model that was chosen ({field.note}); "
                "leave it out, or use a model whose provider speaks this format",
                field=name,
            )


def _model(given: Json) -> str:
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise Invalid("the field model is missing: say which model or route shall answer", field="model")
    return model


def _typed(given: Mapping[str, Any], name: str, kind: type, what: str, at: str = "") -> Any:
    value = given.get(name)
    if value is not None and not isinstance(value, kind):
        raise Invalid(f"{at}{name} is not {what}", field=f"{at}{name}")
    return value


def _text(given: Mapping[str, Any], name: str, at: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise Invalid(f"{at}{name} is missing or not a string", field=f"{at}{name}")
    return value


def _number(given: Json, name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"{name} is not a number", field=name)
    return value


def _whole(given: Json, name: str, least: int | None = None) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        raise Invalid(
            f"{name} is not a whole number" + (f" of at least {least}" if least is not None else ""), field=name
        )
    return value


def _seed(given: Json) -> int | None:
    seed = _whole(given, "seed")
    return _whole(given, "random_seed") if seed is None else seed


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    values = cast(list[Any], value) if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        raise Invalid("stop is not a string or a list of strings", field="stop")
    return tuple(values)


def _logit_bias(given: Json) -> dict[str, float] | None:
    bias = _typed(given, "logit_bias", dict, "an object of token ids and numbers")
    if not bias:
        return None
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in bias.values()):
        raise Invalid("logit_bias is not an object of token ids and numbers", field="logit_bias")
    return bias


def _objects(value: Any, at: str) -> Iterator[tuple[str, Json]]:
    """The objects of a list, each with its path."""
    if not isinstance(value, list):
        raise Invalid(f"{at} is not a list", field=at)
    for i, one in enumerate(cast(list[Any], value)):
        if not isinstance(one, dict):
            raise Invalid(f"{at}[{i}] is not an object", field=f"{at}[{i}]")
        yield f"{at}[{i}]", cast(Json, one)


def _only(given: Json, at: str, *known: str) -> None:
    """Refuse by name what is neither known nor empty."""
    for name, value in given.items():
        if name not in known and value not in (None, False, "", [], {}):
            raise Unsupported(
                f"{at}.{name} cannot be said to the model that was chosen; leave it out", field=f"{at}.{name}"
            )


def _cache(given: Json, at: str) -> str | None:
    """The cache mark of a part: Anthropic's ``cache_control``, or OpenAI's breakpoint."""
    mark = given.get("cache_control")
    if mark is None:
        return "5m" if given.get("prompt_cache_breakpoint") is not None else None
    where = f"{at}.cache_control".lstrip(".")
    if not isinstance(mark, dict) or cast(Json, mark).get("type") != "ephemeral":
        raise Invalid(f'{where} is not {{"type": "ephemeral"}}', field=where)
    ttl = cast(Json, mark).get("ttl")
    if ttl not in (None, "5m", "1h"):
        raise Invalid(f"{where}.ttl is neither 5m nor 1h", field=f"{where}.ttl")
    return cast(str, ttl or "5m")


# -- messages


def _messages(value: Any, hints: Json) -> tuple[Message, ...]:
    if value is None or value == []:
        raise Invalid("messages is missing or empty: send at least one message", field="messages")
    found: list[Message] = []
    calls: dict[str, str] = {}  # the id made up for the last call of a legacy function, by name
    for at, given in _objects(value, "messages"):
        role = given.get("role")
        if role == "assistant":
            found.append(_assistant(given, at, hints, calls))
        elif role in ("tool", "function"):
            found.append(_tool_result(given, at, calls))
        elif role in ("system", "developer", "user"):
            _only(given, at, "role", "content", "name", "cache_control")
            parts = _content(given, at, role == "user")
            found.append(Message(role, parts, _typed(given, "name", str, "a string", f"{at}.")))
        else:
            raise Invalid(f"{at}.role is not system, developer, user, assistant or tool", field=f"{at}.role")
    return tuple(found)


def _content(given: Json, at: str, media: bool) -> tuple[Part, ...]:
    content = given.get("content")
    cache = _cache(given, at)
    if isinstance(content, str):
        return (Text(content, cache),)
    if content is None:
        raise Invalid(f"{at}.content is missing", field=f"{at}.content")
    parts: list[Part] = []
    for where, part in _objects(content, f"{at}.content"):
        read = _part(part, where)
        if not media and not isinstance(read, Text):
            raise Invalid(f"{where} has to be text in a message of this role", field=where)
        parts.append(read)
    if cache is not None and parts and isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text, cache)
    return tuple(parts)


def _part(part: Json, at: str) -> Text | Image | Audio | Document:
    kind = part.get("type")
    if kind in ("text", "image_url", "input_audio", "file"):
        _only(part, at, "type", kind, "cache_control", "prompt_cache_breakpoint")
    if kind == "text":
        return Text(_text(part, "text", f"{at}."), _cache(part, at))
    if kind == "image_url":
        return _image(part, f"{at}.image_url", _cache(part, at))
    if kind == "input_audio":
        audio = _inner(part, "input_audio", at)
        _only(audio, f"{at}.input_audio", "data", "format")
        return Audio(_text(audio, "data", f"{at}.input_audio."), _text(audio, "format", f"{at}.input_audio."))
    if kind == "file":
        return _document(_inner(part, "file", at), f"{at}.file", _cache(part, at))
    if not isinstance(kind, str):
        raise Invalid(f"{at}.type is missing", field=f"{at}.type")
    raise Unsupported(f"{at}: a part of type {kind} cannot be said to the model that was chosen", field=at)


def _inner(given: Json, name: str, at: str) -> Json:
    value = given.get(name)
    if not isinstance(value, dict):
        raise Invalid(f"{at}.{name} is missing or not an object", field=f"{at}.{name}")
    return cast(Json, value)


def _image(part: Json, at: str, cache: str | None) -> Image:
    image: Any = part.get("image_url")
    if isinstance(image, str):  # many send the address itself
        image = {"url": image}
    if not isinstance(image, dict):
        raise Invalid(f"{at} is missing or not an object", field=at)
    given = cast(Json, image)
    _only(given, at, "url", "detail", "format")
    url = _text(given, "url", f"{at}.")
    detail = _typed(given, "detail", str, "a string", f"{at}.")
    if not url.startswith("data:"):
        return Image(url=url, detail=detail, cache=cache)
    media_type, data = data_url(url, f"{at}.url")
    return Image(data=data, media_type=media_type, detail=detail, cache=cache)


def data_url(url: str, at: str) -> tuple[str, str]:
    """Media type and base64 data of a ``data:`` address. Raises ``Invalid``."""
    head, comma, data = url[5:].partition(",")
    media_type, _, encoding = head.partition(";")
    if not comma or encoding.rpartition(";")[2].strip().lower() != "base64" or not media_type or not data:
        raise Invalid(f"{at} is not of the form data:image/png;base64,…", field=at)
    return media_type, data


def _document(file: Json, at: str, cache: str | None) -> Document:
    _only(file, at, "file_id", "file_data", "filename", "format")
    name = _typed(file, "filename", str, "a string", f"{at}.")
    file_id = _typed(file, "file_id", str, "a string", f"{at}.")
    if file_id:
        return Document(file_id=file_id, name=name, cache=cache)
    data = _text(file, "file_data", f"{at}.")
    media_type = "application/pdf"
    if data.startswith("data:"):
        media_type, data = data_url(data, f"{at}.file_data")
    return Document(data=data, media_type=media_type, name=name, cache=cache)


def _assistant(given: Json, at: str, hints: Json, calls: dict[str, str]) -> Message:
    if given.get("audio"):
        raise Unsupported(f"{at}.audio: an earlier spoken answer is known only to its provider", field=f"{at}.audio")
    known = ("role", "content", "name", "refusal", "audio", "tool_calls", "function_call", "cache_control")
    thought = ("reasoning_content", "reasoning", "thinking_blocks")
    _only(given, at, *known, *thought, *_ANSWERED)
    for name in _ANSWERED:
        if given.get(name):
            hints[f"messages.{name}"] = True
    parts: list[Part] = [*_thinking(given, at)]
    content = given.get("content")
    if isinstance(content, str):
        if content:
            parts.append(Text(content, _cache(given, at)))
    elif content is not None:
        for where, part in _objects(content, f"{at}.content"):
            parts.append(_answered(part, where))
    refusal = _typed(given, "refusal", str, "a string", f"{at}.")
    if refusal:
        parts.append(Refusal(refusal))
    for where, call in _objects(given.get("tool_calls") or [], f"{at}.tool_calls"):
        parts.append(_call(call, where))
    legacy = given.get("function_call")
    if legacy is not None:
        function = _inner(given, "function_call", at)
        name = _text(function, "name", f"{at}.function_call.")
        calls[name] = f"call_{name}_{at[9:-1]}"
        parts.append(ToolCall(calls[name], name, _arguments(function, f"{at}.function_call")))
    if not parts and content is None:
        raise Invalid(f"{at}.content is missing, and so are tool_calls", field=f"{at}.content")
    return Message("assistant", tuple(parts), _typed(given, "name", str, "a string", f"{at}."))


def _thinking(given: Json, at: str) -> Iterator[Thinking]:
    blocks = given.get("thinking_blocks")
    if blocks:
        for where, block in _objects(blocks, f"{at}.thinking_blocks"):
            if block.get("type") == "redacted_thinking":
                yield Thinking("", _text(block, "data", f"{where}."), True)
            else:
                signature = _typed(block, "signature", str, "a string", f"{where}.")
                yield Thinking(_text(block, "thinking", f"{where}."), signature or None)
        return
    text = given.get("reasoning_content") or given.get("reasoning")
    if text:
        if not isinstance(text, str):
            raise Invalid(f"{at}.reasoning_content is not a string", field=f"{at}.reasoning_content")
        yield Thinking(text)


def _answered(part: Json, at: str) -> Part:
    kind = part.get("type")
    if kind == "refusal":
        return Refusal(_text(part, "refusal", f"{at}."))
    if kind == "text":
        return _part(part, at)
    if kind in ("thinking", "redacted_thinking"):
        redacted = kind == "redacted_thinking"
        text = "" if redacted else _text(part, "thinking", f"{at}.")
        return Thinking(text, part.get("data" if redacted else "signature") or None, redacted)
    raise Unsupported(f"{at}: a part of type {kind} is not one of an assistant's message", field=at)


def _call(call: Json, at: str) -> ToolCall:
    if call.get("type") not in (None, "function"):
        raise Unsupported(f"{at}: a call of type {call['type']} cannot be said to the model that was chosen", field=at)
    _only(call, at, "id", "type", "function", "index", "cache_control")
    function = _inner(call, "function", at)
    name = _text(function, "name", f"{at}.function.")
    return ToolCall(_text(call, "id", f"{at}."), name, _arguments(function, f"{at}.function"), _cache(call, at))


def _arguments(function: Json, at: str) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return _text(function, "arguments", f"{at}.")


def _tool_result(given: Json, at: str, calls: dict[str, str]) -> Message:
    _only(given, at, "role", "content", "name", "tool_call_id", "cache_control")
    name = _typed(given, "name", str, "a string", f"{at}.")
    if given["role"] == "function":
        if name is None or name not in calls:
            raise Invalid(f"{at}.name names no function that the assistant called", field=f"{at}.name")
        id_ = calls[name]
    else:
        id_ = _text(given, "tool_call_id", f"{at}.")
    content: list[Text | Image | Document] = []
    if isinstance(given.get("content"), str):
        content.append(Text(given["content"]))
    elif given.get("content") is not None:
        for where, part in _objects(given["content"], f"{at}.content"):
            read = _part(part, where)
            if isinstance(read, Audio):
                raise Unsupported(f"{where}: sound in a tool's result", field=where)
            content.append(read)
    return Message("tool", (ToolResult(id_, tuple(content), name=name, cache=_cache(given, at)),))


# -- tools and the rest


def _tools(given: Json, hints: Json) -> Iterator[Tool]:
    for at, tool in _objects(given.get("tools") or [], "tools"):
        if tool.get("type", "function") != "function":
            raise Unsupported(
                f"{at}: a tool of type {tool['type']} cannot be said to the model that was chosen", field=at
            )
        _only(tool, at, "type", "function", "cache_control")
        function = _inner(tool, "function", at)
        _only(function, f"{at}.function", "name", "description", "parameters", "strict", "cache_control")
        yield _function(function, f"{at}.function", _cache(tool, at) or _cache(function, f"{at}.function"))


def _functions(given: Json) -> Iterator[Tool]:
    for at, function in _objects(given.get("functions") or [], "functions"):
        _only(function, at, "name", "description", "parameters")
        yield _function(function, at, None)


def _function(function: Json, at: str, cache: str | None) -> Tool:
    return Tool(
        _text(function, "name", f"{at}."),
        _typed(function, "description", str, "a string", f"{at}."),
        _typed(function, "parameters", dict, "an object", f"{at}."),
        _typed(function, "strict", bool, "true or false", f"{at}."),
        cache,
    )


def _tool_choice(given: Json) -> ToolChoice | None:
    field = "tool_choice" if given.get("tool_choice") is not None else "function_call"
    choice = given.get(field)
    if choice is None:
        return None
    if choice == "any":  # Mistral's word
        choice = "required"
    if choice in ("auto", "required", "none"):
        return ToolChoice(choice)
    if not isinstance(choice, dict):
        raise Invalid(f"{field} is not auto, required, none or an object", field=field)
    chosen = cast(Json, choice)
    if field == "function_call":
        return ToolChoice("named", _text(chosen, "name", "function_call."))
    if chosen.get("type") != "function":
        raise Unsupported(
            f"tool_choice of type {chosen.get('type')} cannot be said to the model that was chosen", field=field
        )
    return ToolChoice("named", _text(_inner(chosen, "function", field), "name", "tool_choice.function."))


def _format(value: Any) -> Format | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Invalid("response_format is not an object", field="response_format")
    given = cast(Json, value)
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        if given.get("schema") is not None:  # Together's and llama.cpp's way
            return Format("schema", _inner(given, "schema", "response_format"))
        return Format("json")
    if kind != "json_schema":
        raise Unsupported(
            f"response_format of type {kind} cannot be said to the model that was chosen", field="response_format"
        )
    at = "response_format.json_schema"
    schema = _inner(given, "json_schema", "response_format")
    _only(schema, at, "name", "description", "schema", "strict")
    return Format(
        "schema",
        _typed(schema, "schema", dict, "an object", f"{at}."),
        _typed(schema, "name", str, "a string", f"{at}."),
        _typed(schema, "description", str, "a string", f"{at}."),
        _typed(schema, "strict", bool, "true or false", f"{at}."),
    )


def _reasoning(given: Json) -> Reasoning | None:
    effort = _typed(given, "reasoning_effort", str, "a string")
    budget: int | None = None
    summary: str | None = None
    adaptive = False
    reasoning = _typed(given, "reasoning", dict, "an object")
    if reasoning is not None:  # OpenRouter's
        _only(reasoning, "reasoning", "effort", "max_tokens", "exclude", "enabled", "summary")
        effort = effort or _typed(reasoning, "effort", str, "a string", "reasoning.")
        budget = _budget(reasoning, "max_tokens", "reasoning")
        summary = _typed(reasoning, "summary", str, "a string", "reasoning.")
        if reasoning.get("enabled") is False:
            effort = "none"
    thinking = _typed(given, "thinking", dict, "an object")
    if thinking is not None:  # Anthropic's, also DeepSeek's
        _only(thinking, "thinking", "type", "budget_tokens", "display", "clear_thinking")
        kind = thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive", "auto"):
            raise Invalid("thinking.type is not enabled, disabled or adaptive", field="thinking.type")
        budget = _budget(thinking, "budget_tokens", "thinking") or budget
        adaptive = kind in ("adaptive", "auto") or (kind == "enabled" and budget is None and effort is None)
        if kind == "disabled":
            effort, budget = "none", None
    if effort is None and budget is None and summary is None and not adaptive:
        return None
    return Reasoning(effort, budget, summary, adaptive)


def _budget(given: Json, name: str, at: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Invalid(f"{at}.{name} is not a number of tokens", field=f"{at}.{name}")
    return value
