"""The routing tree as a value, and the conditions in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

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
    """What must be true of a call; everything that is given must hold. Several values of one thing mean any of them."""

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
