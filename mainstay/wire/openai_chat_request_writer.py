"""Canonical requests as chat completion requests."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mainstay.core.errors import Unsupported
from mainstay.core.model import ModelFacts
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
from mainstay.wire.dialect import Written

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode

OWN_HINTS = frozenset(
    ("safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier")
)
"""Hints that OpenAI's own servers take; others may refuse a field that they do not know."""

_NUMBERS = ("seed", "presence_penalty", "frequency_penalty", "top_logprobs", "verbosity")


def write_request(request: Request, model: str, facts: ModelFacts) -> Written:
    """``request`` for ``model``, of which ``facts`` are known. Raises ``Unsupported`` for what chat cannot say."""
    writing = _Writing(facts)
    body: Json = {"model": model, "messages": writing.messages(request.messages)}
    _write_tools(request, body, writing)
    if request.format is not None:
        body["response_format"] = _format(request.format)
    if request.max_tokens is not None:
        body[facts.max_tokens_field or "max_tokens"] = request.max_tokens
    _write_sampling(request, body, facts)
    if request.stop:
        body["stop"] = request.stop[0] if len(request.stop) == 1 else list(request.stop)
    if request.n != 1:
        body["n"] = request.n
    if request.logit_bias:
        body["logit_bias"] = request.logit_bias
    if request.logprobs:
        body["logprobs"] = True
    for name in _NUMBERS:
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.reasoning is not None:
        writing.reasoning(request.reasoning, body)
    if request.stream:
        body["stream"] = True
        if request.include_usage and facts.stream_usage is not False:
            body["stream_options"] = {"include_usage": True}
    if request.cache_prompt is not None:
        writing.dropped.add("cache_prompt")
    for name, value in request.hints.items():
        if name == "user" or (name in OWN_HINTS and facts.roles_developer):
            body[name] = value
        else:
            writing.dropped.add(name)
    return Written(_encode(body), tuple(sorted(writing.dropped)))


def _write_sampling(request: Request, body: Json, facts: ModelFacts) -> None:
    for name in ("temperature", "top_p"):
        value = getattr(request, name)
        if value is None or (facts.sampling is False and value == 1):
            continue
        if facts.sampling is False:
            raise Unsupported(f"the model that was chosen takes no {name} but 1", field=name)
        body[name] = value
    for name in ("top_k", "min_p"):
        value = getattr(request, name)
        if value is None:
            continue
        if not facts.top_k:
            raise Unsupported(f"chat completions have no {name}; leave it out", field=name)
        body[name] = value


