"""Stored responses, compaction and the WebSocket mode, through the packaged server, with the official SDK."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
import websockets

from tests.provider import SSE, Asked, Behaviour, Provider, Wire, chat, chat_chunk, messages
from tests.running import KEY, Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = "ms-test-secret-of-another-team"
MODELS = ("chat", "claude", "gpt")
"""The model on each kind of upstream: OpenAI chat, Anthropic, Responses."""

_numbers = itertools.count(1)


def responses(text: str = "answer") -> Behaviour:
    """Answers as a Responses upstream does, with ids of its own."""

    async def behave(wire: Wire, asked: Asked) -> None:
        assert asked.target == "/v1/responses", asked.target
        number = next(_numbers)
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {
            "id": f"msg_up{number}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        whole: dict[str, Any] = {
            "id": f"resp_up{number}",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "g",
            "output": [item],
            "previous_response_id": None,
            "store": True,
            "usage": {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12},
            "a_field_of_tomorrow": {"kept": True},
        }
        if not asked.stream:
            return await wire.plain(200, json.dumps(whole).encode())
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
            {
                "type": "response.output_text.delta",
                "output_index": 0,
                "content_index": 0,
                "item_id": item["id"],
                "delta": text,
            },
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": whole},
        ]
        await wire.head(200, SSE)
        for sequence, event in enumerate(events):
            data = json.dumps({**event, "sequence_number": sequence})
            await wire.chunk(f"event: {event['type']}\ndata: {data}\n\n".encode())
        await wire.end()

    return behave


class Rig:
    """The server, an upstream of each kind, and clients of two teams."""

    def __init__(self, server: Server, upstreams: dict[str, Provider]) -> None:
        self.server, self.upstreams = server, upstreams
        self.client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        self.other = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=OTHER, max_retries=0)

    def said(self, model: str) -> list[tuple[str, str]]:
        """Role and text of everything that the upstream was last asked with."""
        body = self.upstreams[model].asked[-1].json
        assert "previous_response_id" not in body
        assert "conversation" not in body
        found: list[tuple[str, str]] = []
        for message in body["input"] if model == "gpt" else body["messages"]:
            content = message["content"]
            parts = [{"text": content}] if isinstance(content, str) else content
            found += [(message["role"], part["text"]) for part in parts]
        return found

    async def calls(self, test: str, count: int) -> list[dict[str, Any]]:
        """The calls with that value of the tag ``test``, once there are so many."""

        def look() -> list[dict[str, Any]]:
            return [call for call in self.server.calls() if (call.get("tags") or {}).get("test") == test]

        return await eventually(look, lambda found: len(found) >= count, 20)

    async def close(self) -> None:
        await self.client.close()
        await self.other.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with Provider(chat(["answer"])) as one, Provider(messages(["answer"])) as two, Provider(responses()) as three:
        places = {
            "one": f"openai@{one.url}/v1",
            "two": f"anthropic@{two.url}",
            "three": f"openai-responses@{three.url}/v1",
        }
        made = bundle(
            places, {"chat": {"target": "one/m"}, "claude": {"target": "two/c"}, "gpt": {"target": "three/g"}}
        )
        made["teams"].append({"name": "others"})
        made["keys"].append({"name": "others", "team": "others", "secret": OTHER, "admin": True})
        server = Server(made)
        await asyncio.to_thread(server.start)
        rig = Rig(server, {"chat": one, "claude": two, "gpt": three})
        try:
            yield rig
        finally:
            await rig.close()
            await asyncio.to_thread(server.stop)
            log = server.log.read_text()
            server.__exit__()
        assert "Traceback" not in log


async def last_of(stream: Any) -> Any:
    """The response in the last event of a stream."""
    events = [event async for event in stream]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.id == events[-1].response.id
    assert events[0].response.previous_response_id == events[-1].response.previous_response_id
    return events[-1].response


@pytest.mark.parametrize("model", MODELS)
async def test_turns_follow_each_other(rig: Rig, model: str) -> None:
    first = await rig.client.responses.create(model=model, input="one", instructions="only now")
    assert first.output_text == "answer"
    assert first.previous_response_id is None
    second = await rig.client.responses.create(model=model, input="two", previous_response_id=first.id)
    assert rig.said(model) == [("user", "one"), ("assistant", "answer"), ("user", "two")]
    assert second.previous_response_id == first.id
    third = await last_of(
        await rig.client.responses.create(model=model, input="three", previous_response_id=second.id, stream=True)
    )
    assert rig.said(model)[-3:] == [("user", "two"), ("assistant", "answer"), ("user", "three")]
    assert third.previous_response_id == second.id
    kept = await rig.client.responses.retrieve(third.id)
    assert kept.id == third.id
    assert kept.output_text == "answer"
    assert kept.previous_response_id == second.id
    assert len({first.id, second.id, third.id}) == 3
    # A fork goes on from where it left the others.
    await rig.client.responses.create(model=model, input="fork", previous_response_id=first.id)
    assert rig.said(model) == [("user", "one"), ("assistant", "answer"), ("user", "fork")]


async def test_a_conversation_moves_between_upstreams(rig: Rig) -> None:
    previous = None
    for number, model in enumerate(("gpt", "chat", "claude", "gpt")):
        previous = (
            await rig.client.responses.create(model=model, input=f"turn {number}", previous_response_id=previous)
        ).id
    assert [text for role, text in rig.said("gpt") if role == "user"] == [f"turn {n}" for n in range(4)]
    assert [text for role, text in rig.said("gpt") if role == "assistant"] == ["answer"] * 3


async def test_what_passes_through_is_stored_as_it_came(rig: Rig) -> None:
    made = await rig.client.responses.create(model="gpt", input="x")
    assert made.id.startswith("resp_up")
    kept = await rig.client.responses.retrieve(made.id)
    assert kept.to_dict()["a_field_of_tomorrow"] == {"kept": True}
    assert "store" not in rig.upstreams["gpt"].asked[-1].json


async def test_stored_for_us_is_not_stored_elsewhere(rig: Rig) -> None:
    reply = await rig.client.responses.with_raw_response.create(model="chat", input="x", store=True)
    assert "store" not in rig.upstreams["chat"].asked[-1].json
    assert "x-mainstay-dropped" not in reply.headers
    assert reply.parse().store is True


async def test_input_items_are_paged(rig: Rig) -> None:
    first = await rig.client.responses.create(model="chat", input="one")
    items = [{"role": "user", "content": f"item {n}"} for n in range(5)]
    second = await rig.client.responses.create(model="chat", input=items, previous_response_id=first.id)
    listed = rig.client.responses.input_items.list
    forward = [item async for item in listed(second.id, order="asc", limit=2)]
    assert [item.content[0].text for item in forward] == ["one", "answer", *(f"item {n}" for n in range(5))]
    backward = [item async for item in listed(second.id)]
    assert [item.id for item in backward] == [item.id for item in reversed(forward)]
    assert len({item.id for item in forward}) == 7
    page = await listed(second.id, order="asc", after=forward[2].id, limit=2)
    assert [item.id for item in page.data] == [forward[3].id, forward[4].id]
    assert page.has_more
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "sideways"}, {"after": "msg_unknown"}):
        with pytest.raises(openai.BadRequestError) as refused:
            await listed(second.id, extra_query=wrong)
        assert refused.value.param == next(iter(wrong))


async def test_deleted_responses_are_gone(rig: Rig) -> None:
    first = await rig.client.responses.create(model="chat", input="one")
    second = await rig.client.responses.create(model="chat", input="two", previous_response_id=first.id)
    async with rig.server.client() as http:
        gone = await http.delete(f"/v1/responses/{first.id}")
        assert gone.json() == {"id": first.id, "object": "response", "deleted": True}
        assert (await http.delete(f"/v1/responses/{first.id}")).status_code == 404
        assert (await http.put(f"/v1/responses/{first.id}")).status_code == 405
    for read in (rig.client.responses.retrieve, rig.client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            await read(first.id)
    assert (await rig.client.responses.retrieve(second.id)).id == second.id
    with pytest.raises(openai.NotFoundError) as refused:  # part of what it would go on from is gone
        await rig.client.responses.create(model="chat", input="three", previous_response_id=second.id)
    assert refused.value.param == "previous_response_id"


async def test_unstored_responses_cannot_be_used_later(rig: Rig) -> None:
    made = await rig.client.responses.create(model="chat", input="secret", store=False)
    assert made.store is False
    with pytest.raises(openai.NotFoundError):
        await rig.client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError) as refused:
        await rig.client.responses.create(model="chat", input="x", previous_response_id=made.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_another_teams_responses_do_not_exist(rig: Rig) -> None:
    made = await rig.client.responses.create(model="chat", input="secret of the tests")
    asked = len(rig.upstreams["chat"].asked)

    heard: list[list[str]] = []
    for unknown in ("resp_unknown", made.id):
        heard.append([])
        for call in (
            rig.other.responses.retrieve(unknown),
            rig.other.responses.delete(unknown),
            rig.other.responses.cancel(unknown),
            rig.other.responses.input_items.list(unknown),
            rig.other.responses.create(model="chat", input="x", previous_response_id=unknown),
            rig.other.responses.compact(model="chat", previous_response_id=unknown),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                await call
            heard[-1].append(json.dumps(refused.value.body).replace(unknown, "ID"))
    assert heard[0] == heard[1]
    with pytest.raises(openai.NotFoundError):  # a team in the query is nobody's
        await rig.other.responses.input_items.list(made.id, extra_query={"team": "tests"})
    assert len(rig.upstreams["chat"].asked) == asked
    assert (await rig.client.responses.retrieve(made.id)).id == made.id


async def test_what_gateways_ask_of_control_is_not_reachable_from_outside(rig: Rig) -> None:
    made = await rig.client.responses.create(model="chat", input="secret")
    query = f"?team=tests&id={made.id}"
    async with rig.server.client() as http:
        for path in ("/internal/v1/responses", "/api/../internal/v1/responses", "/api/%2e%2e/internal/v1/responses"):
            for below in ("", "/history", "/input_items"):
                request = http.build_request("GET", rig.server.url)
                request.url = request.url.copy_with(raw_path=f"{path}{below}{query}".encode())
                reply = await http.send(request)
                assert reply.status_code == 404, (path, reply.text)
                assert "secret" not in reply.text
        document = (await http.get("/api/openapi.json")).text
    assert "/internal" not in document
    # Even if the door passed it on: the socket to which it passes does not answer it.
    transport = httpx.AsyncHTTPTransport(uds=str(rig.server.home / "run" / "control.sock"))
    async with rig.server.client(transport=transport) as http:
        assert (await http.get(f"/internal/v1/responses{query}")).status_code == 404
    transport = httpx.AsyncHTTPTransport(uds=str(rig.server.home / "run" / "admin.sock"))
    async with rig.server.client(transport=transport) as http:
        assert (await http.get(f"/internal/v1/responses{query}")).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("conversation", "conv_1"), ("conversation", {"id": "conv_1"}), ("background", True), ("previous_response_id", 7)],
)
@pytest.mark.parametrize("model", MODELS)
async def test_what_cannot_be_kept_is_refused_by_name(rig: Rig, model: str, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await rig.client.responses.create(model=model, input="x", extra_body={field: value})
    assert refused.value.param == field


async def test_only_background_responses_can_be_cancelled(rig: Rig) -> None:
    made = await rig.client.responses.create(model="chat", input="x")
    with pytest.raises(openai.BadRequestError, match="background"):
        await rig.client.responses.cancel(made.id)


async def test_a_key_is_needed(rig: Rig) -> None:
    stranger = openai.AsyncOpenAI(base_url=rig.server.url + "/v1", api_key="ms-nobody", max_retries=0)
    for call in (
        stranger.responses.retrieve("resp_1"),
        stranger.responses.delete("resp_1"),
        stranger.responses.cancel("resp_1"),
        stranger.responses.input_items.list("resp_1"),
    ):
        with pytest.raises(openai.AuthenticationError):
            await call
    await stranger.close()


async def compact(rig: Rig, **body: Any) -> Any:
    """The compaction as it came: of the messages of a user in it the SDK's types know nothing."""
    reply = await rig.client.responses.with_raw_response.compact(**body)
    assert reply.parse().output[-1].type == "compaction"
    return json.loads(reply.content)


