"""Cases for the fault table: routes with targets of their own at misbehaving providers, and callers that judge strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.provider import TOKENS, Part, Provider, chat, messages
from tests.running import Server, bundle

WHOLE = "".join(TOKENS)
TIMEOUTS = {"connect": "1200ms", "first_token": "1200ms", "idle": "1200ms", "plain": "1200ms", "total": "20s"}
PRICES = {"o": {"input": 1, "output": 2}, "g": {"input": 2, "output": 4}, "a": {"input": 3, "output": 15}}
NEVER = {"failures": 1_000_000, "min_calls": 1_000_000}
"""A breaker that does not open."""
_PROVIDERS = {"o": "alpha", "g": "gamma", "a": "beta"}
_PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"}


@dataclass(frozen=True)
class Shape:
    """A kind of route: ``to`` has a letter per target: o and g speak OpenAI's format, a speaks Anthropic's."""

    to: str
    count: int = 10
    route: Mapping[str, Any] = field(default_factory=dict[str, Any])
    models: Mapping[str, Any] = field(default_factory=dict[str, Any])
    each: Sequence[Mapping[str, Any]] = ()
    """Settings of the single models, in the order of ``to``."""
    again: bool = False
    """The breakers never open, so that a route can be used by one case after the other."""


@dataclass
class Answer:
    """One reply as its caller understood it."""

    status: int
    headers: httpx.Headers
    raw: bytes
    text: str = ""
    tools: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict[tuple[int, int], tuple[str, str]])
    texts: dict[int, str] = field(default_factory=dict[int, str])
    finish: str | None = None
    ended: bool = False
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None

    @property
    def success(self) -> bool:
        """The caller takes it for a whole answer."""
        return self.status == 200 and self.ended and self.error is None

    @property
    def call(self) -> str:
        return self.headers["x-mainstay-call"]

    @property
    def why(self) -> str:
        return self.headers.get("x-mainstay-why", "")

    def is_whole(self, text: str = WHOLE) -> None:
        """Fail unless it is a success with exactly ``text``."""
        assert self.success, (self.status, self.error, self.why, self.raw[-600:])
        assert self.text == text, (self.text, self.why)

    def is_error(self, status: int | None = None) -> None:
        """Fail unless the caller is told that it failed."""
        assert not self.success, (self.text, self.why)
        assert self.error is not None, (self.status, self.raw[-600:])
        assert self.error.get("message"), self.error
        if status is not None:
            assert self.status == status, (self.status, self.error)


@dataclass
class Case:
    """One route of a rig, and its targets' parts of the providers, in the route's order."""

    rig: Rig
    name: str
    models: list[str]
    targets: list[Part]

    async def ask(self, *, stream: bool, caller: str = "openai", **more: Any) -> Answer:
        """Put one question to the route and understand the answer."""
        return await ask(self.rig.client, self.name, stream=stream, caller=caller, **more)

    @property
    def asked(self) -> list[int]:
        """How often each target was asked."""
        return [len(target.asked) for target in self.targets]


class Rig:
    """A running product and three providers."""

    def __init__(self, server: Server, client: httpx.AsyncClient, shapes: Mapping[str, Shape]) -> None:
        self.server, self.client, self.shapes = server, client, shapes
        self.providers: dict[str, Provider] = {}
        self._taken: dict[str, int] = {}

    def take(self, shape: str) -> Case:
        """A route that no other case uses at the same time."""
        number = self._taken[shape] = self._taken.get(shape, -1) + 1
        kind = self.shapes[shape]
        assert kind.again or number < kind.count, f"no more routes of the shape {shape!r}: give it a larger count"
        number %= kind.count
        models = [f"{shape}-{number}-{i}" for i in range(len(kind.to))]
        parts: list[Part] = []
        for letter, model in zip(kind.to, models, strict=True):
            provider = self.providers[letter]
            provider.parts[upstream_name(model)] = part = Part(provider.default)
            parts.append(part)
        return Case(self, f"{shape}-{number}", models, parts)

    async def record(self, call: str) -> dict[str, Any]:
        """The call's record, once it is in the ledger."""
        async with asyncio.timeout(15):
            while True:
                found = await self.client.get(f"/api/v1/calls/{call}")
                if found.status_code == 200:
                    return found.json()
                assert found.status_code == 404, found.text
                await asyncio.sleep(0.05)

    async def budget(self, rule: str) -> dict[str, Any]:
        """A budget as it stands."""
        reply = await self.client.get("/api/v1/budgets", params={"exact": "true"})
        return next(one for one in reply.json()["data"] if rule in json.dumps(one))

    def gateway_bytes(self) -> int:
        """Resident memory of the gateway."""
        return max(process.memory_info().rss for process in self.server.children("gateway"))


def upstream_name(model: str) -> str:
    """What the provider calls it."""
    return f"m-{model}"


