"""Writes an imported bundle as text that a person can read and go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*\Z")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def written(sections: list[tuple[str, Iterable[Mapping[str, Any]]]], notes: list[str]) -> str:
    """The bundle: what could not be carried over as comments, the variables to set, then a line for each entry."""
    lines = ["# Made by `mainstay import litellm`. Check it with `mainstay check`, then `mainstay apply`."]
    if notes:
        lines += ["#", "# Not carried over, or not as it was:", *(f"#   {' '.join(note.split())}" for note in notes)]
    variables = sorted(
        set(
            re.findall(
                r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}", json.dumps([list(e) for _, e in sections], default=str)
            )
        )
    )
    if variables:
        lines += ["#", f"# Variables to set: {', '.join(variables)}"]
    for section, entries in sections:
        rows = [f"  - {flow(entry)}" for entry in entries]
        if rows:
            lines += ["", f"{section}:", *rows]
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """``value`` in YAML's flow style, with quotes only where they are needed."""
    if isinstance(value, Mapping):
        entries = cast(Mapping[str, Any], value)
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in entries.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in cast(list[Any], value)) + "]"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if value == round(value, 6) else repr(value)
    if isinstance(value, int):
        return str(value)
    written = str(value)
    plain = _PLAIN.match(written) and written.lower() not in _NOT_TEXT
    return written if plain or re.fullmatch(r"\d+(ms|s|m|h)", written) else json.dumps(written, ensure_ascii=False)
