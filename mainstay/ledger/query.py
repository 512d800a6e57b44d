"""The ledger: what happened, for reading: the segments that the manifest names and the newest rows, through DuckDB."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError
from mainstay.core.ids import Ids
from mainstay.ledger.engine import Engine, quoted
from mainstay.ledger.filter import ALL, Filter, Source, known, sent_by
from mainstay.ledger.fresh import Fresh
from mainstay.ledger.rows import COLUMNS, SELECTED, row
from mainstay.ledger.segments import SegmentFiles
from mainstay.store.database import Database
from mainstay.store.manifest import Manifest, Segment

SCOPE = "calls"
"""The manifest's scope for the rows of calls."""

PAGE_LIMIT = 10_000
GROUP_LIMIT = 10_000

_FIRST_LOOK = 50_000  # rows of the newest segments among which a page is looked for first
_PERCENTILE = re.compile(
    r"(p50|p90|p95|p99|avg|min|max)_(duration_ms|first_token_ms|overhead_ms|input|output|cost_nano)"
)
_log = logging.getLogger(__name__)

MEASURES = {
    "calls": "count(*)",
    "ok": "count(*) FILTER (outcome = 'ok')",
    "errors": "count(*) FILTER (outcome IN ('failed', 'crashed'))",
    "refused": "count(*) FILTER (outcome = 'refused')",
    "cancelled": "count(*) FILTER (outcome = 'cancelled')",
    "cost_nano": "sum(cost_nano)",
    "unpriced": 'count(*) FILTER (cost_nano IS NULL AND "input" IS NOT NULL)',
    "input": 'sum("input")',
    "output": 'sum("output")',
    "cached_input": "sum(cached_input)",
    "cache_write": "sum(cache_write)",
    "reasoning": "sum(reasoning)",
    "attempts": "sum(coalesce(len(attempts), 0))",
    "cache_hits": "count(*) FILTER (cache = 'hit')",
}
"""What ``aggregate`` can measure, beside p50, p90, p95, p99, avg, min and max of the figures, such as p95_duration_ms."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first, and the cursor of the next page (None: that was the last one)."""

    rows: list[dict[str, Any]]
    cursor: str | None


class View(NamedTuple):
    """What there is to read at one moment."""

    segments: list[Segment]
    tables: list[str]


class _Retired(NamedTuple):
    epoch: int
    segments: list[Segment]
    table: str | None


