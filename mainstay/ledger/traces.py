"""What belongs together in the ledger: the rows of a trace, which spans are there already, what is told once too often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstay.ledger.filter import ALL, Filter, known
from mainstay.ledger.query import Ledger, touches, within
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


_MARGIN = 86_400_000_000  # a call and the span around it begin within so many microseconds


async def application_costs(
    ledger: Ledger,
    by: Sequence[str] = (),
    filter: Filter = ALL,
    *,
    since: int | None = None,
    until: int | None = None,
    limit: int = 1000,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """What applications' own spans cost beside the calls of gateways, per value of the fields ``by``, the most first.

    A span counts unless a call, or a span with a cost of its own, lies below it, in any depth: ``covered_nano`` is what
    was left out for that reason. Spans and calls belong together by their trace and team, or by the call's id.
    """
    fields = [known(name) for name in by]
    keys = "".join(f"{one.sql} AS k{i}, " for i, one in enumerate(fields))
    parameters = [value for one in fields for value in one.parameters]
    groups = ", ".join(str(i + 1) for i in range(len(fields)))
    grouped = f"GROUP BY {groups} " if fields else ""
    order = f", {groups}" if fields else ""
    meant = filter.both(within(since, until)).both(Filter('"source" IS NOT NULL AND "app_cost_nano" IS NOT NULL'))
    early, late = None if since is None else since - _MARGIN, None if until is None else until + _MARGIN
    near = within(early, late)
    with ledger.pinned() as view:
        source = ledger.files.source([one for one in view.segments if touches(one, early, late)], view.tables)
        found = await ledger.engine.read(
            f"""
            WITH RECURSIVE
            meant AS MATERIALIZED (SELECT * FROM {source} WHERE {meant.sql}),
            told AS MATERIALIZED (
                SELECT id, "trace", span, parent, "call", "source", app_cost_nano, team FROM {source}
                WHERE ({near.sql}) AND ("trace" IN (SELECT "trace" FROM meant)
                    OR ("source" IS NULL AND id IN (SELECT "call" FROM meant WHERE "call" IS NOT NULL)))),
            covered("trace", span, team) AS (
                SELECT "trace", parent, team FROM told
                WHERE parent IS NOT NULL AND ("source" IS NULL OR app_cost_nano IS NOT NULL)
                UNION SELECT s."trace", s.span, s.team FROM told s JOIN told c
                ON c.id = s."call" AND c."source" IS NULL AND c.team IS NOT DISTINCT FROM s.team
                UNION SELECT t."trace", t.parent, t.team FROM covered u JOIN told t
                ON t."trace" = u."trace" AND t.span = u.span AND t.team IS NOT DISTINCT FROM u.team
                WHERE t.parent IS NOT NULL),
            marked AS (SELECT m.*, EXISTS (SELECT 1 FROM covered u WHERE u."trace" = m."trace" AND u.span = m.span
                AND u.team IS NOT DISTINCT FROM m.team) AS again FROM meant m)
            SELECT {keys}sum(app_cost_nano) FILTER (NOT again) AS nano, count(*) FILTER (NOT again),
                sum(app_cost_nano) FILTER (again), count(*) FILTER (again)
            FROM marked {grouped}ORDER BY nano DESC NULLS LAST{order} LIMIT {limit}
            """,
            [*meant.parameters, *near.parameters, *parameters],
            timeout=timeout,
        )
    names = (*by, "cost_nano", "spans", "covered_nano", "covered")
    return [dict(zip(names, values, strict=True)) for values in found]
