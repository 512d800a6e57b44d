"""Reading what an Anthropic provider answers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
    Frame,
    Opaque,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.usage import NOTHING, Usage
from mainstay.wire.anthropic import Anthropic

# The machine may be busy with other tests.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECT = Anthropic()
STREAMS = [
    path.read_text().partition("\n== stream\n")[2].partition("\n== ")[0].rstrip("\n").encode() + b"\n\n"
    for path in sorted((Path(__file__).parents[1] / "golden" / "anthropic").glob("*.txt"))
]


def sse(**data: Any) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def read(*pieces: bytes) -> list[Frame]:
    reader = DIALECT.reader("messages")
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    return frames + reader.finish()


def events(*pieces: bytes) -> list[Event]:
    return [event for frame in read(*pieces) for event in frame.events if not isinstance(event, Opaque)]


@UNHURRIED
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2500), max_size=30))
def test_events_do_not_depend_on_how_bytes_are_cut(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert read(*pieces) == read(stream)


@UNHURRIED
@given(st.sampled_from(STREAMS), st.integers(0, 2500))
def test_a_cut_stream_is_never_done(stream: bytes, at: int) -> None:
    reader = DIALECT.reader("messages")
    whole = stream[:at]
    frames = reader.feed(whole) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == whole
    assert reader.done == any(isinstance(event, End) for frame in frames for event in frame.events)
    if b'"message_stop"' not in whole:
        assert not reader.done


@UNHURRIED
@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_failing(garbage: bytes) -> None:
    frames = read(b"data: " + garbage + b"\n\n", sse(type="message_stop"))
    assert b"".join(frame.raw or b"" for frame in frames).endswith(sse(type="message_stop"))


def test_usage_counts_the_cache_within_the_input() -> None:
    start = {"id": "m", "model": "c", "usage": {"input_tokens": 16, "cache_read_input_tokens": 5, "output_tokens": 1}}
    seen = events(
        sse(type="message_start", message=start), sse(type="message_delta", delta={}, usage={"output_tokens": 9})
    )
    assert seen == [
        Start("m", "c"),
        UsageSeen(Usage(21, 1, cached_input=5)),
        UsageSeen(Usage(21, 9, cached_input=5)),
    ]


def test_later_figures_replace_earlier_ones_and_null_does_not() -> None:
    start = {
        "id": "m",
        "model": "c",
        "usage": {"input_tokens": 16, "cache_creation_input_tokens": 4, "output_tokens": 1},
    }
    later = {"input_tokens": 10, "cache_creation_input_tokens": None, "cache_read_input_tokens": 6, "output_tokens": 3}
    seen = events(sse(type="message_start", message=start), sse(type="message_delta", usage=later))
    assert seen[-1] == UsageSeen(Usage(20, 3, cached_input=6, cache_write=4))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "length"),
        ("compaction", "other"),
    ],
)
def test_stop_reasons(word: str, reason: str) -> None:
    assert events(sse(type="message_delta", delta={"stop_reason": word, "stop_sequence": None})) == [
        Finish(reason, native=word)  # type: ignore[arg-type]
    ]
    plain = json.dumps({"id": "m", "model": "c", "content": [], "stop_reason": word}).encode()
    assert Finish(reason, native=word) in DIALECT.read_reply(plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("type", "message", "kind"),
    [
        ("overloaded_error", "Overloaded", "overloaded"),
        ("rate_limit_error", "slow down", "rate_limit"),
        ("api_error", "Internal server error", "server_error"),
        ("timeout_error", "Request timed out", "timeout"),
        ("authentication_error", "invalid x-api-key", "auth"),
        ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", "context_length"),
        ("invalid_request_error", "Output blocked by content filtering policy", "content_filter"),
        ("something_new", "?", "server_error"),
    ],
)
def test_an_error_in_the_stream(type: str, message: str, kind: str) -> None:
    raw = sse(type="error", error={"type": type, "message": message})
    assert events(raw) == [Failed(kind, message, raw)]


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta"}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":5}}',
        b'{"type":"content_block_delta","index":0}',
        b'{"type":"message_start"}',
        b'{"index":0}',
        b"[]",
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}',
    ],
)
def test_what_cannot_be_read_is_marked(data: bytes) -> None:
    raw = b"data: " + data + b"\n\n"
    assert read(raw) == [Frame(raw, (), True)]


def test_unknown_events_pass() -> None:
    raw = sse(type="vendor_event", more={"a": 1})
    assert read(raw) == [Frame(raw, (Opaque("vendor_event"),))]


def test_a_stream_without_event_lines_or_the_last_blank_line() -> None:
    lines = sse(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
    bare = lines.partition(b"\n")[2] + b'data: {"type": "message_stop"}'
    assert events(bare) == [TextDelta("a"), End()]


def test_arguments_that_stand_in_the_beginning_of_a_block() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1.0}}
    seen = events(
        sse(type="content_block_start", index=3, content_block=block), sse(type="content_block_stop", index=3)
    )
    assert seen == [ToolStart(0, "t", "f"), ToolDelta(0, '{"a": 1.0}')]


def test_an_event_over_the_limit() -> None:
    reader = DIALECT.reader("messages")
    with pytest.raises(UpstreamFailed) as failure:
        reader.feed(b"data: " + b"x" * 20_000_000)
    assert failure.value.kind == "too_large"


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "Hello "},
        {
            "type": "text",
            "text": "you",
            "citations": [{"type": "page_location", "document_title": "D", "document_index": 0, "cited_text": "c"}],
        },
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1.50}},
        {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 7,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
        "service_tier": "standard",
    },
}


def test_a_whole_message() -> None:
    said = MESSAGE["content"][3]["citations"][0]
    assert DIALECT.read_reply(json.dumps(MESSAGE).encode()) == (
        Start("msg_1", "claude", service_tier="standard"),
        ThinkingDelta("hm"),
        ThinkingSigned("s"),
        ThinkingSigned("d", redacted=True),
        TextDelta("Hello "),
        TextDelta("you"),
        Citation(
            {"type": "file_citation", "start_index": 6, "end_index": 9, "native": said, "title": "D", "filename": "D"}
        ),
        ToolStart(0, "t1", "f"),
        ToolDelta(0, '{"a": 1.5}'),
        Opaque("server_tool_use"),
        ToolStart(1, "t2", "g"),
        ToolDelta(1, "{}"),
        Finish("tool_calls", native="tool_use"),
        UsageSeen(Usage(20, 5, cached_input=7, cache_write=3, reasoning=2)),
        End(),
    )


def test_a_glance_sees_no_content() -> None:
    assert DIALECT.glance("messages", json.dumps(MESSAGE).encode()) == (
        Start("msg_1", "claude", service_tier="standard"),
        Finish("tool_calls", native="tool_use"),
        UsageSeen(Usage(20, 5, cached_input=7, cache_write=3, reasoning=2)),
        End(),
    )
    assert DIALECT.glance("count_tokens", b'{"input_tokens": 14}') == (Start("", ""), UsageSeen(NOTHING), End())


def test_the_reason_of_a_refusal_is_told() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "harmful"}
    body = json.dumps({**MESSAGE, "content": [], "stop_reason": "refusal", "stop_details": details}).encode()
    assert RefusalDelta("harmful") in DIALECT.read_reply(body)
    assert RefusalDelta("harmful") not in DIALECT.glance("messages", body)


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"", b"[]", b'{"id":"x"}', b'{"id":"x","content":"text"}'])
def test_what_is_no_message_is_unreadable(body: bytes) -> None:
    with pytest.raises(UpstreamFailed) as failure:
        DIALECT.read_reply(body)
    assert failure.value.kind == "unreadable"
    if b"content" not in body:  # at which a glance does not look
        with pytest.raises(UpstreamFailed) as failure:
            DIALECT.glance("messages", body)
        assert failure.value.kind == "unreadable"


def test_a_count_without_a_number_is_unreadable() -> None:
    with pytest.raises(UpstreamFailed) as failure:
        DIALECT.glance("count_tokens", b"{}")
    assert failure.value.kind == "unreadable"


def test_an_error_with_status_200() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    for look in (DIALECT.read_reply, lambda b: DIALECT.glance("messages", b)):
        with pytest.raises(UpstreamFailed, match="Overloaded") as failure:
            look(body)
        assert failure.value.kind == "overloaded"
