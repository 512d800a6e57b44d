"""Chat completions: what is read of requests and replies, what is written, and that recordings survive both ways."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk, completion_create_params

from mainstay.core.clock import FixedClock
from mainstay.core.errors import (
    Forbidden,
    Invalid,
    NotFound,
    OverLimit,
    Unauthenticated,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
    Frame,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
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
from mainstay.core.usage import Usage
from mainstay.wire.openai_chat import OpenAIChat
from tests.wire import canonical
from tests.wire.canonical import agree, conversations, cuts, lines, replies, sections, toolboxes

CHAT = OpenAIChat(FixedClock())
FOLDER = Path(__file__).parents[1] / "golden" / "openai_chat"
STREAMS = sorted(path.stem for path in FOLDER.glob("*.txt"))
DATA = Path(__file__).parents[3] / "shared" / "data"
OWN = ModelFacts(roles_developer=True, reasoning=True, max_tokens_field="max_completion_tokens", top_k=True)
IMAGE = "data:image/png;base64,iVBORw0K"


def recordings(ending: str) -> list[Any]:
    found = sorted((DATA / "recordings").glob("*.yaml"))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="the recordings in ../shared/data are not here"))]
    kept = [
        pytest.param(exchange, id=path.stem)
        for path in found
        for exchange in yaml.load(path.read_text(), yaml.CSafeLoader)["interactions"]
        if exchange["request"]["url"].endswith(ending)
    ]
    assert kept
    return kept


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


def read(stream: bytes) -> list[Frame]:
    reader = CHAT.reader("chat")
    return reader.feed(stream) + reader.finish()


def events_of(frames: list[Frame]) -> list[Event]:
    return [event for frame in frames for event in frame.events]


def folded(events: Any) -> list[Event]:
    """As ``canonical.folded``, with words of refusal joined too."""
    found: list[Event] = []
    for event in canonical.folded(events):
        if isinstance(event, RefusalDelta) and found and isinstance(last := found[-1], RefusalDelta):
            found[-1] = RefusalDelta(last.text + event.text, event.choice)
        else:
            found.append(event)
    return found


# -- streams as text


@pytest.mark.parametrize("case", STREAMS)
def test_stream(case: str) -> None:
    stream = sections(FOLDER / f"{case}.txt")["stream"].encode() + b"\n\n"
    reader = CHAT.reader("chat")
    frames = reader.feed(stream) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == stream
    events = events_of(frames)
    writer = CHAT.writer(True)
    written = b"".join(writer.write(frame.events) for frame in frames)
    seen = {"stream": stream.decode(), "events": lines(frames)}
    if reader.done and not any(isinstance(event, Failed) for event in events):
        written += writer.end()
        seen["folded"] = CHAT.write_reply(events).decode()
        assert folded(events_of(read(written))) == folded(events)
        assert folded(CHAT.read_reply(CHAT.write_reply(events))) == folded(_in_order(events))
    seen["written"] = written.decode()
    agree(FOLDER / f"{case}.txt", seen)


def _in_order(events: list[Event]) -> list[Event]:
    """As a plain reply has them: per choice the reasoning, the text with all its log probabilities, the rest."""
    rank = {"ThinkingDelta": 1, "ThinkingSigned": 1, "TextDelta": 2, "RefusalDelta": 3, "Citation": 4}
    return sorted(events, key=lambda event: rank.get(type(event).__name__, 5) if hasattr(event, "choice") else 0)


@given(
    st.sampled_from(STREAMS), st.lists(st.integers(0, 10_000), max_size=10), st.sampled_from([b"\n", b"\r\n", b"\r"])
)
def test_cuts_and_line_ends_change_nothing(case: str, places: list[int], end: bytes) -> None:
    stream = sections(FOLDER / f"{case}.txt")["stream"].encode() + b"\n\n"
    expected = [frame.events for frame in read(stream)]
    stream = stream.replace(b"\n", end)
    reader = CHAT.reader("chat")
    frames = [frame for piece in cuts(stream, places) for frame in reader.feed(piece)] + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == stream
    assert [_without_raw(frame.events) for frame in frames] == [_without_raw(events) for events in expected]


def _without_raw(events: tuple[Event, ...]) -> list[Event]:
    return [event._replace(raw=b"") if isinstance(event, Failed) else event for event in events]


@given(replies("EqQB"))
def test_replies_survive_both_shapes(events: tuple[Event, ...]) -> None:
    writer = CHAT.writer(True)
    stream = b"".join(writer.write([event]) for event in events) + writer.end()
    assert folded(events_of(read(stream))) == folded(events)
    assert folded(CHAT.read_reply(CHAT.write_reply(events))) == folded(events)


# -- recordings


@pytest.mark.parametrize("exchange", recordings("/chat/completions"))
def test_recording(exchange: Any) -> None:
    body, reply = exchange["request"]["body"].encode(), exchange["response"]["body"].encode()
    peek = CHAT.peek("chat", body, "application/json")
    asked = json.loads(body)
    assert peek.model == asked["model"]
    assert json.loads(CHAT.rewrite("chat", body, peek, "other", False)) == {**asked, "model": "other"}
    assert CHAT.rewrite("chat", body, peek, peek.model, False) == body
    if exchange["response"]["code"] != 200:
        failed = CHAT.read_error(exchange["response"]["code"], {}, reply)
        assert (failed.message, failed.field) == (
            json.loads(reply)["error"]["message"],
            json.loads(reply)["error"]["param"],
        )
        assert CHAT.write_error(failed, 400) == reply
    elif peek.stream:
        frames = read(reply)
        assert b"".join(frame.raw or b"" for frame in frames) == reply
        assert not any(frame.unread for frame in frames)
        events = events_of(frames)
        assert isinstance(events[0], Start)
        assert events[-1] == End()
        deltas = [
            json.loads(line[6:])["choices"] for line in reply.decode().split("\n\n") if line.startswith("data: {")
        ]
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "".join(
            choices[0]["delta"].get("content") or "" for choices in deltas if choices
        )
        writer = CHAT.writer(True)
        assert folded(events_of(read(writer.write(events) + writer.end()))) == folded(events)
    else:
        events = list(CHAT.read_reply(reply))
        said = json.loads(reply)
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == (
            said["choices"][0]["message"]["content"] or ""
        )
        assert [e.name for e in events if isinstance(e, ToolStart)] == [
            call["function"]["name"] for call in said["choices"][0]["message"].get("tool_calls") or ()
        ]
        usage = next(e.usage for e in events if isinstance(e, UsageSeen))
        assert (usage.input, usage.output, usage.total) == tuple(
            said["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
        assert list(CHAT.read_reply(CHAT.write_reply(events))) == events
        outline = [e for e in events if isinstance(e, Start | Finish | UsageSeen | End)]
        assert list(CHAT.glance("chat", reply)) == outline


# -- peek


def peek(**fields: Any) -> Any:
    return CHAT.peek("chat", request(**fields), "application/json")


def test_peek_of_an_ordinary_request() -> None:
    body = b'{"model": "gpt", "messages": [{"role":"user","content":"model"}], "stream":true}'
    found = CHAT.peek("chat", body, "application/json")
    assert (found.model, found.stream, found.max_tokens, found.n) == ("gpt", True, None, 1)
    assert not any((found.tools, found.images, found.audio, found.schema, found.usage_wanted, found.unbounded))
    assert body[slice(*found.model_at)] == b'"gpt"'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 0}, {"max_tokens": None}),
        ({"max_tokens": -1}, {"max_tokens": None}),
        ({"max_tokens": None}, {"max_tokens": None}),
        ({"n": 3}, {"n": 3}),
        ({"n": None}, {"n": 1}),
        ({"n": 0}, {"n": 1}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"usage_wanted": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"usage_wanted": False}),
        ({"stream": True, "stream_options": None}, {"usage_wanted": False}),
        ({"stream": None}, {"stream": False}),
        ({"tools": []}, {"tools": False}),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools": True, "unbounded": ()}),
        ({"tools": [{"type": "browser_search"}]}, {"tools": True, "unbounded": ("tools",)}),
        ({"functions": [{"name": "f"}]}, {"tools": True}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"schema": True}),
        ({"response_format": {"type": "json_object"}}, {"schema": False}),
        ({"modalities": ["text", "audio"]}, {"audio": True}),
        ({"user": "u"}, {"user": "u"}),
        ({"safety_identifier": "s"}, {"user": "s"}),
        ({"web_search_options": {"search_context_size": "low"}}, {"unbounded": ("web_search_options",)}),
        ({"plugins": [{"id": "web"}]}, {"unbounded": ("plugins",)}),
        ({"models": ["a", "b"]}, {"unbounded": ("models",)}),
        ({"service_tier": "priority"}, {"unbounded": ("service_tier",)}),
        ({"service_tier": "flex"}, {"unbounded": ()}),
    ],
)
def test_peek_sees(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    found = peek(**fields)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": IMAGE}}, {"images": True, "unbounded": ()}),
        (
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            {"images": True, "unbounded": ("messages.image_url",)},
        ),
        ({"type": "image_url", "image_url": "https://x/y.png"}, {"images": True, "unbounded": ("messages.image_url",)}),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, {"audio": True, "unbounded": ()}),
        ({"type": "file", "file": {"file_id": "file-1"}}, {"unbounded": ("messages.file_id",)}),
        ({"type": "file", "file": {"file_data": "AAAA"}}, {"unbounded": ()}),
        ({"type": "text", "text": 'image_url "image_url" input_audio'}, {"images": False, "audio": False}),
        ({"type": "text", "text": "image_url"}, {"images": False, "audio": False}),
    ],
)
def test_peek_sees_media(part: dict[str, Any], expected: dict[str, Any]) -> None:
    for escaped in (False, True):
        body = request(messages=[{"role": "user", "content": [part]}])
        if escaped:
            body = body.replace(b'"image_url": ', b'"im\\u0061ge_url": ').replace(b'"file_id"', b'"file_\\u0069d"')
        found = CHAT.peek("chat", body, "application/json")
        assert {name: getattr(found, name) for name in expected} == expected


def test_peek_sees_a_reference_to_an_earlier_spoken_answer() -> None:
    assert peek(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}]).unbounded == ("messages.audio",)


@pytest.mark.parametrize("messages", [[], None, "Hi", 7, [7], [{"role": "user", "content": None}], [{"content": 7}]])
def test_peek_leaves_messages_to_the_provider(messages: Any) -> None:
    assert peek(messages=messages).model == "m"
    assert CHAT.peek("chat", b'{"model":"m"}', "").model == "m"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model":"m"', None),
        (b"<html>", None),
        (b"{}", "model"),
        (b'{"model":""}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":7}', "model"),
        (b'{"model":["m"]}', "model"),
        (b'{"model":"m","stream":"true"}', "stream"),
        (b'{"model":"m","stream":1}', "stream"),
        (b'{"model":"m","max_tokens":"5"}', "max_tokens"),
        (b'{"model":"m","max_tokens":1.5}', "max_tokens"),
        (b'{"model":"m","max_completion_tokens":true}', "max_completion_tokens"),
        (b'{"model":"m","n":"2"}', "n"),
        (b'{"model":"m","stream":true,"stream_options":7}', "stream_options"),
        (b'{"model":"m","Model":"n"}', "Model"),
        (b'{"model":"m","model":"n"}', "model"),
    ],
)
def test_peek_refuses(body: bytes, field: str | None) -> None:
    with pytest.raises(Invalid) as refused:
        CHAT.peek("chat", body, "application/json")
    assert refused.value.field == field
    assert refused.value.message


# -- rewrite


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"model":"m","stream":true}', '{"model":"n\\"","stream":true,"stream_options":{"include_usage":true}}'),
        (
            '{"stream":true , "model" :  "m" }',
            '{"stream":true , "model" :  "n\\"" ,"stream_options":{"include_usage":true}}',
        ),
        (
            '{"stream_options": {"include_obfuscation":false}, "model":"m","stream":true}',
            '{"stream_options": {"include_obfuscation":false,"include_usage":true}, "model":"n\\"","stream":true}',
        ),
        (
            '{"model":"m","stream":true,"stream_options":{ "include_usage" : false , "x":1}}',
            '{"model":"n\\"","stream":true,"stream_options":{ "include_usage" : true , "x":1}}',
        ),
        (
            '{"stream_options":null,"model":"m","stream":true}',
            '{"stream_options":{"include_usage":true},"model":"n\\"","stream":true}',
        ),
        (
            '{"stream_options":{},"model":"m","stream":true}',
            '{"stream_options":{"include_usage":true},"model":"n\\"","stream":true}',
        ),
        (
            '{"model":"m","stream":true,"x":["stream_options", {"stream_options":1}]}',
            '{"model":"n\\"","stream":true,"x":["stream_options", {"stream_options":1}],'
            '"stream_options":{"include_usage":true}}',
        ),
        (
            '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
            '{"model":"n\\"","stream":true,"stream_options":{"include_usage":true}}',
        ),
        ('{"model":"m","stream":false}', '{"model":"n\\"","stream":false}'),
    ],
)
def test_rewrite_touches_nothing_else(before: str, after: str) -> None:
    body = before.encode()
    found = CHAT.peek("chat", body, "application/json")
    assert CHAT.rewrite("chat", body, found, 'n"', True) == after.encode()


# -- requests


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 7, "max_tokens": 5}, "max_tokens", 7),
        ({"temperature": 0}, "temperature", 0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_k": 40}, "top_k", 40),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"seed": 7}, "seed", 7),
        ({"random_seed": 7}, "seed", 7),
        ({"n": 2}, "n", 2),
        ({"presence_penalty": 1}, "presence_penalty", 1),
        ({"frequency_penalty": 1}, "frequency_penalty", 1),
        ({"logit_bias": {"50256": -100}}, "logit_bias", {"50256": -100}),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", 3),
        ({"logprobs": True}, "logprobs", True),
        ({"verbosity": "low"}, "verbosity", "low"),
        ({"reasoning_effort": "high"}, "reasoning", Reasoning("high")),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning", Reasoning("low", summary="auto")),
        ({"reasoning": {"max_tokens": 2000}}, "reasoning", Reasoning(budget=2000)),
        ({"reasoning": {"enabled": False}}, "reasoning", Reasoning("none")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "reasoning", Reasoning(budget=2000)),
        ({"thinking": {"type": "disabled"}}, "reasoning", Reasoning("none")),
        ({"thinking": {"type": "adaptive"}}, "reasoning", Reasoning(adaptive=True)),
        ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
        ({"response_format": {"type": "text"}}, "format", None),
        ({"response_format": {"type": "json_object"}}, "format", Format("json")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
                }
            },
            "format",
            Format("schema", {"type": "object"}, "a", None, True),
        ),
        ({"tool_choice": "none"}, "tool_choice", ToolChoice("none")),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", ToolChoice("named", "f")),
        ({"function_call": {"name": "f"}}, "tool_choice", ToolChoice("named", "f")),
        ({"function_call": "auto"}, "tool_choice", ToolChoice("auto")),
        ({"parallel_tool_calls": False}, "parallel_tools", False),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {}, "strict": True},
                        "cache_control": {"type": "ephemeral"},
                    }
                ]
            },
            "tools",
            (Tool("f", None, {}, True, "5m"),),
        ),
        ({"functions": [{"name": "f", "description": "d"}]}, "tools", (Tool("f", "d"),)),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_prompt", "1h"),
        ({"modalities": ["text"], "audio": None, "prediction": None, "store": False}, "hints", {"store": False}),
        ({"user": "u", "metadata": {"a": "b"}}, "hints", {"user": "u", "metadata": {"a": "b"}}),
    ],
)
def test_a_field_is_read(fields: dict[str, Any], attribute: str, expected: Any) -> None:
    assert getattr(CHAT.read_request(request(**fields)), attribute) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "system", "content": "s"}, Message("system", (Text("s"),))),
        ({"role": "developer", "content": [{"type": "text", "text": "d"}]}, Message("developer", (Text("d"),))),
        ({"role": "user", "content": "u", "name": "ann"}, Message("user", (Text("u"),), "ann")),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "u", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            },
            Message("user", (Text("u", "1h"),)),
        ),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "u", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            },
            Message("user", (Text("u", "5m"),)),
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}]},
            Message("user", (Image(data="iVBORw0K", media_type="image/png", detail="low"),)),
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]},
            Message("user", (Image(url="https://x/y"),)),
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
            Message("user", (Audio("AAAA", "wav"),)),
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
                ],
            },
            Message("user", (Document(data="AAAA", media_type="application/pdf", name="a.pdf"),)),
        ),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
            Message("user", (Document(file_id="file-1"),)),
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            Message("assistant", (ToolCall("c", "f", "{}"),)),
        ),
        (
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            Message("assistant", (Thinking("r"), Text("a"))),
        ),
        (
            {
                "role": "assistant",
                "content": "a",
                "reasoning_content": "r",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "r", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                ],
            },
            Message("assistant", (Thinking("r", "s"), Thinking("", "d", True), Text("a"))),
        ),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", (Refusal("no"),))),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            Message("assistant", (Refusal("no"),)),
        ),
        ({"role": "assistant", "content": ""}, Message("assistant", ())),
        ({"role": "tool", "tool_call_id": "c", "content": "r"}, Message("tool", (ToolResult("c", (Text("r"),)),))),
        (
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
            Message("tool", (ToolResult("c", (Text("r"),)),)),
        ),
    ],
)
def test_a_message_is_read(message: dict[str, Any], expected: Message) -> None:
    assert CHAT.read_request(request(messages=[message])).messages == (expected,)


def test_legacy_functions_get_matching_ids() -> None:
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "2"},
    ]
    messages = CHAT.read_request(request(messages=history)).messages
    calls = [message.parts[0] for message in messages[1:]]
    assert calls[0].id == calls[1].id != calls[2].id == calls[3].id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]}
                ]
            },
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": [1]}, "stop"),
        ({"tools": {}, "stop": 7}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"logit_bias": {"1": "a"}}, "logit_bias"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        CHAT.read_request(request(**fields))
    assert (type(refused.value), refused.value.field) == (Invalid, field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"unheard_of": 1}, "unheard_of"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f", "colour": "red"}}]}, "tools[0].function.colour"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"messages": [{"role": "user", "content": "x", "mood": "sad"}]}, "messages[0].mood"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "messages[0].prefix"),
    ],
)
def test_what_has_no_meaning_elsewhere_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as refused:
        CHAT.read_request(request(**fields))
    assert refused.value.field == field


def test_what_an_sdk_sends_back_of_an_answer_is_named_as_dropped() -> None:
    citation = {"type": "url_citation", "url_citation": {"url": "u"}}
    read_back = CHAT.read_request(request(messages=[{"role": "assistant", "content": "a", "annotations": [citation]}]))
    assert CHAT.write_request(read_back, "m", UNKNOWN).dropped == ("messages.annotations",)


@given(st.data())
def test_every_field_survives_a_round_trip(data: st.DataObject) -> None:
    said = st.one_of(
        st.text(min_size=1, max_size=9).map(Text),
        st.just(Image(data="AAAA", media_type="image/png", detail="low")),
        st.just(Image(url="https://x/y")),
        st.just(Audio("AAAA", "wav")),
        st.just(Document(data="AAAA", media_type="application/pdf", name="a.pdf")),
    )
    thoughts = st.text(min_size=1, max_size=9).map(Thinking)
    facts = ModelFacts(top_k=True, reasoning=True)
    tools, choice = data.draw(toolboxes(strict=True))
    fraction = st.none() | st.sampled_from([0, 0.25, 1])
    asked = Request(
        model="m",
        messages=data.draw(conversations(said, thoughts)),
        tools=tools,
        tool_choice=choice,
        parallel_tools=data.draw(st.none() | st.booleans()),
        format=data.draw(
            st.sampled_from([None, Format("json"), Format("schema", {"type": "object"}, "answer", "what", True)])
        ),
        max_tokens=data.draw(st.none() | st.integers(1, 100)),
        temperature=data.draw(fraction),
        top_p=data.draw(fraction),
        top_k=data.draw(st.none() | st.integers(1, 9)),
        min_p=data.draw(fraction),
        stop=tuple(data.draw(st.lists(st.text(min_size=1, max_size=3), max_size=3))),
        seed=data.draw(st.none() | st.integers()),
        n=data.draw(st.integers(1, 3)),
        presence_penalty=data.draw(fraction),
        frequency_penalty=data.draw(fraction),
        logit_bias=data.draw(st.none() | st.just({"7": -100})),
        logprobs=data.draw(st.booleans()),
        top_logprobs=data.draw(st.none() | st.integers(0, 5)),
        reasoning=data.draw(st.sampled_from([None, Reasoning("none"), Reasoning("high")])),
        verbosity=data.draw(st.sampled_from([None, "low"])),
        stream=True,
        include_usage=data.draw(st.booleans()),
        hints=data.draw(st.sampled_from([{}, {"user": "u"}])),
    )
    written = CHAT.write_request(asked, "m", facts)
    again = CHAT.read_request(written.body)
    assert written.dropped in ((), ("messages.is_error",))
    assert _joined(again) == _joined(asked)


def _joined(request: Request) -> dict[str, Any]:
    """A request as a plain value, with texts that stand alone in a message joined, as most servers want them."""
    messages: list[Any] = []
    for message in request.messages:
        parts = message.parts
        if message.role == "tool":
            result = parts[0]
            assert isinstance(result, ToolResult)
            text = "\n".join(part.text for part in result.content if isinstance(part, Text))
            messages.append(("tool", result.id, text))
        elif all(isinstance(part, Text) for part in parts):
            joint = "" if message.role == "assistant" else "\n"
            messages.append((message.role, joint.join(part.text for part in parts if isinstance(part, Text))))
        else:
            messages.append(message)
    plain = {name: getattr(request, name) for name in Request.__slots__}
    return {**plain, "messages": messages}


def written(
    messages: tuple[Message, ...] = (Message("user", (Text("Hi"),)),), facts: ModelFacts = UNKNOWN, **fields: Any
) -> Any:
    return json.loads(CHAT.write_request(Request("chat", messages, **fields), "gpt", facts).body)


def test_what_is_known_of_the_model_shapes_the_request() -> None:
    messages = (Message("developer", (Text("d"),)), Message("user", (Text("u"),)))
    assert written(messages, max_tokens=5) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "d"}, {"role": "user", "content": "u"}],
        "max_tokens": 5,
    }
    own = written(messages, OWN, max_tokens=5)
    assert own["messages"][0]["role"] == "developer"
    assert own["max_completion_tokens"] == 5
    assert "max_tokens" not in own
    no_usage = written(facts=ModelFacts(stream_usage=False), stream=True, include_usage=True)
    assert no_usage["stream"] is True
    assert "stream_options" not in no_usage
    assert written(stream=True, include_usage=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("reasoning", "effort"),
    [
        (Reasoning(budget=1024), "low"),
        (Reasoning(budget=8000), "medium"),
        (Reasoning(budget=32000), "high"),
        (Reasoning("minimal", budget=32000), "minimal"),
        (Reasoning(adaptive=True), None),
    ],
)
def test_a_budget_of_reasoning_becomes_an_effort(reasoning: Reasoning, effort: str | None) -> None:
    assert written(reasoning=reasoning).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ((Image(url="https://x/y", cache="5m"),), [{"type": "image_url", "image_url": {"url": "https://x/y"}}]),
        (
            (Document(data="aGk=", media_type="text/plain", name="a.txt"), Text("?")),
            [{"type": "text", "text": "a.txt\nhi"}, {"type": "text", "text": "?"}],
        ),
        (
            (Document(data="AAAA"),),
            [{"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,AAAA"}}],
        ),
        ((Text("a"), Text("b")), "a\nb"),
    ],
)
def test_a_users_content_is_written(parts: tuple[Any, ...], content: Any) -> None:
    assert written((Message("user", parts),))["messages"] == [{"role": "user", "content": content}]


def test_a_call_without_arguments_is_valid_json() -> None:
    message = written((Message("assistant", (ToolCall("a", "f", ""),)),))["messages"][0]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"
    assert message["content"] is None


def test_several_results_in_one_message_become_messages_of_their_own() -> None:
    message = Message("user", (ToolResult("a", (Text("1"),)), ToolResult("b", (Text("2"),)), Text("go on")))
    assert written((message,))["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "go on"},
    ]


def test_reasoning_of_earlier_turns_goes_where_it_is_known() -> None:
    plain = (Message("assistant", (Thinking("r"), Text("a"))), Message("user", (Text("u"),)))
    assert written(plain)["messages"][0] == {"role": "assistant", "content": "a", "reasoning_content": "r"}
    assert written(plain, OWN)["messages"][0] == {"role": "assistant", "content": "a"}
    signed = Request("m", (Message("assistant", (Thinking("r", "sig"), Text("a"))),))
    result = CHAT.write_request(signed, "m", UNKNOWN)
    assert b"sig" not in result.body
    assert result.dropped == ("messages.thinking",)


@pytest.mark.parametrize(
    ("fields", "facts", "field"),
    [
        ({"top_k": 4}, UNKNOWN, "top_k"),
        ({"min_p": 0.1}, UNKNOWN, "min_p"),
        ({"temperature": 0.5}, ModelFacts(sampling=False), "temperature"),
        ({"tool_choice": ToolChoice("required")}, UNKNOWN, "tool_choice"),
        ({"messages": (Message("tool", (ToolResult("a", (Image(url="u"),)),)),)}, UNKNOWN, "messages"),
        ({"messages": (Message("user", (Document(url="https://x"),)),)}, UNKNOWN, "messages"),
        ({"messages": (Message("system", (Image(url="u"),)),)}, UNKNOWN, "messages"),
    ],
)
def test_what_chat_cannot_say_is_refused(fields: dict[str, Any], facts: ModelFacts, field: str) -> None:
    with pytest.raises(Unsupported) as refused:
        CHAT.write_request(
            Request(**{"model": "m", "messages": (Message("user", (Text("u"),)),), **fields}), "m", facts
        )
    assert refused.value.field == field


def test_hints_are_said_where_they_are_known_and_named_where_not() -> None:
    hints = {"user": "u", "metadata": {"a": "b"}, "service_tier": "flex"}
    asked = Request("m", (Message("user", (Text("u", "5m"),)),), hints=hints, cache_prompt="5m")
    result = CHAT.write_request(asked, "m", UNKNOWN)
    assert json.loads(result.body)["user"] == "u"
    assert result.dropped == ("cache_control", "cache_prompt", "metadata", "service_tier")
    assert CHAT.write_request(asked, "m", OWN).dropped == ("cache_control", "cache_prompt", "metadata")


# -- the tables against their sources


def test_every_field_of_the_description_is_in_the_table() -> None:
    path = DATA / "openapi" / "openai.json"
    if not path.exists():
        pytest.skip("the OpenAPI description in ../shared/data is not here")
    schemas = json.loads(path.read_text())["components"]["schemas"]
    names: set[str] = set()

    def walk(schema: dict[str, Any]) -> None:
        if "$ref" in schema:
            walk(schemas[schema["$ref"].rpartition("/")[2]])
        for inner in schema.get("allOf", ()):
            walk(inner)
        names.update(schema.get("properties", ()))

    walk(schemas["CreateChatCompletionRequest"])
    assert len(names) > 30
    assert names <= set(CHAT.fields)


def test_every_field_of_the_sdk_is_in_the_table() -> None:
    names = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
    assert len(names) > 30
    assert names <= set(CHAT.fields)


# -- replies toward us


def test_a_plain_reply_of_another_vendor() -> None:
    reply = {
        "id": "x",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "content": "4",
                    "reasoning": "think",
                    "tool_calls": [
                        {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
                        {"function": {"name": "g"}},
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    events = CHAT.read_reply(json.dumps(reply).encode())
    assert events[1:3] == (ThinkingDelta("think"), TextDelta("4"))
    assert [(e.id, e.name) for e in events if isinstance(e, ToolStart)] == [("a", "f"), ("call_x_0_1", "g")]
    assert Finish("tool_calls", native="stop") in events


@pytest.mark.parametrize("body", [b"", b"<html><body>502</body></html>", b"[1]", b'"x"', b'{"id":', b"\xff\xfe"])
def test_what_is_no_reply_is_unreadable(body: bytes) -> None:
    for read_it in (CHAT.read_reply, lambda b: CHAT.glance("chat", b)):
        with pytest.raises(UpstreamFailed) as failed:
            read_it(body)
        assert failed.value.kind == "unreadable"


@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":null,"id":"x"}', b'{"choices":"none"}'])
def test_a_reply_without_choices_is_no_answer(body: bytes) -> None:
    for read in (CHAT.read_reply, lambda body: CHAT.glance("chat", body)):
        with pytest.raises(UpstreamFailed) as failed:
            read(body)
        assert failed.value.kind == "unreadable"


def test_an_error_with_a_status_of_success_is_a_failure() -> None:
    body = b'{"error":{"message":"Rate limit exceeded","code":429}}'
    with pytest.raises(UpstreamFailed) as failed:
        CHAT.read_reply(body)
    assert failed.value.kind == "rate_limit"
    assert CHAT.glance("chat", body) == (Failed("rate_limit", "Rate limit exceeded", body),)


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": "none"},
        {"usage": {"prompt_tokens": "many", "completion_tokens": 2}},
        {"created": "yesterday"},
        {"id": 7},
        {"choices": [{"index": "0", "finish_reason": 7}]},
        {"usage": {"prompt_tokens": 1e400, "completion_tokens": 2}},
        {"system_fingerprint": {}},
    ],
)
def test_a_glance_never_trips_over_an_odd_field(odd: dict[str, Any]) -> None:
    body = json.dumps({"id": "x", "choices": [{"index": 0, "message": {}, "finish_reason": "stop"}], **odd})
    events = CHAT.glance("chat", body.replace("Infinity", "1e400").encode())
    assert isinstance(events[0], Start)
    assert events[-1] == End()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"total_tokens": 13}, Usage(9, 4)),
        ({"prompt_tokens_details": {"cached_tokens": 5}}, Usage(9, 4, 5)),
        ({"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 4}, Usage(9, 4, 5)),
        ({"cached_tokens": 5}, Usage(9, 4, 5)),
        ({"prompt_tokens_details": {"cache_write_tokens": 5}}, Usage(9, 4, 0, 5)),
        ({"total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(9, 11, reasoning=7)),
        ({"total_tokens": 20}, Usage(9, 11, reasoning=7)),
        ({"total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 7}}, Usage(16, 4, 7)),
        ({"prompt_tokens_details": {"cached_tokens": 50}}, Usage(9, 4, 9)),
        (
            {"prompt_tokens_details": {"audio_tokens": 2}, "completion_tokens_details": {"audio_tokens": 3}},
            Usage(9, 4, input_audio=2, output_audio=3),
        ),
        ({"completion_tokens": None, "prompt_tokens_details": None}, Usage(9, 0)),
    ],
)
def test_usage_of_many_vendors(more: dict[str, Any], expected: Usage) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, **more}
    body = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    seen = [e.usage for e in CHAT.read_reply(json.dumps(body).encode()) if isinstance(e, UsageSeen)]
    assert seen == [expected]
    assert [e.usage for e in CHAT.glance("chat", json.dumps(body).encode()) if isinstance(e, UsageSeen)] == seen


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("reasoning", "r"),
        ("reasoning_content", "r"),
        ("refusal", "r"),
        ("annotations", [{"type": "url_citation", "url_citation": {}}]),
        ("thinking_blocks", [{"type": "redacted_thinking", "data": "d"}]),
        ("reasoning_details", [{"type": "reasoning.encrypted", "data": "d"}]),
        ("tool_calls", [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]),
        ("function_call", {"name": "f"}),
    ],
)
def test_what_comes_beside_text_is_seen(member: str, value: Any) -> None:
    chunks = [{"content": "x"}, {"content": "y", member: value}]
    stream = b"".join(b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode() for delta in chunks)
    events = read(stream)[1].events
    assert len(events) == 2
    assert TextDelta("y") in events


def test_a_chunk_of_usage_alone_can_be_withheld() -> None:
    frames = read(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n')
    assert [frame.events for frame in frames] == [(UsageSeen(Usage(1, 2)),)]


def test_the_reader_says_that_a_finish_was_seen_without_done() -> None:
    reader = CHAT.reader("chat")
    reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n')
    reader.finish()
    assert (reader.done, reader.finished) == (False, True)


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b'{"choices":[{"delta":7}]}', b'{"choices":7}', b'{"error":7}']),
        max_size=5,
    )
)
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    stream = b"".join(b"data: " + piece + b"\n\n" for piece in pieces)
    frames = read(stream)
    assert b"".join(frame.raw or b"" for frame in frames) == stream


def test_an_error_inside_a_stream_never_quotes_our_key() -> None:
    (frame,) = read(b'data: {"error":{"message":"Incorrect API key provided: sk-abc","code":401}}\n\n')
    assert frame.events == (Failed("auth", "the provider refused the key that is configured for it"),)


@pytest.mark.parametrize("depth", [200, 900, 5000, 100_000])
@pytest.mark.parametrize(
    ("open_", "close"), [('{"text":[', "]}"), ("[", "]"), ('{"error":', "}"), ('{"message":[', "]}")]
)
def test_deep_nesting_breaks_nothing(depth: int, open_: str, close: str) -> None:
    deep = open_ * depth + "1" + close * depth
    for body in (
        f'{{"choices":[{{"index":"0","delta":{{"content":[{deep}]}}}}]}}',
        f'{{"choices":[{{"message":{{"content":{deep}}}}}],"usage":{deep}}}',
        f'{{"error":{deep}}}',
        f'{{"detail":[{deep}]}}',
    ):
        assert read(f"data: {body}\n\n".encode())
        for read_it in (CHAT.read_reply, lambda b: CHAT.glance("chat", b), lambda b: CHAT.read_error(400, {}, b)):
            with contextlib.suppress(UpstreamFailed):
                read_it(body.encode())
    for name in ("messages", "tools", "stream_options", "x"):
        with contextlib.suppress(Invalid):
            CHAT.peek("chat", f'{{"model":"m","stream":true,"{name}":[{{"audio":{deep},"type":{deep}}}]}}'.encode(), "")
        with contextlib.suppress(Invalid):
            CHAT.read_request(f'{{"model":"m","{name}":[{{"role":"user","content":{deep}}}]}}'.encode())


MEMBERS = """
    id model created choices index delta message content finish_reason tool_calls function name arguments usage
    prompt_tokens completion_tokens total_tokens logprobs refusal reasoning annotations type thinking_blocks