class Ledger:
    """The rows of all calls. One control process has it; ``Ingest`` puts rows in, ``Upkeep`` merges and drops them."""

    def __init__(self, folder: Path, database: Database, manifest: Manifest, ids: Ids, engine: Engine) -> None:
        self.files = SegmentFiles(folder.absolute(), engine.temporary, ids)
        self.engine = engine
        self._database = database
        self._manifest = manifest
        self._segments: dict[str, Segment] = {}
        self._fresh = Fresh(engine, Clock())
        self._epoch = 0
        self._pins: list[int] = []
        self._retired: list[_Retired] = []
        self.lost: list[Segment] = []
        """Segments whose files were gone or cut when the ledger was opened; they are left out, and stay in the manifest."""

    async def open(self) -> None:
        """Read the manifest and remove what it does not name. Raises ``OSError`` if the folder cannot be used."""
        async with self._database.read() as connection:
            segments = await self._manifest.segments(connection, SCOPE)

        def prepare(connection: duckdb.DuckDBPyConnection) -> list[Segment]:
            self.files.prepare(connection)
            for path in self.files.orphans(segments):
                _log.info("removing %s, which no manifest names", path.name)
                path.unlink(missing_ok=True)
            return self.files.missing(segments)

        self.lost = await self.engine.build(prepare)
        if self.lost:
            _log.error("%d ledger segments are missing or damaged, such as %s", len(self.lost), self.lost[0].path)
        gone = {segment.id for segment in self.lost}
        self._segments = {segment.id: segment for segment in segments if segment.id not in gone}
        statement = f"SELECT max(taken) FROM {self.files.source(self._segments.values())}"
        await self._fresh.open((await self.engine.read(statement, timeout=600.0))[0][0] or 0)

    async def close(self) -> None:
        """End all queries. Rows that were not yet flushed are still in the journals."""
        await self.engine.close()

    # what ingest and upkeep need

    @property
    def fresh_rows(self) -> int:
        """Rows that are in memory only."""
        return self._fresh.rows

    @property
    def segments(self) -> list[Segment]:
        """The segments, oldest first."""
        return sorted(self._segments.values(), key=lambda segment: (segment.last_at, segment.id))

    async def add(self, lines: Sequence[bytes]) -> int:
        """Show rows, each as JSON, to queries; the number of those that could not be read and were left out."""
        return await self._fresh.add(lines)

    async def freeze(self) -> str:
        """The table of all fresh rows so far, to be written; later rows go to a new one."""
        return await self._fresh.freeze()

    async def write(self, table: str) -> Segment | None:
        """Write a frozen table to a file that is not yet part of the ledger; None if it is empty."""
        return await self.engine.build(
            lambda connection: self.files.write(connection, f"SELECT {SELECTED} FROM {table}")
        )

    async def adopt(self, table: str, segment: Segment | None) -> None:
        """Read ``segment``, which the manifest names now, in place of the frozen ``table``."""
        self._fresh.forget(table)
        if segment is not None:
            self._segments[segment.id] = segment
        self._retire([], table)
        await self.tidy()

    async def swap(self, out: Sequence[Segment], into: Sequence[Segment]) -> None:
        """Read ``into`` in place of ``out``, in the manifest and here, at once."""
        async with self._database.write() as connection:
            await self._manifest.swap(connection, SCOPE, [segment.id for segment in out], into)
        for segment in out:
            self._segments.pop(segment.id, None)
        self._segments.update((segment.id, segment) for segment in into)
        self._retire(list(out), None)
        await self.tidy()

    def _retire(self, segments: list[Segment], table: str | None) -> None:
        self._epoch += 1
        self._retired.append(_Retired(self._epoch, segments, table))

    async def tidy(self) -> None:
        """Delete what was replaced, as far as no query that began before is still reading it."""
        oldest = min(self._pins, default=self._epoch)
        over = [one for one in self._retired if one.epoch <= oldest]
        if not over:
            return

        def delete(connection: duckdb.DuckDBPyConnection) -> None:
            for one in over:
                if one.table is not None:
                    connection.execute(f"DROP TABLE IF EXISTS {one.table}").fetchall()
                self.files.delete(one.segments)

        await self.engine.write(delete)
        self._retired = [one for one in self._retired if one not in over]

    @contextlib.contextmanager
    def pinned(self) -> Generator[View]:
        """What there is to read now; nothing of it is deleted within."""
        epoch = self._epoch
        self._pins.append(epoch)
        try:
            yield View(self.segments, self._fresh.tables)
        finally:
            self._pins.remove(epoch)

    # questions

    async def calls(
        self,
        filter: Filter = ALL,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
        timeout: float | None = None,
        source: Source = "gateway",
    ) -> Page:
        """Calls, newest first, from ``since`` on and before ``until`` (microseconds since the epoch).

        Pass a page's ``cursor`` for the next one. Raises ``Invalid`` for a bad cursor, ``TooSlow`` after ``timeout``.
        """
        if not 1 <= limit <= PAGE_LIMIT:
            raise Invalid(f"limit is a number from 1 to {PAGE_LIMIT}", field="limit")
        condition = filter.both(sent_by(source)).both(within(since, until))
        if cursor is not None:
            at, call = _decoded(cursor)
            until = at + 1 if until is None else min(until, at + 1)
            condition = condition.both(Filter('("at" < ? OR ("at" = ? AND id < ?))', [at, at, call]))
        with self.pinned() as view:
            newest = [segment for segment in reversed(view.segments) if touches(segment, since, until)]
            wanted = _FIRST_LOOK
            while True:
                taken, rest = _first(newest, wanted)
                found = await self.engine.read(
                    f"SELECT {SELECTED} FROM {self.files.source(taken, view.tables)} WHERE {condition.sql} "
                    f'ORDER BY "at" DESC, id DESC LIMIT {limit + 1}',
                    condition.parameters,
                    timeout=timeout,
                )
                rows = [row(values) for values in found]
                # Of what was not looked at, nothing may be newer than what was found.
                if not rest or (len(rows) > limit and rows[limit]["at"] > rest[0].last_at):
                    break
                wanted *= 8
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(rows, _encoded(rows[-1]["at"], rows[-1]["id"]) if more else None)

    async def get(self, call: str) -> dict[str, Any] | None:
        """The row of call ``call``; None if there is none."""
        with self.pinned() as view:
            segments = [segment for segment in view.segments if segment.first_id <= call <= segment.last_id]
            source = self.files.source(segments, view.tables)
            found = await self.engine.read(f"SELECT {SELECTED} FROM {source} WHERE id = ? LIMIT 1", [call])
        return row(found[0]) if found else None

    async def count(self, filter: Filter = ALL, *, since: int | None = None, until: int | None = None) -> int:
        """The number of calls."""
        groups = await self.aggregate(["calls"], filter=filter, since=since, until=until)
        return int(groups[0]["calls"])

    async def aggregate(
        self,
        measures: Sequence[str],
        by: Sequence[str] = (),
        *,
        filter: Filter = ALL,
        since: int | None = None,
        until: int | None = None,
        bucket: float | None = None,
        limit: int = 1000,
        timeout: float | None = None,
        source: Source = "gateway",
    ) -> list[dict[str, Any]]:
        """``measures`` per value of the fields ``by`` (``tag.NAME`` too) and per ``bucket`` seconds.

        The buckets are in ``at``, in microseconds since the epoch. Ordered by bucket, then by the first measure,
        largest first. Raises ``Invalid`` for a measure or field that does not exist.
        """
        if not measures or not 1 <= limit <= GROUP_LIMIT:
            raise Invalid(f"ask for at least one measure, and for 1 to {GROUP_LIMIT} groups", field="measures")
        columns: list[str] = []
        parameters: list[Any] = []
        names: list[str] = []
        if bucket is not None:
            width = round(bucket * 1e6)
            if width < 1:
                raise Invalid("bucket is a number of seconds above 0", field="bucket")
            columns.append('("at" // ?) * ?')
            parameters += [width, width]
            names.append("at")
        for name in by:
            found = known(name)
            columns.append(found.sql)
            parameters += found.parameters
            names.append(name)
        keys = len(columns)
        for measure in measures:
            columns.append(_measure(measure))
            names.append(measure)
        condition = filter.both(sent_by(source)).both(within(since, until))
        order = ([] if bucket is None else ["1"]) + [f"{keys + 1} DESC NULLS LAST"] + [str(i + 1) for i in range(keys)]
        grouped = f"GROUP BY {', '.join(str(i + 1) for i in range(keys))} " if keys else ""
        with self.pinned() as view:
            read = self.files.source([one for one in view.segments if touches(one, since, until)], view.tables)
            rows = await self.engine.read(
                f"SELECT {', '.join(columns)} FROM {read} WHERE {condition.sql} {grouped}"
                f"ORDER BY {', '.join(order)} LIMIT {limit}",
                [*parameters, *condition.parameters],
                timeout=timeout,
            )
        return [dict(zip(names, values, strict=True)) for values in rows]

    async def export(
        self,
        format: Literal["parquet", "csv"],
        filter: Filter = ALL,
        *,
        since: int | None = None,
        until: int | None = None,
        source: Source = "gateway",
    ) -> Path:
        """A file with all the calls, oldest first; it is the caller's to move or delete, and is gone after a restart."""
        condition = filter.both(sent_by(source)).both(within(since, until))
        target = self.files.temporary / f"{self.files.new_name('export_')}.{format}"
        columns, options = SELECTED, "FORMAT parquet, COMPRESSION zstd"
        if format == "csv":
            nested = ("MAP", "STRUCT")
            columns = ", ".join(
                f'to_json("{name}") AS "{name}"' if sql.startswith(nested) or sql.endswith("[]") else f'"{name}"'
                for name, sql in COLUMNS.items()
            )
            options = "FORMAT csv, HEADER true"
        with self.pinned() as view:
            read = self.files.source([one for one in view.segments if touches(one, since, until)], view.tables)
            statement = (
                f'COPY (SELECT {columns} FROM {read} WHERE {condition.sql} ORDER BY "at", id) '
                f"TO {quoted(str(target))} ({options})"
            )
            try:
                await self.engine.read(statement, condition.parameters, timeout=600.0)
            except duckdb.IOException as error:
                target.unlink(missing_ok=True)
                raise MainstayError(f"the export cannot be written: {error}", code="export_failed") from error
            except BaseException:
                target.unlink(missing_ok=True)
                raise
        return target


