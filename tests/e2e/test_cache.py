"""The cache of the running product: what SDKs make of replayed answers, and one upstream call for many callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio

from tests.provider import Asked, Provider, Wire, broken_off, chat, chat_events, messages, status
from tests.running import KEY, Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = ["one ", "two ", "three"]
TEXT = "".join(TOKENS)
OTHER = "ms-test-secret-of-another-team"


class Bench:
    def __init__(self, server: Server, alpha: Provider, beta: Provider, client: httpx.AsyncClient) -> None:
        self.server, self.alpha, self.beta, self.client = server, alpha, beta, client

    @property
    def asked(self) -> int:
        return len(self.alpha.asked) + len(self.beta.asked)

    async def ask(self, text: str, model: str = "near", **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 9, **more}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with Provider(chat(TOKENS)) as alpha, Provider(messages(TOKENS)) as beta:
        price = {"input": 1, "output": 10}
        models = {"m": {"target": "alpha/m", "price": price}, "c": {"target": "beta/c", "price": price}}
        cache = {"ttl": "10m"}
        routes = [
            {"name": "near", "to": "m", "cache": cache, "retry": {"attempts": 1}, "rescue": "off"},
            {"name": "far", "to": "c", "cache": cache},
        ]
        made = bundle({"alpha": f"openai@{alpha.url}/v1", "beta": f"anthropic@{beta.url}"}, models, routes=routes)
        made["teams"].append({"name": "others"})
        made["keys"].append({"name": "other", "team": "others", "secret": OTHER})
        with Server(made) as server:
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
            async with server.client(limits=limits) as client:
                yield Bench(server, alpha, beta, client)


@pytest.mark.parametrize("model", ["near", "far"])
@pytest.mark.parametrize("sdk", ["chat", "responses", "messages"])
async def test_sdks_read_replayed_answers(bench: Bench, model: str, sdk: str) -> None:
    """Plain and streamed, raw and translated; the second of each costs no upstream call."""
    gpt = openai.AsyncOpenAI(base_url=bench.server.url + "/v1", api_key=KEY, max_retries=0)
    claude = anthropic.AsyncAnthropic(base_url=bench.server.url, api_key=KEY, max_retries=0)
    text = f"{sdk} {model}"

    async def plain() -> tuple[str | None, int]:
        if sdk == "chat":
            done = await gpt.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
            assert done.usage is not None
            return done.choices[0].message.content, done.usage.completion_tokens
        if sdk == "responses":
            said = await gpt.responses.create(model=model, input=text, store=False)
            assert said.usage is not None
            return said.output_text, said.usage.output_tokens
        message = await claude.messages.create(model=model, max_tokens=9, messages=[{"role": "user", "content": text}])
        return getattr(message.content[0], "text", None), message.usage.output_tokens

    async def streamed() -> tuple[str | None, int]:
        if sdk == "chat":
            async with gpt.chat.completions.stream(
                model=model, messages=[{"role": "user", "content": text}], stream_options={"include_usage": True}
            ) as stream:
                done = await stream.get_final_completion()
            assert done.usage is not None
            return done.choices[0].message.content, done.usage.completion_tokens
        if sdk == "responses":
            async with gpt.responses.stream(model=model, input=text, store=False) as stream:
                said = await stream.get_final_response()
            assert said.usage is not None
            return said.output_text, said.usage.output_tokens
        async with claude.messages.stream(
            model=model, max_tokens=9, messages=[{"role": "user", "content": text}]
        ) as stream:
            message = await stream.get_final_message()
        return getattr(message.content[0], "text", None), message.usage.output_tokens

    for way in (plain, streamed):
        before = bench.asked
        assert await way() == await way() == (TEXT, 3)
        assert bench.asked == before + 1
    await gpt.close()
    await claude.close()


async def test_headers_and_records_tell_what_the_cache_did(bench: Bench) -> None:
    replies = [
        await bench.ask("tell"),
        await bench.ask("tell"),
        await bench.ask("tell", headers={"x-mainstay-cache": "off"}),
        await bench.ask("tell", headers={"x-mainstay-cache": "refresh"}),
        await bench.ask("tell", headers={"authorization": f"Bearer {OTHER}"}),
        await bench.ask("tell", model="m"),
    ]
    assert [reply.headers["x-mainstay-cache"] for reply in replies] == ["miss", "hit", "off", "miss", "miss", "off"]
    hit = replies[1]
    assert hit.content == replies[0].content
    assert (hit.headers["x-mainstay-attempts"], hit.headers["x-mainstay-model"]) == ("0", "m")
    assert hit.headers["x-mainstay-cost-usd"] == "0"
    identifier = hit.headers["x-mainstay-call"]
    found = await eventually(
        lambda: [call for call in bench.server.calls("cache=hit") if call["id"] == identifier], bool, 20
    )
    assert float(found[0]["cost_usd"]) == 0
    assert (found[0]["status"], found[0]["attempts"]) == (200, [])
    assert (found[0]["usage"]["input"], found[0]["usage"]["output"]) == (10, 3)


async def test_a_hundred_callers_are_one_upstream_call(bench: Bench) -> None:
    go = asyncio.Event()

    async def held(wire: Wire, asked: Asked) -> None:
        await go.wait()
        await chat(TOKENS)(wire, asked)

    bench.alpha.default, before = held, bench.asked
    tasks = [asyncio.ensure_future(bench.ask("together", stream=True)) for _ in range(100)]
    await eventually(lambda: bench.asked, lambda asked: asked > before)
    go.set()
    replies = await asyncio.gather(*tasks)
    bench.alpha.default = chat(TOKENS)
    assert bench.asked == before + 1
    assert Counter(reply.headers["x-mainstay-cache"] for reply in replies) == {"miss": 1, "hit": 99}
    assert all(reply.text.endswith("data: [DONE]\n\n") for reply in replies)


async def test_when_the_first_callers_connection_goes_another_takes_over(bench: Bench) -> None:
    go = asyncio.Event()

    async def held(wire: Wire, asked: Asked) -> None:
        await go.wait()
        await chat(TOKENS)(wire, asked)

    bench.alpha.default, before = held, bench.asked
    first = asyncio.ensure_future(bench.ask("handed over"))
    await eventually(lambda: bench.asked, lambda asked: asked == before + 1)
    others = [asyncio.ensure_future(bench.ask("handed over")) for _ in range(10)]
    await asyncio.sleep(0)
    first.cancel()
    await eventually(lambda: bench.asked, lambda asked: asked == before + 2)
    go.set()
    replies = await asyncio.gather(*others)
    bench.alpha.default = chat(TOKENS)
    assert {reply.status_code for reply in replies} == {200}
    assert bench.asked == before + 2


async def test_what_failed_or_broke_off_is_not_replayed(bench: Bench) -> None:
    bench.alpha.script = [status(400), broken_off(chat_events(TOKENS)[:3], "close")]
    assert (await bench.ask("failed")).status_code == 400
    cut = await bench.ask("failed", stream=True)
    assert "[DONE]" not in cut.text
    for stream in (False, True):
        reply = await bench.ask("failed", stream=stream)
        assert (reply.status_code, reply.headers["x-mainstay-cache"]) == (200, "miss")
