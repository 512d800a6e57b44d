"""A provider's content filter: final, unless the route says ``on_filter: fallback`` and nothing was said yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.provider import Asked, Provider, Wire, chat
from tests.running import Server, bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAYS = ["all ", "is ", "well"]
SSE = {"content-type": "text/event-stream"}


def completion(content: str | None, finish: str) -> bytes:
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    return json.dumps(
        {
            "id": "chatcmpl-f",
            "object": "chat.completion",
            "created": 1760000000,
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9},
        }
    ).encode()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    value = {
        "id": "chatcmpl-f",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def openai_filters(said: str | None) -> Any:
    async def behave(wire: Wire, asked: Asked) -> None:
        if not asked.json.get("stream"):
            return await wire.plain(200, completion(said, "content_filter"))
        await wire.head(200, SSE)
        await wire.chunk(chunk({"role": "assistant", "content": "", "refusal": None}))
        if said:
            await wire.chunk(chunk({"content": said}))
        await wire.chunk(chunk({}, "content_filter"))
        await wire.chunk(b"data: [DONE]\n\n")
        await wire.end()

    return behave


async def gemini_blocks(wire: Wire, asked: Asked) -> None:
    value = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }
    if "alt=sse" not in asked.target:
        return await wire.plain(200, json.dumps(value).encode())
    await wire.head(200, SSE)
    await wire.chunk(b"data: " + json.dumps(value).encode() + b"\r\n\r\n")
    await wire.end()


async def azure_refuses(wire: Wire, asked: Asked) -> None:
    error = {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
    }
    await wire.plain(400, json.dumps({"error": error}).encode())


class Stage(NamedTuple):
    server: Server
    first: Provider
    gemini: Provider
    second: Provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with (
        Provider(openai_filters(None)) as first,
        Provider(gemini_blocks) as gemini,
        Provider(chat(SAYS)) as second,
    ):
        document = bundle(
            {
                "first": f"openai@{first.url}/v1",
                "gemini": f"gemini@{gemini.url}/v1beta",
                "second": f"openai@{second.url}/v1",
            },
            {
                "one": {"target": "first/gpt-4o"},
                "blocked": {"target": "gemini/gemini-2.5-flash"},
                "two": {"target": "second/gpt-4o-mini"},
            },
            routes=[
                {"name": "goes-on", "to": {"fallback": ["one", "two"]}, "on_filter": "fallback"},
                {"name": "goes-on-from-gemini", "to": {"fallback": ["blocked", "two"]}, "on_filter": "fallback"},
                {"name": "stays", "to": {"fallback": ["one", "two"]}},
                {"name": "stays-with-gemini", "to": {"fallback": ["blocked", "two"]}},
                {"name": "alone", "to": "one", "on_filter": "fallback"},
            ],
        )
        with Server(document) as server:
            yield Stage(server, first, gemini, second)


async def _ask(stage: Stage, model: str, stream: bool) -> tuple[int, str, str | None, dict[str, str]]:
    """Status, text, finish reason and headers."""
    asked = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hm"}]}
    async with stage.server.client() as client:
        reply = await client.post("/v1/chat/completions", json=asked)
    if reply.status_code != 200:
        return reply.status_code, reply.text, None, dict(reply.headers)
    if not stream:
        [choice] = reply.json()["choices"]
        return 200, choice["message"]["content"] or "", choice["finish_reason"], dict(reply.headers)
    assert reply.text.rstrip().endswith("data: [DONE]")
    text, finish = "", None
    for line in reply.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return 200, text, finish, dict(reply.headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ["openai", "gemini", "azure"])
async def test_falls_back_where_the_route_says_so(stage: Stage, case: str, stream: bool) -> None:
    stage.first.default = azure_refuses if case == "azure" else openai_filters(None)
    model = "goes-on-from-gemini" if case == "gemini" else "goes-on"
    status, text, finish, headers = await _ask(stage, model, stream)
    assert (status, text, finish) == (200, "".join(SAYS), "stop")
    assert headers["x-mainstay-model"] == "two"
    assert headers["x-mainstay-attempts"] == "2", "no second try at the target that filters"
    assert "content_filter" in headers["x-mainstay-why"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["stays", "stays-with-gemini"])
async def test_is_final_where_it_does_not(stage: Stage, model: str, stream: bool) -> None:
    stage.first.default = openai_filters(None)
    status, text, finish, headers = await _ask(stage, model, stream)
    assert (status, text, finish) == (200, "", "content_filter")
    assert headers["x-mainstay-attempts"] == "1"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_prompt_is_final_and_tells_the_reason(stage: Stage, stream: bool) -> None:
    stage.first.default = azure_refuses
    status, text, _, headers = await _ask(stage, "stays", stream)
    assert status == 400
    assert json.loads(text)["error"]["code"] == "content_filter"
    assert "content management policy" in text
    assert headers["x-mainstay-attempts"] == "1"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_said_before_the_filter_stays(stage: Stage, stream: bool) -> None:
    stage.first.default = openai_filters("half of it")
    status, text, finish, headers = await _ask(stage, "goes-on", stream)
    assert (status, text, finish) == (200, "half of it", "content_filter")
    assert headers["x-mainstay-model"] == "one"


@pytest.mark.parametrize("stream", [False, True])
async def test_with_nobody_else_the_providers_own_answer_is_passed_on(stage: Stage, stream: bool) -> None:
    stage.first.default = openai_filters(None)
    status, text, finish, _ = await _ask(stage, "alone", stream)
    assert (status, text, finish) == (200, "", "content_filter")
