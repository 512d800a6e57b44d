"""What the official SDKs see of a stream that broke off: the whole answer once, or an error that they raise."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.faults.rig import WHOLE, Case, Rig, Shape, rigged
from tests.provider import broken_off, chat_events, messages, messages_events, status
from tests.running import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = {"timeouts": {"first_token": "20s", "idle": "20s"}}
SHAPES = {"oa": Shape("oa", 4, SLOW, again=True), "aa": Shape("aa", 4, SLOW, again=True)}
UPSTREAMS = pytest.mark.parametrize("upstream", ["oa", "aa"])
QUESTION = [{"role": "user", "content": "Count to sixty."}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


def cut(rig: Rig, upstream: str, rescued: bool) -> Case:
    """A case whose first target breaks off after 40 tokens."""
    case = rig.take(upstream)
    events = chat_events()[:41] if upstream == "oa" else messages_events()[:42]
    case.targets[0].default = broken_off(events, "close")
    down = {"type": "error", "error": {"type": "api_error", "message": "down"}}
    case.targets[1].default = messages() if rescued else status(503, down)
    return case


@UPSTREAMS
async def test_openai_chat(rig: Rig, upstream: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{rig.server.url}/v1", api_key=KEY, max_retries=0) as client:

        async def text(case: Case) -> str:
            said, finish = "", None
            stream = await client.chat.completions.create(model=case.name, messages=QUESTION, stream=True)  # type: ignore[call-overload]
            async for chunk in stream:
                for choice in chunk.choices:
                    said += choice.delta.content or ""
                    finish = choice.finish_reason or finish
            assert finish == "stop"
            return said

        assert await text(cut(rig, upstream, True)) == WHOLE
        with pytest.raises(openai.APIError):
            await text(cut(rig, upstream, False))


@UPSTREAMS
async def test_openai_responses(rig: Rig, upstream: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{rig.server.url}/v1", api_key=KEY, max_retries=0) as client:
        async with client.responses.stream(model=cut(rig, upstream, True).name, input="Count to sixty.") as stream:
            assert (await stream.get_final_response()).output_text == WHOLE
        kinds: list[str] = []
        async with client.responses.stream(model=cut(rig, upstream, False).name, input="Count.") as stream:
            try:
                async for event in stream:
                    kinds.append(event.type)
            except openai.APIError:
                kinds.append("error")
        assert "response.completed" not in kinds
        assert kinds[-1] in ("error", "response.failed")


@UPSTREAMS
async def test_anthropic(rig: Rig, upstream: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=rig.server.url, api_key=KEY, max_retries=0) as client:

        async def text(case: Case) -> str:
            async with client.messages.stream(model=case.name, max_tokens=1000, messages=QUESTION) as stream:  # type: ignore[arg-type]
                message = await stream.get_final_message()
            assert message.stop_reason == "end_turn"
            return "".join(block.text for block in message.content if block.type == "text")

        assert await text(cut(rig, upstream, True)) == WHOLE
        with pytest.raises(anthropic.APIError):
            await text(cut(rig, upstream, False))
