"""May the call be made at all: limits, concurrency and budgets, held before anything is asked, settled after it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from math import ceil

from mainstay.access.purse import Hold, Purse
from mainstay.access.rules import REQUESTS, TOKENS, Claim, Rule, claims
from mainstay.access.waiting import Ask
from mainstay.core.errors import Invalid, OverLimit
from mainstay.core.model import DEFAULT_MAX_OUTPUT
from mainstay.core.money import Nano
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target

_TOLD = ((REQUESTS, "requests"), (TOKENS, "tokens"))
_MOST_WARNINGS = 4

TOOLS = 1024
"""Tokens of the instructions that providers add where there are tools, at most."""
IMAGE = 8192
"""Tokens that an image of few bytes may cost."""
_SILENT = ("embeddings", "moderations", "rerank", "count_tokens")
"""Operations that answer without output tokens."""


class Admit:
    """Sets ``call.hold``. Refuses with 429, or with 400 where a budget needs a bound that cannot be told."""

    def __init__(self, purse: Purse, ask: Ask) -> None:
        self._purse, self._ask = purse, ask

    def enter(self, call: Routed) -> Awaitable[None] | None:
        """Hold an upper bound of what the call can use."""
        rules, money = call.plan.rules(call)
        by_model = call.plan.by_model
        if not rules and not by_model:
            return None
        nano = _bounded(call, money) if money or by_model else 0
        # A token limit holds an estimate, and the answer's bound, until the usage is known.
        tokens = call.tokens + (call.peek.max_tokens or 0) * call.peek.n
        wanted = claims(rules, call.at, tokens, nano)
        call.claims = wanted
        hold = self._purse.try_hold(wanted)
        if isinstance(hold, Hold):
            call.hold = hold
            if by_model:
                return self._by_model(call)
            self._tell(call)
            return None
        return self._wait(call, wanted)

    async def _wait(self, call: Routed, wanted: list[Claim]) -> None:
        try:
            call.hold = await self._purse.acquire(wanted, self._ask)
        except OverLimit:
            self._tell(call)
            raise
        if call.plan.by_model:
            await self._by_model(call)
        else:
            self._tell(call)

    def _tell(self, call: Routed) -> None:
        """Tell the caller, in headers, what is left of its limits and which budgets are nearly used up.

        The names are OpenAI's; of several limits on the same thing, the tightest is told.
        """
        for code, what in _TOLD:
            tightest: tuple[int, float] | None = None
            limit = 0
            for claim in call.claims:
                if claim.rule.code == code:
                    left = self._purse.left(claim)
                    if tightest is None or left[0] < tightest[0]:
                        tightest, limit = left, claim.rule.amount
            if tightest is not None:
                call.reply_headers += (
                    (f"x-ratelimit-limit-{what}", str(limit)),
                    (f"x-ratelimit-remaining-{what}", str(tightest[0])),
                    (f"x-ratelimit-reset-{what}", _span(tightest[1])),
                )
        warnings = call.hold.warnings if call.hold is not None else []
        if call.model_holds:
            warnings = [*warnings, *(one for hold in call.model_holds.values() for one in hold.warnings)]
        if warnings:
            call.reply_headers += (("x-mainstay-warning", "; ".join(warnings[:_MOST_WARNINGS])),)

    async def _by_model(self, call: Routed) -> None:
        """Budgets by model: a target whose budget is used up is passed over."""
        fit: list[Target] = []
        refused: OverLimit | None = None
        most = _most_attempts(call)
        for target in call.order:
            scopes = _model_rules(target, call)
            if scopes:
                wanted = claims(scopes, call.at, 0, (bound_at(target, call) or 0) * most)
                try:
                    hold = await self._purse.acquire(wanted, self._ask)
                    call.model_holds = {**call.model_holds, target.name: hold}
                except OverLimit as error:
                    call.why.append(f"{target.name}:budget")
                    refused = error
                    continue
            fit.append(target)
        self._tell(call)
        if not fit and refused is not None:
            raise refused
        call.order = fit

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """The record settles what was asked of an upstream, since it knows the cost; here the rest is put back."""
        if call.opened:
            return
        for hold in (call.hold, *call.model_holds.values()):
            if hold is not None:
                if error is None:
                    hold.settle(tokens=0, nano=0)  # answered from here: a request, and nothing else
                else:
                    hold.release()


def _model_rules(target: Target, call: Routed) -> list[tuple[Rule, str]]:
    found: list[tuple[Rule, str]] = []
    for one in call.plan.by_model:
        scope = one.scope(None, {}, target.name)
        if scope is not None:
            found.append((one.rule, scope))
    return found


def _model_budgets(target: Target, call: Routed) -> list[Rule]:
    return [rule for rule, _ in _model_rules(target, call)]


def _bounded(call: Routed, money: Sequence[Rule]) -> Nano:
    """An upper bound of the call's cost at the dearest of its targets; targets that cannot be bounded are passed over."""
    unbounded = call.peek.unbounded
    dearest = 0
    fit: list[Target] = []
    unpriced: list[str] = []
    unbound: list[str] = []
    for target in call.order:
        bound = bound_at(target, call)
        if bound is None:
            if any(rule.unpriced != "allow" for rule in (*money, *_model_budgets(target, call))):
                unpriced.append(target.name)
                continue
        elif unbounded and target.max_call is None and not all(r.soft for r in (*money, *_model_budgets(target, call))):
            unbound.append(target.name)
            continue
        elif bound > dearest:
            dearest = bound
        fit.append(target)
    if unpriced or unbound:
        _pass_over(call, fit, unpriced, unbound)
    call.bound = dearest * _most_attempts(call)
    return call.bound


