"""Bundles made to exhaust whoever reads them: refused in a moment, with a sentence, from the API and from a file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.security.rig import House

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    + ["models: *a11"]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}], y{i}: 1}}" for i in range(1, 14)]
)
BOMBS = {
    "laughs": LAUGHS,
    "merges": MERGES,
    "itself": "models: &a [*a]",
    "deep": "[" * 50_000,
    "deep block": "\n".join(" " * i + "a:" for i in range(2000)),
    "wide": "models: [" + "x," * 300_000 + "]",
    "long": "models: " + "x" * 5_000_000,
    "object": "models: !!python/object/apply:os.system ['touch /tmp/mainstay-was-here']",
    "module": "models: !!python/name:os.system",
    "binary": "models: !!binary aGVsbG8=",
    "many documents": "---\n" * 50_000,
    "many keys": "\n".join(f"k{i}: 1" for i in range(60_000)),
    "same key": "models: []\n" * 30_000,
    "variables": "models: [{name: " + "${A}" * 200_000 + "}]",
    "number": "models: [{name: x, target: a/b, price: {input: " + "9" * 100_000 + "}}]",
    "nul": "models: \x00",
    "surrogates": "models: \ud800",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_in_a_bundle_is_refused_quickly(house: House, name: str) -> None:
    text = BOMBS[name]
    started = time.monotonic()
    if name == "surrogates":
        content = b'{"text": "models: \\ud800"}'
        reply = house.ask("POST", "/api/v1/bundles", content=content, headers={"content-type": "application/json"})
    else:
        reply = house.ask(
            "POST", "/api/v1/bundles", json={"text": text, "dry_run": True, "environment": {"A": "x" * 100}}
        )
    assert reply.status_code in (400, 422), reply.text[:300]
    assert time.monotonic() - started < 10
    error = reply.json()["error"]
    assert len(reply.content) < 1_000_000
    assert error["message"]
    assert not Path("/tmp/mainstay-was-here").exists()


def test_a_deep_body_is_refused(house: House) -> None:
    for content in (b'{"text":' + b"[" * 200_000, b'{"text":' * 50_000):
        reply = house.ask("POST", "/api/v1/bundles", content=content, headers={"content-type": "application/json"})
        assert reply.status_code == 400, reply.text[:200]


def test_a_bundle_from_the_api_sees_no_environment_but_its_own(house: House) -> None:
    """Nor does it read the server's: a bundle could send the secrets of the machine to a host of its choice."""
    text = "providers: [{name: x, wire: openai, base_url: 'http://127.0.0.1:1/v1', api_key: '${PATH}'}]"
    reply = house.ask("POST", "/api/v1/bundles", json={"text": text, "dry_run": True})
    assert reply.status_code == 422
    assert "PATH is not set" in reply.json()["error"]["problems"][0]


def test_the_house_still_answers(house: House) -> None:
    assert house.chat().status_code == 200
    assert house.ask("GET", "/api/v1/keys").status_code == 200
