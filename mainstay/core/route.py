"""The routing tree as a value, and the pure function that turns it into an order of targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from mainstay.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Name:
    """A model, or another route."""

    name: str


@dataclass(frozen=True, slots=True)
class Fallback:
    """The first that answers."""

    to: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Weighted:
    """One by its share of traffic, the others after it in the order of their weights.

    ``sticky`` (``session`` or ``user``) keeps one session or user on one choice.
    """

    to: tuple[tuple[Node, float], ...]
    sticky: str | None = None


@dataclass(frozen=True, slots=True)
class Cheapest:
    """The lowest price for a call of this size first; unknown prices last."""

    to: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Fastest:
    """Of two drawn at random, the one with the lower estimate of latency."""

    to: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class LeastBusy:
    """The one with the fewest calls in flight, relative to its limit, first."""

    to: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class When:
    """The first case whose conditions all hold; else ``otherwise``; without one, nothing."""

    cases: tuple[tuple[Condition, Node], ...]
    otherwise: Node | None = None


Node = Name | Fallback | Weighted | Cheapest | Fastest | LeastBusy | When


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of a call; everything that is given must hold. Lists mean any of."""

    tags: Mapping[str, tuple[str, ...]] | None = None
    team: tuple[str, ...] | None = None
    key: tuple[str, ...] | None = None
    data_class: tuple[str, ...] | None = None  # the tag of that name
    min_tokens: int | None = None  # estimated input tokens
    max_tokens: int | None = None
    tools: bool | None = None
    images: bool | None = None
    budget_left_below: float | None = None  # a share of the tightest budget, 0 to 1

    def holds(self, facts: Facts) -> bool:
        """Whether all that is given holds of the call."""
        if self.tags is not None:
            for tag, wanted in self.tags.items():
                if facts.tags.get(tag) not in wanted:
                    return False
        return (
            (self.team is None or facts.team in self.team)
            and (self.key is None or facts.key in self.key)
            and (self.data_class is None or facts.tags.get("data_class") in self.data_class)
            and (self.min_tokens is None or facts.tokens >= self.min_tokens)
            and (self.max_tokens is None or facts.tokens <= self.max_tokens)
            and (self.tools is None or facts.tools == self.tools)
            and (self.images is None or facts.images == self.images)
            and (self.budget_left_below is None or facts.budget_left < self.budget_left_below)
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What routing may know of a call."""

    tags: Mapping[str, str]
    team: str = ""
    key: str = ""
    tokens: int = 0
    tools: bool = False
    images: bool = False
    budget_left: float = 1.0
    session: str | None = None
    user: str | None = None


class Live(Protocol):
    """What routing may know of the targets at this moment, and its source of chance."""

    def price(self, model: str) -> float | None:
        """The expected cost of this call there, in any unit; None if unknown."""
        ...

    def latency(self, model: str) -> float:
        """The decaying estimate of the time to the first token, in seconds; 0 if never measured."""
        ...

    def busy(self, model: str) -> float:
        """Calls in flight, divided by the concurrency limit where there is one."""
        ...

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


_KEYS = ("fallback", "weighted", "cheapest", "fastest", "least_busy", "when")
_CONDITIONS = ("tags", "team", "key", "data_class", "min_tokens", "max_tokens", "tools", "images", "budget_left_below")


def parse(node: Any, path: str = "to") -> Node:
    """The tree that ``node`` (as in a bundle) describes. Raises ``Invalid`` whose field is the path to the mistake."""
    if isinstance(node, str):
        if not node:
            raise Invalid("the name of a model or route is empty", field=path)
        return Name(node)
    if not isinstance(node, Mapping):
        raise Invalid(f"expected the name of a model or one of {', '.join(_KEYS)}", field=path)
    node = cast(Mapping[str, Any], node)
    kinds = [key for key in node if key in _KEYS]
    if len(kinds) != 1:
        odd = next((key for key in node if key not in (*_KEYS, "sticky", "else")), None)
        raise Invalid(f"expected exactly one of {', '.join(_KEYS)}", field=f"{path}.{odd}" if odd is not None else path)
    kind = kinds[0]
    allowed = {"weighted": {"sticky"}, "when": {"else"}}.get(kind, set[str]())
    for key in node:
        if key != kind and key not in allowed:
            raise Invalid(f"{key!r} does not go with {kind!r}", field=f"{path}.{key}")
    body, inner = node[kind], f"{path}.{kind}"
    if kind == "weighted":
        return _weighted(body, node.get("sticky"), inner)
    if kind == "when":
        return _when(body, node.get("else"), inner, path)
    if not isinstance(body, list) or not body:
        raise Invalid("expected a list with at least one target", field=inner)
    to = tuple(parse(child, f"{inner}[{i}]") for i, child in enumerate(cast(list[Any], body)))
    return {"fallback": Fallback, "cheapest": Cheapest, "fastest": Fastest, "least_busy": LeastBusy}[kind](to)


def _weighted(body: Any, sticky: Any, path: str) -> Weighted:
    if sticky not in (None, "session", "user"):
        raise Invalid("sticky is session or user", field=path)
    choices: list[tuple[Node, float]] = []
    if isinstance(body, Mapping):
        for name, weight in cast(Mapping[str, Any], body).items():
            choices.append((parse(name, path), _weight(weight, f"{path}.{name}")))
    elif isinstance(body, list):
        for i, item in enumerate(cast(list[Any], body)):
            if not isinstance(item, Mapping) or set(cast(Mapping[str, Any], item)) != {"to", "weight"}:
                raise Invalid("expected {to: …, weight: …}", field=f"{path}[{i}]")
            entry = cast(Mapping[str, Any], item)
            choices.append((parse(entry["to"], f"{path}[{i}].to"), _weight(entry["weight"], f"{path}[{i}].weight")))
    if not choices or not any(weight > 0 for _, weight in choices):
        raise Invalid("expected targets with weights such as {small: 9, large: 1}, at least one above 0", field=path)
    return Weighted(tuple(choices), sticky)


def _weight(weight: Any, path: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1e9:
        raise Invalid("a weight is a number from 0", field=path)
    return float(weight)


def _when(body: Any, otherwise: Any, inner: str, path: str) -> When:
    if not isinstance(body, list) or not body:
        raise Invalid("expected a list of {if: {…}, to: …}", field=inner)
    cases: list[tuple[Condition, Node]] = []
    for i, item in enumerate(cast(list[Any], body)):
        if not isinstance(item, Mapping) or set(cast(Mapping[str, Any], item)) != {"if", "to"}:
            raise Invalid("expected {if: {…}, to: …}", field=f"{inner}[{i}]")
        case = cast(Mapping[str, Any], item)
        cases.append((_condition(case["if"], f"{inner}[{i}].if"), parse(case["to"], f"{inner}[{i}].to")))
    return When(tuple(cases), None if otherwise is None else parse(otherwise, f"{path}.else"))


def _condition(body: Any, path: str) -> Condition:
    if not isinstance(body, Mapping) or not body:
        raise Invalid(f"expected conditions out of {', '.join(_CONDITIONS)}", field=path)
    given: dict[str, Any] = {}
    for key, value in cast(Mapping[str, Any], body).items():
        where = f"{path}.{key}"
        if key not in _CONDITIONS:
            raise Invalid(f"unknown condition {key!r}; there are {', '.join(_CONDITIONS)}", field=where)
        if key == "tags":
            if not isinstance(value, Mapping):
                raise Invalid("expected tags such as {tier: free}", field=where)
            tags = cast(Mapping[str, Any], value)
            given[key] = {tag: _strings(wanted, f"{where}.{tag}") for tag, wanted in tags.items()}
        elif key in ("team", "key", "data_class"):
            given[key] = _strings(value, where)
        elif key in ("tools", "images"):
            if not isinstance(value, bool):
                raise Invalid("expected true or false", field=where)
            given[key] = value
        elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise Invalid("expected a number from 0", field=where)
        else:
            given[key] = value
    return Condition(**given)


def _strings(value: Any, path: str) -> tuple[str, ...]:
    values = cast(list[Any], value) if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) for one in values):
        raise Invalid("expected a string or a list of strings", field=path)
    return tuple(values)


def names(node: Node) -> Iterator[str]:
    """The names of all models and routes in the tree."""
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Weighted):
        for child, _ in node.to:
            yield from names(child)
    elif isinstance(node, When):
        for _, child in node.cases:
            yield from names(child)
        if node.otherwise is not None:
            yield from names(node.otherwise)
    else:
        for child in node.to:
            yield from names(child)


def order(node: Node, routes: Mapping[str, Node], facts: Facts, live: Live, why: list[str]) -> list[str]:
    """The models to try for this call, best first, each once; ``why`` is told each decision.

    ``routes`` has the trees of the routes that the tree names; a name that is not in it is a model.
    """
    found: dict[str, None] = {}
    _order(node, routes, facts, live, why, found, 0)
    return list(found)


class Table(NamedTuple):
    """The orders of a tree that needs to know nothing of the call: one for each choice of its one weighted node.

    ``orders`` has, ascending, the sum of weights up to a choice, the models to try, and what to say of it.
    """

    total: float
    orders: tuple[tuple[float, tuple[str, ...], str | None], ...]

    def draw(self, chance: float) -> tuple[float, tuple[str, ...], str | None]:
        """The order for a number in [0, 1)."""
        at = chance * self.total
        for entry in self.orders:
            if at < entry[0]:
                return entry
        return self.orders[-1]


def table(node: Node, routes: Mapping[str, Node]) -> Table | None:
    """The table that gives the same as ``order`` for this tree; None where its order depends on the call or on health."""
    weighted = _weighted_nodes(node, routes, 0)
    if weighted is None or len(weighted) > 1:
        return None
    facts = Facts({})
    if not weighted:
        why: list[str] = []
        return Table(1.0, ((1.0, tuple(order(node, routes, facts, _Fixed(0.0), why)), None),))
    choices = weighted[0].to
    total = sum(weight for _, weight in choices)
    orders: list[tuple[float, tuple[str, ...], str | None]] = []
    until = 0.0
    for _, weight in choices:
        if weight <= 0:
            continue
        why = []
        found = order(node, routes, facts, _Fixed((until + weight / 2) / total), why)
        until += weight
        orders.append((until, tuple(found), why[0]))
    return Table(total, tuple(orders))


def _weighted_nodes(node: Node, routes: Mapping[str, Node], depth: int) -> list[Weighted] | None:
    """The weighted nodes below ``node``; None if anything there depends on the call, or may be met twice."""
    if depth > 32:
        return None
    if isinstance(node, Name):
        inner = routes.get(node.name)
        return [] if inner is None else _weighted_nodes(inner, routes, depth + 1)
    if isinstance(node, Fallback):
        children = list(node.to)
        found: list[Weighted] = []
    elif isinstance(node, Weighted) and node.sticky is None:
        children = [child for child, _ in node.to]
        found = [node]
    else:
        return None
    for child in children:
        more = _weighted_nodes(child, routes, depth + 1)
        if more is None:
            return None
        found += more
    return found


class _Fixed:
    """A ``Live`` of which only the chance is asked."""

    def __init__(self, chance: float) -> None:
        self._chance = chance

    def price(self, model: str) -> float | None:
        return None

    def latency(self, model: str) -> float:
        return 0.0

    def busy(self, model: str) -> float:
        return 0.0

    def random(self) -> float:
        return self._chance


def _order(
    node: Node,
    routes: Mapping[str, Node],
    facts: Facts,
    live: Live,
    why: list[str],
    found: dict[str, None],
    depth: int,
) -> None:
    if depth > 32:
        raise Invalid("the route leads back to itself")
    depth += 1
    if isinstance(node, Name):
        inner = routes.get(node.name)
        if inner is None:
            found.setdefault(node.name)
        else:
            _order(inner, routes, facts, live, why, found, depth)
        return
    if isinstance(node, When):
        for i, (condition, child) in enumerate(node.cases):
            if condition.holds(facts):
                why.append(f"when[{i}]")
                return _order(child, routes, facts, live, why, found, depth)
        why.append("when:else")
        if node.otherwise is not None:
            _order(node.otherwise, routes, facts, live, why, found, depth)
        return
    if isinstance(node, Fallback):
        children: Sequence[Node] = node.to
    elif isinstance(node, Weighted):
        children = _draw(node, facts, live, why)
    else:
        children = _ranked(node, routes, facts, live, why, depth)
    for child in children:
        _order(child, routes, facts, live, why, found, depth)


def _draw(node: Weighted, facts: Facts, live: Live, why: list[str]) -> list[Node]:
    stuck = facts.session if node.sticky == "session" else facts.user if node.sticky == "user" else None
    if stuck is None:
        at = live.random()
    else:
        at = int.from_bytes(hashlib.blake2b(stuck.encode(), digest_size=7).digest(), "big") / 2**56
    at *= sum(weight for _, weight in node.to)
    first = len(node.to) - 1
    for i, (_, weight) in enumerate(node.to):
        at -= weight
        if at < 0:
            first = i
            break
    why.append(f"weighted:{_label(node.to[first][0])}" + ("" if stuck is None else f",sticky={node.sticky}"))
    rest = sorted((i for i in range(len(node.to)) if i != first and node.to[i][1] > 0), key=lambda i: -node.to[i][1])
    return [node.to[i][0] for i in (first, *rest)]


def _ranked(
    node: Cheapest | Fastest | LeastBusy,
    routes: Mapping[str, Node],
    facts: Facts,
    live: Live,
    why: list[str],
    depth: int,
) -> list[Node]:
    # A child that is itself a tree is judged by the model it would try first.
    quiet: list[str] = []
    heads: list[str | None] = []
    for child in node.to:
        if isinstance(child, Name) and child.name not in routes:
            heads.append(child.name)
        else:
            inner: dict[str, None] = {}
            _order(child, routes, facts, live, quiet, inner, depth)
            heads.append(next(iter(inner), None))
    indexes = list(range(len(heads)))
    if isinstance(node, Cheapest):
        prices = [None if head is None else live.price(head) for head in heads]
        ranked = sorted(indexes, key=lambda i: (prices[i] is None, prices[i] or 0.0))
    elif isinstance(node, LeastBusy):
        load = [float("inf") if head is None else live.busy(head) for head in heads]
        ranked = sorted(indexes, key=lambda i: load[i])
    else:
        estimate = [float("inf") if head is None else live.latency(head) for head in heads]
        ranked = sorted(indexes, key=lambda i: estimate[i])
        if len(ranked) > 2:  # power of two choices: it keeps a herd from running to one target
            one = int(live.random() * len(indexes))
            two = (one + 1 + int(live.random() * (len(indexes) - 1))) % len(indexes)
            best = one if estimate[one] <= estimate[two] else two
            ranked = [best, *(i for i in ranked if i != best)]
    name = {Cheapest: "cheapest", Fastest: "fastest", LeastBusy: "least_busy"}[type(node)]
    why.append(f"{name}:{heads[ranked[0]]}")
    return [node.to[i] for i in ranked]


def _label(node: Node) -> str:
    return node.name if isinstance(node, Name) else type(node).__name__.lower()
