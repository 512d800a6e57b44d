"""Gemini's generateContent request: what becomes of its fields, and the canonical request written in it.

Thought signatures. Gemini signs parts of its answers and wants the signatures back with the same parts. In canonical
form a signature stands *before* the part that it belongs to, as a ``Thinking`` (or at the end of the reasoning it
follows), and begins with ``gemini:``. No other provider's signature holds a colon, so that a conversation that
was begun elsewhere is recognised: its signatures are left out here, and are named in ``dropped`` as ``thinking``.
Where Gemini 3 demands a signature and the conversation has none, the value that Google documents for this is put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import ModelFacts
from mainstay.core.request import (
    Audio,
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
from mainstay.wire.dialect import Fate, Field, Written
from mainstay.wire.json_shape import arguments

SIGNED = "gemini:"
"""What a canonical signature of Gemini's begins with."""
UNSIGNED = "skip_thought_signature_validator"
"""Google's documented stand-in for the signature of a function call that Gemini did not make."""

FIELDS: Mapping[str, Field] = {
    "contents": Field("mapped", "messages"),
    "systemInstruction": Field("mapped", "messages", "becomes a message of role system"),
    "tools": Field("mapped", "tools", "functionDeclarations; Google's own tools are refused"),
    "toolConfig": Field("mapped", "tool_choice"),
    "generationConfig": Field("mapped", "", "its fields are attributes of the request; others are refused by name"),
    "safetySettings": Field("refused", note="other formats have no thresholds for what is blocked"),
    "cachedContent": Field("refused", note="stored context of Google's"),
    "continuationToken": Field("refused", note="stored context of Google's"),
    "store": Field("hint"),
    "labels": Field("hint"),
    "serviceTier": Field("hint"),
    "model": Field("mapped", "model", "the path names it"),
}

EXPRESSES: Mapping[str, Fate] = {
    "model": "mapped",
    "messages": "mapped",
    "tools": "mapped",
    "tool_choice": "mapped",
    "parallel_tools": "refused",  # True is what Gemini does anyway
    "format": "mapped",
    "max_tokens": "mapped",
    "temperature": "mapped",
    "top_p": "mapped",
    "top_k": "mapped",
    "min_p": "refused",
    "stop": "mapped",
    "seed": "mapped",
    "n": "mapped",
    "presence_penalty": "mapped",
    "frequency_penalty": "mapped",
    "logit_bias": "refused",
    "logprobs": "mapped",
    "top_logprobs": "mapped",
    "reasoning": "mapped",
    "verbosity": "refused",
    "stream": "mapped",
    "include_usage": "mapped",
    "cache_prompt": "hint",  # Gemini caches prompts unasked
    "hints": "hint",
}

_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
# What Google's own OpenAI-compatible endpoint gives models that know only budgets.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE", "named": "ANY"}
_BUDGET_ONLY = re.compile(r"gemini-(1|2)[.\d-]|gemini-(pro|ultra|exp)(-vision)?$")
_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "csv": "text/csv",
}
CONFIG = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "candidateCount": "n",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
INTEGERS = ("maxOutputTokens", "candidateCount", "seed", "topK", "logprobs")

Json = dict[str, Any]


def write_request(request: Request, model: str, facts: ModelFacts) -> Written:
    """The canonical request as a generateContent body. Raises ``Unsupported`` for what it cannot say."""
    _refuse(request)
    dropped: set[str] = set(request.hints)
    if request.cache_prompt is not None:
        dropped.add("cache_prompt")
    body: Json = {"contents": _contents(request.messages, model, dropped)}
    system = [part for message in request.messages if message.role in ("system", "developer") for part in message.parts]
    if system and any(message.role not in ("system", "developer") for message in request.messages):
        body["systemInstruction"] = {"parts": [_plain_part(part, dropped) for part in system]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool, dropped) for tool in request.tools]}]
    choice = request.tool_choice
    if choice is not None and request.tools:
        calling: Json = {"mode": _MODES[choice.mode]}
        if choice.mode == "named":
            calling["allowedFunctionNames"] = [choice.name]
        body["toolConfig"] = {"functionCallingConfig": calling}
    config = _config(request, model, facts, dropped)
    if config:
        body["generationConfig"] = config
    return Written(msgspec.json.encode(body), tuple(sorted(dropped)))


