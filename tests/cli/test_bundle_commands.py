"""check, apply, import, schema: with the file of the design, as written, and with mistakes in it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cli.conftest import DESIGN, Shell
from tests.running import Server


def test_the_designs_file_is_checked_and_applied_once(served: tuple[Server, Shell], design: Path) -> None:
    _, shell = served
    added = [
        "added     provider alpha",
        "added     provider beta",
        "added     model small",
        "added     model large",
        "added     route chat",
        "added     team support",
        "added     key support/support-web",
    ]
    assert shell.ok("check", str(design)).splitlines() == added
    assert shell.ok("apply", str(design)).splitlines() == added  # so the check had applied nothing
    assert shell.ok("apply", str(design)).splitlines() == ["unchanged 7"]
    changed = DESIGN.replace("output: 0.60", "output: 0.70").replace("cache: {ttl: 10m}", "cache: {ttl: 5m}")
    changed = changed[: changed.index("keys:")]
    design.write_text(changed)
    printed = shell.ok("apply", str(design)).splitlines()
    assert printed == [
        "changed   model small: price.output 0.6 → 0.7",
        'changed   route chat: cache.ttl "10m" → "5m"',
        "removed   key support/support-web",
        "unchanged 4",
    ]
    assert "support" not in shell.ok("keys", "list")
    applied = json.loads(shell.ok("apply", str(design), "--json"))
    assert applied["changed"] is False
    assert applied["secrets"] == []
    design.write_text("")
    assert shell.ok("apply", str(design)).count("removed") == 6


def test_a_variable_that_is_not_set_is_named_with_its_line(served: tuple[Server, Shell], design: Path) -> None:
    _, shell = served
    for command in ("check", "apply"):
        said = shell.wrong(command, str(design), BETA_KEY=None)
        assert said.startswith(f"{design}:4: ")
        assert "BETA_KEY is not set" in said
        assert "export BETA_KEY" in said
    assert "support" not in shell.ok("prices", "list")  # all of it, or nothing


def test_mistakes_are_told_with_file_and_line_and_nothing_is_applied(
    served: tuple[Server, Shell], design: Path
) -> None:
    _, shell = served
    shell.ok("apply", str(design))
    wrong = (
        DESIGN.replace("retry:", "retrys:")
        .replace("target: beta/", "target: gamma/")
        .replace("output: 0.60", "output: -1")
    )
    design.write_text(wrong)
    said = shell.wrong("apply", str(design))
    lines = said.splitlines()
    assert [line.split(":")[1] for line in lines] == ["6", "7", "11"], said
    assert 'did you mean "retry"' in said
    assert all(line.startswith(f"{design}:") for line in lines)
    assert "small" in shell.ok("prices", "list")
    design.write_text("")
    shell.ok("apply", str(design))


def test_files_that_are_no_bundle(served: tuple[Server, Shell], tmp_path: Path) -> None:
    _, shell = served
    said = shell.wrong("apply", str(tmp_path / "absent.yaml"))
    assert said.startswith(f"{tmp_path / 'absent.yaml'}:1: cannot be read")
    assert "cannot be read" in shell.wrong("check", str(tmp_path))
    odd = tmp_path / "odd.yaml"
    odd.write_bytes(b"models: \xff\xfe")
    assert "UTF-8" in shell.wrong("check", str(odd))
    odd.write_text("models: [")
    assert shell.wrong("check", str(odd)).startswith(f"{odd}:")
    odd.write_text("modles: []")
    assert 'did you mean "models"' in shell.wrong("check", str(odd))
    odd.write_text("")
    done = shell("apply", str(odd))
    assert done.returncode == 0
    assert "declares nothing" in done.stderr
    assert "Missing argument" in shell.wrong("apply", status=2)


def test_two_files_own_what_they_put_in(served: tuple[Server, Shell], tmp_path: Path) -> None:
    _, shell = served
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("teams: [{name: a}, {name: b}]")
    two.write_text("teams: [{name: b}, {name: c}]")
    shell.ok("apply", str(one))
    shell.ok("apply", str(two))
    one.write_text("teams: []")
    assert "removed   team a" in shell.ok("apply", str(one))
    assert "unchanged 2" in shell.ok("apply", str(two))


def test_a_key_without_a_secret_gets_one_that_is_told_once(served: tuple[Server, Shell], tmp_path: Path) -> None:
    _, shell = served
    file = tmp_path / "keys.yaml"
    file.write_text("teams: [{name: t}]\nkeys: [{name: k, team: t}]")
    printed = shell.ok("apply", str(file))
    assert "the secret of key t/k, told this once: ms-" in printed
    assert "secret" not in shell.ok("apply", str(file))


def test_the_import_of_litellm_can_be_checked(shell: Shell, tmp_path: Path) -> None:
    file, out = tmp_path / "config.yaml", tmp_path / "out.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "model_list": [
                    {
                        "model_name": "gpt",
                        "litellm_params": {"model": "openai/gpt-4o", "api_key": "os.environ/OPENAI_API_KEY", "rpm": 10},
                    },
                    {
                        "model_name": "claude",
                        "litellm_params": {
                            "model": "anthropic/claude-sonnet-4-5",
                            "api_key": "os.environ/ANTHROPIC_API_KEY",
                        },
                    },
                ],
                "router_settings": {"fallbacks": [{"gpt": ["claude"]}], "num_retries": 2},
                "litellm_settings": {"success_callback": ["langfuse"]},
                "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
            }
        )
    )
    done = shell("import", "litellm", str(file), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "success_callback" in done.stderr  # what could not be carried over is listed
    keys = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "LITELLM_MASTER_KEY": "sk-master-0123456789"}
    shell.ok("check", str(out), **keys)
    assert shell("import", "litellm", str(file)).stdout == out.read_text()
    assert "cannot be read" in shell.wrong("import", "litellm", str(tmp_path / "absent"))
    file.write_text("- just a list")
    assert str(file) in shell.wrong("import", "litellm", str(file)) or "config" in shell.wrong(
        "import", "litellm", str(file)
    )


def test_the_schema_is_one(shell: Shell) -> None:
    schema = json.loads(shell.ok("schema"))
    assert {"providers", "models", "routes", "teams", "keys"} <= set(
        schema["properties"] if "properties" in schema else schema["$defs"]["Bundle"]["properties"]
    )
    assert "providers" in shell.ok("schema", "--reference")


def test_usage_errors_say_what_is_wrong(shell: Shell) -> None:
    assert "No such option" in shell.wrong("calls", "--nonsense", status=2)
    assert "No such command" in shell.wrong("nonsense", status=2)
    assert "Missing option" in shell.wrong("keys", "create", "--team", "t", status=2)
    assert "Invalid value" in shell.wrong("serve", "--port", "x", status=2)
    assert "port is a number" in shell.wrong("serve", "--port", "70000")
    assert "workers is a number" in shell.wrong("serve", "--workers", "0")
