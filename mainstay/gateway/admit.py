"""May the call be made at all: limits, concurrency and budgets, held before anything is asked, settled after it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from math import ceil

from mainstay.access.purse import Hold, Purse, Remaining
from mainstay.access.rules import REQUESTS, TOKENS, Claim, Rule, claims
from mainstay.access.waiting import Ask
from mainstay.core.errors import Invalid, OverLimit
from mainstay.core.model import DEFAULT_MAX_OUTPUT
from mainstay.core.money import Nano
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target

_TOLD = (REQUESTS, TOKENS)
_MOST_WARNINGS = 4


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
        nano = self._bounded(call, money) if money else 0
        wanted = claims(rules, call.at, estimated_tokens(call), nano)
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
        """Tell the caller, in headers, what is left of its limits and which budgets are nearly used up."""
        limited = [claim for claim in call.claims if claim.rule.code in _TOLD]
        if limited:
            call.reply_headers += rate_headers(self._purse.remaining(limited))
        warnings = call.hold.warnings if call.hold is not None else []
        for hold in call.model_holds.values():
            warnings = warnings + hold.warnings
        if warnings:
            call.reply_headers += (("x-mainstay-warning", "; ".join(warnings[:_MOST_WARNINGS])),)

    async def _by_model(self, call: Routed) -> None:
        """Budgets by model: a target whose budget is used up is passed over."""
        fit: list[Target] = []
        refused: OverLimit | None = None
        for target in call.order:
            scopes = [
                (one.rule, scope)
                for one in call.plan.by_model
                if (scope := one.scope(None, {}, target.name)) is not None
            ]
            if scopes:
                wanted = claims(scopes, call.at, 0, bound_at(target, call) or 0)
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
        """Settling is done by the record, which knows the cost; here only what never came so far is released."""
        if not call.opened:
            for hold in (call.hold, *call.model_holds.values()):
                if hold is not None:
                    _undo(hold, call)

    def _bounded(self, call: Routed, money: Sequence[Rule]) -> Nano:
        """An upper bound of the call's cost at the dearest of its targets; targets that cannot be bounded are dropped."""
        dearest = 0
        unpriced: list[Target] = []
        for target in call.order:
            bound = bound_at(target, call)
            if bound is None:
                unpriced.append(target)
            elif bound > dearest:
                dearest = bound
        if unpriced and any(rule.unpriced != "allow" for rule in money):
            self._without(unpriced, call)
        if call.peek.unbounded and not all(rule.soft for rule in money):
            unbound = [target.name for target in call.order if target.max_call is None and target.price is not None]
            if unbound:
                field = call.peek.unbounded[0]
                raise Invalid(
                    f"a budget applies, and the size of the request does not bound what {field!r} can cost; "
                    f"set max_call_usd on {', '.join(unbound)}, or leave it out",
                    field=field,
                    code="unbounded_cost",
                )
        call.bound = dearest * (2 if (call.stream and call.to.rescue) or call.to.hedge else 1)
        return call.bound

    def _without(self, unpriced: list[Target], call: Routed) -> None:
        """A budget cannot hold for a target whose price is unknown: it is passed over, or the call refused."""
        call.why += [f"{target.name}:no price" for target in unpriced]
        call.order = [target for target in call.order if target not in unpriced]
        if not call.order:
            names = ", ".join(target.name for target in unpriced)
            raise Invalid(
                f"a budget applies, and the cost of {names} is unknown; give the model a price in the bundle "
                "(price: {input: …, output: …}) or the budget 'unpriced: allow'",
                field="model",
                code="unpriced_model",
            )


def rate_headers(found: Sequence[Remaining]) -> tuple[tuple[str, str], ...]:
    """The ``x-ratelimit-*`` headers, as OpenAI names them: of several limits on the same thing, the tightest."""
    requests: Remaining | None = None
    tokens: Remaining | None = None
    for one in found:
        if one.claim.rule.code == REQUESTS:
            if requests is None or one.remaining < requests.remaining:
                requests = one
        elif tokens is None or one.remaining < tokens.remaining:
            tokens = one
    headers: tuple[tuple[str, str], ...] = ()
    if requests is not None:
        headers = (
            ("x-ratelimit-limit-requests", str(requests.limit)),
            ("x-ratelimit-remaining-requests", str(requests.remaining)),
            ("x-ratelimit-reset-requests", _span(requests.reset)),
        )
    if tokens is not None:
        headers += (
            ("x-ratelimit-limit-tokens", str(tokens.limit)),
            ("x-ratelimit-remaining-tokens", str(tokens.remaining)),
            ("x-ratelimit-reset-tokens", _span(tokens.reset)),
        )
    return headers


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


def _undo(hold: Hold, call: Routed) -> None:
    """A call that was answered from the cache used a request and nothing else; one that was refused used nothing."""
    if call.cache == "hit":
        hold.settle(tokens=0, nano=0)
    else:
        hold.release()
