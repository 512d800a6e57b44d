"""The command line's part for cost: by any dimension, its drivers, its deviation, forecasts, savings, and as a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstay.client import connected
from mainstay.settings import read
from mainstay.table import show

cost = typer.Typer(help="What calls cost, what drives it, what it will be, and what was and can be saved.")

By = Annotated[str, typer.Option("--by", help="Dimensions, such as team,model,tag.feature.")]
Since = Annotated[str, typer.Option(help="A time, or an age such as 7d.")]
Until = Annotated[str | None, typer.Option(help="A time, or an age; now by default.")]
Filter = Annotated[str, typer.Option("--filter", help="Such as 'team=support and status<400'.")]
Limit = Annotated[int, typer.Option(help="Groups that are named; the others are one line.")]
Home = Annotated[Path | None, typer.Option("--home", help="Where everything is kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")]


def _got(home: Path | None, path: str, **query: Any) -> dict[str, Any]:
    with connected(read(os.environ, home=home)) as client:
        return client.request("GET", path, **query)


@cost.callback(invoke_without_command=True)
def entry(
    context: typer.Context,
    by: By = "team,model",
    since: Since = "7d",
    until: Until = None,
    filter: Filter = "",
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What calls cost, dearest first; the last line is the sum."""
    if context.invoked_subcommand is not None:
        return
    query = {"by": by, "since": since, "until": until, "filter": filter or None, "limit": limit}
    found = _got(home, "/api/v1/cost", **query)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    rows = _flat(found)
    if found["by"]:
        rows.append({found["by"][0]: "all", **found["total"]})
    for row in rows:
        row.update({f"tokens_{sort}": row["tokens"][sort] for sort in ("input", "output")})
    figures = ("cost_usd", "calls", "unpriced_calls", "failed_cost_usd", "tokens_input", "tokens_output")
    show(rows, (*found["by"], *figures), False)


@cost.command()
def top(
    by: By = "tag.feature",
    since: Since = "7d",
    until: Until = None,
    filter: Filter = "",
    share: Annotated[int, typer.Option(help="Per cent of the cost to be explained.")] = 80,
    limit: Limit = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """The top drivers of cost, and how few of them make up most of it."""
    query = {"by": by, "since": since, "until": until, "filter": filter or None, "share": share, "limit": limit}
    found = _got(home, "/api/v1/cost/top", **query)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    rows = _flat(found)
    for row in rows:
        for name in ("share", "cumulative_share"):
            row[name] = _per_cent(row.get(name))
    show(rows, (*found["by"], "cost_usd", "calls", "unpriced_calls", "share", "cumulative_share"), False)
    print(found["pareto"]["sentence"])


@cost.command()
def deviation(
    by: By = "team,model",
    since: Since = "7d",
    until: Until = None,
    filter: Filter = "",
    before: Annotated[str | None, typer.Option(help="How much earlier; whole weeks by default.")] = None,
    limit: Limit = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Cost against the same window a week before, the greatest change first."""
    query = {"by": by, "since": since, "until": until, "filter": filter or None, "before": before, "limit": limit}
    found = _got(home, "/api/v1/cost/deviation", **query)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    rows = _flat(found)
    if found["by"]:
        rows.append({found["by"][0]: "all", **found["total"]})
    for row in rows:
        row["change"] = _per_cent(row["change"])
    show(rows, (*found["by"], "state", "before_usd", "cost_usd", "change_usd", "change", "unpriced_calls"), False)


@cost.command()
def forecast(home: Home = None, as_json: Json = False) -> None:
    """What each budget will have spent at its end, and when it is used up."""
    found = _got(home, "/api/v1/cost/forecast", exact="true")
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    rows = [*found["data"], {"what": "all spending", **found["all"]}]
    for row in rows:
        row["interval"] = None if row["low_usd"] is None else f"{_cents(row['low_usd'])} to {_cents(row['high_usd'])}"
        for name in ("per_day_usd", "forecast_usd"):
            row[name] = _cents(row[name])
    columns = ("what", "scope", "window", "spent_usd", "limit_usd", "per_day_usd", "forecast_usd", "interval", "state")
    show(rows, (*columns, "reached_at", "estimator"), False)


@cost.command()
def savings(
    since: Since = "7d", until: Until = None, filter: Filter = "", home: Home = None, as_json: Json = False
) -> None:
    """What caching and routing have saved, and what they and shorter prompts still might, with the arithmetic."""
    found = _got(home, "/api/v1/cost/savings", since=since, until=until, filter=filter or None)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for title, sections in (("saved", found["made"]), ("could be saved", found["possible"])):
        for one in sections:
            print(f"{title}, {one['kind'].replace('_', ' ')}: {one['usd']} USD = {one['formula']}")
            if one.get("assumption"):
                print(f"  assuming: {one['assumption']}")
            if one["unpriced_calls"]:
                print(f"  {one['unpriced_calls']} calls of models without a price are left out")
            if one["data"]:
                show(one["data"], ("route", "model", "calls", "usd", "arithmetic"), False)


@cost.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file; .csv or .parquet says the format.")],
    by: Annotated[str, typer.Option("--by", help="Dimensions; none: a row for each call.")] = "",
    since: Since = "7d",
    until: Until = None,
    filter: Filter = "",
    format: Annotated[
        str | None, typer.Option("--format", help="csv or parquet; by default what the name says.")
    ] = None,
    home: Home = None,
) -> None:
    """Write what calls cost to a file, exactly, safe to open in a spreadsheet."""
    wanted = format or ("parquet" if output.suffix == ".parquet" else "csv")
    draft = output.with_name(f".{output.name}.part")
    try:
        with connected(read(os.environ, home=home)) as client, draft.open("wb") as file:
            query = {"by": by or None, "since": since, "until": until, "filter": filter or None}
            client.save("/api/v1/cost/export", file, format=wanted, **query)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    print(f"wrote {output}", file=sys.stderr)


def _flat(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with their groups' values as columns; the rest is one row that says how many it stands for."""
    rows: list[dict[str, Any]] = [{**_named(row["group"]), **row} for row in found["data"]]
    rest = found["rest"]
    if rest is not None and found["by"]:
        rows.append({found["by"][0]: f"{rest['groups']} others", **rest})
    return rows


def _named(group: dict[str, Any]) -> dict[str, Any]:
    return {name: "(none)" if value is None else value for name, value in group.items()}


def _per_cent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _cents(amount: str | None) -> str | None:
    """An estimate in dollars, without digits that mean nothing."""
    return None if amount is None else f"{float(amount):.4g}" if abs(float(amount)) < 1 else f"{float(amount):.2f}"
