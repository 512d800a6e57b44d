"""The official OpenAI SDK, as its users use it, on every kind of upstream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import BaseModel

from tests.e2e.conftest import STATUSES, House
from tests.e2e.scenes import ANSWER, CACHED, INPUT, OUTPUT, PARIS, REASONING, ROME, SCENES, THOUGHT
from tests.e2e.upstreams import VECTOR
from tests.provider import silent
from tests.running import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL: ChatCompletionToolUnionParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Fair(BaseModel):
    """What structured answers are parsed into."""

    name: str
    participants: list[str]


def user(scene: str) -> list[ChatCompletionMessageParam]:
    return [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": f"Please play {scene}."},
    ]


@pytest_asyncio.fixture(loop_scope="module")
async def client(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{house.server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def _usage_is_right(usage: Any, thinks: bool = False) -> None:
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (INPUT, OUTPUT, INPUT + OUTPUT)
    assert usage.prompt_tokens_details.cached_tokens == CACHED
    if thinks:
        assert usage.completion_tokens_details.reasoning_tokens == REASONING


async def test_plain(client: openai.AsyncOpenAI, wire: str) -> None:
    stop: Any = {} if wire == "openai-responses" else {"stop": ["END"]}  # for which Responses has no word
    reply = await client.chat.completions.create(
        model=wire, messages=user("scene-plain"), max_tokens=100, temperature=0.5, user="u-1", **stop
    )
    [choice] = reply.choices
    assert choice.message.content == SCENES["scene-plain"].text
    assert choice.message.role == "assistant"
    assert (choice.finish_reason, choice.index) == ("stop", 0)
    assert reply.object == "chat.completion"
    assert reply.id
    assert reply.model
    assert reply.created > 1_700_000_000
    assert reply.usage is not None
    _usage_is_right(reply.usage)


async def test_plain_with_the_synchronous_client(house: House, wire: str) -> None:
    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{house.server.url}/v1", api_key=KEY, max_retries=0) as client:
            reply = client.chat.completions.create(model=wire, messages=user("scene-plain"))
            parts = client.chat.completions.create(model=wire, messages=user("scene-plain"), stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in parts if chunk.choices)
            return reply.choices[0].message.content, streamed

    assert await asyncio.to_thread(ask) == (SCENES["scene-plain"].text, SCENES["scene-plain"].text)


async def test_stream(client: openai.AsyncOpenAI, wire: str) -> None:
    text, finishes, usages, ids = "", [], [], set()
    stream = await client.chat.completions.create(
        model=wire, messages=user("scene-plain"), stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        ids.add(chunk.id)
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                finishes.append(choice.finish_reason)
    assert text == SCENES["scene-plain"].text
    assert finishes == ["stop"]
    assert len(ids) == 1
    [usage] = usages
    _usage_is_right(usage)


async def test_without_being_asked_a_stream_tells_no_usage(client: openai.AsyncOpenAI, wire: str) -> None:
    stream = await client.chat.completions.create(model=wire, messages=user("scene-plain"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_the_streaming_helper(client: openai.AsyncOpenAI, wire: str) -> None:
    kinds: set[str] = set()
    async with client.chat.completions.stream(model=wire, messages=user("scene-tool"), tools=[TOOL]) as stream:
        async for event in stream:
            kinds.add(event.type)
        reply = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "tool_calls.function.arguments.delta"} <= kinds
    message = reply.choices[0].message
    assert message.content == "Let me look."
    assert message.tool_calls is not None
    [call] = message.tool_calls
    assert call.function.name == PARIS[0]
    assert json.loads(call.function.arguments) == PARIS[1]
    assert reply.choices[0].finish_reason == "tool_calls"


async def test_a_cut_answer(client: openai.AsyncOpenAI, wire: str) -> None:
    reply = await client.chat.completions.create(model=wire, messages=user("scene-cut"), max_tokens=4)
    assert reply.choices[0].finish_reason == "length"
    stream = await client.chat.completions.create(model=wire, messages=user("scene-cut"), max_tokens=4, stream=True)
    finishes = [choice.finish_reason async for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["length"]


@pytest.mark.parametrize("scene", ["scene-tool", "scene-parallel"])
@pytest.mark.parametrize("thinker", [False, True])
async def test_tools_and_what_comes_of_them(client: openai.AsyncOpenAI, wire: str, scene: str, thinker: bool) -> None:
    model = f"{wire}-thinker" if thinker else wire
    messages = user(scene)
    reply = await client.chat.completions.create(model=model, messages=messages, tools=[TOOL], tool_choice="auto")
    assert reply.choices[0].finish_reason == "tool_calls"
    message = reply.choices[0].message
    assert message.tool_calls is not None
    wanted = [PARIS] if scene == "scene-tool" else [PARIS, ROME]
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls] == wanted
    ids = [call.id for call in message.tool_calls]
    assert len(set(ids)) == len(ids)
    # Exactly as the SDK's guide says: the message goes back as it came.
    messages = [*messages, message]  # type: ignore[list-item]
    for call in message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "17 degrees"})
    after = await client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
    assert after.choices[0].message.content == "It is 17 degrees."
    assert after.choices[0].finish_reason == "stop"


async def test_parallel_tools_in_a_stream(client: openai.AsyncOpenAI, wire: str) -> None:
    async with client.chat.completions.stream(
        model=wire, messages=user("scene-parallel"), tools=[TOOL], parallel_tool_calls=True
    ) as stream:
        reply = await stream.get_final_completion()
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [PARIS, ROME]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_tool_choice(client: openai.AsyncOpenAI, wire: str, choice: Any) -> None:
    reply = await client.chat.completions.create(
        model=wire, messages=user("scene-parallel"), tools=[TOOL], tool_choice=choice
    )
    assert reply.choices[0].message.tool_calls


async def test_structured_output(client: openai.AsyncOpenAI, wire: str) -> None:
    reply = await client.chat.completions.parse(model=wire, messages=user("scene-json"), response_format=Fair)
    assert reply.choices[0].message.parsed == Fair.model_validate(ANSWER)
    async with client.chat.completions.stream(model=wire, messages=user("scene-json"), response_format=Fair) as stream:
        done = await stream.get_final_completion()
    assert done.choices[0].message.parsed == Fair.model_validate(ANSWER)


def _image(url: str) -> list[ChatCompletionMessageParam]:
    parts: Any = [
        {"type": "text", "text": "scene-image: what is this?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
    ]
    return [{"role": "user", "content": parts}]


async def test_an_image_as_data(client: openai.AsyncOpenAI, house: House, wire: str) -> None:
    messages = _image(f"data:image/png;base64,{PIXEL}")
    reply = await client.chat.completions.create(model=wire, messages=messages)
    assert reply.choices[0].message.content == "A cat on a mat."
    assert house.upstreams[wire].asked[-1].body.count(PIXEL.encode()) == 1


async def test_an_image_by_address(client: openai.AsyncOpenAI, house: House, wire: str) -> None:
    url = "https://images.example/cat.png"
    if wire == "bedrock":
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=wire, messages=_image(url))
        assert refused.value.param == "messages"
        assert house.upstreams[wire].asked == []
        return
    reply = await client.chat.completions.create(model=wire, messages=_image(url))
    assert reply.choices[0].message.content == "A cat on a mat."
    assert house.upstreams[wire].asked[-1].body.count(url.encode()) == 1


REASONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "openai": lambda body: body["reasoning_effort"] == "high",
    "openai-responses": lambda body: body["reasoning"]["effort"] == "high",
    "anthropic": lambda body: body["thinking"]["type"] == "enabled" and body["thinking"]["budget_tokens"] >= 1024,
    "gemini": lambda body: body["generationConfig"]["thinkingConfig"]["thinkingLevel"].lower() == "high",
    "bedrock": lambda body: body["additionalModelRequestFields"]["thinking"]["budget_tokens"] >= 1024,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning(client: openai.AsyncOpenAI, house: House, wire: str, stream: bool) -> None:
    said = ""
    if stream:
        async with client.chat.completions.stream(
            model=f"{wire}-thinker",
            messages=user("scene-think"),
            reasoning_effort="high",
            stream_options={"include_usage": True},
        ) as running:
            async for event in running:
                if event.type == "chunk" and event.chunk.choices:
                    extra = event.chunk.choices[0].delta.model_extra or {}
                    said += extra.get("reasoning_content") or ""
            reply = await running.get_final_completion()
    else:
        reply = await client.chat.completions.create(
            model=f"{wire}-thinker", messages=user("scene-think"), reasoning_effort="high"
        )
        said = (reply.choices[0].message.model_extra or {}).get("reasoning_content") or ""
    assert reply.choices[0].message.content == "It is 42."
    assert reply.usage is not None
    _usage_is_right(reply.usage, thinks=wire in ("openai", "openai-responses", "gemini"))
    assert REASONS[wire](house.upstreams[wire].last)
    # Gemini shows its thoughts only to who asks for them, for which chat has no word.
    assert said == ("" if wire == "gemini" else THOUGHT)


async def test_reasoning_goes_back_with_the_tools_result(client: openai.AsyncOpenAI, wire: str) -> None:
    """The provider's signatures survive the way through a caller of another format."""
    messages = user("scene-think-tool")
    model = f"{wire}-thinker"
    reply = await client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], reasoning_effort="medium", max_completion_tokens=9000
    )
    message = reply.choices[0].message
    assert message.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "17 degrees"}
    given: Any = message.model_dump(exclude_none=True, exclude={"refusal", "annotations"})
    if wire == "openai":
        del given["reasoning_content"]  # not a field of OpenAI's own, which this upstream refuses
    after = await client.chat.completions.create(
        model=model,
        messages=[*messages, given, result],
        tools=[TOOL],
        reasoning_effort="medium",
        max_completion_tokens=9000,
    )
    assert after.choices[0].message.content == "It is 17 degrees."


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(client: openai.AsyncOpenAI, house: House, wire: str, stream: bool) -> None:
    async def ask() -> Any:
        if not stream:
            return await client.chat.completions.create(
                model=wire, messages=user("scene-logprobs"), logprobs=True, top_logprobs=2
            )
        async with client.chat.completions.stream(
            model=wire, messages=user("scene-logprobs"), logprobs=True, top_logprobs=2
        ) as running:
            return await running.get_final_completion()

    if wire in ("anthropic", "bedrock"):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask()
        assert refused.value.param in ("logprobs", "top_logprobs")
        assert house.upstreams[wire].asked == []
        return
    reply = await ask()
    entries = reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == "Yes it is"
    assert all(entry.logprob == -0.25 for entry in entries)
    assert all([top.logprob for top in entry.top_logprobs] == [-0.25, -2.5] for entry in entries)
    assert entries[1].bytes == list(b" it")
    assert reply.choices[0].message.content == "Yes it is"


