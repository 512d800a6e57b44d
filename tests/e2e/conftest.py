"""The running product between the SDKs and a strict provider of each wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.upstreams import WIRES, Upstream
from tests.running import Server

MODELS = {
    "openai": ("gpt-4o-mini", "gpt-5-mini"),
    "openai-responses": ("gpt-4.1-mini", "gpt-5-mini"),
    "anthropic": ("claude-haiku-4-5", "claude-sonnet-4-5"),
    "gemini": ("gemini-2.5-flash", "gemini-3-pro-preview"),
    "bedrock": ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
"""Of each wire's upstream: a model, and one that reasons."""

STATUSES = (400, 401, 403, 404, 429, 500, 503)


@dataclass
class House:
    """The running product and its upstreams."""

    server: Server
    upstreams: dict[str, Upstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        upstreams = {wire: await stack.enter_async_context(Upstream(wire)) for wire in WIRES}
        bases = {"openai": "/v1", "openai-responses": "/v1", "gemini": "/v1beta"}
        providers: list[dict[str, Any]] = []
        models: list[dict[str, Any]] = []
        routes: list[dict[str, Any]] = []
        for wire, upstream in upstreams.items():  # type: ignore[misc]
            place = upstream.url + bases.get(wire, "")
            kind = {"openai": {"kind": "openai"}}.get(wire, {"wire": wire})
            more = {"region": "us-east-1"} if wire == "bedrock" else {}
            providers.append({"name": wire, **kind, "base_url": place, "api_key": f"key-of-{wire}", **more})
            plain, thinker = MODELS[wire]
            price = {"input": 1, "output": 4, "cached_input": 0.5}
            models.append({"name": wire, "target": f"{wire}/{plain}", "price": price})
            models.append({"name": f"{wire}-thinker", "target": f"{wire}/{thinker}", "price": price})
            models.append({"name": f"{wire}-embed", "target": f"{wire}/text-embedding-3-small", "price": price})
            for status in STATUSES:
                models.append({"name": f"{wire}-err-{status}", "target": f"{wire}/err-{status}"})
                routes.append({"name": f"{wire}-{status}", "to": f"{wire}-err-{status}", "retry": {"attempts": 1}})
        document = {
            "providers": providers,
            "models": models,
            "routes": routes,
            "teams": [{"name": "tests"}],
            "keys": [{"name": "tests", "team": "tests", "secret": "${TEST_KEY}"}],
        }
        with Server(document) as server:
            yield House(server, upstreams)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, house: House) -> Iterator[str]:
    """Each wire in turn; the test fails if its upstream found anything wrong with what it was asked."""
    upstream = house.upstreams[request.param]
    upstream.problems.clear()
    upstream.asked.clear()
    yield request.param
    assert upstream.problems == []
