"""The control API's cost: by any dimension, its drivers, its deviation, forecasts of budgets, savings, and as a file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from mainstay.core.errors import Invalid
from mainstay.edge.control_calls import allowed, moment_or_age
from mainstay.edge.permissions import Caller
from mainstay.ledger.cost_export import export_cost
from mainstay.ledger.cost_use import looks, uses
from mainstay.ledger.totals import MOST_GROUPS, compared, totals
from mainstay.observe.cost import Window, deviation, report, top
from mainstay.observe.cost_budgets import forecasts, watched
from mainstay.observe.cost_savings import prices, savings
from mainstay.registry.kinds import seconds
from mainstay.registry.snapshot import Resolved

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_TIMEOUT = 60.0
_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

By = Annotated[str, Query(max_length=1000, description="Dimensions, such as team,tag.feature")]
Since = Annotated[str | None, Query(description="A time (ISO 8601) or an age such as 7d")]
Until = Annotated[str | None, Query(description="A time or an age; left out: now")]
Limit = Annotated[int, Query(ge=1, le=MOST_GROUPS, description="Groups that are named; the others are one sum")]


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def cost(
        request: Request,
        by: By = "",
        since: Since = "7d",
        until: Until = None,
        filter: str = "",
        limit: Limit = 1000,
        failed: Annotated[
            bool, Query(description="Tell what failed attempts cost; false is five times as fast")
        ] = True,
    ) -> dict[str, Any]:
        """What calls cost by dimensions, dearest first: exact, failed attempts' cost and unpriced calls told apart."""
        window, names = _window(since, until), _names(by)
        found = await totals(
            control.ledger,
            names,
            allowed(request.state.caller, filter),
            since=window.since,
            until=window.until,
            limit=limit,
            failed=failed,
            timeout=_TIMEOUT,
        )
        return report(found, names, window, failed)

    async def drivers(
        request: Request,
        by: By = "team",
        since: Since = "7d",
        until: Until = None,
        filter: str = "",
        share: Annotated[int, Query(ge=1, le=99, description="Per cent of the cost to be explained")] = 80,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """The top drivers: shares, cumulative shares, and how few groups make up ``share`` per cent of the cost."""
        window, names = _window(since, until), _names(by) or ["team"]
        found = await totals(
            control.ledger,
            names,
            allowed(request.state.caller, filter),
            since=window.since,
            until=window.until,
            limit=limit,
            share=share,
            failed=False,
            timeout=_TIMEOUT,
        )
        return top(found, names, window, share)

    async def change(
        request: Request,
        by: By = "",
        since: Since = "7d",
        until: Until = None,
        filter: str = "",
        before: Annotated[
            str | None, Query(description="How much earlier; left out: whole weeks, at least one")
        ] = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """Cost against the same window a week before (or ``before`` earlier), with new and vanished groups."""
        window, names = _window(since, until), _names(by)
        shift = _shift(before, window)
        found = await compared(
            control.ledger,
            names,
            allowed(request.state.caller, filter),
            since=window.since,
            until=window.until,
            shift=shift,
            limit=limit,
            timeout=_TIMEOUT,
        )
        return deviation(found, names, window, shift)

    async def export(
        request: Request,
        format: Literal["csv", "parquet"] = "csv",
        by: By = "",
        since: Since = "7d",
        until: Until = None,
        filter: str = "",
    ) -> FileResponse:
        """A file of what calls cost: a row for each call, or for each group of ``by``; exact in both formats."""
        window = _window(since, until)
        path = await export_cost(
            control.ledger,
            format,
            _names(by),
            allowed(request.state.caller, filter),
            since=window.since,
            until=window.until,
        )
        gone = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type=_TYPES[format], filename=f"cost.{format}", background=gone)

    async def forecast(request: Request, exact: bool = False) -> dict[str, Any]:
        """Every budget's forecast: spent, run rate, expected at its end, and when it is used up. A team's key: its own."""
        caller: Caller = request.state.caller
        budgets = [] if control.resolved is None else watched(control.resolved, caller.team)
        statuses = [
            one
            for one in await control.shares.status(exact=exact)
            if (rule := control.rules.get(one.rule)) is not None and rule.meter == "usd"
        ]
        now = int(control.clock.now() * 1e6)
        return await forecasts(control.ledger, budgets, statuses, now, caller.team)

    async def saved(request: Request, since: Since = "7d", until: Until = None, filter: str = "") -> dict[str, Any]:
        """What caching and routing have saved, and what they and shorter prompts still might, with the arithmetic."""
        window, wanted = _window(since, until), allowed(request.state.caller, filter)
        known = prices(control.resolved or Resolved())
        above = {name: price.above[0] for name, price in known.models.items() if price.above is not None}
        span = {"since": window.since, "until": window.until}
        used = await uses(control.ledger, wanted, **span, above=above, timeout=_TIMEOUT)
        looked = await looks(control.ledger, wanted, **span, timeout=_TIMEOUT)
        return {"window": window.as_json(), **savings(used, looked, known)}

    routes.add("GET", "/api/v1/cost", "calls:read", cost)
    routes.add("GET", "/api/v1/cost/top", "calls:read", drivers)
    routes.add("GET", "/api/v1/cost/deviation", "calls:read", change)
    routes.add("GET", "/api/v1/cost/forecast", "calls:read", forecast)
    routes.add(
        "GET", "/api/v1/cost/savings", "behaviour:read", saved
    )  # it tells models' prices, which a team may not see
    routes.add("GET", "/api/v1/cost/export", "calls:read", export, response_class=FileResponse)


def _names(by: str) -> list[str]:
    return [name.strip() for name in by.split(",") if name.strip()]


def _window(since: str | None, until: str | None) -> Window:
    """The window that is asked for; its end is now where none is given."""
    end = moment_or_age(until, "until")
    if end is None:
        end = int(time.time() * 1e6) + 1
    start = moment_or_age(since, "since") or 0
    if start >= end:
        raise Invalid("since must be before until", field="since")
    return Window(start, end)


def _shift(before: str | None, window: Window) -> int:
    if before is None:
        return window.week_before
    try:
        shift = round(seconds(before) * 1e6)
    except ValueError as error:
        raise Invalid(f"before: {error}", field="before") from None
    if shift < 1:
        raise Invalid("before is a duration above 0, such as 7d", field="before")
    return shift