@pytest.mark.parametrize("model", MODELS)
async def test_a_conversation_is_compacted_and_goes_on(rig: Rig, model: str) -> None:
    first = await rig.client.responses.create(model=model, input="one")
    compacted = await compact(rig, model=model, input="and two", previous_response_id=first.id)
    asked = rig.said(model)
    assert [text for _, text in asked[:3]] == ["one", "answer", "and two"]
    assert "summary" in asked[-1][1]
    assert compacted["object"] == "response.compaction"
    assert compacted["usage"]["input_tokens"] == 10
    items = compacted["output"]
    assert [item["type"] for item in items] == ["message", "message", "compaction"]
    assert "answer" not in json.dumps(items)
    for later in MODELS:
        await rig.client.responses.create(model=later, input=[*items, {"role": "user", "content": "three"}])
        told = [text for _, text in rig.said(later)]
        assert told[:2] == ["one", "and two"]
        assert told[2].endswith("answer")
        assert told[3] == "three"
    again = await compact(rig, model=model, input=items)
    assert [item["type"] for item in again["output"]] == ["message", "message", "compaction"]
    item = items[-1]
    for client, wrong in (
        (rig.other, item),
        (rig.client, {**item, "encrypted_content": item["encrypted_content"][:-8] + "AAAAAAAA"}),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=model, input=[wrong, {"role": "user", "content": "x"}])
        assert refused.value.code == "invalid_encrypted_content"
        with pytest.raises(openai.BadRequestError):
            await client.responses.compact(model=model, input=[wrong])