@pytest.mark.parametrize("stream", [False, True])
async def test_two_choices(client: openai.AsyncOpenAI, house: House, wire: str, stream: bool) -> None:
    async def ask() -> Any:
        if not stream:
            return await client.chat.completions.create(model=wire, messages=user("scene-two"), n=2)
        async with client.chat.completions.stream(model=wire, messages=user("scene-two"), n=2) as running:
            return await running.get_final_completion()

    if wire not in ("openai", "gemini"):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask()
        assert refused.value.param == "n"
        assert house.upstreams[wire].asked == []
        return
    reply = await ask()
    assert [(choice.index, choice.message.content) for choice in reply.choices] == [(0, "Heads."), (1, "Heads.")]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]


ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.InternalServerError,  # it is our key that the provider refused, not the caller's
    403: openai.InternalServerError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_own(client: openai.AsyncOpenAI, wire: str, status: int, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(
            model=f"{wire}-{status}", messages=[{"role": "user", "content": "hello"}], stream=stream
        )
    error = failed.value
    assert type(error) is ERRORS[status]
    assert error.status_code == (503 if status in (401, 403) else status)
    assert isinstance(error.body, dict)
    assert error.body["message"]
    assert f"key-of-{wire}" not in str(error)
    assert error.request_id
    assert error.response.headers["x-mainstay-call"]
    if status in (400, 404, 429):
        assert f"the provider says {status}" in error.message
    if status in (429, 503):
        assert int(error.response.headers["retry-after"]) >= 1


async def test_our_own_errors(house: House, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nobody", messages=user("scene-plain"))
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id == missing.value.response.headers["x-mainstay-call"]
    with pytest.raises(openai.AuthenticationError) as unknown:
        await client.with_options(api_key="ms-nobody").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="ms-nobody").chat.completions.create(
            model="openai", messages=user("scene-plain")
        )
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="anthropic", messages="hello")  # type: ignore[arg-type]
    assert wrong.value.param == "messages"


