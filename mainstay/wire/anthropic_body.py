"""Writes the canonical request as a Messages request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.core.errors import Unsupported
from mainstay.core.model import DEFAULT_MAX_OUTPUT, ModelFacts
from mainstay.core.request import Format, Reasoning, Request, Tool
from mainstay.wire import anthropic_models
from mainstay.wire.anthropic_cache import Block, mark
from mainstay.wire.anthropic_turns import conversation, marked, text_or_blocks
from mainstay.wire.dialect import Fate, Written

EXPRESSES: dict[str, Fate] = {
    "model": "mapped",
    "messages": "mapped",
    "tools": "mapped",
    "tool_choice": "mapped",
    "parallel_tools": "mapped",
    "format": "mapped",
    "max_tokens": "mapped",
    "temperature": "mapped",
    "top_p": "mapped",
    "top_k": "mapped",
    "min_p": "refused",
    "stop": "mapped",
    "seed": "refused",
    "n": "refused",
    "presence_penalty": "refused",
    "frequency_penalty": "refused",
    "logit_bias": "refused",
    "logprobs": "refused",
    "top_logprobs": "refused",
    "reasoning": "mapped",
    "verbosity": "refused",
    "stream": "mapped",
    "include_usage": "mapped",
    "cache_prompt": "mapped",
    "hints": "hint",
}

LEAST_THINKING = 1024
"""The smallest budget of tokens for thinking that the API takes."""
_MOST_THINKING = 32_000
_SHARE = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95, "max": 0.95}
"""Of the answer's bound, what an effort may spend on thinking, where the model wants a number."""

_USER_ID = 256
_encode = msgspec.json.Encoder().encode


def write_request(request: Request, model: str, facts: ModelFacts) -> Written:
    """``request`` for ``model``. Raises ``Unsupported`` with the canonical attribute's name in ``field``."""
    _refuse_unknown(request)
    dropped: dict[str, None] = {}
    max_tokens = _max_tokens(request, facts)
    payload: Block = {"model": model, "max_tokens": max_tokens}
    system, turns = conversation(request.messages, model, facts, dropped)
    if system:
        payload["system"] = text_or_blocks(system)
    payload["messages"] = [{"role": role, "content": text_or_blocks(blocks)} for role, blocks in turns]
    if request.tools:
        payload["tools"] = [_tool(tool) for tool in request.tools]
    _write_tool_choice(request, payload)
    _write_reasoning(request.reasoning, model, max_tokens, payload, dropped)
    _write_sampling(request, model, facts, payload, dropped)
    if request.format is not None:
        payload.setdefault("output_config", {})["format"] = _format(request.format, facts)
    if request.stop:
        if any(not stop.strip() for stop in request.stop):
            raise Unsupported("Anthropic takes no stop sequence of white space alone", field="stop")
        payload["stop_sequences"] = list(request.stop)
    if request.verbosity is not None:  # medium is what every model does by itself
        if request.verbosity != "medium":
            raise Unsupported("Anthropic cannot be told how wordy to be; say it in the prompt", field="verbosity")
        dropped["verbosity"] = None
    _write_hints(request.hints, payload, dropped)
    if request.stream:
        payload["stream"] = True
    if request.cache_prompt is not None:
        mark(payload, request.cache_prompt)
    return Written(_encode(payload), tuple(dropped))


def _refuse_unknown(request: Request) -> None:
    """What the API has no word for. A value that asks for nothing special is no reason to refuse."""
    asked: tuple[tuple[str, object], ...] = (
        ("seed", request.seed is not None),
        ("logprobs", request.logprobs),
        ("top_logprobs", request.top_logprobs),
        ("n", request.n != 1),
        ("presence_penalty", request.presence_penalty),
        ("frequency_penalty", request.frequency_penalty),
        ("logit_bias", request.logit_bias),
        ("min_p", request.min_p),
    )
    for name, special in asked:
        if special:
            raise Unsupported("Anthropic's API has nothing like it; leave it out, or ask another target", field=name)


def _max_tokens(request: Request, facts: ModelFacts) -> int:
    if request.max_tokens is None:
        return facts.max_output or DEFAULT_MAX_OUTPUT
    # The model could not write more anyway, and the API would refuse the whole request.
    return request.max_tokens if facts.max_output is None else min(request.max_tokens, facts.max_output)


def _tool(tool: Tool) -> Block:
    written: Block = {"name": tool.name}
    if tool.description is not None:
        written["description"] = tool.description
    schema: Block = dict(tool.parameters) if tool.parameters else {"properties": {}}
    schema.setdefault("type", "object")
    written["input_schema"] = schema
    if tool.strict is not None:
        written["strict"] = tool.strict
    return marked(written, tool.cache)


def _write_tool_choice(request: Request, payload: Block) -> None:
    choice = request.tool_choice
    if not request.tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise Unsupported("a tool is demanded and none is given; add it to the tools", field="tool_choice")
        return
    if choice is None and request.parallel_tools is None:
        return
    mode = "auto" if choice is None else choice.mode
    written: Block = {"type": {"required": "any", "named": "tool"}.get(mode, mode)}
    if choice is not None and mode == "named":
        written["name"] = choice.name
    if request.parallel_tools is not None and mode != "none":
        written["disable_parallel_tool_use"] = not request.parallel_tools
    payload["tool_choice"] = written


