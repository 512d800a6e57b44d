"""Gemini's generateContent requests: what every attribute becomes, and that nothing is lost in silence."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.model import UNKNOWN, ModelFacts
from mainstay.core.request import (
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
from mainstay.wire.gemini import Gemini
from tests.wire.canonical import contents, conversations, schemas, texts, toolboxes

GEMINI = Gemini()
HELLO = Request("m", (Message("user", (Text("hello"),)),))
FLASH = "gemini-2.5-flash"


def body(request: Request, model: str = FLASH, facts: ModelFacts = UNKNOWN) -> dict[str, Any]:
    return msgspec.json.decode(GEMINI.write_request(request, model, facts).body)


thoughts = st.builds(Thinking, st.just("") | texts, st.just("gemini:EjQKMgEM"))
dialogues = conversations(contents(st.just("https://a.example/x.jpg")), thoughts)


def normal(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Where text stands between a signature and the call that it belongs to, the signature moves to the call."""
    found: list[Message] = []
    for message in messages:
        match message.parts:
            case (Thinking(text=text, signature=str() as signature), Text() as speech, ToolCall(), *_):
                thought = (Thinking(text),) if text else ()
                parts = (*thought, speech, Thinking("", signature), *message.parts[2:])
                found.append(replace(message, parts=parts))
            case _:
                found.append(message)
    return tuple(found)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    tools, choice = draw(toolboxes(strict=False)) if draw(st.booleans()) else ((), None)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "max_tokens": st.integers(1, 10**6),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(1, 500),
        "seed": st.integers(0, 2**31 - 1),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "stop": st.lists(texts, max_size=4).map(tuple),
        "n": st.integers(1, 8),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 20),
        "format": st.just(Format("json")) | schemas.map(lambda schema: Format("schema", schema)),
        "reasoning": st.one_of(
            st.builds(Reasoning, effort=st.sampled_from(["none", "minimal", "low", "medium", "high"])),
            st.builds(Reasoning, effort=st.just("low"), summary=st.just("auto")),
            st.builds(Reasoning, budget=st.integers(1, 32768)),
            st.just(Reasoning(adaptive=True)),
        ),
    }
    chosen = {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    return Request("", draw(dialogues), tools=tools, tool_choice=choice, **chosen)


@given(requests())
def test_what_is_written_is_read(request: Request) -> None:
    written = GEMINI.write_request(request, "gemini-3-pro-preview", UNKNOWN)
    assert written.dropped == ()
    assert GEMINI.read_request(written.body) == replace(request, messages=normal(request.messages))


@given(requests())
def test_the_same_request_has_the_same_bytes(request: Request) -> None:
    assert GEMINI.write_request(request, FLASH, UNKNOWN) == GEMINI.write_request(request, FLASH, UNKNOWN)


def test_every_attribute_has_a_fate() -> None:
    assert set(GEMINI.expresses) == {field.name for field in fields(Request)}
    attributes = set(GEMINI.expresses)
    assert all(field.to in attributes or not field.to for field in GEMINI.fields.values())


@pytest.mark.parametrize(
    ("name", "value"), [("min_p", 0.1), ("logit_bias", {"5": 1.0}), ("verbosity", "low"), ("parallel_tools", False)]
)
def test_what_cannot_be_said_is_refused_by_name(name: str, value: Any) -> None:
    assert GEMINI.expresses[name] == "refused"
    request = replace(HELLO, tools=(Tool("f"),), **{name: value})
    with pytest.raises(Unsupported) as caught:
        body(request)
    assert caught.value.field == name


def test_what_gemini_does_anyway_is_not_refused() -> None:
    assert body(replace(HELLO, parallel_tools=True, verbosity="medium", n=1, logit_bias={})) == body(HELLO)


def test_hints_are_named() -> None:
    request = Request(
        "m",
        (
            Message("user", (Text("a", cache="5m"), Image(data="AA", detail="high")), name="bob"),
            Message("user", (Document(data="AA", media_type="application/pdf", name="a.pdf"),)),
        ),
        tools=(Tool("f", strict=True),),
        cache_prompt="5m",
        hints={"user": "u", "metadata": {}},
    )
    written = GEMINI.write_request(request, FLASH, UNKNOWN)
    assert written.dropped == (
        "cache_control",
        "cache_prompt",
        "detail",
        "filename",
        "metadata",
        "name",
        "tools.strict",
        "user",
    )


def test_system_messages_go_to_their_own_place() -> None:
    request = replace(
        HELLO, messages=(Message("developer", (Text("a"),)), *HELLO.messages, Message("system", (Text("b"),)))
    )
    written = body(request)
    assert written["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert written["contents"] == [{"role": "user", "parts": [{"text": "hello"}]}]


def test_a_request_of_system_messages_alone_is_a_question() -> None:
    written = body(Request("m", (Message("system", (Text("say hi"),)),)))
    assert written == {"contents": [{"role": "user", "parts": [{"text": "say hi"}]}]}
    with pytest.raises(Invalid, match="role user"):
        body(Request("m", (Message("user", (Text(""),)),)))


def test_results_of_parallel_calls_stand_in_one_turn() -> None:
    request = Request(
        "m",
        (
            Message("user", (Text("q"),)),
            Message("assistant", (ToolCall("1", "f", '{"a":1}'),)),
            Message("assistant", (ToolCall("2", "g", ""),)),
            Message("tool", (ToolResult("1", (Text("x"),)),)),
            Message("tool", (ToolResult("2", (Text("y"), Image(data="AA", media_type="image/png"))),)),
            Message("user", (Text("and?"),)),
        ),
        tools=(Tool("f"), Tool("g")),
    )
    turns = body(request)["contents"]
    assert [turn["role"] for turn in turns] == ["user", "model", "user", "user"]
    assert [part["functionCall"]["name"] for part in turns[1]["parts"]] == ["f", "g"]
    assert turns[2]["parts"] == [
        {"functionResponse": {"id": "1", "name": "f", "response": {"output": "x"}}},
        {
            "functionResponse": {
                "id": "2",
                "name": "g",
                "response": {"output": "y"},
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA"}}],
            }
        },
    ]


def test_a_result_without_its_call_is_an_error() -> None:
    with pytest.raises(Invalid, match="belongs to no tool call"):
        body(replace(HELLO, messages=(Message("tool", (ToolResult("1", (Text("x"),)),)),)))


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", '"x"'])
def test_arguments_that_are_no_object_are_an_error(arguments: str) -> None:
    request = replace(HELLO, messages=(*HELLO.messages, Message("assistant", (ToolCall("1", "f", arguments),))))
    with pytest.raises(Invalid, match="not a JSON object"):
        body(request)


def signed_turns(*thinking: Thinking) -> Request:
    return Request(
        "m",
        (
            Message("user", (Text("q"),)),
            Message("assistant", (*thinking, ToolCall("1", "f", "{}"), ToolCall("2", "f", "{}"))),
            Message("tool", (ToolResult("1", (Text("x"),)),)),
            Message("tool", (ToolResult("2", (Text("x"),)),)),
        ),
        tools=(Tool("f"),),
    )


def test_gemini_gets_its_own_signature_back() -> None:
    parts = body(signed_turns(Thinking("hm", "gemini:QUJD")), "gemini-3-pro")["contents"][1]["parts"]
    assert parts[0] == {"text": "hm", "thought": True}
    assert [part.get("thoughtSignature") for part in parts] == [None, "QUJD", None]


def test_a_signature_of_another_provider_is_left_out_and_named() -> None:
    request = signed_turns(Thinking("hm", "EqoBCkgIARAB"), Thinking("", "gAAAA", redacted=True))
    written = GEMINI.write_request(request, "gemini-3-pro", UNKNOWN)
    assert written.dropped == ("thinking",)
    assert b"EqoB" not in written.body
    assert b"gAAAA" not in written.body
    parts = body(request, "gemini-3-pro")["contents"][1]["parts"]
    assert parts[1]["thoughtSignature"] == "skip_thought_signature_validator"


def test_a_signature_belongs_to_the_call_and_not_to_the_text_between() -> None:
    request = signed_turns(Thinking("", "gemini:QUJD", redacted=True))
    call = request.messages[1]
    spoken = replace(call, parts=(call.parts[0], Text("let me see"), *call.parts[1:]))
    request = replace(request, messages=(request.messages[0], spoken, *request.messages[2:]))
    written = GEMINI.write_request(request, "gemini-3-pro", UNKNOWN)
    parts = msgspec.json.decode(written.body)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "QUJD", None]
    assert written.dropped == ()


def test_only_the_steps_since_the_user_spoke_need_a_signature() -> None:
    request = signed_turns()
    request = replace(request, messages=(*request.messages, Message("user", (Text("again"),)), *request.messages[1:]))
    turns = body(request, "gemini-flash-latest")["contents"]
    signatures = [[part.get("thoughtSignature") for part in turn["parts"]] for turn in turns if turn["role"] == "model"]
    assert signatures == [[None, None], ["skip_thought_signature_validator", None]]
    for older in ("gemini-2.5-flash", "gemini-2.0-flash-001", "gemini-1.5-pro", "gemma-3"):
        assert b"thoughtSignature" not in GEMINI.write_request(request, older, UNKNOWN).body


def test_a_signature_that_nothing_follows_has_an_empty_part() -> None:
    request = replace(HELLO, messages=(*HELLO.messages, Message("assistant", (Text("a"), Thinking("", "gemini:QUJD")))))
    assert body(request)["contents"][1]["parts"] == [{"text": "a"}, {"text": "", "thoughtSignature": "QUJD"}]
    assert GEMINI.read_request(GEMINI.write_request(request, FLASH, UNKNOWN).body).messages == request.messages


@pytest.mark.parametrize(
    ("reasoning", "model", "thinking"),
    [
        (Reasoning(effort="low"), "gemini-3-pro", {"thinkingLevel": "LOW"}),
        (Reasoning(effort="minimal"), "gemini-3-flash", {"thinkingLevel": "MINIMAL"}),
        (Reasoning(effort="xhigh"), "gemini-3-pro", {"thinkingLevel": "HIGH"}),
        (Reasoning(effort="max"), "gemini-3-pro", {"thinkingLevel": "HIGH"}),
        (Reasoning(effort="medium"), "gemini-2.5-flash", {"thinkingBudget": 8192}),
        (Reasoning(effort="none"), "gemini-3-flash", {"thinkingBudget": 0}),
        (Reasoning(effort="none"), "gemini-2.5-flash", {"thinkingBudget": 0}),
        (Reasoning(budget=2000), "gemini-3-pro", {"thinkingBudget": 2000, "includeThoughts": True}),
        (Reasoning(adaptive=True), "gemini-2.5-pro", {"thinkingBudget": -1, "includeThoughts": True}),
        (Reasoning(effort="high", summary="auto"), "gemini-3", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ],
)
def test_thinking(reasoning: Reasoning, model: str, thinking: dict[str, Any]) -> None:
    written = body(replace(HELLO, reasoning=reasoning), model)
    assert written["generationConfig"]["thinkingConfig"] == thinking


def test_an_effort_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, reasoning=Reasoning(effort="heroic")))
    assert caught.value.field == "reasoning"


