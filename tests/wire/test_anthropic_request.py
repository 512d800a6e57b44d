"""The Messages request: read from callers, written to upstreams."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import message_create_params, message_param
from anthropic.types.beta import message_create_params as beta_params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import UNKNOWN, ModelFacts
from mainstay.core.request import (
    Audio,
    Document,
    Format,
    Image,
    Message,
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
from mainstay.wire.anthropic import Anthropic

# The machine may be busy with other tests.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECT = Anthropic()
USER = (Message("user", (Text("hi"),)),)
MESSAGES: TypeAdapter[Any] = TypeAdapter(list[message_param.MessageParam], config=ConfigDict(extra="forbid"))


def valid(messages: list[dict[str, Any]]) -> None:
    """The SDK's own types accept ``messages``; it checks lists only as they are gone through."""
    pending: list[Any] = list(MESSAGES.validate_python(messages))
    while pending:
        content = pending.pop().get("content", ())
        if not isinstance(content, str):
            pending += list(content)


def read(**fields: Any) -> Request:
    asked = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}], **fields}
    return DIALECT.read_request(json.dumps(asked).encode())


def write(
    request: Request | None = None, model: str = "claude-large", facts: ModelFacts = UNKNOWN, **more: Any
) -> dict[str, Any]:
    asked = dataclasses.replace(request or Request("m", USER), **more)
    written = json.loads(DIALECT.write_request(asked, model, facts).body)
    valid(written["messages"])
    return written


def dropped(**more: Any) -> tuple[str, ...]:
    return DIALECT.write_request(dataclasses.replace(Request("m", USER), **more), "claude-large", UNKNOWN).dropped


def refused(model: str = "claude-large", facts: ModelFacts = UNKNOWN, **more: Any) -> str | None:
    with pytest.raises(Unsupported) as failure:
        write(model=model, facts=facts, **more)
    return failure.value.field


def talk(*messages: Message) -> list[dict[str, Any]]:
    return write(messages=messages)["messages"]


# The tables


def test_every_field_of_the_sdk_has_a_fate() -> None:
    known: set[str] = set()
    for params in (message_create_params, beta_params):
        for kind in (params.MessageCreateParamsNonStreaming, params.MessageCreateParamsStreaming):
            known |= set(get_type_hints(kind))
    assert {"messages", "thinking", "mcp_servers"} <= known
    assert known <= set(DIALECT.fields)
    assert {"temperature", "top_p", "top_k", "output_format"} <= set(DIALECT.fields)


def test_the_tables_name_attributes_of_the_request() -> None:
    attributes = {field.name for field in dataclasses.fields(Request)}
    assert set(DIALECT.expresses) == attributes
    for field in DIALECT.fields.values():
        assert field.fate in get_args(type(field).__annotations__["fate"]) or field.fate in (
            "mapped",
            "hint",
            "refused",
        )
        assert field.fate != "mapped" or set(field.to.split(", ")) <= attributes


@pytest.mark.parametrize("name", [name for name, field in DIALECT.fields.items() if field.fate == "refused"])
def test_refused_fields_are_named(name: str) -> None:
    with pytest.raises(Unsupported) as failure:
        read(**{name: {"some": "value"}})
    assert failure.value.field == name
    assert name in failure.value.message
    read(**{name: None})


@pytest.mark.parametrize("name", [name for name, field in DIALECT.fields.items() if field.fate == "hint"])
def test_hints_are_kept_under_their_canonical_name(name: str) -> None:
    value = {"user_id": "u"} if name == "metadata" else "standard"
    assert DIALECT.fields[name].to in read(**{name: value}).hints


@pytest.mark.parametrize("name", [name for name, fate in DIALECT.expresses.items() if fate == "refused"])
def test_what_cannot_be_expressed_is_refused_by_name(name: str) -> None:
    value = {"n": 2, "logit_bias": {"1": 5.0}, "logprobs": True, "verbosity": "high"}.get(name, 1)
    assert refused(**{name: value}) == name


def test_values_that_ask_for_nothing_are_not_refused() -> None:
    written = write(n=1, presence_penalty=0.0, frequency_penalty=0, logit_bias={}, logprobs=False, min_p=0.0)
    assert written.keys() == {"model", "max_tokens", "messages"}
    assert dropped(verbosity="medium") == ("verbosity",)


# Reading


