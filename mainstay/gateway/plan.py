"""A Snapshot compiled for the hot path: every look-up that a call needs is one dictionary away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mainstay.access.authenticate import KeyRing
from mainstay.access.purse import Purse
from mainstay.access.rules import USD, Rule, ScopedRule, claims, key_owner, named_rule, owner_rules, team_owner
from mainstay.core.call import Principal
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.core.model import ModelFacts
from mainstay.core.money import nano_from_usd
from mainstay.core.order import Table, table
from mainstay.core.route import Name, Node, Weighted, When, names, parse
from mainstay.gateway.admit import bound_at
from mainstay.gateway.retry import RetryBudget, RetryRule
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Health, Latency, Target
from mainstay.registry import kinds
from mainstay.registry.kinds import seconds
from mainstay.registry.snapshot import Resolved, ResolvedKey, ResolvedModel, unsealed
from mainstay.upstream.ask import Answerer, Phases
from mainstay.upstream.breaker import Breaker
from mainstay.upstream.gate import Gate
from mainstay.upstream.models import facts


@dataclass(slots=True)
class CacheRule:
    """A route's cache; ``ttl`` in seconds."""

    ttl: float
    scope: str
    max_bytes: int


@dataclass(slots=True)
class Hedge:
    """A route's hedging; times in seconds, money in nano-dollars. ``share`` bounds how many calls may be hedged."""

    after: float
    most: int | None
    share: float
    budget: RetryBudget

    def allows(self, other: Target, call: Routed) -> bool:
        """Whether a second attempt may be made for ``call``."""
        if self.most is not None:
            bound = bound_at(other, call)
            if bound is None or bound > self.most:
                return False
        return self.budget.allows()


@dataclass(slots=True)
class Route:
    """One name that callers may ask for."""

    name: str
    tree: Node
    version: str
    retry: RetryRule
    retry_budget: RetryBudget
    phases: Phases
    cache: CacheRule | None
    hedge: Hedge | None
    rescue: bool
    hold_back: int
    prompt_cache: str | None
    content: bool
    priority: int
    looks_at_budget: bool = False
    """A case of it, or of a route that it leads to, asks for the budget that is left."""
    table: Table | None = None
    """The orders of its targets, where they depend on nothing but chance."""

    def called(self) -> None:
        """A call goes to upstreams: retries and hedges are a share of these."""
        self.retry_budget.called()
        if self.hedge is not None:
            self.hedge.budget.called()


@dataclass(slots=True)
class Opened:
    """What a key opens."""

    principal: Principal
    rules: tuple[tuple[Rule, str], ...]
    money: tuple[Rule, ...]
    """Of the rules, the budgets."""
    content: bool | None
    priority: int | None


class Plan:
    """One Snapshot, ready to answer calls under."""

    def __init__(
        self,
        digest: str,
        targets: Mapping[str, Target],
        routes: Mapping[str, Route],
        keys: KeyRing[Opened],
        scoped: Iterable[ScopedRule],
        purse: Purse,
    ) -> None:
        self.digest, self.targets, self.routes, self.keys = digest, targets, routes, keys
        self.trees: dict[str, Node] = {
            name: route.tree
            for name, route in routes.items()
            if not (isinstance(route.tree, Name) and route.tree.name == name)
        }
        for route in routes.values():
            route.table = table(route.tree, self.trees)
            route.looks_at_budget = any(_looks_at_budget(tree) for tree in self._below(route))
        self.by_model = tuple(rule for rule in scoped if rule.by == "model")
        self._scoped = tuple(rule for rule in scoped if rule.by != "model")
        self._purse = purse

    def _below(self, route: Route) -> list[Node]:
        """The trees of the route and of all that it may lead to."""
        found = {route.name: route.tree}
        todo = [route.tree]
        while todo:
            for name in names(todo.pop()):
                if name in self.trees and name not in found:
                    found[name] = self.trees[name]
                    todo.append(self.trees[name])
        return list(found.values())

    def rules(self, call: Routed) -> tuple[Sequence[tuple[Rule, str]], Sequence[Rule]]:
        """The rules that bind this call whichever target answers, each with its scope, and which of them are budgets."""
        key = call.opened_by
        if not self._scoped:
            return key.rules, key.money
        bound, money = list(key.rules), list(key.money)
        for rule in self._scoped:
            scope = rule.scope(call.user, call.tags, None)
            if scope is not None:
                bound.append((rule.rule, scope))
                money.append(rule.rule)
        return bound, money

    def budget_left(self, call: Routed) -> float:
        """The share of the tightest budget that is left, 0 to 1; 1 where none applies."""
        return self._purse.left_share(claims([r for r in self.rules(call)[0] if r[0].code == USD], call.at, 0, 0))


