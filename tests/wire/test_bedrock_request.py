"""Bedrock's Converse requests: what every attribute becomes, and that nothing is lost in silence."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import UNKNOWN, ModelFacts
from mainstay.core.request import (
    Audio,
    Document,
    Format,
    Image,
    Message,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from mainstay.wire.bedrock import Bedrock
from tests.wire.canonical import contents, conversations, schemas, texts, toolboxes

BEDROCK = Bedrock()
HELLO = Request("m", (Message("user", (Text("hello"),)),))
CLAUDE = "us.anthropic.claude-opus-4-7-v1:0"
OLDER = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"


def body(request: Request, model: str = CLAUDE, facts: ModelFacts = UNKNOWN) -> dict[str, Any]:
    return msgspec.json.decode(BEDROCK.write_request(request, model, facts).body)


thoughts = st.one_of(
    st.builds(Thinking, texts, st.just("EqoBCkgIARAB")), st.just(Thinking("", "UkVEQUNURUQ=", redacted=True))
)
dialogues = conversations(contents(st.just("s3://bucket-a/x.jpeg")), thoughts)


def normal(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Converse repeats no tool names in results, numbers nameless documents, and joins neighbours of one side."""
    found: list[Message] = []
    documents = 0
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, ToolResult):
                part = replace(part, name=None)
            elif isinstance(part, Document):
                documents += 1
                part = replace(part, name=f"document {documents}")
            parts.append(part)
        if found and found[-1].role == message.role and message.role in ("user", "assistant"):
            found[-1] = Message(message.role, (*found[-1].parts, *parts))
        else:
            found.append(Message(message.role, tuple(parts)))
    return tuple(found)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    messages = draw(dialogues)
    used = any(isinstance(part, ToolCall) for message in messages for part in message.parts)
    tools, choice = draw(toolboxes(strict=True)) if used or draw(st.booleans()) else ((), None)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "max_tokens": st.integers(2000, 10**6),
        "temperature": st.floats(0, 1, exclude_max=True),
        "top_p": st.floats(0, 1, exclude_max=True),
        "top_k": st.integers(1, 500),
        "stop": st.lists(texts, max_size=4).map(tuple),
        "parallel_tools": st.just(False) if tools else st.none(),
        "format": schemas.map(lambda schema: Format("schema", schema, name="answer", description="d")),
        "reasoning": st.one_of(
            st.builds(Reasoning, effort=st.sampled_from(["none", "low", "medium", "high", "xhigh", "max"])),
            st.builds(Reasoning, effort=st.just("low"), summary=st.just("auto")),
            st.builds(Reasoning, budget=st.integers(1024, 32768)),
            st.just(Reasoning(adaptive=True)),
        ),
    }
    chosen = {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    return Request("", messages, tools=tools, tool_choice=choice, **chosen)


@given(requests())
def test_what_is_written_is_read(request: Request) -> None:
    said = [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]
    assume(all(text == text.strip() != "" for text in said))  # what Bedrock refuses is not sent
    written = BEDROCK.write_request(request, CLAUDE, UNKNOWN)
    assert written.dropped == ()
    tools = tuple(
        replace(tool, description=tool.description or None, parameters=tool.parameters) for tool in request.tools
    )
    assert BEDROCK.read_request(written.body) == replace(request, messages=normal(request.messages), tools=tools)


def test_every_attribute_has_a_fate() -> None:
    assert set(BEDROCK.expresses) == {field.name for field in fields(Request)}
    assert all(field.to in BEDROCK.expresses or not field.to for field in BEDROCK.fields.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", 0.1),
        ("seed", 7),
        ("n", 2),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"5": 1.0}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("verbosity", "high"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(name: str, value: Any) -> None:
    assert BEDROCK.expresses[name] == "refused"
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, **{name: value}))
    assert caught.value.field == name


def test_what_means_nothing_is_not_refused() -> None:
    neutral = replace(HELLO, n=1, logprobs=False, verbosity="medium", logit_bias={}, presence_penalty=0, min_p=0.0)
    assert body(neutral) == body(HELLO)


