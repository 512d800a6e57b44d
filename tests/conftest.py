"""Served processes run the package as it is installed, compiled, wherever that was built from these very sources.

`make test` installs it first. What a test imports itself is always the source beside this folder.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[1] / "mainstay"
_INSTALLED = Path(sysconfig.get_path("platlib"), "mainstay")


def _same() -> bool:
    if not _INSTALLED.is_dir():
        return False
    names = {path.relative_to(_SOURCE) for path in _SOURCE.rglob("*.py")}
    if names != {path.relative_to(_INSTALLED) for path in _INSTALLED.rglob("*.py")}:
        return False
    return all((_SOURCE / name).read_bytes() == (_INSTALLED / name).read_bytes() for name in names)


AS_INSTALLED = _same()
if AS_INSTALLED:
    os.environ["PYTHONSAFEPATH"] = "1"  # else a child started in the repository would import the source


def pytest_report_header() -> str:
    """Which of the two it is, at the top of a run."""
    if not AS_INSTALLED:
        return "served processes run the source, interpreted: `make install` first to test what is shipped"
    built = any(_INSTALLED.rglob("*.so"))
    return f"served processes run the installed package, {'compiled' if built else 'interpreted'}"