def _refuse(request: Request) -> None:
    if request.parallel_tools is False:
        raise Unsupported(
            "Gemini cannot be kept from calling several tools at once; leave it out", field="parallel_tools"
        )
    if request.min_p:
        raise Unsupported("Gemini has no such setting; leave it out or use top_p", field="min_p")
    if request.logit_bias:
        raise Unsupported("Gemini cannot favour single tokens; leave it out", field="logit_bias")
    if request.verbosity not in (None, "medium"):
        raise Unsupported("Gemini has no such setting; say it in the prompt", field="verbosity")
    choice = request.tool_choice
    if choice is not None and not request.tools and choice.mode in ("required", "named"):
        raise Invalid("a tool must be called, but there are no tools; add tools or leave it out", field="tool_choice")
    if choice is not None and choice.mode == "named" and choice.name not in {tool.name for tool in request.tools}:
        raise Invalid(f"there is no tool called {choice.name!r}", field="tool_choice")


def _config(request: Request, model: str, facts: ModelFacts, dropped: set[str]) -> Json:
    config: Json = {}
    for theirs, ours in CONFIG.items():
        value = getattr(request, ours)
        if facts.sampling is False and ours in ("temperature", "top_p", "top_k") and value is not None:
            if value != 1 or ours == "top_k":
                raise Unsupported("this model takes no sampling options; leave it out", field=ours)
            dropped.add(ours)
            continue
        if ours == "max_tokens" and value is not None and facts.max_output is not None:
            value = min(value, facts.max_output)  # the model could not write more anyway
        if value is not None and not (ours == "n" and value == 1) and not (ours == "logprobs" and not value):
            config[theirs] = value
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.format is not None:
        config["responseMimeType"] = "application/json"
        if request.format.kind == "schema":
            config["responseJsonSchema"] = request.format.schema or {"type": "object"}
            if request.format.description:
                dropped.add("format.description")
    if request.reasoning is not None:
        thinking = _thinking(request.reasoning, model)
        if thinking:
            config["thinkingConfig"] = thinking
    return config


def budget_only(model: str) -> bool:
    """Whether ``model`` is of a generation that knows thinking budgets, but neither levels nor demanded signatures."""
    return _BUDGET_ONLY.search(model) is not None


def _thinking(reasoning: Reasoning, model: str) -> Json:
    thinking: Json = {}
    effort = reasoning.effort
    if reasoning.budget is not None:
        thinking["thinkingBudget"] = reasoning.budget
    elif effort is not None:
        if effort not in _BUDGETS:
            raise Unsupported(
                f"Gemini has no effort {effort!r}; use none, minimal, low, medium or high", field="reasoning"
            )
        if effort == "none" or budget_only(model):
            thinking["thinkingBudget"] = _BUDGETS[effort]
        else:
            thinking["thinkingLevel"] = _LEVELS[effort]
    elif reasoning.adaptive:
        thinking["thinkingBudget"] = -1
    if reasoning.summary is not None or reasoning.budget or reasoning.adaptive:
        thinking["includeThoughts"] = True
    return thinking


def _declaration(tool: Tool, dropped: set[str]) -> Json:
    declaration: Json = {"name": tool.name}
    if tool.description:
        declaration["description"] = tool.description
    if tool.parameters is not None:
        declaration["parametersJsonSchema"] = tool.parameters
    if tool.strict:
        dropped.add("tools.strict")
    if tool.cache is not None:
        dropped.add("cache_control")
    return declaration


def _contents(messages: Sequence[Message], model: str, dropped: set[str]) -> list[Json]:
    # Gemini knows the user and the model only. Results of parallel calls must stand in one turn, right after the
    # turn of the calls; so neighbours of role assistant become one turn, and neighbours of role tool too.
    turns: list[tuple[str, list[Json]]] = []
    names: dict[str, str] = {}
    only_system = all(message.role in ("system", "developer") for message in messages)
    for message in messages:
        if message.name is not None:
            dropped.add("name")
        role = message.role
        if role in ("system", "developer"):
            if not only_system:
                continue
            role = "user"  # a request needs a turn of the user's
        if role == "assistant":
            parts = _model_parts(message.parts, names, dropped)
        elif role == "tool":
            parts = [_result(part, names, dropped) for part in message.parts if isinstance(part, ToolResult)]
        else:
            parts = [_plain_part(part, dropped) for part in message.parts if part != Text("")]
        if not parts:
            continue
        if turns and turns[-1][0] == role != "user":
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts))
    if not turns:
        raise Invalid("there is nothing to answer; add a message of role user", field="messages")
    if not budget_only(model) and "gemini" in model:
        _stand_in(turns)
    return [{"role": "model" if role == "assistant" else "user", "parts": parts} for role, parts in turns]


def _stand_in(turns: list[tuple[str, list[Json]]]) -> None:
    """Sign the first function call of each step since the user last spoke, where it is not signed."""
    for role, parts in reversed(turns):
        if role == "user":
            return
        if role == "assistant":
            call = next((part for part in parts if "functionCall" in part), None)
            if call is not None and "thoughtSignature" not in call:
                call["thoughtSignature"] = UNSIGNED