def test_one_sampling_option_for_newer_claude_models() -> None:
    both = replace(HELLO, temperature=1.0, top_p=0.5)
    assert body(both)["inferenceConfig"] == {"topP": 0.5}
    assert body(replace(HELLO, temperature=0.5, top_p=1.0))["inferenceConfig"] == {"temperature": 0.5}
    assert body(both, NOVA)["inferenceConfig"] == {"temperature": 1.0, "topP": 0.5}


def test_the_answer_is_bounded_by_what_the_model_can_write() -> None:
    long = replace(HELLO, max_tokens=10**6)
    assert body(long, facts=ModelFacts(max_output=8192))["inferenceConfig"] == {"maxTokens": 8192}
    assert body(long)["inferenceConfig"] == {"maxTokens": 10**6}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"temperature": 1.5}, "temperature"),
        ({"format": Format("json")}, "format"),
        ({"reasoning": Reasoning(effort="heroic")}, "reasoning"),
    ],
)
def test_values_that_cannot_be_said(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, **changed))
    assert caught.value.field == field


def test_turns_alternate() -> None:
    request = Request(
        "m",
        (
            Message("system", (Text("a"),)),
            Message("user", (Text("q"),)),
            Message("user", (Text("q2"), Text(""))),
            Message("assistant", (ToolCall("1", "f", '{"a":1}'),)),
            Message("assistant", (ToolCall("2", "f", ""),)),
            Message("developer", (Text("b"),)),
            Message("tool", (ToolResult("1", (Text("x"), Image(data="AA", media_type="image/gif"))),)),
            Message("tool", (ToolResult("2", (Text(""),), is_error=True),)),
            Message("user", (Text("and?"),)),
        ),
        tools=(Tool("f"),),
    )
    written = body(request)
    assert written["system"] == [{"text": "a"}, {"text": "b"}]
    assert [(turn["role"], len(turn["content"])) for turn in written["messages"]] == [
        ("user", 2),
        ("assistant", 2),
        ("user", 3),
    ]
    assert written["messages"][2]["content"][:2] == [
        {
            "toolResult": {
                "toolUseId": "1",
                "content": [{"text": "x"}, {"image": {"format": "gif", "source": {"bytes": "AA"}}}],
            }
        },
        {"toolResult": {"toolUseId": "2", "content": [], "status": "error"}},
    ]


def test_a_request_of_system_messages_alone_is_a_question() -> None:
    written = body(Request("m", (Message("system", (Text("say hi"),)),)))
    assert written == {"messages": [{"role": "user", "content": [{"text": "say hi"}]}]}
    with pytest.raises(Invalid, match="role user"):
        body(Request("m", (Message("user", (Text(""),)),)))


def test_ids_that_bedrock_does_not_allow_are_replaced_on_both_sides() -> None:
    odd = "call/1|" + "x" * 80
    messages = (
        *HELLO.messages,
        Message("assistant", (ToolCall(odd, "f", "{}"), ToolCall("other id", "f", "{}"))),
        Message("tool", (ToolResult(odd, (Text("x"),)),)),
    )
    written = body(replace(HELLO, messages=messages, tools=(Tool("f"),)))["messages"]
    ids = [block["toolUse"]["toolUseId"] for block in written[1]["content"]]
    assert written[2]["content"][0]["toolResult"]["toolUseId"] == ids[0]
    assert len({*ids}) == 2
    assert all(len(one) <= 64 and one.replace("_", "").isalnum() for one in ids)


USED = (
    *HELLO.messages,
    Message("assistant", (ToolCall("1", "f", "{}"),)),
    Message("tool", (ToolResult("1", (Text("x"),)),)),
)


