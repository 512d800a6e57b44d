"""The tables of every wire format say what it does: each field that is mapped, hinted at or refused, both ways."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import ModelFacts
from mainstay.core.request import Format, Message, Reasoning, Request, Text, Tool, ToolChoice
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.dialect import Dialect, Field
from mainstay.wire.gemini import Gemini
from mainstay.wire.openai_chat import OpenAIChat
from mainstay.wire.openai_responses import OpenAIResponses

DIALECTS: list[Dialect] = [OpenAIChat(), OpenAIResponses(), Anthropic(), Gemini(), Bedrock()]
IDS = [dialect.name for dialect in DIALECTS]
ATTRIBUTES = {field.name for field in dataclasses.fields(Request)}
FACTS = ModelFacts(reasoning=True, max_output=4096, context_window=100_000)
MARK = "zz-mark"

ASK: dict[str, dict[str, Any]] = {
    "openai": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    "openai-responses": {"model": "m", "input": "Hi"},
    "anthropic": {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
    "bedrock": {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]},
}
"""The smallest request of each format."""

VALUES: list[Any] = [MARK, {"type": MARK}, {MARK: MARK}, {"id": MARK}, [MARK], [f"/{MARK}"], [{"type": MARK}], True, 7]
"""What a field of unknown type might take."""

SAID: dict[str, Any] = {
    "tools": (Tool("f", "d", {"type": "object"}),),
    "tool_choice": ToolChoice("required"),
    "parallel_tools": False,
    "format": Format("schema", {"type": "object", "properties": {}}, "answer"),
    "max_tokens": 77,
    "temperature": 0.25,
    "top_p": 0.25,
    "top_k": 3,
    "min_p": 0.25,
    "stop": ("halt",),
    "seed": 7,
    "n": 2,
    "presence_penalty": 0.25,
    "frequency_penalty": 0.25,
    "logit_bias": {"7": -100},
    "logprobs": True,
    "top_logprobs": 3,
    "reasoning": Reasoning("high"),
    "verbosity": "low",
    "stream": True,
    "include_usage": True,
    "cache_prompt": "5m",
    "hints": {"unheard_of": MARK},
}
"""A value of each attribute of the canonical request that changes something."""

NEEDS: dict[str, dict[str, Any]] = {
    "tool_choice": {"tools": SAID["tools"]},
    "parallel_tools": {"tools": SAID["tools"]},
    "top_logprobs": {"logprobs": True},
    "include_usage": {"stream": True},
}
"""What makes an attribute meaningful."""

ELSEWHERE: dict[str, set[str]] = {
    # The path says whether it is a stream, and the stream always holds usage.
    "gemini": {"stream", "include_usage", "model"},
    "bedrock": {"stream", "include_usage", "model"},
    "anthropic": {"include_usage"},
    "openai-responses": {"include_usage"},
}
"""Attributes that a format says outside of the body, or always."""

UNSAID = {("bedrock", "additionalModelResponseFieldPaths")}
"""Hints that are about nothing but the reply's own shape in that format, which no caller asks for."""


def request(**fields: Any) -> Request:
    return Request("m", (Message("user", (Text("Hi"),)),), **fields)


def body_with(dialect: Dialect, name: str, value: Any) -> bytes:
    """The smallest request with the field ``name``, which may be a path with dots, set to ``value``."""
    body = json.loads(json.dumps(ASK[dialect.name]))
    inner = body
    *way, last = name.split(".")
    for step in way:
        inner = inner.setdefault(step, {})
    inner[last] = value
    return json.dumps(body).encode()


def fields(fate: str) -> list[Any]:
    return [
        pytest.param(dialect, name, id=f"{dialect.name}-{name}")
        for dialect in DIALECTS
        for name, field in dialect.fields.items()
        if field.fate == fate and (dialect.name, name) not in UNSAID
    ]


def attributes(fate: str) -> list[Any]:
    return [
        pytest.param(dialect, name, id=f"{dialect.name}-{name}")
        for dialect in DIALECTS
        for name, said in dialect.expresses.items()
        if said == fate and name in SAID
    ]


