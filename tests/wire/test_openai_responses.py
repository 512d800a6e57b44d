"""The Responses dialect's requests: what the pipeline peeks at, the field tables, both translations, errors."""

from __future__ import annotations

import json
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from mainstay.core.errors import Invalid, NotFound, OverLimit, Unsupported, UpstreamFailed
from mainstay.core.event import Failed, Start
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
from mainstay.wire.dialect import Peek

from .openai_responses_cases import dialect

OPENAPI = Path(__file__).parents[3] / "shared" / "data" / "openapi" / "openai.json"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "chat", "input": "Hi"} | fields).encode()


def peek(**fields: Any) -> Peek:
    return dialect().peek("responses", body(**fields))


# ---- the tables -----------------------------------------------------------------------------------------------------


def properties(schemas: dict[str, Any], name: str) -> set[str]:
    schema = schemas[name]
    found = set(schema.get("properties", ()))
    for part in schema.get("allOf", ()):
        found |= properties(schemas, part["$ref"].rpartition("/")[2]) if "$ref" in part else set(part["properties"])
    return found


def test_every_field_of_the_published_description_is_in_the_table() -> None:
    if not OPENAPI.exists():
        pytest.skip("the OpenAPI file is not beside this checkout")
    schemas = json.loads(OPENAPI.read_text())["components"]["schemas"]
    assert properties(schemas, "CreateResponse") - set(dialect().fields) == set()


def test_every_field_of_the_sdk_is_in_the_table() -> None:
    known = set(response_create_params.ResponseCreateParamsNonStreaming.__annotations__)
    known |= set(response_create_params.ResponseCreateParamsBase.__annotations__)
    assert known - set(dialect().fields) == set()


def test_the_table_speaks_of_attributes_that_exist() -> None:
    attributes = {field.name for field in fields_of(Request)}
    for name, field in dialect().fields.items():
        assert (field.fate == "mapped") == bool(field.to), name
        assert not field.to or field.to in attributes
    assert set(dialect().expresses) == attributes


REFUSED: dict[str, Any] = {
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "background": True,
    "truncation": "auto",
    "prompt": {"id": "pmpt_1"},
    "moderation": {"model": "omni-moderation-latest"},
    "context_management": [{"type": "compaction"}],
    "access_programs": {"cyber": "standard"},
    "image": {"context_compression": "enabled"},
}


def test_every_refused_field_is_refused_by_name() -> None:
    assert {name for name, field in dialect().fields.items() if field.fate == "refused"} == set(REFUSED)
    for name, value in (REFUSED | {"a_new_field": 1}).items():
        with pytest.raises(Unsupported) as error:
            dialect().read_request(body(**{name: value}))
        assert error.value.field == name
        assert name in error.value.message


def test_refused_fields_that_ask_for_nothing_pass() -> None:
    given = dict.fromkeys(REFUSED) | {"background": False, "truncation": "disabled", "tools": [], "include": []}
    assert dialect().read_request(body(**given)) == Request("chat", (Message("user", (Text("Hi"),)),))


