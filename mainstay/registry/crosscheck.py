"""What the parts of a bundle must be to each other, and to what is there already."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mainstay.core.errors import Invalid
from mainstay.core.route import Node, names, parse
from mainstay.registry import kinds, verdict_types
from mainstay.registry.document import Document, Path
from mainstay.registry.shape import meant

Report = Callable[[Path, str], None]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"})
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_SHORT_SECRET = 16


@dataclass(frozen=True, slots=True)
class Existing:
    """What sources other than this file have put in: a bundle may refer to it. ``routes`` have their trees."""

    providers: Collection[str] = ()
    models: Collection[str] = ()
    routes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    teams: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a section: its name as written, and its body (None if that is not well-formed)."""

    path: Path
    name: str
    body: Any


class Check:
    """One run over all sections of one bundle."""

    def __init__(
        self,
        document: Document,
        items: Mapping[str, list[Item]],
        existing: Existing,
        rows: Mapping[str, Collection[str]],
        problem: Report,
        warning: Report,
        now: datetime | None = None,
    ) -> None:
        self._document = document
        self._items = items
        self._existing = existing
        self._rows = rows
        self._problem = problem
        self._warning = warning
        self._now = now or datetime.now(UTC)
        self._trees: dict[str, Node] = {}
        declared = {section: {item.name for item in entries} for section, entries in items.items()}
        self._providers = declared["providers"] | set(existing.providers)
        self._models = declared["models"] | set(existing.models)
        self._routes = declared["routes"] | set(existing.routes)
        self._teams = declared["teams"] | set(existing.teams)
        self._names = self._models | self._routes

    def run(self) -> None:
        """Report everything."""
        for section, entries in self._items.items():
            self._unique(section, entries)
        self._shadows()
        for item in self._of("providers"):
            self._provider(item.path, item.body)
        for item in self._of("models"):
            self._model(item.path, item.body)
        for item in self._of("routes"):
            self._route(item.path, item.body)
        self._cycles()
        for item in self._of("teams"):
            self._known(item.body.models, (*item.path, "models"))
            self._periods(item.body.budget, item.path)
        secrets: dict[str, Path] = {}
        for item in self._of("keys"):
            self._key(item.path, item.body, secrets)
        for item in self._of("budgets"):
            self._budget(item.path, item.body)
        for item in self._of("verdicts"):
            for where, sentence in verdict_types.problems(item.body):
                self._problem((*item.path, *where), sentence)

    def _of(self, section: str) -> Iterable[Item]:
        return (item for item in self._items[section] if item.body is not None)

    def _unset(self, *path: str | int) -> bool:
        return self._document.find(path).unset

    def _unique(self, section: str, entries: list[Item]) -> None:
        first: dict[tuple[str, str], Path] = {}
        for item in entries:
            team = item.body.team if section == "keys" and item.body is not None else ""
            if not item.name or (section == "keys" and item.body is None):
                continue
            if (team, item.name) in first:
                line = self._document.line((*first[team, item.name], "name"))
                what = f'the key "{item.name}" of team "{team}"' if section == "keys" else f'"{item.name}"'
                self._problem((*item.path, "name"), f"{what} is declared twice in {section}, first on line {line}")
            first.setdefault((team, item.name), item.path)

    def _shadows(self) -> None:
        # Callers and trees write either in the same place, so one name must mean one thing.
        models = {item.name for item in self._items["models"] if item.name}
        for item in self._items["routes"]:
            if item.name in models or (item.name in self._existing.models):
                self._problem(
                    (*item.path, "name"), f'"{item.name}" is also a model; give the route or the model another name'
                )
        for item in self._items["models"]:
            if item.name in self._existing.routes and item.name not in {one.name for one in self._items["routes"]}:
                self._problem(
                    (*item.path, "name"), f'"{item.name}" is already a route from another source; choose another name'
                )

    def _provider(self, path: Path, body: kinds.Provider) -> None:
        if body.kind is None and body.wire is None:
            hint = f"kind: {body.name}" if body.name in self._rows else "wire: openai"
            self._problem(path, f'provider "{body.name}" has neither kind nor wire; add one, such as {hint}')
        if body.kind is not None and self._rows and body.kind not in self._rows and not self._unset(*path, "kind"):
            hint = meant(body.kind, self._rows) or f"; there are {', '.join(sorted(self._rows))}"
            self._problem((*path, "kind"), f'unknown kind of provider "{body.kind}"{hint}')
        if body.base_url is not None:
            if not self._unset(*path, "base_url"):
                self._address((*path, "base_url"), body.base_url, bool(body.api_key))
        else:
            self._without_address(path, body)
        for header, value in body.headers.items():
            at = (*path, "headers", header)
            if not _TOKEN.match(header):
                self._problem(at, f'"{header}" is not the name of a header')
            elif header.lower() in _OURS:
                self._problem(at, f"{header} is set by Mainstay itself; remove it")
            if not _sendable(value):
                self._problem(at, f"the value of the header {header} has characters that a header cannot carry")
        for secret in ("api_key", "secret_key", "session_token"):
            self._credential((*path, secret), secret, getattr(body, secret))
        if body.proxy is not None and not self._unset(*path, "proxy"):
            self._address((*path, "proxy"), body.proxy, False, proxy=True)
        if body.sim is not None and body.wire != "sim" and body.kind != "sim":
            self._problem((*path, "sim"), "sim goes with wire: sim only; remove it or change the wire")

    def _without_address(self, path: Path, body: kinds.Provider) -> None:
        if body.kind is not None:
            # the name of an account's resource is given as its project
            needed = ["project" if name == "resource" else name for name in self._rows.get(body.kind, ())]
            missing = [name for name in needed if not getattr(body, name, None)]
            if missing:
                self._problem(
                    path, f'provider "{body.name}": kind {body.kind} needs {" and ".join(missing)}, or a base_url'
                )
        elif body.wire not in (None, "sim"):
            hint = f", or kind: {body.wire} for {body.wire}'s own address" if body.wire in self._rows else ""
            self._problem(path, f'provider "{body.name}": "base_url" is missing; give its address{hint}')

    def _address(self, path: Path, url: str, keyed: bool, proxy: bool = False) -> None:
        what = path[-1]
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            self._problem(path, f"{what} is not an address; write one such as https://api.example.com/v1")
            return
        if parts.scheme not in ("http", "https") or not host or port == 0 or not _sendable(url) or " " in url:
            self._problem(path, f"{what} is not an http(s) address; write one such as https://api.example.com/v1")
        elif proxy and parts.scheme != "http":
            self._problem(path, f"{what} begins with http://; what goes through it may still be https")
        elif not proxy and (parts.username is not None or parts.password is not None):
            self._problem(path, f"{what} has a user or password in it; use api_key or headers")
        elif parts.query or parts.fragment:
            self._problem(path, f"{what} has a ? or # part; put parameters under query")
        elif parts.scheme == "http" and keyed and not _local(host):
            self._warning(path, f"the key travels to {host} unencrypted; use https")

    def _credential(self, path: Path, name: str, value: str | None) -> None:
        if value is None or self._unset(*path):
            return
        if not value or not _sendable(value):
            reason = "is empty" if not value else "has characters that a header cannot carry (a line end?)"
            self._problem(path, f"{name} {reason}; check where it comes from")
        elif self._document.find(path).literal:
            self._warning(path, f"{name} is written in the file; put it in the environment and write ${{NAME}}")

    def _model(self, path: Path, body: kinds.Model) -> None:
        if self._unset(*path, "target"):
            return
        provider = body.target.partition("/")[0]
        if provider not in self._providers:
            hint = meant(provider, self._providers) or "; declare it under providers"
            self._problem((*path, "target"), f'model "{body.name}": there is no provider "{provider}"{hint}')

    def _route(self, path: Path, body: kinds.Route) -> None:
        try:
            tree = parse(body.to)
        except Invalid as error:
            self._problem((*path, *_steps(error.field or "to")), f'route "{body.name}": {error.message}')
            return
        except RecursionError:
            self._problem((*path, "to"), f'route "{body.name}": the tree is too deep')
            return
        self._trees[body.name] = tree
        for name in dict.fromkeys(names(tree)):
            if name not in self._names:
                hint = meant(name, self._names) or "; declare it under models or routes"
                at = _where(body.to, name, (*path, "to")) or (*path, "to")
                if not self._unset(*at):
                    self._problem(at, f'route "{body.name}": there is no model or route "{name}"{hint}')
        for phase in ("connect", "first_token", "idle", "plain", "total"):
            if kinds.seconds(getattr(body.timeouts, phase)) == 0:
                self._problem((*path, "timeouts", phase), f"timeouts.{phase}: 0 would end every call; leave it out")
        if body.cache is not None and kinds.seconds(body.cache.ttl) == 0:
            self._problem((*path, "cache", "ttl"), "cache.ttl: 0 keeps nothing; remove cache instead")
        total = kinds.seconds(body.timeouts.total)
        for phase in ("connect", "first_token", "plain"):
            given = self._document.find((*path, "timeouts")).keys
            if phase in given and kinds.seconds(getattr(body.timeouts, phase)) > total:
                self._warning((*path, "timeouts", phase), f"timeouts.{phase} is longer than total, which ends it first")

    def _cycles(self) -> None:
        trees = dict(self._trees)
        for name, to in self._existing.routes.items():
            if name not in {item.name for item in self._items["routes"]}:
                try:
                    trees[name] = parse(to)
                except Invalid:
                    continue
        edges = {name: [to for to in names(tree) if to in trees] for name, tree in trees.items()}
        reported: set[frozenset[str]] = set()
        for item in self._of("routes"):
            cycle = _cycle(item.name, edges)
            if cycle is not None and frozenset(cycle) not in reported:
                reported.add(frozenset(cycle))
                self._problem(
                    (*item.path, "to"), f'route "{item.name}" leads back to itself: {" → ".join([*cycle, cycle[0]])}'
                )

    def _known(self, models: list[str] | None, path: Path) -> None:
        for i, name in enumerate(models or ()):
            if name not in self._names and not self._unset(*path, i):
                hint = meant(name, self._names) or "; declare it under models or routes"
                self._problem((*path, i), f'there is no model or route "{name}"{hint}')

    def _key(self, path: Path, body: kinds.Key, secrets: dict[str, Path]) -> None:
        if body.team not in self._teams and not self._unset(*path, "team"):
            hint = meant(body.team, self._teams) or "; declare it under teams"
            self._problem((*path, "team"), f'key "{body.name}": there is no team "{body.team}"{hint}')
        self._known(body.models, (*path, "models"))
        self._periods(body.budget, path)
        if body.expires is not None and not self._unset(*path, "expires"):
            try:
                ends = expiry(body.expires)
            except ValueError as error:
                self._problem((*path, "expires"), f'key "{body.name}": {error}')
            else:
                if ends <= self._now.timestamp():
                    self._warning((*path, "expires"), f'key "{body.name}" has expired already; nobody can use it')
        at = (*path, "secret")
        self._credential(at, "secret", body.secret)
        if body.secret and not self._unset(*at):
            if any(char.isspace() for char in body.secret):
                self._problem(at, f'key "{body.name}": the secret has a space in it; check where it comes from')
            elif len(body.secret) < _SHORT_SECRET:
                self._warning(
                    at, f'key "{body.name}": a secret of fewer than {_SHORT_SECRET} characters can be guessed'
                )
            if body.secret in secrets:
                line = self._document.line(secrets[body.secret])
                self._problem(at, f'key "{body.name}" has the same secret as the key on line {line}')
            secrets.setdefault(body.secret, at)

    def _periods(self, budget: kinds.Budget | list[kinds.Budget] | None, path: Path) -> None:
        if not isinstance(budget, list):
            return
        seen: set[tuple[str, bool]] = set()
        for i, one in enumerate(budget):
            if (one.per, one.soft) in seen:
                what = f"{'soft ' * one.soft}budget {'in' if one.per == 'total' else 'per'} {one.per}"
                self._problem((*path, "budget", i), f"a second {what}; keep one of each sort")
            seen.add((one.per, one.soft))

    def _budget(self, path: Path, body: kinds.NamedBudget) -> None:
        if body.by == "tag" and not body.tag:
            self._problem(path, f'budget "{body.name}": by: tag needs the tag\'s name, such as tag: feature')
        if body.by != "tag" and body.tag is not None:
            self._problem((*path, "tag"), f'budget "{body.name}": tag goes with by: tag only')
        if body.by == "all" and body.value is not None:
            self._problem((*path, "value"), f'budget "{body.name}": value does not go with by: all')
        if body.by == "model" and body.value is not None and body.value not in self._models:
            hint = meant(body.value, self._models) or "; declare it under models"
            if not self._unset(*path, "value"):
                self._problem((*path, "value"), f'budget "{body.name}": there is no model "{body.value}"{hint}')