def _measure(name: str) -> str:
    found = MEASURES.get(name)
    if found is not None:
        return found
    match = _PERCENTILE.fullmatch(name)
    if match is None:
        raise Invalid(
            f"unknown measure {name[:60]!r}; there are {', '.join(MEASURES)} and such as p95_duration_ms",
            field="measures",
        )
    how, figure = match.groups()
    if how in ("avg", "min", "max"):
        return f'{how}("{figure}")'
    return f'quantile_cont("{figure}", 0.{how[1:]})'


def within(since: int | None, until: int | None) -> Filter:
    """Holds of calls from ``since`` on and before ``until``."""
    found = ALL
    if since is not None:
        found = found.both(Filter('"at" >= ?', [since]))
    if until is not None:
        found = found.both(Filter('"at" < ?', [until]))
    return found


def touches(segment: Segment, since: int | None, until: int | None) -> bool:
    """Whether ``segment`` may hold calls of that time."""
    return (since is None or segment.last_at >= since) and (until is None or segment.first_at < until)


def _first(newest: list[Segment], rows: int) -> tuple[list[Segment], list[Segment]]:
    total = 0
    for i, segment in enumerate(newest):
        total += segment.rows
        if total >= rows:
            return newest[: i + 1], newest[i + 1 :]
    return newest, []


def _encoded(at: int, call: str) -> str:
    return base64.urlsafe_b64encode(f"{at}|{call}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[int, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, bar, call = text.partition("|")
        if not bar or not 0 <= int(at) < 2**63 - 1:
            raise ValueError
        return int(at), call
    except (ValueError, binascii.Error):
        raise Invalid("the cursor is none of ours; begin again without one", field="cursor") from None
