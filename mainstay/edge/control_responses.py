"""Stored responses for this installation's own gateways: on the local socket only, never passed on to from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from fastapi import Query, Request
from fastapi.responses import Response

from mainstay.core.errors import Invalid
from mainstay.edge.passing import RESPONSES

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_MOST = 100


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def response(request: Request, team: str, id: str) -> Response:
        """The response object."""
        return _json(await control.responses.response(team, id))

    async def history(request: Request, team: str, id: str) -> Response:
        """All that was said up to the response and with it."""
        found = await control.responses.history(team, id)
        return _json(msgspec.json.encode(found._asdict()))

    async def input_items(
        request: Request,
        team: str,
        id: str,
        after: str | None = None,
        limit: int = Query(20, ge=1, le=_MOST),
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """A page of what the response was made from."""
        items = await control.responses.input_items(team, id)
        if order == "desc":
            items.reverse()
        if after is not None:
            at = next((i for i, item in enumerate(items) if item.get("id") == after), None)
            if at is None:
                raise Invalid(f"after: the response has no input item {after[:100]!r}", field="after")
            items = items[at + 1 :]
        page = items[:limit]
        listed: dict[str, Any] = {
            "object": "list",
            "data": page,
            "first_id": page[0].get("id") if page else None,
            "last_id": page[-1].get("id") if page else None,
            "has_more": len(items) > limit,
        }
        return _json(msgspec.json.encode(listed))

    async def delete(request: Request, team: str, id: str) -> Response:
        """Forget the response."""
        await control.responses.delete(team, id)
        return _json(b"{}")

    routes.add("GET", RESPONSES, "internal", response, include_in_schema=False)
    routes.add("GET", f"{RESPONSES}/history", "internal", history, include_in_schema=False)
    routes.add("GET", f"{RESPONSES}/input_items", "internal", input_items, include_in_schema=False)
    routes.add("DELETE", RESPONSES, "internal", delete, include_in_schema=False)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
