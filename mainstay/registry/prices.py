"""What a model costs: the bundle's price, else the price book's; and where price books come from."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, NotFound, Unavailable
from mainstay.core.money import Price, nano_from_usd
from mainstay.registry import kinds, pricebook
from mainstay.registry.artifacts import Artifacts
from mainstay.registry.channels import Channels
from mainstay.registry.pricebook import MAX_BYTES, PriceBook
from mainstay.registry.snapshot import Looked

KIND, NAME = "price_book", "genai-prices"
"""The price book in force is ``price_book/genai-prices@live``; where there is none, the one in the package."""

_TIMEOUT = 20.0


class Prices:
    """Finds prices in one book. ``ids`` has the book's id for each kind of provider that it knows."""

    def __init__(self, book: PriceBook, ids: Mapping[str, str], clock: Clock) -> None:
        self._book = book
        self._ids = ids
        self._clock = clock

    @property
    def book(self) -> PriceBook:
        """The book."""
        return self._book

    def look(self, provider: kinds.Provider, model: kinds.Model) -> Looked:
        """The price of ``model`` at ``provider`` and its context window: what the bundle says goes before the book."""
        upstream_model = model.target.partition("/")[2]
        looked = self.find(provider, upstream_model)
        price = looked.price if model.price is None else declared(model.price)
        window = model.context_window if model.context_window is not None else looked.context_window
        return Looked(price, window, "" if price is not None else looked.note)

    def find(self, provider: kinds.Provider, upstream_model: str) -> Looked:
        """What the book knows of that model."""
        kind, at = provider.kind, datetime.fromtimestamp(self._clock.now(), UTC)
        if kind is None and provider.base_url is not None:
            return pricebook.find(self._book, None, provider.base_url, upstream_model, at)
        if kind == "huggingface":
            # the router's models name who serves them after a colon
            upstream_model, _, server = upstream_model.rpartition(":")
            if not upstream_model or server in ("fastest", "cheapest", "preferred"):
                return Looked(note="the router chooses who serves it; name one (model:provider), or give a price")
            return pricebook.find(self._book, f"huggingface_{server}", None, upstream_model, at)
        known = self._ids.get(kind or provider.wire or "")
        if known is None:
            return Looked(note="the price book does not know this kind of provider; give the model a price")
        return pricebook.find(self._book, known, None, upstream_model, at)


def declared(body: kinds.PriceBody) -> Price:
    """A price from the bundle."""

    def nano(usd: float | None) -> int | None:
        return None if usd is None else nano_from_usd(usd)

    return Price(
        input=nano_from_usd(body.input),
        output=nano_from_usd(body.output),
        cached_input=nano(body.cached_input),
        cache_write=nano(body.cache_write),
        reasoning=nano(body.reasoning),
        input_audio=nano(body.input_audio),
        output_audio=nano(body.output_audio),
        request=nano_from_usd(body.request),
        source="bundle",
    )


def packaged(kept: Path | None = None) -> PriceBook:
    """The book that came with the installed genai-prices; needs no network.

    Takes about half a second, so it is kept in the folder ``kept``, by the versions that it was made with.
    """
    path = None if kept is None else kept / f"{version('genai-prices')}-{version('mainstay')}.json"
    if path is not None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=PriceBook)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            pass
    book = _packaged()
    if path is not None:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_bytes(msgspec.json.encode(book))
            draft.replace(path)
        except OSError:  # it is made anew the next time
            pass
    return book


def _packaged() -> PriceBook:
    from genai_prices.data import providers

    document = json.dumps([_raw(provider) for provider in providers], default=str).encode()
    book = pricebook.read(document, f"version {version('genai-prices')} of the package", "")
    # The package has no date of its own: it is right at least up to the last change of a price that it knows to have begun.
    today = datetime.now(UTC).date().isoformat()
    changes = [r.since for p in book.providers for m in p.models for r in m.rates if r.since and r.since <= today]
    book.as_of = max(changes, default="")
    return book


async def fetch(url: str | None, clock: Clock) -> PriceBook:
    """The book as its authors publish it now, from ``url`` or their own address.

    Raises ``Unavailable`` if it cannot be had, ``Invalid`` if it is none.
    """
    if url is None:
        from genai_prices.update_prices import DEFAULT_UPDATE_URL

        url = DEFAULT_UPDATE_URL
    if not url.startswith("https://"):
        raise Invalid("a price book is fetched over https only; or download it and give its file")
    try:
        document = await asyncio.to_thread(_download, url)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise Unavailable(
            f"the price book could not be fetched from {url}: {error}; give a file instead, or go on with the old one"
        ) from None
    return await asyncio.to_thread(pricebook.read, document, url, _today(clock))


async def load(file: Path, clock: Clock) -> PriceBook:
    """The book in ``file``, downloaded elsewhere. Raises ``NotFound`` or ``Invalid``."""
    try:
        document = await asyncio.to_thread(file.read_bytes)
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror or error}; check the path") from None
    return await asyncio.to_thread(pricebook.read, document, file.name, _today(clock))


async def put(
    connection: AsyncConnection, artifacts: Artifacts, channels: Channels, book: PriceBook, *, by: str, why: str
) -> bool:
    """Put ``book`` in force; False if just this one was. Its kind must be known to ``artifacts``."""
    artifact = await artifacts.put(connection, KIND, NAME, book, by=by, why=why)
    return await channels.move(connection, KIND, NAME, artifact.digest, by=by, why=why) is not None


async def current(connection: AsyncConnection, channels: Channels) -> PriceBook:
    """The book in force, else the one of the package."""
    for artifact in await channels.in_force(connection):
        if artifact.kind == KIND and artifact.name == NAME:
            return msgspec.convert(artifact.body, PriceBook)
    return await asyncio.to_thread(packaged)


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to another host or out of https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(str(req.full_url)), urlsplit(newurl)
        if after.scheme != "https" or after.netloc != before.netloc:
            raise ValueError(
                f"it redirects to {after.scheme}://{after.hostname}; give that address itself if it is right"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"accept": "application/json", "user-agent": "mainstay"})
    with urllib.request.build_opener(_SameHost).open(request, timeout=_TIMEOUT) as reply:
        document: bytes = reply.read(MAX_BYTES + 1)
    return document


def _today(clock: Clock) -> str:
    return datetime.fromtimestamp(clock.now(), UTC).date().isoformat()


def _raw(value: Any) -> Any:
    """A provider of the package in the form in which it is published."""
    if isinstance(value, list):
        return [_raw(item) for item in cast(list[Any], value)]
    if isinstance(value, Decimal | date | time):
        return str(value)
    if type(value).__name__ == "ModelPrice":
        rates = cast(dict[str, Any], vars(value))
        return {sort: _raw(rate) for sort, rate in rates.items() if rate is not None}
    if is_dataclass(value) and not isinstance(value, type):
        fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return {name.rstrip("_"): _raw(item) for name, item in fields.items() if item is not None}
    return value