@pytest.mark.parametrize("dialect", DIALECTS, ids=IDS)
def test_every_attribute_of_the_canonical_request_is_in_the_table(dialect: Dialect) -> None:
    assert set(dialect.expresses) == ATTRIBUTES
    assert set(SAID) == ATTRIBUTES - {"model", "messages"}
    assert dialect.fields


@pytest.mark.parametrize(("dialect", "name"), fields("mapped"))
def test_a_mapped_field_names_an_attribute(dialect: Dialect, name: str) -> None:
    field: Field = dialect.fields[name]
    assert set(field.to.replace(",", " ").split()) <= ATTRIBUTES
    assert field.to or field.note  # a group of fields says in a note what becomes of them


@pytest.mark.parametrize(("dialect", "name"), fields("refused"))
def test_a_refused_field_is_refused_by_name(dialect: Dialect, name: str) -> None:
    named = 0
    for value in VALUES:
        with pytest.raises(Invalid) as refused:
            dialect.read_request(body_with(dialect, name, value))
        named += isinstance(refused.value, Unsupported) and str(refused.value.field).startswith(name)
    assert named


@pytest.mark.parametrize("dialect", DIALECTS, ids=IDS)
def test_a_field_that_is_in_no_table_is_refused_by_name(dialect: Dialect) -> None:
    with pytest.raises(Unsupported) as refused:
        dialect.read_request(body_with(dialect, "mystery", 1))
    assert refused.value.field == "mystery"


@pytest.mark.parametrize("target", DIALECTS, ids=[f"to-{name}" for name in IDS])
@pytest.mark.parametrize(("dialect", "name"), fields("hint"))
def test_a_hint_is_said_or_named_as_dropped(dialect: Dialect, name: str, target: Dialect) -> None:
    plain = dialect.read_request(json.dumps(ASK[dialect.name]).encode())
    without = target.write_request(plain, "m", FACTS)
    read = 0
    for value in VALUES:
        try:
            asked = dialect.read_request(body_with(dialect, name, value))
        except Invalid:
            continue
        if asked == plain:  # the value says nothing
            continue
        read += 1
        written = target.write_request(asked, "m", FACTS)
        words = {dialect.fields[name].to or name, name}
        dropped = {*written.dropped, *(one.partition(".")[0] for one in written.dropped)}
        assert written.body != without.body or words & dropped or words & set(json.loads(written.body))
    assert read


@pytest.mark.parametrize(("dialect", "name"), attributes("refused"))
def test_an_attribute_that_cannot_be_said_is_refused_by_name(dialect: Dialect, name: str) -> None:
    needs = {need: value for need, value in NEEDS.get(name, {}).items() if dialect.expresses[need] != "refused"}
    with pytest.raises(Unsupported) as refused:
        dialect.write_request(request(**{**needs, name: SAID[name]}), "m", FACTS)
    assert refused.value.field == name


@pytest.mark.parametrize(("dialect", "name"), attributes("hint"))
def test_an_attribute_that_is_a_hint_is_named_as_dropped(dialect: Dialect, name: str) -> None:
    plain = dialect.write_request(request(**NEEDS.get(name, {})), "m", FACTS)
    written = dialect.write_request(request(**{**NEEDS.get(name, {}), name: SAID[name]}), "m", FACTS)
    expected = set(SAID[name]) if name == "hints" else {name}
    assert {one.partition(".")[0] for one in written.dropped} >= expected
    assert json.loads(written.body) == json.loads(plain.body)


@pytest.mark.parametrize(("dialect", "name"), attributes("mapped"))
def test_an_attribute_that_is_mapped_is_in_the_body(dialect: Dialect, name: str) -> None:
    if name in ELSEWHERE.get(dialect.name, ()):
        pytest.skip(f"{dialect.name} says {name} outside of the body, or always")
    plain = dialect.write_request(request(**NEEDS.get(name, {})), "m", FACTS)
    written = dialect.write_request(request(**{**NEEDS.get(name, {}), name: SAID[name]}), "m", FACTS)
    assert json.loads(written.body) != json.loads(plain.body)
    assert written.dropped == plain.dropped