async def test_a_client_that_gives_up(house: House, client: openai.AsyncOpenAI, wire: str) -> None:
    """Its timeout is the SDK's own error, and the provider is left at once."""
    upstream = house.upstreams[wire]
    upstream.script = [silent]
    try:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3).chat.completions.create(model=wire, messages=user("scene-plain"))
        await asyncio.wait_for(upstream.asked[-1].disconnected.wait(), 5)
    finally:
        upstream.script = []


async def test_our_timeout(house: House, client: openai.AsyncOpenAI, wire: str) -> None:
    upstream = house.upstreams[wire]
    upstream.script = [silent]
    try:
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(
                model=wire, messages=user("scene-plain"), extra_headers={"x-mainstay-timeout": "200ms"}
            )
        assert late.value.status_code == 504
    finally:
        upstream.script = []


async def test_headers_of_the_raw_response(client: openai.AsyncOpenAI, wire: str) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=wire, messages=user("scene-plain"))
    reply = raw.parse()
    assert reply.choices[0].message.content == SCENES["scene-plain"].text
    headers = raw.headers
    assert headers["x-mainstay-call"].startswith("call_")
    assert (headers["x-mainstay-model"], headers["x-mainstay-provider"]) == (wire, wire)
    assert (headers["x-mainstay-attempts"], headers["x-mainstay-cache"]) == ("1", "off")
    assert float(headers["x-mainstay-overhead-ms"]) > 0
    spent = (INPUT - CACHED) * 1 + CACHED * 0.5 + OUTPUT * 4
    assert float(headers["x-mainstay-cost-usd"]) == pytest.approx(spent / 1e6)
    assert raw.request_id
    assert reply._request_id == raw.request_id


