"""Every row of the provider table: the address, path, key and headers that the provider documents.

The addresses are written down here once more, from the providers' own documentation; then each provider is asked through
the running product, with nothing changed but the host, which is a loopback server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
import pytest_asyncio

from mainstay.registry import kinds
from mainstay.upstream.accounts import base_url
from mainstay.upstream.providers import PROVIDERS
from tests.provider import SSE, Asked, Provider, Wire, chat, messages
from tests.running import KEY, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Row(NamedTuple):
    """What a provider documents: the whole address of a chat, and how a key is shown."""

    address: str
    key: tuple[str, str]
    given: Mapping[str, str] = MappingProxyType({})  # what the bundle must say beside the key
    headers: Mapping[str, str] = MappingProxyType({})
    model: str = "m-1"
    bounds: str = "max_tokens"  # how its chat bounds an answer
    asks_usage: bool = True  # takes stream_options


BEARER = ("authorization", "Bearer the-key")
REGION = {"region": "eu-west-1"}

ROWS: dict[str, Row] = {
    "openai": Row("https://api.openai.com/v1/chat/completions", BEARER, bounds="max_completion_tokens"),
    "azure": Row(
        "https://our-resource.openai.azure.com/openai/v1/chat/completions",
        ("api-key", "the-key"),
        {"project": "our-resource"},
        bounds="max_completion_tokens",
    ),
    "anthropic": Row(
        "https://api.anthropic.com/v1/messages", ("x-api-key", "the-key"), headers={"anthropic-version": "2023-06-01"}
    ),
    "gemini": Row(
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        ("x-goog-api-key", "the-key"),
        model="gemini-2.5-flash",
    ),
    "vertex": Row(
        "https://eu-west-1-aiplatform.googleapis.com/v1/projects/our-project/locations/eu-west-1/publishers/google"
        "/models/gemini-2.5-flash:generateContent",
        BEARER,
        {**REGION, "project": "our-project"},
        model="gemini-2.5-flash",
    ),
    "bedrock": Row(
        "https://bedrock-runtime.eu-west-1.amazonaws.com/model/eu.amazon.nova-pro-v1%3A0/converse",
        BEARER,
        REGION,
        model="eu.amazon.nova-pro-v1:0",
    ),
    "mistral": Row("https://api.mistral.ai/v1/chat/completions", BEARER, asks_usage=False),
    "cohere": Row("https://api.cohere.ai/compatibility/v1/chat/completions", BEARER),
    "groq": Row("https://api.groq.com/openai/v1/chat/completions", BEARER, bounds="max_completion_tokens"),
    "together": Row("https://api.together.xyz/v1/chat/completions", BEARER, model="meta-llama/Llama-3.3-70B"),
    "fireworks": Row(
        "https://api.fireworks.ai/inference/v1/chat/completions", BEARER, model="accounts/fireworks/models/m"
    ),
    "deepseek": Row("https://api.deepseek.com/v1/chat/completions", BEARER),
    "xai": Row("https://api.x.ai/v1/chat/completions", BEARER),
    "perplexity": Row("https://api.perplexity.ai/chat/completions", BEARER, asks_usage=False),
    "openrouter": Row("https://openrouter.ai/api/v1/chat/completions", BEARER, model="mistralai/mistral-small"),
    "cerebras": Row("https://api.cerebras.ai/v1/chat/completions", BEARER, bounds="max_completion_tokens"),
    "nvidia": Row("https://integrate.api.nvidia.com/v1/chat/completions", BEARER, model="meta/llama-3.3-70b"),
    "huggingface": Row("https://router.huggingface.co/v1/chat/completions", BEARER, model="a/b:together"),
    "databricks": Row(
        "https://dbc-1.cloud.databricks.com/serving-endpoints/chat/completions",
        BEARER,
        {"project": "dbc-1.cloud.databricks.com"},
    ),
    "cloudflare": Row(
        "https://api.cloudflare.com/client/v4/accounts/our-account/ai/v1/chat/completions",
        BEARER,
        {"project": "our-account"},
        model="@cf/meta/llama-3.3",
    ),
    "ollama": Row("http://127.0.0.1:11434/v1/chat/completions", BEARER),
    "vllm": Row("http://127.0.0.1:8000/v1/chat/completions", BEARER),
    "sglang": Row("http://127.0.0.1:30000/v1/chat/completions", BEARER),
    "lmstudio": Row("http://127.0.0.1:1234/v1/chat/completions", BEARER),
    "llamacpp": Row("http://127.0.0.1:8080/v1/chat/completions", BEARER),
}
SAYS = ["all ", "well"]


async def gemini_says(wire: Wire, asked: Asked) -> None:
    part = {"content": {"role": "model", "parts": [{"text": "all well"}]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
    value = {"candidates": [part], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "r"}
    if "alt=sse" not in asked.target:
        return await wire.plain(200, json.dumps(value).encode())
    await wire.head(200, SSE)
    await wire.chunk(b"data: " + json.dumps(value).encode() + b"\r\n\r\n")
    await wire.end()


async def bedrock_says(wire: Wire, asked: Asked) -> None:
    value = {
        "output": {"message": {"role": "assistant", "content": [{"text": "all well"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
        "metrics": {"latencyMs": 12},
    }
    await wire.plain(200, json.dumps(value).encode(), {"x-amzn-requestid": "aws-1"})


async def says(wire: Wire, asked: Asked) -> None:
    """Answers as whoever is asked at that path would."""
    if "/v1/messages" in asked.target:
        return await messages(SAYS)(wire, asked)
    if "enerateContent" in asked.target:
        return await gemini_says(wire, asked)
    if asked.target.startswith("/model/"):
        return await bedrock_says(wire, asked)
    await chat(SAYS)(wire, asked)


class Stage(NamedTuple):
    server: Server
    provider: Provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Provider(says) as provider:
        providers: list[dict[str, Any]] = []
        models: list[dict[str, Any]] = []
        for kind, row in ROWS.items():
            there = base_url(kinds.Provider(name=kind, kind=kind, **row.given), PROVIDERS[kind])
            place = f"{provider.url}{urlsplit(there).path}"  # only the host is another one
            providers.append({"name": kind, "kind": kind, "base_url": place, "api_key": "the-key", **row.given})
            models.append({"name": f"{kind}-model", "target": f"{kind}/{row.model}"})
        signed = {"access": "AKIDEXAMPLE", "secret_key": "wJalrXUtnFEMI", "session_token": "the-session"}
        aws = {"name": "aws", "kind": "bedrock", "base_url": provider.url, "api_key": signed.pop("access")}
        providers.append({**aws, **signed, **REGION})
        models.append({"name": "aws-model", "target": "aws/anthropic.claude-3-5-sonnet-20240620-v1:0"})
        dated = {"kind": "azure", "api_key": "the-key", "api_version": "2024-10-21"}
        providers.append({"name": "dated", **dated, "base_url": provider.url})
        providers.append({"name": "dated-v1", **dated, "base_url": f"{provider.url}/openai/v1"})
        models += [{"name": f"{name}-model", "target": f"{name}/our deployment"} for name in ("dated", "dated-v1")]
        document = {
            "providers": providers,
            "models": models,
            "teams": [{"name": "tests"}],
            "keys": [{"name": "tests", "team": "tests", "secret": "${TEST_KEY}"}],
        }
        with Server(document) as server:
            yield Stage(server, provider)


async def _ask(stage: Stage, model: str, stream: bool, dialect: str = "openai") -> Asked:
    stage.provider.asked.clear()
    body = {"model": model, "stream": stream, "max_tokens": 40, "messages": [{"role": "user", "content": "hello"}]}
    path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
    async with stage.server.client() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    assert "all " in reply.text
    [asked] = stage.provider.asked
    return asked


async def test_every_provider_has_a_row() -> None:
    assert set(ROWS) | {"sim"} == set(PROVIDERS)


@pytest.mark.parametrize("kind", ROWS)
async def test_the_address_is_the_documented_one(kind: str) -> None:
    row = ROWS[kind]
    there = base_url(kinds.Provider(name=kind, kind=kind, **row.given), PROVIDERS[kind])
    assert row.address.startswith(there + "/")
    for name in row.given:
        blank = {other: value for other, value in row.given.items() if other != name}
        with pytest.raises(Exception, match="needs"):
            base_url(kinds.Provider(name=kind, kind=kind, **blank), PROVIDERS[kind])


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("kind", ROWS)
async def test_it_is_asked_as_it_documents(stage: Stage, kind: str, dialect: str) -> None:
    row = ROWS[kind]
    asked = await _ask(stage, f"{kind}-model", False, dialect)
    there = urlsplit(row.address)
    assert asked.method == "POST"
    assert asked.target == there.path
    assert asked.headers[row.key[0]] == row.key[1]
    shown = [name for name, value in asked.headers.items() if "the-key" in value]
    assert shown == [row.key[0]], "the key is shown once, and in no address"
    assert not any(KEY in value for value in asked.headers.values())
    assert {name: asked.headers.get(name) for name in row.headers} == row.headers
    assert asked.headers["content-type"] == "application/json"
    wire = PROVIDERS[kind].wire
    if wire in ("openai", "anthropic"):
        assert asked.json["model"] == row.model
    if wire == "openai" and dialect == "anthropic":
        assert asked.json[row.bounds] == 40
        assert sum(name in asked.json for name in ("max_tokens", "max_completion_tokens")) == 1


@pytest.mark.parametrize("kind", [kind for kind in ROWS if PROVIDERS[kind].wire == "openai"])
async def test_usage_of_streams_is_asked_for_where_it_is_understood(stage: Stage, kind: str) -> None:
    for dialect in ("openai", "anthropic"):
        asked = await _ask(stage, f"{kind}-model", True, dialect)
        wanted = {"include_usage": True} if ROWS[kind].asks_usage else None
        assert asked.json.get("stream_options") == wanted


@pytest.mark.parametrize("kind", ["gemini", "vertex"])
async def test_google_streams(stage: Stage, kind: str) -> None:
    asked = await _ask(stage, f"{kind}-model", True)
    path = urlsplit(ROWS[kind].address).path.replace(":generateContent", ":streamGenerateContent")
    assert asked.target == f"{path}?alt=sse"


@pytest.mark.parametrize("name", ["dated", "dated-v1"])
async def test_azures_dated_api(stage: Stage, name: str) -> None:
    asked = await _ask(stage, f"{name}-model", False)
    assert asked.target == "/openai/deployments/our%20deployment/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == "the-key"


async def test_vertex_has_one_address_for_the_whole_world() -> None:
    given = kinds.Provider(name="v", kind="vertex", region="global", project="p")
    there = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google"
    assert base_url(given, PROVIDERS["vertex"]) == there


async def test_aws_can_verify_the_signature(stage: Stage) -> None:
    """By AWS's own recipe, step by step, over what arrived."""
    asked = await _ask(stage, "aws-model", False)
    assert asked.target == "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse"
    algorithm, _, rest = asked.headers["authorization"].partition(" ")
    assert algorithm == "AWS4-HMAC-SHA256"
    said = dict(piece.strip().split("=", 1) for piece in rest.split(","))
    access, date, region, service, end = said["Credential"].split("/")
    assert (access, region, service, end) == ("AKIDEXAMPLE", "eu-west-1", "bedrock", "aws4_request")
    assert asked.headers["x-amz-security-token"] == "the-session"
    assert asked.headers["x-amz-date"].startswith(date)
    names = said["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    assert names == sorted(names)
    canonical = "\n".join(
        [
            "POST",
            quote(asked.target, safe="/-_.~"),  # every service but S3 encodes the path once more
            "",
            *[f"{name}:{asked.headers[name]}" for name in names],
            "",
            ";".join(names),
            hashlib.sha256(asked.body).hexdigest(),
        ]
    )
    scope = f"{date}/{region}/{service}/aws4_request"
    to_sign = "\n".join([algorithm, asked.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4wJalrXUtnFEMI"
    for piece in (date, region, service, "aws4_request"):
        key = hmac.new(key, piece.encode(), hashlib.sha256).digest()
    assert said["Signature"] == hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