HINTS: dict[str, Any] = {
    "metadata": {"a": "b"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit"},
    "service_tier": "flex",
    "stream_options": {"include_obfuscation": False},
    "max_tool_calls": 3,
    "store": True,
}


def test_every_hint_is_kept_and_written_back() -> None:
    assert {name for name, field in dialect().fields.items() if field.fate == "hint"} == set(HINTS)
    request = dialect().read_request(body(stream=True, **HINTS))
    assert request.hints == HINTS
    written = dialect().write_request(request, "m", UNKNOWN)
    assert written.dropped == ()
    assert HINTS.items() <= json.loads(written.body).items()


def test_hints_of_others_are_named() -> None:
    request = Request("m", (Message("user", (Text("x", cache="5m"),), name="Bo"),), cache_prompt="5m", hints={"odd": 1})
    assert set(dialect().write_request(request, "m", UNKNOWN).dropped) == {
        "cache_control",
        "name",
        "cache_prompt",
        "odd",
    }


def test_hints_that_do_not_fit_are_named() -> None:
    odd = {
        "user": "u" * 65,
        "service_tier": "standard_only",
        "metadata": {"n": 1},
        "stream_options": {"include_usage": True},
    }
    request = Request("m", (Message("user", (Text("x"),)),), stream=True, include_usage=True, hints=odd)
    written = dialect().write_request(request, "m", UNKNOWN)
    assert set(written.dropped) == set(odd)
    assert not set(odd) & set(json.loads(written.body))


def test_every_attribute_that_cannot_be_said_is_refused_by_name() -> None:
    asked: dict[str, Any] = {
        "top_k": 3,
        "min_p": 0.1,
        "stop": ("x",),
        "seed": 1,
        "n": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {"1": 1.0},
    }
    assert {name for name, fate in dialect().expresses.items() if fate == "refused"} == set(asked)
    for name, value in asked.items():
        with pytest.raises(Unsupported) as error:
            dialect().write_request(
                replace(Request("m", (Message("user", (Text("x"),)),)), **{name: value}), "m", UNKNOWN
            )
        assert error.value.field == name


# ---- peeking --------------------------------------------------------------------------------------------------------


def test_peek_sees_what_the_pipeline_needs() -> None:
    raw = b' {"input": "Hi", "model" : "chat", "stream": true, "max_output_tokens": 20, "user": "u1"}'
    found = dialect().peek("responses", raw)
    assert (found.model, found.stream, found.max_tokens, found.n, found.user) == ("chat", True, 20, 1, "u1")
    assert raw[slice(*found.model_at)] == b'"chat"'
    assert found.usage_wanted
    assert found.unbounded == ()
    assert [found.tools, found.images, found.audio, found.schema] == [False] * 4


def test_peek_sees_capabilities() -> None:
    found = peek(
        text={"format": {"type": "json_schema", "name": "a", "schema": {}}},
        tools=[{"type": "function", "name": "f", "parameters": {}}],
        safety_identifier="s",
        input=[
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}],
            },
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]},
        ],
    )
    assert (found.schema, found.tools, found.images, found.audio, found.user) == (True, True, True, True, "s")
    assert found.unbounded == ()


def content(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x"}]}, "tools.mcp"),
        ({"input": content({"type": "input_image", "image_url": "https://a/b.png"})}, "input.image_url"),
        ({"input": content({"type": "input_image", "file_id": "file_1"})}, "input.file_id"),
        ({"input": content({"type": "input_file", "file_url": "https://a/b.pdf"})}, "input.file_url"),
        ({"input": content({"type": "input_file", "file_data": "data:application/pdf;base64,AA"})}, "input.file_data"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.item_reference"),
        ({"input": [{"id": "msg_1"}]}, "input.item_reference"),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "image_url": "https://a/b.png"}],
                    }
                ]
            },
            "input.image_url",
        ),
        (
            {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "f"}}]},
            "input.file_id",
        ),
    ],
)
def test_peek_names_what_the_size_does_not_bound(fields: dict[str, Any], named: str) -> None:
    assert peek(**fields).unbounded == (named,)
    assert peek(**{name: None for name in fields if name != "input"}).unbounded == ()


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"input":"x"}', "model"),
        (b'{"model":"","input":"x"}', "model"),
        (b'{"model":3,"input":"x"}', "model"),
        (b'{"model":"a","model":"b","input":"x"}', "model"),
        (b'{"model":"a","Model":"b","input":"x"}', "Model"),
        (b'{"model":"a","stream":"yes"}', "stream"),
        (b'{"model":"a","max_output_tokens":1.5}', "max_output_tokens"),
        (b'{"model":"a","max_output_tokens":0}', "max_output_tokens"),
        (b'{"model":"a","input":7}', "input"),
        (b'{"model":"a","input":[7]}', "input"),
        (b'{"model":"a","tools":{}}', "tools"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_peek_refuses_what_is_not_this_format(raw: bytes, field: str | None) -> None:
    with pytest.raises(Invalid) as error:
        dialect().peek("responses", raw)
    assert error.value.field == field


def test_rewrite_changes_nothing_but_the_model() -> None:
    raw = b'{ "input" : [ {"role":"user","content":"h\\u00e9"} ] , "model":"chat", "vendor": {"x": 1.0} }'
    found = dialect().peek("responses", raw)
    changed = dialect().rewrite("responses", raw, found, 'gpt-"5"', True)
    assert changed == raw.replace(b'"chat"', b'"gpt-\\"5\\""')


def test_rewrite_takes_out_reasoning_that_another_format_signed() -> None:
    ours = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "mainstay.sig"}
    native = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}
    says = {"role": "user", "content": 'the word "mainstay.sig"'}
    raw = body(input=[ours, native, says])
    changed = json.loads(dialect().rewrite("responses", raw, dialect().peek("responses", raw), "m", True))
    assert changed == {"model": "m", "input": [native, says]}


