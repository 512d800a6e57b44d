"""The command line's part for traces: a trace as a tree in the terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from mainstay.client import connected
from mainstay.settings import read
from mainstay.table import printable

_BAR = 24


def trace(
    name: Annotated[str, typer.Argument(metavar="TRACE", help="A trace's id, or the id of any call in it.")],
    since: Annotated[str | None, typer.Option(help="Where it is known: a time, or an age such as 5m.")] = None,
    until: Annotated[str | None, typer.Option(help="A time, or an age.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Where everything is kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a trace: an application's spans, calls and attempts as a tree, with their times."""
    with connected(read(os.environ, home=home)) as client:
        found = client.request("GET", f"/api/v1/traces/{quote(name, safe='')}", since=since, until=until)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 200
    head = f"{found['trace'] or 'without a trace'}  {found['at']}  {_ms(found['duration_ms'])}"
    sums = [f"{found['calls']} calls", f"{found['spans']} spans", f"{found['errors']} errors"]
    sums += [
        f"{label} ${found[name]}"
        for name, label in (("cost_usd", "cost"), ("application_cost_usd", "cost told by applications"))
        if found[name] is not None
    ]
    console.print(Text(f"{head}\n{', '.join(sums)}"), highlight=False)
    lines = list(zip(found["nodes"], _branches(found["nodes"]), strict=True))
    widest = min(max((len(branch + _title(node)) for node, branch in lines), default=0), max(console.width - 70, 40))
    for node, branch in lines:
        title = branch + _title(node)
        if len(title) > widest:
            title = title[: widest - 1] + "…"
        good = node["outcome"] in ("ok", "cancelled")
        text = Text(title.ljust(widest) + " ", style="" if good else "red")
        text.append(_bar(node, found["duration_ms"]), style="cyan" if good else "red")
        text.append(f" {_ms(node['duration_ms']):>9} {_said(node)}")
        console.print(text, highlight=False, no_wrap=True, overflow="ellipsis")
    if found["truncated"]:
        print(f"the trace has more than these {len(found['nodes'])}; --json shows no more either", file=sys.stderr)


def _branches(nodes: list[dict[str, Any]]) -> list[str]:
    """What stands before each node, by which its place in the tree is seen."""
    lasts = {node["children"][-1] for node in nodes if node["children"]}
    stems: dict[str, str] = {}
    found: list[str] = []
    for node in nodes:
        if node["parent"] is None:
            stems[node["id"]] = ""
            found.append("")
            continue
        stem, last = stems[node["parent"]], node["id"] in lasts
        found.append(stem + ("└─ " if last else "├─ "))
        stems[node["id"]] = stem + ("   " if last else "│  ")
    return found


def _title(node: dict[str, Any]) -> str:
    return f"{node['kind']} {printable(node['name'])}" if node["kind"] != node["name"] else node["kind"]


def _bar(node: dict[str, Any], whole: float) -> str:
    if whole <= 0:
        return "━" + " " * (_BAR - 1)
    start = min(int(node["offset_ms"] / whole * _BAR), _BAR - 1)
    length = max(1, round((node["duration_ms"] or 0) / whole * _BAR))
    return (" " * start + "━" * min(length, _BAR - start)).ljust(_BAR)


def _ms(duration: float | None) -> str:
    if duration is None:
        return "-"
    return f"{duration / 1e3:.2f} s" if duration >= 10_000 else f"{duration:.1f} ms"


def _said(node: dict[str, Any]) -> str:
    parts: list[str] = []
    if node["outcome"] != "ok":
        parts.append(node["outcome"] + (f": {node['error']}" if node.get("error") else ""))
    if node.get("usage"):
        parts.append(f"{node['usage']['input']}+{node['usage']['output']} tokens")
    if node.get("cost_usd") is not None:
        parts.append(f"${node['cost_usd']}")
    if node.get("application_cost_usd") is not None:
        parts.append(f"(${node['application_cost_usd']}{'' if node['counted'] else ', counted below'})")
    if "missing_parent" in node:
        parts.append("its parent is not here")
    return printable("  ".join(parts))