def test_messages_are_read() -> None:
    request = read(
        system=[{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                    {"type": "text", "text": "so", "citations": None},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "is_error": True,
                        "content": [
                            {"type": "text", "text": "no"},
                            {"type": "image", "source": {"type": "url", "url": "https://e.com/i.png"}},
                        ],
                        "cache_control": {"type": "ephemeral"},
                    },
                    {"type": "tool_result", "tool_use_id": "t2"},
                    {"type": "text", "text": "and?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}},
                    {"type": "document", "source": {"type": "file", "file_id": "file_1"}, "title": "T"},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
                    {
                        "type": "search_result",
                        "source": "https://e.com",
                        "title": "E",
                        "content": [{"type": "text", "text": "found"}],
                    },
                ],
            },
            {"role": "system", "content": "now in French"},
        ],
    )
    assert request.messages == (
        Message("system", (Text("be kind", "1h"),)),
        Message("user", (Text("hi"),)),
        Message(
            "assistant",
            (Thinking("hm", "s"), Thinking("", "d", redacted=True), Text("so"), ToolCall("t1", "f", '{"a": 1}')),
        ),
        Message("tool", (ToolResult("t1", (Text("no"), Image(url="https://e.com/i.png")), True, cache="5m"),)),
        Message("tool", (ToolResult("t2", ()),)),
        Message(
            "user",
            (
                Text("and?"),
                Image(data="QQ==", media_type="image/png"),
                Document(file_id="file_1", name="T"),
                Document(data="w6Q=", media_type="text/plain"),
                Text("E\nhttps://e.com\n\nfound"),
            ),
        ),
        Message("system", (Text("now in French"),)),
    )


def test_options_are_read() -> None:
    request = read(
        temperature=1,
        top_p=0.5,
        top_k=3,
        stop_sequences=["END"],
        stream=True,
        metadata={"user_id": "u"},
        cache_control={"type": "ephemeral"},
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        thinking={"type": "adaptive", "display": "summarized"},
    )
    assert (request.temperature, request.top_p, request.top_k, request.stop) == (1.0, 0.5, 3, ("END",))
    assert (request.stream, request.include_usage, request.cache_prompt) == (True, True, "5m")
    assert request.hints == {"user": "u"}
    assert request.tools == (Tool("f", "d", {"type": "object"}, True),)
    assert (request.tool_choice, request.parallel_tools) == (ToolChoice("required"), False)
    assert request.format == Format("schema", {"type": "object"}, strict=True)
    assert request.reasoning == Reasoning("max", summary="auto", adaptive=True)


