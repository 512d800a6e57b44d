"""Teams and keys as they are kept: tables, port, SQL adapter. Of a secret there is only a hash and its last characters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Column, Float, Index, String, Table, Text, delete, insert, or_, select, text, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import canonical
from mainstay.store.database import metadata

teams = Table(
    "teams",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("body", Text, nullable=False),
    Column("at", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("team", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("last4", String(4), nullable=False),
    Column("previous_hash", String(64)),
    Column("previous_last4", String(4)),
    Column("previous_until", Float),
    Column("at", Float, nullable=False),
    Column("author", Text, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
    Index(
        "keys_in_force",
        "team",
        "name",
        unique=True,
        sqlite_where=text("revoked IS NULL"),
        postgresql_where=text("revoked IS NULL"),
    ),
    Index("keys_hash", "hash"),
)


@dataclass(slots=True)
class TeamRow:
    """A team: ``body`` has its models, limits and budget."""

    name: str
    body: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class KeyRow:
    """A key. Times are seconds since the epoch; ``body`` has models, limits, budget, admin, content and priority."""

    id: str
    team: str
    name: str
    hash: str
    last4: str
    at: float
    author: str
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    previous_hash: str | None = None
    previous_last4: str | None = None
    previous_until: float | None = None
    expires: float | None = None
    revoked: float | None = None


class KeysPort(Protocol):
    """Teams and keys; every method acts within the transaction of ``connection``."""

    async def teams(self, connection: AsyncConnection, name: str | None = None) -> list[TeamRow]:
        """All teams by name, or the one of that name."""
        ...

    async def put_team(self, connection: AsyncConnection, team: TeamRow) -> None:
        """Keep a team, in place of one of the same name."""
        ...

    async def remove_team(self, connection: AsyncConnection, name: str) -> None:
        """Forget a team."""
        ...

    async def keys(self, connection: AsyncConnection, team: str | None = None, revoked: bool = False) -> list[KeyRow]:
        """Keys by team and name, of one team or all, revoked ones only if asked for."""
        ...

    async def key(self, connection: AsyncConnection, team: str, name: str) -> KeyRow | None:
        """The key of that name that is not revoked, locked until the transaction ends."""
        ...

    async def by_hash(self, connection: AsyncConnection, hashed: str) -> KeyRow | None:
        """The key that is not revoked and has that hash, now or as its previous one."""
        ...

    async def put_key(self, connection: AsyncConnection, key: KeyRow) -> None:
        """Keep a key, in place of the one of the same id."""
        ...

    async def forget_keys(self, connection: AsyncConnection, before: float) -> None:
        """Delete keys that were revoked before that time."""
        ...


class SqlKeys:
    """``KeysPort`` on the control database."""

    async def teams(self, connection: AsyncConnection, name: str | None = None) -> list[TeamRow]:
        query = select(teams)
        if name is not None:
            query = query.where(teams.c.name == name)
        rows = [TeamRow(row.name, json.loads(row.body), row.at) for row in await connection.execute(query)]
        return sorted(rows, key=lambda row: row.name)

    async def put_team(self, connection: AsyncConnection, team: TeamRow) -> None:
        values = {"body": canonical(team.body).decode(), "at": team.at}
        done = await connection.execute(update(teams).where(teams.c.name == team.name).values(**values))
        if not done.rowcount:
            await connection.execute(insert(teams).values(name=team.name, **values))

    async def remove_team(self, connection: AsyncConnection, name: str) -> None:
        await connection.execute(delete(teams).where(teams.c.name == name))

    async def keys(self, connection: AsyncConnection, team: str | None = None, revoked: bool = False) -> list[KeyRow]:
        query = select(keys)
        if team is not None:
            query = query.where(keys.c.team == team)
        if not revoked:
            query = query.where(keys.c.revoked.is_(None))
        rows = [_key(row) for row in await connection.execute(query)]
        return sorted(rows, key=lambda row: (row.team, row.name, row.at))

    async def key(self, connection: AsyncConnection, team: str, name: str) -> KeyRow | None:
        query = select(keys).where(keys.c.team == team, keys.c.name == name, keys.c.revoked.is_(None))
        row = (await connection.execute(query.with_for_update())).first()
        return None if row is None else _key(row)

    async def by_hash(self, connection: AsyncConnection, hashed: str) -> KeyRow | None:
        query = select(keys).where(or_(keys.c.hash == hashed, keys.c.previous_hash == hashed), keys.c.revoked.is_(None))
        row = (await connection.execute(query)).first()
        return None if row is None else _key(row)

    async def put_key(self, connection: AsyncConnection, key: KeyRow) -> None:
        values = {name: getattr(key, name) for name in KeyRow.__slots__ if name not in ("id", "body")}
        values["body"] = canonical(key.body).decode()
        done = await connection.execute(update(keys).where(keys.c.id == key.id).values(**values))
        if not done.rowcount:
            await connection.execute(insert(keys).values(id=key.id, **values))

    async def forget_keys(self, connection: AsyncConnection, before: float) -> None:
        await connection.execute(delete(keys).where(keys.c.revoked < before))


def _key(row: Row[Any]) -> KeyRow:
    return KeyRow(
        id=row.id,
        team=row.team,
        name=row.name,
        hash=row.hash,
        last4=row.last4,
        at=row.at,
        author=row.author,
        body=json.loads(row.body),
        previous_hash=row.previous_hash,
        previous_last4=row.previous_last4,
        previous_until=row.previous_until,
        expires=row.expires,
        revoked=row.revoked,
    )
