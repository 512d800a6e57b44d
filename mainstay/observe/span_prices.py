"""What the model of a span costs by the price book, its provider being named as OpenTelemetry's dialects name it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from mainstay.core.money import Price
from mainstay.observe.spans_names import PROVIDERS as WELL_KNOWN
from mainstay.registry import pricebook
from mainstay.registry.pricebook import PriceBook

_ALIASES: Mapping[str, str] = {
    "azure.ai.inference": "azure",
    "azure_openai": "azure",
    "google": "gemini",
    "gcp.gen_ai": "gemini",
    "google_genai": "gemini",
    "vertex_ai": "vertex",
    "vertexai": "vertex",
    "mistralai": "mistral",
    "aws": "bedrock",
    "amazon_bedrock": "bedrock",
}
"""Other names in use for kinds of provider."""

_REMEMBERED = 2000


class SpanPrices:
    """Looks prices up in ``book``. ``ids`` has the book's id for each kind of provider. For one thread at a time."""

    def __init__(self, book: PriceBook, ids: Mapping[str, str]) -> None:
        kinds = {**{known: kind for kind, known in WELL_KNOWN.items()}, **_ALIASES}
        self._book = book
        self._ids = {**ids, **{name: ids[kind] for name, kind in kinds.items() if kind in ids}}
        self._found: dict[tuple[str, str, int], Price | None] = {}

    @property
    def book(self) -> PriceBook:
        """The book that it looks in."""
        return self._book

    def __call__(self, provider: str, model: str, at: float) -> Price | None:
        """The price at ``at``, seconds since the epoch; None where the book does not know that model of that provider."""
        key = provider.lower(), model, int(at // 3600)  # a rate changes at most once an hour
        if key not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[key] = self._look(key[0], model, at)
        return self._found[key]

    def _look(self, provider: str, model: str, at: float) -> Price | None:
        known = self._ids.get(provider)
        if known is None:
            return None
        return pricebook.find(self._book, known, None, model, datetime.fromtimestamp(at, UTC)).price
