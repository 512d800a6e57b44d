"""The documents and the examples in them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
"""Languages of examples that are run."""
KNOWN = (*RUN, "yaml", "json", "text")
"""Every language that an example may have; ``text`` is what something prints, or the shape of something."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*) *$")


@dataclass(frozen=True)
class Example:
    """One fenced block; ``line`` is that of its fence."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README.md and every document below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def examples(page: Path) -> list[Example]:
    """The fenced blocks of a page, in order."""
    found: list[Example] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        first, indent = at, len(opening["indent"])
        while lines[at].strip() != "```":
            at += 1
        text = "\n".join(line[indent:] for line in lines[first:at]) + "\n"
        found.append(Example(page, first, opening["language"], text))
        at += 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    kept: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line) and (not inside or line.strip() == "```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def tracked(pattern: str = "") -> list[Path]:
    """The repository's files (all that lie there, where there is no git)."""
    try:
        text = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        files = [ROOT / one for one in text.split("\0") if one]
    except (OSError, subprocess.CalledProcessError):
        skipped = {".venv", ".home", ".git", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache"}
        files = [
            path
            for path in ROOT.rglob("*")
            if not skipped & set(path.relative_to(ROOT).parts) and path.parts[len(ROOT.parts)] not in ("build", "dist")
        ]
    return [path for path in files if path.is_file() and path.name.endswith(pattern)]
