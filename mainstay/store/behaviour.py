"""The tables of what should happen: artifacts, channels, the chain of changes, and which bundle put in what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Double, Index, String, Table, Text, delete, insert, select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import Artifact, Change, Channel, canonical, chained, digest
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.store.database import metadata

artifacts = Table(
    "artifacts",
    metadata,
    Column("kind", String(64), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("digest", String(32), primary_key=True),
    Column("body", Text, nullable=False),
    Column("parents", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Double, nullable=False),
)

channels = Table(
    "channels",
    metadata,
    Column("kind", String(64), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("label", String(64), primary_key=True),
    Column("split", Text, nullable=False),
    Column("shadow", String(32)),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("changes_by_what", "what", "seq"),
)

bundle_entries = Table(
    "bundle_entries",
    metadata,
    Column("source", String(1024), primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("name", String(512), primary_key=True),
    Column("at", Double, nullable=False),
)

GENESIS = ""
"""What stands as ``previous`` in the first change."""

_BATCH = 500  # rows or parameters per statement
_ORDER = 7_301_001  # the number of PostgreSQL's advisory lock that puts changes of behaviour in one order


async def in_order(connection: AsyncConnection) -> None:
    """Wait until no other transaction changes behaviour. SQLite has one writer anyway; PostgreSQL takes a lock.

    Every writing method of this file calls it. Call it first in a transaction that also locks rows of other tables.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ORDER})


class Artifacts:
    """Immutable versions, each under its kind, name and digest. Every method works in the caller's transaction."""

    async def put(self, connection: AsyncConnection, artifact: Artifact) -> bool:
        """Keep ``artifact``; False if it was there already (it then stays as it is, author and all).

        Raises ``ValueError`` if its digest is not that of its body.
        """
        if artifact.digest != digest(artifact.body):
            raise ValueError(f"the digest of {artifact.kind}/{artifact.name} is not the digest of its body")
        await in_order(connection)
        if await self.get(connection, artifact.kind, artifact.name, artifact.digest) is not None:
            return False
        await connection.execute(
            insert(artifacts).values(
                kind=artifact.kind,
                name=storable(artifact.name, "name"),
                digest=artifact.digest,
                body=canonical(artifact.body).decode(),
                parents=canonical(list(artifact.parents)).decode(),
                author=storable(artifact.author, "author"),
                why=storable(artifact.why, "why"),
                at=artifact.at,
            )
        )
        return True

    async def get(self, connection: AsyncConnection, kind: str, name: str, digest: str) -> Artifact | None:
        """That version, or None."""
        query = select(artifacts).where(
            artifacts.c.kind == kind, artifacts.c.name == name, artifacts.c.digest == digest
        )
        row = (await connection.execute(query)).mappings().first()
        return None if row is None else _artifact(row)

    async def versions(self, connection: AsyncConnection, kind: str, name: str, limit: int = 50) -> list[Artifact]:
        """The last ``limit`` versions that were put under this name, newest first."""
        query = (
            select(artifacts)
            .where(artifacts.c.kind == kind, artifacts.c.name == name)
            .order_by(artifacts.c.at.desc(), artifacts.c.digest)
            .limit(limit)
        )
        return [_artifact(row) for row in (await connection.execute(query)).mappings()]

    async def pointed_at(self, connection: AsyncConnection, label: str) -> list[tuple[Channel, list[Artifact]]]:
        """Every channel of that label with the versions in its split, in the order of kind and name."""
        points = await Channels().all(connection, label)
        wanted = sorted({digest for channel in points for digest, _ in channel.split})
        found: dict[tuple[str, str, str], Artifact] = {}
        for start in range(0, len(wanted), _BATCH):
            query = select(artifacts).where(artifacts.c.digest.in_(wanted[start : start + _BATCH]))
            for row in (await connection.execute(query)).mappings():
                artifact = _artifact(row)
                found[artifact.kind, artifact.name, artifact.digest] = artifact
        return [(point, [found[point.kind, point.name, digest] for digest, _ in point.split]) for point in points]


class Channels:
    """Mutable names for artifacts. Every method works in the caller's transaction."""

    async def get(self, connection: AsyncConnection, kind: str, name: str, label: str) -> Channel | None:
        """Where the channel points, or None if there is no such channel."""
        query = select(channels).where(channels.c.kind == kind, channels.c.name == name, channels.c.label == label)
        row = (await connection.execute(query)).mappings().first()
        return None if row is None else _channel(row)

    async def all(self, connection: AsyncConnection, label: str) -> list[Channel]:
        """All channels of that label, in the order of kind and name."""
        query = select(channels).where(channels.c.label == label)
        found = [_channel(row) for row in (await connection.execute(query)).mappings()]
        # sorted here: the collation of a database depends on its installation
        return sorted(found, key=lambda channel: (channel.kind, channel.name))

    async def put(self, connection: AsyncConnection, channel: Channel) -> None:
        """Make the channel point there, whether or not it existed."""
        await in_order(connection)
        given = {"split": canonical([list(part) for part in channel.split]).decode(), "shadow": channel.shadow}
        if await self.get(connection, channel.kind, channel.name, channel.label) is None:
            names = {"kind": channel.kind, "name": channel.name, "label": storable(channel.label, "label")}
            await connection.execute(insert(channels).values(**names, **given))
            return
        await connection.execute(
            update(channels)
            .where(channels.c.kind == channel.kind, channels.c.name == channel.name, channels.c.label == channel.label)
            .values(**given)
        )

    async def remove(self, connection: AsyncConnection, kind: str, name: str, label: str) -> None:
        """Take the channel away; the versions it pointed at stay."""
        await in_order(connection)
        await connection.execute(
            delete(channels).where(channels.c.kind == kind, channels.c.name == name, channels.c.label == label)
        )


