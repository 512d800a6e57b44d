"""Embeddings at Vertex AI and at Bedrock through the running product, asked by OpenAI's own SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import openai
import pytest
import pytest_asyncio

from tests.e2e.google_and_aws import bedrock_error, gemini_error
from tests.e2e.shapes import wrong
from tests.provider import Asked, Provider, Wire
from tests.running import KEY, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

VECTOR = [0.5, -0.25, 1.0]
TOKENS = 7
BASE = "/v1/projects/p/locations/europe-west4/publishers/google"
TARGETS = {
    "predict": "vertex/text-embedding-005",
    "gemini": "vertex/gemini-embedding-2",
    "titan": "bedrock/amazon.titan-embed-text-v2:0",
    "cohere": "bedrock/cohere.embed-v4:0",
}
PATHS = {
    "predict": f"{BASE}/models/text-embedding-005:predict",
    "gemini": f"{BASE}/models/gemini-embedding-2:embedContent",
    "titan": "/model/amazon.titan-embed-text-v2%3A0/invoke",
    "cohere": "/model/cohere.embed-v4%3A0/invoke",
}
SEVERAL = ("predict", "cohere")
"""Which take more than one text at a time."""

_PREDICT = {
    "instances!": [{"content!": str, "task_type": str}],
    "parameters": {"autoTruncate": bool, "outputDimensionality": int},
}
_CONTENT = {
    "content!": {"parts!": [{"text!": str}]},
    "taskType": str,
    "outputDimensionality": int,
    "autoTruncate": bool,
}
_TITAN = {"inputText!": str, "dimensions": frozenset((256, 512, 1024)), "normalize": bool}
_COHERE = {
    "texts!": [str],
    "input_type!": frozenset(("search_document", "search_query", "classification", "clustering")),
    "embedding_types": [frozenset(("float",))],
    "output_dimension": frozenset((256, 512, 1024, 1536)),
}


async def provider_says(wire: Wire, asked: Asked) -> None:
    """Answers as Vertex AI and Bedrock do, and refuses what they would refuse."""
    body = asked.json
    named = unquote(asked.target)
    error = bedrock_error if named.startswith("/model/") else gemini_error
    text = json.dumps(body)
    for status in (400, 429, 503):
        if f"err-{status}" in text:
            return await wire.plain(status, error(status, f"the provider says {status}"))
    shape = {":predict": _PREDICT, "embedContent": _CONTENT, "v2:0/invoke": _TITAN, "v4:0/invoke": _COHERE}
    problems = next(wrong(body, known) for end, known in shape.items() if named.endswith(end))
    if problems:
        return await wire.plain(400, error(400, "; ".join(problems)))
    headers = {"x-amzn-bedrock-input-token-count": str(TOKENS), "x-amzn-requestid": "aws-1"}
    reply: Any
    if ":predict" in named:
        counts = [TOKENS - (len(body["instances"]) - 1), *[1] * (len(body["instances"]) - 1)]
        made = [{"values": VECTOR, "statistics": {"truncated": False, "token_count": count}} for count in counts]
        reply, headers = {"predictions": [{"embeddings": one} for one in made]}, {}
    elif "embedContent" in named:
        reply, headers = {"embedding": {"values": VECTOR}, "usageMetadata": {"promptTokenCount": TOKENS}}, {}
    elif "titan" in named:
        reply = {"embedding": VECTOR, "inputTextTokenCount": TOKENS, "embeddingsByType": {"float": VECTOR}}
    else:
        vectors = {"float": [VECTOR for _ in body["texts"]]}
        reply = {"id": "1", "texts": body["texts"], "embeddings": vectors, "response_type": "embeddings_by_type"}
    await wire.plain(200, json.dumps(reply).encode(), headers)


class House(NamedTuple):
    server: Server
    provider: Provider
    client: openai.AsyncOpenAI


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with Provider(provider_says) as provider:
        place = {"region": "europe-west4", "api_key": "the-key"}
        document = {
            "providers": [
                {"name": "vertex", "kind": "vertex", "project": "p", "base_url": provider.url + BASE, **place},
                {"name": "bedrock", "kind": "bedrock", "base_url": provider.url, **place},
            ],
            "models": [
                {"name": name, "target": target, "price": {"input": 1, "output": 0}} for name, target in TARGETS.items()
            ]
            + [{"name": "chatty", "target": "bedrock/amazon.nova-pro-v1:0"}],
            "routes": [{"name": f"once-{name}", "to": name, "retry": {"attempts": 1}} for name in TARGETS],
            "teams": [{"name": "tests"}],
            "keys": [{"name": "tests", "team": "tests", "secret": "${TEST_KEY}"}],
        }
        with Server(document) as server:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
                yield House(server, provider, client)


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
@pytest.mark.parametrize("name", TARGETS)
async def test_vectors(house: House, name: str, encoding: Any) -> None:
    """Left alone the SDK asks for base64, and decodes it."""
    house.provider.asked.clear()
    more: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    texts = ["one", "two"] if name in SEVERAL else ["one"]
    raw = await house.client.embeddings.with_raw_response.create(
        model=name, input=texts, dimensions=256, user="u", **more
    )
    reply = raw.parse()
    assert [entry.index for entry in reply.data] == list(range(len(texts)))
    if encoding != "base64":
        assert [entry.embedding for entry in reply.data] == [VECTOR] * len(texts)
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (TOKENS, TOKENS)
    assert raw.headers["x-mainstay-dropped"] == "user"
    assert raw.headers["x-mainstay-cost-usd"] == "0.000007"
    [asked] = house.provider.asked
    assert (asked.method, asked.target) == ("POST", PATHS[name])
    assert asked.headers["authorization"] == "Bearer the-key"
    assert b"256" in asked.body


async def test_what_vectors_are_for(house: House) -> None:
    for name, field, word in (
        ("predict", "task_type", "RETRIEVAL_QUERY"),
        ("gemini", "task_type", "CLUSTERING"),
        ("cohere", "input_type", "search_query"),
    ):
        house.provider.asked.clear()
        await house.client.embeddings.create(model=name, input="a", extra_body={field: word})
        assert word.encode() in house.provider.asked[0].body


@pytest.mark.parametrize(("model", "field"), [("titan", "input"), ("gemini", "input"), ("chatty", "model")])
async def test_what_the_model_cannot_do(house: House, model: str, field: str) -> None:
    house.provider.asked.clear()
    with pytest.raises(openai.BadRequestError) as refused:
        await house.client.embeddings.create(model=model, input=["one", "two"])
    assert refused.value.param == field
    assert not house.provider.asked


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (503, openai.InternalServerError)],
)
async def test_the_providers_errors(house: House, name: str, status: int, error: type[openai.APIStatusError]) -> None:
    with pytest.raises(error) as caught:
        await house.client.embeddings.create(model=f"once-{name}", input=f"err-{status}")
    assert caught.value.status_code == status
    assert f"the provider says {status}" in caught.value.message


async def test_the_ledger_has_what_was_counted(house: House) -> None:
    reply = await house.client.embeddings.with_raw_response.create(model="cohere", input=["a", "b"])
    [call] = await house.server.until_calls(1, f"id={reply.headers['x-mainstay-call']}")
    usage = call["usage"]
    assert (usage["input"], usage["output"], usage["estimated"]) == (TOKENS, 0, False)
    assert (call["cost_usd"], call["provider"], call["status"]) == (7e-06, "bedrock", 200)
