"""What Mainstay writes for callers of the Messages API: the official SDK must understand all of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mainstay.core.errors import OverLimit, Unavailable, UpstreamFailed
from mainstay.core.event import (
    CONTENT,
    Citation,
    End,
    Event,
    Failed,
    Finish,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.anthropic_writer import write_count

# The machine may be busy with other tests.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECT = Anthropic()
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
START = Start("msg_1", "claude-large")


def streamed(events: list[Event], cuts: int = 1) -> bytes:
    writer = DIALECT.writer(True)
    return b"".join(writer.write(events[i : i + cuts]) for i in range(0, len(events), cuts)) + writer.end()


def parsed(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for part in stream.decode().split("\n\n")[:-1]:
        name, _, data = part.partition("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def accumulated(stream: bytes) -> Message:
    """The stream as the SDK adds it up, each event checked against the SDK's own types."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for name, data in parsed(stream):
        assert name == data["type"]
        event = EVENT.validate_python(data)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return Message.model_validate(snapshot.to_dict())


text = st.text(min_size=1, max_size=12)
words = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
arguments = st.dictionaries(words, st.none() | st.booleans() | st.integers(-9, 9) | text, max_size=3).map(json.dumps)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written, rest, reasoning, out = (draw(st.integers(0, 1000)) for _ in range(5))
    return Usage(read + written + rest, reasoning + out, cached_input=read, cache_write=written, reasoning=reasoning)


@st.composite
def replies(draw: st.DrawFn) -> list[Event]:
    """Any reply that Anthropic's format can express."""
    events: list[Event] = [Start(draw(words), draw(words), service_tier=draw(st.sampled_from([None, "standard"])))]
    if draw(st.booleans()):
        # What is said at the start is what was read; reasoning is only known later, and never becomes less.
        events.append(UsageSeen(replace(draw(usages()), reasoning=0)))
    tools = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "redacted", "tool"]), max_size=6)):
        if kind == "text":
            events += [TextDelta(piece) for piece in draw(st.lists(text, min_size=1, max_size=3))]
        elif kind == "thinking":
            events += [ThinkingDelta(piece) for piece in draw(st.lists(text, max_size=2))]
            events.append(ThinkingSigned(draw(words)))
        elif kind == "redacted":
            events.append(ThinkingSigned(draw(words), redacted=True))
        else:
            said = draw(arguments)
            cut = draw(st.integers(0, len(said)))
            events.append(ToolStart(tools, draw(words), draw(words)))
            events += [ToolDelta(tools, piece) for piece in (said[:cut], said[cut:]) if piece]
            tools += 1
    ends: list[Event] = [
        Finish("length", native="max_tokens"),
        Finish("length", native="model_context_window_exceeded"),
        Finish("pause", native="pause_turn"),
        Finish("refusal", native="refusal"),
        Finish("tool_calls", native="tool_use") if tools else Finish("stop", native="end_turn"),
        Finish("stop", stop=draw(text), native="stop_sequence"),
    ]
    return [*events, draw(st.sampled_from(ends)), UsageSeen(draw(usages())), End()]


def essence(events: list[Event] | tuple[Event, ...]) -> list[Event]:
    """What a reply says: neighbouring pieces joined, the last usage only, nothing opaque."""
    found: list[Any] = []
    last = [event for event in events if isinstance(event, UsageSeen)][-1:]
    for event in events:
        before = found[-1] if found else None
        if isinstance(event, TextDelta | ThinkingDelta) and type(before) is type(event):
            found[-1] = event._replace(text=before.text + event.text)
        elif isinstance(event, ToolDelta) and isinstance(before, ToolDelta) and before.tool == event.tool:
            found[-1] = event._replace(arguments=before.arguments + event.arguments)
        elif isinstance(event, (*CONTENT, Start, Finish, End)):
            found.append(event)
    return found + last


@UNHURRIED
@given(replies(), st.integers(1, 7))
def test_a_written_stream_reads_back_as_the_same_events(events: list[Event], cuts: int) -> None:
    stream = streamed(events, cuts)
    reader = DIALECT.reader("messages")
    frames = reader.feed(stream) + reader.finish()
    assert reader.done
    assert not any(frame.unread for frame in frames)
    assert essence([event for frame in frames for event in frame.events]) == essence(events)


@UNHURRIED
@given(replies())
def test_a_written_message_reads_back_as_the_same_events(events: list[Event]) -> None:
    assert essence(DIALECT.read_reply(DIALECT.write_reply(events))) == essence(events)


