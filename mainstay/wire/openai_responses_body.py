"""Writes a canonical request as an OpenAI Responses request, and says what this format can express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from mainstay.core.model import ModelFacts
from mainstay.core.request import (
    Document,
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
    ToolResult,
)
from mainstay.wire.dialect import Fate, Written
from mainstay.wire.openai_responses_items import NATIVE, Json, encrypted_of, refuse
from mainstay.wire.openai_responses_request import ENCRYPTED, HINTS, LOGPROBS

EXPRESSES: Mapping[str, Fate] = {
    "model": "mapped",
    "messages": "mapped",
    "tools": "mapped",
    "tool_choice": "mapped",
    "parallel_tools": "mapped",
    "format": "mapped",
    "max_tokens": "mapped",
    "temperature": "mapped",
    "top_p": "mapped",
    "top_k": "refused",
    "min_p": "refused",
    "stop": "refused",
    "seed": "refused",
    "n": "refused",
    "presence_penalty": "refused",
    "frequency_penalty": "refused",
    "logit_bias": "refused",
    "logprobs": "mapped",
    "top_logprobs": "mapped",
    "reasoning": "mapped",
    "verbosity": "mapped",
    "stream": "mapped",
    "include_usage": "mapped",
    "cache_prompt": "hint",
    "hints": "hint",
}


def write_request(request: Request, model: str, facts: ModelFacts) -> Written:
    """``request`` as a Responses body. Raises ``Unsupported``, with the canonical attribute as its field."""
    _expressible(request, facts)
    dropped: dict[str, None] = {}
    body: Json = {"model": model}
    messages = request.messages
    first = messages[0] if messages else None
    if first is not None and first.role == "system" and len(messages) > 1 and _plain(first.parts) and not first.name:
        body["instructions"] = cast(Text, first.parts[0]).text
        _cache(first.parts[0], dropped)
        messages = messages[1:]
    body["input"] = _input(messages, facts, dropped)
    _write_tools(request, body, dropped)
    _write_text(request, body)
    _write_settings(request, facts, body, dropped)
    for name, value in request.hints.items():
        if name in HINTS and (name != "stream_options" or request.stream) and _fits(name, value):
            body[name] = value
        elif name not in ("store", "include"):
            dropped[name] = None
    if request.cache_prompt is not None:
        dropped["cache_prompt"] = None
    return Written(msgspec.json.encode(body), tuple(dropped))


_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
_LONGEST = 64
"""Characters of an end user's name or a cache key that the API takes."""


def _fits(name: str, value: Any) -> bool:
    """Whether a hint, which may come from another format, has a value that this one takes."""
    if name in ("user", "safety_identifier", "prompt_cache_key"):
        return isinstance(value, str) and len(value) <= _LONGEST
    if name == "service_tier":
        return value in _TIERS
    if name == "metadata":
        pairs = cast(Json, value) if isinstance(value, dict) else {"": None}
        return len(pairs) <= 16 and all(isinstance(inner, str) for inner in pairs.values())
    if name == "stream_options":
        return isinstance(value, dict) and cast(Json, value).keys() <= {"include_obfuscation"}
    return True


def _expressible(request: Request, facts: ModelFacts) -> None:
    unsaid = {
        "top_k": request.top_k is not None,
        "min_p": request.min_p is not None,
        "stop": bool(request.stop),
        "seed": request.seed is not None,
        "n": request.n != 1,
        "presence_penalty": bool(request.presence_penalty),
        "frequency_penalty": bool(request.frequency_penalty),
        "logit_bias": bool(request.logit_bias),
    }
    for name, asked in unsaid.items():
        if asked:
            refuse(f"the Responses API has no field for {name}; leave it out or choose another model", name)
    if facts.sampling is False:
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
            if value is not None and value != 1:
                refuse(f"this model does not accept {name}; leave it out or choose another model", name)


def _plain(parts: Sequence[Part]) -> bool:
    return len(parts) == 1 and isinstance(parts[0], Text)


def _cache(part: Part, dropped: dict[str, None]) -> None:
    # Prompts are cached there without being asked; only the newest models know marks, and the others refuse them.
    if getattr(part, "cache", None) is not None:
        dropped["cache_control"] = None


def _input(messages: Sequence[Message], facts: ModelFacts, dropped: dict[str, None]) -> list[Json]:
    items: list[Json] = []
    for message in messages:
        if message.name is not None:
            dropped["name"] = None
        role: str = message.role
        if role == "developer" and facts.roles_developer is False:
            role = "system"
        said: list[Part] = []
        for part in message.parts:
            _cache(part, dropped)
            if isinstance(part, ToolCall | ToolResult | Thinking):
                _flush(items, role, said)
                item = _write_item(part, dropped)
                if item is not None:
                    items.append(item)
            else:
                said.append(part)
        _flush(items, role, said)
    return items


def _flush(items: list[Json], role: str, said: list[Part]) -> None:
    """Put the message that ``said`` makes after ``items``, and empty it."""
    if not said:
        return
    if role == "tool":
        role = "user"
    item: Json = {"type": "message", "role": role}
    if _plain(said):
        item["content"] = cast(Text, said[0]).text
    else:
        item["content"] = [_write_part(part, role) for part in said]
        if role == "assistant":
            # An assistant's message of several parts must look like one that the API gave out.
            item |= {"id": f"msg_{len(items)}", "status": "completed"}
    items.append(item)
    said.clear()