# ---------------------------------------------------------------- control away


async def test_while_control_is_away_nothing_is_lost(rig: Rig) -> None:
    (control,) = rig.server.children("control")
    before = await rig.client.responses.create(model="chat", input="before")
    os.kill(control.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):  # storing waits for nobody
            made = await rig.client.responses.create(model="chat", input="meanwhile")
    finally:
        os.kill(control.pid, signal.SIGKILL)
    kept = await _retrieved(rig, made.id)
    assert kept.output_text == "answer"
    assert (await rig.client.responses.retrieve(before.id)).id == before.id
    after = await rig.client.responses.create(model="chat", input="after", previous_response_id=made.id)
    assert after.previous_response_id == made.id
    assert rig.said("chat") == [("user", "meanwhile"), ("assistant", "answer"), ("user", "after")]


async def _retrieved(rig: Rig, identifier: str) -> Any:
    while True:
        try:
            return await rig.client.responses.retrieve(identifier)
        except openai.InternalServerError:
            await asyncio.sleep(0.05)


async def test_what_needs_control_says_so(rig: Rig) -> None:
    made = await rig.client.responses.create(model="chat", input="x")
    socket, hidden = rig.server.home / "run" / "admin.sock", rig.server.home / "run" / "away"
    socket.rename(hidden)
    try:
        for call in (
            rig.client.responses.create(model="chat", input="y", previous_response_id=made.id),
            rig.client.responses.retrieve(made.id),
        ):
            with pytest.raises(openai.InternalServerError) as refused:
                await call
            assert refused.value.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) >= 1
        assert (await rig.client.responses.create(model="chat", input="z")).output_text == "answer"
    finally:
        hidden.rename(socket)
    assert (await rig.client.responses.retrieve(made.id)).id == made.id