def _pass_over(call: Routed, fit: list[Target], unpriced: list[str], unbound: list[str]) -> None:
    """Go on with the targets that a budget can hold for; refuse the call where there is none."""
    call.why += [f"{name}:no price" for name in unpriced]
    call.why += [f"{name}:no max_call_usd" for name in unbound]
    call.order = fit
    if fit:
        return
    if unbound:
        field = call.peek.unbounded[0]
        raise Invalid(
            f"a budget applies, and the size of the request does not bound what {field!r} can cost; "
            f"set max_call_usd on {', '.join(unbound)}, or leave it out",
            field=field,
            code="unbounded_cost",
        )
    raise Invalid(
        f"a budget applies, and the cost of {', '.join(unpriced)} is unknown; give the model a price in the bundle "
        "(price: {input: …, output: …}) or the budget 'unpriced: allow'",
        field="model",
        code="unpriced_model",
    )


def _most_attempts(call: Routed) -> int:
    """How many attempts of one call may cost anything: a rescue, a hedge or another's answer for a filtered one adds one."""
    route = call.to
    return 2 if (call.stream and route.rescue) or route.hedge or route.retry.on_filter == "fallback" else 1


def _span(seconds: float) -> str:
    """Whole seconds, rounded up, as OpenAI writes them: ``0s``, ``59s``, ``1m0s``."""
    whole = ceil(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"


def bound_at(target: Target, call: Routed) -> Nano | None:
    """The most that one attempt at ``target`` can cost; None where its price is unknown."""
    price = target.price
    if price is None:
        return None
    peek = call.peek
    output = peek.max_tokens
    if output is None:
        output = target.facts.max_output or DEFAULT_MAX_OUTPUT
    if call.operation in _SILENT:
        output = 0
    # No tokenizer makes more tokens of a text than it has bytes.
    most = len(call.body)
    if peek.tools:
        most += TOOLS
    if peek.images:
        most += IMAGE * (call.body.count(b"base64") or 1)
    bound = price.bound(most, output * peek.n)
    if target.max_call is not None and peek.unbounded:
        bound = max(bound, target.max_call)
    return bound


def covered(target: Target, call: Routed) -> bool:
    """Whether what the call holds of its budgets covers one more attempt at ``target``."""
    if call.bound is None or not call.running:
        return True
    more = bound_at(target, call) or 0
    total = there = more
    for active in call.running:
        used = active.attempt.cost or 0 if active.settled else bound_at(active.target, call) or 0
        total += used
        if active.target.name == target.name:
            there += used
    return total <= call.bound and (target.name not in call.model_holds or there <= more * _most_attempts(call))