def _write_reasoning(
    reasoning: Reasoning | None, model: str, max_tokens: int, payload: Block, dropped: dict[str, None]
) -> None:
    if reasoning is None:
        return
    if reasoning.effort == "none" or reasoning.budget == 0:
        if anthropic_models.always_thinks(model):
            raise Unsupported(f"{model} always thinks; ask for a low effort instead", field="reasoning")
        payload["thinking"] = {"type": "disabled"}
        return
    known = anthropic_models.generation(model)
    adaptive = anthropic_models.thinking_form(model) == "adaptive" or (known is None and reasoning.adaptive)
    if adaptive:
        written: Block = {"type": "adaptive"}
        effort = reasoning.effort or _effort(reasoning.budget, max_tokens)
        if effort is not None:
            payload["output_config"] = {"effort": _named_effort(effort, model)}
    else:
        budget = _budget(reasoning, max_tokens, dropped)
        if budget is None:
            return
        written = {"type": "enabled", "budget_tokens": budget}
    if reasoning.summary is not None and anthropic_models.hides_thinking(model):
        written["display"] = "summarized"
    payload["thinking"] = written


def _named_effort(effort: str, model: str) -> str:
    if effort == "minimal":
        return "low"
    return "high" if effort == "xhigh" and not anthropic_models.takes_xhigh(model) else effort


def _effort(budget: int | None, max_tokens: int) -> str | None:
    """The effort that comes nearest to a budget, for a model that takes no numbers."""
    if budget is None:
        return None
    share = budget / max(max_tokens, 1)
    return "low" if share <= 0.3 else "medium" if share <= 0.65 else "high"


def _budget(reasoning: Reasoning, max_tokens: int, dropped: dict[str, None]) -> int | None:
    """A budget that leaves room for the answer; None where an effort finds no room at all."""
    if reasoning.budget is not None and reasoning.budget > 0:
        budget = max(reasoning.budget, LEAST_THINKING)
        if budget < max_tokens:
            return budget
        if max_tokens <= LEAST_THINKING:
            raise Unsupported(
                f"thinking takes at least {LEAST_THINKING} tokens and must end before max_tokens, which is "
                f"{max_tokens}; raise it",
                field="reasoning",
            )
        dropped["reasoning.budget"] = None
    elif max_tokens <= LEAST_THINKING:
        dropped["reasoning"] = None
        return None
    share = _SHARE.get(reasoning.effort or "high", 0.8) if reasoning.budget is None else 0.8
    return min(max(min(int(max_tokens * share), _MOST_THINKING), LEAST_THINKING), max_tokens - 1)


def _write_sampling(request: Request, model: str, facts: ModelFacts, payload: Block, dropped: dict[str, None]) -> None:
    temperature, top_p, top_k = request.temperature, request.top_p, request.top_k
    if temperature is not None and not 0 <= temperature <= 1:
        raise Unsupported("Anthropic takes a temperature from 0 to 1", field="temperature")
    if temperature is not None and top_p is not None and anthropic_models.one_sampling_knob(model):
        # 1 asks for nothing, and together with the other one it is refused.
        if top_p == 1:
            top_p = None
        elif temperature == 1:
            temperature = None
    if payload.get("thinking", {}).get("type") == "enabled":
        _check_thinking_sampling(request)
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is None:
            continue
        if facts.sampling is False:
            if value != 1:
                raise Unsupported("this model takes no sampling options; leave it out", field=name)
            dropped[name] = None
        else:
            payload[name] = value
    if top_k is not None:
        payload["top_k"] = top_k


def _check_thinking_sampling(request: Request) -> None:
    """With a budget for thinking, the API takes no other temperature than 1, no top_k, and no forced tool."""
    why = "Anthropic does not take it together with thinking; leave one of them out"
    if request.temperature is not None and request.temperature != 1:
        raise Unsupported(why, field="temperature")
    if request.top_p is not None and not 0.95 <= request.top_p <= 1:
        raise Unsupported(why, field="top_p")
    if request.top_k is not None:
        raise Unsupported(why, field="top_k")
    if request.tool_choice is not None and request.tool_choice.mode in ("required", "named"):
        raise Unsupported(why, field="tool_choice")


def _format(format: Format, facts: ModelFacts) -> Block:
    if format.kind != "schema" or format.schema is None:
        raise Unsupported("Anthropic writes JSON only to a schema; give a json_schema", field="format")
    if facts.schema is False:
        raise Unsupported("this model cannot keep to a schema", field="format")
    schema: Mapping[str, Any] = format.schema
    if format.description is not None and "description" not in schema:
        schema = {**schema, "description": format.description}
    return {"type": "json_schema", "schema": schema}


def _write_hints(hints: Mapping[str, Any], payload: Block, dropped: dict[str, None]) -> None:
    """Hints under the API's own names; those that it has no word for are named in ``dropped``."""
    thinks = payload.get("thinking", {}).get("type") in ("enabled", "adaptive")
    user = "user" if hints.get("user") is not None else "safety_identifier"
    for name, value in hints.items():
        if value is None:
            continue
        if name == user and isinstance(value, str) and len(value) <= _USER_ID:
            payload["metadata"] = {"user_id": value}
        elif name == "speed" or (name == "service_tier" and value in ("auto", "standard_only")):
            payload[name] = value
        elif name == "thinking.display" and thinks:
            payload["thinking"]["display"] = value
        else:
            dropped[name] = None