@UNHURRIED
@given(replies(), st.integers(1, 7))
def test_the_sdk_adds_a_stream_up_to_the_message(events: list[Event], cuts: int) -> None:
    whole = Message.model_validate_json(DIALECT.write_reply(events), strict=True)
    added = accumulated(streamed(events, cuts))
    assert added.content == whole.content
    assert (added.id, added.model, added.role) == (whole.id, whole.model, "assistant")
    assert (added.stop_reason, added.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert added.usage.model_copy(update={"service_tier": None, "output_tokens_details": None}) == (
        whole.usage.model_copy(update={"service_tier": None, "output_tokens_details": None})
    )


@UNHURRIED
@given(replies())
def test_blocks_are_numbered_and_one_is_open_at_a_time(events: list[Event]) -> None:
    open_block, begun = None, -1
    names = [name for name, _ in parsed(streamed(events))]
    for name, data in parsed(streamed(events)):
        if name == "content_block_start":
            assert open_block is None
            begun += 1
            assert data["index"] == begun
            open_block = begun
        elif name == "content_block_delta":
            assert data["index"] == open_block
        elif name == "content_block_stop":
            assert data["index"] == open_block
            open_block = None
    assert open_block is None
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == names.count("message_delta") == 1


def from_chat(*content: Event, finish: str = "stop") -> list[Event]:
    """A reply as a chat completion tells it: usage only at the end, no words of Anthropic's."""
    return [
        Start("chatcmpl-1", "gpt", 1700000000, "fp_1"),
        *content,
        Finish(finish, native=finish),  # type: ignore[arg-type]
        UsageSeen(Usage(21, 9, cached_input=5, reasoning=4)),
        End(),
    ]


def test_usage_is_taken_apart_again() -> None:
    for message in (
        accumulated(streamed(from_chat(TextDelta("hi")))),
        Message.model_validate_json(DIALECT.write_reply(from_chat(TextDelta("hi")))),
    ):
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (16, 5)
        assert message.usage.cache_creation_input_tokens == 0
        assert message.usage.output_tokens == 9
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 4


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (Finish("stop"), "end_turn"),
        (Finish("stop", stop="END"), "stop_sequence"),
        (Finish("length", native="length"), "max_tokens"),
        (Finish("tool_calls"), "tool_use"),
        (Finish("content_filter"), "refusal"),
        (Finish("refusal"), "refusal"),
        (Finish("pause"), "pause_turn"),
        (Finish("other", native="strange"), "max_tokens"),
        (Finish("length", native="model_context_window_exceeded"), "model_context_window_exceeded"),
        # A word of Anthropic's beside another meaning is not trusted.
        (Finish("content_filter", native="end_turn"), "refusal"),
    ],
)
def test_stop_reasons(finish: Finish, expected: str) -> None:
    events: list[Event] = [START, TextDelta("x"), finish, End()]
    assert accumulated(streamed(events)).stop_reason == expected
    assert json.loads(DIALECT.write_reply(events))["stop_reason"] == expected


def test_a_call_that_ends_with_stop_is_tool_use() -> None:
    events = from_chat(ToolStart(0, "call_1", "f"), ToolDelta(0, "{}"))
    assert accumulated(streamed(events)).stop_reason == "tool_use"


def test_a_refusal_in_words_of_its_own() -> None:
    events = from_chat(RefusalDelta("I can"), RefusalDelta("not."))
    for message in (accumulated(streamed(events)), Message.model_validate_json(DIALECT.write_reply(events))):
        assert [block.to_dict()["text"] for block in message.content] == ["I cannot."]
        assert message.stop_reason == "refusal"


def test_unsigned_thinking_and_other_choices() -> None:
    events = from_chat(ThinkingDelta("hm"), TextDelta("a"), TextDelta("b", choice=1))
    for message in (accumulated(streamed(events)), Message.model_validate_json(DIALECT.write_reply(events))):
        assert [block.to_dict() for block in message.content] == [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a"},
        ]


def test_interleaved_calls_keep_their_arguments() -> None:
    events = from_chat(
        ToolStart(0, "a", "f"),
        ToolDelta(0, '{"x":'),
        ToolStart(1, "b", "g"),
        ToolDelta(1, '{"y":2}'),
        ToolDelta(0, "1}"),
        finish="tool_calls",
    )
    for message in (accumulated(streamed(events)), Message.model_validate_json(DIALECT.write_reply(events))):
        assert [block.to_dict()["input"] for block in message.content] == [{"x": 1}, {"y": 2}]


def test_arguments_that_are_no_object_are_kept_as_text() -> None:
    events = from_chat(ToolStart(0, "a", "f"), ToolDelta(0, '{"x": "cut o'), finish="length")
    message = Message.model_validate_json(DIALECT.write_reply(events))
    assert message.content[0].to_dict()["input"] == {"INVALID_JSON": '{"x": "cut o'}


def test_citations_of_other_providers() -> None:
    url = {"type": "url_citation", "url": "https://example.com", "title": "E", "start_index": 0, "end_index": 2}
    file = {"type": "file_citation", "file_id": "f", "filename": "n", "index": 3}
    events = from_chat(TextDelta("so"), Citation(url), Citation(file))
    for message in (accumulated(streamed(events)), Message.model_validate_json(DIALECT.write_reply(events))):
        citations = message.content[0].to_dict()["citations"]
        assert isinstance(citations, list)
        assert [(c["type"], c.get("url"), c.get("file_id")) for c in citations] == [
            ("web_search_result_location", "https://example.com", None),
            ("char_location", None, "f"),
        ]