def expiry(text: str) -> float:
    """The moment that ``text`` (ISO 8601; UTC where it names no zone) means, in seconds since the epoch.

    Raises ``ValueError`` with a sentence.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        at = moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f'"{text}" is not a date; write 2027-01-31 or 2027-01-31T12:00:00Z') from None
    if not math.isfinite(at):
        raise ValueError(f'"{text}" is not a date; write 2027-01-31 or 2027-01-31T12:00:00Z')
    return at


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _steps(path: str) -> Path:
    """A path as ``core.route`` writes it, as steps; a name with a dot in it ends up one level higher, which is enough."""
    return tuple(int(index) if index else key for key, index in _STEP.findall(path))


def _where(value: Any, name: str, path: Path) -> Path | None:
    """Where in a route's tree ``name`` is written."""
    if value == name:
        return path
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            if key == name:
                return (*path, name)
            found = None if key == "if" else _where(inner, name, (*path, str(key)))  # pyright: ignore[reportUnknownArgumentType]
            if found is not None:
                return found
    elif isinstance(value, list):
        for i, inner in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            found = _where(inner, name, (*path, i))
            if found is not None:
                return found
    return None


def _cycle(start: str, edges: Mapping[str, list[str]]) -> list[str] | None:
    """The names on a way from ``start`` back to it, or None."""
    stack: list[tuple[str, list[str]]] = [(start, [start])]
    seen: set[str] = set()
    while stack:
        name, way = stack.pop()
        for to in edges.get(name, ()):
            if to == start:
                return way
            if to not in seen:
                seen.add(to)
                stack.append((to, [*way, to]))
    return None