class Broken(NamedTuple):
    """The first place at which the chain of changes is not what was written."""

    seq: int
    why: str


class Changes:
    """The audit log: every change, hash-chained in the order in which the changes were committed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def append(
        self, connection: AsyncConnection, *, by: str, why: str, what: str, before: Any, after: Any
    ) -> Change:
        """Add a change, in the transaction that makes it. ``before`` and ``after`` are JSON values without a secret.

        Raises ``Invalid`` for text that a database cannot keep.
        """
        for field, value in (("by", by), ("why", why), ("what", what)):
            storable(value, field)
        await in_order(connection)
        last = await self.head(connection)
        seq, previous = (1, GENESIS) if last is None else (last.seq + 1, last.hash)
        change = chained(seq, float(self._clock.now()), by, why, what, before, after, previous)
        await connection.execute(
            insert(changes).values(
                seq=change.seq,
                at=change.at,
                who=change.by,
                why=change.why,
                what=change.what,
                before=canonical(before).decode(),
                after=canonical(after).decode(),
                previous=change.previous,
                hash=change.hash,
            )
        )
        return change

    async def head(self, connection: AsyncConnection) -> Change | None:
        """The last change, or None before the first. Keep its ``seq`` and ``hash`` elsewhere to notice a cut end."""
        row = (await connection.execute(select(changes).order_by(changes.c.seq.desc()).limit(1))).mappings().first()
        return None if row is None else _change(row)

    async def page(
        self, connection: AsyncConnection, *, before: int | None = None, what: str | None = None, limit: int = 100
    ) -> list[Change]:
        """Up to ``limit`` changes, newest first: those with a ``seq`` below ``before``, of that ``what`` only."""
        query = select(changes).order_by(changes.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(changes.c.seq < before)
        if what is not None:
            query = query.where(changes.c.what == what)
        return [_change(row) for row in (await connection.execute(query)).mappings()]

    async def verify(self, connection: AsyncConnection) -> Broken | None:
        """The first broken link from the beginning on, or None if every change is as it was written."""
        seq, previous = 0, GENESIS
        while True:
            query = select(changes).where(changes.c.seq > seq).order_by(changes.c.seq).limit(_BATCH)
            rows = (await connection.execute(query)).mappings().all()
            if not rows:
                return None
            for row in rows:
                if row["seq"] != seq + 1:
                    return Broken(seq + 1, "this change is missing")
                try:
                    change = _change(row)
                except ValueError:
                    return Broken(seq + 1, "its content is not readable")
                if change.previous != previous:
                    return Broken(change.seq, "it does not follow from the change before it")
                again = chained(
                    change.seq,
                    change.at,
                    change.by,
                    change.why,
                    change.what,
                    change.before,
                    change.after,
                    change.previous,
                )
                if again.hash != change.hash:
                    return Broken(change.seq, "its content was altered after it was written")
                seq, previous = change.seq, change.hash


class Bundles:
    """Which source (a file) put in which names, so that it can take them out again."""

    async def names(self, connection: AsyncConnection, source: str) -> set[tuple[str, str]]:
        """The ``(kind, name)`` pairs that this source put in."""
        query = select(bundle_entries.c.kind, bundle_entries.c.name).where(bundle_entries.c.source == source)
        return {(row.kind, row.name) for row in await connection.execute(query)}

    async def holders(self, connection: AsyncConnection) -> dict[tuple[str, str], set[str]]:
        """For every pair that some source put in: which sources did."""
        found: dict[tuple[str, str], set[str]] = {}
        for row in await connection.execute(select(bundle_entries)):
            found.setdefault((row.kind, row.name), set()).add(row.source)
        return found

    async def replace(
        self, connection: AsyncConnection, source: str, names: Iterable[tuple[str, str]], at: float
    ) -> None:
        """From now on this source has put in exactly ``names``; ``at`` is kept for those it had put in before."""
        await in_order(connection)
        wanted, had = set(names), await self.names(connection, source)
        for kind, name in sorted(had - wanted):
            await connection.execute(
                delete(bundle_entries).where(
                    bundle_entries.c.source == source, bundle_entries.c.kind == kind, bundle_entries.c.name == name
                )
            )
        rows = [{"source": source, "kind": kind, "name": name, "at": at} for kind, name in sorted(wanted - had)]
        if rows:
            storable(source, "source")
            await connection.execute(insert(bundle_entries), rows)


def storable(value: str, field: str) -> str:
    """``value``, if every database can keep it. Raises ``Invalid`` for a NUL or half a surrogate pair in it."""
    if "\x00" in value or not _encodable(value):
        raise Invalid(f"{field} holds a character that cannot be stored; leave out NUL and unpaired surrogates")
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _artifact(row: RowMapping) -> Artifact:
    return Artifact(
        kind=row["kind"],
        name=row["name"],
        digest=row["digest"],
        body=json.loads(row["body"]),
        parents=tuple(json.loads(row["parents"])),
        author=row["author"],
        why=row["why"],
        at=row["at"],
    )


def _channel(row: RowMapping) -> Channel:
    split = tuple((str(digest), int(weight)) for digest, weight in json.loads(row["split"]))
    return Channel(row["kind"], row["name"], row["label"], split, row["shadow"])


def _change(row: RowMapping) -> Change:
    return Change(
        seq=row["seq"],
        at=row["at"],
        by=row["who"],
        why=row["why"],
        what=row["what"],
        before=json.loads(row["before"]),
        after=json.loads(row["after"]),
        previous=row["previous"],
        hash=row["hash"],
    )
