"""What the gateway takes before any load: the time to import it, and the size of a base installation."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.servers import ROOT


def import_seconds(times: int) -> dict[str, float]:
    """Seconds until a gateway process has imported all it needs, beside a Python that imports nothing: medians."""
    found: dict[str, float] = {}
    for name, code in (("python", "pass"), ("gateway", "import mainstay.gateway_process")):
        took: list[float] = []
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
            took.append(time.perf_counter() - began)
        found[name] = statistics.median(took[1:] or took)
    return found


def installed_bytes() -> int:
    """Bytes on disk that a base installation adds to an empty environment. Raises ``CalledProcessError`` where pip fails."""
    with tempfile.TemporaryDirectory(prefix="ms") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        before = _size(Path(folder))
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(ROOT / "requirements.lock")], check=True, capture_output=True)
        subprocess.run([*pip, "--no-deps", str(ROOT)], check=True, capture_output=True)
        return _size(Path(folder)) - before


def folder_bytes(folder: Path) -> int | None:
    """Bytes of an environment that is there; None if it is not."""
    return _size(folder) if folder.is_dir() else None


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_symlink())
