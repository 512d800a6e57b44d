"""Keeps the ledger small and lawful: merges segments, drops what is too old, erases a person."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mainstay.core.clock import Clock
from mainstay.ledger.content import ContentStore
from mainstay.ledger.ingest import Ingest
from mainstay.ledger.query import Ledger
from mainstay.ledger.rows import COLUMNS, SELECTED
from mainstay.store.database import Database
from mainstay.store.manifest import Manifest, Segment

_LEASE = "ledger.upkeep"
_LEASE_SECONDS = 600.0

_PERSONAL = ("user", "session", "message", "content", "tags", "charges", "attributes", "name")
"""Columns that may tell who a person is: a pool's name holds the user whose budget it is."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: rows that lost the person, segments written anew, contents deleted."""

    calls: int
    segments: int
    contents: int


class Upkeep:
    """One job at a time, also among several control processes (a lease in the control database).

    ``fan`` segments of a level are merged into one of the next, until they have ``rows`` rows.
    """

    def __init__(
        self,
        ledger: Ledger,
        ingest: Ingest,
        database: Database,
        manifest: Manifest,
        *,
        owner: str,
        content: ContentStore | None = None,
        clock: Clock | None = None,
        fan: int = 16,
        rows: int = 200_000,
    ) -> None:
        self._ledger = ledger
        self._ingest = ingest
        self._database = database
        self._manifest = manifest
        self._owner = owner
        self._content = content
        self._clock = clock or Clock()
        self._fan = fan
        self._rows = rows
        self._busy = asyncio.Lock()

    async def compact(self) -> int:
        """Merge once what is worth it; the number of segments merged, 0 if there was nothing to do."""
        async with self._busy:
            chosen = self._chosen()
            if not chosen or not await self._leased():
                return 0
            level = 1 + max(segment.level for segment in chosen)
            files = self._ledger.files
            select = f"SELECT {SELECTED} FROM {files.source(chosen)}"
            merged = await self._ledger.engine.build(lambda connection: files.write(connection, select, level=level))
            await self._ledger.swap(chosen, [] if merged is None else [merged])
            await self._release()
            return len(chosen)

    def _chosen(self) -> list[Segment]:
        levels: dict[int, list[Segment]] = {}
        for segment in self._ledger.segments:
            if segment.rows < self._rows:
                levels.setdefault(segment.level, []).append(segment)
        for _, segments in sorted(levels.items()):
            if len(segments) >= self._fan:
                return segments[: self._fan]
        return []

    async def sweep(self, before: int) -> int:
        """Drop the rows of calls before ``before`` (microseconds since the epoch), and their content; the rows dropped."""
        async with self._busy:
            old = [segment for segment in self._ledger.segments if segment.first_at < before]
            if self._content is not None:
                await self._content.sweep(before)
            if not old or not await self._leased():
                return 0
            dropped = 0
            for segment in old:
                kept: list[Segment] = []
                if segment.last_at >= before:
                    rest = await self._rewritten(segment, f'SELECT {SELECTED} FROM %s WHERE "at" >= {int(before)}', [])
                    kept = [rest] if rest is not None else []
                await self._ledger.swap([segment], kept)
                dropped += segment.rows - sum(one.rows for one in kept)
            await self._release()
            return dropped

    async def erase(self, user: str) -> Erased:
        """Take ``user`` out of every row, with what could tell who it was, and delete the contents of those calls.

        The rows stay, for what they cost. Raises ``Conflict`` if a segment was replaced meanwhile: try again.
        """
        async with self._busy, self._ingest.paused():
            await self._leased()
            calls: list[str] = []
            segments = 0
            columns = ", ".join(
                f'CASE WHEN gone THEN NULL ELSE "{name}" END AS "{name}"' if name in _PERSONAL else f'"{name}"'
                for name in COLUMNS
            )
            select = f'SELECT {columns} FROM (SELECT *, coalesce("user" = ?, false) AS gone FROM %s)'
            for segment in self._ledger.segments:
                source = self._ledger.files.source([segment])
                found = await self._ledger.engine.read(f'SELECT id FROM {source} WHERE "user" = ?', [user])
                if not found:
                    continue
                rewritten = await self._rewritten(segment, select, [user])
                await self._ledger.swap([segment], [] if rewritten is None else [rewritten])
                calls += [row[0] for row in found]
                segments += 1
            contents = 0 if self._content is None else await self._content.erase(calls)
            await self._release()
            return Erased(len(calls), segments, contents)

    async def _rewritten(self, segment: Segment, select: str, parameters: list[str]) -> Segment | None:
        files = self._ledger.files
        statement = select % files.source([segment])
        return await self._ledger.engine.build(
            lambda connection: files.write(connection, statement, parameters, level=segment.level)
        )

    async def _leased(self) -> bool:
        async with self._database.write() as connection:
            return await self._manifest.lease(connection, _LEASE, self._owner, self._clock.now(), _LEASE_SECONDS)

    async def _release(self) -> None:
        async with self._database.write() as connection:
            await self._manifest.lease(connection, _LEASE, self._owner, self._clock.now(), 0.0)