def _model_parts(parts: Sequence[Part], names: dict[str, str], dropped: set[str]) -> list[Json]:
    written: list[Json] = []
    signature: str | None = None
    for index, part in enumerate(parts):
        if isinstance(part, Thinking):
            signature = _thought(part, written, signature, dropped)
            continue
        if isinstance(part, ToolCall):
            names[part.id] = part.name
            json: Json = {"functionCall": {"id": part.id, "name": part.name, "args": arguments(part.arguments)}}
            if part.cache is not None:
                dropped.add("cache_control")
        else:
            if isinstance(part, Text) and not part.text:
                continue
            json = _plain_part(part, dropped)
        if signature is not None and not (isinstance(part, Text) and _call_is_next(parts[index + 1 :])):
            json["thoughtSignature"] = signature
            signature = None
        written.append(json)
    if signature is not None:
        _sign_last(written, signature)
    return written


def _call_is_next(parts: Iterable[Part]) -> bool:
    """Whether a call comes before any further signature: in formats that put all reasoning first, it is the call's."""
    for part in parts:
        if isinstance(part, ToolCall) or _own_signature(part) is not None:
            return isinstance(part, ToolCall)
    return False


def _own_signature(part: Part) -> str | None:
    """The signature as Gemini made it; None if it is another provider's, or none."""
    if isinstance(part, Thinking) and part.signature is not None and part.signature.startswith(SIGNED):
        return part.signature[len(SIGNED) :]
    return None


def _thought(part: Thinking, written: list[Json], waiting: str | None, dropped: set[str]) -> str | None:
    """Write the text of ``part``; return the signature that waits for the next part."""
    own = _own_signature(part)
    if own is None and (part.redacted or part.signature is not None):
        dropped.add("thinking")
    if waiting is not None and (part.text or own is not None):
        _sign_last(written, waiting)
        waiting = None
    if part.text:
        written.append({"text": part.text, "thought": True})
    return waiting if own is None else own


def _sign_last(written: list[Json], signature: str) -> None:
    """No part follows that ``signature`` could belong to: it goes on the thought just before, or on an empty text."""
    if written and written[-1].get("thought") and "thoughtSignature" not in written[-1]:
        written[-1]["thoughtSignature"] = signature
    else:
        written.append({"text": "", "thoughtSignature": signature})


def _result(result: ToolResult, names: Mapping[str, str], dropped: set[str]) -> Json:
    name = result.name or names.get(result.id)
    if name is None:
        raise Invalid(
            f"the tool result {result.id!r} belongs to no tool call before it; send the call, too", field="messages"
        )
    if result.cache is not None:
        dropped.add("cache_control")
    texts = [part.text for part in result.content if isinstance(part, Text)]
    response: Json = {
        "id": result.id,
        "name": name,
        "response": {"error" if result.is_error else "output": texts[0] if len(texts) == 1 else texts},
    }
    media = [_plain_part(part, dropped) for part in result.content if not isinstance(part, Text)]
    if media:
        response["parts"] = media
    return {"functionResponse": response}


def _plain_part(part: Part, dropped: set[str]) -> Json:
    if getattr(part, "cache", None) is not None:
        dropped.add("cache_control")
    match part:
        case Text() | Refusal():
            return {"text": part.text}
        case Image():
            if part.detail not in (None, "auto"):
                dropped.add("detail")
            return _media(part.url, part.data, part.media_type, "image/png")
        case Audio():
            return {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
        case Document():
            if part.name is not None:
                dropped.add("filename")
            url = part.url
            if part.file_id is not None:
                if "://" not in part.file_id:
                    raise Unsupported(
                        "a file stored with another provider cannot be read by Gemini; send its content",
                        field="messages",
                    )
                url = part.file_id
            return _media(url, part.data, part.media_type, "application/pdf")
        case _:
            raise Invalid(f"a {type(part).__name__} cannot stand in a message of this role", field="messages")


def _media(url: str | None, data: str | None, media_type: str | None, default: str) -> Json:
    if url is not None and url.startswith("data:"):
        head, _, data = url[5:].partition(",")
        if not head.endswith(";base64"):
            raise Invalid("a data: address must hold base64", field="messages")
        media_type = head.split(";")[0] or media_type
        url = None
    if url is None:
        if data is None:
            raise Invalid("a picture or file has neither an address nor content", field="messages")
        return {"inlineData": {"mimeType": media_type or default, "data": data}}
    media_type = media_type or _MEDIA_TYPES.get(re.split(r"[?#]", url)[0].rpartition(".")[2].lower())
    return {"fileData": {"fileUri": url} | ({"mimeType": media_type} if media_type else {})}
