"""The command line's part for verdicts: list, add, types; and the outcome figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstay.client import connected
from mainstay.settings import read
from mainstay.table import show

verdicts = typer.Typer(no_args_is_help=True, help="Opinions on calls: list them, add one, see which sorts there are.")

Home = Annotated[Path | None, typer.Option("--home", help="Where everything is kept; made if absent.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, a line for each thing.")]
Team = Annotated[str | None, typer.Option(help="Whose session or external id it is.")]

_COLUMNS = ("at", "about", "name", "value", "by", "why", "team", "matched", "id")


@verdicts.command("list")
def list_verdicts(
    call: Annotated[str | None, typer.Option(help="Those about this call.")] = None,
    session: Annotated[str | None, typer.Option(help="Those about this session.")] = None,
    external_id: Annotated[str | None, typer.Option(help="Those about the product's own id.")] = None,
    name: Annotated[str | None, typer.Option(help="Those of this type, such as thumbs.")] = None,
    by: Annotated[str | None, typer.Option(help="Those by user, product, judge:NAME or human:NAME.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, or an age such as 5m.")] = None,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="Those whose call is not known yet.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Also those that a later one superseded.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """The verdicts that count, oldest first."""
    query: dict[str, Any] = {"call": call, "session": session, "external_id": external_id, "name": name, "by": by}
    query |= {"since": since, "unmatched": str(unmatched).lower(), "history": str(history).lower()}
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with connected(read(os.environ, home=home)) as client:
        while len(found) < limit:
            page = client.request(
                "GET", "/api/v1/verdicts", limit=min(1000, limit - len(found)), cursor=cursor, **query
            )
            found += page["data"]
            cursor = page["cursor"]
            if cursor is None:
                break
    found.reverse()
    for one in found if not as_json else ():
        sort = next(sort for sort in ("call", "session", "external_id") if sort in one)
        one["about"] = one[sort] if sort == "call" else f"{sort} {one[sort]}"
    show(found, _COLUMNS, as_json)


@verdicts.command()
def add(
    call: Annotated[str, typer.Argument(help="The call; with --session or --external-id, that instead.")],
    name: Annotated[str, typer.Argument(help="The type, such as thumbs.")],
    value: Annotated[str, typer.Argument(help="true, false, a number or a category.")],
    by: Annotated[str, typer.Option(help="user, product, judge:NAME or human:NAME.")] = "human:cli",
    why: Annotated[str, typer.Option(help="The reason.")] = "",
    at: Annotated[str | None, typer.Option(help="When it was given; now.")] = None,
    ident: Annotated[str | None, typer.Option("--id", help="Given twice, it counts once.")] = None,
    session: Annotated[bool, typer.Option("--session", help="CALL is a session.")] = False,
    external_id: Annotated[bool, typer.Option("--external-id", help="CALL is the product's own id.")] = False,
    team: Team = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Give a verdict on a call."""
    about = "session" if session else "external_id" if external_id else "call"
    with connected(read(os.environ, home=home)) as client:
        sorts = {one["name"]: one["type"] for one in client.request("GET", "/api/v1/verdicts/types")["data"]}
        body = {about: call, "name": name, "value": _typed(sorts.get(name), value), "by": by, "why": why}
        body |= {"at": at, "id": ident, "team": team}
        added = client.request("POST", "/api/v1/verdicts", body)["data"][0]
    if as_json:
        print(json.dumps(added, ensure_ascii=False))
        return
    state = "kept" if added["new"] else "known already"
    waits = "" if added["matched"] or about != "call" else "; no such call is known yet"
    print(f"{state}: {added['id']}{waits}")


@verdicts.command()
def types(home: Home = None, as_json: Json = False) -> None:
    """The sorts of verdict there are, and which values are low."""
    with connected(read(os.environ, home=home)) as client:
        found = client.request("GET", "/api/v1/verdicts/types")["data"]
    columns = ("name", "type", "min", "max", "unit", "categories", "low_below", "low_above", "low_when", "low_of")
    show(found, columns, as_json)


def outcomes(
    by: Annotated[str, typer.Option(help="Such as team,model,workflow,prompt,tag.feature.")] = "",
    since: Annotated[str | None, typer.Option(help="Calls since a time, or an age such as 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Calls before a time, or an age.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many groups.", min=1, max=1000)] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Feedback, task success, override and cost per successful task."""
    with connected(read(os.environ, home=home)) as client:
        found = client.request("GET", "/api/v1/outcomes", by=by or None, since=since, until=until, limit=limit)["data"]
    if not as_json:
        for one in found:
            one |= one["group"]
            for rate in ("feedback_rate", "task_success_rate", "override_rate"):
                one[rate] = _rate(one[rate])
            one["cost_per_success_usd"] = one["cost_per_successful_task_usd"]
    figures = ("tasks", "feedback_rate", "task_success_rate", "override_rate", "cost_usd", "cost_per_success_usd")
    show(found, (*(name.strip() for name in by.split(",") if name.strip()), *figures), as_json)


def _rate(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    low, high = share["interval"]
    return f"{share['value']:.1%} of {share['of']} ({low:.0%} to {high:.0%})"


def _typed(sort: str | None, value: str) -> bool | float | str:
    """``value`` as its type's values are written in JSON; what does not fit is for control to refuse."""
    if sort == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.lower(), value)
    if sort == "number":
        try:
            return float(value)
        except ValueError:
            return value
    return value
