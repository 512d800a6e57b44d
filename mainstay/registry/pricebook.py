"""A price book: what providers charge for their models, as one typed document, and how a model is found in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from mainstay.core.errors import Invalid
from mainstay.core.money import Nano, Price, nano_from_usd
from mainstay.registry.kinds import Body, Name
from mainstay.registry.snapshot import Looked

MAX_BYTES = 32 * 1024 * 1024
"""The largest document that is read as a price book."""

Money = Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,30})?$", description="US dollars, in decimal")]


class Tiers(Body):
    """A rate that depends on the input tokens of the request: ``base``, or that of the last tier it is above."""

    base: Money
    tiers: list[tuple[int, Money]]


class Rates(Body):
    """What is charged from ``since`` (a date) or between two times of each day (UTC); the later entry counts.

    ``usd`` has dollars per million tokens, or per thousand requests, by the names that genai-prices gives to them.
    """

    usd: dict[str, Money | Tiers]
    since: str | None = None
    daily: tuple[str, str] | None = None


class BookModel(Body):
    """One model: the clause that its names match, its context window, its rates, oldest first."""

    id: str
    match: dict[str, Any]
    rates: list[Rates]
    context_window: int | None = None


class BookProvider(Body):
    """One provider: the pattern of its addresses, and others whose models it also sells at their price."""

    id: str
    address: str
    models: list[BookModel]
    sells: list[str]


class PriceBook(Body):
    """The body of an artifact of kind ``price_book``. ``as_of`` is the date up to which it is known to be right."""

    name: Name
    source: str
    as_of: str
    providers: list[BookProvider]


# What a Price can say. A model that also charges by anything else per token cannot be priced from its Usage alone.
_SORTS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
}
# Charged for server-side tools and longer cache times, which a call must ask for: they are not part of every call.
_ASKED_FOR = frozenset(
    {"web_searches_kcount", "storage_searches_kcount", "cache_write_1h_mtok", "cache_audio_read_mtok"}
)
_REQUESTS = "requests_kcount"


def read(document: bytes, source: str, as_of: str) -> PriceBook:
    """The book in ``document``, in the JSON that genai-prices publishes. Raises ``Invalid`` for anything else."""
    if len(document) > MAX_BYTES:
        raise Invalid(f"the price book has {len(document)} bytes; the most is {MAX_BYTES}")
    try:
        providers: Any = json.loads(document, parse_float=str, parse_int=str)
        if not isinstance(providers, list) or not providers:
            raise ValueError("it is not a list of providers")
        book = PriceBook(name="genai-prices", source=source, as_of=as_of, providers=[])
        for provider in cast(list[dict[str, Any]], providers):
            book.providers.append(_provider(provider))
        return msgspec.convert(msgspec.to_builtins(book), PriceBook)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.ValidationError) as error:
        raise Invalid(f"this is no price book in the form that genai-prices publishes: {error}") from None


def find(book: PriceBook, provider_id: str | None, address: str | None, model: str, at: datetime) -> Looked:
    """What the book knows of ``model`` at the time ``at``; its note says why there is no price.

    The provider is found by its id in the book or, without one, by its address; never by the model's name, since
    anybody may serve a model of that name.
    """
    provider = next((one for one in book.providers if one.id == provider_id), None)
    if provider is None and provider_id is None and address is not None:
        provider = next((one for one in book.providers if _matches_address(one.address, address)), None)
    if provider is None:
        return Looked(note="the price book does not know this provider")
    found = _model(provider, model)
    for seller in provider.sells if found is None else ():
        maker = next((one for one in book.providers if one.id == seller), None)
        found = None if maker is None else _model(maker, model)
        if found is not None:
            break
    if found is None:
        return Looked(note="the price book does not know this model")
    price, note = _price(book, found, at.astimezone(UTC))
    return Looked(price, found.context_window, note)


def _provider(raw: Mapping[str, Any]) -> BookProvider:
    return BookProvider(
        id=raw["id"],
        address=raw["api_pattern"],
        sells=raw.get("fallback_model_providers") or [],
        models=[_book_model(model) for model in raw["models"]],
    )


def _book_model(raw: Mapping[str, Any]) -> BookModel:
    prices: Any = raw.get("prices") or []
    entries = cast(list[Mapping[str, Any]], prices) if isinstance(prices, list) else [{"prices": prices}]
    window = raw.get("context_window")
    return BookModel(
        id=raw["id"],
        match=raw["match"],
        context_window=None if window is None else int(window),
        rates=[_rates(entry) for entry in entries],
    )


def _rates(raw: Mapping[str, Any]) -> Rates:
    constraint: Mapping[str, Any] = raw.get("constraint") or {}
    daily = (constraint["start_time"], constraint["end_time"]) if "start_time" in constraint else None
    if constraint and daily is None and "start_date" not in constraint:
        raise ValueError(f"a price with the unknown condition {', '.join(constraint)}")
    usd: dict[str, Money | Tiers] = {}
    for sort, rate in cast(Mapping[str, Any], raw["prices"]).items():
        if isinstance(rate, Mapping):
            steps = cast(list[Mapping[str, Any]], rate["tiers"])
            tiers = sorted((int(step["start"]), _decimal(step["price"])) for step in steps)
            usd[sort] = Tiers(base=_decimal(rate["base"]), tiers=tiers)
        elif rate is not None:
            usd[sort] = _decimal(rate)
    return Rates(usd=usd, since=constraint.get("start_date"), daily=daily)


def _decimal(value: Any) -> str:
    try:
        return f"{Decimal(value):f}"
    except InvalidOperation:
        raise ValueError(f"{value!r} is not an amount") from None


def _matches_address(pattern: str, address: str) -> bool:
    try:
        return re.match(pattern, address) is not None
    except re.error:
        return False


def _model(provider: BookProvider, name: str) -> BookModel | None:
    dated = re.sub(r"-(20\d\d)([01]\d)([0-3]\d)(?=-|:|$)", r"-\1-\2-\3", name)
    for spelling in dict.fromkeys((name.lower(), dated.lower())):
        for model in provider.models:
            if _matches(model.match, spelling):
                return model
    return None


def _matches(clause: Mapping[str, Any], text: str) -> bool:
    for word, wanted in clause.items():
        if word == "or":
            return any(_matches(inner, text) for inner in wanted)
        if word == "and":
            return all(_matches(inner, text) for inner in wanted)
        if word == "regex":
            return re.search(wanted, text) is not None
        wanted = str(wanted).lower()
        if word == "equals":
            return text == wanted
        if word == "starts_with":
            return text.startswith(wanted)
        if word == "ends_with":
            return text.endswith(wanted)
        if word == "contains":
            return wanted in text
    return False


def _price(book: PriceBook, model: BookModel, at: datetime) -> tuple[Price | None, str]:
    if not model.rates:
        return None, "the price book has no price for this model"
    chosen = model.rates[0]
    for rates in reversed(model.rates):
        if rates.daily is not None:
            return None, "its price changes with the time of day, which one price cannot say; give it one"
        if rates.since is None or date.fromisoformat(rates.since) <= at.date():
            chosen = rates
            break
    if "input_mtok" not in chosen.usd:
        return None, "it is not charged by the token; give it a price, or a bound with max_call_usd"
    strange = [sort for sort in chosen.usd if sort not in _SORTS and sort not in _ASKED_FOR and sort != _REQUESTS]
    if strange:
        return None, f"it is also charged by {', '.join(strange)}, which one price cannot say; give it one"
    starts = sorted({start for rate in chosen.usd.values() if isinstance(rate, Tiers) for start, _ in rate.tiers})
    price: Price | None = None
    for start, next_start in reversed(list(zip([-1, *starts], [*starts, None], strict=True))):
        above = None if price is None or next_start is None else (next_start, price)
        price = _at(chosen, start, f"{book.name} ({book.source})", chosen.since or book.as_of, above)
    return price, ""


def _at(rates: Rates, start: int, source: str, as_of: str, above: tuple[int, Price] | None) -> Price:
    """The price of a request with just over ``start`` input tokens."""
    amounts: dict[str, Nano] = {}
    for sort, rate in rates.usd.items():
        if isinstance(rate, Tiers):
            rate = next((price for begins, price in reversed(rate.tiers) if start >= begins), rate.base)
        if sort == _REQUESTS:
            amounts["request"] = nano_from_usd(Decimal(rate) / 1000)
        elif sort in _SORTS:
            amounts[_SORTS[sort]] = nano_from_usd(Decimal(rate))
    return Price(
        input=amounts["input"],
        output=amounts.get("output", 0),  # embeddings, rerankers: they answer without output tokens
        cached_input=amounts.get("cached_input"),
        cache_write=amounts.get("cache_write"),
        reasoning=amounts.get("reasoning"),
        input_audio=amounts.get("input_audio"),
        output_audio=amounts.get("output_audio"),
        request=amounts.get("request", 0),
        source=source,
        as_of=as_of,
        above=above,
    )
