"""What the simulator says: an answer in OpenAI's format that is the same for the same seed and request."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

_WORDS = tuple(
    "the answer a steady call began quietly and then reached its end while every token arrived in good order so that "
    "nothing was lost between one provider and another which is all that this simulator can promise about the world".split()
)

LABEL = "[simulated]"
"""What every simulated answer begins with, so that nobody takes it for a model's."""


class Script:
    """One simulated answer: its tokens or its tool calls, and its usage."""

    def __init__(self, body: Mapping[str, Any], chance: random.Random, tokens: int, reply: str | None) -> None:
        self.prompt_tokens = max(1, len(json.dumps(body.get("messages", body.get("input", "")))) // 4)
        self.tool_calls: list[tuple[str, str, str]] = []
        self.finish = "stop"
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        text = self._text(body, chance, tokens, reply)
        self.pieces = _pieces(text)
        if self.tool_calls:
            self.pieces, self.finish = [], "tool_calls"
        elif isinstance(limit, int) and limit < len(self.pieces):
            self.pieces, self.finish = self.pieces[:limit], "length"

    def _text(self, body: Mapping[str, Any], chance: random.Random, tokens: int, reply: str | None) -> str:
        tools = cast(list[Mapping[str, Any]], body.get("tools") or [])
        choice = body.get("tool_choice")
        if tools and (choice == "required" or isinstance(choice, Mapping)):
            wanted: Any = (
                cast(Mapping[str, Any], choice).get("function", {}).get("name") if isinstance(choice, Mapping) else None
            )
            for tool in tools:
                function = tool.get("function", {})
                if wanted in (None, function.get("name")):
                    arguments = json.dumps(instance(function.get("parameters") or {}, chance))
                    self.tool_calls.append((f"call_{chance.getrandbits(64):016x}", function.get("name", ""), arguments))
                    return ""
        shape = cast(Mapping[str, Any], body.get("response_format") or {})
        if shape.get("type") == "json_schema":
            return json.dumps(instance(shape.get("json_schema", {}).get("schema") or {}, chance))
        if shape.get("type") == "json_object":
            return json.dumps({"simulated": True})
        if reply is not None:
            return reply
        prefix = _prefix(body)
        words = [LABEL] + [chance.choice(_WORDS) for _ in range(max(1, tokens) - 1)]
        whole = " ".join(words) + "."
        return whole[len(prefix) :] if prefix and whole.startswith(prefix) else whole

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        completion = len(self.pieces) + sum(max(1, len(arguments) // 4) for _, _, arguments in self.tool_calls)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


def _prefix(body: Mapping[str, Any]) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return ""
    last: Any = cast(list[Any], messages)[-1]
    if isinstance(last, Mapping):
        message = cast(Mapping[str, Any], last)
        if message.get("role") == "assistant" and isinstance(message.get("content"), str):
            return message["content"]
    return ""


def _pieces(text: str) -> list[str]:
    """``text`` cut before each space: about a token each."""
    pieces: list[str] = []
    for word in text.split(" "):
        pieces.append(word if not pieces else f" {word}")
    return pieces


def instance(schema: Any, chance: random.Random, depth: int = 0) -> Any:
    """A value that fits a JSON Schema, for the keywords that tool definitions use."""
    if not isinstance(schema, Mapping) or depth > 8:
        return {}
    node = cast(Mapping[str, Any], schema)
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return chance.choice(cast(list[Any], node["enum"]))
    for key in ("anyOf", "oneOf", "allOf"):
        if node.get(key):
            return instance(cast(list[Any], node[key])[0], chance, depth + 1)
    kind: Any = node.get("type", "object")
    if isinstance(kind, list):
        kind = cast(list[Any], kind)[0]
    if kind == "object":
        properties = cast(Mapping[str, Any], node.get("properties") or {})
        needed = cast(Sequence[str], node.get("required") or properties.keys())
        return {name: instance(properties.get(name, {}), chance, depth + 1) for name in needed}
    if kind == "array":
        return [instance(node.get("items", {}), chance, depth + 1) for _ in range(max(1, int(node.get("minItems", 1))))]
    if kind == "integer":
        return int(node.get("minimum", chance.randint(1, 9)))
    if kind == "number":
        return float(node.get("minimum", round(chance.random(), 3)))
    if kind == "boolean":
        return chance.random() < 0.5
    return None if kind == "null" else chance.choice(_WORDS)


def embedding(text: str, size: int) -> list[float]:
    """A unit vector that depends on ``text`` alone."""
    chance = random.Random(text)
    values = [chance.gauss(0, 1) for _ in range(size)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def plain(script: Script, identifier: str, model: str, created: int) -> bytes:
    """The whole answer as a ``chat.completion``."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(script.pieces) or None}
    if script.tool_calls:
        message["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call, name, arguments in script.tool_calls
        ]
    reply = {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "system_fingerprint": "fp_simulator",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": script.finish}],
        "usage": script.usage,
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def chunk(identifier: str, model: str, created: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    """One server-sent event of a streamed answer."""
    value = {
        "id": identifier,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "system_fingerprint": "fp_simulator",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunks(script: Script, identifier: str, model: str, created: int) -> list[bytes]:
    """The content of a streamed answer, an event for each token; the end is not among them."""
    events = [chunk(identifier, model, created, {"role": "assistant", "content": ""})]
    events += [chunk(identifier, model, created, {"content": piece}) for piece in script.pieces]
    for i, (call, name, arguments) in enumerate(script.tool_calls):
        start = {"index": i, "id": call, "type": "function", "function": {"name": name, "arguments": ""}}
        events.append(chunk(identifier, model, created, {"tool_calls": [start]}))
        for at in range(0, len(arguments), 16):
            part = {"index": i, "function": {"arguments": arguments[at : at + 16]}}
            events.append(chunk(identifier, model, created, {"tool_calls": [part]}))
    return events


def ending(script: Script, identifier: str, model: str, created: int) -> list[bytes]:
    """The finish, the usage and the terminal sign."""
    usage: dict[str, Any] = {
        "id": identifier,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
        "usage": script.usage,
    }
    return [
        chunk(identifier, model, created, {}, script.finish),
        b"data: " + json.dumps(usage, separators=(",", ":")).encode() + b"\n\n",
        b"data: [DONE]\n\n",
    ]
