"""Verdicts as control keeps them: table, port, SQL adapter. Rows are only added; a call that arrives late marks them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Protocol, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    String,
    Table,
    Text,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.verdict import Asked, Verdict
from mainstay.store.database import metadata

_AT_ONCE = 500

verdicts = Table(
    "verdicts",
    metadata,
    Column("origin", String(128), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("team", String(128), nullable=False),
    Column("about", String(16), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("name", String(128), nullable=False),
    Column("by", String(140), nullable=False),
    Column("number", Double),
    Column("word", String(128)),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("sender", String(300), nullable=False),
    Column("edit", String(200)),
    Column("matched", Boolean, nullable=False),
    Index("verdicts_subject", "subject", "about", "team", "name", "by", "at"),
    Index("verdicts_at", "at", "origin", "id"),
    Index("verdicts_matched", "matched"),
)

_COLUMNS = tuple(field.name for field in fields(Verdict))
_later = verdicts.alias("later")
_CURRENT = ~exists().where(
    *(_later.c[name] == verdicts.c[name] for name in ("team", "about", "subject", "name", "by")),
    or_(
        _later.c.at > verdicts.c.at,
        and_(_later.c.at == verdicts.c.at, _later.c.id > verdicts.c.id),
        and_(_later.c.at == verdicts.c.at, _later.c.id == verdicts.c.id, _later.c.origin > verdicts.c.origin),
    ),
)
"""No later verdict of the same group is there."""


class VerdictsPort(Protocol):
    """Rows of verdicts; every method acts within the transaction of ``connection``."""

    async def known(self, connection: AsyncConnection, origin: str, ids: Iterable[str]) -> dict[str, Verdict]:
        """Those of ``ids`` that are there, by id."""
        ...

    async def add(self, connection: AsyncConnection, rows: Iterable[Verdict]) -> None:
        """Add rows whose ids are new."""
        ...

    async def current(self, connection: AsyncConnection, subjects: Iterable[str]) -> list[Verdict]:
        """The verdicts about these subjects that no later one supersedes."""
        ...

    async def every(self, connection: AsyncConnection, after: tuple[str, str], limit: int) -> list[Verdict]:
        """A page of all the current ones, by origin and id, behind ``after``."""
        ...

    async def page(self, connection: AsyncConnection, asked: Asked) -> list[tuple[Verdict, bool]]:
        """What was asked for, latest first, each with whether it is current."""
        ...

    async def unmatched(self, connection: AsyncConnection) -> dict[tuple[str, str, str], int]:
        """Of each team, sort and name of a subject of which no call is known: the verdicts about it."""
        ...

    async def match(self, connection: AsyncConnection, subjects: Iterable[tuple[str, str, str, str]]) -> None:
        """Calls of these subjects (team or none, sort, name, the calls' team) are there now."""
        ...

    async def sweep(self, connection: AsyncConnection, before: int, limit: int) -> list[Verdict]:
        """Delete at most ``limit`` verdicts from before ``before`` (microseconds since the epoch); those deleted."""
        ...


class SqlVerdicts:
    """``VerdictsPort`` on the control database."""

    async def known(self, connection: AsyncConnection, origin: str, ids: Iterable[str]) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}
        for part in _parts(ids):
            query = _select().where(verdicts.c.origin == origin, verdicts.c.id.in_(part))
            found.update((row.id, _row(row)) for row in await connection.execute(query))
        return found

    async def add(self, connection: AsyncConnection, rows: Iterable[Verdict]) -> None:
        values = [{name: getattr(row, name) for name in _COLUMNS} for row in rows]
        if values:
            await connection.execute(insert(verdicts), values)

    async def current(self, connection: AsyncConnection, subjects: Iterable[str]) -> list[Verdict]:
        found: list[Verdict] = []
        for part in _parts(subjects):
            query = _select().where(verdicts.c.subject.in_(part), _CURRENT)
            found += [_row(row) for row in await connection.execute(query)]
        return found

    async def every(self, connection: AsyncConnection, after: tuple[str, str], limit: int) -> list[Verdict]:
        key = (verdicts.c.origin, verdicts.c.id)
        query = _select().where(_CURRENT, tuple_(*key) > tuple_(*after)).order_by(*key).limit(limit)
        return [_row(row) for row in await connection.execute(query)]

    async def page(self, connection: AsyncConnection, asked: Asked) -> list[tuple[Verdict, bool]]:
        query = _select(_CURRENT.label("counts"))
        if not asked.history:
            query = query.where(_CURRENT)
        if asked.team is not None:
            query = query.where(verdicts.c.team == asked.team)
        if asked.subjects:
            query = query.where(
                or_(*(and_(verdicts.c.about == about, verdicts.c.subject == name) for about, name in asked.subjects))
            )
        for name in ("name", "by"):
            if getattr(asked, name) is not None:
                query = query.where(verdicts.c[name] == getattr(asked, name))
        if asked.since is not None:
            query = query.where(verdicts.c.at >= asked.since)
        if asked.unmatched:
            query = query.where(verdicts.c.matched == false())
        order = (verdicts.c.at, verdicts.c.id, verdicts.c.origin)
        if asked.after is not None:
            query = query.where(tuple_(*order) < tuple_(*asked.after))
        query = query.order_by(*(column.desc() for column in order)).limit(asked.limit)
        return [(_row(row), bool(row.counts)) for row in await connection.execute(query)]

    async def unmatched(self, connection: AsyncConnection) -> dict[tuple[str, str, str], int]:
        key = (verdicts.c.team, verdicts.c.about, verdicts.c.subject)
        query = select(*key, func.count()).where(verdicts.c.matched == false()).group_by(*key)
        return {(row[0], row[1], row[2]): int(row[3]) for row in await connection.execute(query)}

    async def match(self, connection: AsyncConnection, subjects: Iterable[tuple[str, str, str, str]]) -> None:
        for team, about, subject, owner in subjects:
            mine = (verdicts.c.subject == subject, verdicts.c.about == about, verdicts.c.team == team)
            await connection.execute(update(verdicts).where(*mine).values(matched=True, team=owner))

    async def sweep(self, connection: AsyncConnection, before: int, limit: int) -> list[Verdict]:
        query = _select().where(verdicts.c.at < before).order_by(verdicts.c.at).limit(limit)
        old = [_row(row) for row in await connection.execute(query)]
        for origin in {one.origin for one in old}:
            for part in _parts(one.id for one in old if one.origin == origin):
                await connection.execute(delete(verdicts).where(verdicts.c.origin == origin, verdicts.c.id.in_(part)))
        return old


def _select(*more: Any) -> Any:
    return select(*(verdicts.c[name] for name in _COLUMNS), *more)


def _row(row: Any) -> Verdict:
    values = cast(dict[str, Any], row._mapping)
    return Verdict(**{name: values[name] for name in _COLUMNS})


def _parts(names: Iterable[str]) -> list[list[str]]:
    listed = list(dict.fromkeys(names))
    return [listed[start : start + _AT_ONCE] for start in range(0, len(listed), _AT_ONCE)]
