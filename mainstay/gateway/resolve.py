"""Which targets are to be tried, in which order, and why: the route's tree applied to this call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mainstay.core.errors import Unavailable, Unsupported
from mainstay.core.model import DEFAULT_MAX_OUTPUT
from mainstay.core.order import order
from mainstay.core.route import Facts
from mainstay.core.usage import Usage
from mainstay.gateway.plan import Plan
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target, estimated_tokens

NO_LIMIT = 100
"""Calls at once that a target without a limit of its own is thought to take."""


class Resolve:
    """Sets ``call.order``. Refuses where no target can take the call."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def enter(self, call: Routed) -> None:
        """Order the targets."""
        route, plan, peek = call.to, call.plan, call.peek
        tokens = call.tokens = estimated_tokens(call.body, peek.images or peek.audio or bool(peek.unbounded))
        table = route.table
        if table is not None:
            _, drawn, said = table.draw(self._chance())
            names: Sequence[str] = drawn
            if said is not None:
                call.why.append(said)
        else:
            facts = Facts(
                call.tags,
                call.principal.team,
                call.principal.key,
                tokens,
                peek.tools,
                peek.images,
                plan.budget_left(call) if route.looks_at_budget else 1.0,
                call.session,
                call.user,
            )
            names = order(route.tree, plan.trees, facts, Live(plan, call, self._chance), call.why)
            call.branch = tuple(said for said in call.why if said.startswith(("when[", "when:")))
        fit: list[Target] = []
        for name in names:
            target = plan.targets[name]
            lack = target.lacks(peek.tools, peek.images, peek.audio, peek.schema, tokens)
            if lack is None:
                fit.append(target)
            else:
                call.why.append(f"{name}:{lack}")
        if not fit:
            if names:
                raise Unsupported(
                    f"no target of {route.name!r} can take this call ({', '.join(call.why)}); ask for another model",
                    field="model",
                    code="no_capable_target",
                )
            raise Unavailable(
                f"the route {route.name!r} leads to no target for this call ({', '.join(call.why)})", code="no_target"
            )
        call.order = fit
        call.choice = fit[0].name

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""


class Live:
    """What the routing tree asks about the targets."""

    def __init__(self, plan: Plan, call: Routed, chance: Callable[[], float]) -> None:
        self._targets, self._call = plan.targets, call
        self.random = chance

    def price(self, model: str) -> float | None:
        """The expected cost of this call in nano-dollars."""
        price = self._targets[model].price
        if price is None:
            return None
        peek = self._call.peek
        output = DEFAULT_MAX_OUTPUT if peek.max_tokens is None else peek.max_tokens
        return float(price.cost(Usage(self._call.tokens, output * peek.n)))

    def latency(self, model: str) -> float:
        """The estimate of the time to the first content of a stream, or to a whole plain reply, in seconds."""
        health = self._targets[model].health
        return (health.latency if self._call.stream else health.plain).estimate(health.in_flight > 0)

    def busy(self, model: str) -> float:
        """Calls in flight and waiting, divided by the limit."""
        health = self._targets[model].health
        return (health.in_flight + health.gate.waiting) / (health.limit or NO_LIMIT)