def test_media() -> None:
    parts = (
        Image(url="data:image/webp;base64,UklG"),
        Image(url="https://a.example/b.PNG?x=1#y"),
        Image(url="https://a.example/b"),
        Document(url="gs://bucket/report.pdf"),
        Document(file_id="https://generativelanguage.googleapis.com/v1beta/files/abc", media_type="text/plain"),
        Refusal("no"),
    )
    assert body(replace(HELLO, messages=(Message("user", parts),)))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/webp", "data": "UklG"}},
        {"fileData": {"fileUri": "https://a.example/b.PNG?x=1#y", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "https://a.example/b"}},
        {"fileData": {"fileUri": "gs://bucket/report.pdf", "mimeType": "application/pdf"}},
        {
            "fileData": {
                "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc",
                "mimeType": "text/plain",
            }
        },
        {"text": "no"},
    ]
    with pytest.raises(Unsupported, match="send its content"):
        body(replace(HELLO, messages=(Message("user", (Document(file_id="file-abc"),)),)))
    with pytest.raises(Invalid, match="base64"):
        body(replace(HELLO, messages=(Message("user", (Image(url="data:image/png,zzz"),)),)))


def test_tool_choice() -> None:
    request = replace(HELLO, tools=(Tool("f"),))
    config = body(replace(request, tool_choice=ToolChoice("none")))["toolConfig"]
    assert config == {"functionCallingConfig": {"mode": "NONE"}}
    assert "toolConfig" not in body(replace(HELLO, tool_choice=ToolChoice("auto")))
    for choice in (ToolChoice("required"), ToolChoice("named", "f")):
        with pytest.raises(Invalid, match="there are no tools"):
            body(replace(HELLO, tool_choice=choice))
    with pytest.raises(Invalid, match="no tool called"):
        body(replace(request, tool_choice=ToolChoice("named", "g")))


