"""The control API's traces: all that belongs together, as a tree; and what applications' own spans cost."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from fastapi import Query, Request

from mainstay.core.errors import NotFound
from mainstay.edge.control_calls import allowed, moment_or_age
from mainstay.edge.permissions import Caller
from mainstay.ledger.filter import Filter
from mainstay.ledger.rows import dollars
from mainstay.ledger.traces import TRACE_LIMIT, application_costs, of_trace
from mainstay.observe.trace_tree import tree

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_TIMEOUT = 30.0
_TRACE = re.compile("[0-9a-f]{32}")


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def trace(request: Request, trace: str, since: str | None = None, until: str | None = None) -> dict[str, Any]:
        """All calls, attempts and spans of a trace as a tree, by the trace's id or that of any call in it.

        Its ``nodes`` are in the order of a waterfall, each with its ``parent``, ``children`` and ``depth``. ``since`` and
        ``until`` make it faster where the time is known.
        """
        caller: Caller = request.state.caller
        await control.ingest.caught_up()
        may = allowed(caller, "")
        name = trace.lower()
        rows: list[dict[str, Any]] = []
        if name.startswith("call_"):
            row = await control.ledger.get(name)
            if row is None or (caller.team is not None and row["team"] != caller.team):
                raise NotFound(f"there is no call {trace[:100]!r} that your key may see", code="call_not_found")
            rows, name = [row], row["trace"] or ""
        elif not _TRACE.fullmatch(name):
            raise NotFound("a trace is named by 32 hex digits, or by the id of a call in it", code="trace_not_found")
        if name:
            found = await of_trace(
                control.ledger,
                name,
                may,
                since=moment_or_age(since, "since"),
                until=moment_or_age(until, "until"),
                timeout=_TIMEOUT,
            )
            there = {one["id"] for one in found}
            rows = [*(row for row in rows if row["id"] not in there), *found]
        if not rows:
            raise NotFound(f"there is no trace {trace[:100]!r} that your key may see", code="trace_not_found")
        return {
            "trace": name or None,
            "truncated": len(rows) > TRACE_LIMIT,
            **await asyncio.to_thread(tree, rows[:TRACE_LIMIT]),
        }

    async def costs(
        request: Request,
        filter: str = "",
        by: str = Query("", description="Fields such as team,model,tag.feature"),
        since: str | None = None,
        until: str | None = None,
        limit: int = Query(100, ge=1, le=10_000),
    ) -> dict[str, Any]:
        """What applications' own spans cost beside the calls of gateways, by any fields.

        A span that has a call below it, or a span with a cost of its own, is not counted again: ``covered_usd`` is what
        was left out for that reason. None of it is charged to budgets.
        """
        fields = [name.strip() for name in by.split(",") if name.strip()]
        wanted: Filter = allowed(request.state.caller, filter)
        await control.ingest.caught_up()
        found = await application_costs(
            control.ledger,
            fields,
            wanted,
            since=moment_or_age(since, "since"),
            until=moment_or_age(until, "until"),
            limit=limit,
            timeout=_TIMEOUT,
        )
        return {
            "data": [
                {name: row[name] for name in fields}
                | {"cost_usd": dollars(row["cost_nano"] or 0), "spans": row["spans"]}
                | {"covered_usd": dollars(row["covered_nano"] or 0), "covered": row["covered"]}
                for row in found
            ]
        }

    routes.add("GET", "/api/v1/traces/{trace}", "calls:read", trace)
    routes.add("GET", "/api/v1/spans/costs", "calls:read", costs)
