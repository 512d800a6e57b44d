"""Takes in verdicts, each once and durably, whenever they come, and joins them to their calls whenever those come."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import duckdb
import msgspec

from mainstay.core import verdict as types_
from mainstay.core.clock import Clock
from mainstay.core.edit import share_changed
from mainstay.core.errors import Conflict, Invalid, NotFound, OverLimit
from mainstay.core.ids import Ids
from mainstay.core.verdict import EXTERNAL_TAG, About, Asked, Verdict, VerdictType
from mainstay.ledger.engine import quoted
from mainstay.ledger.judged import COLUMNS, TABLE, key, rank
from mainstay.ledger.query import Ledger
from mainstay.ledger.record import CallRecord
from mainstay.store.blobs import Blobs
from mainstay.store.database import Database
from mainstay.store.verdicts import VerdictsPort

SCOPE = "verdicts"
"""The scope of the blobs that hold the texts of edits."""

AT_ONCE = 1000
"""Verdicts in one request."""

_AHEAD = 3600 * 1_000_000  # microseconds that a clock elsewhere may be ahead of ours
_EDITED = 400_000  # characters of edits in one request: measuring takes time
_PAGE = 20_000
_PAUSE = 0.25
_FILE = "verdicts.ndjson"
_READ = ", ".join(f"'{name}': '{sql}'" for name, sql in COLUMNS.items())
_NAMES = ", ".join(COLUMNS)
_log = logging.getLogger(__name__)

Subject = tuple[str, str, str]
"""The team (or none), the sort and the name of what a verdict is about."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A verdict as it was sent. ``at`` is in microseconds since the epoch; None is now. ``place`` names it in errors."""

    about: About
    subject: str
    name: str
    value: object
    by: str
    why: str = ""
    at: int | None = None
    id: str | None = None
    team: str | None = None
    edit: tuple[str, str] | None = None
    keep: bool = True
    place: str = ""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose verdicts these are: the name of the key, its team, and whether it may judge the calls of all teams."""

    name: str
    team: str | None
    every_team: bool = False


class Edit(msgspec.Struct, frozen=True):
    """The texts of an edit."""

    before: str
    after: str


class Verdicts:
    """All verdicts. ``types`` gives those that there can be now; ``open`` it, then ``run`` it beside ingest."""

    def __init__(
        self,
        ledger: Ledger,
        database: Database,
        store: VerdictsPort,
        blobs: Blobs,
        ids: Ids,
        clock: Clock,
        types: Callable[[], Mapping[str, VerdictType]],
        *,
        unmatched_limit: int = 200_000,
    ) -> None:
        self._ledger, self._database, self._store = ledger, database, store
        self._blobs, self._ids, self._clock, self._types = blobs, ids, clock, types
        self._limit = unmatched_limit
        self._missing: dict[Subject, int] = {}
        self._look: set[Subject] = set()
        self._hits: set[tuple[str, str, str, str]] = set()
        self._changing = asyncio.Lock()
        self.accepted: Counter[tuple[str, str]] = Counter()
        """Verdicts taken in since this process started, by type and by who judged (without their names)."""

    @property
    def unmatched(self) -> int:
        """Verdicts about subjects of which no call is known yet."""
        return sum(self._missing.values())

    async def open(self) -> None:
        """Show the verdicts that count to queries, and find out which wait for their calls."""
        columns = ", ".join(f"{name} {sql}" for name, sql in COLUMNS.items())
        await self._ledger.engine.write(
            lambda connection: connection.execute(f"CREATE TABLE {TABLE} ({columns})").fetchall()
        )
        after = ("", "")
        async with self._database.read() as connection:
            while rows := await self._store.every(connection, after, _PAGE):
                await self._show([], rows)
                after = (rows[-1].origin, rows[-1].id)
            self._missing = await self._store.unmatched(connection)
        self._look = set(self._missing)

    async def add(self, drafts: list[Draft], sender: Sender) -> list[tuple[Verdict, bool]]:
        """Keep all of ``drafts``, or none; each verdict, and whether it is new (False: it was there already).

        When this returns they are in the database and in every query. Raises ``Invalid`` for what is no verdict,
        ``NotFound`` for a call of another team, ``Conflict`` for an id that stands for another verdict.
        """
        if not 1 <= len(drafts) <= AT_ONCE:
            raise Invalid(f"send 1 to {AT_ONCE} verdicts at once, not {len(drafts)}")
        if sum(len(text) for draft in drafts for text in draft.edit or ()) > _EDITED:
            raise Invalid(f"the edits have more than {_EDITED} characters together; send them in several requests")
        drafts = await asyncio.to_thread(_measured, drafts)
        owners = await self._owners({draft.subject for draft in drafts if draft.about == "call"})
        rows = [self._row(draft, sender, owners) for draft in drafts]
        async with self._changing:
            async with self._database.read() as connection:
                known = await self._store.known(connection, rows[0].origin, (row.id for row in rows))
            added = _new(rows, known)
            fresh = [row for row, new in added if new]
            self._room(fresh)
            for draft, (row, new) in zip(drafts, added, strict=True):
                if new and draft.edit is not None and row.edit is not None:
                    await self._blobs.put(SCOPE, row.edit, msgspec.json.encode(Edit(*draft.edit)))
            async with self._database.write() as connection:
                await self._store.add(connection, fresh)
            for row in fresh:
                self.accepted[row.name, row.by.partition(":")[0]] += 1
                if not row.matched:
                    subject = (row.team, row.about, row.subject)
                    self._missing[subject] = self._missing.get(subject, 0) + 1
                    self._look.add(subject)
            await self._refresh(row.subject for row in rows)  # also of those known: the last time may have been cut off
        return added

    def _row(self, draft: Draft, sender: Sender, owners: Mapping[str, str]) -> Verdict:
        sort = types_.known(self._types(), draft.name, f"{draft.place}name")
        value = sort.value(draft.value, f"{draft.place}value")
        now = int(self._clock.now() * 1e6)
        if draft.at is not None and not 0 <= draft.at <= now + _AHEAD:
            raise Invalid(f"{draft.place}at: a verdict cannot be from the future", field=f"{draft.place}at")
        origin = "" if sender.every_team else sender.team or ""
        owner = owners.get(draft.subject) if draft.about == "call" else None
        team = self._team(draft, sender, owner)
        ident = draft.id or self._ids.make("verdict_")
        place = hashlib.sha256(key(origin, ident).encode()).hexdigest()[:40]
        return Verdict(
            origin=origin,
            id=ident,
            team=team,
            about=draft.about,
            subject=draft.subject,
            name=draft.name,
            by=types_.checked_by(draft.by, f"{draft.place}by"),
            number=value.number,
            word=value.word,
            why=draft.why,
            at=now if draft.at is None else draft.at,
            received=now,
            sender=sender.name,
            edit=f"{now // 86_400_000_000}/{place}" if draft.edit is not None and draft.keep else None,
            matched=owner is not None,
        )

    def _team(self, draft: Draft, sender: Sender, owner: str | None) -> str:
        """The team whose calls the verdict is about; empty where an administrator judges a call not known yet."""
        wanted = draft.team if sender.every_team else sender.team or ""
        if not sender.every_team and draft.team not in (None, wanted):
            raise NotFound(f"{draft.place}team: your key may judge calls of its own team only", code="team_not_found")
        if owner is not None:
            if wanted is not None and wanted != owner:
                raise NotFound(
                    f"{draft.place}call: there is no call {draft.subject[:100]!r} that your key may judge",
                    code="call_not_found",
                )
            return owner
        if wanted is None and draft.about != "call":
            wanted = sender.team
            if wanted is None:
                raise Invalid(
                    f"{draft.place}team: say whose {draft.about} it is; names of teams' own can be alike", field="team"
                )
        return wanted or ""

    def _room(self, fresh: Iterable[Verdict]) -> None:
        more = {(row.team, row.about, row.subject) for row in fresh if not row.matched} - self._missing.keys()
        if more and len(self._missing) + len(more) > self._limit:
            raise OverLimit(
                f"verdicts about {self._limit} subjects without a call are waiting; send those of calls that are here",
                retry_after=3600.0,
                rule="unmatched verdicts",
                code="too_many_unmatched",
            )

    async def page(self, asked: Asked) -> list[tuple[Verdict, bool]]:
        """What was asked for, latest first, each with whether it counts (False: a later one supersedes it)."""
        await self.match()
        async with self._database.read() as connection:
            return await self._store.page(connection, asked)

    async def edit(self, verdict: Verdict) -> Edit | None:
        """The texts of an edit; None if they were not kept, or are not any more."""
        data = None if verdict.edit is None else await self._blobs.get(SCOPE, verdict.edit)
        return None if data is None else msgspec.json.decode(data, type=Edit)

    async def find(self, origin: str, identifier: str) -> Verdict | None:
        """The verdict of that id; None if there is none."""
        async with self._database.read() as connection:
            return (await self._store.known(connection, origin, [identifier])).get(identifier)

    # joining

    def saw(self, record: CallRecord) -> None:
        """A call has come into the ledger: whatever waits for it is joined at the next ``match``."""
        if not self._missing:
            return
        team = record.team or ""
        for subject in (
            (team, "call", record.id),
            ("", "call", record.id),
            (team, "session", record.session or ""),
            (team, "external", record.tags.get(EXTERNAL_TAG, "")),
        ):
            if subject in self._missing:
                self._hits.add((*subject, team))

    async def match(self) -> None:
        """Join what waits to the calls that have come since the last time."""
        if not self._look and not self._hits:
            return
        async with self._changing:
            look, hits = self._look, self._hits
            self._look, self._hits = set(), set()
            try:
                hits = hits | await self._found(look)
                hits = {hit for hit in hits if hit[:3] in self._missing}
                if not hits:
                    return
                async with self._database.write() as connection:
                    await self._store.match(connection, hits)
                await self._refresh(hit[2] for hit in hits)
            except BaseException:
                self._look |= look
                self._hits |= hits
                raise
            for hit in hits:
                self._missing.pop(hit[:3], None)

    async def run(self) -> None:
        """Join, again and again."""
        while True:
            try:
                await self.match()
            except Exception as error:  # a full disk, a database that is away: the next turn tries again
                _log.warning("verdicts wait for their calls: %s", type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def sweep(self, before: int) -> int:
        """Delete the verdicts from before ``before`` (microseconds since the epoch), and the texts of edits; how many."""
        swept = 0
        while True:
            async with self._changing:
                async with self._database.write() as connection:
                    old = await self._store.sweep(connection, before, AT_ONCE)
                for one in old:
                    if one.edit is not None:
                        await self._blobs.delete(SCOPE, one.edit)
                await self._refresh(one.subject for one in old)
                swept += len(old)
                if len(old) < AT_ONCE:
                    async with self._database.read() as connection:
                        self._missing = await self._store.unmatched(connection)
                    return swept

    async def _owners(self, calls: set[str]) -> dict[str, str]:
        """The team of each of these calls that is in the ledger."""
        if not calls:
            return {}
        first, last, listed = min(calls), max(calls), sorted(calls)
        with self._ledger.pinned() as view:
            segments = [one for one in view.segments if one.first_id <= last and one.last_id >= first]
            source = self._ledger.files.source(segments, view.tables)
            sql = f"SELECT id, coalesce(\"team\", '') FROM {source} WHERE id IN (SELECT unnest(?::VARCHAR[]))"
            return {row[0]: row[1] for row in await self._ledger.engine.read(sql, [listed])}

    async def _found(self, look: set[Subject]) -> set[tuple[str, str, str, str]]:
        """Those of ``look`` that calls in the ledger are about, each with the calls' team."""
        found: set[tuple[str, str, str, str]] = set()
        owners = await self._owners({subject for _, about, subject in look if about == "call"})
        for team, about, subject in look:
            owner = owners.get(subject) if about == "call" else None
            if owner is not None and team in ("", owner):
                found.add((team, about, subject, owner))
        for about, column in (("session", '"session"'), ("external", f"map_extract_value(\"tags\", '{EXTERNAL_TAG}')")):
            names = sorted({subject for _, sort, subject in look if sort == about})
            if not names:
                continue
            with self._ledger.pinned() as view:
                source = self._ledger.files.source(view.segments, view.tables)
                listed = f"WHERE {column} IN (SELECT unnest(?::VARCHAR[]))"
                sql = f"SELECT DISTINCT coalesce(\"team\", ''), {column} FROM {source} {listed}"
                for team, subject in await self._ledger.engine.read(sql, [names]):
                    if (team, about, subject) in look:
                        found.add((team, about, subject, team))
        return found

    async def _refresh(self, subjects: Iterable[str]) -> None:
        """Show queries what counts about ``subjects`` now."""
        names = sorted(set(subjects))
        if names:
            async with self._database.read() as connection:
                rows = await self._store.current(connection, names)
            await self._show(names, rows)

    async def _show(self, subjects: list[str], rows: list[Verdict]) -> None:
        path = self._ledger.engine.temporary / _FILE
        data = b"\n".join(msgspec.json.encode(_shown(row)) for row in rows)

        def replace(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute("BEGIN").fetchall()
            try:
                connection.execute(
                    f"DELETE FROM {TABLE} WHERE v_subject IN (SELECT unnest(?::VARCHAR[]))", [subjects]
                ).fetchall()
                if rows:  # DuckDB reads JSON from files ten times faster than from parameters
                    path.write_bytes(data)
                    read = f"read_json({quoted(str(path))}, format='newline_delimited', columns={{{_READ}}})"
                    connection.execute(f"INSERT INTO {TABLE} SELECT {_NAMES} FROM {read}").fetchall()
                connection.execute("COMMIT").fetchall()
            except BaseException:
                connection.execute("ROLLBACK").fetchall()
                raise
            finally:
                path.unlink(missing_ok=True)

        await self._ledger.engine.write(replace)


def _shown(row: Verdict) -> dict[str, object]:
    return {
        "v_uid": key(row.origin, row.id),
        "v_team": row.team,
        "v_about": row.about,
        "v_subject": row.subject,
        "v_key": key(row.team, row.subject),
        "v_matched": row.matched,
        "v_name": row.name,
        "v_by": row.by,
        "v_rank": rank(row.by),
        "v_number": row.number,
        "v_word": row.word,
    }


def _measured(drafts: list[Draft]) -> list[Draft]:
    """Every edit with the share that was changed as its value. For a thread."""
    from dataclasses import replace

    return [one if one.edit is None else replace(one, value=share_changed(*one.edit)) for one in drafts]


def _new(rows: list[Verdict], known: Mapping[str, Verdict]) -> list[tuple[Verdict, bool]]:
    """Each row, or the one that was there under its id. Raises ``Conflict`` where that one says something else."""
    there = dict(known)
    added: list[tuple[Verdict, bool]] = []
    for row in rows:
        before = there.setdefault(row.id, row)
        if before is not row and not before.same(row):
            raise Conflict(
                f"the id {row.id[:100]!r} stands for another verdict already; give this one an id of its own",
                code="verdict_exists",
            )
        added.append((before, before is row))
    return added
