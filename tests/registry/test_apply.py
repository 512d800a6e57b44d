"""Applying bundles: idempotent, whole or not at all, removing what a file no longer has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.core.errors import BadConfig
from mainstay.registry import kinds
from mainstay.registry.apply import differences
from mainstay.registry.bundle import check
from mainstay.registry.crosscheck import Existing
from mainstay.registry.snapshot import Looked
from tests.registry.conftest import Registry

DESIGN = (Path(__file__).parent.parent / "golden" / "bundle" / "design.yaml").read_text()
ENV = {"ALPHA_KEY": "alpha-key", "BETA_KEY": "beta-key", "SUPPORT_WEB_KEY": "sk-support-web-000000"}

ONE = """
providers:
  - {name: a, wire: sim, api_key: "${KEY:-k}"}
models:
  - {name: m, target: a/x, price: {input: 1}}
  - {name: n, target: a/y}
routes:
  - {name: r, to: {fallback: [m, n]}}
teams:
  - {name: t}
keys:
  - {name: k, team: t}
"""


async def test_the_bundle_of_the_design_is_put_and_put_again(registry: Registry) -> None:
    applied = await registry.apply(DESIGN, **ENV)
    assert applied.printed() == [
        "added     provider alpha",
        "added     provider beta",
        "added     model small",
        "added     model large",
        "added     route chat",
        "added     team support",
        "added     key support/support-web",
    ]
    history = await registry.history()
    again = await registry.apply(DESIGN, **ENV)
    assert again.printed() == ["unchanged 7"]
    assert not again.changed
    assert await registry.history() == history


async def test_what_changed_is_said_and_recorded(registry: Registry) -> None:
    await registry.apply(ONE)
    registry.clock.advance(1)
    changed = ONE.replace("input: 1", "input: 2, output: 4").replace("[m, n]", "[n, m]")
    applied = await registry.apply(changed)
    assert applied.printed() == [
        "changed   model m: price.input 1 → 2; price.output (default) → 4",
        'changed   route r: to.fallback ["m", "n"] → ["n", "m"]',
        "unchanged 4",
    ]
    assert (await registry.history())[-2:] == ["channel:model/m@live", "channel:route/r@live"]
    async with registry.database.read() as connection:
        newest, oldest = await registry.artifacts.versions(connection, "route", "r")
    assert newest.parents == (oldest.digest,)
    assert newest.author == "ada"


async def test_secrets_are_sealed_and_never_said(registry: Registry) -> None:
    await registry.apply(ONE, KEY="canary-1")
    first = await registry.in_force()
    assert "canary" not in str(first)
    assert (await registry.apply(ONE, KEY="canary-1")).printed() == ["unchanged 6"]
    applied = await registry.apply(ONE, KEY="canary-2")
    assert applied.printed() == ["changed   provider a: api_key changed", "unchanged 5"]
    assert "canary" not in str(await registry.in_force())
    assert first != await registry.in_force()


async def test_a_lost_master_key_seals_anew(registry: Registry) -> None:
    await registry.apply(ONE)

    def lost(sealed: str, /) -> str:
        raise ValueError("wrong key")

    registry.sealer.unseal = lost  # type: ignore[method-assign]
    assert (await registry.apply(ONE)).printed()[0] == "changed   provider a: api_key changed"


async def test_what_the_file_no_longer_has_is_removed(registry: Registry) -> None:
    await registry.apply(ONE)
    applied = await registry.apply("providers: [{name: a, wire: sim, api_key: k}]")
    assert [line for line in applied.printed() if line.startswith("removed")] == [
        "removed   key t/k",
        "removed   team t",
        "removed   route r",
        "removed   model m",
        "removed   model n",
    ]
    assert list(await registry.in_force()) == ["provider/a"]
    assert (registry.people.made, registry.people.keys) == ({}, {})


async def test_what_another_file_has_too_stays(registry: Registry) -> None:
    await registry.apply(ONE)
    await registry.apply("models: [{name: n, target: a/y}]", "b.yaml")
    applied = await registry.apply(ONE.replace("  - {name: n, target: a/y}\n", "").replace("[m, n]", "[m]"))
    assert not any(line.startswith("removed") for line in applied.printed())
    assert "model/n" in await registry.in_force()
    await registry.apply("", "b.yaml")
    assert "model/n" not in await registry.in_force()


async def test_what_another_file_still_needs_is_not_removed(registry: Registry) -> None:
    await registry.apply(ONE)
    await registry.apply("routes: [{name: theirs, to: n}]", "b.yaml")
    before, history = await registry.in_force(), await registry.history()
    with pytest.raises(BadConfig, match='route "theirs" needs the model or route "n"'):
        await registry.apply(ONE.replace("  - {name: n, target: a/y}\n", "").replace("[m, n]", "[m]"))
    assert (await registry.in_force(), await registry.history()) == (before, history)


async def test_a_team_that_others_put_keys_into_is_kept(registry: Registry) -> None:
    await registry.apply(ONE)
    registry.people.keys["t", "made-by-hand"] = kinds.Key(name="made-by-hand", team="t")
    applied = await registry.apply("teams: []")
    assert "kept      team t: it still has keys that this file did not put in" in applied.printed()
    assert "t" in registry.people.made


async def test_a_made_secret_is_handed_out_once(registry: Registry) -> None:
    assert (await registry.apply(ONE)).secrets == [("t/k", "made-secret")]
    assert (await registry.apply(ONE)).secrets == []


async def test_nothing_is_applied_if_anything_fails(registry: Registry) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such luck")

    registry.people.put_key = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await registry.apply(ONE)
    assert (await registry.in_force(), await registry.history()) == ({}, [])


async def test_a_dry_run_says_the_same_and_does_nothing(registry: Registry) -> None:
    text = ONE.partition("teams:")[0]
    said = (await registry.apply(text, dry_run=True)).printed()
    assert (await registry.in_force(), await registry.history()) == ({}, [])
    assert said == (await registry.apply(text)).printed()


async def test_existing_is_what_others_put_in(registry: Registry) -> None:
    await registry.apply(ONE)
    assert await registry.applier.existing("a.yaml") == Existing(set(), set(), {}, set())
    assert await registry.applier.existing("b.yaml") == Existing(
        {"a"}, {"m", "n"}, {"r": {"fallback": ["m", "n"]}}, {"t"}
    )


async def test_models_without_a_price_are_named(registry: Registry) -> None:
    checked = check(ONE, "a.yaml", {}, Existing())
    applied = await registry.applier.apply(
        checked, "a.yaml", by="ada", why="", look=lambda provider, model: Looked(note=f"nobody knows {model.name}")
    )
    assert applied.warnings[-1] == (
        'a.yaml: model "n" has no price (nobody knows n); under a budget its calls are refused'
    )


def test_many_differences_are_counted() -> None:
    said = differences({}, dict.fromkeys("abcdefg", 1))
    assert said == ["a (default) → 1", "b (default) → 1", "c (default) → 1", "4 more"]
