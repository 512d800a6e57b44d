"""The official Anthropic SDK, as its users use it, on every kind of upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from tests.e2e.conftest import STATUSES, House
from tests.e2e.scenes import ANSWER, CACHED, INPUT, OUTPUT, PARIS, ROME, SCENES, SIGNATURE, THOUGHT
from tests.provider import silent
from tests.running import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
}


class Fair(BaseModel):
    """What structured answers are parsed into."""

    name: str
    participants: list[str]


def user(scene: str) -> list[MessageParam]:
    return [{"role": "user", "content": f"Please play {scene}."}]


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=house.server.url, api_key=KEY, max_retries=0) as made:
        yield made


def _usage_is_right(usage: Any) -> None:
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (INPUT - CACHED, CACHED)
    assert usage.output_tokens == OUTPUT


async def test_plain(client: anthropic.AsyncAnthropic, wire: str) -> None:
    message = await client.messages.create(
        model=wire,
        max_tokens=100,
        system="You are terse.",
        messages=user("scene-plain"),
        metadata={"user_id": "u-1"},
    )
    [block] = message.content
    assert block.type == "text"
    assert block.text == SCENES["scene-plain"].text
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.id
    assert message.model
    _usage_is_right(message.usage)


async def test_the_synchronous_client(house: House, wire: str) -> None:
    def ask() -> tuple[str, str]:
        with anthropic.Anthropic(base_url=house.server.url, api_key=KEY, max_retries=0) as client:
            message = client.messages.create(model=wire, max_tokens=50, messages=user("scene-plain"))
            with client.messages.stream(model=wire, max_tokens=50, messages=user("scene-plain")) as stream:
                streamed = "".join(stream.text_stream)
            [block] = message.content
            assert block.type == "text"
            return block.text, streamed

    assert await asyncio.to_thread(ask) == (SCENES["scene-plain"].text, SCENES["scene-plain"].text)


async def test_stream(client: anthropic.AsyncAnthropic, wire: str) -> None:
    """The events, one by one, in the order that the format promises."""
    stream = await client.messages.create(
        model=wire, max_tokens=100, messages=user("scene-tool"), tools=[TOOL], stream=True
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_delta") == kinds.count("message_stop") == 1
    open_at: int | None = None
    blocks: list[str] = []
    for event in events:
        if event.type == "content_block_start":
            assert open_at is None
            assert event.index == len(blocks)
            open_at = event.index
            blocks.append(event.content_block.type)
        elif event.type == "content_block_delta":
            assert event.index == open_at
        elif event.type == "content_block_stop":
            assert event.index == open_at
            open_at = None
    assert open_at is None
    if wire == "gemini":  # which signs its calls; the signature travels as a thought without words
        blocks.remove("thinking")
    assert blocks == ["text", "tool_use"]


async def test_the_streaming_helper(client: anthropic.AsyncAnthropic, wire: str) -> None:
    async with client.messages.stream(model=wire, max_tokens=100, messages=user("scene-plain")) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == SCENES["scene-plain"].text
    assert message.stop_reason == "end_turn"
    _usage_is_right(message.usage)
    assert stream.request_id


async def test_a_cut_answer(client: anthropic.AsyncAnthropic, wire: str) -> None:
    message = await client.messages.create(model=wire, max_tokens=4, messages=user("scene-cut"))
    assert message.stop_reason == "max_tokens"
    async with client.messages.stream(model=wire, max_tokens=4, messages=user("scene-cut")) as stream:
        assert (await stream.get_final_message()).stop_reason == "max_tokens"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("scene", ["scene-tool", "scene-parallel"])
@pytest.mark.parametrize("thinker", [False, True])
async def test_tools_and_what_comes_of_them(
    client: anthropic.AsyncAnthropic, wire: str, scene: str, thinker: bool, streamed: bool
) -> None:
    asked: dict[str, Any] = {"model": f"{wire}-thinker" if thinker else wire, "max_tokens": 400, "tools": [TOOL]}
    messages = user(scene)
    if streamed:
        async with client.messages.stream(messages=messages, **asked) as stream:
            message = await stream.get_final_message()
    else:
        message = await client.messages.create(messages=messages, **asked)
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    wanted = [PARIS] if scene == "scene-tool" else [PARIS, ROME]
    assert [(call.name, call.input) for call in calls] == wanted
    assert len({call.id for call in calls}) == len(calls)
    results: list[Any] = [{"type": "tool_result", "tool_use_id": calls[0].id, "content": "17 degrees"}]
    for call in calls[1:]:
        content = [{"type": "text", "text": "the station does not answer"}]
        results.append({"type": "tool_result", "tool_use_id": call.id, "content": content, "is_error": True})
    messages = [*messages, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    after = await client.messages.create(messages=messages, **asked)
    [block] = after.content
    assert block.type == "text"
    assert block.text == "It is 17 degrees."


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "auto"}])
async def test_tool_choice(client: anthropic.AsyncAnthropic, wire: str, choice: Any) -> None:
    message = await client.messages.create(
        model=wire, max_tokens=100, messages=user("scene-parallel"), tools=[TOOL], tool_choice=choice
    )
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("streamed", [False, True])
async def test_thinking(client: anthropic.AsyncAnthropic, wire: str, streamed: bool) -> None:
    asked: dict[str, Any] = {
        "model": f"{wire}-thinker",
        "max_tokens": 9000,
        "messages": user("scene-think"),
        "thinking": {"type": "enabled", "budget_tokens": 4000},
    }
    if streamed:
        async with client.messages.stream(**asked) as stream:
            message = await stream.get_final_message()
    else:
        message = await client.messages.create(**asked)
    thought, said = message.content
    assert thought.type == "thinking"
    assert thought.thinking == THOUGHT
    if wire in ("anthropic", "bedrock"):
        assert thought.signature == SIGNATURE
    assert said.type == "text"
    assert said.text == "It is 42."


@pytest.mark.parametrize("streamed", [False, True])
async def test_thoughts_go_back_with_the_tools_result(
    client: anthropic.AsyncAnthropic, wire: str, streamed: bool
) -> None:
    """What the provider signed or encrypted comes back to it untouched; it would refuse anything else."""
    asked: dict[str, Any] = {
        "model": f"{wire}-thinker",
        "max_tokens": 9000,
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 4000},
    }
    messages = user("scene-think-tool")
    if streamed:
        async with client.messages.stream(messages=messages, **asked) as stream:
            message = await stream.get_final_message()
    else:
        message = await client.messages.create(messages=messages, **asked)
    [call] = [block for block in message.content if block.type == "tool_use"]
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    after = await client.messages.create(
        messages=[
            *messages,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ],
        **asked,
    )
    assert [block.text for block in after.content if block.type == "text"] == ["It is 17 degrees."]


@pytest.mark.parametrize("before", ["gemini", "openai-responses", "bedrock", "openai"])
async def test_a_conversation_moves_to_another_provider(
    client: anthropic.AsyncAnthropic, house: House, wire: str, before: str
) -> None:
    """What one provider signed means nothing to another: it is left out, and the conversation goes on."""
    if before == wire or {before, wire} == {"bedrock", "anthropic"}:
        pytest.skip("the same signer")
    asked: dict[str, Any] = {
        "max_tokens": 9000,
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 4000},
    }
    messages = user("scene-think-tool")
    message = await client.messages.create(model=f"{before}-thinker", messages=messages, **asked)
    [call] = [block for block in message.content if block.type == "tool_use"]
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    after = await client.messages.create(
        model=f"{wire}-thinker",
        messages=[
            *messages,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ],
        **asked,
    )
    assert [block.text for block in after.content if block.type == "text"] == ["It is 17 degrees."]


async def test_structured_output(client: anthropic.AsyncAnthropic, wire: str) -> None:
    message = await client.messages.parse(model=wire, max_tokens=200, messages=user("scene-json"), output_format=Fair)
    assert message.parsed_output == Fair.model_validate(ANSWER)


@pytest.mark.parametrize("by", ["data", "address"])
async def test_an_image(client: anthropic.AsyncAnthropic, house: House, wire: str, by: str) -> None:
    url = "https://images.example/cat.png"
    source: Any = {"type": "url", "url": url}
    if by == "data":
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "scene-image"}]
    ask = client.messages.create(model=wire, max_tokens=50, messages=[{"role": "user", "content": content}])
    if by == "address" and wire == "bedrock":
        with pytest.raises(anthropic.BadRequestError) as refused:
            await ask
        assert "messages" in refused.value.message
        assert house.upstreams[wire].asked == []
        return
    message = await ask
    [block] = message.content
    assert block.type == "text"
    assert block.text == "A cat on a mat."
    assert house.upstreams[wire].asked[-1].body.count((PIXEL if by == "data" else url).encode()) == 1


async def test_cache_marks(client: anthropic.AsyncAnthropic, house: House, wire: str) -> None:
    system: Any = [{"type": "text", "text": "A long text.", "cache_control": {"type": "ephemeral"}}]
    raw = await client.messages.with_raw_response.create(
        model=wire, max_tokens=50, system=system, messages=user("scene-plain")
    )
    sent = house.upstreams[wire].last
    if wire == "anthropic":
        assert sent["system"] == system
    elif wire == "bedrock":
        assert sent["system"][1] == {"cachePoint": {"type": "default"}}
    else:
        assert "cache_control" in raw.headers["x-mainstay-dropped"]
        assert "ephemeral" not in json.dumps(sent)


ERRORS: dict[int, type[anthropic.APIStatusError]] = {
    400: anthropic.BadRequestError,
    401: anthropic.InternalServerError,  # it is our key that the provider refused, not the caller's
    403: anthropic.InternalServerError,
    404: anthropic.NotFoundError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    503: anthropic.InternalServerError,
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_own(client: anthropic.AsyncAnthropic, wire: str, status: int, stream: bool) -> None:
    with pytest.raises(anthropic.APIStatusError) as failed:
        await client.messages.create(
            model=f"{wire}-{status}", max_tokens=9, messages=[{"role": "user", "content": "hello"}], stream=stream
        )
    error = failed.value
    assert isinstance(error, ERRORS[status]), error
    assert error.status_code == (503 if status in (401, 403) else status)
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert error.body["error"]["message"]
    assert f"key-of-{wire}" not in str(error)
    assert error.request_id
    assert error.response.headers["x-mainstay-call"]
    if status in (400, 404, 429):
        assert f"the provider says {status}" in error.message


async def test_our_own_errors(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(model="nobody", max_tokens=9, messages=user("scene-plain"))
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id == missing.value.response.headers["x-mainstay-call"]
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="ms-nobody").messages.create(
            model="openai", max_tokens=9, messages=user("scene-plain")
        )
    with pytest.raises(anthropic.BadRequestError) as wrong:
        await client.messages.create(model="openai", max_tokens=9, messages="hello")  # type: ignore[arg-type]
    assert "messages" in wrong.value.message


async def test_a_client_that_gives_up(client: anthropic.AsyncAnthropic, house: House, wire: str) -> None:
    upstream = house.upstreams[wire]
    upstream.script = [silent]
    try:
        with pytest.raises(anthropic.APITimeoutError):
            await client.with_options(timeout=0.3).messages.create(
                model=wire, max_tokens=9, messages=user("scene-plain")
            )
        await asyncio.wait_for(upstream.asked[-1].disconnected.wait(), 5)
    finally:
        upstream.script = []


async def test_headers_of_the_raw_response(client: anthropic.AsyncAnthropic, wire: str) -> None:
    raw = await client.messages.with_raw_response.create(model=wire, max_tokens=50, messages=user("scene-plain"))
    message = await raw.parse()
    assert message.content
    headers = raw.headers
    assert headers["x-mainstay-call"].startswith("call_")
    assert (headers["x-mainstay-model"], headers["x-mainstay-provider"]) == (wire, wire)
    spent = (INPUT - CACHED) * 1 + CACHED * 0.5 + OUTPUT * 4
    assert float(headers["x-mainstay-cost-usd"]) == pytest.approx(spent / 1e6)
    assert raw.request_id
    assert message._request_id == raw.request_id


COUNTED = {"anthropic": 321, "gemini": 123, "bedrock": 222}


async def test_count_tokens(client: anthropic.AsyncAnthropic, house: House, wire: str) -> None:
    """By the provider's own counter where it has one; elsewhere an estimate, and nobody is asked."""
    asked: dict[str, Any] = {
        "model": wire,
        "system": "You are terse.",
        "messages": [{"role": "user", "content": "Hello, how are you today?"}],
        "tools": [TOOL],
    }
    raw = await client.messages.with_raw_response.count_tokens(**asked)
    count = (await raw.parse()).input_tokens
    if wire in COUNTED:
        assert count == COUNTED[wire]
        assert len(house.upstreams[wire].asked) == 1
        assert "estimated" not in raw.headers["x-mainstay-why"]
        assert raw.headers["x-mainstay-cost-usd"] == "0"
    else:
        assert 20 < count < 600
        assert house.upstreams[wire].asked == []
        assert "estimated" in raw.headers["x-mainstay-why"]


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_counter_that_fails(client: anthropic.AsyncAnthropic, wire: str, status: int) -> None:
    ask = client.messages.with_raw_response.count_tokens(
        model=f"{wire}-{status}", messages=[{"role": "user", "content": "Hello, how are you?"}]
    )
    if wire == "anthropic":  # it is the provider's own answer to the caller's own question
        with pytest.raises(anthropic.APIStatusError):
            await ask
        return
    raw = await ask
    assert 3 < (await raw.parse()).input_tokens < 100
    assert "estimated" in raw.headers["x-mainstay-why"]


async def test_models(client: anthropic.AsyncAnthropic) -> None:
    names = [model.id async for model in await client.models.list()]
    assert {"openai", "gemini-thinker"} <= set(names)
    model = await client.models.retrieve("anthropic")
    assert (model.id, model.type) == ("anthropic", "model")
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.models.retrieve("nobody")
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        await client.with_options(api_key="ms-nobody").models.list()
    assert unknown.value.type == "authentication_error"


async def test_a_refused_field_is_named_once_and_in_the_callers_words(client: anthropic.AsyncAnthropic) -> None:
    """``disable_parallel_tool_use`` is what Gemini has no word for, and stands in ``tool_choice``."""
    with pytest.raises(anthropic.BadRequestError) as refused:
        await client.messages.create(
            model="gemini",
            max_tokens=100,
            messages=user("scene-plain"),
            tools=[TOOL],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    assert "tool_choice: Gemini cannot" in refused.value.message
    with pytest.raises(anthropic.BadRequestError) as refused:
        await client.messages.create(
            model="gemini",
            max_tokens=100,
            messages=user("scene-plain"),
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )
    body: Any = refused.value.body
    assert body["error"]["message"].startswith("tools.0: web_search_20250305, a tool that Anthropic defines")
