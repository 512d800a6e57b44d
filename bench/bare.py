"""A gateway's stages in this process, without sockets: a real plan, purse and journal, an upstream that answers at once."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec

from bench import traffic
from mainstay.access.authenticate import hash_secret
from mainstay.access.hold import Hold
from mainstay.access.purse import Purse
from mainstay.core.clock import Clock
from mainstay.core.event import Frame
from mainstay.core.ids import Ids
from mainstay.core.model import ModelFacts
from mainstay.core.money import Price, nano_from_usd
from mainstay.edge.http_exchange import header_block
from mainstay.edge.model_api import Streaming, _headers, _plain  # pyright: ignore[reportPrivateUsage]
from mainstay.edge.status import status_of
from mainstay.gateway.admit import Admit
from mainstay.gateway.attempt import Attempts
from mainstay.gateway.cache import Cache, Memory
from mainstay.gateway.content import KeepContent
from mainstay.gateway.count import CountTokens
from mainstay.gateway.identify import Identify
from mainstay.gateway.pipeline import Pipeline
from mainstay.gateway.plan import Compiler, Plan
from mainstay.gateway.record import Record
from mainstay.gateway.resolve import Resolve
from mainstay.gateway.routed import Routed
from mainstay.ledger.journal import Journal
from mainstay.ledger.spool import ContentSpool
from mainstay.registry import kinds, snapshot
from mainstay.upstream.ask import Ask
from mainstay.wire.dialect import Dialect
from mainstay.wire.dialects import dialects

_PEPPER = "pepper of the bench"
_BRIM = 1 << 50  # units that no run uses up


class Canned:
    """A source whose reply is already there."""

    def __init__(self, pieces: Sequence[bytes], dialect: Dialect, raw: bool, stream: bool, operation: str) -> None:
        self.dialect, self.raw, self.stream = dialect, raw, stream
        self.status = 200
        self.request_id: str | None = None
        self.content_type = "text/event-stream" if stream else "application/json"
        self.headers: list[tuple[str, str]] = []
        self.done = False
        self._pieces, self._operation = iter(pieces), operation
        self._reader = dialect.reader(operation) if stream else None

    async def next(self) -> list[Frame]:
        """The frames of the next piece."""
        piece = next(self._pieces, None)
        if piece is None:
            return []
        if self._reader is not None:
            frames = self._reader.feed(piece)
            self.done = self._reader.done
            return frames
        self.done = True
        if self.raw:
            return [Frame(piece, self.dialect.glance(self._operation, piece))]
        return [Frame(None, self.dialect.read_reply(piece))]

    def close(self) -> None:
        """Nothing to give back."""


class Instant:
    """An upstream that has answered before it is asked; the request is written for it all the same."""

    def __init__(self, dialect: Dialect, operation: str) -> None:
        self._dialect, self._operation = dialect, operation
        self.pieces: Sequence[bytes] = ()

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> Canned:
        """Put the question."""
        same = ask.dialect.name == self._dialect.name
        if same:
            self._dialect.rewrite(ask.operation, ask.body, ask.peek, model, False)
        else:
            ask.write(self._dialect, model, facts)
        return Canned(self.pieces, self._dialect, same, ask.peek.stream, self._operation)


class Caller:
    """Takes what would go to a caller, as an exchange does."""

    def __init__(self) -> None:
        self.started = self.congested = False
        self.size = 0

    def start(self, status: int, headers: Any, first: bytes = b"") -> None:
        """The head."""
        self.started = True

    def write(self, data: bytes) -> None:
        """A piece."""
        self.size += len(b"%x\r\n%b\r\n" % (len(data), data))


class Bare:
    """Needs a running event loop."""

    def __init__(self, home: Path) -> None:
        self.clock = clock = Clock()
        self.dialects, plain = dialects()
        self.purse = Purse(clock)
        self.openai = Instant(self.dialects["openai"], "chat")
        self.anthropic = Instant(self.dialects["anthropic"], "messages")
        compiler = Compiler(
            lambda body: self.openai if body.wire == "openai" else self.anthropic,
            lambda sealed: sealed,
            _PEPPER,
            self.purse,
            clock,
        )
        self.plan: Plan = compiler.compile(resolved())
        self.journal = Journal(home, "gw_bench", clock=clock)
        self.ids = Ids(clock)
        self.record = Record(self.journal, clock, status_of)
        self.identify = Identify(lambda: self.plan, self.dialects, plain, clock)
        self.resolve = Resolve(lambda: 0.5)
        self.admit = Admit(self.purse, self._never)
        self.cache = Cache(Memory(64 * 1024 * 1024, clock), clock)
        self.attempts = Attempts(self.journal, clock, lambda: 0.5)
        keep = KeepContent(ContentSpool(self.journal.folder), self.dialects)
        stages = (self.record, self.identify, self.resolve, self.admit, CountTokens(), keep, self.cache, self.attempts)
        self.pipeline = Pipeline(stages)

    @staticmethod
    def _never(*_: Any) -> None:
        raise RuntimeError("the shares of the bench are used up")

    def close(self) -> None:
        """Close the journal."""
        self.journal.stop()

    def call(self, body: bytes, secret: str = traffic.SECRET) -> Routed:
        """A call as the door makes it."""
        headers = {
            "host": "127.0.0.1:8080",
            "content-type": "application/json",
            "authorization": f"Bearer {secret}",
            "content-length": "331",
        }
        now, start = self.clock.now(), self.clock.monotonic()
        return Routed(self.ids.make("call_"), now, start, "chat", "openai", headers, body, "")

    def again(self, call: Routed) -> Routed:
        """``call`` under a new id, so that the journal takes it for another."""
        call.id = self.ids.make("call_")
        return call

    def identified(self, body: bytes, secret: str) -> Routed:
        """A call that has gone as far as ``resolve``."""
        call = self.call(body, secret)
        self.identify.enter(call)
        self.resolve.enter(call)
        return call

    def fund(self, call: Routed) -> None:
        """Give the purse enough of everything that ``call`` needs, as control does."""
        for _ in range(2):
            waiting = self.admit.enter(call)
            if waiting is None:
                break
            waiting.close()  # type: ignore[attr-defined]
            self.purse.credit(0, {claim.pool: _BRIM for claim in call.claims})
        if isinstance(call.hold, Hold):
            call.hold.release()

    def answer(self, *pieces: bytes) -> None:
        """What the upstreams answer from now on."""
        self.openai.pieces = self.anthropic.pieces = pieces

    async def run(self, call: Routed) -> bytes:
        """Through the whole pipeline, the reply folded and its headers written."""
        self.cache._memory.clear()  # pyright: ignore[reportPrivateUsage]  # so that every look-up is a miss
        async with self.pipeline.open(call) as reply:
            body = await _plain(call, self.dialects["openai"], reply)
        self.reply_headers(call)
        return body

    def laps(self, calls: int, body: bytes) -> dict[str, list[int]]:
        """Nanoseconds of each stage, and of some parts of them (``stage · part``), in each of so many whole calls."""
        laps: dict[str, list[int]] = {}
        parts = ((self.journal, "open", "Attempts.enter"), (self.journal, "close", "Record.leave"))
        for place, name, stage in (*parts, (self.dialects["openai"], "glance", "Attempts.enter")):
            setattr(place, name, _timed(getattr(place, name), laps.setdefault(f"{stage} · {name}", [])))
        try:
            for _ in range(calls):
                started = perf_counter_ns()
                call = self.call(body)
                laps.setdefault("call made", []).append(perf_counter_ns() - started)
                drive(self._lap(call, laps))
        finally:
            for place, name, _ in (*parts, (self.dialects["openai"], "glance", "")):
                delattr(place, name)
        return laps

    async def _lap(self, call: Routed, laps: dict[str, list[int]]) -> None:
        stages = self.pipeline._stages  # pyright: ignore[reportPrivateUsage]
        reply = None
        for stage in stages:
            started = perf_counter_ns()
            reply = stage.enter(call)
            if isinstance(reply, Awaitable):
                reply = await reply
            laps.setdefault(f"{type(stage).__name__}.enter", []).append(perf_counter_ns() - started)
        assert reply is not None
        started = perf_counter_ns()
        await _plain(call, self.dialects["openai"], reply)
        laps.setdefault("reply folded", []).append(perf_counter_ns() - started)
        for stage in reversed(stages):
            started = perf_counter_ns()
            stage.leave(call, None)
            laps.setdefault(f"{type(stage).__name__}.leave", []).append(perf_counter_ns() - started)
        started = perf_counter_ns()
        header_block(self.reply_headers(call))
        laps.setdefault("reply headers", []).append(perf_counter_ns() - started)
        self.cache._memory.clear()  # pyright: ignore[reportPrivateUsage]

    def garbage(self, calls: int, body: bytes) -> float:
        """Objects per call that only the cyclic collector can free."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(calls):
                drive(self.run(self.call(body)))
            return gc.collect() / calls
        finally:
            gc.enable()

    def finished(self, body: bytes) -> Routed:
        """A call that has been answered."""
        call = self.call(body)
        self.answer(traffic.chat_reply())
        drive(self.run(call))
        return call

    def reply_headers(self, call: Routed) -> list[tuple[str, str]]:
        """The headers of its reply."""
        return _headers(call, self.clock)

    def stream_call(self, model: str, secret: str, events: Sequence[bytes]) -> Callable[[], None]:
        """A function that streams one whole reply through the pipeline."""
        body = traffic.chat_request(model, stream=True)

        async def run() -> None:
            call = self.call(body, secret)
            caller = Caller()
            streaming = Streaming(caller, call, self.dialects["openai"])  # type: ignore[arg-type]
            async with self.pipeline.open(call) as reply:
                await streaming.run(reply)
            streaming.last()

        def once() -> None:
            self.answer(*events)
            drive(run())

        return once