@pytest.mark.parametrize(
    ("thinking", "reasoning"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, Reasoning(budget=2048)),
        ({"type": "disabled"}, Reasoning("none")),
        ({"type": "adaptive"}, Reasoning(adaptive=True)),
    ],
)
def test_thinking_is_read(thinking: dict[str, Any], reasoning: Reasoning) -> None:
    assert read(thinking=thinking).reasoning == reasoning


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "f"}, ToolChoice("named", "f")),
    ],
)
def test_tool_choice_is_read(choice: dict[str, Any], expected: ToolChoice) -> None:
    request = read(tool_choice=choice)
    assert (request.tool_choice, request.parallel_tools) == (expected, None)


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"new_field": 1}, "new_field"),
        (block(type="text", text="a", new=1), "messages.0.content.0.new"),
        (block(type="server_tool_use", id="x", name="web_search", input={}), "messages.0.content.0.type"),
        (block(type="image", source={"type": "file", "file_id": "f"}), "messages.0.content.0.source.type"),
        (
            block(
                type="document",
                source={"type": "text", "media_type": "text/plain", "data": "x"},
                citations={"enabled": True},
            ),
            "messages.0.content.0.citations",
        ),
        (
            block(type="document", source={"type": "text", "media_type": "text/plain", "data": "x"}, context="c"),
            "messages.0.content.0.context",
        ),
        (
            {"messages": [{"role": "assistant", "content": [
                {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "code_execution"}}
            ]}]},
            "messages.0.content.0.caller",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]}, "tools.0"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "tools.0.input_examples"),
        ({"tools": [{"name": "f", "input_schema": {}, "what": 1}]}, "tools.0.what"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as failure:
        read(**fields)
    assert failure.value.field == field
    assert field in failure.value.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        (block(type="tool_use", id="t", name="f", input={}), "messages.0.content.0"),
        (block(type="thinking", thinking="x", signature="s"), "messages.0.content.0"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as failure:
        read(**fields)
    assert not isinstance(failure.value, Unsupported)
    assert failure.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "\xff"}'])
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(Invalid):
        DIALECT.read_request(body)


def test_a_request_that_only_counts_has_no_max_tokens() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    assert DIALECT.read_request(body).max_tokens is None


# Writing


def test_system_and_developer_messages_come_first() -> None:
    system = (Message("system", (Text("a"),)), Message("developer", (Text("b", "5m"),)))
    written = write(messages=(*system, *USER))
    assert written["system"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
    ]
    assert written["messages"] == [{"role": "user", "content": "hi"}]
    assert write(messages=(system[0], *USER))["system"] == "a"


ASSISTANT = Message("assistant", (Text("yes"),))
LATER = Message("system", (Text("in French"),))


def test_a_later_system_message_keeps_its_place_or_is_refused() -> None:
    written = talk(*USER, LATER, Message("developer", (Text("please"),)), ASSISTANT, *USER, LATER)
    assert [turn["role"] for turn in written] == ["user", "system", "assistant", "user", "system"]
    assert [text["text"] for text in written[1]["content"]] == ["in French", "please"]
    assert refused(messages=(*USER, ASSISTANT, LATER, *USER)) == "messages"
    assert refused(messages=(*USER, LATER, *USER)) == "messages"
    assert refused(model="claude-sonnet-4-5-20250929", messages=(*USER, LATER)) == "messages"
    assert write(model="claude-opus-4-8", messages=(*USER, LATER))["messages"][1]["role"] == "system"


def test_neighbours_of_one_role_are_merged_and_results_come_first() -> None:
    calls = Message("assistant", (Text("both"), ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "f", "")))
    written = talk(
        *USER,
        calls,
        Message("tool", (ToolResult("a", (Text("1"),)),)),
        Message("user", (Text("wait"),)),
        Message("tool", (ToolResult("b", (Text("2"), Image(url="https://e.com")), True),)),
        Message("user", (Text("go on"),)),
    )
    assert [turn["role"] for turn in written] == ["user", "assistant", "user"]
    assert written[1]["content"][1:] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
    ]
    assert written[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {
            "type": "tool_result",
            "tool_use_id": "b",
            "content": [
                {"type": "text", "text": "2"},
                {"type": "image", "source": {"type": "url", "url": "https://e.com"}},
            ],
            "is_error": True,
        },
        {"type": "text", "text": "wait"},
        {"type": "text", "text": "go on"},
    ]


def test_arguments_keep_their_text() -> None:
    call = Message("assistant", (ToolCall("a", "f", '{"x":1.0, "big":12345678901234567890}'),))
    body = DIALECT.write_request(Request("m", (*USER, call)), "claude", UNKNOWN).body
    assert b'"input":{"x":1.0, "big":12345678901234567890}' in body
    broken = Message("assistant", (ToolCall("a", "f", '{"x'),))
    assert talk(*USER, broken)[1]["content"][0]["input"] == {"INVALID_JSON": '{"x'}


def test_ids_that_the_api_would_refuse() -> None:
    written = talk(
        *USER,
        Message("assistant", (ToolCall("functions.f:0", "f", "{}"),)),
        Message("tool", (ToolResult("functions.f:0", ()),)),
    )
    assert written[1]["content"][0]["id"] == written[2]["content"][0]["tool_use_id"] == "functions_f_0"
    assert written[2]["content"][0]["content"] == ""


def test_thinking_comes_first_and_only_what_anthropic_signed() -> None:
    parts = (Text("so"), Thinking("hm", "sig"), Thinking("", "enc", redacted=True), Thinking("unsigned"))
    messages = (*USER, Message("assistant", (*parts, Thinking("other", "x", id="rs_1"))), *USER)
    written = talk(*messages)
    assert written[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "enc"},
        {"type": "text", "text": "so"},
    ]
    assert dropped(messages=messages) == ("thinking",)


