"""What belongs together in the ledger: the rows of a trace, which spans are there already, what is told once too often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstay.ledger.filter import ALL, Filter
from mainstay.ledger.query import Ledger, touches
from mainstay.ledger.rows import SELECTED, row

TRACE_LIMIT = 10_000
"""Rows of one trace that are read."""


async def present(ledger: Ledger, ids: Sequence[str], first_at: int, last_at: int) -> set[str]:
    """Which of ``ids`` are rows already; all of them began from ``first_at`` to ``last_at`` (microseconds)."""
    with ledger.pinned() as view:
        segments = [one for one in view.segments if touches(one, first_at, last_at + 1)]
        found = await ledger.engine.read(
            f"SELECT id FROM {ledger.files.source(segments, view.tables)} "
            'WHERE "at" BETWEEN ? AND ? AND id IN (SELECT unnest(?::VARCHAR[]))',
            [first_at, last_at, list(ids)],
        )
    return {values[0] for values in found}


async def of_trace(
    ledger: Ledger,
    trace: str,
    may: Filter = ALL,
    *,
    since: int | None = None,
    until: int | None = None,
    limit: int = TRACE_LIMIT,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """The rows of ``trace`` that ``may`` holds of, oldest first, and the calls that its spans name; one more than
    ``limit`` where there are more."""
    with ledger.pinned() as view:
        source = ledger.files.source([one for one in view.segments if touches(one, since, until)], view.tables)
        found = await ledger.engine.read(
            f'SELECT {SELECTED} FROM {source} WHERE ({may.sql}) AND "trace" = ? ORDER BY "at", id LIMIT {limit + 1}',
            [*may.parameters, trace],
            timeout=timeout,
        )
        rows = [row(values) for values in found]
        there = {one["id"] for one in rows}
        named = sorted({one["call"] for one in rows if one["call"] is not None and one["call"] not in there})
        if named:
            found = await ledger.engine.read(
                f"SELECT {SELECTED} FROM {ledger.files.source(view.segments, view.tables)} "
                f'WHERE ({may.sql}) AND id IN (SELECT unnest(?::VARCHAR[])) AND "source" IS NULL ORDER BY "at", id',
                [*may.parameters, named[:limit]],
                timeout=timeout,
            )
            rows += [row(values) for values in found]
    return rows
