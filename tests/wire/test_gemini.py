"""Gemini's generateContent: replies read and written, streams as golden text, errors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, OverLimit, Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Failed, Finish, Start, TextDelta, ThinkingSigned, ToolDelta, ToolStart
from mainstay.wire.gemini import Gemini
from tests.wire.canonical import agree, cuts, folded, lines, replies, sections

FOLDER = Path(__file__).parents[1] / "golden" / "gemini"
STREAMS = sorted(path.stem for path in FOLDER.glob("*.txt"))
GEMINI = Gemini(FixedClock())
SIGNATURE = "gemini:EjQKMgEM"


@pytest.mark.parametrize("case", STREAMS)
def test_stream(case: str) -> None:
    stream = sections(FOLDER / f"{case}.txt")["stream"]
    data = stream.encode().replace(b"\n", b"\r\n") + b"\r\n\r\n"  # as Google ends its lines
    reader = GEMINI.reader("chat")
    frames = reader.feed(data) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == data
    events: list[Event] = [event for frame in frames for event in frame.events]
    seen = {"stream": stream, "events": lines(frames)}
    if reader.done:
        seen["folded"] = GEMINI.write_reply(events).decode()
        assert folded(GEMINI.read_reply(seen["folded"].encode())) == folded(
            event for event in events if type(event).__name__ != "Citation"
        )
    agree(FOLDER / f"{case}.txt", seen)


def test_there_are_streams() -> None:
    wanted = {"text", "tool", "parallel_tools", "thinking", "blocked_prompt", "safety", "usage", "error", "unreadable"}
    assert wanted <= {*STREAMS}


@given(replies(SIGNATURE), st.lists(st.integers(0, 10_000), max_size=8))
def test_what_is_written_is_read_however_it_is_cut(events: tuple[Event, ...], places: list[int]) -> None:
    writer = GEMINI.writer(True)
    data = b"".join(writer.write([event]) for event in events) + writer.end()
    reader = GEMINI.reader("chat")
    frames = [frame for piece in cuts(data, places) for frame in reader.feed(piece)] + reader.finish()
    assert reader.done
    assert folded(event for frame in frames for event in frame.events) == folded(events)
    whole = GEMINI.reader("chat")
    at_once = whole.feed(data) + whole.finish()
    assert frames == at_once


@given(replies(SIGNATURE))
def test_a_plain_reply_is_the_stream_folded(events: tuple[Event, ...]) -> None:
    body = GEMINI.write_reply(events)
    assert folded(GEMINI.read_reply(body)) == folded(events)
    assert [type(event).__name__ for event in GEMINI.glance("chat", body)] == ["Start", "Finish", "UsageSeen", "End"]


def test_a_stream_cut_before_its_end_is_not_done() -> None:
    stream = sections(FOLDER / "text.txt")["stream"].encode() + b"\n\n"
    reader = GEMINI.reader("chat")
    frames = reader.feed(stream[: stream.index(b'data: {"candidates": [{"content": {"parts": [{"text": ""')])
    frames += reader.finish()
    assert not reader.done
    assert not any(type(event) in (End, Finish) for frame in frames for event in frame.events)


def test_the_last_event_may_lack_its_blank_line() -> None:
    stream = sections(FOLDER / "text.txt")["stream"].encode()
    reader = GEMINI.reader("chat")
    frames = reader.feed(stream) + reader.finish()
    assert reader.done
    assert frames[-1].events == (End(),)


def test_usage_after_the_finish_reason_still_counts() -> None:
    reader = GEMINI.reader("chat")
    reader.feed(b'data: {"candidates":[{"finishReason":"STOP"}]}\n\n')
    assert reader.done
    late = reader.feed(b'data: {"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}\n\n')
    assert late[0].events[0].usage.input == 3  # type: ignore[union-attr]
    assert reader.done
    assert reader.finish()[-1].events == (End(),)


def test_an_error_in_a_stream_keeps_it_from_being_whole() -> None:
    reader = GEMINI.reader("chat")
    reader.feed(b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}\n\n')
    frames = reader.feed(b'data: {"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}\n\n')
    assert isinstance(frames[0].events[0], Failed)
    assert frames[0].events[0].kind == "rate_limit"
    assert not reader.done


def test_calls_without_ids_get_the_same_ones_every_time() -> None:
    body = b"""{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f",
        "args": {"a": 1.50,
                 "b": "x  y"}}}, {"functionCall": {"name": "g"}}]}, "finishReason": "STOP"}], "responseId": "R_1"}"""
    events = GEMINI.read_reply(body)
    assert events == GEMINI.read_reply(body)
    assert [event for event in events if isinstance(event, ToolStart | ToolDelta)] == [
        ToolStart(0, "call_R_1_0", "f"),
        ToolDelta(0, '{"a":1.50,"b":"x  y"}'),
        ToolStart(1, "call_R_1_1", "g"),
        ToolDelta(1, "{}"),
    ]
    nameless = GEMINI.read_reply(body.replace(b'"R_1"', b'""'))
    others = GEMINI.read_reply(body.replace(b'"R_1"', b'""').replace(b"1.50", b"2"))
    first = [next(event.id for event in events if isinstance(event, ToolStart)) for events in (nameless, others)]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("OTHER", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
def test_finish_reasons(native: str, reason: str) -> None:
    events = GEMINI.read_reply(msgspec.json.encode({"candidates": [{"finishReason": native}]}))
    assert Finish(reason, native=native) in events  # type: ignore[arg-type]


def test_nulls_and_unknown_parts_are_no_trouble() -> None:
    events = GEMINI.read_reply(
        b'{"candidates":[{"content":{"parts":[{"text":null,"executableCode":{"code":"1"}},{"text":"x","thought":null}],'
        b'"role":"model"},"finishReason":"STOP","index":null,"groundingMetadata":{"groundingChunks":null}}],'
        b'"usageMetadata":{"promptTokenCount":null},"createTime":"2026-03-04T05:06:07.5Z","responseId":null}'
    )
    assert TextDelta("x") in events
    assert isinstance(events[0], Start)
    assert events[0].created == 1772600767


@pytest.mark.parametrize(
    "body",
    [b"<html>busy</html>", b"", b"[]", b'{"candidates": "no"}', b"{}", b'{"candidates":[{"content":{"parts":[]}}]}'],
)
def test_what_is_no_reply_is_unreadable(body: bytes) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        GEMINI.read_reply(body)
    assert caught.value.kind == "unreadable"


def test_an_error_with_status_200_is_its_error() -> None:
    with pytest.raises(UpstreamFailed) as caught:
        GEMINI.read_reply(b'{"error":{"code":500,"message":"broken","status":"INTERNAL"}}')
    assert caught.value.kind == "server_error"


def test_an_event_over_the_limit_is_refused() -> None:
    reader = GEMINI.reader("chat")
    for _ in range(8 * 16):
        assert reader.feed(b"x" * 65536) == []
    with pytest.raises(UpstreamFailed) as caught:
        reader.feed(b"x")
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED"}, "rate_limit"),
        (503, {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}, "overloaded"),
        (500, {"code": 500, "message": "An internal error", "status": "INTERNAL"}, "server_error"),
        (504, {"code": 504, "message": "Deadline expired", "status": "DEADLINE_EXCEEDED"}, "timeout"),
        (404, {"code": 404, "message": "models/x is not found", "status": "NOT_FOUND"}, "not_found"),
        (401, {"code": 401, "message": "no credentials", "status": "UNAUTHENTICATED"}, "auth"),
        (403, {"code": 403, "message": "denied", "status": "PERMISSION_DENIED"}, "auth"),
        (400, {"code": 400, "message": "Invalid value", "status": "INVALID_ARGUMENT"}, "invalid"),
        (400, {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}, "auth"),
        (
            400,
            {
                "code": 400,
                "message": "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
                "status": "INVALID_ARGUMENT",
            },
            "context_length",
        ),
        (502, None, "server_error"),
        (429, None, "rate_limit"),
        (403, None, "auth"),
    ],
)
def test_error_kinds(status: int, error: dict[str, object] | None, kind: str) -> None:
    body = b"<html>nope</html>" if error is None else msgspec.json.encode({"error": error})
    failed = GEMINI.read_error(status, {}, body)
    assert (failed.kind, failed.status, failed.body, failed.dialect) == (kind, status, body, "gemini")
    if error is not None:
        assert failed.message == error["message"]
        in_a_list = GEMINI.read_error(status, {}, b"[" + body + b"]")
        assert in_a_list.kind == kind


def test_an_error_says_when_to_come_back_and_which_field() -> None:
    body = {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerMinute"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"},
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "contents"}]},
            ],
        }
    }
    failed = GEMINI.read_error(429, {}, msgspec.json.encode(body))
    assert (failed.kind, failed.retry_after, failed.field) == ("rate_limit", 17.5, "contents")
    assert failed.provider_code == "RESOURCE_EXHAUSTED"
    assert GEMINI.read_error(429, {"retry-after": "3"}, msgspec.json.encode(body)).retry_after == 3
    per_day = msgspec.json.encode(body).replace(b"PerMinute", b"RequestsPerDay")
    assert GEMINI.read_error(429, {}, per_day).kind == "quota"
    odd = b'{"error":{"details":[{"@type":"x.BadRequest","fieldViolations":["?"]},{"@type":"x.RetryInfo"}]}}'
    assert GEMINI.read_error(400, {}, odd).kind == "invalid"


def test_errors_are_written_as_google_writes_them() -> None:
    body = GEMINI.write_error(OverLimit("slow down", retry_after=1, rule="r"), 429)
    assert msgspec.json.decode(body) == {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}
    assert GEMINI.read_error(429, {}, body).kind == "rate_limit"
    writer = GEMINI.writer(True)
    data = writer.write([Start("r", "m"), TextDelta("a")]) + writer.fail(UpstreamFailed("timeout", "late", status=504))
    reader = GEMINI.reader("chat")
    events = [event for frame in reader.feed(data) + reader.finish() for event in frame.events]
    assert isinstance(events[-1], Failed)
    assert (events[-1].kind, events[-1].message, reader.done) == ("timeout", "late", False)


def test_paths() -> None:
    assert GEMINI.path("chat", "gemini-2.5-pro", False) == "/models/gemini-2.5-pro:generateContent"
    assert GEMINI.path("messages", "gemini-2.5-pro", True) == "/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    assert GEMINI.path("count_tokens", "models/g", False) == "/models/g:countTokens"
    assert GEMINI.path("embeddings", "gemini-embedding-001", False) == "/models/gemini-embedding-001:batchEmbedContents"
    assert GEMINI.path("chat", "tunedModels/x-1", False) == "/tunedModels/x-1:generateContent"
    assert GEMINI.path("chat", "../../v1/x?y#z", False) == "/models/..%2F..%2Fv1%2Fx%3Fy%23z:generateContent"
    with pytest.raises(Unsupported):
        GEMINI.path("images.generations", "x", False)


def test_callers_cannot_speak_it() -> None:
    with pytest.raises(Invalid, match="cannot speak"):
        GEMINI.peek("chat", b"{}", "application/json")


def test_signatures_stand_before_the_part_they_belong_to() -> None:
    parts = [{"text": "a", "thoughtSignature": "AA=="}, {"functionCall": {"name": "f"}, "thoughtSignature": "BB=="}]
    body = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    kinds = [event for event in GEMINI.read_reply(msgspec.json.encode(body)) if not isinstance(event, Start)]
    assert kinds[0] == ThinkingSigned("gemini:AA==")
    assert kinds[1] == TextDelta("a")
    assert kinds[2] == ThinkingSigned("gemini:BB==")
    assert isinstance(kinds[3], ToolStart)