def test_a_model_without_sampling_gets_none() -> None:
    with pytest.raises(Unsupported) as caught:
        body(replace(HELLO, temperature=0.5), facts=ModelFacts(sampling=False))
    assert caught.value.field == "temperature"
    written = GEMINI.write_request(replace(HELLO, top_p=1.0), FLASH, ModelFacts(sampling=False))
    assert written.dropped == ("top_p",)
    assert b"topP" not in written.body


def test_the_answer_is_bounded_by_what_the_model_can_write() -> None:
    long = replace(HELLO, max_tokens=10**6)
    assert body(long, facts=ModelFacts(max_output=8192))["generationConfig"] == {"maxOutputTokens": 8192}
    assert body(long)["generationConfig"] == {"maxOutputTokens": 10**6}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"contents": [], "safetySettings": []}, "safetySettings"),
        ({"contents": [], "cachedContent": "x"}, "cachedContent"),
        ({"contents": [], "somethingNew": 1}, "somethingNew"),
        ({"contents": []}, "contents"),
        ({"contents": 7}, "contents"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents.parts.executableCode"),
        (
            {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"speechConfig": {}}},
            "generationConfig.speechConfig",
        ),
        ({"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"topK": "x"}}, "generationConfig.topK"),
        ({"contents": [{"parts": [{"text": "a"}]}], "tools": [{"googleSearch": {}}]}, "tools.googleSearch"),
        (
            {
                "contents": [{"parts": [{"text": "a"}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["a", "b"]}},
            },
            "toolConfig",
        ),
    ],
)
def test_what_other_formats_cannot_say_is_refused_when_read(content: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        GEMINI.read_request(msgspec.json.encode(content))
    assert caught.value.field == field


def test_hints_are_read_as_hints() -> None:
    asked = {"contents": [{"parts": [{"text": "a"}]}], "labels": {"a": "b"}, "serviceTier": "flex", "model": "models/x"}
    request = GEMINI.read_request(msgspec.json.encode(asked))
    assert request.hints == {"labels": {"a": "b"}, "serviceTier": "flex"}
    assert request.model == "x"


def test_names_may_have_underscores() -> None:
    asked = {
        "system_instruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"inline_data": {"mime_type": "image/png", "data": "AA"}}]}],
        "generation_config": {"max_output_tokens": 5, "thinking_config": {"thinking_level": "LOW"}},
        "tools": [{"function_declarations": [{"name": "f", "parameters_json_schema": {"properties": {"a_b": {}}}}]}],
    }
    request = GEMINI.read_request(msgspec.json.encode(asked))
    assert request.messages[1].parts == (Image(data="AA", media_type="image/png"),)
    assert (request.max_tokens, request.reasoning) == (5, Reasoning(effort="low"))
    assert request.tools == (Tool("f", parameters={"properties": {"a_b": {}}}),)


def test_counting() -> None:
    written = GEMINI.write_count(replace(HELLO, max_tokens=5), FLASH, UNKNOWN)
    asked = msgspec.json.decode(written.body)["generateContentRequest"]
    assert asked["model"] == f"models/{FLASH}"
    assert asked["contents"] == body(HELLO)["contents"]
    assert GEMINI.read_count(b'{"totalTokens": 31}') == 31
