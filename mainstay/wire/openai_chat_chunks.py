"""The chunks and replies of chat completions as typed values, and those whose types are not the usual ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from mainstay.wire.openai_usage import Reported


class Function(msgspec.Struct, gc=False):
    """A function's name and arguments, or pieces of them."""

    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct, gc=False):
    """One entry of tool_calls."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: dict[str, Any] | None = None


class Said(msgspec.Struct):
    """A message, or the next piece of one."""

    content: str | None = None
    tool_calls: list[CallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: Function | None = None
    annotations: list[dict[str, Any]] | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    reasoning_details: list[dict[str, Any]] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities, one entry per token."""

    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """One choice of a chunk (``delta``) or of a whole reply (``message``)."""

    index: int = 0
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Vendor(msgspec.Struct):
    """What Groq keeps beside the format."""

    usage: Reported | None = None


class Chunk(msgspec.Struct):
    """What every chunk after the first is read for."""

    choices: list[Choice] | None = None
    usage: Reported | None = None
    error: Any = None
    x_groq: Vendor | None = None


class Head(Chunk):
    """A first chunk, or a whole reply."""

    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


class Ending(msgspec.Struct):
    """What a glance wants of a choice."""

    index: int = 0
    finish_reason: str | None = None


class Outline(msgspec.Struct):
    """What a glance wants of a whole reply."""

    choices: list[Ending] | None = None
    usage: Reported | None = None
    error: Any = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


_any = msgspec.json.Decoder()


def json_value(data: bytes) -> Any:
    """Any JSON, also with numbers that do not fit; None for what is none."""
    try:
        return _any.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data, parse_int=float)
    except (ValueError, RecursionError):
        return None


def lenient(value: dict[str, Any]) -> Head:
    """A decoded chunk or reply whose types are not the usual ones, without what cannot be understood, and its usage."""
    head = Head()
    for name in ("id", "model", "system_fingerprint", "service_tier"):
        if isinstance(value.get(name), str | int):
            setattr(head, name, str(value[name]))
    head.created = _number(value.get("created"))
    choices = value.get("choices")
    if isinstance(choices, list):
        head.choices = [_lenient_choice(one, i) for i, one in enumerate(_objects(cast(list[Any], choices)))]
    return head


def _number(value: Any) -> int | None:
    """A whole number, also one written as a string or with a fraction."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        return int(value)
    return int(value) if isinstance(value, int | float) and -1e18 < value < 1e18 else None


def _objects(values: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (cast(dict[str, Any], value) for value in values if isinstance(value, dict))


def _lenient_choice(value: dict[str, Any], place: int) -> Choice:
    index = value.get("index")
    number = _number(index)
    choice = Choice(place if number is None else number)
    reason = value.get("finish_reason")
    choice.finish_reason = reason if isinstance(reason, str) else None
    logprobs = value.get("logprobs")
    if isinstance(logprobs, dict) and isinstance(content := cast(dict[str, Any], logprobs).get("content"), list):
        choice.logprobs = Logprobs(list(_objects(cast(list[Any], content))))
    for name in ("delta", "message"):
        message = value.get(name)
        if isinstance(message, dict):
            setattr(choice, name, _lenient_message(cast(dict[str, Any], message)))
    return choice


def _lenient_message(value: dict[str, Any]) -> Said:
    said = Said()
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        inner = value.get(name)
        if isinstance(inner, str):
            setattr(said, name, inner)
        elif isinstance(inner, list):  # Mistral's pieces of text and of thinking
            for part in _objects(cast(list[Any], inner)):
                if part.get("type") == "thinking":
                    said.reasoning_content = (said.reasoning_content or "") + _joined(part.get("thinking"))
                elif part.get("type") in (None, "text"):
                    setattr(said, name, (getattr(said, name) or "") + _joined(part.get("text")))
    for name in ("annotations", "thinking_blocks", "reasoning_details"):
        inner = value.get(name)
        if isinstance(inner, list):
            setattr(said, name, list(_objects(cast(list[Any], inner))))
    calls = value.get("tool_calls")
    if isinstance(calls, list):
        said.tool_calls = [_lenient_call(call) for call in _objects(cast(list[Any], calls))]
    function = value.get("function_call")
    if isinstance(function, dict):
        said.function_call = _lenient_function(cast(dict[str, Any], function))
    return said


def _joined(value: Any) -> str:
    """A text, or the texts of a list of pieces."""
    if isinstance(value, list):
        pieces = [part.get("text") for part in _objects(cast(list[Any], value))]
        return "".join(piece for piece in pieces if isinstance(piece, str))
    return value if isinstance(value, str) else ""


def _lenient_call(value: dict[str, Any]) -> CallPiece:
    index, id_, function, custom = value.get("index"), value.get("id"), value.get("function"), value.get("custom")
    return CallPiece(
        _number(index),
        str(id_) if isinstance(id_, str | int) else None,
        _lenient_function(cast(dict[str, Any], function)) if isinstance(function, dict) else None,
        cast(dict[str, Any], custom) if isinstance(custom, dict) else None,
    )


def _lenient_function(value: dict[str, Any]) -> Function:
    name, arguments = value.get("name"), value.get("arguments")
    if isinstance(arguments, dict | list):
        arguments = msgspec.json.encode(arguments).decode()
    return Function(name if isinstance(name, str) else None, arguments if isinstance(arguments, str) else None)
