"""What a command found, as a table for a person or as a line of JSON for each row."""

from __future__ import annotations

import json
from typing import Any, cast


def show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print ``columns`` of ``rows``; as JSON, the whole rows."""
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column))) for column in columns))  # no text of theirs is markup
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table if rows else "nothing yet", highlight=False)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = ", ".join(str(one) for one in cast(list[Any], value)) if isinstance(value, list) else str(value)
    return printable(text)


def printable(text: str) -> str:
    """``text`` for a terminal: what callers may have written must not speak to it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
