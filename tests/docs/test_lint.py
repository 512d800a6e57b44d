"""The static checks: ruff, its formatter, Import Linter, pyright."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

TOOLS = {
    "ruff": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "import-linter": ["lint-imports", "--no-cache"],
    "pyright": ["pyright"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_static_check_has_nothing_to_say(tool: str) -> None:
    command, *arguments = TOOLS[tool]
    path = Path(sys.executable).with_name(command)
    if not path.exists():
        pytest.skip(f"{command} is not installed beside {sys.executable}")
    if tool == "pyright":
        # The environment that runs the tests, whatever it is called.
        arguments = ["--pythonpath", sys.executable]
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stdout + done.stderr
