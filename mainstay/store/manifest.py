"""Which segment files the ledger consists of, and how far each gateway's journal has been taken in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.errors import Conflict
from mainstay.store.database import metadata

_segments = Table(
    "segments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("scope", String(64), nullable=False),
    Column("path", String(512), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("first_id", String(128), nullable=False),
    Column("last_id", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Index("segments_scope", "scope", "last_at"),
)

_cursors = Table(
    "journal_cursors",
    metadata,
    Column("gateway", String(128), primary_key=True),
    Column("segment", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("carried", LargeBinary, nullable=False),
    Column("recovered", Boolean, nullable=False),
)

_totals = Table(
    "ledger_totals",
    metadata,
    Column("scope", String(64), primary_key=True),
    Column("stored", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("corrupt", BigInteger, nullable=False),
)

_leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("until", Float, nullable=False),
)


class Segment(Struct, frozen=True, kw_only=True):
    """One immutable file of rows. ``path`` is relative to the scope's folder; times are microseconds since the epoch.

    ``hash`` is the SHA-256 of the file in hex, ``version`` the schema's, ``level`` how often its rows were merged.
    """

    id: str
    path: str
    hash: str
    rows: int
    bytes: int
    first_at: int
    last_at: int
    first_id: str
    last_id: str
    version: int
    level: int = 0


class JournalCursor(Struct, frozen=True, kw_only=True):
    """How far a gateway's journal is in the ledger. ``carried``: the calls that are still open from earlier segments.

    ``recovered``: the gateway is dead and settled; only its folder is left to be removed.
    """

    gateway: str
    segment: int = 0
    offset: int = 0
    carried: bytes = b""
    recovered: bool = False


class Totals(Struct, frozen=True):
    """Rows that ever went into a scope, rows that gateways had to drop, and places of journals that were damaged."""

    stored: int = 0
    dropped: int = 0
    corrupt: int = 0


class Manifest(Protocol):
    """What is in the ledger. Methods that change it work within the caller's transaction."""

    async def segments(self, connection: AsyncConnection, scope: str) -> list[Segment]:
        """All segments of ``scope``, oldest first."""
        ...

    async def add(self, connection: AsyncConnection, scope: str, segment: Segment) -> bool:
        """Name a segment; False if it is already named, so that a transaction can be tried again."""
        ...

    async def swap(self, connection: AsyncConnection, scope: str, out: Iterable[str], into: Iterable[Segment]) -> None:
        """Put ``into`` in the place of the segments whose ids are ``out``. Raises ``Conflict`` if one is gone."""
        ...

    async def cursors(self, connection: AsyncConnection) -> dict[str, JournalCursor]:
        """The cursor of every gateway, by gateway."""
        ...

    async def move(self, connection: AsyncConnection, before: JournalCursor | None, after: JournalCursor) -> None:
        """Move a cursor. Raises ``Conflict`` if it does not stand at ``before`` (None: there is none)."""
        ...

    async def forget(self, connection: AsyncConnection, gateway: str) -> None:
        """Drop the cursor of a gateway whose journal is gone."""
        ...

    async def count(self, connection: AsyncConnection, scope: str, more: Totals) -> Totals:
        """Add ``more`` to the totals of ``scope``; the totals then."""
        ...

    async def lease(self, connection: AsyncConnection, name: str, owner: str, now: float, seconds: float) -> bool:
        """Take or renew the lease ``name`` for ``seconds`` from ``now`` on (0: give it back); whether ``owner`` has it."""
        ...


class SqlManifest:
    """The manifest in the control database."""

    async def segments(self, connection: AsyncConnection, scope: str) -> list[Segment]:
        """See ``Manifest``."""
        columns = [_segments.c[name] for name in Segment.__struct_fields__]
        query = select(*columns).where(_segments.c.scope == scope).order_by(_segments.c.last_at, _segments.c.id)
        return [Segment(**row) for row in (await connection.execute(query)).mappings()]

    async def add(self, connection: AsyncConnection, scope: str, segment: Segment) -> bool:
        """See ``Manifest``."""
        there = select(_segments.c.id).where(_segments.c.id == segment.id)
        if (await connection.execute(there)).first() is not None:
            return False
        await connection.execute(insert(_segments), [_row(scope, segment)])
        return True

    async def swap(self, connection: AsyncConnection, scope: str, out: Iterable[str], into: Iterable[Segment]) -> None:
        """See ``Manifest``."""
        for one in out:
            gone = delete(_segments).where(_segments.c.scope == scope, _segments.c.id == one)
            if (await connection.execute(gone)).rowcount != 1:
                raise Conflict(f"segment {one} is no longer in the manifest; try again with the segments of now")
        for segment in into:
            await connection.execute(insert(_segments), [_row(scope, segment)])

    async def cursors(self, connection: AsyncConnection) -> dict[str, JournalCursor]:
        """See ``Manifest``."""
        rows = (await connection.execute(select(_cursors))).mappings()
        return {row["gateway"]: JournalCursor(**row) for row in rows}

    async def move(self, connection: AsyncConnection, before: JournalCursor | None, after: JournalCursor) -> None:
        """See ``Manifest``."""
        values: dict[str, Any] = {name: getattr(after, name) for name in JournalCursor.__struct_fields__}
        mine = _cursors.c.gateway == after.gateway
        if before is None:
            if (await connection.execute(select(_cursors.c.gateway).where(mine))).first() is not None:
                raise Conflict(f"the journal of {after.gateway} is taken in by another process")
            await connection.execute(insert(_cursors), [values])
            return
        stands = (_cursors.c.segment == before.segment) & (_cursors.c.offset == before.offset)
        moved = update(_cursors).where(mine, stands, _cursors.c.recovered == before.recovered).values(values)
        if (await connection.execute(moved)).rowcount != 1:
            raise Conflict(f"the journal of {after.gateway} is taken in by another process")

    async def forget(self, connection: AsyncConnection, gateway: str) -> None:
        """See ``Manifest``."""
        await connection.execute(delete(_cursors).where(_cursors.c.gateway == gateway))

    async def count(self, connection: AsyncConnection, scope: str, more: Totals) -> Totals:
        """See ``Manifest``."""
        query = select(_totals.c.stored, _totals.c.dropped, _totals.c.corrupt).where(_totals.c.scope == scope)
        row = (await connection.execute(query)).first()
        if row is None:
            total = more
            await connection.execute(insert(_totals), [{"scope": scope, **_counts(total)}])
        else:
            total = Totals(row[0] + more.stored, row[1] + more.dropped, row[2] + more.corrupt)
            if more != Totals():
                await connection.execute(update(_totals).where(_totals.c.scope == scope).values(_counts(total)))
        return total

    async def lease(self, connection: AsyncConnection, name: str, owner: str, now: float, seconds: float) -> bool:
        """See ``Manifest``."""
        mine = _leases.c.name == name
        free = (_leases.c.owner == owner) | (_leases.c.until <= now)
        values = {"owner": owner, "until": now + seconds}
        if (await connection.execute(update(_leases).where(mine, free).values(values))).rowcount == 1:
            return True
        if (await connection.execute(select(_leases.c.name).where(mine))).first() is not None:
            return False
        await connection.execute(insert(_leases), [{"name": name, **values}])
        return True


def _row(scope: str, segment: Segment) -> dict[str, Any]:
    return {"scope": scope, **{name: getattr(segment, name) for name in Segment.__struct_fields__}}


def _counts(totals: Totals) -> dict[str, int]:
    return {"stored": totals.stored, "dropped": totals.dropped, "corrupt": totals.corrupt}
