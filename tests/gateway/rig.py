"""The pipeline in process: real stages, journal and purse; targets and control are fakes that do what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mainstay.access.authenticate import hash_secret
from mainstay.access.purse import Purse
from mainstay.access.rules import key_owner, named_rule, owner_rules, parts, team_owner
from mainstay.core.artifact import Artifact, digest
from mainstay.core.call import Reply
from mainstay.core.clock import Clock, FixedClock
from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import Event, Frame
from mainstay.core.ids import Ids
from mainstay.core.model import ModelFacts
from mainstay.core.money import Price, nano_from_usd
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
from mainstay.ledger.record import CallRecord
from mainstay.ledger.spool import Content, ContentSpool
from mainstay.registry import kinds
from mainstay.registry.snapshot import Looked, Resolved, ResolvedBudget, ResolvedKey, ResolvedTeam, resolve
from mainstay.upstream.ask import Ask
from mainstay.wire.dialects import dialects
from tests.provider import chat_events, chat_reply, messages_events, messages_reply

PEPPER = "pepper"
SECRET = "ms-secret"
TOKENS = ["one ", "two ", "three"]
WIRES = dialects()
PRICE = {"input": 1, "output": 10}


def chat_body(text: str = "hello", model: str = "m", **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


class Source:
    """A reply that comes as a test says: pieces of bytes, an error to raise, or an event to wait for."""

    def __init__(self, pieces: Sequence[Any], ask: Ask, wire: str) -> None:
        self.status, self.request_id = 200, "req_1"
        self.dialect = WIRES.by_name[wire]
        self.raw = ask.dialect.name == wire
        self.stream = ask.peek.stream
        self.content_type = "text/event-stream" if self.stream else "application/json"
        self.headers: list[tuple[str, str]] = []
        self.done = self.closed = False
        self._operation = ask.operation
        self._pieces = list(pieces)
        self._reader = self.dialect.reader(ask.operation)

    async def next(self) -> list[Frame]:
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, Exception):
                raise piece
            elif not self.stream:
                self.done = True
                if self.raw:
                    return [Frame(piece, self.dialect.glance(self._operation, piece))]
                return [Frame(None, self.dialect.read_reply(piece))]
            else:
                frames = self._reader.feed(piece)
                self.done = self._reader.done
                if frames:
                    return frames
        return []

    def hide(self, failure: UpstreamFailed) -> None:
        pass

    def close(self) -> None:
        self.closed = True


Behaviour = Callable[[Ask], Sequence[Any]]


def says(tokens: Sequence[str] = TOKENS, wire: str = "openai", usage: bool = True) -> Behaviour:
    """Answers with these tokens, streamed or plain as asked; without ``usage`` it does not say what it used."""

    def behave(ask: Ask) -> Sequence[Any]:
        words = list(tokens)
        if wire == "anthropic":
            return messages_events(words) if ask.peek.stream else [messages_reply(words)]
        return chat_events(words, usage) if ask.peek.stream else [chat_reply(words, usage=usage)]

    return behave


def reported(usage: Mapping[str, Any], tokens: Sequence[str] = TOKENS) -> bytes:
    """A plain reply of OpenAI's with that usage."""
    return json.dumps({**json.loads(chat_reply(list(tokens))), "usage": usage}).encode()


def reports(usage: Mapping[str, Any]) -> Behaviour:
    """Answers plainly, with that usage."""
    return lambda ask: [reported(usage)]


def fails(kind: Any = "server_error", **more: Any) -> Behaviour:
    """Raises at once."""

    def behave(ask: Ask) -> Sequence[Any]:
        raise UpstreamFailed(kind, f"{kind} of the test", **more)

    return behave


class Target:
    """A fake provider: ``default`` for every model of it, or what ``script`` has next."""

    def __init__(self, wire: str) -> None:
        self.wire = wire
        self.default: Behaviour = says(wire=wire)
        self.script: list[Behaviour] = []
        self.models: dict[str, Behaviour] = {}
        self.asked: list[str] = []
        self.sources: list[Source] = []
        self.before: Callable[[str], Any] = lambda model: None

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> Source:
        self.asked.append(model)
        waits = self.before(model)
        if waits is not None:
            await waits
        if self.wire != ask.dialect.name:
            ask.write(WIRES.by_name[self.wire], model, facts)
        behave = self.script.pop(0) if self.script else self.models.get(model, self.default)
        source = Source(behave(ask), ask, self.wire)
        self.sources.append(source)
        return source