def test_tool_choice() -> None:
    request = replace(HELLO, tools=(Tool("f", "does", {"type": "object"}, strict=True),))
    spec = {"name": "f", "description": "does", "inputSchema": {"json": {"type": "object"}}, "strict": True}
    assert body(request)["toolConfig"] == {"tools": [{"toolSpec": spec}]}
    choices = {
        "auto": {"auto": {}},
        "required": {"any": {}},
    }
    for mode, said in choices.items():
        assert body(replace(request, tool_choice=ToolChoice(mode)))["toolConfig"]["toolChoice"] == said  # type: ignore[arg-type]
    named = body(replace(request, tool_choice=ToolChoice("named", "f")))["toolConfig"]["toolChoice"]
    assert named == {"tool": {"name": "f"}}
    assert "toolConfig" not in body(replace(request, tool_choice=ToolChoice("none")))
    with pytest.raises(Unsupported) as caught:
        body(replace(request, messages=USED, tool_choice=ToolChoice("none")))
    assert caught.value.field == "tool_choice"
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, messages=USED))
    assert caught.value.field == "tools"
    with pytest.raises(Invalid, match="no tool called"):
        body(replace(request, tool_choice=ToolChoice("named", "g")))
    with pytest.raises(Invalid, match="there are no tools"):
        body(replace(HELLO, tool_choice=ToolChoice("required")))


def test_one_tool_at_a_time() -> None:
    request = replace(HELLO, tools=(Tool("f"),), parallel_tools=False)
    said = body(request)["additionalModelRequestFields"]
    assert said == {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    forced = body(replace(request, tool_choice=ToolChoice("required")))
    assert forced["additionalModelRequestFields"] == {"tool_choice": {"disable_parallel_tool_use": True}}
    assert forced["toolConfig"]["toolChoice"] == {"any": {}}
    with pytest.raises(Unsupported) as caught:
        body(request, NOVA)
    assert caught.value.field == "parallel_tools"
    assert "additionalModelRequestFields" not in body(replace(request, parallel_tools=True))


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (CLAUDE, {"top_k": 5}),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6", {"top_k": 5}),
        ("mistral.mistral-large-2407-v1:0", {"top_k": 5}),
        ("cohere.command-r-plus-v1:0", {"k": 5}),
        (NOVA, {"inferenceConfig": {"topK": 5}}),
    ],
)
def test_top_k_in_the_words_of_each_vendor(model: str, more: dict[str, Any]) -> None:
    written = BEDROCK.write_request(replace(HELLO, top_k=5), model, UNKNOWN)
    assert msgspec.json.decode(written.body)["additionalModelRequestFields"] == more
    assert BEDROCK.read_request(written.body).top_k == 5


def test_top_k_where_it_does_not_exist() -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, top_k=5), "meta.llama3-70b-instruct-v1:0")
    assert caught.value.field == "top_k"


@pytest.mark.parametrize(
    ("model", "reasoning", "more", "effort"),
    [
        (CLAUDE, Reasoning(effort="low"), {"thinking": {"type": "adaptive"}}, "low"),
        (CLAUDE, Reasoning(effort="minimal"), {"thinking": {"type": "adaptive"}}, "low"),
        (
            CLAUDE,
            Reasoning(effort="high", summary="auto"),
            {"thinking": {"type": "adaptive", "display": "summarized"}},
            "high",
        ),
        (CLAUDE, Reasoning(effort="none"), {"thinking": {"type": "disabled"}}, None),
        (CLAUDE, Reasoning(adaptive=True), {"thinking": {"type": "adaptive"}}, None),
        (OLDER, Reasoning(budget=2048), {"thinking": {"type": "enabled", "budget_tokens": 2048}}, None),
        (OLDER, Reasoning(effort="high"), {"thinking": {"type": "enabled", "budget_tokens": 7999}}, None),
        (OLDER, Reasoning(effort="low"), {"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
        (
            NOVA,
            Reasoning(effort="medium"),
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}},
            None,
        ),
        (NOVA, Reasoning(effort="none"), {"reasoningConfig": {"type": "disabled"}}, None),
        ("openai.gpt-oss-120b-1:0", Reasoning(effort="high"), {"reasoning_effort": "high"}, None),
    ],
)
def test_reasoning(model: str, reasoning: Reasoning, more: dict[str, Any], effort: str | None) -> None:
    written = body(replace(HELLO, reasoning=reasoning, max_tokens=8000), model)
    assert written["additionalModelRequestFields"] == more
    assert written.get("outputConfig", {}).get("effort") == effort


