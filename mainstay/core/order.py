"""From a routing tree to the order in which targets are tried: a pure function of the call, the targets and chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from mainstay.core.errors import Invalid
from mainstay.core.route import Cheapest, Facts, Fallback, Fastest, LeastBusy, Name, Node, Weighted, When

DEEPEST = 32
"""How deep routes may lead into each other."""


class Live(Protocol):
    """What routing may know of the targets at this moment, and its source of chance."""

    def price(self, model: str) -> float | None:
        """The expected cost of this call there, in any unit; None if unknown, which is ranked last."""
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
    if depth > DEEPEST:
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
    if depth > DEEPEST:
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
    if isinstance(node, Fallback | Weighted):
        children = node.to if isinstance(node, Fallback) else _draw(node, facts, live, why, depth)
        for child in children:
            _order(child, routes, facts, live, why, found, depth)
        return
    _ranked(node, routes, facts, live, why, found, depth)


def _draw(node: Weighted, facts: Facts, live: Live, why: list[str], depth: int) -> list[Node]:
    stuck = facts.session if node.sticky == "session" else facts.user if node.sticky == "user" else None
    at = (live.random() if stuck is None else _place(node, stuck, depth)) * sum(weight for _, weight in node.to)
    open_to = [i for i, (_, weight) in enumerate(node.to) if weight > 0]
    first = open_to[-1]  # rounding may leave a last grain that no choice has
    for i in open_to:
        at -= node.to[i][1]
        if at < 0:
            first = i
            break
    why.append(f"weighted:{_label(node.to[first][0])}" + ("" if stuck is None else f",sticky={node.sticky}"))
    rest = sorted((i for i in open_to if i != first), key=lambda i: -node.to[i][1])
    return [node.to[i][0] for i in (first, *rest)]


def _place(node: Weighted, stuck: str, depth: int) -> float:
    """Where in [0, 1) a session or user stands at this node: at another place in each, or one below another would
    see only those whom the upper one sent there, and draw the same for them all."""
    salt = "\0".join((str(depth), *(_label(child) for child, _ in node.to), stuck))
    return int.from_bytes(hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big") / 2**48


def _ranked(
    node: Cheapest | Fastest | LeastBusy,
    routes: Mapping[str, Node],
    facts: Facts,
    live: Live,
    why: list[str],
    found: dict[str, None],
    depth: int,
) -> None:
    # A child that is itself a tree is judged by the model that it tries first, with the draws that it has made for that.
    orders: list[list[str]] = []
    reasons: list[list[str]] = []
    for child in node.to:
        inner: dict[str, None] = {}
        said: list[str] = []
        _order(child, routes, facts, live, said, inner, depth)
        orders.append(list(inner))
        reasons.append(said)
    measure = live.price if isinstance(node, Cheapest) else live.busy if isinstance(node, LeastBusy) else live.latency
    figures = [measure(order[0]) if order else None for order in orders]
    known = [float("inf") if figure is None else figure for figure in figures]
    ranked = sorted(range(len(orders)), key=lambda i: (not orders[i], known[i]))
    if (
        isinstance(node, Fastest) and len(ranked) > 2
    ):  # power of two choices: it keeps a herd from running to one target
        one = int(live.random() * len(orders))
        two = (one + 1 + int(live.random() * (len(orders) - 1))) % len(orders)
        best = one if (not orders[one], known[one]) <= (not orders[two], known[two]) else two
        ranked = [best, *(i for i in ranked if i != best)]
    name = {Cheapest: "cheapest", Fastest: "fastest", LeastBusy: "least_busy"}[type(node)]
    why.append(f"{name}:{orders[ranked[0]][0] if orders[ranked[0]] else None}")
    for i in ranked:
        why += reasons[i]
        for model in orders[i]:
            found.setdefault(model)


def _label(node: Node) -> str:
    return node.name if isinstance(node, Name) else type(node).__name__.lower()