def made(shapes: Mapping[str, Shape], urls: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """The bundle for ``shapes``; ``more`` are sections of it."""
    models: dict[str, dict[str, Any]] = {}
    routes: list[dict[str, Any]] = []
    for shape, kind in shapes.items():
        for number in range(kind.count):
            names = [f"{shape}-{number}-{i}" for i in range(len(kind.to))]
            for i, (letter, name) in enumerate(zip(kind.to, names, strict=True)):
                own = kind.each[i] if kind.each else {}
                target = f"{_PROVIDERS[letter]}/{upstream_name(name)}"
                models[name] = {"target": target, "price": PRICES[letter], **kind.models, **own}
                if kind.again:
                    models[name]["breaker"] = NEVER
            route = {"timeouts": TIMEOUTS, "retry": {"base": "20ms"}, **kind.route}
            routes.append({"name": f"{shape}-{number}", "to": {"fallback": names}, **route})
    providers = {
        "alpha": f"openai@{urls['o']}/v1",
        "gamma": f"openai@{urls['g']}/v1",
        "beta": f"anthropic@{urls['a']}",
    }
    made = bundle(providers, models, routes=routes)
    return {**made, **more}


@asynccontextmanager
async def rigged(
    shapes: Mapping[str, Shape], *, more: Mapping[str, Any] | None = None, **env: Any
) -> AsyncIterator[Rig]:
    """Providers and the product in front of them, with a pool of routes for each shape."""
    async with Provider(chat()) as o, Provider(chat()) as g, Provider(messages()) as a:
        providers = {"o": o, "g": g, "a": a}
        urls = {letter: provider.url for letter, provider in providers.items()}
        with Server(made(shapes, urls, **(more or {})), **env) as server:
            async with server.client(limits=httpx.Limits(max_connections=None)) as client:
                rig = Rig(server, client, shapes)
                rig.providers = providers
                yield rig


def body(model: str, *, stream: bool, caller: str = "openai", **more: Any) -> dict[str, Any]:
    """A request in the caller's format."""
    question = [{"role": "user", "content": "Count to sixty."}]
    if caller == "responses":
        return {"model": model, "input": "Count to sixty.", "stream": stream, **more}
    if caller == "anthropic":
        return {"model": model, "max_tokens": 1000, "messages": question, "stream": stream, **more}
    return {"model": model, "messages": question, "stream": stream, **more}


async def ask(
    client: httpx.AsyncClient,
    model: str,
    *,
    stream: bool,
    caller: str = "openai",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Answer:
    """Put one question, and understand the answer as a careful client would."""
    request = body(model, stream=stream, caller=caller, **more)
    reply = await client.post(_PATHS[caller], json=request, headers=dict(headers or {}))
    answer = Answer(reply.status_code, reply.headers, reply.content)
    if reply.status_code != 200:
        shown = reply.json()
        answer.error = shown["error"]
        return answer
    if stream:
        assert reply.headers["content-type"].startswith("text/event-stream"), reply.headers
        _STREAMS[caller](answer, events(reply.content))
    else:
        _PLAIN[caller](answer, reply.json())
    if not answer.text and answer.texts:
        answer.text = answer.texts.get(0, "")
    return answer


def events(raw: bytes) -> list[tuple[str, str]]:
    """The events of a stream of server-sent events, comments left out."""
    found: list[tuple[str, str]] = []
    assert raw.endswith(b"\n\n"), raw[-200:]
    for block in raw.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in lines)}
            if "data" in fields:
                found.append((fields.get("event", ""), fields["data"]))
    return found


def _openai_stream(answer: Answer, found: list[tuple[str, str]]) -> None:
    finished: dict[int, str] = {}
    said: dict[int, list[str]] = {}
    for i, (_, data) in enumerate(found):
        assert not answer.ended, "something after [DONE]"
        assert answer.error is None, f"something after an error: {found[i:]}"
        if data == "[DONE]":
            answer.ended = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            answer.error = chunk["error"]
            continue
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice.get("delta") or {}
            if delta.get("content"):
                assert index not in finished, "content after its finish"
                said.setdefault(index, []).append(delta["content"])
            for tool in delta.get("tool_calls") or ():
                key = (index, tool["index"])
                name, arguments = answer.tools.get(key, ("", ""))
                function = tool.get("function") or {}
                assert not (name and function.get("name")), "a tool call began twice"
                answer.tools[key] = (
                    name or function.get("name") or "",
                    arguments + (function.get("arguments") or ""),
                )
            if choice.get("finish_reason"):
                assert index not in finished, "two finishes"
                finished[index] = choice["finish_reason"]
    answer.texts = {index: "".join(words) for index, words in said.items()}
    answer.finish = finished.get(0)
    if answer.ended:
        assert finished, "ended without a finish"
        assert finished.keys() >= answer.texts.keys(), "a choice without its finish"