# ---------------------------------------------------------------- the WebSocket mode


async def told(connection: Any) -> Any:
    """The last event of the next turn."""
    async with asyncio.timeout(20):
        while True:
            event = await connection.recv()
            if event.type in ("response.completed", "error", "response.failed"):
                return event


@pytest.mark.parametrize("model", MODELS)
async def test_turns_on_a_socket(rig: Rig, model: str) -> None:
    async with rig.client.responses.connect() as connection:
        await connection.response.create(model=model, input="one", store=False)
        first = (await told(connection)).response
        assert first.output_text == "answer"
        await connection.response.create(model=model, input="two", store=False, previous_response_id=first.id)
        second = (await told(connection)).response
        assert rig.said(model) == [("user", "one"), ("assistant", "answer"), ("user", "two")]
        assert second.previous_response_id == first.id
        await connection.response.create(model=model, input="three", previous_response_id=second.id)
        third = (await told(connection)).response
    # What was not stored is part of the first that was.
    kept = [item async for item in rig.client.responses.input_items.list(third.id, order="asc")]
    assert [item.content[0].text for item in kept] == ["one", "answer", "two", "answer", "three"]
    await rig.client.responses.create(model="chat", input="four", previous_response_id=third.id)
    assert [text for role, text in rig.said("chat") if role == "user"] == ["one", "two", "three", "four"]
    with pytest.raises(openai.NotFoundError):
        await rig.client.responses.retrieve(second.id)