def _timed(call: Callable[..., Any], times: list[int]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        started = perf_counter_ns()
        result = call(*arguments)
        times.append(perf_counter_ns() - started)
        return result

    return timed


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never has to wait. Raises ``RuntimeError`` if it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a stage waited")


def _price(given: dict[str, float]) -> Price:
    nano = {name: nano_from_usd(str(value)) for name, value in given.items()}
    return Price(nano["input"], nano["output"], nano.get("cached_input"))


def resolved() -> snapshot.Resolved:
    """The bundle of the bench as a Snapshot."""
    bundle = traffic.bundle("http://127.0.0.1:9/v1", "http://127.0.0.1:9")
    found = snapshot.Resolved(digest="b" * 32)
    for one in bundle["providers"]:
        found.providers.append(snapshot.ResolvedProvider(digest=one["name"], body=msgspec.convert(one, kinds.Provider)))
    for one in bundle["models"]:
        price = _price(one["price"])
        provider, _, upstream_model = one["target"].partition("/")
        body = msgspec.convert(one, kinds.Model)
        found.models.append(
            snapshot.ResolvedModel(
                digest=one["name"], body=body, provider=provider, upstream_model=upstream_model, price=price
            )
        )
    for one in bundle["routes"]:
        found.routes.append(snapshot.ResolvedRoute(digest=one["name"], body=msgspec.convert(one, kinds.Route)))
    for one in bundle["teams"]:
        budgets = [msgspec.convert(one["budget"], kinds.Budget)] if "budget" in one else []
        found.teams.append(snapshot.ResolvedTeam(name=one["name"], budgets=budgets))
    secrets = {"full": traffic.SECRET, "plain": traffic.PLAIN_KEY}
    for one in bundle["keys"]:
        found.keys.append(
            snapshot.ResolvedKey(
                id=f"key_{one['name']}",
                name=one["name"],
                team=one["team"],
                hash=hash_secret(secrets[one["name"]], _PEPPER),
                limits=msgspec.convert(one["limits"], kinds.Limits) if "limits" in one else None,
                budgets=[msgspec.convert(one["budget"], kinds.Budget)] if "budget" in one else [],
            )
        )
    return found
