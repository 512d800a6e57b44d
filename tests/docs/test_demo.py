"""What `make run` starts: it answers, and every line that it prints works as pasted."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[list[str]]:
    """The lines of a demo's greeting, while it serves."""
    command = [sys.executable, "-m", "mainstay", "demo", "--home", "a home", "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if " calls --home " in line:
            break
    yield lines
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()
    assert (tmp_path / "log").read_text() == ""


def pasted(line: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, env=os.environ | {"NO_PROXY": "*"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_demo_works_as_printed(printed: list[str], tmp_path: Path) -> None:
    (curl,) = [line for line in printed if line.startswith("curl ")]
    reply = json.loads(pasted(curl, tmp_path))
    assert reply["choices"][0]["message"]["content"].startswith("[simulated]")
    key = next(line.split()[1] for line in printed if line.split()[:1] == ["key:"])
    assert key in curl
    (calls,) = [line for line in printed if " calls --home " in line]
    assert "shaky" in pasted(calls, tmp_path) or "steady" in pasted(calls, tmp_path)


def test_the_demo_keeps_its_key_and_its_bundle(printed: list[str], tmp_path: Path) -> None:
    home = tmp_path / "a home"
    assert any(str(home / "mainstay.yaml") in line for line in printed)
    key = home / "demo.key"
    assert key.read_text().strip() in "\n".join(printed)
    assert key.stat().st_mode & 0o077 == 0
    assert shlex.quote(str(home)) in "\n".join(printed)


def test_make_knows_what_the_documents_name() -> None:
    for target in ("run", "test", "lint", "bench", "docs", "lock"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