def _write_tools(request: Request, body: Json, writing: _Writing) -> None:
    if not request.tools:
        if request.tool_choice is not None and request.tool_choice.mode in ("required", "named"):
            raise Unsupported("a tool has to be used, but there are no tools", field="tool_choice")
        return
    body["tools"] = [writing.tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.parallel_tools is not None:
        body["parallel_tool_calls"] = request.parallel_tools


def _tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _format(format: Format) -> Json:
    if format.kind == "json":
        return {"type": "json_object"}
    schema: Json = {"name": format.name or "response", "schema": format.schema or {}}
    if format.description is not None:
        schema["description"] = format.description
    if format.strict is not None:
        schema["strict"] = format.strict
    return {"type": "json_schema", "json_schema": schema}


class _Writing:
    """One request being written: what is known of the model, and the hints that were left out."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self.dropped: set[str] = set()

    def tool(self, tool: Tool) -> Json:
        self._mark(tool.cache)
        function: Json = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.parameters is not None:
            function["parameters"] = tool.parameters
        if tool.strict is not None:
            function["strict"] = tool.strict
        return {"type": "function", "function": function}

    def reasoning(self, reasoning: Reasoning, body: Json) -> None:
        """Chat knows efforts only; a budget becomes the effort that spends about as much."""
        if reasoning.summary is not None:
            self.dropped.add("reasoning.summary")
        effort = reasoning.effort
        if effort is None and reasoning.budget is not None:
            budget = reasoning.budget
            effort = "none" if budget == 0 else "low" if budget < 4096 else "medium" if budget < 16384 else "high"
        if effort is None:
            return
        if self.facts.reasoning is False:
            if effort != "none":
                self.dropped.add("reasoning")
        elif effort != "none" or self.facts.reasoning:  # who is not known to reason may not know the word
            body["reasoning_effort"] = effort

    def messages(self, messages: Sequence[Message]) -> list[Json]:
        written: list[Json] = []
        for message in messages:
            if message.role in ("system", "developer"):
                role = message.role if message.role == "system" or self.facts.roles_developer else "system"
                written.append(self._named(message, {"role": role, "content": self._text_only(message)}))
            elif message.role == "assistant":
                written.append(self._named(message, self._assistant(message)))
            else:
                written.extend(self._asked(message))
        return written

    def _named(self, message: Message, written: Json) -> Json:
        if message.name is not None:
            written["name"] = message.name
        return written

    def _mark(self, cache: str | None) -> None:
        if cache is not None:
            self.dropped.add("cache_control")

    def _text_only(self, message: Message) -> str:
        # Several texts become one: many servers take only a string here.
        texts: list[str] = []
        for part in message.parts:
            if not isinstance(part, Text):
                raise Unsupported(f"a {message.role} message can only hold text in chat completions", field="messages")
            self._mark(part.cache)
            texts.append(part.text)
        return "\n".join(texts)

    def _assistant(self, message: Message) -> Json:
        texts: list[str] = []
        thoughts: list[str] = []
        refusals: list[str] = []
        calls: list[Json] = []
        for part in message.parts:
            if isinstance(part, Text):
                self._mark(part.cache)
                texts.append(part.text)
            elif isinstance(part, ToolCall):
                self._mark(part.cache)
                function = {"name": part.name, "arguments": part.arguments or "{}"}
                calls.append({"id": part.id, "type": "function", "function": function})
            elif isinstance(part, Refusal):
                refusals.append(part.text)
            elif isinstance(part, Thinking):
                # Signed reasoning is worth something only to who signed it, and many refuse a member they do not
                # know. What is unsigned came from a server of this format, some of which want it back.
                if part.signature is not None or self.facts.roles_developer:
                    self.dropped.add("messages.thinking")
                else:
                    thoughts.append(part.text)
            else:
                raise Unsupported(
                    "an assistant message can only hold text and calls in chat completions", field="messages"
                )
        written: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
        if refusals:
            written["refusal"] = "".join(refusals)
        if thoughts:
            written["reasoning_content"] = "".join(thoughts)
        if calls:
            written["tool_calls"] = calls
        elif not texts and not refusals:
            written["content"] = ""
        return written

    def _asked(self, message: Message) -> Iterable[Json]:
        """What a message of the user or of tools becomes: one per tool's result, and one for the rest."""
        rest: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                yield {"role": "tool", "tool_call_id": part.id, "content": self._result(part)}
            else:
                rest.append(part)
        if not rest:
            return
        if all(isinstance(part, Text) for part in rest):
            yield self._named(message, {"role": "user", "content": self._text_only(Message("user", tuple(rest)))})
        else:
            yield self._named(message, {"role": "user", "content": [self._part(part) for part in rest]})

    def _result(self, result: ToolResult) -> str:
        self._mark(result.cache)
        if result.is_error:
            self.dropped.add("messages.is_error")
        texts: list[str] = []
        for part in result.content:
            if isinstance(part, Document):
                texts.append(_plain_text(part, "a tool's result can only hold text in chat completions"))
            elif isinstance(part, Text):
                texts.append(part.text)
            else:
                raise Unsupported("a tool's result can only hold text in chat completions", field="messages")
            self._mark(part.cache)
        return "\n".join(texts)

    def _part(self, part: Part) -> Json:
        if isinstance(part, Text):
            self._mark(part.cache)
            return {"type": "text", "text": part.text}
        if isinstance(part, Image):
            self._mark(part.cache)
            image: Json = {"url": part.url or f"data:{part.media_type or 'image/png'};base64,{part.data}"}
            if part.detail is not None:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image}
        if isinstance(part, Audio):
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        if isinstance(part, Document):
            self._mark(part.cache)
            return _file(part)
        raise Unsupported("a user's message cannot hold that in chat completions", field="messages")


def _file(document: Document) -> Json:
    if document.file_id is not None:
        return {"type": "file", "file": {"file_id": document.file_id}}
    if document.media_type is not None and document.media_type.startswith("text/"):
        return {"type": "text", "text": _plain_text(document, "the document is not text")}
    if document.data is None:
        raise Unsupported("chat completions take no document by its address; send its content", field="messages")
    media_type = document.media_type or "application/pdf"
    data = f"data:{media_type};base64,{document.data}"
    return {"type": "file", "file": {"filename": document.name or "document.pdf", "file_data": data}}


def _plain_text(document: Document, otherwise: str) -> str:
    """A text document as text, with its name before it. Raises ``Unsupported`` saying ``otherwise``."""
    if document.data is None or not (document.media_type or "").startswith("text/"):
        raise Unsupported(otherwise, field="messages")
    try:
        text = base64.b64decode(document.data, validate=True).decode()
    except ValueError:
        raise Unsupported(f"{otherwise}: it is not base64 of UTF-8", field="messages") from None
    return text if document.name is None else f"{document.name}\n{text}"
