"""The control API's keys, teams and budgets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from mainstay.access.keys import KeyRow
from mainstay.core.errors import Forbidden
from mainstay.core.money import usd
from mainstay.edge.permissions import Caller
from mainstay.registry import kinds

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from mainstay.control import Control
    from mainstay.edge.control_api import Routes


Why = Annotated[str, Field(max_length=2000, description="Recorded with the change")]


class LimitsBody(BaseModel):
    """How fast a key may ask."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: int | None = Field(None, ge=0, lt=2**53)
    tokens_per_minute: int | None = Field(None, ge=0, lt=2**53)
    concurrent: int | None = Field(None, ge=0, lt=2**53)


class BudgetBody(BaseModel):
    """How much may be spent."""

    model_config = ConfigDict(extra="forbid")

    usd: float = Field(ge=0, le=1e9, allow_inf_nan=False)
    per: str = Field("month", pattern="^(day|month|total)$")
    soft: bool = False


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    team: str
    name: str
    models: list[str] | None = None
    limits: LimitsBody | None = None
    budget: BudgetBody | None = None
    expires: str | None = Field(None, description="ISO 8601")
    admin: bool = False
    create_team: bool = Field(False, description="Make the team if there is none of that name")
    why: Why = ""


class Rotation(BaseModel):
    """A new secret for a key."""

    model_config = ConfigDict(extra="forbid")

    overlap: float = Field(0, ge=0, allow_inf_nan=False, description="Seconds for which the old secret stays valid")
    why: Why = ""


async def maker(control: Control, connection: AsyncConnection, caller: Caller) -> KeyRow | None:
    """The key of who asks; None for whoever may open the installation's own socket. Raises ``Forbidden``."""
    if caller.key_id is None:
        return None
    for row in await control.keys.list(connection):
        if caller.key_id.split(".")[0] == row.id:
            return row
    raise Forbidden("your key has just been revoked")


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def list_keys(request: Request, team: str | None = None) -> dict[str, Any]:
        """All keys in force, without their secrets, which nobody knows."""
        async with control.database.read() as connection:
            rows = await control.keys.list(connection, team)
        return {"data": [_key(row) for row in rows]}

    async def create(request: Request, body: NewKey) -> dict[str, Any]:
        """Make a key. Its secret is in this answer, and nowhere else."""
        caller: Caller = request.state.caller
        declared = kinds.Key(
            name=body.name,
            team=body.team,
            models=body.models,
            limits=None if body.limits is None else kinds.Limits(**body.limits.model_dump()),
            budget=None if body.budget is None else kinds.Budget(**body.budget.model_dump()),
            expires=body.expires,
            admin=body.admin,
        )
        async with control.database.write() as connection:
            made_by = await maker(control, connection, caller)
            if body.create_team:
                await control.put_team_if_absent(connection, body.team, caller.name, body.why)
            row, secret = await control.keys.create(connection, declared, by=caller.name, why=body.why, maker=made_by)
        warnings = await control.publish()
        return {**_key(row), "secret": secret, "warnings": warnings}

    async def rotate(request: Request, team: str, name: str, body: Rotation) -> dict[str, Any]:
        """Give a key a new secret; the old one stays valid for ``overlap`` more seconds."""
        caller: Caller = request.state.caller
        team, name = _named(request)
        async with control.database.write() as connection:
            made_by = await maker(control, connection, caller)
            row, secret = await control.keys.rotate(
                connection, team, name, overlap=body.overlap, by=caller.name, why=body.why, maker=made_by
            )
        warnings = await control.publish()
        return {**_key(row), "secret": secret, "warnings": warnings}

    async def revoke(
        request: Request, team: str, name: str, why: Annotated[str, Query(max_length=2000)] = ""
    ) -> dict[str, Any]:
        """End a key; it opens nothing on any gateway when this returns."""
        caller: Caller = request.state.caller
        team, name = _named(request)
        async with control.database.write() as connection:
            await control.keys.revoke(connection, team, name, by=caller.name, why=why)
        return {"team": team, "name": name, "revoked": True, "warnings": await control.publish()}

    async def teams(request: Request) -> dict[str, Any]:
        """All teams."""
        async with control.database.read() as connection:
            rows = await control.keys.list_teams(connection)
        return {"data": [{"name": row.name, **row.body} for row in rows]}

    async def budgets(request: Request, exact: bool = False) -> dict[str, Any]:
        """What of each budget is spent, held by calls in flight or leased, and left, in US dollars."""
        found: list[dict[str, Any]] = []
        for one in await control.shares.status(exact=exact):
            rule = control.rules.get(one.rule)
            if rule is None or rule.meter != "usd":
                continue
            found.append(
                {
                    "rule": one.rule,
                    "scope": one.scope,
                    "window": one.window,
                    "what": rule.sentence,
                    "limit_usd": usd(one.limit or 0),
                    "spent_usd": usd(one.spent),
                    "held_usd": usd(one.held),
                    "left_usd": usd(one.left),
                }
            )
        return {"data": found}

    routes.add("GET", "/api/v1/keys", "behaviour:read", list_keys)
    routes.add("POST", "/api/v1/keys", "keys:write", create, status_code=201)
    routes.add("POST", "/api/v1/keys/{team}/{name:path}/rotate", "keys:write", rotate)
    routes.add("DELETE", "/api/v1/keys/{team}/{name:path}", "keys:write", revoke)
    routes.add("GET", "/api/v1/teams", "behaviour:read", teams)
    routes.add("GET", "/api/v1/budgets", "behaviour:read", budgets)


def _named(request: Request) -> tuple[str, str]:
    """Team and key of ``/api/v1/keys/{team}/{name}``: both may have slashes, a team's are percent-encoded."""
    raw = bytes(request.scope["raw_path"]).decode("latin-1").removesuffix("/rotate")
    team, _, name = raw.removeprefix("/api/v1/keys/").partition("/")
    return unquote(team), unquote(name)


def _key(row: KeyRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": row.id, "team": row.team, "name": row.name, "last4": row.last4, **row.body}
    for name, at in (("created", row.at), ("expires", row.expires), ("previous_until", row.previous_until)):
        if at is not None:
            shown[name] = datetime.fromtimestamp(at, UTC).isoformat()
    return shown
