"""Prices: the bundle before the book, unknown where one price cannot say it, books from files and from the package."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.clock import FixedClock
from mainstay.core.errors import Invalid, NotFound, Unavailable
from mainstay.core.money import Price
from mainstay.registry import kinds, pricebook, prices
from mainstay.registry.prices import Prices
from tests.registry.conftest import Registry

AT = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def model(id: str, found: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "match": {"equals": id}, "prices": found, **more}


BOOK: list[dict[str, Any]] = [
    {
        "id": "openai",
        "api_pattern": "https://api\\.openai\\.com",
        "models": [
            model("flat", {"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 1.25}, context_window=128000),
            model(
                "tiered",
                {
                    "input_mtok": {"base": 1.25, "tiers": [{"start": 1000, "price": 5}, {"start": 200, "price": 2.5}]},
                    "output_mtok": {"base": 10, "tiers": [{"start": 200, "price": 15}]},
                    "cache_write_mtok": 3,
                },
            ),
            model(
                "dated",
                [
                    {"prices": {"input_mtok": 1, "output_mtok": 1}},
                    {"constraint": {"start_date": "2026-06-01"}, "prices": {"input_mtok": 2, "output_mtok": 2}},
                    {"constraint": {"start_date": "2027-06-01"}, "prices": {"input_mtok": 3, "output_mtok": 3}},
                ],
            ),
            model(
                "nightly",
                [
                    {"prices": {"input_mtok": 1}},
                    {
                        "constraint": {"start_time": "00:30:00Z", "end_time": "08:00:00Z"},
                        "prices": {"input_mtok": 2},
                    },
                ],
            ),
            model("by-the-hour", {"audio_hours": 0.36}),
            model("pictures", {"input_mtok": 5, "output_mtok": 40, "input_image_mtok": 10}),
            model("searches", {"input_mtok": 3, "output_mtok": 15, "web_searches_kcount": 10, "requests_kcount": 14}),
            model("embeds", {"input_mtok": 0.02}),
            model("nothing", {}),
            {"id": "family", "match": {"or": [{"starts_with": "fam"}, {"and": [{"contains": "x"}, {"ends_with": "y"}]}]},
             "prices": {"input_mtok": 0.1}},
            {"id": "dates", "match": {"regex": "^claude-2025-01-02$"}, "prices": {"input_mtok": 7}},
        ],
    },
    {
        "id": "azure",
        "api_pattern": "(https?://)?([^.]*\\.)?openai\\.azure\\.com",
        "fallback_model_providers": ["missing", "openai"],
        "models": [],
    },
    {"id": "huggingface_together", "api_pattern": "x", "models": [model("org/m", {"input_mtok": 1, "output_mtok": 2})]},
]  # fmt: skip


@pytest.fixture
def book() -> Prices:
    read = pricebook.read(json.dumps(BOOK).encode(), "a file", "2026-11-01")
    return Prices(read, {"openai": "openai", "azure": "azure"}, FixedClock(AT))


def look(book: Prices, upstream_model: str, provider: dict[str, Any] | None = None, **body: Any) -> Any:
    known = kinds.Provider(name="p", **(provider or {"kind": "openai"}))
    return book.look(known, kinds.Model(name="m", target=f"p/{upstream_model}", **body))


def test_a_price_has_exact_amounts_source_and_date(book: Prices) -> None:
    found = look(book, "flat")
    assert found.price == Price(
        input=2_500_000_000,
        output=10_000_000_000,
        cached_input=1_250_000_000,
        source="genai-prices (a file)",
        as_of="2026-11-01",
    )
    assert (found.context_window, found.note) == (128_000, "")


def test_long_requests_have_a_price_of_their_own(book: Prices) -> None:
    price = look(book, "tiered").price
    assert (price.input, price.output, price.cache_write) == (1_250_000_000, 10_000_000_000, 3_000_000_000)
    start, above = price.above
    assert (start, above.input, above.output, above.cache_write) == (200, 2_500_000_000, 15_000_000_000, 3_000_000_000)
    start, highest = above.above
    assert (start, highest.input, highest.output, highest.above) == (1000, 5_000_000_000, 15_000_000_000, None)


def test_the_price_in_force_today_is_taken(book: Prices) -> None:
    assert (look(book, "dated").price.input, look(book, "dated").price.as_of) == (2_000_000_000, "2026-06-01")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nightly", "changes with the time of day"),
        ("by-the-hour", "not charged by the token"),
        ("pictures", "also charged by input_image_mtok"),
        ("nothing", "no"),
        ("unheard-of", "does not know this model"),
    ],
)
def test_what_one_price_cannot_say_is_unknown_and_says_why(book: Prices, name: str, why: str) -> None:
    found = look(book, name)
    assert found.price is None
    assert why in found.note


def test_charges_per_request_and_for_what_is_asked_for(book: Prices) -> None:
    price = look(book, "searches").price
    assert (price.input, price.request) == (3_000_000_000, 14_000_000)
    assert look(book, "embeds").price.output == 0


@pytest.mark.parametrize("name", ["family-1", "FAMILY", "axby", "claude-20250102", "claude-2025-01-02"])
def test_names_match_as_the_book_says(book: Prices, name: str) -> None:
    assert look(book, name).price is not None


def test_the_bundle_goes_before_the_book(book: Prices) -> None:
    found = look(book, "flat", price=kinds.PriceBody(input=0.15, output=0.6, cached_input=0.075), context_window=5)
    assert found.price == Price(150_000_000, 600_000_000, 75_000_000, source="bundle")
    assert found.context_window == 5
    assert look(book, "nightly", price=kinds.PriceBody(input=1)).note == ""


@pytest.mark.parametrize(
    ("provider", "name", "known"),
    [
        ({"wire": "openai", "base_url": "https://api.openai.com/v1"}, "flat", True),
        ({"wire": "openai", "base_url": "http://127.0.0.1:9101/v1"}, "flat", False),  # anybody may call a model flat
        ({"wire": "openai", "base_url": "https://api.openai.com.evil.example/"}, "nope", False),
        ({"kind": "azure"}, "flat", True),
        ({"kind": "vllm"}, "flat", False),
        ({"kind": "huggingface"}, "org/m:together", True),
        ({"kind": "huggingface"}, "org/m", False),
        ({"kind": "huggingface"}, "org/m:fastest", False),
        ({"kind": "huggingface"}, "org/m:nobody", False),
        ({"wire": "sim"}, "flat", False),
    ],
)
def test_a_price_is_found_by_the_provider_never_by_the_models_name_alone(
    book: Prices, provider: dict[str, Any], name: str, known: bool
) -> None:
    assert (look(book, name, provider).price is not None) == known


def test_the_package_has_a_book_that_needs_no_network() -> None:
    found = prices.packaged()
    assert found.as_of <= datetime.now(UTC).date().isoformat()
    known = Prices(found, {"openai": "openai", "gemini": "google"}, FixedClock(AT))
    gpt = known.find(kinds.Provider(name="p", kind="openai"), "gpt-4o")
    assert gpt.price is not None
    assert (gpt.price.input, gpt.context_window) == (2_500_000_000, 128_000)
    gemini = known.find(kinds.Provider(name="p", kind="gemini"), "gemini-2.5-pro").price
    assert gemini is not None
    assert gemini.above is not None
    assert gemini.above[0] == 200_000


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b"[1]", b'[{"id": "x"}]', b'[{"id":"x","api_pattern":"x","models":[{"id":"m"}]}]',
     json.dumps([{**BOOK[0], "models": [model("m", {"input_mtok": -1})]}]).encode(),
     json.dumps([{**BOOK[0], "models": [model("m", {"input_mtok": "NaN"})]}]).encode(),
     json.dumps([{**BOOK[0], "models": [model("m", [{"constraint": {"moon": "full"}, "prices": {}}])]}]).encode(),
     b"[" * 100_000],
)  # fmt: skip
def test_other_documents_are_no_price_book(document: bytes) -> None:
    with pytest.raises(Invalid, match="no price book"):
        pricebook.read(document, "x", "")


async def test_a_book_comes_from_a_file_and_is_put_in_force(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(BOOK))
    book = await prices.load(file, FixedClock(AT))
    assert (book.source, book.as_of) == ("data.json", "2026-11-20")
    async with registry.database.write() as connection:
        assert await prices.put(connection, registry.artifacts, registry.channels, book, by="ada", why="refresh")
        assert not await prices.put(connection, registry.artifacts, registry.channels, book, by="ada", why="again")
        kept = await prices.current(connection, registry.channels)
    assert kept == book
    with pytest.raises(NotFound):
        await prices.load(tmp_path / "missing.json", FixedClock(AT))


async def test_without_a_network_fetching_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match="give a file instead"):
        await prices.fetch("https://127.0.0.1:1/data.json", FixedClock(AT))
    with pytest.raises(Invalid, match="over https only"):
        await prices.fetch("http://127.0.0.1:1/data.json", FixedClock(AT))
