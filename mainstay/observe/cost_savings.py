"""What caching and routing have saved, and what they and shorter prompts still might, each with its arithmetic.

All of it is tokens from the ledger times the prices that are in force now; no figure is guessed. What was saved is a
difference between what was paid and a stated alternative; what might be saved is a bound or rests on an assumption, and
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mainstay.core.money import Nano, Price, nano_from_usd, usd
from mainstay.core.route import Cheapest, Fallback, Fastest, LeastBusy, Node, Weighted, When, names, parse
from mainstay.core.usage import Usage
from mainstay.ledger.cost_use import LONG_PROMPT, Looks, Use
from mainstay.registry.snapshot import Resolved

FEWEST_LOOKS = 100
"""Look-ups in the exact cache from which their share of hits says anything about other routes."""

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """What the models cost now, and between which of them each route may choose."""

    models: Mapping[str, Price]
    targets: Mapping[str, frozenset[str]]
    choosing: frozenset[str]  # routes that choose by price or by shares

    def of(self, use: Use) -> Price | None:
        """The rates that hold of these calls at their own model; None: unknown."""
        price = self.models.get(use.model)
        if price is None:
            return None
        return price.above[1] if use.long and price.above is not None else replace(price, above=None)

    def lowest(self, model: str) -> Price | None:
        """A model's rates for short prompts: what is compared with them never looks dearer than it is."""
        price = self.models.get(model)
        return None if price is None else replace(price, above=None)

    def highest(self, model: str) -> Price | None:
        """A model's rates for long prompts, where it has such: what it would cost is never made too little."""
        price = self.models.get(model)
        return price if price is None or price.above is None else price.above[1]


def prices(resolved: Resolved) -> Prices:
    """The prices and routes of a Snapshot."""
    trees = {route.body.name: parse(route.body.to) for route in resolved.routes}
    targets: dict[str, frozenset[str]] = {}
    choosing: set[str] = set()
    for route in trees:
        seen: set[str] = set()
        left, models = [route], set[str]()
        while left:
            name = left.pop()
            if name not in trees:
                models.add(name)
            elif name not in seen:
                seen.add(name)
                left += names(trees[name])
                if _chooses(trees[name]):
                    choosing.add(route)
        targets[route] = frozenset(models)
    known = {model.body.name: model.price for model in resolved.models if model.price is not None}
    return Prices(known, targets, frozenset(choosing))


def _chooses(node: Node) -> bool:
    if isinstance(node, Weighted | Cheapest):
        return True
    if isinstance(node, When):
        inner = [child for _, child in node.cases] + ([] if node.otherwise is None else [node.otherwise])
    else:
        inner = list(node.to) if isinstance(node, Fallback | Fastest | LeastBusy) else []
    return any(_chooses(child) for child in inner)


def savings(used: Sequence[Use], looked: Iterable[Looks], known: Prices) -> dict[str, Any]:
    """Savings made and still possible; unknown prices are counted and left out."""
    hits = [use for use in used if use.hit]
    asked = [use for use in used if not use.hit]
    return {
        "made": [_exact_cache(hits, known), _prompt_cache(asked, known), _routing(asked, known)],
        "possible": [
            _more_cache(list(looked)),
            _cheaper(asked, known),
            _uncached(asked, known),
            _shorter(asked, known),
        ],
        "prices": "those in force now",
        "note": "possible savings overlap: each is what it would save alone",
    }


# what was saved