async def test_a_socket_goes_on_from_what_is_stored(rig: Rig) -> None:
    first = await rig.client.responses.create(model="chat", input="one")
    async with rig.client.responses.connect() as connection:
        await connection.response.create(model="claude", input="two", previous_response_id=first.id)
        second = (await told(connection)).response
        assert rig.said("claude") == [("user", "one"), ("assistant", "answer"), ("user", "two")]
        await connection.response.create(model="chat", input="x", previous_response_id="resp_unknown")
        error = await told(connection)
        assert (error.type, error.code, error.param) == (
            "error",
            "previous_response_not_found",
            "previous_response_id",
        )
        await connection.response.create(model="chat", input="three", previous_response_id=second.id)
        assert (await told(connection)).type == "response.completed"  # the connection goes on


async def test_a_warm_up_asks_nobody(rig: Rig) -> None:
    asked = len(rig.upstreams["chat"].asked)
    async with rig.client.responses.connect() as connection:
        await connection.send_raw(
            json.dumps(
                {"type": "response.create", "model": "chat", "input": "context", "generate": False, "store": False}
            )
        )
        warm = (await told(connection)).response
        assert warm.output == []
        assert len(rig.upstreams["chat"].asked) == asked
        await connection.response.create(model="chat", input="go", previous_response_id=warm.id)
        assert (await told(connection)).response.output_text == "answer"
    assert rig.said("chat") == [("user", "context"), ("user", "go")]


async def test_every_turn_is_one_call(rig: Rig) -> None:
    async with rig.client.responses.connect(extra_headers={"x-mainstay-tags": "test=once"}) as connection:
        for text in ("one", "two"):
            await connection.response.create(model="chat", input=text)
            assert (await told(connection)).type == "response.completed"
        await connection.response.create(model="unknown", input="x")
        assert (await told(connection)).code == "model_not_found"
        await connection.send_raw("no JSON")
        assert (await told(connection)).code == "invalid_json"
        await connection.send_raw('{"type":"response.create","generate":false,"model":"chat","input":"x"}')
        assert (await told(connection)).type == "response.completed"

    calls = await rig.calls("once", 5)
    outcomes = sorted((call["outcome"], call["status"]) for call in calls)
    assert outcomes == [("ok", 200), ("ok", 200), ("ok", 200), ("refused", 400), ("refused", 404)]
    assert all(call["operation"] == "responses" for call in calls)


async def test_a_client_that_leaves_its_socket_cancels_the_upstream(rig: Rig) -> None:
    upstream = rig.upstreams["chat"]

    async def slow(wire: Wire, asked: Asked) -> None:
        await wire.head(200, SSE)
        await wire.chunk(chat_chunk({"role": "assistant", "content": "a"}))
        await asyncio.sleep(3600)

    for abrupt in (False, True):
        upstream.script.append(slow)
        headers = {"authorization": f"Bearer {KEY}", "x-mainstay-tags": f"test=left{abrupt}"}
        address = rig.server.url.replace("http", "ws") + "/v1/responses"
        async with websockets.connect(address, additional_headers=headers) as socket:
            await socket.send(json.dumps({"type": "response.create", "model": "chat", "input": "x"}))
            while json.loads(await socket.recv())["type"] != "response.output_text.delta":
                pass
            if abrupt:
                socket.transport.abort()
        async with asyncio.timeout(10):
            await upstream.asked[-1].disconnected.wait()

        (call,) = await rig.calls(f"left{abrupt}", 1)
        assert call["outcome"] == "cancelled"


async def test_a_socket_needs_a_key(rig: Rig) -> None:
    address = rig.server.url.replace("http", "ws") + "/v1/responses"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(address, additional_headers={"authorization": "Bearer ms-nobody"}):
            pass
    assert refused.value.response.status_code == 401
    async with websockets.connect(address, additional_headers={"authorization": f"Bearer {KEY}"}) as socket:
        assert not socket.protocol.extensions
