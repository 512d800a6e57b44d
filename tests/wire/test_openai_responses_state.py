"""What is kept of Responses between calls: items, history put back in, compaction, the WebSocket mode's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from openai.types.responses.compacted_response import CompactedResponse
from pydantic import TypeAdapter

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, OverLimit, Unsupported
from mainstay.core.event import End, Finish, Start, TextDelta
from mainstay.core.request import Message, Text
from mainstay.core.usage import Usage
from mainstay.wire import openai_responses_socket as socket
from mainstay.wire import openai_responses_state as state

from .openai_responses_cases import AT, dialect

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
REPLY = [Start("a", "m"), TextDelta("Hello"), Finish("stop"), End()]


def encode(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def opened(secret: str) -> str | None:
    """Opens what the tests closed: ``sealed:`` and the summary."""
    return secret.removeprefix("sealed:") if secret.startswith("sealed:") else None


# ---- items ----------------------------------------------------------------------------------------------------------


def test_a_string_is_a_message_of_the_user() -> None:
    assert state.stored_input(encode(model="m", input="Hi")) == [USER]
    assert state.stored_input(encode(model="m")) == []
    items = [{"role": "user", "content": "Hi", "x": 1}, {"type": "item_reference", "id": "i"}]
    assert state.stored_input(encode(input=items)) == items


def test_items_that_are_listed_have_ids_and_their_full_form() -> None:
    items = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo", "id": "msg_9"},
        {"type": "reasoning"},
    ]
    found = state.stored_input(encode(input=items), lambda prefix: prefix + "1")
    assert found[0] == {**USER, "id": "msg_1", "status": "completed"}
    assert found[1]["id"] == "msg_9"
    assert found[1]["content"][0]["type"] == "output_text"
    assert found[2]["id"] == "rs_1"


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"input": 3}', b'{"input": [3]}'])
def test_input_that_is_none(raw: bytes) -> None:
    with pytest.raises(Invalid):
        state.stored_input(raw)


def test_output_of_a_reply_however_it_came() -> None:
    body = dialect().write_reply(REPLY)
    writer = dialect().writer()
    stream = b": x\n\n" + writer.write(REPLY) + b": mainstay\n\n" + writer.end()
    for source in (body, stream, writer.response):
        assert [item["type"] for item in state.output_items(source)] == ["message"]
        assert state.response_id(source) == "resp_a"
    assert state.response_object(b"data: x\n\n") is None
    assert state.output_items(b"<html>") == []
    assert state.response_id(b"") is None


def test_a_stamp_changes_what_it_names_alone() -> None:
    raw = b'{"id": "resp_a", "store": true, "n": 1.10, "output": [ ]}'
    stamped = state.stamp(raw, id="resp_b", previous_response_id=None, store=False)
    assert json.loads(stamped) == {"id": "resp_b", "store": False, "n": 1.1, "output": [], "previous_response_id": None}
    assert b'"n":1.10' in stamped


# ---- history --------------------------------------------------------------------------------------------------------


def test_history_comes_before_the_input() -> None:
    earlier = state.output_items(dialect().write_reply(REPLY))
    raw = b'{"model":"m","previous_response_id":"resp_a","input":"And?","temperature":0.70,"metadata":{"a":"1"}}'
    changed = state.with_history(raw, [USER, *earlier])
    told = json.loads(changed)
    assert list(told) == ["model", "input", "temperature", "metadata"]
    assert b'"temperature":0.70' in changed
    assert told["input"] == [USER, *earlier, {**USER, "content": [{"type": "input_text", "text": "And?"}]}]
    assert [message.role for message in dialect().read_request(changed).messages] == ["user", "assistant", "user"]


def test_without_history_only_the_fields_are_taken_out() -> None:
    raw = b'{"model":"m","previous_response_id":null,"store":true,"input":"x"}'
    assert state.with_history(raw, []) == b'{"model":"m","store":true,"input":"x"}'
    assert state.with_history(raw, [], remove=("store", "previous_response_id")) == b'{"model":"m","input":"x"}'


def test_reasoning_that_only_a_provider_has_is_left_out_of_history() -> None:
    pointer = {"type": "reasoning", "id": "rs_1", "summary": []}
    whole = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}
    told = json.loads(state.with_history(encode(model="m", input=[pointer]), [pointer, whole]))
    assert told["input"] == [whole, pointer]


def test_our_compactions_become_messages_and_others_stay() -> None:
    ours = {"type": "compaction", "id": "cmp_1", "encrypted_content": "sealed:We spoke."}
    theirs = {"type": "compaction", "id": "cmp_2", "encrypted_content": "gAAA"}
    told = json.loads(state.with_history(encode(model="m", input=[theirs, ours, USER]), [ours], opened))
    assert [item["type"] for item in told["input"]] == ["message", "compaction", "message", "message"]
    assert told["input"][0]["content"][0]["text"].endswith("We spoke.")
    request = dialect().read_request(encode(model="m", input=[ours]), opened)
    assert request.messages == (Message("user", (Text(told["input"][0]["content"][0]["text"]),)),)
    with pytest.raises(Unsupported):
        dialect().read_request(encode(model="m", input=[theirs]), opened)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=6).filter(lambda key: key not in ("input", "previous_response_id")), json_values),
    st.lists(
        st.dictionaries(st.text(max_size=5).filter(lambda key: key != "type"), json_values, max_size=3), max_size=3
    ),
    st.lists(json_values.filter(lambda value: value is not None), max_size=3),
)
def test_history_changes_no_other_field(fields: dict[str, Any], items: list[dict[str, Any]], own: list[Any]) -> None:
    earlier = [{**item, "type": "message"} for item in items]
    told = json.loads(
        state.with_history(encode(**{**fields, "input": own, "previous_response_id": "r"}), earlier, opened)
    )
    assert told == {**fields, "input": [*earlier, *own]}


# ---- compaction -----------------------------------------------------------------------------------------------------

LONG = encode(
    model="chat",
    instructions="Be kind.",
    input=[
        {"role": "user", "content": "What is the weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
        {"role": "assistant", "content": "Rain."},
        {"type": "message", "id": "msg_u", "role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
    ],
    prompt_cache_key="k",
)


def test_a_compaction_asks_for_a_summary_of_everything_said() -> None:
    request = state.read_compact(LONG)
    assert request.model == "chat"
    assert request.tools == ()
    assert request.hints == {"prompt_cache_key": "k"}
    assert [message.role for message in request.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "user",
    ]
    assert all(isinstance(part, Text) for message in request.messages for part in message.parts)
    told = " ".join(part.text for message in request.messages for part in message.parts if isinstance(part, Text))
    assert "weather with" in told
    assert "Oslo" in told
    assert "rain" in told
    assert "summary" in request.messages[-1].parts[0].text  # type: ignore[union-attr]


def test_a_compaction_needs_something_to_compact_and_has_its_own_fields() -> None:
    for raw, field in ((encode(model="m"), "input"), (encode(model="m", input="x", tools=[]), "tools")):
        with pytest.raises(Invalid) as error:
            state.read_compact(raw)
        assert error.value.field == field


def test_a_compaction_goes_round() -> None:
    summary = state.summary_of([Start("a", "m"), TextDelta("They asked "), TextDelta("for weather."), End()])
    reply = state.write_compaction(
        LONG, "sealed:" + summary, identifier="resp_7", item_id="cmp_7", created=AT, usage=Usage(90, 10, reasoning=2)
    )
    told = json.loads(reply)
    CompactedResponse.model_validate(told | {"output": told["output"][-1:]}, strict=True)
    assert (told["id"], told["object"], told["created_at"]) == ("resp_7", "response.compaction", AT)
    assert told["usage"]["total_tokens"] == 100
    assert [item["type"] for item in told["output"]] == ["message", "message", "compaction"]
    assert all(item["id"] for item in told["output"])
    request = dialect().read_request(encode(model="m", input=[*told["output"], USER]), opened)
    said = [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]
    assert said[:2] == ["What is the weather?", "Thanks"]
    assert said[2].endswith("They asked for weather.")
    assert said[3] == "Hi"
    assert dialect().glance("responses.compact", reply)[0] == Start("resp_7", "", AT)


# ---- the WebSocket mode -----------------------------------------------------------------------------------------------


def test_a_message_is_the_body_of_a_streamed_request() -> None:
    given = {"type": "response.create", "model": "m", "input": "x", "store": False, "stream": False}
    message = socket.read_message(json.dumps(given))
    assert (message.kind, message.stream_id) == ("create", None)
    assert json.loads(message.body) == {"model": "m", "input": "x", "store": False, "stream": True}
    assert dialect().peek("responses", message.body).stream


def test_a_message_may_warm_up_and_name_its_lane() -> None:
    given = {"type": "response.create", "model": "m", "generate": False, "stream_id": "a.b-1_2"}
    message = socket.read_message(json.dumps(given).encode())
    assert (message.kind, message.stream_id) == ("warmup", "a.b-1_2")
    assert json.loads(message.body) == {"model": "m", "stream": True}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", None),
        ("[]", None),
        ('{"model":"m"}', "type"),
        ('{"type":"response.cancel"}', "type"),
        ('{"type":"response.create","generate":"no"}', "generate"),
        ('{"type":"response.create","stream_id":"a b"}', "stream_id"),
        ('{"type":"response.create","stream_id":7}', "stream_id"),
        ('{"type":"response.create","background":true}', "background"),
    ],
)
def test_messages_that_are_refused(text: str, field: str | None) -> None:
    with pytest.raises(Invalid) as error:
        socket.read_message(text)
    assert error.value.field == field


def test_events_become_messages() -> None:
    writer = dialect().writer()
    stream = b": note\n\n" + writer.write(REPLY) + writer.end() + b"data: [DONE]\n\n"
    messages = socket.write_event(stream)
    kinds = [json.loads(message)["type"] for message in messages]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "stream_id" not in json.loads(messages[0])
    for plain, tagged in zip(messages, socket.write_event(stream, "lane"), strict=True):
        assert json.loads(tagged) == json.loads(plain) | {"stream_id": "lane"}
        STREAM_EVENT.validate_python(json.loads(plain))


def test_a_warm_up_is_a_whole_response_without_output() -> None:
    body = encode(model="m", instructions="S", tools=[{"type": "function", "name": "f", "parameters": {}}])
    stream, response = socket.warm_up(body, "m", "resp_w", FixedClock(AT), {"store": False})
    kinds = [json.loads(message)["type"] for message in socket.write_event(stream)]
    assert kinds == ["response.created", "response.in_progress", "response.completed"]
    assert (response["id"], response["output"], response["store"]) == ("resp_w", [], False)
    assert response["usage"]["total_tokens"] == 0
    assert response["tools"][0]["name"] == "f"


def test_an_error_is_told_in_both_shapes() -> None:
    error = Invalid("gone", field="previous_response_id", code="previous_response_not_found")
    told = json.loads(socket.socket_error(error, 400, "lane"))
    assert told["error"]["code"] == told["code"] == "previous_response_not_found"
    assert (told["status"], told["param"], told["stream_id"]) == (400, "previous_response_id", "lane")
    STREAM_EVENT.validate_python(json.loads(socket.socket_error(OverLimit("x", retry_after=1, rule="r"), 429)))