class Compiler:
    """Compiles Snapshots; remembers the health of targets from one to the next."""

    def __init__(
        self,
        answerer: Callable[[kinds.Provider], Answerer],
        unseal: Callable[[str], str],
        pepper: str,
        purse: Purse,
        clock: Clock,
    ) -> None:
        self._answerer, self._unseal, self._pepper = answerer, unseal, pepper
        self._purse, self._clock = purse, clock
        self._answerers: dict[str, tuple[str, Answerer]] = {}
        self._health: dict[tuple[str, str, str], Health] = {}
        self._gates: dict[tuple[str, str], Gate] = {}

    def compile(self, resolved: Resolved) -> Plan:
        """The plan of ``resolved``. Raises ``Invalid`` for what cannot be put in force; nothing has changed then."""
        providers = {one.body.name: one for one in resolved.providers}
        targets: dict[str, Target] = {}
        for model in resolved.models:
            provider = providers.get(model.provider)
            if provider is None:
                raise Invalid(f"model {model.body.name!r} is of an unknown provider {model.provider!r}")
            targets[model.body.name] = self._target(model, provider.digest, provider.body)
        versions = {one.body.name: one.digest for one in resolved.models}
        routes = {name: self._route(kinds.Route(name=name, to=name), versions[name]) for name in targets}
        for route in resolved.routes:
            routes[route.body.name] = self._route(route.body, route.digest)
        for route in routes.values():
            unknown = next((name for name in names(route.tree) if name not in routes), None)
            if unknown is not None:
                raise Invalid(f"route {route.name!r} leads to {unknown!r}, which is neither a model nor a route")
        digests = {name: route.version for name, route in routes.items()}
        for model in resolved.models:
            digests[model.body.name] = f"{model.digest},{providers[model.provider].digest}"
        for route in routes.values():
            route.version = _version(route, routes, digests)
        teams = {team.name: team for team in resolved.teams}
        opened: dict[str, tuple[ResolvedKey, Opened]] = {}
        for key in resolved.keys:
            team = teams.get(key.team)
            rules = list(owner_rules(key_owner(key.team, key.name), key.limits, key.budgets))
            models = None if key.models is None else frozenset(key.models)
            if team is not None:
                rules += owner_rules(team_owner(team.name), team.limits, team.budgets)
                if team.models is not None:
                    models = frozenset(team.models) if models is None else models & frozenset(team.models)
            principal = Principal(key.name, key.id, key.team, models, key.admin)
            money = tuple(rule for rule in rules if rule.code == USD)
            bound = tuple((rule, "") for rule in rules)
            opened[key.hash] = (key, Opened(principal, bound, money, key.content, key.priority))
        scoped = [named_rule(one.body) for one in resolved.budgets]
        self._forget(providers, targets)
        return Plan(resolved.digest, targets, routes, self._ring(opened), scoped, self._purse)

    def _ring(self, opened: Mapping[str, tuple[ResolvedKey, Opened]]) -> KeyRing[Opened]:
        entries = {found: (entry, key.expires) for found, (key, entry) in opened.items() if not key.revoked}
        return KeyRing(entries, self._pepper)

    def _target(self, model: ResolvedModel, provider_digest: str, sealed: kinds.Provider) -> Target:
        body, name = model.body, model.provider
        known = self._answerers.get(name)
        if known is None or known[0] != provider_digest:
            known = (provider_digest, self._answerer(unsealed(sealed, self._unseal)))
            self._answerers[name] = known
        declared = ModelFacts(
            context_window=body.context_window,
            max_output=body.max_output,
            tools=body.tools,
            images=body.images,
            audio=body.audio,
            documents=body.documents,
            schema=body.schema,
            reasoning=body.reasoning,
            sampling=body.sampling,
            prefill=body.prefill,
        )
        book = ModelFacts(context_window=model.context_window)
        return Target(
            body.name,
            name,
            model.upstream_model,
            sealed.wire or "",
            known[1],
            facts(model.upstream_model, declared, book),
            model.price,
            self._healthy(name, model, sealed),
            None if body.max_call_usd is None else nano_from_usd(body.max_call_usd),
        )

    def _healthy(self, provider: str, model: ResolvedModel, sealed: kinds.Provider) -> Health:
        rule, limit = model.body.breaker, model.body.concurrency
        place = (provider, repr(sealed.concurrency))
        gate = self._gates.get(place)
        if gate is None:
            gate = self._gates[place] = _gate(f"provider {provider}", sealed.concurrency)
        key = (provider, model.upstream_model, repr((rule, limit, sealed.concurrency)))
        found = self._health.get(key)
        if found is None:
            breaker = Breaker(
                rule.failures, rule.rate, rule.min_calls, seconds(rule.window), seconds(rule.open_for), self._clock
            )
            own = _gate(f"model {model.body.name}", limit)
            most = None if limit is None else limit.limit
            found = Health(breaker, own, gate, Latency(self._clock), Latency(self._clock), limit=most)
            self._health[key] = found
        return found

    def _forget(self, providers: Collection[str], targets: Mapping[str, Target]) -> None:
        """Drop what nothing in the new plan refers to; calls under way keep it for as long as they need it."""
        healths = {id(target.health) for target in targets.values()}
        gates = {id(target.health.provider_gate) for target in targets.values()}
        self._health = {key: health for key, health in self._health.items() if id(health) in healths}
        self._gates = {key: gate for key, gate in self._gates.items() if id(gate) in gates}
        self._answerers = {name: known for name, known in self._answerers.items() if name in providers}

    def health(self) -> Mapping[tuple[str, str], Health]:
        """The health of every target by provider and the provider's name of the model."""
        return {(provider, model): health for (provider, model, _), health in self._health.items()}

    def _route(self, body: kinds.Route, digest: str) -> Route:
        retry, times = body.retry, body.timeouts
        tree = parse(body.to)
        hedge = body.hedge
        return Route(
            body.name,
            tree,
            digest,
            RetryRule(retry.attempts, seconds(retry.base), seconds(retry.cap), retry.budget, body.on_filter),
            RetryBudget(retry.budget, self._clock),
            Phases(
                seconds(times.connect),
                seconds(times.first_token),
                seconds(times.idle),
                seconds(times.plain),
                seconds(times.total),
            ),
            None if body.cache is None else CacheRule(seconds(body.cache.ttl), body.cache.scope, body.cache.max_bytes),
            None
            if hedge is None
            else Hedge(
                seconds(hedge.after),
                None if hedge.max_usd is None else nano_from_usd(hedge.max_usd),
                hedge.max_share,
                RetryBudget(hedge.max_share, self._clock),
            ),
            body.rescue == "auto",
            body.hold_back,
            body.prompt_cache,
            body.content,
            body.priority,
        )


def _version(route: Route, routes: Mapping[str, Route], digests: Mapping[str, str]) -> str:
    """What the route means now: its own digest and those of every route, model and provider that it can lead to."""
    seen: dict[str, None] = {}
    todo = [route.name]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen[name] = None
            todo += names(routes[name].tree)
    return "|".join([f"{name}={digests[name]}" for name in seen])


def _gate(name: str, limit: kinds.Concurrency | None) -> Gate:
    return Gate(name) if limit is None else Gate(name, limit.limit, limit.queue, seconds(limit.wait))


def _looks_at_budget(node: Node) -> bool:
    if isinstance(node, Name):
        return False
    if isinstance(node, When):
        if any(condition.budget_left_below is not None for condition, _ in node.cases):
            return True
        children = [child for _, child in node.cases]
        children += [] if node.otherwise is None else [node.otherwise]
    elif isinstance(node, Weighted):
        children = [child for child, _ in node.to]
    else:
        children = list(node.to)
    return any(_looks_at_budget(child) for child in children)