async def test_with_a_streamed_response(client: openai.AsyncOpenAI, wire: str) -> None:
    async with client.chat.completions.with_streaming_response.create(
        model=wire, messages=user("scene-plain"), stream=True
    ) as raw:
        lines = [line async for line in raw.iter_lines()]
    data = [line for line in lines if line.startswith("data: ")]
    assert data[-1] == "data: [DONE]"
    told = [line for line in lines if line.startswith(": x-mainstay-")]
    assert len(told) == 1
    assert "x-mainstay-cost-usd=" in told[0]
    assert lines.index(told[0]) < lines.index("data: [DONE]")


async def test_models(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in await client.models.list()]
    assert {"openai", "gemini-thinker", "bedrock-429"} <= set(names)
    model = await client.models.retrieve("anthropic")
    assert (model.id, model.object, model.owned_by) == ("anthropic", "model", "anthropic")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_embeddings(client: openai.AsyncOpenAI, house: House, wire: str, encoding: Any) -> None:
    """Left alone the SDK asks for base64, and decodes it."""
    more: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    ask = client.embeddings.create(model=f"{wire}-embed", input=["one", "two"], **more)
    if wire in ("anthropic", "bedrock"):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert "embeddings" in refused.value.message
        return
    reply = await ask
    assert [entry.index for entry in reply.data] == [0, 1]
    vector: Any = reply.data[1].embedding
    if encoding == "base64":
        assert len(base64.b64decode(vector)) == 12
    else:
        assert list(vector) == VECTOR
    assert reply.usage.prompt_tokens > 0
    assert reply.object == "list"


async def test_what_cannot_be_said_is_named(client: openai.AsyncOpenAI, house: House, wire: str) -> None:
    """A field that would change the answer is refused by name; a hint is left out and named."""
    ask = client.chat.completions.with_raw_response.create(
        model=wire, messages=user("scene-plain"), logit_bias={"50256": -100}
    )
    if wire == "openai":
        await ask
        assert house.upstreams[wire].last["logit_bias"] == {"50256": -100}
    else:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask
        assert refused.value.param == "logit_bias"
        assert house.upstreams[wire].asked == []
    raw = await client.chat.completions.with_raw_response.create(
        model=wire, messages=user("scene-plain"), metadata={"a": "b"}, service_tier="default"
    )
    dropped = raw.headers.get("x-mainstay-dropped", "")
    sent = json.dumps(house.upstreams[wire].last)
    assert ("metadata" in dropped) != ('"a": "b"' in sent or '"a":"b"' in sent)
