"""Turns a LiteLLM proxy's ``config.yaml`` into a bundle, and lists by name what could not be carried over."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mainstay.core.errors import BadConfig
from mainstay.registry.document import read
from mainstay.registry.litellm_targets import Deployment, deployment, number, text
from mainstay.registry.litellm_text import written

TEAM = "imported"
"""The team that the master key becomes a key of."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}\Z")
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "usage-based-routing": "least_busy",
    "usage-based-routing-v2": "least_busy",
    "latency-based-routing": "fastest",
    "cost-based-routing": "cheapest",
}
_REASONS = {
    "callbacks": "calls are in the ledger, and /metrics has the figures",
    "success_callback": "calls are in the ledger, and /metrics has the figures",
    "failure_callback": "calls are in the ledger, and /metrics has the figures",
    "service_callbacks": "/metrics has the figures",
    "drop_params": "a hint that a target has no word for is dropped and named; what would change the answer is refused",
    "modify_params": "requests are not changed in silence",
    "set_verbose": "it is a setting of the process, not of behaviour",
    "json_logs": "it is a setting of the process, not of behaviour",
    "redis_host": "processes of one machine share limits exactly without it",
    "redis_port": "processes of one machine share limits exactly without it",
    "redis_password": "processes of one machine share limits exactly without it",
    "redis_url": "processes of one machine share limits exactly without it",
    "database_url": "virtual keys, teams and spend live in that database: declare keys here, or make them anew",
    "store_model_in_db": "models that live in its database are not in this file: declare them here",
    "salt_key": "it encrypts what is in LiteLLM's database, which is not carried over",
    "alerting": "alert on /metrics",
    "proxy_batch_write_at": "the ledger is written without it",
    "max_budget": "give the team imported a budget",
    "budget_duration": "give the team imported a budget",
    "max_parallel_requests": "give keys or teams limits: {concurrent: …}",
    "global_max_parallel_requests": "give the team imported limits: {concurrent: …}",
    "retry_policy": "retries are decided by the kind of failure already",
    "allowed_fails_policy": "a breaker counts failures of the target, whatever their kind",
    "disable_cooldowns": "breakers are always on; a high breaker.failures comes near",
    "enable_tag_filtering": "write a route with when: {tags: …}",
    "guardrails": "guards are not part of a bundle yet",
}
_ALWAYS = frozenset(
    {"enable_pre_call_checks", "disable_spend_logs", "disable_retry_on_max_parallel_request_limit_error"}
)


@dataclass(frozen=True, slots=True)
class Imported:
    """A bundle's text, which passes ``check`` once its variables are set, and what is not in it."""

    bundle_yaml: str
    notes: list[str]


@dataclass(slots=True)
class _Group:
    """All deployments behind one name, and what a route of that name adds."""

    name: str
    deployments: list[tuple[str, Deployment]] = field(default_factory=list[tuple[str, Deployment]])
    fallbacks: list[str] = field(default_factory=list[str])
    on_filter: bool = False
    alias_of: str | None = None


def import_litellm(yaml_text: str) -> Imported:
    """The bundle for a LiteLLM ``config.yaml``. Raises ``BadConfig`` for a text that is none."""
    document = read(yaml_text.replace("${", "$${"), {})
    problems = [f"config.yaml:{line}: {sentence}" for line, sentence in document.problems]
    if not problems and not isinstance(document.value, dict):
        problems = ["config.yaml:1: expected model_list: and other settings of a LiteLLM proxy"]
    if problems:
        raise BadConfig(problems)
    return _Import(cast(dict[str, Any], document.value)).run()