def test_reasoning_that_has_no_room_is_named() -> None:
    written = BEDROCK.write_request(replace(HELLO, reasoning=Reasoning(effort="low"), max_tokens=500), OLDER, UNKNOWN)
    assert written.dropped == ("reasoning",)
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, reasoning=Reasoning(effort="low")), "meta.llama3-70b-instruct-v1:0")
    assert caught.value.field == "reasoning"


def test_thoughts_of_other_providers_are_left_out_and_named() -> None:
    thinking = (
        Thinking("a", "gemini:QUJD"),
        Thinking("b", "gAAAA", id="rs_1"),
        Thinking("b", "openai.gAAAA"),
        Thinking("c"),
        Thinking("", "", redacted=True, id="rs_2"),
    )
    request = replace(HELLO, messages=(*HELLO.messages, Message("assistant", (*thinking, Text("hi")))))
    written = BEDROCK.write_request(request, CLAUDE, UNKNOWN)
    assert written.dropped == ("thinking",)
    assert msgspec.json.decode(written.body)["messages"][1]["content"] == [{"text": "hi"}]
    unsigned = body(request, "deepseek.r1-v1:0")["messages"][1]["content"][0]
    assert unsigned == {"reasoningContent": {"reasoningText": {"text": "c"}}}


def test_media() -> None:
    parts = (
        Image(url="data:image/webp;base64,UklG"),
        Image(url="s3://bucket/a.JPG"),
        Document(data="AA", media_type="text/plain; charset=utf-8", name="my  report_v2.txt"),
        Document(url="s3://bucket/a.docx"),
        Audio("AA", "wav"),
    )
    assert body(replace(HELLO, messages=(Message("user", parts),)))["messages"][0]["content"] == [
        {"image": {"format": "webp", "source": {"bytes": "UklG"}}},
        {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.JPG"}}}},
        {"document": {"format": "txt", "name": "my report-v2-txt", "source": {"bytes": "AA"}}},
        {"document": {"format": "docx", "name": "document 2", "source": {"s3Location": {"uri": "s3://bucket/a.docx"}}}},
        {"audio": {"format": "wav", "source": {"bytes": "AA"}}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        Image(url="https://a.example/x.png"),
        Image(data="AA", media_type="image/tiff"),
        Document(file_id="file-1"),
        Document(url="https://a.example/x.pdf"),
        Document(data="AA", media_type="application/zip"),
        Audio("AA", "midi"),
    ],
)
def test_media_that_bedrock_does_not_take(part: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, messages=(Message("user", (part,)),)))
    assert caught.value.field == "messages"