def test_empty_text_is_left_out() -> None:
    written = talk(*USER, Message("assistant", (Text(""), ToolCall("a", "f", "{}"))), Message("user", (Text(" \n"),)))
    assert written[1] == {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
    assert len(written) == 2
    assert refused(messages=(Message("system", (Text(" "),)),)) == "messages"


def test_a_conversation_of_nothing_but_a_system_prompt_is_what_there_is_to_answer() -> None:
    assert talk(Message("system", (Text("one"),)), Message("developer", (Text("two"),))) == [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    ]


def test_a_prefill_loses_the_white_space_that_the_api_refuses() -> None:
    assert talk(*USER, Message("assistant", (Text("The answer is \n"),)))[-1] == {
        "role": "assistant",
        "content": "The answer is",
    }
    assert talk(*USER, Message("assistant", (Refusal("I cannot "),)))[-1]["content"] == "I cannot"
    prefilled = (*USER, Message("assistant", (Text("x"),)))
    assert refused(facts=ModelFacts(prefill=False), messages=prefilled) == "messages"


@pytest.mark.parametrize(
    ("part", "written"),
    [
        (Image(url="https://e.com/a"), {"type": "image", "source": {"type": "url", "url": "https://e.com/a"}}),
        (
            Image(url="data:image/webp;base64,QUJD"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "QUJD"}},
        ),
        (
            Image(data="/9j/4AAQ"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQ"}},
        ),
        (
            Document(data="JVBERi0x", name="a.pdf", cache="1h"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
                "title": "a.pdf",
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
        ),
        (
            Document(data="w6Q=", media_type="text/markdown"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ä"}},
        ),
        (Document(url="https://e.com"), {"type": "document", "source": {"type": "url", "url": "https://e.com"}}),
        (Document(file_id="file_1"), {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
    ],
)
def test_media(part: Any, written: dict[str, Any]) -> None:
    assert talk(Message("user", (part,)))[0]["content"] == [written]


@pytest.mark.parametrize(
    "part",
    [
        Audio("QQ==", "wav"),
        Image(),
        Image(url="data:image/png,raw"),
        Document(file_id="file-openai"),
        Document(),
        Document(data="QQ==", media_type="application/zip"),
        Document(data="/w==", media_type="text/plain"),
    ],
)
def test_media_that_anthropic_does_not_take(part: Any) -> None:
    assert refused(messages=(Message("user", (part,)),)) == "messages"
    assert refused(messages=(Message("system", (Image(url="https://e.com"),)), *USER)) == "messages"


TOOL = Tool("f", "d", {"type": "object", "properties": {}}, cache="5m")


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (None, None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), True, {"type": "auto", "disable_parallel_tool_use": False}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("named", "f"), False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
    ],
)
def test_tools(choice: ToolChoice | None, parallel: bool | None, written: dict[str, Any] | None) -> None:
    body = write(tools=(TOOL, Tool("g")), tool_choice=choice, parallel_tools=parallel)
    assert body["tools"] == [
        {
            "name": "f",
            "description": "d",
            "input_schema": {"type": "object", "properties": {}},
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "g", "input_schema": {"properties": {}, "type": "object"}},
    ]
    assert body.get("tool_choice") == written


def test_tool_choice_without_tools() -> None:
    assert "tool_choice" not in write(tool_choice=ToolChoice("none"), parallel_tools=False)
    assert refused(tool_choice=ToolChoice("required")) == "tool_choice"


def test_max_tokens() -> None:
    assert write()["max_tokens"] == 4096
    assert write(facts=ModelFacts(max_output=8192))["max_tokens"] == 8192
    assert write(facts=ModelFacts(max_output=8192), max_tokens=100_000)["max_tokens"] == 8192
    assert write(max_tokens=5)["max_tokens"] == 5


@UNHURRIED
@given(
    st.none() | st.sampled_from(["minimal", "low", "medium", "high", "xhigh", "max"]),
    st.none() | st.integers(1, 100_000),
    st.integers(1025, 200_000),
)
def test_a_budget_leaves_room_for_the_answer(effort: str | None, budget: int | None, limit: int) -> None:
    written = write(reasoning=Reasoning(effort, budget), max_tokens=limit)
    assert written["max_tokens"] == limit
    assert written["thinking"]["type"] == "enabled"
    assert 1024 <= written["thinking"]["budget_tokens"] < limit
    if budget is not None and 1024 <= budget < limit:
        assert written["thinking"]["budget_tokens"] == budget


@pytest.mark.parametrize(
    ("model", "reasoning", "written"),
    [
        ("claude-sonnet-4-5-20250929", Reasoning("none"), {"thinking": {"type": "disabled"}}),
        (
            "claude-3-7-sonnet-20250219",
            Reasoning("medium"),
            {"thinking": {"type": "enabled", "budget_tokens": 4000}},
        ),
        (
            "claude-opus-4-20250514",
            Reasoning(adaptive=True),
            {"thinking": {"type": "enabled", "budget_tokens": 6400}},
        ),
        (
            "us.anthropic.claude-sonnet-4-6-v1:0",
            Reasoning("xhigh"),
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        (
            "claude-opus-4-7",
            Reasoning("minimal", summary="auto"),
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
        ),
        (
            "claude-opus-5",
            Reasoning(budget=7000),
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        ("claude-mythos-preview", Reasoning(adaptive=True), {"thinking": {"type": "adaptive"}}),
        ("an-alias", Reasoning("high", adaptive=True), {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    ],
)  # fmt: skip
def test_each_generation_is_asked_to_think_in_its_own_way(
    model: str, reasoning: Reasoning, written: dict[str, Any]
) -> None:
    body = write(model=model, reasoning=reasoning, max_tokens=8000)
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == written


def test_thinking_that_cannot_be() -> None:
    assert refused(reasoning=Reasoning(budget=2000), max_tokens=1000) == "reasoning"
    assert refused(model="claude-fable-5", reasoning=Reasoning("none")) == "reasoning"
    assert dropped(reasoning=Reasoning("low"), max_tokens=1000) == ("reasoning",)
    assert dropped(reasoning=Reasoning(budget=9000), max_tokens=5000) == ("reasoning.budget",)
    thinks: dict[str, Any] = {"reasoning": Reasoning("low"), "max_tokens": 9000}
    assert refused(temperature=0.5, **thinks) == "temperature"
    assert refused(top_p=0.5, **thinks) == "top_p"
    assert refused(top_k=5, **thinks) == "top_k"
    assert refused(tools=(TOOL,), tool_choice=ToolChoice("required"), **thinks) == "tool_choice"
    assert write(temperature=1, top_p=0.97, **thinks)["temperature"] == 1


def test_sampling() -> None:
    written = write(temperature=0.5, top_p=1, top_k=4, stop=("END",))
    assert (written["temperature"], written["top_p"], written["top_k"]) == (0.5, 1, 4)
    assert written["stop_sequences"] == ["END"]
    assert refused(temperature=1.5) == "temperature"
    assert refused(stop=("\n\n",)) == "stop"
    assert refused(facts=ModelFacts(sampling=False), temperature=0.5) == "temperature"
    assert "temperature" not in write(facts=ModelFacts(sampling=False), temperature=1)
    newer = "claude-opus-4-1"
    assert write(model=newer, temperature=0.5, top_p=1).keys() & {"temperature", "top_p"} == {"temperature"}
    assert write(model=newer, temperature=1, top_p=0.5).keys() & {"temperature", "top_p"} == {"top_p"}


def test_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    written = write(format=Format("schema", schema, name="n", strict=True))
    assert written["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    described = write(format=Format("schema", schema, description="what it is"))
    assert described["output_config"]["format"]["schema"] == {**schema, "description": "what it is"}
    both = write(model="claude-opus-5", format=Format("schema", schema), reasoning=Reasoning("low"))
    assert both["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    assert refused(format=Format("json")) == "format"
    assert refused(facts=ModelFacts(schema=False), format=Format("schema", schema)) == "format"


def test_hints() -> None:
    written = write(hints={"user": "u", "service_tier": "auto"})
    assert (written["metadata"], written["service_tier"]) == ({"user_id": "u"}, "auto")
    assert write(hints={"safety_identifier": "s"})["metadata"] == {"user_id": "s"}
    assert dropped(hints={"user": "u", "safety_identifier": "s"}) == ("safety_identifier",)
    assert dropped(hints={"user": "u" * 300, "service_tier": "flex", "metadata": {"a": "b"}, "store": None}) == (
        "user",
        "service_tier",
        "metadata",
    )
    assert dropped(messages=(Message("user", (Text("x"), Image(url="https://e.com", detail="low")), "Ann"),)) == (
        "name",
        "messages.image.detail",
    )


def test_cache_marks_on_request() -> None:
    written = write(
        messages=(Message("system", (Text("s"),)), *USER, ASSISTANT, Message("user", (Text("b"),))),
        tools=(Tool("f"), Tool("g")),
        cache_prompt="1h",
    )
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert [tool.get("cache_control") for tool in written["tools"]] == [None, mark]
    assert written["system"] == [{"type": "text", "text": "s", "cache_control": mark}]
    assert written["messages"][0]["content"] == "hi"
    assert written["messages"][2]["content"] == [{"type": "text", "text": "b", "cache_control": mark}]


# There and back

words = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
text = st.text(min_size=1, max_size=10).filter(str.strip)
caches = st.sampled_from([None, None, "5m", "1h"])
texts = st.builds(Text, text, caches)
images = st.builds(Image, url=st.just("https://e.com/i"), cache=caches) | st.builds(
    Image, data=st.just("QQ=="), media_type=st.just("image/png"), cache=caches
)
documents = (
    st.builds(Document, url=st.just("https://e.com/d"), name=st.none() | words, cache=caches)
    | st.builds(Document, file_id=st.just("file_1"), name=st.none() | words)
    | st.builds(Document, data=st.just("JVBERi0x"), media_type=st.just("application/pdf"))
    | st.builds(Document, data=st.just("w6Q="), media_type=st.just("text/plain"))
)
results = st.builds(
    ToolResult,
    words,
    st.lists(texts | images | documents, max_size=3).map(tuple),
    st.booleans(),
    cache=caches,
)
calls = st.builds(
    ToolCall, words, words, st.dictionaries(words, st.integers(), max_size=2).map(json.dumps), cache=caches
)
thoughts = st.builds(Thinking, text, words) | st.builds(Thinking, st.just(""), words, st.just(True))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message("system", tuple(draw(st.lists(texts, min_size=1, max_size=2)))))
    messages.append(Message("user", tuple(draw(st.lists(texts | images | documents, min_size=1, max_size=3)))))
    for _ in range(draw(st.integers(0, 2))):
        thinks = draw(st.lists(thoughts, max_size=2))
        says = draw(st.lists(texts | calls, min_size=1, max_size=3))
        messages.append(Message("assistant", (*thinks, *says)))
        messages += [Message("tool", (result,)) for result in draw(st.lists(results, max_size=2))]
        messages.append(Message("user", tuple(draw(st.lists(texts | images, min_size=1, max_size=2)))))
    return tuple(messages)


schemas = st.just({"type": "object", "properties": {"a": {"type": "string"}}})


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request that Anthropic's format can express."""
    tools = tuple(
        draw(st.lists(st.builds(Tool, words, st.none() | text, schemas, st.none() | st.booleans(), caches), max_size=2))
    )
    stream = draw(st.booleans())
    choices = [None, ToolChoice("auto"), ToolChoice("required"), ToolChoice("named", "f"), ToolChoice("none")]
    choice = draw(st.sampled_from(choices)) if tools else None
    asks = choice is not None and choice.mode != "none"
    return Request(
        model="claude-large",
        messages=draw(conversations()),
        tools=tools,
        tool_choice=choice,
        parallel_tools=draw(st.none() | st.booleans()) if asks else None,
        format=draw(st.none() | st.builds(Format, st.just("schema"), schemas, strict=st.just(True))),
        max_tokens=draw(st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(0, 1)),
        top_p=draw(st.none() | st.floats(0, 1)),
        top_k=draw(st.none() | st.integers(0, 500)),
        stop=tuple(draw(st.lists(text, max_size=2))),
        reasoning=draw(st.none() | st.just(Reasoning("none")) | st.just(Reasoning("high", adaptive=True))),
        stream=stream,
        include_usage=stream,
        hints=draw(st.just({}) | st.builds(lambda user: {"user": user}, words)),
    )


@UNHURRIED
@given(requests())
def test_every_mapped_field_survives_a_round_trip(request: Request) -> None:
    written = DIALECT.write_request(request, request.model, UNKNOWN)
    assert written.dropped == ()
    valid(json.loads(written.body)["messages"])
    assert DIALECT.read_request(written.body) == request


@UNHURRIED
@given(requests())
def test_what_is_written_can_be_peeked_at(request: Request) -> None:
    body = DIALECT.write_request(request, request.model, UNKNOWN).body
    seen = DIALECT.peek("messages", body, "application/json")
    parts = [part for message in request.messages for part in message.parts]
    inner = parts + [p for part in parts if isinstance(part, ToolResult) for p in part.content]
    assert (seen.model, seen.stream, seen.max_tokens) == (request.model, request.stream, request.max_tokens)
    assert seen.images == any(isinstance(part, Image) for part in inner)
    assert (seen.tools, seen.schema) == (bool(request.tools), request.format is not None)
