"""The stage that puts earlier turns back in, and what a turn leaves for the next one."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from mainstay.access.compactions import Compactions
from mainstay.core.call import Principal
from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, NotFound, TooLarge, Unavailable, Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Finish, Frame, Start, TextDelta, UsageSeen
from mainstay.core.ids import Ids
from mainstay.core.usage import NOTHING, Usage
from mainstay.gateway.history import History, WarmUp
from mainstay.gateway.routed import Routed
from mainstay.gateway.turn import Compacting, Past, Recent, Room, Turn
from mainstay.ledger.response_spool import ResponseSpool, StoredResponse, decode
from mainstay.upstream.ask import Ask, Phases
from mainstay.wire.openai_responses import OpenAIResponses

CLOCK = FixedClock()
WIRE = OpenAIResponses(CLOCK)
ANSWER: tuple[Event, ...] = (
    Start("chatcmpl-1", "m"),
    TextDelta("the "),
    TextDelta("answer"),
    Finish("stop"),
    UsageSeen(Usage(3, 2)),
    End(),
)


def message(role: str, text: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


def spooled(path: Path) -> list[StoredResponse]:
    """The responses in a file of the spool."""
    data, found = path.read_bytes(), list[StoredResponse]()
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        found.append(decode(data[4:end]))
        data = data[end:]
    return found


class Gateway:
    """The stage with a store that has what a test puts there."""

    def __init__(self, folder: Path, limit: int = 1_000_000) -> None:
        self.folder = folder
        self.spool = ResponseSpool(folder, "gw_1")
        self.stored: dict[tuple[str, str], Past] = {}
        self.compactions = Compactions(b"k" * 32)
        self.ids = Ids(CLOCK)
        self.stage = History(self._load, self.spool, self.compactions, self.ids, CLOCK, limit)
        self.asked: list[str] = []
        self.away = False

    async def _load(self, team: str, identifier: str) -> Past:
        self.asked.append(identifier)
        if self.away:
            raise Unavailable("control is away", retry_after=2.0)
        if (team, identifier) not in self.stored:
            raise NotFound("there is no such response", code="response_not_found")
        return self.stored[team, identifier]

    async def call(self, body: dict[str, Any], operation: str = "responses", **more: Any) -> Routed:
        data = json.dumps({"model": "m", **body}).encode()
        call = Routed(self.ids.make("call_"), CLOCK.now(), 0.0, operation, "openai-responses", {}, data)
        call.principal = Principal("key", "key_1", more.pop("team", "a"))
        for name, value in more.items():
            setattr(call, name, value)
        call.peek = WIRE.peek(operation, data)
        call.stream = call.peek.stream
        call.ask = Ask(operation, WIRE, data, call.peek, Phases(), 1e9, {"traceparent": "t"}, "5m")
        entered = self.stage.enter(call)
        if entered is not None:
            await cast(Awaitable[None], entered)
        return call

    def kept(self) -> list[StoredResponse]:
        return [stored for path in sorted(self.folder.iterdir()) for stored in spooled(path)]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "responses")


def texts(call: Routed) -> list[str]:
    """What an upstream of another format would be asked."""
    return [part.text for message in call.ask.request().messages for part in message.parts]  # type: ignore[union-attr]


# ---------------------------------------------------------------- before the answer


async def test_other_formats_are_left_alone(gateway: Gateway) -> None:
    call = Routed("call_1", 0.0, 0.0, "chat", "openai", {}, b"not looked at")
    assert gateway.stage.enter(call) is None
    assert call.turn is None


async def test_a_first_turn_keeps_its_bytes(gateway: Gateway) -> None:
    call = await gateway.call({"input": "one", "store": True, "a_field_of_tomorrow": 1})
    assert call.body == call.ask.body == b'{"model": "m", "input": "one", "store": true, "a_field_of_tomorrow": 1}'
    assert not gateway.asked
    call = await gateway.call({"input": "one", "store": True})
    assert "store" not in call.ask.request().hints  # it is stored here


async def test_earlier_turns_are_put_before_it(gateway: Gateway) -> None:
    items = (
        message("user", "one", id="msg_1", status="completed"),
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "sealed"},
        message("assistant", "two", id="msg_2", status="completed"),
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
    )
    gateway.stored["a", "resp_1"] = Past(items, "call_0", "call_0")
    output = {"type": "function_call_output", "call_id": "c1", "output": "three"}
    call = await gateway.call({"input": [output], "previous_response_id": "resp_1", "temperature": 0.25})
    told = json.loads(call.body)
    assert told["temperature"] == 0.25
    assert "previous_response_id" not in told
    assert told["input"] == [
        message("user", "one"),
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "sealed"},
        message("assistant", "two"),
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        output,
    ]
    assert call.ask.body == call.body
    assert call.ask.peek is call.peek
    assert call.body[slice(*call.peek.model_at)] == b'"m"'
    assert call.peek.unbounded == ()  # its size is that of the body now
    assert (call.ask.operation, call.ask.headers, call.ask.prompt_cache) == ("responses", {"traceparent": "t"}, "5m")


async def test_another_teams_responses_are_not_found(gateway: Gateway) -> None:
    gateway.stored["a", "resp_1"] = Past((message("user", "secret"),), "k", "k")
    for team, identifier in (("b", "resp_1"), ("a", "resp_2"), ("a", "")):
        with pytest.raises(NotFound) as refused:
            await gateway.call({"input": "x", "previous_response_id": identifier}, team=team)
        assert (refused.value.code, refused.value.field) == ("previous_response_not_found", "previous_response_id")


async def test_control_is_waited_for_only_where_it_is_needed(gateway: Gateway) -> None:
    gateway.away = True
    await gateway.call({"input": "x"})
    await gateway.call({"input": "x", "previous_response_id": None})
    with pytest.raises(Unavailable):
        await gateway.call({"input": "x", "previous_response_id": "resp_1"})


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("conversation", "conv_1", Unsupported),
        ("conversation", {"id": "c"}, Unsupported),
        ("background", True, Unsupported),
        ("store", "yes", Invalid),
        ("previous_response_id", 1, Invalid),
    ],
)
async def test_what_is_refused_is_named(gateway: Gateway, field: str, value: Any, kind: type[Invalid]) -> None:
    with pytest.raises(kind) as refused:
        await gateway.call({"input": "x", field: value})
    assert refused.value.field == field


async def test_a_conversation_that_grew_too_long_is_refused(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "responses", limit=2000)
    gateway.stored["a", "resp_1"] = Past((message("user", "x" * 2000),), "k", "k")
    with pytest.raises(TooLarge):
        await gateway.call({"input": "x", "previous_response_id": "resp_1"})


# ---------------------------------------------------------------- after it


async def test_a_translated_reply_is_ours(gateway: Gateway) -> None:
    gateway.stored["a", "resp_1"] = Past((message("user", "one"),), "call_0", "call_root")
    call = await gateway.call({"input": "two", "previous_response_id": "resp_1", "metadata": {"k": "v"}}, user="ada")
    assert isinstance(call.turn, Turn)
    reply = json.loads(call.turn.reply(call, ANSWER))
    assert reply["id"].startswith("resp_")
    assert reply["id"] != "resp_chatcmpl-1"
    assert (reply["previous_response_id"], reply["store"], reply["metadata"]) == ("resp_1", True, {"k": "v"})
    assert not gateway.kept()
    call.turn.keep(call)
    (kept,) = gateway.kept()
    assert json.loads(kept.response) == reply
    assert (kept.key, kept.team, kept.id, kept.user) == (call.id, "a", reply["id"], "ada")
    assert (kept.previous, kept.root, kept.input, kept.earlier) == ("call_0", "call_root", b'"two"', b"")


async def test_two_replies_of_an_upstream_that_repeats_its_ids(gateway: Gateway) -> None:
    made = [await gateway.call({"input": "x"}) for _ in range(2)]
    replies = [json.loads(cast(Turn, call.turn).reply(call, ANSWER))["id"] for call in made]
    assert replies[0] != replies[1]


async def test_a_translated_stream(gateway: Gateway) -> None:
    call = await gateway.call({"input": "x", "stream": True})
    writer = cast(Turn, call.turn).writer()
    said = writer.write(ANSWER) + writer.end()
    cast(Turn, call.turn).keep(call)
    (kept,) = gateway.kept()
    assert said.count(kept.id.encode()) >= 3
    assert json.loads(kept.response)["output"][0]["content"][0]["text"] == "the answer"


async def test_what_is_not_to_be_stored_is_not(gateway: Gateway) -> None:
    call = await gateway.call({"input": "x", "store": False})
    cast(Turn, call.turn).reply(call, ANSWER)
    cast(Turn, call.turn).keep(call)
    assert not gateway.kept()


RAW = b'{"id": "resp_up", "previous_response_id": null, "output": [], "tomorrow":1.50}'


async def test_a_plain_reply_passes_through(gateway: Gateway) -> None:
    call = await gateway.call({"input": "x"})
    assert cast(Turn, call.turn).whole(RAW) == RAW
    cast(Turn, call.turn).keep(call)
    assert gateway.kept()[0].response == RAW
    assert gateway.kept()[0].id == "resp_up"


async def test_a_plain_reply_names_what_it_continues(gateway: Gateway) -> None:
    gateway.stored["a", 'resp_"1\\'] = Past((message("user", "one"),), "k", "k")
    call = await gateway.call({"input": "x", "previous_response_id": 'resp_"1\\'})
    passed = cast(Turn, call.turn).whole(RAW)
    assert json.loads(passed) == {**json.loads(RAW), "previous_response_id": 'resp_"1\\'}
    assert b'"tomorrow":1.50' in passed


async def test_a_stream_passes_through(gateway: Gateway) -> None:
    gateway.stored["a", "resp_1"] = Past((message("user", "one"),), "k", "k")
    text = json.dumps('"previous_response_id": null')
    frames = [
        Frame(b'event: response.created\ndata: {"type":"response.created","response":%b}\n\n' % RAW, (Start("", ""),)),
        Frame(b'data: {"type":"response.output_text.delta","delta":%b}\n\n' % text.encode(), (TextDelta("x"),)),
        Frame(b'data: {"type":"response.completed","response":%b}\n\n' % RAW, (Finish("stop"), End())),
    ]
    first = await gateway.call({"input": "x", "stream": True})
    assert cast(Turn, first.turn).passed(frames) == frames
    later = await gateway.call({"input": "x", "stream": True, "previous_response_id": "resp_1"})
    passed = cast(Turn, later.turn).passed(frames)
    assert frames[0].raw is not None
    assert b"null" in frames[0].raw  # what others hold of them is not touched
    assert [frame.events for frame in passed] == [frame.events for frame in frames]
    assert passed[1] == frames[1]
    for frame in (passed[0], passed[2]):
        assert frame.raw is not None
        assert b'"previous_response_id":"resp_1"' in frame.raw
    for call in (first, later):
        cast(Turn, call.turn).keep(call)
    assert [json.loads(kept.response)["previous_response_id"] for kept in gateway.kept()] == [None, "resp_1"]


async def test_a_reply_without_an_id_is_passed_on_and_not_stored(gateway: Gateway) -> None:
    for body in (b"{}", b'{"id": 7}', b"[1]", b"not JSON"):
        call = await gateway.call({"input": "x"})
        assert cast(Turn, call.turn).whole(body) == body
        cast(Turn, call.turn).keep(call)
    assert not gateway.kept()


async def test_what_has_no_bytes_is_not_stored_and_counted(gateway: Gateway) -> None:
    call = await gateway.call({"input": "x"}, user="ada\ud800")
    cast(Turn, call.turn).whole(b'data: {"type":"response.completed","response":{"id":"r","x":"\\ud800"}}\n\n')
    cast(Turn, call.turn).keep(call)
    call = await gateway.call({"input": "x"}, user="ada\ud800")
    cast(Turn, call.turn).whole(RAW)
    cast(Turn, call.turn).keep(call)
    assert [kept.user for kept in gateway.kept()] == ["ada?"]


# ---------------------------------------------------------------- on one connection


async def test_a_connection_remembers_what_is_not_stored(gateway: Gateway) -> None:
    recent = Recent(Room())
    gateway.away = True
    previous: str | None = None
    for number, store in enumerate((False, True, False, True)):
        call = await gateway.call(
            {"input": f"{number}", "store": store, "previous_response_id": previous}, recent=recent
        )
        turn = cast(Turn, call.turn)
        previous = json.loads(turn.reply(call, ANSWER))["id"]
        turn.keep(call)
        assert texts(call) == [text for n in range(number) for text in (f"{n}", "the answer")] + [f"{number}"]
    one, two = gateway.kept()
    assert (one.previous, one.root) == (None, one.key)
    assert (two.previous, two.root) == (one.key, one.key)

    def said(data: bytes) -> list[str]:
        return [item["content"][0]["text"] for item in json.loads(data)]

    assert said(one.earlier) == ["0", "the answer"]
    assert said(two.earlier) == ["2", "the answer"]
    assert not gateway.asked


async def test_what_could_not_be_stored_is_carried_on(gateway: Gateway) -> None:
    recent = Recent(Room())
    gateway.folder.rmdir()
    call = await gateway.call({"input": "lost"}, recent=recent)
    first = json.loads(cast(Turn, call.turn).reply(call, ANSWER))["id"]
    cast(Turn, call.turn).keep(call)
    assert gateway.spool.dropped == 1
    gateway.folder.mkdir()
    call = await gateway.call({"input": "kept", "previous_response_id": first}, recent=recent)
    cast(Turn, call.turn).reply(call, ANSWER)
    cast(Turn, call.turn).keep(call)
    (kept,) = gateway.kept()
    assert b"lost" in kept.earlier
    assert kept.previous is None


def test_what_connections_remember_is_bounded() -> None:
    room = Room(1000)
    one, two = Recent(room, count=3), Recent(room, count=3)
    for number in range(5):
        one.put(f"r{number}", Past(size=100))
    assert [one.find(f"r{number}") is not None for number in range(5)] == [False, False, True, True, True]
    one.put("r4", Past(size=200))
    assert room.used == 400
    two.put("large", Past(size=700))
    assert two.find("large") is None  # there is no room, and what is another's is not dropped for it
    assert room.used == 400
    one.clear()
    two.put("large", Past(size=700))
    assert room.used == 700
    two.clear()
    assert room.used == 0


async def test_a_warm_up_is_answered_with_nothing(gateway: Gateway) -> None:
    call = await gateway.call({"input": "context", "stream": True}, warm_up=True)
    reply = WarmUp().enter(call)
    assert reply is not None
    frames = [frame async for batch in reply.frames for frame in batch]
    assert [type(event) for event in frames[0].events] == [Start, Finish, UsageSeen, End]
    assert WarmUp().enter(await gateway.call({"input": "x"})) is None


# ---------------------------------------------------------------- compaction


async def test_a_compaction(gateway: Gateway) -> None:
    gateway.stored["a", "resp_1"] = Past((message("user", "one"), message("assistant", "two")), "k", "k")
    call = await gateway.call({"input": "three", "previous_response_id": "resp_1"}, "responses.compact")
    assert texts(call)[:3] == ["one", "two", "three"]
    assert call.ask.dialect.name != WIRE.name  # or a target of the format would be sent the body itself
    call.usage = Usage(3, 2)
    made = json.loads(cast(Compacting, call.turn).reply(call, ANSWER))
    assert [item.get("role", item["type"]) for item in made["output"]] == ["user", "user", "compaction"]
    assert made["usage"]["total_tokens"] == 5
    cast(Compacting, call.turn).keep(call)
    assert not gateway.kept()
    later = await gateway.call({"input": [*made["output"], message("user", "four")]})
    assert texts(later)[:2] == ["one", "three"]
    assert texts(later)[2].endswith("the answer")
    assert b"compaction" not in later.body
    again = await gateway.call({"input": made["output"]}, "responses.compact")
    assert texts(again)[2].endswith("the answer")
    twice = json.loads(cast(Compacting, again.turn).reply(again, ANSWER))
    assert [item.get("role", item["type"]) for item in twice["output"]] == ["user", "user", "compaction"]
    for operation in ("responses", "responses.compact"):
        with pytest.raises(Invalid) as refused:
            await gateway.call({"input": made["output"]}, operation, team="b")
        assert refused.value.code == "invalid_encrypted_content"


async def test_a_compaction_of_another_provider_is_left_as_it_is(gateway: Gateway) -> None:
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAABo"}
    call = await gateway.call({"input": [item, message("user", "x")]})
    assert json.loads(call.body)["input"][0] == item


@pytest.mark.parametrize(
    "events",
    [
        (Start("", ""), Finish("stop"), End()),
        (Start("", ""), TextDelta("half a su"), Finish("length"), End()),
        (Start("", ""), TextDelta("no"), Finish("refusal"), End()),
    ],
)
async def test_half_a_summary_is_none(gateway: Gateway, events: tuple[Event, ...]) -> None:
    call = await gateway.call({"input": "x"}, "responses.compact")
    call.usage = NOTHING
    with pytest.raises(UpstreamFailed):
        cast(Compacting, call.turn).reply(call, events)


@pytest.mark.parametrize("body", [{}, {"input": []}, {"input": "x", "temperature": 1}])
async def test_what_cannot_be_compacted_is_refused_before_anybody_is_asked(gateway: Gateway, body: Any) -> None:
    with pytest.raises(Invalid):
        await gateway.call(body, "responses.compact")


def test_what_is_kept_is_small() -> None:
    assert len(msgspec.msgpack.encode(StoredResponse("k", "t", "i", 1.0, "k", b"{}"))) < 100


# ---------------------------------------------------------------- references


async def test_references_to_items_of_ours_are_resolved(gateway: Gateway) -> None:
    first = await gateway.call({"input": "one"})
    reply = json.loads(cast(Turn, first.turn).reply(first, ANSWER))
    gateway.stored["a", reply["id"]] = Past((message("user", "one"), *reply["output"]), first.id, first.id)
    (item,) = reply["output"]
    given = [message("user", "one"), {"type": "item_reference", "id": item["id"]}, message("user", "two")]
    call = await gateway.call({"input": given, "temperature": 0.50})
    assert texts(call) == ["one", "the answer", "two"]
    assert call.peek.unbounded == ()
    cast(Turn, call.turn).reply(call, ANSWER)
    cast(Turn, call.turn).keep(call)
    (kept,) = gateway.kept()
    assert b"item_reference" not in kept.input  # what it refers to may be gone by then
    for team, identifier in (("b", item["id"]), ("a", f"{item['id']}9"), ("a", "msg_" + "0" * 26 + "_0")):
        with pytest.raises(NotFound) as refused:
            await gateway.call({"input": [{"type": "item_reference", "id": identifier}]}, team=team)
        assert refused.value.field == "input"


async def test_references_to_items_of_others_are_theirs(gateway: Gateway) -> None:
    given = [{"type": "item_reference", "id": "msg_0123"}, message("user", '"item_reference"')]
    call = await gateway.call({"input": given})
    assert json.loads(call.body)["input"] == given
    assert not gateway.asked
