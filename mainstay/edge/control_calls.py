"""The control API's calls: the ledger, filtered, one by one, and with their content."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request

from mainstay.core.errors import Invalid, NotFound
from mainstay.edge.permissions import Caller
from mainstay.edge.verdict_shape import of_call
from mainstay.ledger.filter import ALL, Filter, Source, moment, parse
from mainstay.ledger.rows import as_json
from mainstay.registry.kinds import seconds

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_TIMEOUT = 30.0


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def calls(
        request: Request,
        filter: str = "",
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        source: Source = "gateway",
        flag: Literal["low"] | None = None,
    ) -> dict[str, Any]:
        """Calls, newest first. ``since`` and ``until`` are times (ISO 8601) or ages such as ``5m``.

        ``source``: those that came through a gateway, spans (``otlp``) or records (``api``) of applications, or ``all``.
        ``flag``: with ``low``, those of which a verdict says that they did not satisfy.
        """
        await control.ingest.caught_up()
        await control.judging.verdicts.match()
        wanted = allowed(request.state.caller, filter)
        page = await control.ledger.calls(
            wanted if flag is None else wanted.both(await control.judging.low()),
            since=moment_or_age(since, "since"),
            until=moment_or_age(until, "until"),
            limit=limit,
            cursor=cursor,
            timeout=_TIMEOUT,
            source=source,
        )
        return {"data": [as_json(row) for row in page.rows], "cursor": page.cursor}

    async def one(request: Request, call: str) -> dict[str, Any]:
        """One call, with the verdicts that count for it."""
        row = await found(request, call)
        return {**as_json(row), "verdicts": await of_call(control, row)}

    async def content(request: Request, call: str) -> dict[str, Any]:
        """What was asked and answered, where the route or key keeps it. That it was looked at is recorded."""
        await found(request, call)
        kept = await control.content.get(call)
        if kept is None:
            raise NotFound(
                "no content is kept of this call; 'content: true' on its route or key keeps that of later ones"
            )
        caller: Caller = request.state.caller
        async with control.database.write() as connection:
            await control.changes.append(
                connection, by=caller.name, why="content was looked at", what=f"content:{call}", before=None, after=None
            )
        return {
            "call": call,
            "request": _text(kept.request),
            "request_type": kept.request_type,
            "reply": _text(kept.reply),
            "reply_type": kept.reply_type,
        }

    async def found(request: Request, call: str) -> dict[str, Any]:
        caller: Caller = request.state.caller
        row = await control.ledger.get(call)
        if row is None:
            await control.ingest.caught_up()
            row = await control.ledger.get(call)
        if row is None or (caller.team is not None and row["team"] != caller.team):
            raise NotFound(f"there is no call {call[:100]!r} that your key may see", code="call_not_found")
        return row

    routes.add("GET", "/api/v1/calls", "calls:read", calls)
    routes.add("GET", "/api/v1/calls/{call}", "calls:read", one)
    routes.add("GET", "/api/v1/calls/{call}/content", "content:read", content)


def allowed(caller: Caller, text: str) -> Filter:
    """What the caller asks for, of what it may see."""
    wanted = parse(text) if text.strip() else ALL
    return wanted if caller.team is None else Filter('"team" = ?', [caller.team]).both(wanted)


def moment_or_age(text: str | None, field: str) -> int | None:
    """Microseconds since the epoch of a time or an age. Raises ``Invalid`` that names ``field``."""
    if text is None:
        return None
    try:
        return int((time.time() - seconds(text)) * 1e6)
    except ValueError:
        pass
    try:
        return moment(text)
    except ValueError:
        said = f"{text[:60]!r} is neither an age such as 5m nor a time such as 2026-11-21T10:00:00Z"
        raise Invalid(f"{field}: {said}", field=field) from None


def _text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
