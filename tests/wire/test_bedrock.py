"""Bedrock's Converse: replies read and written, streams as golden text, errors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.core.event import Citation, End, Event, Failed, Finish, Start, TextDelta, ToolDelta, ToolStart
from mainstay.wire import eventstream
from mainstay.wire.bedrock import Bedrock
from tests.wire.canonical import agree, cuts, folded, lines, replies, sections

FOLDER = Path(__file__).parents[1] / "golden" / "bedrock"
STREAMS = sorted(path.stem for path in FOLDER.glob("*.txt"))
BEDROCK = Bedrock(FixedClock())


def binary(stream: str) -> bytes:
    """The event stream that the lines of a golden file stand for; ``!`` marks an exception."""
    data = b""
    for line in stream.splitlines():
        what, _, payload = line.partition(" ")
        named = {":exception-type": what[1:]} if what.startswith("!") else {":event-type": what}
        kind = "exception" if what.startswith("!") else "event"
        data += eventstream.encode(
            named | {":content-type": "application/json", ":message-type": kind}, payload.encode()
        )
    return data


def spelled(data: bytes) -> str:
    """The opposite of ``binary``."""
    return "\n".join(
        f"{message.text(':event-type')} {message.payload.decode()}" for message in eventstream.Messages().feed(data)
    )


@pytest.mark.parametrize("case", STREAMS)
def test_stream(case: str) -> None:
    stream = sections(FOLDER / f"{case}.txt")["stream"]
    data = binary(stream)
    reader = BEDROCK.reader("chat")
    frames = reader.feed(data) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == data
    events: list[Event] = [event for frame in frames for event in frame.events]
    seen = {"stream": stream, "events": lines(frames)}
    if reader.done:
        writer = BEDROCK.writer(True)
        seen["written"] = spelled(writer.write(events) + writer.end())
        seen["folded"] = BEDROCK.write_reply(events).decode()
    agree(FOLDER / f"{case}.txt", seen)


def test_there_are_streams() -> None:
    assert {"text", "tool", "parallel_tools", "thinking", "usage", "guardrail", "exception", "cut"} <= {*STREAMS}


def nameless(events: list[Event]) -> list[Event]:
    """Converse names neither the reply nor the model."""
    return [Start("", "") if isinstance(event, Start) else event for event in events]


@given(replies("EqoBCkgIARAB"), st.lists(st.integers(0, 10_000), max_size=8))
def test_what_is_written_is_read_however_it_is_cut(events: tuple[Event, ...], places: list[int]) -> None:
    writer = BEDROCK.writer(True)
    data = b"".join(writer.write([event]) for event in events) + writer.end()
    reader = BEDROCK.reader("chat")
    frames = [frame for piece in cuts(data, places) for frame in reader.feed(piece)] + reader.finish()
    assert reader.done
    assert folded(event for frame in frames for event in frame.events) == nameless(folded(events))
    whole = BEDROCK.reader("chat")
    assert frames == whole.feed(data) + whole.finish()


@given(replies("EqoBCkgIARAB"))
def test_a_plain_reply_is_the_stream_folded(events: tuple[Event, ...]) -> None:
    body = BEDROCK.write_reply(events)
    assert folded(BEDROCK.read_reply(body)) == nameless(folded(events))
    assert [type(event).__name__ for event in BEDROCK.glance("chat", body)] == ["Start", "Finish", "UsageSeen", "End"]


def test_a_cut_stream_is_not_done() -> None:
    data = binary(sections(FOLDER / "text.txt")["stream"])
    for end in range(0, len(data), 7):
        reader = BEDROCK.reader("chat")
        frames = reader.feed(data[:end]) + reader.finish()
        ended = any(type(event) is End for frame in frames for event in frame.events)
        whole_messages = len(spelled(data[:end]).splitlines())
        assert ended == reader.done == (whole_messages == 5 and end == _end_of(data, 5))


def _end_of(data: bytes, count: int) -> int:
    return sum(len(message.raw) for message in eventstream.Messages().feed(data)[:count])


def test_a_wrong_checksum_fails_the_reply() -> None:
    data = bytearray(binary(sections(FOLDER / "text.txt")["stream"]))
    data[-30] ^= 1
    reader = BEDROCK.reader("chat")
    with pytest.raises(UpstreamFailed) as caught:
        reader.feed(bytes(data))
    assert caught.value.kind == "unreadable"


def test_metadata_may_come_before_the_stop() -> None:
    reader = BEDROCK.reader("chat")
    reader.feed(binary('metadata {"usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}}'))
    assert not reader.done
    reader.feed(binary('messageStop {"stopReason":"end_turn"}'))
    assert reader.finish()[-1].events == (End(),)
    assert reader.done


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "other"),
        ("malformed_tool_use", "other"),
        ("something_new", "other"),
    ],
)
def test_stop_reasons(native: str, reason: str) -> None:
    reply = {"output": {"message": {"role": "assistant", "content": []}}, "stopReason": native, "usage": None}
    assert Finish(reason, native=native) in BEDROCK.read_reply(msgspec.json.encode(reply))  # type: ignore[arg-type]


def test_a_plain_reply_with_everything() -> None:
    body = b"""{"metrics": {"latencyMs": 1}, "output": {"message": {"role": "assistant", "content": [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "SIG="}}},
        {"reasoningContent": {"redactedContent": "UkVE"}},
        {"text": ""},
        {"citationsContent": {"content": [{"text": "Said."}],
            "citations": [{"title": "T", "location": {"web": {"url": "https://a.example"}}}, {"source": "doc"}]}},
        {"toolUse": {"toolUseId": "s", "name": "nova_grounding", "input": {}, "type": "server_tool_use"}},
        {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1.50}}},
        {"somethingNew": {}}]}},
        "stopReason": "tool_use", "serviceTier": {"type": "flex"},
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3, "cacheReadInputTokens": 4}}"""
    events = BEDROCK.read_reply(body)
    assert events[0] == Start("", "", service_tier="flex")
    assert TextDelta("Said.") in events
    assert Citation({"type": "url_citation", "url": "https://a.example", "title": "T"}) in events
    assert Citation({"type": "url_citation", "url": "doc", "title": ""}) in events
    assert [event for event in events if isinstance(event, ToolStart | ToolDelta)] == [
        ToolStart(0, "t", "f"),
        ToolDelta(0, '{"a":1.50}'),
    ]
    assert BEDROCK.glance("chat", body)[2].usage.input == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}", b'{"output":{"message":{"content":[]}}}'])
def test_what_is_no_reply_is_unreadable(body: bytes) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        BEDROCK.read_reply(body)
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("status", "name", "message", "kind"),
    [
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", "rate_limit"),
        (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", "quota"),
        (400, "ServiceQuotaExceededException", "quota", "quota"),
        (400, "ValidationException", "Malformed input request", "invalid"),
        (400, "ValidationException", "Input is too long for requested model.", "context_length"),
        (
            400,
            "ValidationException",
            "The model returned the following errors: prompt is too long: 9 > 8",
            "context_length",
        ),
        (400, "ValidationException", "input length and `max_tokens` exceed context limit", "context_length"),
        (400, "ValidationException", "The provided model identifier is invalid.", "not_found"),
        (403, "AccessDeniedException", "You don't have access to the model", "auth"),
        (403, "UnrecognizedClientException", "The security token included in the request is invalid.", "auth"),
        (403, "ExpiredTokenException", "The security token included in the request is expired", "auth"),
        (403, "InvalidSignatureException", "Signature expired", "auth"),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model", "not_found"),
        (408, "ModelTimeoutException", "took too long", "timeout"),
        (424, "ModelErrorException", "the model failed", "server_error"),
        (429, "ModelNotReadyException", "not ready", "overloaded"),
        (500, "InternalServerException", "oops", "server_error"),
        (503, "ServiceUnavailableException", "busy", "overloaded"),
        (503, "", "busy", "overloaded"),
        (418, "SomethingNewException", "?", "invalid"),
    ],
)
def test_error_kinds(status: int, name: str, message: str, kind: str) -> None:
    body = msgspec.json.encode({"message": message})
    header = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/"} if name else {}
    failed = BEDROCK.read_error(status, header, body)
    assert (failed.kind, failed.status, failed.message, failed.body) == (kind, status, message, body)
    assert failed.provider_code == (name or None)
    named = msgspec.json.encode({"__type": f"com.amazon.coral.service#{name}", "Message": message})
    assert BEDROCK.read_error(status, {}, named).kind == kind


def test_an_error_without_a_body() -> None:
    failed = BEDROCK.read_error(502, {"retry-after": "7"}, b"<html>")
    assert (failed.kind, failed.retry_after) == ("server_error", 7)
    assert "502" in failed.message
    upstream = b'{"message":"m","originalStatusCode":429,"originalMessage":"slow"}'
    assert BEDROCK.read_error(424, {"x-amzn-errortype": "ModelErrorException"}, upstream).kind == "rate_limit"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit"),
        ("validationException", "invalid"),
        ("modelStreamErrorException", "server_error"),
        ("serviceUnavailableException", "overloaded"),
        ("internalServerException", "server_error"),
        ("modelTimeoutException", "timeout"),
    ],
)
def test_exceptions_inside_a_stream(name: str, kind: str) -> None:
    frames = BEDROCK.reader("chat").feed(binary(f'!{name} {{"message":"m"}}'))
    assert frames[0].events == (Failed(kind, "m", b'{"message":"m"}'),)


def test_an_error_message_inside_a_stream() -> None:
    sent = {":message-type": "error", ":error-code": "InternalError", ":error-message": "broken"}
    frames = BEDROCK.reader("chat").feed(eventstream.encode(sent, b""))
    assert frames[0].events == (Failed("server_error", "broken", b""),)


def test_errors_are_written_as_aws_writes_them() -> None:
    body = BEDROCK.write_error(Invalid("no"), 400)
    assert BEDROCK.read_error(400, {}, body).kind == "invalid"
    writer = BEDROCK.writer(True)
    data = writer.write([Start("", ""), TextDelta("a")])
    data += writer.fail(UpstreamFailed("rate_limit", "slow", status=429))
    reader = BEDROCK.reader("chat")
    events = [event for frame in reader.feed(data) + reader.finish() for event in frame.events]
    assert isinstance(events[-1], Failed)
    assert (events[-1].kind, events[-1].message, reader.done) == ("rate_limit", "slow", False)


def test_paths() -> None:
    profile = "eu.anthropic.claude-sonnet-4-5-20250929-v1"
    arn = f"arn:aws:bedrock:eu-central-1:123456789012:inference-profile/{profile}:0"
    quoted = f"arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Ainference-profile%2F{profile}%3A0"
    assert BEDROCK.path("chat", arn, False) == f"/model/{quoted}/converse"
    assert BEDROCK.path("messages", "amazon.nova-pro-v1:0", True) == "/model/amazon.nova-pro-v1%3A0/converse-stream"
    assert BEDROCK.path("count_tokens", "x", False) == "/model/x/count-tokens"
    assert BEDROCK.path("embeddings", "x", False) == "/model/x/invoke"
    with pytest.raises(Unsupported):
        BEDROCK.path("images.generations", "x", False)


def test_callers_cannot_speak_it() -> None:
    with pytest.raises(Invalid, match="cannot speak"):
        BEDROCK.peek("chat", b"{}", "application/json")