class _Import:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._litellm = self._section("litellm_settings")
        self._router = self._section("router_settings")
        self._general = self._section("general_settings")
        self._notes: dict[tuple[str, str], list[str]] = {}
        self._providers: dict[str, dict[str, Any]] = {}
        self._models: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, _Group] = {}

    def run(self) -> Imported:
        self._deployments()
        self._fallbacks()
        self._aliases()
        shared = self._shared()
        routes = self._routes(shared)
        keys = self._keys()
        self._leftovers()
        notes = [
            f"{what}{' (' + ', '.join(dict.fromkeys(where)) + ')' if where else ''}: {why}"
            for (what, why), where in self._notes.items()
        ]
        sections: list[tuple[str, Iterable[Mapping[str, Any]]]] = [
            ("providers", self._providers.values()),
            ("models", self._models.values()),
            ("routes", routes),
            *keys,
        ]
        return Imported(written(sections, notes), notes)

    def _section(self, name: str) -> dict[str, Any]:
        section = self._config.get(name)
        return dict(cast(dict[str, Any], section)) if isinstance(section, dict) else {}

    def _note(self, what: str, why: str, where: str | None = None) -> None:
        places = self._notes.setdefault((what, why), [])
        if where is not None:
            places.append(where)

    # deployments

    def _deployments(self) -> None:
        found = self._config.get("model_list")
        for i, entry in enumerate(cast(list[Any], found) if isinstance(found, list) else []):
            if not isinstance(entry, dict):
                self._note(f"model_list[{i}]", "it is not a mapping")
                continue
            given = cast(dict[str, Any], entry)
            name = str(given.get("model_name") or "")
            if not _NAME.match(name):
                self._note(f"model_list[{i}]", f'"{name}" cannot be a name here: name each model that callers may use')
                continue
            params, info = given.get("litellm_params"), given.get("model_info")
            made = deployment(
                cast(dict[str, Any], params) if isinstance(params, dict) else {},
                cast(dict[str, Any], info) if isinstance(info, dict) else {},
                lambda what, why, name=name: self._note(what, why, name),
            )
            for setting in given.keys() - {"model_name", "litellm_params", "model_info"}:
                self._note(f"model_list.{setting}", "it has no counterpart", name)
            if made is not None:
                provider = self._provider(made.provider)
                self._groups.setdefault(name, _Group(name)).deployments.append((provider, made))

    def _provider(self, wanted: dict[str, Any]) -> str:
        like = str(wanted["name"])
        for name, there in self._providers.items():
            if {**there, "name": ""} == {**wanted, "name": ""}:
                return name
        name, count = like, 1
        while name in self._providers:
            count += 1
            name = f"{like}-{count}"
        self._providers[name] = {**wanted, "name": name}
        return name

    # routes

    def _setting(self, name: str) -> Any:
        """A setting that both sections may hold; the router's own goes first."""
        outer, inner = self._litellm.pop(name, None), self._router.pop(name, None)
        return outer if inner is None else inner

    def _fallbacks(self) -> None:
        for setting in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
            for name, targets in _pairs(self._setting(setting)):
                group = self._groups.get(name)
                if group is None:
                    self._note(f"{setting}.{name}", "no model of that name could be carried over")
                    continue
                known = [target for target in targets if target in self._groups and target != name]
                for target in targets:
                    if target not in self._groups:
                        self._note(f"{setting}.{name}", f'no model "{target}" could be carried over')
                group.fallbacks += [target for target in known if target not in group.fallbacks]
                if setting == "content_policy_fallbacks":
                    group.on_filter = True
                if setting != "fallbacks" and known:
                    self._note(setting, "they became fallbacks for every failure that another target may mend", name)
        default = self._setting("default_fallbacks")
        for group in self._groups.values():
            for target in map(str, cast(list[Any], default) if isinstance(default, list) else []):
                if target in self._groups and target != group.name and target not in group.fallbacks:
                    group.fallbacks.append(target)

    def _aliases(self) -> None:
        aliases = self._setting("model_group_alias")
        for alias, target in cast(dict[str, Any], aliases).items() if isinstance(aliases, dict) else ():
            hidden = isinstance(target, dict)
            name = str(cast(dict[str, Any], target).get("model")) if hidden else str(target)
            if hidden and cast(dict[str, Any], target).get("hidden"):
                self._note(f"model_group_alias.{alias}.hidden", "/v1/models lists every name that the key may use")
            if name not in self._groups or alias in self._groups or not _NAME.match(alias):
                self._note(f"model_group_alias.{alias}", f'it cannot stand for "{name}" here')
            else:
                self._groups[alias] = _Group(alias, alias_of=name)

    def _shared(self) -> dict[str, Any]:
        """What every route gets: retries, timeouts, cache."""
        shared: dict[str, Any] = {}
        retries = number(self._setting("num_retries"))
        if retries is not None and retries >= 0:
            shared["retry"] = {"attempts": min(int(retries) + 1, 10)}
        timeout = self._router.pop("timeout", None)
        timeout = self._litellm.pop("request_timeout", None) if timeout is None else timeout
        timeouts = _timeouts(timeout, self._router.pop("stream_timeout", None))
        if timeouts:
            shared["timeouts"] = timeouts
        cache = self._cache()
        if cache is not None:
            shared["cache"] = cache
        fails, cooldown = number(self._setting("allowed_fails")), number(self._setting("cooldown_time"))
        self._breaker: dict[str, Any] = {}
        if fails is not None and fails >= 0:
            self._breaker["failures"] = int(fails) + 1
        if cooldown is not None and cooldown > 0:
            self._breaker["open_for"] = _seconds(cooldown)
        return shared

    def _cache(self) -> dict[str, Any] | None:
        wanted, params = self._litellm.pop("cache", None), self._litellm.pop("cache_params", None)
        self._router.pop("cache_responses", None)
        if wanted is not True:
            if params is not None:
                self._note("litellm_settings.cache_params", "cache was not on")
            return None
        given = dict(cast(dict[str, Any], params)) if isinstance(params, dict) else {}
        kind, ttl = str(given.pop("type", "local")), number(given.pop("ttl", None))
        if given.pop("mode", None) == "default_off":
            self._note("litellm_settings.cache_params.mode", "give just the routes a cache that are to have one")
            return None
        if "semantic" in kind:
            self._note("litellm_settings.cache_params.type", f"{kind}: only equal requests are answered from the cache")
            return None
        if kind not in ("local", "disk"):
            self._note("litellm_settings.cache_params.type", f"{kind}: entries live in files of the machine")
        for setting in given:
            self._note(f"litellm_settings.cache_params.{setting}", "it has no counterpart")
        if ttl is None or ttl <= 0:
            self._note("litellm_settings.cache_params.ttl", "none was given; 10m was put in")
        return {"ttl": _seconds(ttl) if ttl is not None and ttl > 0 else "10m"}

    def _routes(self, shared: dict[str, Any]) -> list[dict[str, Any]]:
        strategy = str(self._router.pop("routing_strategy", "simple-shuffle"))
        way = _STRATEGIES.get(strategy)
        if way is None or strategy.startswith("usage-based"):
            self._note("router_settings.routing_strategy", f"{strategy} became {way or 'weighted'}")
        direct = {
            group.name
            for group in self._groups.values()
            if len(group.deployments) == 1
            and not group.fallbacks
            and not group.on_filter
            and not shared
            and not _own(group.deployments[0][1])
        }
        trees = {
            name: self._tree(group, way or "weighted", name in direct)
            for name, group in self._groups.items()
            if group.alias_of is None
        }
        routes: list[dict[str, Any]] = []
        for name, group in self._groups.items():
            if group.alias_of is not None:
                routes.append({"name": name, "to": group.alias_of, **shared})
            elif name not in direct:
                # the tree of a fallback is written out, since two groups may be each other's fallbacks
                chain = [trees[name], *(trees[target] for target in group.fallbacks)]
                route: dict[str, Any] = {"name": name, "to": chain[0] if len(chain) == 1 else {"fallback": chain}}
                route.update(self._own_settings(group, shared))
                if group.on_filter:
                    route["on_filter"] = "fallback"
                routes.append(route)
        return routes

    def _own_settings(self, group: _Group, shared: dict[str, Any]) -> dict[str, Any]:
        settings = dict(shared)
        first = group.deployments[0][1]
        timeouts = _timeouts(first.timeout, first.stream_timeout)
        if timeouts:
            settings["timeouts"] = {**settings.get("timeouts", {}), **timeouts}
        retries = number(first.retries)
        if retries is not None and retries >= 0:
            settings["retry"] = {"attempts": min(int(retries) + 1, 10)}
        if any(_own(one) != _own(first) for _, one in group.deployments[1:]):
            self._note(
                "litellm_params.timeout, max_retries", "a route has one for all its targets: the first's", group.name
            )
        return settings

    def _tree(self, group: _Group, way: str, direct: bool) -> Any:
        steps: dict[int, dict[str, float]] = {}
        for provider, made in group.deployments:
            name, count = group.name if direct else f"{group.name}@{provider}"[:120], 1
            while name in self._models or (not direct and name in self._groups):
                count += 1
                name = f"{group.name}@{provider}"[:116] + f"-{count}"
            model = {"name": name, "target": f"{provider}/{made.upstream_model}", **made.model}
            if self._breaker:
                model["breaker"] = self._breaker
            self._models[name] = model
            steps.setdefault(made.order, {})[name] = made.weight or 1
        trees: list[Any] = []
        for order in sorted(steps):
            targets = steps[order]
            if len(targets) == 1:
                trees.append(next(iter(targets)))
            else:
                trees.append({way: targets if way == "weighted" else list(targets)})
        return trees[0] if len(trees) == 1 else {"fallback": trees}

    # keys and the rest

    def _keys(self) -> list[tuple[str, Iterable[Mapping[str, Any]]]]:
        master = self._general.pop("master_key", None)
        self._note(
            "virtual keys, teams, users and spend",
            "they live in LiteLLM's database and are not in this file; declare keys under keys:, or run mainstay keys create",
        )
        if master is None:
            self._note(
                "general_settings.master_key", "there is none here; if LITELLM_MASTER_KEY is set, make a key for it"
            )
            return []
        key = {"name": "master", "team": TEAM, "secret": text(master), "admin": True}
        return [("teams", [{"name": TEAM}]), ("keys", [key])]

    def _leftovers(self) -> None:
        known = {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables"}
        for section, settings in (
            ("litellm_settings", self._litellm),
            ("router_settings", self._router),
            ("general_settings", self._general),
        ):
            for setting in settings:
                if setting not in _ALWAYS:
                    self._note(f"{section}.{setting}", _REASONS.get(setting, "it has no counterpart"))
        variables = self._config.get("environment_variables")
        for name in cast(dict[str, Any], variables) if isinstance(variables, dict) else ():
            self._note(f"environment_variables.{name}", "set it in the environment of mainstay")
        for section in self._config.keys() - known:
            self._note(section, _REASONS.get(section, "it has no counterpart"))


def _own(made: Deployment) -> tuple[Any, ...]:
    """What a deployment asks of its route."""
    given = (made.timeout, made.stream_timeout, made.retries)
    return () if given == (None, None, None) else given


def _pairs(value: Any) -> Iterable[tuple[str, list[str]]]:
    entries = cast(list[Any], value) if isinstance(value, list) else [value]
    for entry in entries:
        if isinstance(entry, dict):
            for name, targets in cast(dict[str, Any], entry).items():
                yield name, [str(target) for target in cast(list[Any], targets)] if isinstance(targets, list) else []


def _timeouts(timeout: Any, stream_timeout: Any) -> dict[str, Any]:
    whole, streamed = number(timeout), number(stream_timeout)
    found: dict[str, Any] = {}
    if streamed is not None and streamed > 0:
        found["first_token"] = _seconds(streamed)
    if whole is not None and whole > 0:
        found.setdefault("first_token", _seconds(whole))
        found["plain"] = _seconds(whole)
    longest = max((number for number in (whole, streamed) if number is not None), default=0)
    if longest > 600:  # the default of total
        found["total"] = _seconds(longest)
    return found


def _seconds(value: float) -> str:
    return f"{value:g}s" if value < 100_000 or math.isinf(value) else f"{int(value)}s"