"""
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS.split()), inner, max_size=4),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"choices": json_values, "usage": json_values, "id": json_values}))
def test_no_json_breaks_the_readers(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    frames = read(b"data: " + body + b"\n\n")
    assert len(frames) == 1
    for read_it in (CHAT.read_reply, lambda b: CHAT.glance("chat", b)):
        with contextlib.suppress(UpstreamFailed):
            read_it(body)


# -- what callers get


def test_the_sdk_reads_what_is_written() -> None:
    for case in ("text", "parallel_tools", "refusal", "logprobs", "two_choices", "citations", "signed_thinking"):
        events = events_of(read(sections(FOLDER / f"{case}.txt")["stream"].encode() + b"\n\n"))
        completion = ChatCompletion.model_validate_json(CHAT.write_reply(events))
        writer = CHAT.writer(True)
        stream = writer.write(events) + writer.end()
        chunks = [
            ChatCompletionChunk.model_validate_json(part[6:])
            for part in stream.split(b"\n\n")
            if part.startswith(b"data: {")
        ]
        text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == 0)
        assert text == (completion.choices[0].message.content or "")
        assert completion.choices[0].finish_reason
        assert chunks[0].choices[0].delta.role == "assistant"


def test_usage_is_written_only_for_who_asked() -> None:
    events = [Start("i", "m", 7), TextDelta("x"), Finish("stop"), UsageSeen(Usage(9, 4, 5, 1, 2)), End()]
    asked, silent = CHAT.writer(True), CHAT.writer(False)
    first, second = asked.write(events) + asked.end(), silent.write(events) + silent.end()
    assert json.loads(first.split(b"\n\n")[-3][6:])["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0, "cache_write_tokens": 1},
        "completion_tokens_details": {
            "reasoning_tokens": 2,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert b"usage" not in second
    assert first.endswith(b"\n\ndata: [DONE]\n\n")
    assert second.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("reason", "word"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("content_filter", "content_filter"),
     ("refusal", "content_filter"), ("pause", "length"), ("other", "length")],
)  # fmt: skip
def test_an_answer_that_is_not_whole_never_says_stop(reason: Any, word: str) -> None:
    reply = json.loads(CHAT.write_reply([Start("i", "m"), TextDelta("x"), Finish(reason), End()]))
    assert reply["choices"][0]["finish_reason"] == word


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("said", "word"),
    [
        ((RefusalDelta("No."),), "stop"),
        ((), "content_filter"),
        ((TextDelta("Half"), RefusalDelta("No.")), "content_filter"),
        ((ToolStart(0, "c", "f"), ToolDelta(0, "{}"), RefusalDelta("No.")), "content_filter"),
    ],
)
def test_a_refusal_in_words_ends_as_openais_own_does(said: tuple[Event, ...], word: str, streamed: bool) -> None:
    """``parse`` of the SDK gives such a refusal, and raises for a content filter."""
    events: list[Event] = [Start("i", "m"), *said, Finish("refusal"), End()]
    if streamed:
        chunks = CHAT.writer(False).write(events).split(b"\n\n")[:-1]
        choice = json.loads(chunks[-1][6:])["choices"][0]
    else:
        choice = json.loads(CHAT.write_reply(events))["choices"][0]
    assert choice["finish_reason"] == word


def test_entries_of_lists_in_a_stream_are_numbered() -> None:
    """Without an index OpenAI's SDK cannot add them up: it raises at the second."""
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 1}
    events = [
        ThinkingDelta("hm"),
        ThinkingSigned("sig"),
        ThinkingSigned("xx", True),
        Citation(citation),
        Citation(citation),
    ]
    state = ChatCompletionStreamState()
    for chunk in (
        CHAT.writer(False).write([Start("i", "m"), TextDelta("x"), *events, Finish("stop")]).split(b"\n\n")[:-1]
    ):
        state.handle_chunk(ChatCompletionChunk.model_validate_json(chunk[6:]))
    message = state.get_final_completion().choices[0].message.model_dump()
    assert message["thinking_blocks"] == [
        {"index": 0, "type": "thinking", "thinking": "hm", "signature": "sig"},
        {"index": 1, "type": "redacted_thinking", "data": "xx"},
    ]
    assert [one["index"] for one in message["annotations"]] == [0, 1]
    said = {"role": "assistant", "content": "x", "thinking_blocks": message["thinking_blocks"]}
    again = CHAT.read_request(request(messages=[said]))
    assert [part for part in again.messages[0].parts if isinstance(part, Thinking)] == [
        Thinking("hm", "sig"),
        Thinking("", "xx", True),
    ]


