"""Writes requirements.lock and requirements-test.lock: every version pinned, no address of any index.

It installs the project's own requirements into a fresh environment and notes what was chosen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Written by `make lock` from pyproject.toml; do not edit.\n"


def frozen(python: Path) -> dict[str, str]:
    """What is installed, name to version."""
    text = subprocess.run(
        [python, "-m", "pip", "freeze", "--exclude", "mainstay", "--exclude", "pip", "--exclude", "setuptools"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    pins = dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
    odd = [line for line in text.splitlines() if line and "==" not in line]
    if odd:
        raise SystemExit(f"these are not plain versions: {odd}")
    return pins


def written(path: Path, pins: dict[str, str]) -> None:
    """One lock file."""
    path.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(pins.items(), key=str)))


def main() -> None:
    """Make both."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        pure = {**os.environ, "MAINSTAY_PURE": "1"}  # nothing is run here: no need to compile
        subprocess.run([*pip, str(ROOT)], check=True, env=pure)
        base = frozen(python)
        written(ROOT / "requirements.lock", base)
        subprocess.run(
            [*pip, "--group", f"{ROOT / 'pyproject.toml'}:test", "-c", str(ROOT / "requirements.lock")], check=True
        )
        tests = {name: version for name, version in frozen(python).items() if base.get(name) != version}
        written(ROOT / "requirements-test.lock", tests)
    print(f"{len(base)} packages for running, {len(tests)} more for the tests", file=sys.stderr)


if __name__ == "__main__":
    main()