def _anthropic_stream(answer: Answer, found: list[tuple[str, str]]) -> None:
    blocks: dict[int, str] = {}
    closed: set[int] = set()
    started = False
    for i, (name, data) in enumerate(found):
        assert not answer.ended, "something after message_stop"
        assert answer.error is None, f"something after an error: {found[i:]}"
        event = json.loads(data)
        assert event["type"] == name
        match name:
            case "message_start":
                assert not started
                started = True
            case "content_block_start":
                assert started
                assert event["index"] == len(blocks)
                assert len(closed) == len(blocks), "a block began in another"
                blocks[event["index"]] = event["content_block"]["type"]
                if event["content_block"]["type"] == "tool_use":
                    answer.tools[(0, event["index"])] = (event["content_block"]["name"], "")
            case "content_block_delta":
                assert event["index"] in blocks
                assert event["index"] not in closed
                delta = event["delta"]
                if delta["type"] == "text_delta":
                    answer.text += delta["text"]
                elif delta["type"] == "input_json_delta":
                    name, arguments = answer.tools[(0, event["index"])]
                    answer.tools[(0, event["index"])] = (name, arguments + delta["partial_json"])
            case "content_block_stop":
                assert event["index"] in blocks
                assert event["index"] not in closed
                closed.add(event["index"])
            case "message_delta":
                assert answer.finish is None
                answer.finish = event["delta"]["stop_reason"]
                answer.usage = event["usage"]
            case "message_stop":
                assert answer.finish is not None
                assert closed == set(blocks), "a block was never closed"
                answer.ended = True
            case "error":
                answer.error = event["error"]
            case _:
                assert name == "ping", name


def _responses_stream(answer: Answer, found: list[tuple[str, str]]) -> None:
    for number, (name, data) in enumerate(found):
        assert not answer.ended, "something after the end"
        event = json.loads(data)
        assert event["type"] == name
        assert event["sequence_number"] == number
        match name:
            case "response.output_text.delta":
                assert answer.error is None
                answer.text += event["delta"]
            case "response.output_text.done":
                assert event["text"] == answer.text
            case "response.completed":
                assert answer.error is None
                _responses_plain(whole := Answer(200, answer.headers, b""), event["response"])
                assert whole.text == answer.text
                assert whole.tools.values() == answer.tools.values() or not answer.tools
                answer.ended, answer.finish, answer.usage = True, "stop", whole.usage
                answer.tools = whole.tools
            case "response.failed":
                answer.error = event["response"]["error"]
            case "error":
                answer.error = event
            case _:
                pass


def _openai_plain(answer: Answer, reply: dict[str, Any]) -> None:
    for choice in reply["choices"]:
        answer.texts[choice["index"]] = choice["message"]["content"] or ""
        for i, tool in enumerate(choice["message"].get("tool_calls") or ()):
            answer.tools[(choice["index"], i)] = (tool["function"]["name"], tool["function"]["arguments"])
    answer.finish = reply["choices"][0]["finish_reason"]
    answer.usage = reply.get("usage")
    answer.ended = answer.finish is not None


def _anthropic_plain(answer: Answer, reply: dict[str, Any]) -> None:
    for i, block in enumerate(reply["content"]):
        if block["type"] == "text":
            answer.text += block["text"]
        elif block["type"] == "tool_use":
            answer.tools[(0, i)] = (block["name"], json.dumps(block["input"]))
    answer.finish, answer.usage = reply["stop_reason"], reply["usage"]
    answer.ended = answer.finish is not None


def _responses_plain(answer: Answer, reply: dict[str, Any]) -> None:
    for i, item in enumerate(reply["output"]):
        if item["type"] == "message":
            answer.text += "".join(part["text"] for part in item["content"] if part["type"] == "output_text")
        elif item["type"] == "function_call":
            answer.tools[(0, i)] = (item["name"], item["arguments"])
    answer.error, answer.usage = reply.get("error"), reply.get("usage")
    answer.finish = reply["status"]
    answer.ended = reply["status"] == "completed"


_Stream = Callable[[Answer, list[tuple[str, str]]], None]
_STREAMS: dict[str, _Stream] = {
    "openai": _openai_stream,
    "anthropic": _anthropic_stream,
    "responses": _responses_stream,
}
_PLAIN: dict[str, Callable[[Answer, dict[str, Any]], None]] = {
    "openai": _openai_plain,
    "anthropic": _anthropic_plain,
    "responses": _responses_plain,
}


async def together(cases: Sequence[Awaitable[None]]) -> None:
    """Run all of them at once; fail with what each of the failing ones said."""
    results = await asyncio.gather(*cases, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(cases)} cases failed:\n" + "\n\n".join(map(str, failed[:8])))
