"""Stored responses as control finds them: table, port, SQL adapter. What they say lies in blobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, Text, delete, func, insert, select, tuple_
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.store.database import metadata

LONGEST_ID = 255
"""Characters of a response's id, at most."""

_AT_ONCE = 500

responses = Table(
    "responses",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("team", String(128), nullable=False),
    Column("id", String(LONGEST_ID), nullable=False),
    Column("root", String(64), nullable=False),
    Column("previous", String(64)),
    Column("at", Float, nullable=False),
    Column("user", Text),
    Column("size", BigInteger, nullable=False),
    Index("responses_by_id", "team", "id"),
    Index("responses_thread", "team", "root", "at"),
    Index("responses_user", "user"),
)


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """One stored response. ``at`` is in seconds since the epoch, ``size`` in bytes before compression.

    ``key`` is the id of the call that made it, unique where ``id``, which an upstream may have chosen, need not be.
    ``root`` is the key of the first response of its thread, ``previous`` that of the one it continues.
    """

    key: str
    team: str
    id: str
    root: str
    previous: str | None
    at: float
    user: str | None
    size: int


class ResponsesPort(Protocol):
    """Rows of stored responses; every method acts within the transaction of ``connection``."""

    async def put(self, connection: AsyncConnection, row: ResponseRow) -> None:
        """Keep a row; one of the same key stays as it is."""
        ...

    async def find(self, connection: AsyncConnection, team: str, identifier: str) -> list[ResponseRow]:
        """The team's responses of that id, newest first."""
        ...

    async def thread(self, connection: AsyncConnection, team: str, root: str) -> list[ResponseRow]:
        """The team's responses that descend from ``root``, and it."""
        ...

    async def remove(self, connection: AsyncConnection, keys: Iterable[str]) -> int:
        """Delete rows; how many there were."""
        ...

    async def expired(self, connection: AsyncConnection, before: float, limit: int) -> list[ResponseRow]:
        """Rows of at most ``limit`` threads in which nothing has happened since ``before``."""
        ...

    async def of_user(self, connection: AsyncConnection, user: str, limit: int) -> list[ResponseRow]:
        """At most ``limit`` responses to that end user."""
        ...


class SqlResponses:
    """``ResponsesPort`` on the control database."""

    async def put(self, connection: AsyncConnection, row: ResponseRow) -> None:
        known = await connection.execute(select(responses.c.key).where(responses.c.key == row.key))
        if known.first() is None:
            values = {name: getattr(row, name) for name in ResponseRow.__slots__}
            await connection.execute(insert(responses).values(**values))

    async def find(self, connection: AsyncConnection, team: str, identifier: str) -> list[ResponseRow]:
        query = select(responses).where(responses.c.team == team, responses.c.id == identifier)
        query = query.order_by(responses.c.at.desc(), responses.c.key.desc())
        return [_row(row) for row in await connection.execute(query)]

    async def thread(self, connection: AsyncConnection, team: str, root: str) -> list[ResponseRow]:
        query = select(responses).where(responses.c.team == team, responses.c.root == root)
        return [_row(row) for row in await connection.execute(query)]

    async def remove(self, connection: AsyncConnection, keys: Iterable[str]) -> int:
        listed, removed = list(keys), 0
        for start in range(0, len(listed), _AT_ONCE):
            part = listed[start : start + _AT_ONCE]
            done = await connection.execute(delete(responses).where(responses.c.key.in_(part)))
            removed += done.rowcount
        return removed

    async def expired(self, connection: AsyncConnection, before: float, limit: int) -> list[ResponseRow]:
        columns = (responses.c.team, responses.c.root)
        old = select(*columns).group_by(*columns).having(func.max(responses.c.at) < before).limit(limit)
        threads = [(row[0], row[1]) for row in await connection.execute(old)]
        found: list[ResponseRow] = []
        for start in range(0, len(threads), _AT_ONCE):
            query = select(responses).where(tuple_(*columns).in_(threads[start : start + _AT_ONCE]))
            found += [_row(row) for row in await connection.execute(query)]
        return found

    async def of_user(self, connection: AsyncConnection, user: str, limit: int) -> list[ResponseRow]:
        query = select(responses).where(responses.c.user == user).limit(limit)
        return [_row(row) for row in await connection.execute(query)]


def _row(row: Row[Any]) -> ResponseRow:
    return ResponseRow(
        key=row.key,
        team=row.team,
        id=row.id,
        root=row.root,
        previous=row.previous,
        at=row.at,
        user=row.user,
        size=row.size,
    )
