"""The passed-through operations: forms and JSON, replies, streams; and what providers' errors mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.core.event import End, Failed, Finish, Start, TextDelta, UsageSeen
from mainstay.core.model import UNKNOWN
from mainstay.core.request import Request
from mainstay.core.usage import Usage
from mainstay.wire.multipart import form_fields
from mainstay.wire.openai_plain import OPERATIONS, OpenAIPlain
from tests.wire.canonical import cuts, folded

PLAIN = OpenAIPlain(FixedClock())
DATA = Path(__file__).parents[3] / "shared" / "data"
FORM = "multipart/form-data; boundary=XyZ"
AUDIO = b"RIFF\r\n--Xy\r\n--\r\n\x00\xff\r\n"


def form(*parts: tuple[str, bytes], boundary: bytes = b"XyZ") -> bytes:
    body = b""
    for header, content in parts:
        body += b"--" + boundary + b"\r\n" + header.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + b"--" + boundary + b"--\r\n"


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


FILE = ('Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav', AUDIO)


# -- recordings


def recordings() -> list[Any]:
    found = sorted((DATA / "recordings").glob("*.yaml"))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="the recordings in ../shared/data are not here"))]
    return [
        pytest.param(exchange, id=path.stem)
        for path in found
        for exchange in yaml.load(path.read_text(), yaml.CSafeLoader)["interactions"]
        if not exchange["request"]["url"].endswith("chat/completions")
    ]


@pytest.mark.parametrize("exchange", recordings())
def test_recording(exchange: Any) -> None:
    operation = exchange["request"]["url"].partition("/v1/")[2].replace("/", ".")
    assert operation in OPERATIONS
    assert exchange["request"]["url"].endswith("/v1" + PLAIN.path(operation, "m", False))
    body, reply = exchange["request"]["body"].encode(), exchange["response"]["body"].encode()
    stream = False
    if not operation.startswith("audio."):  # whose forms were left out of the recordings
        peek = PLAIN.peek(operation, body, "application/json")
        asked = json.loads(body)
        stream = peek.stream
        assert peek.model == asked["model"]
        assert json.loads(PLAIN.rewrite(operation, body, peek, "other", False)) == {**asked, "model": "other"}
        assert PLAIN.rewrite(operation, body, peek, peek.model, False) == body
    if exchange["response"]["code"] != 200:
        failed = PLAIN.read_error(exchange["response"]["code"], {}, reply)
        assert failed.kind == ("not_found" if exchange["response"]["code"] == 404 else "invalid")
        assert PLAIN.write_error(failed, 400) == reply
        return
    if stream:
        reader = PLAIN.reader(operation)
        frames = reader.feed(reply) + reader.finish()
        assert b"".join(frame.raw or b"" for frame in frames) == reply
        assert reader.done
        events = [event for frame in frames for event in frame.events]
        writer = PLAIN.writer(True)
        again = PLAIN.reader(operation)
        assert folded([e for frame in again.feed(writer.write(events) + writer.end()) for e in frame.events]) == folded(
            events
        )
    else:
        events = list(PLAIN.glance(operation, reply))
        said = json.loads(reply)
        usage = said.get("usage", {})
        seen = [event.usage for event in events if isinstance(event, UsageSeen)]
        if "prompt_tokens" in usage:
            assert [(one.input, one.total) for one in seen] == [(usage["prompt_tokens"], usage["total_tokens"])]
        else:
            assert seen == []
    assert isinstance(events[0], Start)
    assert events[-1] == End()


# -- JSON


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        ("completions", {"prompt": "a", "max_tokens": 5, "stream": True}, {"max_tokens": 5, "stream": True, "n": 1}),
        ("completions", {"prompt": ["a", "b"], "n": 2, "best_of": 3}, {"n": 6}),
        ("completions", {"prompt": [[1, 2], [3]]}, {"n": 2}),
        ("completions", {"prompt": [1, 2, 3]}, {"n": 1}),
        ("completions", {"prompt": 7}, {"n": 1}),
        ("completions", {"stream": True, "stream_options": {"include_usage": True}}, {"usage_wanted": True}),
        ("embeddings", {"input": [[1, 2], [3]], "user": "u"}, {"user": "u", "n": 1}),
        ("embeddings", {"input": {"image_url": "https://x"}}, {"unbounded": ("input.image_url",)}),
        ("images.generations", {"prompt": "a", "n": 2}, {"n": 2, "max_tokens": 8192}),
        ("audio.speech", {"input": "a", "stream_format": "sse"}, {"stream": True}),
        ("audio.speech", {"input": "a"}, {"stream": False}),
        ("rerank", {"query": "q", "documents": ["a"]}, {"model": "m"}),
    ],
)
def test_peek_sees(operation: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    found = PLAIN.peek(operation, json.dumps({"model": "m", **fields}).encode(), "application/json")
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", None),
        (b"{}", "model"),
        (b'{"model":7}', "model"),
        (b'{"model":"m","Model":"n"}', "Model"),
        (b'{"model":"m","max_tokens":"5"}', "max_tokens"),
        (b'{"model":"m","stream":1}', "stream"),
    ],
)
def test_peek_refuses(body: bytes, field: str | None) -> None:
    with pytest.raises(Invalid) as refused:
        PLAIN.peek("completions", body, "application/json")
    assert refused.value.field == field


def test_a_model_that_is_not_named_is_the_providers_default() -> None:
    body = b'{"input":"a"}'
    peek = PLAIN.peek("moderations", body, "application/json")
    assert peek.model == "omni-moderation-latest"
    assert PLAIN.rewrite("moderations", body, peek, "m", False) == b'{"input":"a","model":"m"}'
    form_body = form((field("prompt"), b"a"))
    peek = PLAIN.peek("images.edits", form_body, FORM)
    assert peek.model == "dall-e-2"
    rewritten = PLAIN.rewrite("images.edits", form_body, peek, "m", False)
    assert PLAIN.peek("images.edits", rewritten, FORM).model == "m"
    assert rewritten.endswith(form_body)


def test_usage_is_asked_for_in_a_stream_of_completions_only() -> None:
    body = b'{"model":"m","stream":true}'
    peek = PLAIN.peek("completions", body, "application/json")
    assert json.loads(PLAIN.rewrite("completions", body, peek, "n", True)) == {
        "model": "n",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    peek = PLAIN.peek("images.generations", body, "application/json")
    assert PLAIN.rewrite("images.generations", body, peek, "n", True) == b'{"model":"n","stream":true}'


# -- forms


@pytest.mark.parametrize("operation", ["audio.transcriptions", "images.edits"])
def test_the_model_of_a_form_is_found_and_replaced(operation: str) -> None:
    body = form(
        FILE, (field("model"), b"whisper-1"), (field("stream"), b"true"), (field("n"), b"2"), (field("user"), b"u")
    )
    peek = PLAIN.peek(operation, body, FORM)
    assert (peek.model, peek.stream, peek.n, peek.user) == ("whisper-1", True, 2, "u")
    new = PLAIN.rewrite(operation, body, peek, "large", False)
    assert new == body.replace(b"whisper-1", b"large")
    assert PLAIN.rewrite(operation, body, peek, "whisper-1", True) == body


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "file"]), st.binary(max_size=30)), max_size=4),
    st.integers(0, 4),
    st.sampled_from(["XyZ", "----WebKitFormBoundaryabc123", "a'()+_,-./:=? b"]),
)
def test_any_file_beside_the_model_is_left_alone(parts: list[tuple[str, bytes]], at: int, boundary: str) -> None:
    raw = boundary.encode()
    parts = [(name, content) for name, content in parts if raw not in content]
    headers = [
        (f'content-disposition: form-data; name="{name}"; filename="x y;z.png"', content) for name, content in parts
    ]
    headers.insert(at, ("CONTENT-DISPOSITION: form-data; name=model", b"m"))
    body = form(*headers, boundary=raw)
    content_type = f'multipart/form-data; boundary="{boundary}"'
    found = form_fields(body, content_type)
    assert [body[one.start : one.end] for one in found] == [content for _, content in headers]
    peek = PLAIN.peek("images.edits", body, content_type)
    assert peek.model == "m"
    rewritten = PLAIN.rewrite("images.edits", body, peek, "other", False)
    assert rewritten == body[: peek.model_at[0]] + b"other" + body[peek.model_at[1] :]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"--XyZ",
        b"--XyZ--\r\n",
        b"preamble\r\n" + form((field("model"), b"m")),
        form((field("model"), b"m")).replace(b"\r\n", b"\n"),
        form((field("model"), b"m"))[:-8],
        form((field("model"), b"m")).replace(b"--XyZ\r\n", b"--XyZ \r\n"),
        form((field("model"), b"m"), (field("model"), b"n")),
        form((field("model"), b"m"), (field("Model"), b"n")),
        form((field("Model"), b"m")),
        form((field("model"), b"m")).replace(b"--XyZ\r\n", b"--XyZzz"),
        form((field("model"), b"m"), (field("n"), b"-1")),
        form((field("model"), b"m"), (field("n"), "²".encode())),
        form((field("model"), b"m"), (field("stream"), b"maybe")),
        form((field("model"), b"")),
        form((field("model"), b"\xff")),
        form((field("model") + '; filename="x"', b"m")),
        form((field("model") + '; name="x"', b"m")),
        form(("Content-Disposition: form-data; name=\"x\"; name*=utf-8''model", b"m"), (field("model"), b"m")),
        form((field("x") + "\r\n" + field("model"), b"m")),
        form(("Content-Type: text/plain", b"m"), (field("model"), b"m")),
        form((field("model") + "\r\nContent-Transfer-Encoding: base64", b"bQ==")),
        form((field("model") + "\r\nX: " + "y" * 9000, b"m")),
        form(*[(field(f"x{i}"), b"") for i in range(300)], (field("model"), b"m")),
        b"--XyZ\r\n" + field("model").encode() + b"\r\n\r\n--XyZ--\r\n",
    ],
)
def test_a_malformed_or_ambiguous_form_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        PLAIN.peek("audio.transcriptions", body, FORM)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=XyZ",
        'multipart/form-data; boundary="' + "a" * 71 + '"',
        "multipart/form-data; xboundary=XyZ",
    ],
)
def test_a_form_without_one_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(Invalid):
        PLAIN.peek("audio.transcriptions", form((field("model"), b"m")), content_type)


@given(st.binary(max_size=60), st.text(max_size=20))
def test_no_bytes_break_the_reading_of_forms(body: bytes, extra: str) -> None:
    for content_type in (FORM, FORM + extra):
        try:
            PLAIN.peek("audio.transcriptions", b"--XyZ\r\n" + body, content_type)
        except Invalid:
            continue


# -- replies


@pytest.mark.parametrize(
    ("operation", "body", "usage"),
    [
        ("audio.speech", b"ID3\x04\xff\xfb\x90", None),
        ("audio.transcriptions", b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", None),
        ("audio.transcriptions", b'{"text":"Hi","usage":{"type":"duration","seconds":7}}', None),
        (
            "audio.transcriptions",
            b'{"text":"Hi","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":10,"audio_tokens":4},'
            b'"output_tokens":101,"total_tokens":115}}',
            Usage(14, 101, input_audio=4),
        ),
        (
            "images.generations",
            b'{"created":1,"data":[],"usage":{"input_tokens":50,"output_tokens":272,"total_tokens":322,'
            b'"input_tokens_details":{"text_tokens":40,"image_tokens":10}}}',
            Usage(50, 272),
        ),
        ("embeddings", b'{"data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(7, 0)),
        ("rerank", b'{"results":[],"usage":{"total_tokens":9}}', Usage(9, 0)),
        ("rerank", b'{"results":[],"meta":{"billed_units":{"search_units":1}}}', None),
        ("moderations", b'{"id":"modr-1","results":[]}', None),
    ],
)
def test_a_glance_at_a_reply(operation: str, body: bytes, usage: Usage | None) -> None:
    events = PLAIN.glance(operation, body)
    assert [event.usage for event in events if isinstance(event, UsageSeen)] == ([usage] if usage else [])
    assert events[-1] == End()


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_a_page_is_no_reply(operation: str) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        PLAIN.glance(operation, b"\n<!DOCTYPE html><html><body>Bad gateway</body></html>")
    assert failed.value.kind == "unreadable"


def test_an_error_with_a_status_of_success_is_a_failure() -> None:
    body = b'{"error":{"message":"overloaded","type":"overloaded_error"}}'
    assert PLAIN.glance("embeddings", body) == (Failed("overloaded", "overloaded", body),)


STREAMS = {
    "audio.transcriptions": (
        b'data: {"type":"transcript.text.delta","delta":"Hi"}\n\n'
        b'data: {"type":"transcript.text.done","text":"Hi",'
        b'"usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}\n\n'
    ),
    "images.generations": (
        b"event: image_generation.partial_image\n"
        b'data: {"type":"image_generation.partial_image","b64_json":"AA","partial_image_index":0}\n\n'
        b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AA",'
        b'"usage":{"input_tokens":14,"output_tokens":3,"total_tokens":17}}\n\n'
    ),
    "audio.speech": (
        b'data: {"type":"speech.audio.delta","audio":"AA"}\n\n'
        b'data: {"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":3,"total_tokens":17}}\n\n'
    ),
    "completions": (
        b'data: {"id":"c","model":"m","choices":[{"text":"Hi","index":0,"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":3,"total_tokens":17}}\n\ndata: [DONE]\n\n'
    ),
}


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 400), max_size=6))
def test_a_stream(operation: str, places: list[int]) -> None:
    reader = PLAIN.reader(operation)
    frames = [frame for piece in cuts(STREAMS[operation], places) for frame in reader.feed(piece)] + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == STREAMS[operation]
    events = [event for frame in frames for event in frame.events]
    assert isinstance(events[0], Start)
    assert any(isinstance(event, TextDelta) for event in events) or operation == "audio.speech"
    assert any(isinstance(event, Finish) for event in events)
    assert UsageSeen(Usage(14, 3)) in events
    assert events[-1] == End()
    assert reader.done


def test_a_stream_that_was_cut_is_not_done() -> None:
    for operation, stream in STREAMS.items():
        reader = PLAIN.reader(operation)
        reader.feed(stream[: stream.index(b"\n\n") + 2])
        reader.finish()
        assert not reader.done


@given(
    st.binary(min_size=1, max_size=40).filter(lambda b: b[:1] not in b"dei:r\xef"),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_sound_passes_as_it_comes(sound: bytes, places: list[int]) -> None:
    reader = PLAIN.reader("audio.speech")
    frames = [frame for piece in cuts(sound, places) for frame in reader.feed(piece)]
    assert not reader.done
    frames += reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == sound
    assert reader.done


def test_an_error_in_a_stream() -> None:
    for data in (b'{"error":{"message":"boom","type":"server_error"}}', b'{"type":"error","message":"boom"}'):
        frames = PLAIN.reader("images.generations").feed(b"data: " + data + b"\n\n")
        assert isinstance(frames[0].events[0], Failed)
        assert frames[0].events[0].message == "boom"
    assert PLAIN.reader("completions").feed(b"data: {oops\n\n")[0].unread


def test_a_completion_is_folded() -> None:
    events = (
        Start("c", "m", 7),
        TextDelta("a"),
        TextDelta("b"),
        TextDelta("x", 1),
        Finish("stop"),
        Finish("length", 1),
        End(),
    )
    reply = json.loads(PLAIN.write_reply(events))
    assert [(choice["text"], choice["finish_reason"]) for choice in reply["choices"]] == [
        ("ab", "stop"),
        ("x", "length"),
    ]
    assert [e for e in PLAIN.read_reply(PLAIN.write_reply(events)) if isinstance(e, TextDelta)] == [
        TextDelta("ab"),
        TextDelta("x", 1),
    ]


def test_nothing_is_translated() -> None:
    with pytest.raises(Unsupported):
        PLAIN.read_request(b"{}")
    with pytest.raises(Unsupported):
        PLAIN.write_request(Request("m", ()), "m", UNKNOWN)


# -- what providers' errors mean


def error(message: str = "", code: Any = None, type: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
            "context_length",
        ),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400},
            "context_length",
        ),
        (400, error("prompt is too long: 210000 tokens > 200000 maximum"), "context_length"),
        (
            400,
            error("Please reduce the length of the messages or completion.", "context_length_exceeded"),
            "context_length",
        ),
        (
            422,
            {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"},
            "context_length",
        ),
        (400, {"error": {"message": "the request exceeds the available context size", "code": 400}}, "context_length"),
        (500, {"error": {"message": "the request exceeds the available context size", "code": 500}}, "context_length"),
        (400, error("max_tokens is too large: 99999", "invalid_value"), "invalid"),
        (
            400,
            error(
                "The response was filtered due to the prompt",
                "content_filter",
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
            "content_filter",
        ),
        (400, error("Your request was rejected by our safety system", "moderation_blocked"), "content_filter"),
        (400, error("Output data may contain inappropriate content", "data_inspection_failed"), "content_filter"),
        (403, error("flagged", 403, metadata={"reasons": ["violence"], "flagged_input": "x"}), "content_filter"),
        (429, error("You exceeded your current quota, please check your plan", "insufficient_quota"), "quota"),
        (429, error("You exceeded your current quota. Please retry in 38.9s."), "rate_limit"),
        (402, error("Insufficient Balance", "invalid_request_error"), "quota"),
        (403, error("Your team has used all available credits or reached its monthly spending limit"), "quota"),
        (
            429,
            error("Rate limit reached for gpt-4 on tokens per min (TPM): Limit 10000", "rate_limit_exceeded"),
            "rate_limit",
        ),
        (
            413,
            error("Request too large for model on tokens per minute (TPM)", "rate_limit_exceeded", "tokens"),
            "rate_limit",
        ),
        (429, {}, "rate_limit"),
        (401, error("Incorrect API key provided: sk-abc", "invalid_api_key"), "auth"),
        (400, error("Incorrect API key provided: xai-abc"), "auth"),
        (403, error("Country, region, or territory not supported"), "auth"),
        (404, error("The model `x` does not exist or you do not have access to it.", "model_not_found"), "not_found"),
        (404, error("The API deployment for this resource does not exist.", "DeploymentNotFound"), "not_found"),
        (400, error("The model `x` has been decommissioned", "model_decommissioned"), "not_found"),
        (400, error("x is not a valid model ID"), "not_found"),
        (
            400,
            error("Unsupported parameter: 'max_tokens' is not supported with this model.", "unsupported_parameter"),
            "invalid",
        ),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "invalid"),
        (400, error("Invalid 'messages': empty array.", "empty_array"), "invalid"),
        (413, {"message": "Payload Too Large"}, "invalid"),
        (500, error("The server had an error", None, "server_error"), "server_error"),
        (502, "<html><head><title>502 Bad Gateway</title></head></html>", "server_error"),
        (503, error("The engine is currently overloaded", "engine_overloaded"), "overloaded"),
        (503, {"error": "Model is currently loading", "estimated_time": 20}, "overloaded"),
        (529, {}, "overloaded"),
        (500, error("Overloaded", None, "overloaded_error"), "overloaded"),
        (408, {}, "timeout"),
        (400, "", "invalid"),
        (302, "", "unreadable"),
    ],
)
def test_what_an_error_means(status: int, body: Any, kind: str) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    failed = PLAIN.read_error(status, {"content-type": "application/json"}, raw)
    assert failed.kind == kind
    assert failed.status == status
    assert failed.message
    assert "<html" not in failed.message
    if kind == "auth" or not isinstance(body, dict):
        assert failed.body is None
        assert "sk-abc" not in failed.message + PLAIN.write_error(failed, 502).decode()
        assert json.loads(PLAIN.write_error(failed, 502))["error"]["message"] == failed.message
    else:
        assert PLAIN.write_error(failed, status) == raw


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after": "7"}, "", 7),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, "", 0.25),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:09 GMT"}, "", 9),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, "", 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, "", 30),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "-1"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "1e99"}, "", None),
        ({}, "Please try again in 1.5s.", 1.5),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please try again in 6m0s.", 360),
        ({}, "Please try again in 20 seconds", 20),
        ({}, "Try later", None),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], message: str, seconds: float | None) -> None:
    failed = PLAIN.read_error(429, headers, json.dumps(error(message, "rate_limit_exceeded")).encode())
    assert failed.retry_after == (None if seconds is None else pytest.approx(seconds))


ERROR_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text(max_size=8) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "detail", "errors", "metadata"]), inner, max_size=3
        )
    ),
)


@given(st.integers(300, 599), st.binary(max_size=40) | ERROR_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_error_body_has_a_meaning(status: int, body: bytes) -> None:
    failed = PLAIN.read_error(status, {}, body)
    assert failed.message
    assert json.loads(PLAIN.write_error(failed, 502)) is not None
