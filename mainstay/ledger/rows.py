"""The columns of the ledger, and a row as it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from mainstay.core.money import usd

_USAGE = (
    'STRUCT("input" BIGINT, "output" BIGINT, cached_input BIGINT, cache_write BIGINT, reasoning BIGINT, '
    "input_audio BIGINT, output_audio BIGINT, estimated BOOLEAN)"
)
_ATTEMPTS = (
    'STRUCT("target" VARCHAR, provider VARCHAR, upstream_model VARCHAR, "at" BIGINT, duration_ms DOUBLE, '
    f'first_token_ms DOUBLE, status INTEGER, error VARCHAR, message VARCHAR, "usage" {_USAGE}, cost_nano BIGINT, '
    "request_id VARCHAR, rescue VARCHAR)[]"
)

COLUMNS: Mapping[str, str] = {
    "v": "INTEGER",
    "id": "VARCHAR",
    "at": "BIGINT",
    "operation": "VARCHAR",
    "dialect": "VARCHAR",
    "stream": "BOOLEAN",
    "status": "INTEGER",
    "outcome": "VARCHAR",
    "parent": "VARCHAR",
    "trace": "VARCHAR",
    "error": "VARCHAR",
    "message": "VARCHAR",
    "key": "VARCHAR",
    "key_id": "VARCHAR",
    "team": "VARCHAR",
    "user": "VARCHAR",
    "session": "VARCHAR",
    "workflow": "VARCHAR",
    "tags": "MAP(VARCHAR, VARCHAR)",
    "route": "VARCHAR",
    "model": "VARCHAR",
    "provider": "VARCHAR",
    "upstream_model": "VARCHAR",
    "attempts": _ATTEMPTS,
    "input": "BIGINT",
    "output": "BIGINT",
    "cached_input": "BIGINT",
    "cache_write": "BIGINT",
    "reasoning": "BIGINT",
    "input_audio": "BIGINT",
    "output_audio": "BIGINT",
    "usage_estimated": "BOOLEAN",
    "cost_nano": "BIGINT",
    "cost_estimated": "BOOLEAN",
    "duration_ms": "DOUBLE",
    "first_token_ms": "DOUBLE",
    "overhead_ms": "DOUBLE",
    "cache": "VARCHAR",
    "finish": "VARCHAR",
    "why": "VARCHAR[]",
    "dropped": "VARCHAR[]",
    "snapshot": "VARCHAR",
    "request_bytes": "BIGINT",
    "reply_bytes": "BIGINT",
    "content": "VARCHAR",
    "charges": "MAP(VARCHAR, BIGINT)",
    # of version 2: null in the rows of gateways' calls but for the last
    "kind": "VARCHAR",
    "name": "VARCHAR",
    "span": "VARCHAR",
    "source": "VARCHAR",
    "service": "VARCHAR",
    "call": "VARCHAR",
    "prompt": "VARCHAR",
    "prompt_version": "VARCHAR",
    "agent": "VARCHAR",
    "tool": "VARCHAR",
    "attributes": "MAP(VARCHAR, VARCHAR)",
    "app_cost_nano": "BIGINT",
    "app_cost_source": "VARCHAR",
    "taken": "BIGINT",  # when it was taken in, microseconds since the epoch, strictly later with every batch
}
"""The columns and their SQL types, in the order of the tables; a later version adds at the end."""

SELECTED = ", ".join(f'"{name}"' for name in COLUMNS)
"""All columns, quoted, for a SELECT."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USAGE_PARTS = ("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio")


def row(values: Sequence[Any]) -> dict[str, Any]:
    """A row of ``SELECTED`` as a dictionary; lists and maps that were left out are empty, not None."""
    found = dict(zip(COLUMNS, values, strict=True))
    for name in ("tags", "charges", "attributes"):
        found[name] = found[name] or {}
    for name in ("attempts", "why", "dropped"):
        found[name] = found[name] or []
    return found


def iso(at: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC, with six decimals."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the ledger as ``mainstay calls --json`` prints it: plain JSON values, unknown figures null.

    ``cost_usd`` is a number of dollars, exact to the nano-dollar as far as a double is.
    """
    usage = _usage(row, row["usage_estimated"]) if row["input"] is not None or row["output"] is not None else None
    return {
        "id": row["id"],
        "at": iso(row["at"]),
        "status": row["status"],
        "outcome": row["outcome"],
        "operation": row["operation"],
        "dialect": row["dialect"],
        "stream": row["stream"],
        "route": row["route"],
        "model": row["model"],
        "provider": row["provider"],
        "upstream_model": row["upstream_model"],
        "attempts": [_attempt(attempt) for attempt in cast(list[dict[str, Any]], row["attempts"] or [])],
        "usage": usage,
        "cost_usd": dollars(row["cost_nano"]),
        "cost_estimated": bool(row["cost_estimated"]),
        "duration_ms": row["duration_ms"],
        "first_token_ms": row["first_token_ms"],
        "overhead_ms": row["overhead_ms"],
        "team": row["team"],
        "key": row["key"],
        "key_id": row["key_id"],
        "user": row["user"],
        "session": row["session"],
        "workflow": row["workflow"],
        "tags": dict(row["tags"] or {}),
        "cache": row["cache"] or "off",
        "finish": row["finish"],
        "error": row["error"],
        "message": row["message"],
        "why": list(row["why"] or []),
        "dropped": list(row["dropped"] or []),
        "trace": row["trace"],
        "parent": row["parent"],
        "snapshot": row["snapshot"],
        "request_bytes": row["request_bytes"],
        "reply_bytes": row["reply_bytes"],
        "content": row["content"],
        "charges": {pool: dollars(nano) for pool, nano in cast(dict[str, int], row["charges"] or {}).items()},
        "kind": row["kind"] or "call",
        "source": row["source"] or "gateway",
        **(_span(row) if row["source"] is not None else {}),
    }


def _span(row: Mapping[str, Any]) -> dict[str, Any]:
    """What only the rows of an application's own spans have."""
    plain = ("name", "span", "service", "call", "prompt", "prompt_version", "agent", "tool")
    return {
        **{name: row[name] for name in plain},
        "application_cost_usd": dollars(row["app_cost_nano"]),
        "application_cost_source": row["app_cost_source"],
        "attributes": dict(row["attributes"] or {}),
    }


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    usage = attempt["usage"]
    return {
        "target": attempt["target"],
        "provider": attempt["provider"],
        "upstream_model": attempt["upstream_model"],
        "at": iso(attempt["at"]),
        "status": attempt["status"],
        "error": attempt["error"],
        "message": attempt["message"],
        "usage": None if usage is None else _usage(usage, usage["estimated"]),
        "cost_usd": dollars(attempt["cost_nano"]),
        "duration_ms": attempt["duration_ms"],
        "first_token_ms": attempt["first_token_ms"],
        "request_id": attempt["request_id"],
        "rescue": attempt["rescue"],
    }


def _usage(figures: Mapping[str, Any], estimated: bool | None) -> dict[str, Any]:
    usage: dict[str, Any] = {name: figures[name] or 0 for name in _USAGE_PARTS}
    usage["estimated"] = bool(estimated)
    return usage


def dollars(nano: int | None) -> float | int | None:
    """Nano-dollars as a number of dollars, None where unknown."""
    if nano is None:
        return None
    text = usd(nano)
    return float(text) if "." in text else int(text)