@dataclass
class Done:
    """What became of a call."""

    call: Routed
    raw: bytes = b""
    events: list[Event] = field(default_factory=list[Event])
    error: BaseException | None = None
    reply: Reply | None = None

    @property
    def why(self) -> str:
        return "; ".join(self.call.why)


class Spool(ContentSpool):
    """Remembers what it was given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: list[Content] = []

    def put(self, content: Content) -> str | None:
        self.given.append(content)
        return super().put(content)


class Rig:
    """One gateway without its door."""

    def __init__(
        self,
        folder: Path,
        *,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        routes: Mapping[str, Mapping[str, Any]] | None = None,
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        teams: Mapping[str, Mapping[str, Any]] | None = None,
        budgets: Sequence[Mapping[str, Any]] = (),
        clock: Clock | None = None,
        chance: Callable[[], float] = lambda: 0.0,
        cache_bytes: int = 10_000_000,
    ) -> None:
        self.clock = clock or FixedClock()
        self.chance = chance
        self.purse = Purse(self.clock)
        self.journal = Journal(folder, "gw_1", clock=self.clock, segment_bytes=1 << 20)
        self.spool = Spool(folder)
        self.memory = Memory(cache_bytes, self.clock)
        self.ids = Ids(self.clock)
        self.targets = {"alpha": Target("openai"), "beta": Target("anthropic")}
        self.records: list[CallRecord] = []
        self.charged: dict[str, int] = {}
        """What records that are no longer remembered have charged."""
        self.needs: list[dict[str, int]] = []
        self._free: dict[str, int] = {}
        self._amounts: dict[str, int] = {}
        self.compiler = Compiler(
            lambda body: self.targets[body.name], lambda text: text, PEPPER, self.purse, self.clock
        )
        self.given: dict[str, Any] = {
            "models": models or {"m": {"target": "alpha/m", "price": PRICE}},
            "routes": routes or {},
            "keys": keys or {"k": {}},
            "teams": teams or {"t": {}},
            "budgets": budgets,
        }
        self.plan: Plan = self.load()
        close = self.journal.close

        def closing(record: CallRecord) -> None:
            self.records.append(record)
            close(record)

        self.journal.close = closing  # type: ignore[method-assign]
        self.cache = Cache(self.memory, self.clock)
        self.sleeps: list[float] = []
        self.pipeline = Pipeline(
            (
                Record(self.journal, self.clock, status_of),
                Identify(lambda: self.plan, WIRES.by_name, WIRES.plain, self.clock),
                Resolve(lambda: self.chance()),
                Admit(self.purse, self._ask),
                CountTokens(),
                KeepContent(self.spool, WIRES.by_name),
                self.cache,
                Attempts(self.journal, self.clock, lambda: self.chance(), self._sleep),
            )
        )

    def load(self, **changes: Any) -> Plan:
        """Put another configuration in force."""
        self.given.update(changes)
        self.plan = self.compiler.compile(self.resolved())
        return self.plan

    def resolved(self) -> Resolved:
        artifacts: list[Artifact] = []

        def put(kind: str, body: dict[str, Any]) -> None:
            artifacts.append(Artifact(kind, body["name"], digest(body), body))

        for name, wire in (("alpha", "openai"), ("beta", "anthropic")):
            put("provider", {"name": name, "wire": wire, "base_url": f"http://{name}.test"})
        for kind in ("model", "route"):
            for name, body in self.given[f"{kind}s"].items():
                put(kind, {"name": name, **body})
        budgets = [msgspec.convert(body, kinds.NamedBudget) for body in self.given["budgets"]]
        teams = [msgspec.convert({"name": name, **body}, ResolvedTeam) for name, body in self.given["teams"].items()]
        keys: list[ResolvedKey] = []
        for name, body in self.given["keys"].items():
            secret = SECRET if name == "k" else f"{SECRET}-{name}"
            fixed = {"id": f"key_{name}", "name": name, "team": "t", "hash": hash_secret(secret, PEPPER)}
            keys.append(msgspec.convert({**fixed, **body}, ResolvedKey))
        rules = [named_rule(budget).rule for budget in budgets]
        for team in teams:
            rules += owner_rules(team_owner(team.name), team.limits, team.budgets)
        for key in keys:
            rules += owner_rules(key_owner(key.team, key.name), key.limits, key.budgets)
        self._amounts = {rule.id: rule.amount for rule in rules}
        made = resolve(artifacts, _look, teams, keys, PEPPER)
        made.budgets = [
            ResolvedBudget(digest=digest(b), body=msgspec.convert(b, kinds.NamedBudget)) for b in self.given["budgets"]
        ]
        return made

    # control

    def _ask(self, need: int, wants: dict[str, int]) -> None:
        self.needs.append(wants)
        asyncio.get_running_loop().call_soon(self._grant, need, dict(wants))

    def _grant(self, need: int, wants: dict[str, int]) -> None:
        granted: dict[str, int] = {}
        for pool, want in wants.items():
            free = self._free.setdefault(pool, self._amounts[parts(pool)[0]])
            granted[pool] = min(want, free)
            self._free[pool] = free - granted[pool]
        self.purse.credit(need, granted, {}, {pool: self._free[pool] for pool in wants})

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        assert isinstance(self.clock, FixedClock)
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    @property
    def pools(self) -> dict[str, Any]:
        """All pools of the purse, by rule."""
        return {parts(name)[0] + parts(name)[1]: pool for name, pool in self.purse._pools.items()}

    def nothing_held(self) -> None:
        """Fail if any call holds anything, and unless what was spent is what the records say."""
        charged = dict(self.charged)
        for record in self.records:
            for pool, nano in record.charges.items():
                charged[pool] = charged.get(pool, 0) + nano
        for name, pool in self.purse._pools.items():
            assert pool.held == 0, (name, pool.held)
            assert pool.spent == charged.get(name, 0), (name, pool.spent, charged)
        for target in self.plan.targets.values():
            assert target.health.in_flight == 0
            assert target.health.gate.inside == target.health.provider_gate.inside == 0
        assert self.journal.open_calls == 0

    # calls

    def make(self, body: bytes, headers: Mapping[str, str] | None = None, **more: Any) -> Routed:
        found = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", **(headers or {})}
        operation, dialect = more.get("operation", "chat"), more.get("dialect", "openai")
        now, started = self.clock.now(), self.clock.monotonic()
        return Routed(self.ids.make("call_"), now, started, operation, dialect, found, body)

    async def leave_after(self, turns: int, call: Routed) -> None:
        """The caller goes away when it has so many lists of frames. Raises ``CancelledError``."""
        async with self.pipeline.open(call) as reply:
            async for _ in reply.frames:
                turns -= 1
                if not turns:
                    raise asyncio.CancelledError

    async def ask(self, body: bytes | None = None, headers: Mapping[str, str] | None = None, **more: Any) -> Done:
        """One call, to its end."""
        call = self.make(chat_body() if body is None else body, headers, **more)
        done = Done(call)
        try:
            async with self.pipeline.open(call) as reply:
                done.reply = reply
                async for frames in reply.frames:
                    for frame in frames:
                        done.raw += (frame.raw or b"") if reply.dialect else b""
                        done.events += frame.events
        except Exception as error:
            done.error = error
        return done


def _look(provider: kinds.Provider, model: kinds.Model) -> Looked:
    body = model.price
    if body is None:
        return Looked()
    rates = {
        name: nano_from_usd(value)
        for name in (
            "input",
            "output",
            "cached_input",
            "cache_write",
            "reasoning",
            "input_audio",
            "output_audio",
            "request",
        )
        if (value := getattr(body, name)) is not None
    }
    return Looked(Price(**rates))


async def settle(turns: int = 5) -> None:
    """Let everything run that can run now."""
    for _ in range(turns):
        await asyncio.sleep(0)