def test_paths() -> None:
    for operation, path in (
        ("responses", "/responses"),
        ("chat", "/responses"),
        ("responses.compact", "/responses/compact"),
        ("responses.input_tokens", "/responses/input_tokens"),
    ):
        assert dialect().path(operation, "m", True) == path


# ---- reading --------------------------------------------------------------------------------------------------------

CONVERSATION = [
    {"role": "developer", "content": "Rules."},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "Look", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "input_image", "image_url": "https://a/b.png", "detail": "low"},
            {"type": "input_image", "image_url": "data:image/jpeg;base64,QUJD", "detail": "auto"},
            {"type": "input_file", "file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"},
            {"type": "input_file", "file_url": "https://a/b.pdf"},
            {"type": "input_file", "file_id": "file_1"},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
        ],
    },
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "A"}, {"type": "summary_text", "text": "B"}],
     "encrypted_content": "gAAA"},
    {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "mainstay.sig"},
    {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": "mainstay.redacted.AAAA"},
    {"type": "reasoning", "id": "rs_3", "summary": []},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Well", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a":1}', "caller": {"type": "direct"}},
    {"type": "function_call_output", "call_id": "c1", "output": "one"},
    {
        "type": "function_call_output",
        "call_id": "c2",
        "name": "g",
        "output": [{"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "https://a/c.png"}],
    },
    {"role": "assistant", "content": "Done", "phase": "final_answer"},
]  # fmt: skip


def test_a_conversation_is_read() -> None:
    request = dialect().read_request(body(instructions="Be kind.", input=CONVERSATION))
    assert request.hints == {"phase": "final_answer"}
    assert request.messages == (
        Message("system", (Text("Be kind."),)),
        Message("developer", (Text("Rules."),)),
        Message(
            "user",
            (
                Text("Look", cache="5m"),
                Image(url="https://a/b.png", detail="low"),
                Image(data="QUJD", media_type="image/jpeg"),
                Document(data="QUJD", media_type="application/pdf", name="a.pdf"),
                Document(url="https://a/b.pdf"),
                Document(file_id="file_1"),
                Audio("QUJD", "wav"),
            ),
        ),
        Message(
            "assistant",
            (
                Thinking("A\n\nB", "openai.gAAA", id="rs_1"),
                Thinking("", "sig"),
                Thinking("", "AAAA", redacted=True),
                Text("Well"),
                Refusal("no"),
                ToolCall("c1", "f", "{}"),
                ToolCall("c2", "g", '{"a":1}'),
            ),
        ),
        Message("tool", (ToolResult("c1", (Text("one"),)),)),
        Message("tool", (ToolResult("c2", (Text("two"), Image(url="https://a/c.png")), name="g"),)),
        Message("assistant", (Text("Done"),)),
    )


def test_settings_are_read() -> None:
    request = dialect().read_request(
        body(
            stream=True,
            temperature=0.5,
            top_p=1,
            top_logprobs=3,
            include=["message.output_text.logprobs", "reasoning.encrypted_content"],
            max_output_tokens=50,
            parallel_tool_calls=False,
            reasoning={"effort": "low", "generate_summary": "concise", "context": "auto"},
            text={
                "verbosity": "low",
                "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True},
            },
            tools=[
                {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
            ],
            tool_choice={"type": "function", "name": "f"},
        )
    )
    assert request == Request(
        "chat",
        (Message("user", (Text("Hi"),)),),
        tools=(Tool("f", "d", {"type": "object"}, True),),
        tool_choice=ToolChoice("named", "f"),
        parallel_tools=False,
        format=Format("schema", {"type": "object"}, "a", strict=True),
        max_tokens=50,
        temperature=0.5,
        top_p=1.0,
        logprobs=True,
        top_logprobs=3,
        reasoning=Reasoning("low", summary="concise"),
        verbosity="low",
        stream=True,
        include_usage=True,
        hints={"include": ["reasoning.encrypted_content"]},
    )


def test_allowed_tools_are_the_tools_that_are_left() -> None:
    tools = [{"type": "function", "name": name, "parameters": {}} for name in ("a", "b", "c")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    request = dialect().read_request(body(tools=tools, tool_choice=choice))
    assert [tool.name for tool in request.tools] == ["b"]
    assert request.tool_choice == ToolChoice("required")


NAMESPACED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "namespace": "n"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{"type": "function", "name": "f", "new": 1}]}, "tools[0].new"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"new": 1}}, "text.new"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "input[0].type"),
        ({"input": content({"type": "input_image", "file_id": "f"})}, "input[0].content[0].file_id"),
        ({"input": content({"type": "input_video"})}, "input[0].content[0].type"),
        ({"input": [NAMESPACED]}, "input[0].namespace"),
    ],
)  # fmt: skip
def test_what_has_no_canonical_meaning_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as error:
        dialect().read_request(body(**fields))
    assert error.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": content({"type": "input_text"})}, "input[0].content[0].text"),
        (
            {"input": content({"type": "input_image", "image_url": "data:image/png,raw"})},
            "input[0].content[0].image_url",
        ),
        ({"input": content({"type": "input_file", "filename": "a"})}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": "1"}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"instructions": 4}, "instructions"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        dialect().read_request(body(**fields))
    assert not isinstance(error.value, Unsupported)
    assert error.value.field == field


# ---- writing --------------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=10)
opaque = st.text("abcXYZ019+/", min_size=4, max_size=12)
texts = st.builds(Text, words)
images = st.builds(
    Image, url=words.map("https://{}".format), detail=st.sampled_from([None, "low", "high"])
) | st.builds(Image, data=opaque, media_type=st.sampled_from(["image/png", "image/webp"]))
documents = (
    st.builds(Document, url=words.map("https://{}".format), name=st.none() | words)
    | st.builds(Document, file_id=words, name=st.none() | words)
    | st.builds(Document, data=opaque, media_type=st.just("application/pdf"), name=words)
)
calls = st.builds(ToolCall, words, words, st.just('{"a": 1}'))
thoughts = st.builds(
    lambda text, secret, identifier: Thinking(text, f"openai.{secret}", redacted=not text, id=identifier),
    st.text(max_size=5),
    opaque,
    words,
)
results = st.builds(
    ToolResult,
    words,
    st.lists(texts | images | documents, min_size=1, max_size=3).map(tuple),
    name=st.none() | words,
)
asked = st.lists(texts | images | documents, min_size=1, max_size=3).map(lambda parts: Message("user", tuple(parts)))
told = st.builds(lambda role, text: Message(role, (text,)), st.sampled_from(["system", "developer"]), texts)
answered = st.lists(texts | calls | thoughts | st.builds(Refusal, words), min_size=1, max_size=4).map(
    lambda parts: Message("assistant", tuple(parts))
)
given_back = st.builds(lambda result: Message("tool", (result,)), results)
turns = st.lists(st.tuples(asked | told | given_back, answered), min_size=1, max_size=3)
schemas = st.dictionaries(words, words, max_size=2)
tools = st.builds(Tool, words, st.none() | words, st.none() | schemas, st.booleans())
formats = st.just(Format("json")) | st.builds(
    Format, st.just("schema"), schemas, words, st.none() | words, st.none() | st.booleans()
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    streams = draw(st.booleans())
    listed = tuple(draw(st.lists(tools, max_size=2)))
    choice = draw(st.none() | st.sampled_from(["auto", "required", "none", "named"])) if listed else None
    return Request(
        "m",
        tuple(message for turn in draw(turns) for message in turn),
        tools=listed,
        tool_choice=None if choice is None else ToolChoice(choice, "f" if choice == "named" else None),  # type: ignore[arg-type]
        parallel_tools=draw(st.none() | st.booleans()),
        format=draw(st.none() | formats),
        max_tokens=draw(st.none() | st.integers(1, 100)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0, 1)),
        logprobs=draw(st.booleans()),
        top_logprobs=draw(st.none() | st.integers(0, 20)),
        reasoning=draw(
            st.none()
            | st.builds(Reasoning, st.sampled_from(["none", "low", "high"]), summary=st.none() | st.just("auto"))
        ),
        verbosity=draw(st.none() | st.just("low")),
        stream=streams,
        include_usage=streams,
        hints=draw(st.fixed_dictionaries({}, optional={"user": words, "metadata": schemas, "store": st.just(True)})),
    )


CREATE: TypeAdapter[Any] = TypeAdapter(response_create_params.ResponseCreateParams)


@settings(deadline=None)
@given(requests())
def test_what_is_written_is_read_back(request: Request) -> None:
    written = dialect().write_request(request, "m", UNKNOWN)
    assert written.dropped == ()
    found = dialect().read_request(written.body)
    hints = {name: value for name, value in found.hints.items() if name != "include"}
    assert replace(found, hints=hints) == request
    assert dialect().peek("responses", written.body).model == "m"


@settings(deadline=None, max_examples=30)
@given(requests())
def test_what_is_written_keeps_to_the_published_types(request: Request) -> None:
    CREATE.validate_python(json.loads(dialect().write_request(request, "m", UNKNOWN).body))


def ask(*messages: Message, **fields: Any) -> dict[str, Any]:
    request = Request("r", messages or (Message("user", (Text("x"),)),), **fields)
    return json.loads(dialect().write_request(request, "m", UNKNOWN).body)


def test_leading_system_text_becomes_the_instructions() -> None:
    written = ask(Message("system", (Text("S"),)), Message("user", (Text("U"),)), Message("system", (Text("T"),)))
    assert written["instructions"] == "S"
    assert [item["role"] for item in written["input"]] == ["user", "system"]
    assert "instructions" not in ask(Message("system", (Text("S"),)))


def test_nothing_is_left_at_the_provider_unless_asked() -> None:
    assert ask()["store"] is False
    assert ask(hints={"store": True})["store"] is True


def test_what_is_strict_here_by_default_is_said_not_to_be() -> None:
    assert ask(tools=(Tool("f"),))["tools"][0] == {"type": "function", "name": "f", "parameters": None, "strict": False}


def test_a_tool_that_must_be_used_must_be_there() -> None:
    assert "tool_choice" not in ask(tool_choice=ToolChoice("auto"))
    with pytest.raises(Unsupported):
        ask(tool_choice=ToolChoice("required"))


def test_reasoning_is_asked_for_in_a_form_that_can_be_sent_back() -> None:
    assert "include" not in ask()
    assert ask(reasoning=Reasoning("low"))["include"] == ["reasoning.encrypted_content"]
    assert "include" not in ask(reasoning=Reasoning("none"))
    plain = Request("r", (Message("user", (Text("x"),)),), reasoning=Reasoning("low"))
    written = dialect().write_request(plain, "m", ModelFacts(reasoning=False))
    assert written.dropped == ("reasoning",)
    assert not {"reasoning", "include"} & set(json.loads(written.body))


@pytest.mark.parametrize(("budget", "effort"), [(0, "none"), (1024, "low"), (8000, "medium"), (32000, "high")])
def test_a_budget_for_thinking_becomes_an_effort(budget: int, effort: str) -> None:
    request = Request("r", (Message("user", (Text("x"),)),), reasoning=Reasoning(budget=budget))
    written = dialect().write_request(request, "m", UNKNOWN)
    assert json.loads(written.body)["reasoning"] == {"effort": effort}
    assert written.dropped == ("reasoning.budget",)


def test_thoughts_of_other_providers_are_left_out_and_named() -> None:
    said = Message("assistant", (Thinking("t", "sig"), Thinking("u"), Text("x")))
    written = dialect().write_request(Request("r", (said,)), "m", UNKNOWN)
    assert [item["type"] for item in json.loads(written.body)["input"]] == ["message"]
    assert written.dropped == ("thinking",)


def test_what_a_model_does_not_take_is_refused() -> None:
    request = Request("r", (Message("user", (Text("x"),)),), temperature=0.2)
    with pytest.raises(Unsupported, match="temperature"):
        dialect().write_request(request, "m", ModelFacts(sampling=False))
    neutral = dialect().write_request(replace(request, temperature=1.0), "m", ModelFacts(sampling=False))
    assert "temperature" not in json.loads(neutral.body)
    sound = Request("r", (Message("user", (Audio("QUJD", "wav"),)),))
    with pytest.raises(Unsupported) as error:
        dialect().write_request(sound, "m", UNKNOWN)
    assert error.value.field == "messages"


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors_have_the_shape_that_sdks_read() -> None:
    told = json.loads(dialect().write_error(Unsupported("no", field="prompt"), 400))["error"]
    assert told == {"message": "no", "type": "invalid_request_error", "param": "prompt", "code": "unsupported_field"}
    told = json.loads(dialect().write_error(OverLimit("slow", retry_after=2, rule="r"), 429))["error"]
    assert (told["type"], told["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert json.loads(dialect().write_error(NotFound("none", code="model_not_found"), 404))["error"]["param"] is None


def test_an_upstreams_error_is_read_and_passed_on_as_it_was() -> None:
    raw = b'{"error": {"message": "Your input exceeds the context window of this model.", "type": "invalid_request_error",'
    raw += b' "param": "input", "code": "context_length_exceeded"}}'
    error = dialect().read_error(400, {"retry-after": "3"}, raw)
    assert (error.kind, error.status, error.field, error.retry_after) == ("context_length", 400, "input", 3.0)
    assert dialect().write_error(error, 400) == raw
    again = UpstreamFailed("invalid", "bad", body=b'{"type":"error"}', dialect="anthropic")
    assert json.loads(dialect().write_error(again, 400))["error"]["message"] == "bad"


def test_an_error_that_is_not_json_is_not_passed_on() -> None:
    error = dialect().read_error(502, {}, b"<html>bad gateway</html>")
    assert (error.kind, error.body) == ("server_error", None)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b"<html>", b'{"usage": []}', b'{"output": 3}'])
def test_replies_that_cannot_be_read(raw: bytes) -> None:
    with pytest.raises(UpstreamFailed) as error:
        dialect().glance("responses", raw)
    assert error.value.kind == "unreadable"
    with pytest.raises(UpstreamFailed) as error:
        dialect().read_reply(raw)
    assert error.value.kind == "unreadable"


def test_a_plain_reply_that_says_that_it_failed() -> None:
    raw = b'{"id":"resp_1","model":"m","status":"failed","error":{"code":"rate_limit_exceeded","message":"slow"},"output":[]}'
    for events in (dialect().read_reply(raw), dialect().glance("responses", raw)):
        assert events == (Start("resp_1", "m"), Failed("rate_limit", "slow", raw))
