"""A trace as a tree: an application's spans, the calls below them, and the attempts below those, laid out in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mainstay.ledger.rows import as_json, dollars, iso
from mainstay.observe.spans_out import attempt_span_id, call_span_id

_FROM_CALL = (
    "status", "outcome", "error", "message", "route", "model", "provider", "usage", "cost_usd", "first_token_ms",
    "cache", "team", "user", "session", "workflow", "content",
)  # fmt: skip
_FROM_SPAN = (
    "outcome", "error", "message", "service", "model", "provider", "usage", "application_cost_usd",
    "application_cost_source", "first_token_ms", "team", "user", "session", "workflow", "prompt", "prompt_version",
    "agent", "tool", "content",
)  # fmt: skip
_FROM_ATTEMPT = (
    "status",
    "error",
    "message",
    "provider",
    "upstream_model",
    "usage",
    "cost_usd",
    "first_token_ms",
    "rescue",
)

Node = dict[str, Any]


def tree(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trace of ``rows`` (of the ledger): its sums, and its ``nodes`` in the order in which a waterfall shows them.

    A node has its ``parent`` and ``children`` as ids of nodes, and its ``depth``; ``offset_ms`` is its distance from the
    beginning of the trace. ``missing_parent`` is the span that a node names and that is not there. Of an application's
    own spans, ``counted`` says whether their cost is in the trace's: not where a call, or a span with a cost of its own,
    lies below them, since that has been counted there.
    """
    nodes: dict[str, Node] = {}
    spans: dict[str, str] = {}  # the node of each span
    for row in rows:
        for node in _nodes(row):
            nodes[node["id"]] = node
            spans.setdefault(node["span"], node["id"])
    _link(nodes, spans, rows)
    _count(nodes)
    ordered = _ordered(nodes)
    begin = min((node["_at"] for node in ordered), default=0)
    end = max((node["_at"] + round((node["duration_ms"] or 0) * 1e3) for node in ordered), default=0)
    for node in ordered:
        node["offset_ms"] = (node.pop("_at") - begin) / 1e3
    return {
        "at": iso(begin) if ordered else None,
        "duration_ms": (end - begin) / 1e3,
        **_sums(rows, ordered),
        "nodes": [_shown(node) for node in ordered],
    }


def _nodes(row: Mapping[str, Any]) -> list[Node]:
    """The nodes of one row: a call has its attempts below it."""
    told = as_json(row)
    if row["source"] is not None:
        name = row["name"] or row["kind"] or "span"
        node = _node(row["id"], row["span"] or row["id"], row["kind"] or "other", name, row["at"], row["duration_ms"])
        node |= {name: told[name] for name in _FROM_SPAN}
        node |= {"source": row["source"], "tags": told["tags"], "attributes": told["attributes"]}
        node |= {"counted": row["app_cost_nano"] is not None, "_nano": row["app_cost_nano"], "_parent": row["parent"]}
        return [node]
    name = f"{row['operation']} {row['route'] or row['model'] or ''}".strip()
    span = call_span_id(row["id"])
    node = _node(row["id"], span, "call", name, row["at"], row["duration_ms"])
    node |= {name: told[name] for name in _FROM_CALL}
    node |= {"source": "gateway", "tags": told["tags"], "_nano": row["cost_nano"], "_parent": row["parent"]}
    found = [node]
    attempts = cast(list[dict[str, Any]], row["attempts"])
    for number, (attempt, said) in enumerate(zip(attempts, told["attempts"], strict=True)):
        below = _node(
            f"{row['id']}.{number}",
            attempt_span_id(row["id"], number),
            "attempt",
            f"{attempt['target']} {attempt['upstream_model']}",
            attempt["at"],
            attempt["duration_ms"],
        )
        below |= {name: said[name] for name in _FROM_ATTEMPT}
        below |= {"outcome": "ok" if attempt["error"] is None else "failed", "source": "gateway", "_parent": span}
        found.append(below)
    return found


def _node(ident: str, span: str, kind: str, name: str, at: int, duration: float | None) -> Node:
    return {
        "id": ident,
        "parent": None,
        "children": [],
        "depth": 0,
        "span": span,
        "kind": kind,
        "name": name,
        "at": iso(at),
        "duration_ms": duration,
        "_at": at,
        "_nano": None,
    }


def _link(nodes: Mapping[str, Node], spans: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Give each node its parent: the span that it names, or the span that names it."""
    naming = {row["call"]: row["id"] for row in reversed(rows) if row["call"] is not None}
    for ident, node in nodes.items():
        wanted = node.pop("_parent")
        parent = spans.get(wanted) if wanted is not None else None
        if parent is None and node["kind"] == "call":
            parent = naming.get(ident)
        if parent is None and wanted is not None:
            node["missing_parent"] = wanted
        node["parent"] = parent
    _open(nodes)
    for ident, node in nodes.items():
        if node["parent"] is not None:
            nodes[node["parent"]]["children"].append(ident)


def _open(nodes: Mapping[str, Node]) -> None:
    """Cut every circle of parents, which a sender may tell of, so that all nodes are below a root."""
    seen: dict[str, str] = {}  # by which walk upwards a node was met first
    for begin in nodes:
        at: str | None = begin
        while at is not None and at not in seen:
            seen[at] = begin
            above: str | None = nodes[at]["parent"]
            if above is not None and seen.get(above) == begin:
                nodes[at]["parent"] = None
            at = above


def _count(nodes: Mapping[str, Node]) -> None:
    """What lies above something that has cost is not counted again."""
    above: set[str] = set()
    for node in nodes.values():
        if node["kind"] == "attempt" or (node["kind"] != "call" and node["_nano"] is None):
            continue
        at = node["parent"]
        while at is not None and at not in above:
            above.add(at)
            at = nodes[at]["parent"]
    for ident in above:
        if "counted" in nodes[ident]:
            nodes[ident]["counted"] = False


def _ordered(nodes: Mapping[str, Node]) -> list[Node]:
    """Depth first, and by time among those of one parent."""

    def begun(ident: str) -> tuple[int, str]:
        return nodes[ident]["_at"], ident

    waiting = sorted((ident for ident, node in nodes.items() if node["parent"] is None), key=begun, reverse=True)
    found: list[Node] = []
    while waiting:
        node = nodes[waiting.pop()]
        if node["parent"] is not None:
            node["depth"] = nodes[node["parent"]]["depth"] + 1
        node["children"].sort(key=begun)
        waiting += reversed(node["children"])
        found.append(node)
    return found


def _sums(rows: Sequence[Mapping[str, Any]], nodes: Sequence[Node]) -> dict[str, Any]:
    calls = [row for row in rows if row["source"] is None]
    costs = [row["cost_nano"] for row in calls if row["cost_nano"] is not None]
    own = [node["_nano"] for node in nodes if node.get("counted")]
    return {
        "calls": len(calls),
        "spans": len(rows) - len(calls),
        "errors": sum(row["outcome"] in ("failed", "crashed") for row in rows),
        "input": sum(row["input"] or 0 for row in calls),
        "output": sum(row["output"] or 0 for row in calls),
        "cost_usd": dollars(sum(costs)) if costs else None,
        "application_cost_usd": dollars(sum(own)) if own else None,
        "unpriced": sum(row["cost_nano"] is None and row["input"] is not None for row in calls),
        "sessions": sorted({row["session"] for row in rows if row["session"]}),
        "users": sorted({row["user"] for row in rows if row["user"]}),
    }


def _shown(node: Node) -> Node:
    return {name: value for name, value in node.items() if not name.startswith("_")}
