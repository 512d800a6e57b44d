"""Importing LiteLLM configurations: golden bundles that pass the check, and nothing lost without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mainstay.core.errors import BadConfig
from mainstay.core.route import names, parse
from mainstay.registry.bundle import check
from mainstay.registry.crosscheck import Existing
from mainstay.registry.kinds import Bundle
from mainstay.registry.litellm import import_litellm
from mainstay.registry.litellm_targets import KINDS

GOLDEN = Path(__file__).parent.parent / "golden" / "litellm"
NEEDS = {kind: () for kind, _ in KINDS.values()} | {"vertex": ("region", "project"), "bedrock": ("region",)}


def accepted(text: str) -> Bundle:
    """The bundle, checked with all the variables that it names set."""
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)\}", text))
    env = {name: "https://api.example" if "BASE" in name else f"value-of-{name}" for name in variables}
    return check(text, "bundle.yaml", env, Existing(), NEEDS).ok()


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_bundle_is_this_and_passes_the_check(file: Path) -> None:
    imported = import_litellm(file.read_text())
    assert imported.bundle_yaml == file.with_suffix(".bundle").read_text()
    accepted(imported.bundle_yaml)
    for note in imported.notes:
        assert " ".join(note.split()) in imported.bundle_yaml


def test_callers_find_every_name_that_they_used() -> None:
    bundle = accepted(import_litellm((GOLDEN / "full.yaml").read_text()).bundle_yaml)
    there = {model.name for model in bundle.models} | {route.name for route in bundle.routes}
    assert {"gpt-4o", "gpt-4", "claude", "local", "bed", "g"} <= there


def test_deployments_become_a_weighted_route_and_fallbacks_follow() -> None:
    bundle = accepted(import_litellm((GOLDEN / "full.yaml").read_text()).bundle_yaml)
    route = next(route for route in bundle.routes if route.name == "gpt-4o")
    assert route.to["fallback"][0] == {"weighted": {"gpt-4o@azure": 6, "gpt-4o@openai": 3}}
    assert list(names(parse(route.to))) == ["gpt-4o@azure", "gpt-4o@openai", "claude@anthropic", "g@vertex"]
    assert (route.retry.attempts, route.timeouts.plain) == (4, "60s")
    assert route.cache is not None
    assert route.cache.ttl == "600s"


def test_costs_per_token_are_exact_per_million() -> None:
    bundle = accepted(import_litellm((GOLDEN / "full.yaml").read_text()).bundle_yaml)
    claude = next(model for model in bundle.models if model.name == "claude@anthropic")
    assert claude.price is not None
    assert (claude.price.input, claude.price.output) == (3, 15)
    assert (claude.context_window, claude.images) == (200_000, True)


@pytest.mark.parametrize("prefix", sorted(KINDS))
def test_every_prefix_becomes_its_kind(prefix: str) -> None:
    config = {"model_list": [{"model_name": "m", "litellm_params": {"model": f"{prefix}/vendor/x"}}]}
    bundle = accepted(import_litellm(yaml.safe_dump(config)).bundle_yaml)
    assert bundle.providers[0].kind == KINDS[prefix][0]
    assert bundle.models[0].name == "m"


def test_no_setting_is_lost_without_a_word() -> None:
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/x", "mystery_param": 1},
                "model_info": {"mystery_info": 2},
                "mystery_entry": 3,
            }
        ],
        "litellm_settings": {"mystery_a": 1},
        "router_settings": {"mystery_b": 1},
        "general_settings": {"mystery_c": 1},
        "mystery_section": {},
        "environment_variables": {"MYSTERY": "x"},
    }
    imported = import_litellm(yaml.safe_dump(config))
    said = "\n".join(imported.notes)
    for name in (
        "mystery_param",
        "mystery_info",
        "mystery_entry",
        "mystery_a",
        "mystery_b",
        "mystery_c",
        "mystery_section",
        "MYSTERY",
    ):
        assert name in said
    assert "virtual keys" in said


@pytest.mark.parametrize("text", ["", "- a", "a: [", "model_list: &a [*a]"])
def test_what_is_no_configuration_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        import_litellm(text)
    assert all(re.match(r"config.yaml:[12]: ", problem) for problem in caught.value.problems)
