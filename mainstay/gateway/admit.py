"""May the call be made at all: limits, concurrency and budgets, held before anything is asked, settled after it."""

from __future__ import annotations

from collections.abc import Awaitable

from mainstay.access.purse import Hold, Purse
from mainstay.access.rules import USD, Claim, claims
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.core.model import DEFAULT_MAX_OUTPUT
from mainstay.core.money import Nano
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target


class Admit:
    """Sets ``call.hold``. Refuses with 429, or with 400 where a budget needs a bound that cannot be told."""

    def __init__(self, purse: Purse, clock: Clock) -> None:
        self._purse, self._clock = purse, clock

    def enter(self, call: Routed) -> None | Awaitable[None]:
        """Hold an upper bound of what the call can use."""
        rules = call.plan.rules(call)
        if not rules:
            return None
        nano = 0
        if any(rule.code == USD and rule.amount is not None for rule, _ in rules):
            nano = self._bounded(call, hard=any(rule.code == USD and not rule.soft for rule, _ in rules))
        wanted = claims(rules, call.at, estimated_tokens(call), nano)
        hold = self._purse.try_hold(wanted)
        if isinstance(hold, Hold):
            call.hold = hold
            return None
        return self._ask(call, wanted)

    async def _ask(self, call: Routed, wanted: list[Claim]) -> None:
        call.hold = await self._purse.acquire(wanted)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Settling is done by the record, which knows the cost; here only what never came so far is released."""
        if call.hold is not None and not call.opened:
            call.hold.release()

    def _bounded(self, call: Routed, hard: bool) -> Nano:
        """An upper bound of the call's cost at the dearest of its targets; targets that cannot be bounded are dropped."""
        bounds: list[Nano] = []
        priced: list[Target] = []
        allowed = call.plan.unpriced_allowed(call)
        for target in call.order:
            bound = bound_at(target, call)
            if bound is None and not allowed:
                call.why.append(f"{target.name}:no price")
                continue
            priced.append(target)
            bounds.append(bound or 0)
        if not priced:
            names = ", ".join(target.name for target in call.order)
            raise Invalid(
                f"a budget applies, and the cost of {names} is unknown; give the model a price in the bundle "
                "(price: {input: …, output: …}) or the budget 'unpriced: allow'",
                field="model",
                code="unpriced_model",
            )
        call.order = priced
        if hard and call.peek.unbounded:
            unbound = [target.name for target in priced if target.max_call is None and target.price is not None]
            if unbound:
                field = call.peek.unbounded[0]
                raise Invalid(
                    f"a budget applies, and the size of the request does not bound what {field!r} can cost; "
                    f"set max_call_usd on {', '.join(unbound)}, or leave it out",
                    field=field,
                    code="unbounded_cost",
                )
        call.bound = max(bounds) * (2 if (call.stream and call.to.rescue) or call.to.hedge else 1)
        return call.bound


def bound_at(target: Target, call: Routed) -> Nano | None:
    """The most that one attempt at ``target`` can cost; None where its price is unknown."""
    price = target.price
    if price is None:
        return None
    peek = call.peek
    output = peek.max_tokens
    if output is None:
        output = target.facts.max_output or DEFAULT_MAX_OUTPUT
    if call.operation in ("embeddings", "moderations", "rerank", "count_tokens"):
        output = 0
    # No tokenizer makes more tokens of a text than it has bytes.
    bound = price.bound(len(call.body), output * peek.n)
    if target.max_call is not None and peek.unbounded:
        bound = max(bound, target.max_call)
    return bound


def estimated_tokens(call: Routed) -> int:
    """What a token limit holds before the usage is known: a token for every four bytes, and the answer's bound."""
    return -(-len(call.body) // 4) + (call.peek.max_tokens or 0) * call.peek.n