def test_cache_marks() -> None:
    messages = (
        Message("system", (Text("s", cache="5m"),)),
        Message("user", (Text("a", cache="1h"), Text("b"))),
    )
    request = replace(HELLO, messages=messages, tools=(Tool("f", cache="5m"),), cache_prompt="1h")
    written = body(request)
    assert written["system"] == [{"text": "s"}, {"cachePoint": {"type": "default"}}]
    assert written["messages"][0]["content"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert written["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}
    assert written["messages"][0]["content"][-1] == {"text": "b"}  # the caller's marks are enough
    read = BEDROCK.read_request(BEDROCK.write_request(request, CLAUDE, UNKNOWN).body)
    assert (read.messages, read.tools[0].cache) == (messages, "5m")
    dropped = BEDROCK.write_request(request, "meta.llama3-70b-instruct-v1:0", UNKNOWN).dropped
    assert "cache_control" in dropped
    assert "cache_prompt" in dropped


def test_marks_that_a_route_puts_in() -> None:
    messages = (Message("system", (Text("s"),)), *HELLO.messages)
    written = body(replace(HELLO, messages=messages, tools=(Tool("f"),), cache_prompt="5m"))
    point = {"cachePoint": {"type": "default"}}
    assert (written["system"][-1], written["toolConfig"]["tools"][-1]) == (point, point)
    assert written["messages"][-1]["content"][-1] == point


def test_no_more_marks_than_bedrock_takes() -> None:
    written = BEDROCK.write_request(
        replace(HELLO, messages=(Message("user", tuple(Text(str(i), cache="5m") for i in range(6))),)), CLAUDE, UNKNOWN
    )
    assert written.body.count(b"cachePoint") == 4
    assert written.dropped == ("cache_control",)


def test_the_stop_sequence_that_was_hit_is_asked_for() -> None:
    written = body(replace(HELLO, stop=("x",)))
    assert written["inferenceConfig"] == {"stopSequences": ["x"]}
    assert written["additionalModelResponseFieldPaths"] == ["/stop_sequence"]
    assert "additionalModelResponseFieldPaths" not in body(replace(HELLO, stop=("x",)), NOVA)


def test_hints_are_named() -> None:
    request = replace(HELLO, messages=(replace(HELLO.messages[0], name="bob"),), hints={"user": "u"})
    assert BEDROCK.write_request(request, CLAUDE, UNKNOWN).dropped == ("name", "user")


def test_a_model_without_sampling_gets_none() -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, top_p=0.5), facts=ModelFacts(sampling=False))
    assert caught.value.field == "top_p"
    written = BEDROCK.write_request(replace(HELLO, temperature=1.0), CLAUDE, ModelFacts(sampling=False))
    assert written.dropped == ("temperature",)
    assert b"temperature" not in written.body


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"messages": [], "guardrailConfig": {}}, "guardrailConfig"),
        ({"messages": [], "somethingNew": {}}, "somethingNew"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": [{"video": {}}]}]}, "messages.content.video"),
        ({"messages": [{"content": [{"text": "a"}]}], "inferenceConfig": {"topX": 1}}, "inferenceConfig.topX"),
        (
            {"messages": [{"content": [{"text": "a"}]}], "inferenceConfig": {"maxTokens": "x"}},
            "inferenceConfig.maxTokens",
        ),
        (
            {"messages": [{"content": [{"text": "a"}]}], "additionalModelRequestFields": {"x": 1}},
            "additionalModelRequestFields.x",
        ),
        (
            {"messages": [{"content": [{"text": "a"}]}], "toolConfig": {"tools": [{"systemTool": {}}]}},
            "toolConfig.tools",
        ),
    ],
)
def test_what_other_formats_cannot_say_is_refused_when_read(content: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        BEDROCK.read_request(msgspec.json.encode(content))
    assert caught.value.field == field


def test_counting() -> None:
    written = BEDROCK.write_count(replace(HELLO, max_tokens=5), CLAUDE, UNKNOWN)
    assert msgspec.json.decode(written.body) == {"input": {"converse": {"messages": body(HELLO)["messages"]}}}
    assert BEDROCK.read_count(b'{"inputTokens": 31}') == 31


def test_white_space_that_bedrock_refuses_is_left_out() -> None:
    """A blank block anywhere, and white space at the end of an answer that was begun."""
    asked = Request(
        "m",
        (
            Message("system", (Text("\n"), Text("Be terse."))),
            Message("user", (Text("hello"), Text(" \n"))),
            Message("assistant", (Text("  "), ToolCall("c", "f", "{}"))),
            Message("user", (ToolResult("c", (Text("ok"),)),)),
            Message("assistant", (Text("Once upon \n"),)),
        ),
        tools=(Tool("f", None, {"type": "object"}),),
    )
    written = body(asked, OLDER)
    assert written["system"] == [{"text": "Be terse."}]
    assert [message["content"] for message in written["messages"]] == [
        [{"text": "hello"}],
        [{"toolUse": {"toolUseId": "c", "name": "f", "input": {}}}],
        [{"toolResult": {"toolUseId": "c", "content": [{"text": "ok"}]}}],
        [{"text": "Once upon"}],
    ]
