"""Checking bundles: golden files with the exact messages, and what must hold for any text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mainstay.core.errors import BadConfig
from mainstay.registry.bundle import Checked, check, check_file
from mainstay.registry.crosscheck import Existing, expiry
from mainstay.registry.document import MAX_BYTES

GOLDEN = Path(__file__).parent.parent / "golden" / "bundle"
ENV = {
    "ALPHA_KEY": "alpha-key",
    "BETA_KEY": "beta-key",
    "SUPPORT_WEB_KEY": "sk-support-web-000000",
    "SECRET": "canary-7f3a9c-canary",
    "NUMBER": "5",
    "WORD": "canary-word",
    "EMPTY": "",
}
KINDS = {"openai": (), "groq": (), "anthropic": (), "vertex": ("region", "project"), "azure": ("resource",)}


def messages(file: Path) -> str:
    """What ``check`` says of a golden file: problems, then warnings."""
    checked = check(file.read_text(), file.name, ENV, Existing(), KINDS)
    return "".join(f"{line}\n" for line in [*checked.problems, *(f"warning: {line}" for line in checked.warnings)])


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_messages_are_these(file: Path) -> None:
    expected = file.with_suffix(".txt").read_text()
    assert messages(file) == expected
    assert "canary" not in expected  # values of variables are never shown


def ok(text: str, existing: Existing = Existing(), **env: str) -> Checked:  # noqa: B008 - it is frozen
    checked = check(text, "m.yaml", env, existing, KINDS)
    assert checked.problems == []
    return checked


def test_the_bundle_of_the_design_is_read_as_written() -> None:
    bundle = check((GOLDEN / "design.yaml").read_text(), "mainstay.yaml", ENV, Existing()).ok()
    assert [provider.api_key for provider in bundle.providers] == ["alpha-key", "beta-key"]
    assert bundle.models[0].price is not None
    assert bundle.models[0].price.cached_input == 0.075
    assert bundle.routes[0].to == {"fallback": [{"weighted": {"small": 9, "large": 1}}, "large"]}
    assert bundle.routes[0].timeouts.plain == "30s"
    assert bundle.keys[0].secret == "sk-support-web-000000"
    assert bundle.keys[0].models == ["chat", "small"]


def test_variables_defaults_and_escapes() -> None:
    bundle = ok(
        'providers: [{name: a, wire: sim, api_key: "x-${KEY}-${EMPTY:-y}-${NONE:-z}", headers: {x: "$${KEY}"}}]',
        KEY="k",
        EMPTY="",
    ).ok()
    assert bundle.providers[0].api_key == "x-k-y-z"
    assert bundle.providers[0].headers == {"x": "${KEY}"}


def test_an_expanded_value_is_not_expanded_again_and_is_no_yaml() -> None:
    bundle = ok('providers: [{name: a, wire: sim, api_key: "${KEY}"}]', KEY="${OTHER}, admin: true}").ok()
    assert bundle.providers[0].api_key == "${OTHER}, admin: true}"


def test_a_variable_may_be_a_number_where_one_is_wanted_and_text_where_text_is() -> None:
    bundle = ok(
        'teams: [{name: t, budget: {usd: "${N}"}}]\nproviders:\n- name: a\n  wire: sim\n  api_key: ${N}', N="12"
    ).ok()
    assert bundle.teams[0].budget is not None
    assert bundle.teams[0].budget.usd == 12  # type: ignore[union-attr]
    assert bundle.providers[0].api_key == "12"


def test_what_others_have_put_in_may_be_referred_to() -> None:
    text = """
        models: [{name: m, target: old/x}]
        routes: [{name: r, to: {fallback: [m, old-model, old-route]}}]
        keys: [{name: k, team: old-team, models: [old-route, r]}]
    """
    existing = Existing({"old"}, {"old-model"}, {"old-route": "old-model"}, {"old-team"})
    ok(text, existing)
    assert len(check(text, "m.yaml", {}, Existing()).problems) == 5


def test_a_cycle_through_a_route_of_another_source_is_found() -> None:
    existing = Existing(models={"m"}, routes={"theirs": {"fallback": ["m", "ours"]}})
    [problem] = check("routes: [{name: ours, to: theirs}]", "m.yaml", {}, existing).problems
    assert problem == 'm.yaml:1: route "ours" leads back to itself: ours → theirs → ours'


def test_names_of_other_sources_are_not_shadowed() -> None:
    existing = Existing(providers={"a"}, models={"m"}, routes={"r": "m"})
    text = "routes: [{name: m, to: q}]\nmodels: [{name: r, target: a/x}, {name: q, target: a/x}]"
    assert len(check(text, "m.yaml", {}, existing).problems) == 2


def test_a_bundle_with_problems_cannot_be_had() -> None:
    checked = check("models: 1", "m.yaml", {}, Existing())
    with pytest.raises(BadConfig) as caught:
        checked.ok()
    assert caught.value.problems == checked.problems != []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = check_file(tmp_path / "no.yaml", {}, Existing())
    assert missing.problems == [
        f"{tmp_path}/no.yaml:1: cannot be read: no such file or directory; check the path and its permissions"
    ]
    assert check_file(tmp_path, {}, Existing()).problems[0].startswith(f"{tmp_path}:1: cannot be read: is a directory")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"teams:\n- {name: t}\n# caf\xe9\n")
    assert check_file(latin, {}, Existing()).problems == [f"{latin}:3: the file is not UTF-8 here; save it as UTF-8"]
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "the most is" in check_file(large, {}, Existing()).problems[0]
    marked = tmp_path / "bom.yaml"
    marked.write_bytes(b"\xef\xbb\xbfteams: [{name: t}]")
    assert check_file(marked, {}, Existing()).ok().teams[0].name == "t"


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5_000, "- " * 50_000, "&a [*a]", "a: &a {b: *a}"])
def test_nothing_can_be_nested_or_repeated_without_bound(text: str) -> None:
    checked = check(text, "m.yaml", {}, Existing())
    assert checked.bundle is None


def test_many_values_are_refused() -> None:
    [problem] = check("teams: [" + "x, " * 100_001 + "]", "m.yaml", {}, Existing()).problems
    assert "more than 100000 values" in problem


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
@example("a: \x00")
@example("\ud800")
@example("--- 1\n--- 2")
@example("? x")
@example("*missing")
@example("%YAML 9.9\n---\nx")
def test_any_text_gives_a_bundle_or_problems_with_a_line(text: str) -> None:
    checked = check(text, "m.yaml", dict(os.environ), Existing())
    assert (checked.bundle is None) == bool(checked.problems)
    for line in [*checked.problems, *checked.warnings]:
        file, number, sentence = line.split(":", 2)
        assert file == "m.yaml"
        assert 1 <= int(number) <= text.count("\n") + text.count("\r") + text.count("\x85") + 3
        assert sentence.strip()


names = st.from_regex(r"[a-z][a-z0-9._-]{0,10}", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(
    providers=st.lists(names, min_size=1, max_size=3, unique=True),
    models=st.lists(names, min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_any_well_formed_bundle_is_accepted(providers: list[str], models: list[str], data: st.DataObject) -> None:
    import msgspec

    wanted = {
        "providers": [{"name": name, "wire": "sim"} for name in providers],
        "models": [{"name": name, "target": f"{data.draw(st.sampled_from(providers))}/x/y"} for name in models],
        "routes": [{"name": "ROUTE", "to": {"fallback": models}}],
    }
    bundle = check(msgspec.json.encode(wanted), "m.yaml", {}, Existing()).ok()
    assert [model.name for model in bundle.models] == models


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-31", 1801353600.0),
        ("2027-01-31T12:00:00Z", 1801396800.0),
        ("2027-01-31T12:00:00+02:00", 1801389600.0),
    ],
)
def test_dates(text: str, at: float) -> None:
    assert expiry(text) == at