def _write_item(part: ToolCall | ToolResult | Thinking, dropped: dict[str, None]) -> Json | None:
    if isinstance(part, ToolCall):
        return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, Thinking):
        if part.signature is None or not part.signature.startswith(NATIVE):
            dropped["thinking"] = None  # the API takes back only what it encrypted itself
            return None
        item: Json = {"type": "reasoning"}
        if part.id:
            item["id"] = part.id
        item["summary"] = [{"type": "summary_text", "text": part.text}] if part.text else []
        item["encrypted_content"] = encrypted_of(part.signature)
        return item
    for piece in part.content:
        _cache(piece, dropped)
    if part.is_error:
        dropped["is_error"] = None
    output: Any
    if not part.content:
        output = ""
    elif len(part.content) == 1 and isinstance(part.content[0], Text):
        output = part.content[0].text
    else:
        output = [_write_part(piece, "user") for piece in part.content]
    result: Json = {"type": "function_call_output", "call_id": part.id, "output": output}
    if part.name is not None:
        result["name"] = part.name
    return result


def _write_part(part: Part, role: str) -> Json:
    if isinstance(part, Text):
        if role == "assistant":
            return {"type": "output_text", "text": part.text, "annotations": []}
        return {"type": "input_text", "text": part.text}
    if isinstance(part, Refusal) and role == "assistant":
        return {"type": "refusal", "refusal": part.text}
    if isinstance(part, Image):
        url = part.url if part.data is None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if isinstance(part, Document):
        return _write_document(part)
    what = type(part).__name__.lower()
    refuse(f"the Responses API cannot take {what} in a message of role {role}", "messages")


def _write_document(part: Document) -> Json:
    written: Json = {"type": "input_file"}
    if part.file_id is not None:
        written["file_id"] = part.file_id
    elif part.url is not None:
        written["file_url"] = part.url
    else:
        media_type, data = part.media_type or "application/pdf", part.data or ""
        written["file_data"] = f"data:{media_type};base64,{data}"
        # The API wants a name beside the data, and goes by its ending.
        written["filename"] = part.name or ("document.pdf" if media_type == "application/pdf" else "document.txt")
        return written
    if part.name is not None:
        written["filename"] = part.name
    return written


def _write_tools(request: Request, body: Json, dropped: dict[str, None]) -> None:
    if request.tools:
        tools: list[Json] = []
        for tool in request.tools:
            _cache_tool(tool, dropped)
            written: Json = {"type": "function", "name": tool.name}
            if tool.description is not None:
                written["description"] = tool.description
            written["parameters"] = tool.parameters
            written["strict"] = bool(tool.strict)  # left out it would mean true here, and false everywhere else
            tools.append(written)
        body["tools"] = tools
    choice = request.tool_choice
    if choice is not None and not request.tools and choice.mode in ("required", "named"):
        refuse("a tool has to be used, but there are no tools", "tool_choice")
    if choice is not None and request.tools:
        body["tool_choice"] = {"type": "function", "name": choice.name} if choice.mode == "named" else choice.mode
    if request.parallel_tools is not None:
        body["parallel_tool_calls"] = request.parallel_tools


def _cache_tool(tool: Tool, dropped: dict[str, None]) -> None:
    if tool.cache is not None:
        dropped["cache_control"] = None


def _write_text(request: Request, body: Json) -> None:
    text: Json = {}
    form = request.format
    if form is not None and form.kind == "json":
        text["format"] = {"type": "json_object"}
    elif form is not None:
        written: Json = {"type": "json_schema", "name": form.name or "answer", "schema": form.schema or {}}
        if form.description is not None:
            written["description"] = form.description
        if form.strict is not None:
            written["strict"] = form.strict
        text["format"] = written
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    if text:
        body["text"] = text


def _write_settings(request: Request, facts: ModelFacts, body: Json, dropped: dict[str, None]) -> None:
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    if facts.sampling is not False:
        for name in ("temperature", "top_p"):
            value = getattr(request, name)
            if value is not None:
                body[name] = value
    if request.top_logprobs is not None:
        body["top_logprobs"] = request.top_logprobs
    include = [LOGPROBS] if request.logprobs else []
    thinks = facts.reasoning is True
    if request.reasoning is not None:
        reasoning = _write_reasoning(request.reasoning, dropped)
        if facts.reasoning is False:
            dropped["reasoning"] = None
        else:
            thinks = thinks or reasoning.get("effort") != "none"
            if reasoning:
                body["reasoning"] = reasoning
    # Models that do not reason refuse to be asked for encrypted reasoning.
    if thinks or ENCRYPTED in request.hints.get("include", ()):
        include.append(ENCRYPTED)
    if include:
        body["include"] = include
    if request.stream:
        body["stream"] = True
    # Left out, it would mean true: content kept at the provider, which no other format asks for unsaid.
    body["store"] = request.hints.get("store") is True


def _write_reasoning(reasoning: Reasoning, dropped: dict[str, None]) -> Json:
    written: Json = {}
    effort = reasoning.effort
    if effort is None and reasoning.budget is not None:
        dropped["reasoning.budget"] = None  # said as the effort that is nearest
        budget = reasoning.budget
        effort = "none" if budget == 0 else "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"
    if effort is not None:
        written["effort"] = effort
    if reasoning.summary is not None:
        written["summary"] = reasoning.summary
    return written
