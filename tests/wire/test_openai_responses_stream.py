"""The Responses dialect's streams: golden cases, the official SDK as a reader, round trips under random cuts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from mainstay.core.errors import OverLimit, UpstreamFailed
from mainstay.core.event import (
    CONTENT,
    Citation,
    End,
    Event,
    Failed,
    Finish,
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
from mainstay.core.usage import Usage, clamped

from .openai_responses_cases import AT, GOLDEN, data_of, dialect, event_of, sections

CASES = sorted(path for path in GOLDEN.glob("*.txt"))
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def written(events: list[Event], request: bytes | None, failure: dict[str, str] | None) -> bytes:
    writer = dialect().writer(True, request)
    out = b"".join(writer.write([event]) for event in events)
    if failure is None:
        return out + writer.end()
    return out + writer.fail(UpstreamFailed(failure["kind"], failure["message"]))  # type: ignore[arg-type]


def read(stream: bytes, cuts: list[int] | None = None) -> list[Event]:
    """All events of a stream that is fed in pieces, without what has no meaning."""
    reader = dialect().reader()
    found: list[Event] = []
    at = 0
    raw = b""
    for cut in [*sorted(cuts or []), len(stream)]:
        for frame in reader.feed(stream[at:cut]):
            assert not frame.unread
            raw += frame.raw or b""
            found.extend(frame.events)
        at = max(at, cut)
    for frame in reader.finish():
        raw += frame.raw or b""
        found.extend(frame.events)
    assert raw == stream
    return [event for event in found if not isinstance(event, Opaque)]


def parsed(stream: bytes) -> list[dict[str, Any]]:
    """The stream's events, checked as the SDK's models want them and for order and numbering."""
    told = data_of(stream)
    for number, one in enumerate(told):
        STREAM_EVENT.validate_python(one)
        assert one["sequence_number"] == number
    assert [one["type"] for one in told[:2]] == ["response.created", "response.in_progress"]
    return told


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = sections(path.read_text())
    events = [event_of(line) for line in case["events"].splitlines()]
    failure = json.loads(case["failure"]) if "failure" in case else None
    request = case["request"].encode()
    stream = written(events, request, failure)
    parsed(stream)
    found = {"stream": stream.decode().strip("\n")}
    if failure is None:
        reply = json.loads(dialect().write_reply(events, request))
        found["reply"] = json.dumps(reply, indent=1, ensure_ascii=False)
    if os.environ.get("MAINSTAY_GOLDEN") == "write":
        kept = {name: text for name, text in case.items() if name not in ("stream", "reply")} | found
        path.write_text("".join(f"=== {name}\n{text}\n" for name, text in kept.items()))
    for name, text in found.items():
        assert case.get(name) == text, f"{path.name}: {name} differs; MAINSTAY_GOLDEN=write accepts it"


def test_there_are_golden_cases() -> None:
    assert {path.stem for path in CASES} == {
        "text",
        "tool",
        "parallel_tools",
        "reasoning",
        "refusal",
        "length",
        "failure",
    }


def test_a_refusal_without_words_is_not_a_completed_answer() -> None:
    """Half an answer that its model broke off to refuse must not look whole; one that says why is whole."""
    for said, status in (
        ([TextDelta("Half")], "incomplete"),
        ([], "incomplete"),
        ([RefusalDelta("No.")], "completed"),
    ):
        events: list[Event] = [Start("r", "m"), *said, Finish("refusal"), End()]
        reply = json.loads(dialect().write_reply(events, b'{"model":"m","input":"Hi"}'))
        last = data_of(written(events, b'{"model":"m","input":"Hi"}', None))[-1]
        for response in (reply, last["response"]):
            assert response["status"] == status
            assert response["incomplete_details"] == ({"reason": "content_filter"} if status == "incomplete" else None)


def final_text(stream: bytes, kwargs: dict[str, Any] | None = None) -> tuple[list[str], Any]:
    """What the SDK's own accumulator makes of the stream: the types of its events, and the final response."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as http,
        OpenAI(api_key="k", base_url="http://door/v1", http_client=http, max_retries=0) as client,
        client.responses.stream(model="chat", input="Hi", **(kwargs or {})) as events,
    ):
        kinds = [event.type for event in events]
        final = None
        if kinds[-1] == "response.completed":
            final = events.get_final_response()
    return kinds, final


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_sdk_accumulates_it(path: Path) -> None:
    case = sections(path.read_text())
    stream = (case["stream"] + "\n\n").encode()
    kinds, final = final_text(stream)
    told = data_of(stream)
    assert kinds == [one["type"] for one in told]
    if path.stem in ("length", "failure"):
        assert kinds[-1] == {"length": "response.incomplete", "failure": "response.failed"}[path.stem]
        return
    reply = json.loads(case["reply"])
    assert final is not None
    assert final.model_dump(mode="json", exclude_unset=True)["output"] is not None
    assert [item.type for item in final.output] == [item["type"] for item in reply["output"]]
    assert final.output_text == "".join(
        part["text"]
        for item in reply["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
    assert final.usage.total_tokens == reply["usage"]["total_tokens"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plain_and_streamed_replies_are_the_same(path: Path) -> None:
    case = sections(path.read_text())
    if "reply" not in case:
        return
    reply = json.loads(case["reply"])
    Response.model_validate(reply, strict=True)
    assert data_of((case["stream"] + "\n\n").encode())[-1]["response"] == reply


# ---- round trips ----------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=12)
json_texts = st.dictionaries(words, st.integers() | words, max_size=3).map(json.dumps)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    found = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    return [piece for piece in found if piece]


@st.composite
def replies(draw: st.DrawFn) -> list[Event]:
    """A whole reply of one choice, as an upstream of any format may give it."""
    events: list[Event] = [Start(draw(st.sampled_from(["resp_1", "msg_9", "x"])), draw(words), AT - 5, None, "default")]
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            events += [ThinkingDelta(one) for one in draw(st.lists(words, min_size=1, max_size=3))]
            events.append(ThinkingSigned(draw(words)))
        else:
            events.append(ThinkingSigned(draw(words), redacted=True))
    for one in draw(st.lists(words, max_size=4)):
        logprobs = None
        if draw(st.booleans()):
            logprobs = ({"token": one, "logprob": -0.5, "bytes": list(one.encode()), "top_logprobs": []},)
        events.append(TextDelta(one, 0, logprobs))
    refused = draw(st.booleans())
    if refused:
        events += [RefusalDelta(one) for one in draw(st.lists(words, min_size=1, max_size=2))]
    tools = draw(st.integers(0, 3))
    for tool in range(tools):
        events.append(ToolStart(tool, f"call_{tool}", draw(words)))
        arguments = draw(json_texts)
        cuts = draw(st.lists(st.integers(0, 50), max_size=3))
        events += [ToolDelta(tool, piece) for piece in pieces(arguments, cuts)]
    reason = draw(st.sampled_from(["length", "content_filter", "other", None]))
    if reason is None:
        reason = "tool_calls" if tools else "refusal" if refused else "stop"
    events.append(Finish(reason))
    figures = [draw(st.integers(0, 10_000)) for _ in range(5)]
    events.append(
        UsageSeen(clamped(*figures[:2], cached_input=figures[2], cache_write=figures[3], reasoning=figures[4]))
    )
    return [*events, End()]


def without_words(events: list[Event]) -> list[Event]:
    """The events as they are to be compared: the native word of the end, and the id's prefix, are the wire's own."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, Finish):
            event = Finish(event.reason)
        elif isinstance(event, Start):
            event = event._replace(id=event.id.removeprefix("resp_"))
        found.append(event)
    return found


@settings(deadline=None)
@given(replies(), st.lists(st.integers(0, 20_000), max_size=12))
def test_what_is_written_is_read_back(events: list[Event], cuts: list[int]) -> None:
    stream = written(events, None, None)
    parsed(stream)
    found = read(stream, [cut % (len(stream) + 1) for cut in cuts])
    assert without_words(found) == without_words(events)
    assert found == read(stream)


def folded(events: list[Event]) -> dict[str, Any]:
    """What a reply says, however it was cut into deltas."""
    tools: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ToolStart):
            tools[event.tool] = [event.id, event.name, ""]
        elif isinstance(event, ToolDelta):
            tools[event.tool][2] += event.arguments
    return {
        "text": "".join(event.text for event in events if isinstance(event, TextDelta)),
        "logprobs": [entry for event in events if isinstance(event, TextDelta) for entry in event.logprobs or ()],
        "thinking": "".join(event.text for event in events if isinstance(event, ThinkingDelta)),
        "signed": [event for event in events if isinstance(event, ThinkingSigned)],
        "refusal": "".join(event.text for event in events if isinstance(event, RefusalDelta)),
        "tools": tools,
        "rest": without_words([event for event in events if not isinstance(event, CONTENT)]),
    }


@settings(deadline=None)
@given(replies())
def test_a_plain_reply_says_the_same(events: list[Event]) -> None:
    body = dialect().write_reply(events)
    Response.model_validate_json(body)
    found = list(dialect().read_reply(body))
    assert folded(found) == folded(events)
    glanced = dialect().glance("responses", body)
    assert list(glanced) == [event for event in found if isinstance(event, Start | Finish | UsageSeen | End)]


# ---- what upstreams do ----------------------------------------------------------------------------------------------


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


CREATED = {
    "type": "response.created",
    "response": {"id": "resp_1", "model": "m", "created_at": 7, "status": "in_progress"},
}


def ended(kind: str = "completed", **fields: Any) -> dict[str, Any]:
    return {
        "type": f"response.{kind}",
        "response": {"id": "resp_1", "model": "m", "status": kind, "output": [], **fields},
    }


def test_events_without_meaning_are_opaque_and_keep_their_bytes() -> None:
    ping = {"type": "response.web_search_call.searching", "output_index": 0, "item_id": "ws_1"}
    reader = dialect().reader()
    stream = sse(CREATED, ping, {"type": "keepalive"}, ended()) + b": note\n\ndata: [DONE]\n\n"
    frames = reader.feed(stream)
    assert b"".join(frame.raw or b"" for frame in frames) == stream
    assert [frame.events[0] for frame in frames[1:3]] == [
        Opaque("response.web_search_call.searching"),
        Opaque("keepalive"),
    ]
    assert reader.done


def test_a_stream_without_a_terminal_event_is_not_done() -> None:
    reader = dialect().reader()
    reader.feed(sse(CREATED, {"type": "response.output_text.delta", "output_index": 0, "delta": "a"}))
    assert not reader.done
    assert not any(isinstance(event, End) for frame in reader.finish() for event in frame.events)


def test_an_event_that_cannot_be_read_is_marked() -> None:
    frames = dialect().reader().feed(b'event: response.output_text.delta\ndata: {"type": "resp\n\n' + sse(CREATED))
    assert frames[0].unread
    assert frames[0].events == ()
    assert frames[1].events == (Start("resp_1", "m", 7),)


def test_parts_and_items_that_come_without_deltas_are_read_once() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    message = {"type": "message", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}
    found = read(
        sse(
            CREATED,
            {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "Hi"},
            {"type": "response.output_item.done", "output_index": 0, "item": message},
            {"type": "response.output_item.done", "output_index": 1, "item": call},
            ended(output=[message, call], usage={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
        )
    )
    assert found[1:] == [
        TextDelta("Hi"),
        ToolStart(0, "c", "f"),
        ToolDelta(0, "{}"),
        Finish("tool_calls", native="completed"),
        UsageSeen(Usage(1, 2)),
        End(),
    ]


def test_an_answer_that_comes_only_at_the_end_is_read() -> None:
    message = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    found = read(sse(ended(output=[message])))
    assert found == [Start("resp_1", "m"), RefusalDelta("No."), Finish("refusal", native="completed"), End()]


def test_an_end_with_fields_of_other_types_is_still_the_end() -> None:
    odd = {"input_tokens": 3.0, "output_tokens": "2", "input_tokens_details": None, "output_tokens_details": {}}
    found = read(sse(CREATED, ended(created_at="today", usage=odd, output=None, incomplete_details="none")))
    assert found[1:] == [Finish("stop", native="completed"), UsageSeen(Usage(3, 2)), End()]


def test_a_summary_of_several_parts_is_paragraphs_and_raw_reasoning_is_not_repeated() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    place = {"output_index": 0, "item_id": "rs_1"}
    found = read(
        sse(
            CREATED,
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.reasoning_summary_part.added", **place, "summary_index": 0},
            {"type": "response.reasoning_summary_text.delta", **place, "summary_index": 0, "delta": "One."},
            {"type": "response.reasoning_text.delta", **place, "content_index": 0, "delta": "raw"},
            {"type": "response.reasoning_summary_part.added", **place, "summary_index": 1},
            {"type": "response.reasoning_summary_text.delta", **place, "summary_index": 1, "delta": "Two."},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            ended(),
        )
    )
    assert "".join(event.text for event in found if isinstance(event, ThinkingDelta)) == "One.\n\nTwo."
    assert [event for event in found if isinstance(event, ThinkingSigned)] == [ThinkingSigned("openai.gAAA")]


@pytest.mark.parametrize(
    ("told", "kind", "message"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}, "rate_limit", "slow"),
        ({"type": "error", "error": {"code": "server_error", "message": "broke"}}, "server_error", "broke"),
        (ended("failed", error={"code": "invalid_prompt", "message": "bad"}), "invalid", "bad"),
        (ended("failed", error=None), "server_error", "the provider reported that the response failed"),
        (
            ended(
                "failed", error={"code": "context_length_exceeded", "message": "Your input exceeds the context window"}
            ),
            "context_length",
            "Your input exceeds the context window",
        ),
    ],
)
def test_errors_inside_a_stream(told: dict[str, Any], kind: str, message: str) -> None:
    reader = dialect().reader()
    stream = sse(CREATED, told, ended("failed", error={"code": "server_error", "message": "again"}))
    failed = [event for frame in reader.feed(stream) for event in frame.events if isinstance(event, Failed)]
    assert [(event.kind, event.message) for event in failed] == [(kind, message)]
    assert reader.done


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "other"),
    ],
)
def test_incomplete_replies(details: Any, reason: str) -> None:
    told = ended("incomplete", incomplete_details=details)
    finish = read(sse(CREATED, told))[1]
    assert isinstance(finish, Finish)
    assert finish.reason == reason
    del told["response"]["status"]  # the event's own name says it
    assert read(sse(CREATED, told))[1] == finish


def test_one_event_may_not_be_too_long() -> None:
    with pytest.raises(UpstreamFailed) as error:
        dialect().reader().feed(b"data: " + b"x" * (9 * 1024 * 1024))
    assert error.value.kind == "too_large"


# ---- what the writer does with what other formats say -----------------------------------------------------------------


def test_calls_whose_arguments_are_interleaved_stay_whole() -> None:
    events: list[Event] = [
        Start("a", "m"),
        ToolStart(0, "c0", "f"),
        ToolDelta(0, '{"a":'),
        ToolStart(1, "c1", "g"),
        ToolDelta(1, "{}"),
        ToolDelta(0, "1}"),
        ToolStart(2, "c2", "h"),
        Finish("tool_calls"),
        End(),
    ]
    stream = written(events, None, None)
    parsed(stream)
    final = data_of(stream)[-1]["response"]
    assert [item["arguments"] for item in final["output"]] == ['{"a":1}', "{}", "{}"]
    _, response = final_text(stream)
    assert [item.arguments for item in response.output] == ['{"a":1}', "{}", "{}"]


def test_hidden_reasoning_is_an_item_of_its_own() -> None:
    events: list[Event] = [Start("a", "m"), ThinkingDelta("t"), ThinkingSigned("s", redacted=True), Finish("stop")]
    items = data_of(written(events, None, None))[-1]["response"]["output"]
    assert [(len(item["summary"]), item.get("encrypted_content")) for item in items] == [
        (1, None),
        (0, "mainstay.redacted.s"),
    ]


def test_a_call_is_done_as_soon_as_the_next_item_begins() -> None:
    writer = dialect().writer(True)
    first = writer.write([Start("a", "m"), ToolStart(0, "c0", "f"), ToolDelta(0, "{}")])
    assert "response.output_item.done" not in [one["type"] for one in data_of(first)]
    kinds = [one["type"] for one in data_of(writer.write([ToolStart(1, "c1", "g")]))]
    assert kinds == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
    ]


@pytest.mark.parametrize("reason", ["pause", "other"])
def test_an_answer_that_stopped_for_another_reason_is_not_complete(reason: Any) -> None:
    stream = written([Start("a", "m"), TextDelta("x"), Finish(reason), End()], None, None)
    final = parsed(stream)[-1]
    assert final["type"] == "response.incomplete"
    assert final["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_before_the_first_event_is_a_whole_stream() -> None:
    writer = dialect().writer(True, b'{"model":"m","input":"x"}')
    stream = writer.fail(OverLimit("slow down", retry_after=1, rule="r"))
    told = parsed(stream)
    assert [one["type"] for one in told[2:]] == ["error", "response.failed"]
    assert told[-1]["response"]["error"] == {"code": "rate_limit_exceeded", "message": "slow down"}
    assert writer.end() == b""
    assert writer.fail(OverLimit("again", retry_after=1, rule="r")) == b""


def test_a_failed_reply_that_is_plain() -> None:
    body = dialect().write_reply([Start("a", "m"), TextDelta("x"), Failed("overloaded", "busy")])
    reply = json.loads(body)
    assert (reply["status"], reply["error"]) == ("failed", {"code": "server_error", "message": "busy"})
    Response.model_validate(reply)


def test_the_gateway_stamps_its_own_fields_into_every_response_object() -> None:
    writer = dialect().writer(
        True, b'{"store":true}', {"id": "resp_own", "previous_response_id": "resp_0", "store": False}
    )
    stream = writer.write([Start("a", "m"), TextDelta("x")]) + writer.end()
    for one in data_of(stream):
        if "response" in one:
            told = one["response"]
            assert (told["id"], told["previous_response_id"], told["store"]) == ("resp_own", "resp_0", False)
    assert writer.response["id"] == "resp_own"
    assert writer.response["output"][0]["content"][0]["text"] == "x"


def test_citations_have_the_fields_that_the_format_wants() -> None:
    nested = {
        "type": "url_citation",
        "url_citation": {"url": "https://a", "title": "A", "start_index": 1, "end_index": 2},
    }
    events: list[Event] = [
        Start("a", "m"),
        TextDelta("xx"),
        Citation(nested),
        Citation({"url": "https://b"}),
        Finish("stop"),
    ]
    stream = written(events, None, None)
    parsed(stream)
    notes = data_of(stream)[-1]["response"]["output"][0]["content"][0]["annotations"]
    assert notes[0] == {"type": "url_citation", "url": "https://a", "title": "A", "start_index": 1, "end_index": 2}
    assert notes[1] == {"url": "https://b", "type": "url_citation", "title": "", "start_index": 0, "end_index": 0}
    Response.model_validate(data_of(stream)[-1]["response"])
