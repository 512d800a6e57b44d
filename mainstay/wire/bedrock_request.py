"""Bedrock's Converse request: what becomes of its fields, and the canonical request written in it.

What Converse has no field for goes into ``additionalModelRequestFields``, in the words of the model's vendor, which
the model id tells; an id that tells nothing (an application inference profile) is taken for a Claude model.
Reasoning that another provider signed is left out, and named in ``dropped`` as ``thinking``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import ModelFacts
from mainstay.core.request import Reasoning, Request, Tool
from mainstay.wire.anthropic_models import hides_thinking, one_sampling_knob, takes_xhigh, thinking_form
from mainstay.wire.bedrock_messages import Conversation, Json, Vendor, cache_point, vendor
from mainstay.wire.dialect import Fate, Field, Written

FIELDS: Mapping[str, Field] = {
    "messages": Field("mapped", "messages"),
    "system": Field("mapped", "messages", "becomes a message of role system"),
    "inferenceConfig": Field("mapped", "", "maxTokens, temperature, topP and stopSequences"),
    "toolConfig": Field("mapped", "tools", "and tool_choice"),
    "outputConfig": Field("mapped", "format", "textFormat; effort is part of reasoning"),
    "additionalModelRequestFields": Field("mapped", "reasoning", "and top_k; others are refused by name"),
    "additionalModelResponseFieldPaths": Field("hint"),
    "guardrailConfig": Field("refused", note="only Bedrock applies its guardrails"),
    "promptVariables": Field("refused", note="a prompt that is stored with Bedrock"),
    "requestMetadata": Field("hint"),
    "performanceConfig": Field("hint"),
    "serviceTier": Field("hint"),
    "modelId": Field("mapped", "model", "the path names it"),
}

EXPRESSES: Mapping[str, Fate] = {
    "model": "mapped",
    "messages": "mapped",
    "tools": "mapped",
    "tool_choice": "mapped",
    "parallel_tools": "mapped",  # of Claude models; others call several and cannot be kept from it
    "format": "mapped",  # a schema; any JSON is refused
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

# Tokens of thinking for a Claude model that takes a budget, by the effort asked for.
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}
_LEAST_BUDGET = 1024
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "logprobs": False,
    "verbosity": "medium",
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
}
"""Values that ask for nothing special, and so are no reason to refuse."""


def write_request(request: Request, model: str, facts: ModelFacts) -> Written:
    """The canonical request as a Converse body. Raises ``Unsupported`` for what it cannot say."""
    made_by = vendor(model)
    _refuse(request)
    writing = Conversation(made_by)
    writing.dropped.update(request.hints)
    body: Json = {"messages": writing.messages(request.messages)}
    if writing.system:
        body["system"] = writing.system
    config = _inference(request, model, facts, writing.dropped)
    if config:
        body["inferenceConfig"] = config
    more: Json = {}
    _tools(request, writing, body, more)
    if request.top_k is not None:
        if facts.sampling is False:
            raise Unsupported("this model takes no sampling options; leave it out", field="top_k")
        _top_k(request.top_k, made_by, more)
    output: Json = {}
    if request.format is not None:
        output["textFormat"] = _format(request)
    if request.reasoning is not None:
        _reasoning(request.reasoning, config.get("maxTokens"), model, made_by, more, output, writing.dropped)
    if output:
        body["outputConfig"] = output
    if more:
        body["additionalModelRequestFields"] = more
    if request.stop and made_by == "anthropic":
        body["additionalModelResponseFieldPaths"] = ["/stop_sequence"]
    if request.cache_prompt is not None:
        _mark_cache(body, request.cache_prompt, made_by, writing)
    return Written(msgspec.json.encode(body), tuple(sorted(writing.dropped)))


def _refuse(request: Request) -> None:
    for name, fate in EXPRESSES.items():
        value = getattr(request, name)
        if fate == "refused" and value is not None and value != _NEUTRAL.get(name):
            raise Unsupported("Bedrock has no such setting; leave it out", field=name)
    if request.temperature is not None and request.temperature > 1:
        raise Unsupported("Bedrock takes a temperature from 0 to 1", field="temperature")
    if request.format is not None and request.format.kind == "json":
        raise Unsupported("Bedrock takes a JSON Schema, not any JSON; give the schema", field="format")


def _inference(request: Request, model: str, facts: ModelFacts, dropped: set[str]) -> Json:
    temperature, top_p, limit = request.temperature, request.top_p, request.max_tokens
    if temperature is not None and top_p is not None and one_sampling_knob(model):
        # 1 asks for nothing, and together with the other one it is refused.
        if top_p == 1:
            top_p = None
        elif temperature == 1:
            temperature = None
    config: Json = {}
    if limit is not None:  # the model could not write more anyway, and Bedrock would refuse the whole request
        config["maxTokens"] = limit if facts.max_output is None else min(limit, facts.max_output)
    for name, theirs, value in (("temperature", "temperature", temperature), ("top_p", "topP", top_p)):
        if value is None:
            continue
        if facts.sampling is not False:
            config[theirs] = value
        elif value == 1:
            dropped.add(name)
        else:
            raise Unsupported("this model takes no sampling options; leave it out", field=name)
    if request.stop:
        config["stopSequences"] = list(request.stop)
    return config


def _format(request: Request) -> Json:
    asked = request.format
    assert asked is not None
    schema: Json = {"schema": msgspec.json.encode(asked.schema or {}).decode()}
    if asked.name:
        schema["name"] = asked.name
    if asked.description:
        schema["description"] = asked.description
    return {"type": "json_schema", "structure": {"jsonSchema": schema}}


def _top_k(top_k: int, made_by: Vendor, more: Json) -> None:
    if made_by in ("anthropic", "mistral"):
        more["top_k"] = top_k
    elif made_by == "cohere":
        more["k"] = top_k
    elif made_by == "amazon":
        more["inferenceConfig"] = {"topK": top_k}
    else:
        raise Unsupported("this model on Bedrock has no such setting; leave it out", field="top_k")


def _reasoning(
    reasoning: Reasoning,
    max_tokens: int | None,
    model: str,
    made_by: Vendor,
    more: Json,
    output: Json,
    dropped: set[str],
) -> None:
    effort = reasoning.effort
    if effort is not None and effort != "none" and effort not in _BUDGETS:
        raise Unsupported(f"there is no effort {effort!r}; use none, minimal, low, medium or high", field="reasoning")
    if made_by == "anthropic":
        _claude_thinking(reasoning, max_tokens, model, more, output, dropped)
    elif made_by == "amazon" and reasoning.budget is None:
        if effort == "none":
            more["reasoningConfig"] = {"type": "disabled"}
        else:
            level = {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort or "medium", effort or "medium")
            more["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
    elif made_by == "openai" and effort is not None and reasoning.budget is None:
        more["reasoning_effort"] = {"minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)
    elif effort is None and reasoning.budget is None:
        dropped.add("reasoning")
    else:
        raise Unsupported("this model on Bedrock has no such setting; leave it out", field="reasoning")


def _claude_thinking(
    reasoning: Reasoning, max_tokens: int | None, model: str, more: Json, output: Json, dropped: set[str]
) -> None:
    effort, budget = reasoning.effort, reasoning.budget
    if effort == "none":
        more["thinking"] = {"type": "disabled"}
        return
    if budget is None and (reasoning.adaptive or thinking_form(model) == "adaptive"):
        more["thinking"] = {"type": "adaptive"}
        if reasoning.summary is not None and hides_thinking(model):
            more["thinking"]["display"] = "summarized"
        if effort is not None:
            level = "low" if effort == "minimal" else effort
            output["effort"] = "high" if level == "xhigh" and not takes_xhigh(model) else level
        return
    if budget is None:
        budget = _BUDGETS[effort or "medium"]
        if max_tokens is not None:
            budget = min(budget, max_tokens - 1)  # thinking is part of the answer's tokens
        if budget < _LEAST_BUDGET:
            dropped.add("reasoning")
            return
    more["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _tools(request: Request, writing: Conversation, body: Json, more: Json) -> None:
    choice, tools = request.tool_choice, request.tools
    if not tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise Invalid(
                "a tool must be called, but there are no tools; add tools or leave it out", field="tool_choice"
            )
        if writing.tools_used:
            raise Unsupported(
                "Bedrock wants the tools of a conversation that has used some; send their definitions along",
                field="tools",
            )
        return
    if choice is not None and choice.mode == "none":
        if writing.tools_used:
            raise Unsupported(
                "Bedrock cannot forbid tools in a conversation that has used some; leave it out or ask for auto",
                field="tool_choice",
            )
        return
    config: Json = {"tools": []}
    for tool in tools:
        config["tools"].append({"toolSpec": _tool(tool)})
        if tool.cache is not None:
            config["tools"].append(cache_point(tool.cache))
    mode = choice.mode if choice is not None else None
    if request.parallel_tools is False:
        if writing.made_by != "anthropic":
            raise Unsupported(
                "this model on Bedrock cannot be kept from calling several tools at once; leave it out",
                field="parallel_tools",
            )
        # The type may not stand in both places.
        more["tool_choice"] = ({} if choice else {"type": "auto"}) | {"disable_parallel_tool_use": True}
    if choice is not None:
        if mode == "named":
            if choice.name not in {tool.name for tool in tools}:
                raise Invalid(f"there is no tool called {choice.name!r}", field="tool_choice")
            config["toolChoice"] = {"tool": {"name": choice.name}}
        elif mode == "required":
            config["toolChoice"] = {"any": {}}
        else:
            config["toolChoice"] = {"auto": {}}
    body["toolConfig"] = config


def _tool(tool: Tool) -> Json:
    spec: Json = {"name": tool.name}
    if tool.description:
        spec["description"] = tool.description
    spec["inputSchema"] = {"json": tool.parameters or {"type": "object", "properties": {}}}
    if tool.strict is not None:
        spec["strict"] = tool.strict
    return spec


def _mark_cache(body: Json, ttl: str, made_by: Vendor, writing: Conversation) -> None:
    """Put marks after the tools, the system prompt and the last turn, unless the caller has put some."""
    if made_by not in ("anthropic", "amazon"):
        writing.dropped.add("cache_prompt")
        return
    tools = body.get("toolConfig", {}).get("tools", [])
    if writing.marks or any("cachePoint" in tool for tool in tools):
        return
    point = cache_point(ttl)
    if tools and made_by == "anthropic":
        tools.append(point)
    if "system" in body:
        body["system"].append(point)
    last = body["messages"][-1]
    if last["role"] == "user":
        last["content"].append(point)
