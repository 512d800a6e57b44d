"""The Snapshot: one document, its digest, its light weight."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.artifact import Artifact, digest
from mainstay.core.errors import Invalid
from mainstay.core.money import Price
from mainstay.core.usage import Usage
from mainstay.registry import kinds
from mainstay.registry.snapshot import (
    Looked,
    Resolved,
    ResolvedKey,
    ResolvedTeam,
    decode,
    encode,
    resolve,
    sealed,
    unsealed,
)


def artifact(kind: str, **body: object) -> Artifact:
    return Artifact(kind, str(body["name"]), digest(body), body)


ARTIFACTS = [
    artifact("provider", name="a", wire="openai", base_url="http://127.0.0.1:1", api_key="sealed:1:x"),
    artifact("model", name="small", target="a/vendor/gpt"),
    artifact("model", name="orphan", target="gone/x"),
    artifact("route", name="chat", to={"fallback": ["small"]}, cache={"ttl": "10m"}),
    artifact("budget", name="all", usd=5, by="all"),
    artifact("price_book", name="genai-prices", providers=[]),
]
TIERED = Price(1, 2, source="book", as_of="2026-11-01", above=(200_000, Price(3, 4)))
TEAMS = [ResolvedTeam(name="t", limits=kinds.Limits(concurrent=3)), ResolvedTeam(name="s")]
KEYS = [
    ResolvedKey(id="2", name="k", team="t", hash="bb", expires=5.5, budgets=[kinds.Budget(usd=1, per="day")]),
    ResolvedKey(id="1", name="k", team="t", hash="aa", models=["chat"], admin=True),
]


def made(artifacts: list[Artifact] = ARTIFACTS, pepper: str = "pepper") -> Resolved:
    return resolve(artifacts, lambda provider, model: Looked(TIERED, 128_000), TEAMS, KEYS, pepper)


def test_all_that_is_in_force_is_in_it() -> None:
    resolved = decode(encode(made()))
    assert resolved == made()
    small = next(model for model in resolved.models if model.body.name == "small")
    assert (small.provider, small.upstream_model, small.context_window) == ("a", "vendor/gpt", 128_000)
    assert small.price == TIERED
    assert resolved.providers[0].body.api_key == "sealed:1:x"
    assert [key.hash for key in resolved.keys] == ["aa", "bb"]
    assert resolved.routes[0].body.cache == kinds.CacheRule(ttl="10m")
    orphan = next(model for model in resolved.models if model.body.name == "orphan")
    assert orphan.price is None  # its provider is gone: nothing is known of it


@given(st.permutations(ARTIFACTS))
def test_the_order_in_which_things_come_does_not_matter(shuffled: list[Artifact]) -> None:
    assert encode(made(shuffled)) == encode(made())


def test_another_content_has_another_digest() -> None:
    assert made().digest != made(pepper="other").digest != made(ARTIFACTS[:-2]).digest


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_document_is_refused(at: int, byte: int) -> None:
    document = bytearray(encode(made()))
    at %= len(document)
    if document[at] == byte:
        byte ^= 1
    document[at] = byte
    with pytest.raises(Invalid):
        decode(bytes(document))


@given(st.integers(0, 2000))
def test_a_torn_document_is_refused(length: int) -> None:
    document = encode(made())
    with pytest.raises(Invalid):
        decode(document[: length % len(document)])


def test_a_document_of_another_form_is_refused() -> None:
    with pytest.raises(Invalid, match="has form 99, this version of Mainstay reads form 1"):
        decode(encode(Resolved(version=99)))


def test_everything_that_may_be_secret_is_sealed_and_opened_again() -> None:
    provider = kinds.Provider(
        name="a",
        wire="openai",
        base_url="https://example.com",
        api_key="s1",
        secret_key="s2",
        session_token="s3",
        headers={"x": "s4"},
        query={"q": "s5"},
        proxy="http://u:s6@proxy",
    )
    hidden = sealed(provider, lambda text: text.encode().hex())
    assert not any(f"s{i}" in str(hidden) for i in range(1, 7))
    assert unsealed(hidden, lambda text: bytes.fromhex(text).decode()) == provider


def test_a_long_request_costs_what_its_tier_says() -> None:
    price = Price(1_000_000, 2_000_000, above=(10, Price(3_000_000, 4_000_000)))
    assert price.cost(Usage(input=10, output=1)) == 12
    assert price.cost(Usage(input=11, output=1)) == 37
    assert price.bound(10, 1) == 12
    assert price.bound(11, 1) == 37


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_the_bound_is_never_below_the_cost(most: int, out: int, used: int, written: int) -> None:
    price = Price(5_000_000, 2_000_000, above=(10, Price(3_000_000, 4_000_000)))
    assert price.bound(most, out) >= price.cost(Usage(input=min(used, most), output=min(written, out)))


def test_a_gateway_can_read_it_without_anything_heavy() -> None:
    code = (
        "import sys; import mainstay.registry.snapshot; "
        "print([m for m in ('sqlalchemy', 'yaml', 'pydantic', 'genai_prices', 'alembic') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