def _exact_cache(hits: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        cost = at(price, use.usage, use.calls)
        return cost, f"{use.calls} hits: {terms(price, use.usage, use.calls)} = {usd(cost)} USD"

    return _section(
        "exact_cache",
        "tokens of the stored answers × the price of the model that had given them; a hit itself costs nothing",
        hits,
        known,
        saved,
    )


def _prompt_cache(asked: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        usage = use.usage
        if not usage.cached_input and not usage.cache_write:
            return None
        plain = replace(usage, cached_input=0, cache_write=0)
        cost = at(price, plain, use.calls) - at(price, usage, use.calls)
        read, write = _rate(price.cached_input, price), _rate(price.cache_write, price)
        said = (
            f"{usage.cached_input} cached_input × ({usd(price.input)} - {usd(read)}) - "
            f"{usage.cache_write} cache_write × ({usd(write)} - {usd(price.input)}) USD per million = {usd(cost)} USD"
        )
        return cost, said

    return _section(
        "prompt_cache",
        "cached_input × (input price - cached_input price) - cache_write × (cache_write price - input price)",
        asked,
        known,
        saved,
    )


def _routing(asked: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        if use.route not in known.choosing:
            return None
        own = at(price, use.usage, use.calls)
        others = _others(use, known, known.lowest)
        dearest, name = max(others, default=(own, use.model))
        if dearest <= own:
            return 0, f"{use.model} is itself the dearest of the route: {usd(own)} USD"
        return dearest - own, f"{usd(dearest)} USD at {name} - {usd(own)} USD at {use.model}, for the same tokens"

    return _section(
        "routing",
        "on routes with weighted or cheapest: the same tokens at the route's dearest model - at the model that answered",
        asked,
        known,
        saved,
    )


# what might be saved


def _more_cache(looked: Sequence[Looks]) -> dict[str, Any]:
    hits, misses = sum(one.hits for one in looked), sum(one.misses for one in looked)
    data: list[dict[str, Any]] = []
    total = 0
    for one in looked if hits and hits + misses >= FEWEST_LOOKS else ():
        if one.off and one.off_nano:
            saved = one.off_nano * hits // (hits + misses)
            total += saved
            said = f"{usd(one.off_nano)} USD of {one.off} calls × {hits} hits / {hits + misses} look-ups = {usd(saved)} USD"
            data.append({"route": one.route, "calls": one.off, "usd": usd(saved), "arithmetic": said})
    return {
        "kind": "exact_cache",
        "formula": "cost of calls that were not looked up × the share of hits where calls are looked up",
        "assumption": "requests repeat there as often as on the routes with a cache rule; the ledger keeps no requests, "
        f"so that it cannot know. Told from {FEWEST_LOOKS} look-ups on",
        "usd": usd(total),
        "unpriced_calls": 0,
        "data": sorted(data, key=lambda row: -_nano(row)),
    }


def _cheaper(asked: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        own = at(price, use.usage, use.calls)
        cheapest, name = min(_others(use, known, known.highest), default=(own, use.model))
        if cheapest >= own:
            return None
        said = f"{usd(own)} USD at {use.model} - {usd(cheapest)} USD at {name}, for the same tokens"
        return own - cheapest, said

    return _section(
        "routing",
        "the same tokens at the model that answered - at the cheapest model of the same route",
        asked,
        known,
        saved,
        "the cheaper model's answers serve as well, and are as long; a comparison on your own cases must show that",
    )


def _uncached(asked: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        less = price.input - _rate(price.cached_input, price)
        if not use.uncached or less <= 0:
            return None
        cost = use.uncached_input * less // _MILLION
        said = (
            f"{use.uncached_input} input tokens of {use.uncached} calls × ({usd(price.input)} - "
            f"{usd(price.input - less)}) USD per million = {usd(cost)} USD at most"
        )
        return cost, said

    return _section(
        "prompt_cache",
        f"input of calls with {LONG_PROMPT} tokens or more of which none was cached × (input price - cached_input price)",
        asked,
        known,
        saved,
        "at most: as if every prompt began with what an earlier one had, and nothing were charged for writing",
    )


def _shorter(asked: Sequence[Use], known: Prices) -> dict[str, Any]:
    def saved(use: Use, price: Price) -> tuple[Nano, str] | None:
        usage = use.usage
        read = replace(usage, output=0, reasoning=0, output_audio=0)
        paid = at(price, read, use.calls) - price.request * use.calls
        if not use.excess_input or paid <= 0:
            return None
        cost = paid * use.excess_input // usage.input
        said = (
            f"{use.excess_input} tokens above the median of {use.median_input} × {usd(paid)} USD for "
            f"{usage.input} input tokens = {usd(cost)} USD"
        )
        return cost, said

    return _section(
        "shorter_prompts",
        "input tokens above the median prompt of the same route and model × what an input token cost on average",
        asked,
        known,
        saved,
        "at most: as if no prompt needed to be longer than the median one",
    )


# arithmetic


def at(price: Price, usage: Usage, calls: int) -> Nano:
    """What ``calls`` calls with ``usage`` together cost at one rate, rounded once, half to even."""
    return price.cost(usage) + price.request * (calls - 1)


def terms(price: Price, usage: Usage, calls: int) -> str:
    """The products whose sum ``at`` is."""
    rates = [
        ("input", usage.plain_input, price.input),
        ("cached_input", usage.cached_input, _rate(price.cached_input, price)),
        ("cache_write", usage.cache_write, _rate(price.cache_write, price)),
        ("input_audio", usage.input_audio, _rate(price.input_audio, price)),
        ("output", usage.plain_output, price.output),
        ("reasoning", usage.reasoning, price.output if price.reasoning is None else price.reasoning),
        ("output_audio", usage.output_audio, price.output if price.output_audio is None else price.output_audio),
    ]
    products = [f"{count} {sort} × {usd(rate)}" for sort, count, rate in rates if count]
    said = f"({' + '.join(products) or '0'}) USD per million"
    return f"{said} + {calls} requests × {usd(price.request)} USD" if price.request else said


def _rate(rate: Nano | None, price: Price) -> Nano:
    return price.input if rate is None else rate


def _others(use: Use, known: Prices, rates: Callable[[str], Price | None]) -> list[tuple[Nano, str]]:
    """What the same tokens cost at the other models of the route whose price is known."""
    found: list[tuple[Nano, str]] = []
    for name in sorted(known.targets.get(use.route or "", ())):
        price = rates(name) if name != use.model else None
        if price is not None:
            found.append((at(price, use.usage, use.calls), name))
    return found


def _section(
    kind: str,
    formula: str,
    used: Sequence[Use],
    known: Prices,
    saved: Callable[[Use, Price], tuple[Nano, str] | None],
    assumption: str | None = None,
) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    total, unpriced = 0, 0
    for use in used:
        price = known.of(use)
        if price is None:
            unpriced += use.calls
            continue
        found = saved(use, price)
        if found is not None:
            total += found[0]
            row = {"route": use.route, "model": use.model, "calls": use.calls, "usd": usd(found[0])}
            data.append({**row, "arithmetic": found[1]})
    said = {} if assumption is None else {"assumption": assumption}
    return {
        "kind": kind,
        "formula": formula,
        **said,
        "usd": usd(total),
        "unpriced_calls": unpriced,
        "data": sorted(data, key=lambda row: -_nano(row)),
    }


def _nano(row: Mapping[str, Any]) -> Nano:
    return nano_from_usd(row["usd"])
