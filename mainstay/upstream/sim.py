"""The simulator: a built-in provider that speaks OpenAI's format, for trying out, tests, load and game days.

It asks no model and says so in every answer. Latency, token rate and every fault can be set, and all of it is the same
again under the same seed: the n-th call of a provider has the same chance whatever happened before.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mainstay.core.clock import Clock
from mainstay.core.errors import Unsupported, UpstreamFailed
from mainstay.core.event import Frame
from mainstay.core.model import ModelFacts
from mainstay.upstream import sim_reply
from mainstay.upstream.ask import Ask
from mainstay.wire.dialect import Dialect

REFUSALS: dict[str, tuple[int, str, str, str]] = {
    "rate_limit": (429, "rate_limit_exceeded", "requests", "Rate limit reached for the simulator"),
    "server_error": (500, "server_error", "server_error", "The simulator had an error while processing your request"),
    "overloaded": (503, "overloaded", "server_error", "The simulator is overloaded"),
    "auth": (401, "invalid_api_key", "invalid_request_error", "Incorrect API key provided"),
    "not_found": (404, "model_not_found", "invalid_request_error", "The model does not exist"),
    "context_length": (
        400,
        "context_length_exceeded",
        "invalid_request_error",
        "This model's maximum context length is 8192 tokens",
    ),
    "content_filter": (400, "content_filter", "invalid_request_error", "The prompt was refused by the content filter"),
}
"""Faults that are an error reply: status, code, type, message."""

KINDS = frozenset(REFUSALS) | {
    "reset",  # the connection is closed before the reply begins
    "hang",  # nothing ever comes
    "late",  # the head at once, the first token after `seconds`
    "cut",  # the connection breaks after `after` tokens
    "close",  # the reply ends without its end after `after` tokens
    "stall",  # nothing more comes after `after` tokens, for `seconds` or for ever
    "error_event",  # an error inside the stream after `after` tokens
    "malformed",  # one unreadable event after `after` tokens
    "no_done",  # everything but the terminal sign
    "html",  # a page instead of an answer
    "huge",  # an answer far over the limit
    "down",  # refuses everything for `seconds` from the first call on
}
"""Every fault there is."""


@dataclass(frozen=True, slots=True)
class SimFault:
    """One misbehaviour; ``rate`` is its chance per call, ``times`` how often it may happen in all."""

    kind: str
    rate: float = 1.0
    after: int = 0
    times: int | None = None
    retry_after: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SimSettings:
    """How the simulator behaves when nothing is wrong; times in seconds."""

    seed: int = 0
    latency: float = 0.05
    jitter: float = 0.0
    tokens_per_second: float = 100.0
    tokens: int | None = None
    reply: str | None = None
    faults: tuple[SimFault, ...] = ()


class Simulator:
    """One simulated provider."""

    def __init__(
        self,
        settings: SimSettings,
        dialect: Dialect,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings, self._dialect, self._clock, self._sleep = settings, dialect, clock, sleep
        self._calls = 0
        self._happened: dict[int, int] = {}
        self._first: float | None = None

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> SimSource:
        """Answer, or misbehave as told."""
        self._calls += 1
        chance = random.Random(f"{self.settings.seed}:{self._calls}")
        same = ask.dialect.name == self._dialect.name
        if ask.operation == "embeddings" and same:
            body = ask.body
        elif ask.operation not in ("chat", "messages", "responses"):
            raise Unsupported(f"the simulator does not answer {ask.operation}", field="model")
        elif same and not ask.prefilled:
            body = self._dialect.rewrite(ask.operation, ask.body, ask.peek, model, ask.peek.stream)
        else:
            body = ask.write(self._dialect, model, facts)
        fault = self._fault(chance)
        ask.sent += 1
        await self.wait(
            ask, self.settings.latency * (1 + self.settings.jitter * (2 * chance.random() - 1)), "first token"
        )
        if fault is not None:
            await self._before(fault, ask)
        tokens = self.settings.tokens or chance.randint(20, 60)
        request = json.loads(body)
        # The text depends on the seed and the question, so that an answer that broke off can be given again.
        said = random.Random(f"{self.settings.seed}:{json.dumps(request.get('messages', ''))[:200]}")
        script = sim_reply.Script(
            request, said, tokens if self.settings.tokens else said.randint(20, 60), self.settings.reply
        )
        identifier = f"chatcmpl-sim{chance.getrandbits(80):020x}"
        created = int(self._clock.now())
        if ask.operation == "embeddings":
            pieces: Sequence[bytes] = [_embeddings(request, model)]
        elif ask.peek.stream:
            pieces = self._stream(script, identifier, model, created, fault)
        else:
            pieces = [
                b"<html>busy</html>" if _is(fault, "html") else sim_reply.plain(script, identifier, model, created)
            ]
        return SimSource(self, self._dialect, ask, same, pieces, fault, len(script.pieces))

    def _fault(self, chance: random.Random) -> SimFault | None:
        now = self._clock.monotonic()
        if self._first is None:
            self._first = now
        for i, fault in enumerate(self.settings.faults):
            lucky = chance.random() >= fault.rate
            happened = self._happened.get(i, 0)
            if lucky or (fault.times is not None and happened >= fault.times):
                continue
            if fault.kind == "down" and now - self._first > (fault.seconds or 60.0):
                continue
            self._happened[i] = happened + 1
            return fault
        return None

    async def _before(self, fault: SimFault, ask: Ask) -> None:
        kind = "overloaded" if fault.kind == "down" else fault.kind
        if kind in REFUSALS:
            status, code, sort, message = REFUSALS[kind]
            body = json.dumps({"error": {"message": message, "type": sort, "param": None, "code": code}}).encode()
            headers: Mapping[str, str] = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
            raise self._dialect.read_error(status, headers, body)
        if kind == "reset":
            raise UpstreamFailed("connect", "the simulator reset the connection")
        if kind == "huge":
            raise UpstreamFailed("too_large", "the simulator's answer is over the limit")
        if kind == "hang":
            await self.wait(ask, 1e9, "first token")
        if kind == "late":
            await self.wait(ask, fault.seconds or 1e9, "first token")

    async def wait(self, ask: Ask, seconds: float, phase: str) -> None:
        """Let ``seconds`` pass, or as much of them as the phase may take, and then fail as a silent provider does."""
        limit = {
            "first token": ask.phases.first_token if ask.peek.stream else ask.phases.plain,
            "idle": ask.phases.idle,
        }[phase]
        limit = min(limit, ask.deadline - self._clock.monotonic())
        if seconds <= limit:
            return await self._sleep(seconds)
        await self._sleep(max(0.0, limit))
        raise UpstreamFailed("timeout", f"the simulator was silent: {phase}")

    def _stream(
        self, script: sim_reply.Script, identifier: str, model: str, created: int, fault: SimFault | None
    ) -> list[bytes]:
        if _is(fault, "html"):
            return [b"<html>busy</html>"]
        events = sim_reply.chunks(script, identifier, model, created)
        last = sim_reply.ending(script, identifier, model, created)
        if fault is not None:
            at = min(1 + fault.after, len(events))
            if fault.kind in ("cut", "close", "stall"):
                return events[:at]
            if fault.kind == "error_event":
                return [
                    *events[:at],
                    b'data: {"error":{"message":"The simulator failed","type":"server_error","code":null}}\n\n',
                ]
            if fault.kind == "malformed":
                events.insert(at, b'data: {"id": "broken\n\n')
            if fault.kind == "no_done":
                last = last[:-1]
        return events + last


def _is(fault: SimFault | None, kind: str) -> bool:
    return fault is not None and fault.kind == kind


def _embeddings(request: Mapping[str, Any], model: str) -> bytes:
    given: Any = request.get("input", "")
    texts = cast(list[Any], given) if isinstance(given, list) else [given]
    size = int(request.get("dimensions") or 256)
    data = [
        {"object": "embedding", "index": i, "embedding": sim_reply.embedding(json.dumps(text), size)}
        for i, text in enumerate(texts)
    ]
    tokens = sum(max(1, len(json.dumps(text)) // 4) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}, separators=(",", ":")).encode()


class SimSource:
    """One simulated reply."""

    def __init__(
        self,
        simulator: Simulator,
        dialect: Dialect,
        ask: Ask,
        raw: bool,
        pieces: Sequence[bytes],
        fault: SimFault | None,
        tokens: int,
    ) -> None:
        self.status = 200
        self.request_id: str | None = None
        self.dialect, self.raw = dialect, raw
        self.stream = ask.peek.stream
        self.content_type = "text/event-stream" if self.stream else "application/json"
        self.headers: list[tuple[str, str]] = [("x-mainstay-simulated", "true")]
        self.done = False
        self._simulator, self._ask, self._fault = simulator, ask, fault
        self._pieces = list(pieces)
        self._at = 0
        self._pause = 1.0 / simulator.settings.tokens_per_second
        self._reader = dialect.reader(ask.operation) if self.stream else None
        self._tokens = tokens

    async def next(self) -> list[Frame]:
        """The next token's event, when it is due."""
        if self._reader is None:
            return await self._whole()
        while self._at < len(self._pieces):
            if self._at > 1:
                await self._simulator.wait(self._ask, self._pause, "idle")
            piece = self._pieces[self._at]
            self._at += 1
            if piece.startswith(b"<html"):
                raise UpstreamFailed("unreadable", "the simulator answered with a page")
            frames = self._reader.feed(piece)
            self.done = self._reader.done
            if frames:
                return self._shown(frames)
        if _is(self._fault, "cut"):
            raise UpstreamFailed("cut", "the simulator broke the connection")
        if _is(self._fault, "stall"):
            fault = self._fault
            await self._simulator.wait(self._ask, (fault.seconds if fault else None) or 1e9, "idle")
        return []

    def _shown(self, frames: list[Frame]) -> list[Frame]:
        if self.raw and not self._ask.peek.usage_wanted:
            return [Frame(b"", f.events) if b'"choices":[],' in (f.raw or b"") else f for f in frames]
        return frames

    async def _whole(self) -> list[Frame]:
        if self.done:
            return []
        self.done = True
        await self._simulator.wait(self._ask, self._pause * self._tokens, "idle")
        body = self._pieces[0]
        if self.raw:
            return [Frame(body, self.dialect.glance(self._ask.operation, body))]
        return [Frame(None, self.dialect.read_reply(body))]

    def hide(self, failure: UpstreamFailed) -> None:
        """There is no secret."""

    def close(self) -> None:
        """Nothing is held."""