def test_a_reply_without_a_finish_still_ends_well() -> None:
    names = [name for name, _ in parsed(streamed([START, TextDelta("x"), End()]))]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert accumulated(streamed([START, ToolStart(0, "t", "f"), End()])).stop_reason == "tool_use"
    assert accumulated(streamed([START, End()])).stop_reason == "end_turn"


def test_a_writer_takes_up_where_another_stopped() -> None:
    said: list[Event] = [
        START,
        ThinkingDelta("h"),
        ThinkingDelta("m"),
        ThinkingSigned("s"),
        TextDelta("a"),
        TextDelta("b"),
    ]
    progress = Progress()
    progress.see(said)
    first, second = DIALECT.writer(True), DIALECT.writer(True)
    begun = first.write(said)
    second.write(progress.condensed())
    rest: list[Event] = [TextDelta("c"), Finish("stop"), End()]
    message = accumulated(begun + second.write(rest) + second.end())
    assert [block.to_dict().get("text") for block in message.content] == [None, "abc"]


def test_message_start_does_not_wait_for_usage() -> None:
    writer = DIALECT.writer(True)
    assert writer.write([START]).startswith(b"event: message_start\n")
    assert writer.write([UsageSeen(Usage(1, 2))]) == b""


def test_what_breaks_off_says_why_once() -> None:
    writer = DIALECT.writer(True)
    writer.write([START, TextDelta("x")])
    told = writer.write([Failed("rate_limit", "slow down")])
    assert parsed(told) == [
        ("error", {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}),
    ]
    assert writer.fail(Unavailable("later")) == b""


@pytest.mark.parametrize(
    ("error", "type"),
    [
        (UpstreamFailed("cut", "it broke off"), "api_error"),
        (UpstreamFailed("timeout", "silent"), "timeout_error"),
        (UpstreamFailed("overloaded", "busy"), "overloaded_error"),
        (Unavailable("draining"), "overloaded_error"),
    ],
)
def test_fail(error: Any, type: str) -> None:
    [(name, data)] = parsed(DIALECT.writer(True).fail(error))
    assert name == "error"
    assert data["error"] == {"type": type, "message": error.message}
    ErrorResponse.model_validate(data)


def test_count() -> None:
    assert MessageTokensCount.model_validate_json(write_count(17)).input_tokens == 17


async def serve(body: bytes, status: bytes, content_type: str, ask: Any) -> Any:
    """Answer one request of the real SDK over a real socket."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 %b\r\ncontent-type: %b\r\n" % (status, content_type.encode()))
        writer.write(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        for i in range(0, len(body), 97):
            writer.write(body[i : i + 97])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="k", max_retries=0)
    try:
        async with asyncio.timeout(20):
            return await ask(client)
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


QUESTION: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}


async def test_the_sdk_streams_it_over_a_socket() -> None:
    events: list[Event] = [
        START,
        UsageSeen(Usage(25, 1)),
        ThinkingDelta("hm"),
        ThinkingSigned("sig"),
        TextDelta("Hel"),
        TextDelta("lo"),
        ToolStart(0, "toolu_1", "add"),
        ToolDelta(0, '{"a":1,'),
        ToolDelta(0, '"b":2}'),
        Finish("tool_calls"),
        UsageSeen(Usage(30, 12, cached_input=5)),
        End(),
    ]

    async def ask(client: anthropic.AsyncAnthropic) -> tuple[list[str], Message]:
        async with client.messages.stream(**QUESTION) as stream:
            pieces = [piece async for piece in stream.text_stream]
            return pieces, await stream.get_final_message()

    pieces, message = await serve(streamed(events), b"200 OK", DIALECT.writer(True).content_type, ask)
    assert pieces == ["Hel", "lo"]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].signature == "sig"
    assert message.content[2].input == {"a": 1, "b": 2}
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (25, 12)


async def test_the_sdk_raises_for_an_error_in_the_stream() -> None:
    writer = DIALECT.writer(True)
    stream = writer.write([START, TextDelta("x")]) + writer.fail(UpstreamFailed("overloaded", "Overloaded"))

    async def ask(client: anthropic.AsyncAnthropic) -> Any:
        async with client.messages.stream(**QUESTION) as stream:
            return await stream.get_final_message()

    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await serve(stream, b"200 OK", "text/event-stream", ask)


async def test_the_sdk_raises_for_an_error_reply() -> None:
    error = OverLimit("the key's limit is used up", retry_after=1.0, rule="r")

    async def ask(client: anthropic.AsyncAnthropic) -> Any:
        return await client.messages.create(**QUESTION)

    with pytest.raises(anthropic.RateLimitError, match="used up"):
        await serve(DIALECT.write_error(error, 429), b"429 Too Many Requests", "application/json", ask)
