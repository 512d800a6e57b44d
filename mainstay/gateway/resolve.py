"""Which targets are to be tried, in which order, and why: the route's tree applied to this call."""

from __future__ import annotations

from collections.abc import Callable

from mainstay.core.errors import Unavailable, Unsupported
from mainstay.core.model import DEFAULT_MAX_OUTPUT
from mainstay.core.route import Facts, order
from mainstay.gateway.plan import Plan
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target


class Resolve:
    """Sets ``call.order``. Refuses where no target can take the call."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def enter(self, call: Routed) -> None:
        """Order the targets."""
        route, plan, peek = call.to, call.plan, call.peek
        tokens = len(call.body) // 4
        table = route.table
        if table is not None:
            _, names, said = table.draw(self._chance())
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
            names = order(route.tree, plan.trees, facts, Live(plan, tokens, peek.max_tokens, self._chance), call.why)
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
            raise Unavailable(f"the route {route.name!r} leads to no target for this call", code="no_target")
        call.order = fit

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""


class Live:
    """What the routing tree asks about the targets."""

    def __init__(self, plan: Plan, tokens: int, max_tokens: int | None, chance: Callable[[], float]) -> None:
        self._plan, self._tokens, self._max_tokens = plan, tokens, max_tokens
        self._chance = chance

    def price(self, model: str) -> float | None:
        """The expected cost of this call in nano-dollars."""
        target = self._plan.targets.get(model)
        if target is None or target.price is None:
            return None
        return float(target.price.bound(self._tokens, self._max_tokens or DEFAULT_MAX_OUTPUT))

    def latency(self, model: str) -> float:
        """The estimate of the time to the first token, in seconds."""
        target = self._plan.targets.get(model)
        return float("inf") if target is None else target.health.latency.estimate

    def busy(self, model: str) -> float:
        """How loaded the target is."""
        target = self._plan.targets.get(model)
        return float("inf") if target is None else target.health.in_flight + target.health.gate.load

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._chance()
