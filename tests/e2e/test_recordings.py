"""Real exchanges with OpenAI and Azure, replayed through the running product and compared byte by byte."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import yaml

from tests.provider import Asked, Provider, Wire
from tests.running import Server

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "data" / "recordings"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recorded exchanges (../shared/data/recordings) are absent"),
]

OUR_LINE = re.compile(rb": x-mainstay-[^\n]*\n\n(?=data: \[DONE\]\n\n\Z)")
BOUNDARY = "a-boundary-of-the-tests"


@dataclass
class Exchange:
    """One recorded request and its response; headers in lower case."""

    name: str
    path: str
    query: str
    content_type: str
    body: bytes
    status: int
    headers: dict[str, str]
    reply: bytes
    model: str = field(init=False)

    def __post_init__(self) -> None:
        if self.content_type.startswith("multipart/"):  # the recording holds only a note in place of the body
            self.model = "whisper-1"
            self.content_type = f"multipart/form-data; boundary={BOUNDARY}"
            self.body = form(self.model)
        else:
            self.model = json.loads(self.body)["model"]

    @property
    def azure(self) -> bool:
        return "/deployments/" in self.path

    @property
    def stream(self) -> bool:
        return "event-stream" in self.headers["content-type"]


def form(model: str) -> bytes:
    """A multipart body as an SDK sends it, with a file that is no text."""
    sound = bytes(range(256)) * 40 + b"\r\n--" + BOUNDARY.encode()[:-1]
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n'
        "content-type: audio/wav\r\n\r\n".encode()
        + sound,
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="model"\r\n\r\n{model}'.encode(),
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="response_format"\r\n\r\njson'.encode(),
    ]
    return b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()


def recorded() -> list[Exchange]:
    """All recorded exchanges."""
    found: list[Exchange] = []
    for file in sorted(RECORDINGS.glob("*.yaml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for number, one in enumerate(yaml.load(file.read_text(), loader)["interactions"]):
            request, response = one["request"], one["response"]
            address = urlsplit(request["url"])
            query = address.query or "&".join(f"{n}={v[0]}" for n, v in (request.get("form") or {}).items())
            name = file.stem if not number else f"{file.stem}-{number}"
            headers = {n.lower(): v[0] for n, v in response["headers"].items()}
            content_type = request["headers"]["Content-Type"][0]
            body, reply = request["body"].encode(), response["body"].encode()
            found.append(Exchange(name, address.path, query, content_type, body, response["code"], headers, reply))
    return found


EXCHANGES = recorded() if RECORDINGS.is_dir() else []


class Replay:
    """Plays the recorded response of the exchange that is on."""

    def __init__(self) -> None:
        self.on: Exchange | None = None

    async def __call__(self, wire: Wire, asked: Asked) -> None:
        on = self.on
        assert on is not None
        named = ("content-type", "x-request-id", "openai-processing-ms", "openai-version", "retry-after")
        headers = {name: on.headers[name] for name in named if name in on.headers}
        if not on.stream:
            return await wire.plain(on.status, on.reply, headers)
        await wire.head(on.status, headers)
        sizes, at = random.Random(on.name), 0
        while at < len(on.reply):
            size = sizes.choice((1, 2, 7, 40, 300, 3000))
            await wire.chunk(on.reply[at : at + size])
            at += size
        await wire.end()


@dataclass
class Stage:
    """The running product between the tests and the replaying provider."""

    server: Server
    provider: Provider
    replay: Replay


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    replay = Replay()
    async with Provider(replay) as provider:
        names = sorted({(one.model, one.azure) for one in EXCHANGES})
        azure = {"name": "azure", "kind": "azure", "base_url": provider.url, "api_key": "azure-key"}
        document: dict[str, Any] = {
            "providers": [
                {"name": "openai", "kind": "openai", "base_url": f"{provider.url}/v1", "api_key": "openai-key"},
                {**azure, "api_version": "2024-12-01-preview"},
            ],
            "models": [
                {"name": own(model, azure), "target": ("azure/" if azure else "openai/") + renamed(model)}
                for model, azure in names
            ],
            "routes": [{"name": "retry-free", "to": own(*names[0]), "retry": {"attempts": 1}}],
            "teams": [{"name": "tests"}],
            "keys": [{"name": "tests", "team": "tests", "secret": "${TEST_KEY}", "admin": True}],
        }
        with Server(document) as server:
            yield Stage(server, provider, replay)


def own(model: str, azure: bool) -> str:
    """What the caller calls the model: as in the recording."""
    return f"azure-{model}" if azure else model


def renamed(model: str) -> str:
    """What the provider calls it: another name, so that renaming is seen."""
    return f"{model}-of-the-provider"


async def test_there_are_recordings() -> None:
    assert len(EXCHANGES) >= 43
    assert len({one.name for one in EXCHANGES}) == len(EXCHANGES)


@pytest.mark.parametrize("one", EXCHANGES, ids=lambda one: one.name)
async def test_replay(stage: Stage, one: Exchange) -> None:
    stage.replay.on, stage.provider.asked = one, []
    path = one.path.partition(f"/deployments/{one.model}")[2] if one.azure else one.path.removeprefix("/v1")
    sent = one.body.replace(one.model.encode(), own(one.model, one.azure).encode(), 1) if one.azure else one.body
    async with stage.server.client() as client:
        reply = await client.post(f"/v1{path}", content=sent, headers={"content-type": one.content_type})
    _caller_got(one, reply.status_code, reply.headers["content-type"], reply.content)
    assert reply.headers["x-mainstay-call"]
    if "x-request-id" in one.headers and one.status == 200:
        assert reply.headers["x-request-id"] == one.headers["x-request-id"]
    [asked] = stage.provider.asked
    _provider_got(one, asked)


def _caller_got(one: Exchange, status: int, content_type: str, body: bytes) -> None:
    assert status == one.status
    assert content_type == one.headers["content-type"]
    if one.stream:
        body, lines = OUR_LINE.subn(b"", body)
        assert lines == 1, "one comment line of ours, before [DONE]"
    assert body == one.reply


def _provider_got(one: Exchange, asked: Asked) -> None:
    assert asked.method == "POST"
    if one.azure:
        place = one.path.replace(one.model, renamed(one.model))
        assert asked.target == f"{place}?{one.query}"
        assert asked.headers["api-key"] == "azure-key"
        assert "authorization" not in asked.headers
    else:
        assert asked.target == one.path
        assert asked.headers["authorization"] == "Bearer openai-key"
    assert asked.headers["content-type"] == one.content_type
    assert asked.headers["accept-encoding"] == "gzip"
    assert "test-secret" not in repr(asked.headers)
    if "multipart/" in one.content_type:
        assert asked.body == form(renamed(one.model))
        return
    body = asked.body
    if one.stream and not (json.loads(one.body).get("stream_options") or {}).get("include_usage"):
        given = json.loads(body)
        assert given["stream_options"]["include_usage"] is True
        without = re.subn(rb',?\s*"stream_options":\s*\{"include_usage":\s*true\}', b"", body)
        assert without[1] == 1
        body = without[0]
    expected = one.body.replace(f'"model": "{one.model}"'.encode(), f'"model": "{renamed(one.model)}"'.encode())
    assert body == expected


async def test_every_replay_is_on_the_ledger(stage: Stage) -> None:
    """The usage that the recordings report is what is recorded, and each is there once."""
    calls = await stage.server.until_calls(len(EXCHANGES), "--since", "1h")
    assert len(calls) == len(EXCHANGES)
    assert len({call["id"] for call in calls}) == len(calls)
    assert sorted(call["status"] for call in calls) == sorted(one.status for one in EXCHANGES)
    reported = [usage for one in EXCHANGES if (usage := _usage(one)) is not None]
    assert len(reported) >= 30
    told = [
        (call["usage"]["input"], call["usage"]["output"])
        for call in calls
        if call["usage"] and not call["usage"]["estimated"]
    ]
    assert sorted(told) == sorted(reported)


def _usage(one: Exchange) -> tuple[int, int] | None:
    """Tokens in and out as the recording reports them."""
    pieces = [one.reply]
    if one.stream:
        pieces = [line[6:] for line in one.reply.split(b"\n") if line.startswith(b"data: {")]
    for piece in pieces:
        usage = json.loads(piece).get("usage")
        if usage and "prompt_tokens" in usage:
            return usage["prompt_tokens"], usage.get("completion_tokens", 0)
        if usage and "input_tokens" in usage:
            return usage["input_tokens"], usage["output_tokens"]
    return None