def test_a_stream_that_breaks_off_says_so_and_is_not_done() -> None:
    writer = CHAT.writer(False)
    stream = writer.write([Start("i", "m"), TextDelta("x")]) + writer.fail(
        UpstreamFailed("cut", "the provider broke off")
    )
    assert b"[DONE]" not in stream
    assert events_of(read(stream))[-1] == Failed(
        "server_error", "the provider broke off", stream.split(b"\n\n")[-2][6:]
    )


@pytest.mark.parametrize(
    ("error", "type_", "code", "param"),
    [
        (Invalid("m", field="f"), "invalid_request_error", "invalid_request", "f"),
        (Unsupported("m", field="f"), "invalid_request_error", "unsupported_field", "f"),
        (Unauthenticated("m"), "authentication_error", "invalid_api_key", None),
        (Forbidden("m"), "permission_error", "forbidden", None),
        (NotFound("m"), "invalid_request_error", "model_not_found", None),
        (OverLimit("m", retry_after=1, rule="r"), "rate_limit_error", "rate_limit_exceeded", None),
        (Unavailable("m"), "server_error", "overloaded", None),
        (
            UpstreamFailed("context_length", "m", field="messages"),
            "invalid_request_error",
            "context_length_exceeded",
            "messages",
        ),
        (UpstreamFailed("content_filter", "m", provider_code="sexual"), "invalid_request_error", "sexual", None),
        (UpstreamFailed("rate_limit", "m"), "rate_limit_error", "rate_limit_exceeded", None),
        (UpstreamFailed("timeout", "m"), "server_error", "upstream_timeout", None),
        (
            UpstreamFailed("invalid", "m", dialect="anthropic", body=b"{}"),
            "invalid_request_error",
            "upstream_invalid",
            None,
        ),
    ],
)
def test_an_error_is_written_in_openais_shape(error: Any, type_: str, code: str, param: str | None) -> None:
    assert json.loads(CHAT.write_error(error, 400)) == {
        "error": {"message": "m", "type": type_, "param": param, "code": code}
    }
