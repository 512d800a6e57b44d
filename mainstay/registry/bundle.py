"""Checks a ``mainstay.yaml``: what it declares, or every mistake in it as ``file:line: sentence``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, cast

from mainstay.core.errors import BadConfig
from mainstay.registry import crosscheck, kinds
from mainstay.registry.crosscheck import Existing, Item
from mainstay.registry.document import MAX_BYTES, Document, Path, read
from mainstay.registry.shape import checked, meant

_SECTIONS: dict[str, type[kinds.Body]] = {
    "providers": kinds.Provider,
    "models": kinds.Model,
    "routes": kinds.Route,
    "teams": kinds.Team,
    "keys": kinds.Key,
    "budgets": kinds.NamedBudget,
    "verdicts": kinds.VerdictType,
}

_TOLD = 200
"""Problems, and warnings, that are told of one file."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check: the bundle, or None and at least one problem. ``warnings`` do not stand in its way.

    Problems and warnings are lines ``file:line: sentence``, in the order of the file.
    """

    filename: str
    bundle: kinds.Bundle | None
    problems: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    def ok(self) -> kinds.Bundle:
        """The bundle. Raises ``BadConfig`` with all problems if there are any."""
        if self.bundle is None:
            raise BadConfig(self.problems)
        return self.bundle


def check_file(
    path: File,
    env: Mapping[str, str],
    existing: Existing,
    providers: Collection[str] | Mapping[str, Collection[str]] = (),
) -> Checked:
    """``check`` of the file at ``path``; one that cannot be read is a problem like any other."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Checked(str(path), None, [f"{path}:1: cannot be read: {reason}; check the path and its permissions"])
    return check(content, str(path), env, existing, providers)


def check(
    text: str | bytes,
    filename: str,
    env: Mapping[str, str],
    existing: Existing,
    providers: Collection[str] | Mapping[str, Collection[str]] = (),
) -> Checked:
    """Check the bundle ``text``, which came from ``filename``.

    ``env`` has the environment variables that it may name; ``existing`` what other sources have put in; ``providers`` the kinds
    of the provider table, each with the fields that a provider of that kind must give (empty: kinds are not checked).
    """
    document = read(text, env)
    problems, warnings = list(document.problems), list[tuple[int, str]]()

    def problem(path: Path, sentence: str) -> None:
        problems.append((document.line(path), sentence))

    def warning(path: Path, sentence: str) -> None:
        warnings.append((document.line(path), sentence))

    bundle: kinds.Bundle | None = None
    if document.value is not None or not problems:
        items = _items(document, problem)
        crosscheck.Check(document, items, existing, _rows(providers), problem, warning).run()
        if not any(items.values()) and not problems:
            warnings.append((1, "this file declares nothing; applying it removes all that it put in before"))
        bundle = kinds.Bundle(**{section: [item.body for item in items[section]] for section in _SECTIONS})
    return Checked(filename, None if problems else bundle, _lines(filename, problems), _lines(filename, warnings))


def _items(document: Document, problem: crosscheck.Report) -> dict[str, list[Item]]:
    items: dict[str, list[Item]] = {section: [] for section in _SECTIONS}
    value = document.value
    if value is None:
        return items
    if not isinstance(value, dict):
        problem((), f"expected sections such as providers: and models:; there are {', '.join(_SECTIONS)}")
        return items
    for section, entries in cast(dict[str, Any], value).items():
        if section.startswith("x-"):
            continue  # a place for anchors
        if section not in _SECTIONS:
            hint = meant(section, _SECTIONS) or f"; there are {', '.join(_SECTIONS)}"
            problem((section,), f'unknown section "{section}"{hint}')
            continue
        if entries is None:
            continue
        if not isinstance(entries, list):
            problem((section,), f"{section}: expected a list; begin each entry with a dash, such as - name: …")
            continue
        for i, entry in enumerate(cast(list[Any], entries)):
            path = (section, i)
            named: Any = cast(dict[str, Any], entry).get("name") if isinstance(entry, dict) else None
            body = checked(entry, _SECTIONS[section], document, path, problem)
            items[section].append(Item(path, str(named) if isinstance(named, str) else "", body))
    return items


def _lines(filename: str, found: list[tuple[int, str]]) -> list[str]:
    told = list(dict.fromkeys(sorted(found, key=lambda one: one[0])))
    lines = [f"{filename}:{line}: {sentence}" for line, sentence in told[:_TOLD]]
    if len(told) > _TOLD:
        lines.append(f"{filename}:{told[_TOLD][0]}: and {len(told) - _TOLD} more from here on; mend those above first")
    return lines


def _rows(providers: Collection[str] | Mapping[str, Collection[str]]) -> Mapping[str, Collection[str]]:
    if isinstance(providers, Mapping):
        return cast(Mapping[str, Collection[str]], providers)
    nothing: Collection[str] = ()
    return dict.fromkeys(providers, nothing)
