"""The ledger's Parquet files: written beside, synced, renamed; what no manifest names is removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from mainstay.core.ids import Ids
from mainstay.ledger.engine import quoted
from mainstay.ledger.record import VERSION
from mainstay.ledger.rows import COLUMNS, SELECTED, iso
from mainstay.store.manifest import Segment

_SCHEMA = "schema.parquet"
_ROW_GROUP = 65536


class SegmentFiles:
    """The files below ``folder``. All methods but ``source`` block and belong in one of the engine's threads."""

    def __init__(self, folder: Path, temporary: Path, ids: Ids) -> None:
        self.folder = folder
        self.temporary = temporary
        self._ids = ids

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write the empty file from which a reader of old segments learns today's columns."""
        columns = ", ".join(f'NULL::{sql} AS "{name}"' for name, sql in COLUMNS.items())
        target = quoted(str(self.temporary / _SCHEMA))
        connection.execute(f"COPY (SELECT {columns} WHERE false) TO {target} (FORMAT parquet)").fetchall()

    def new_name(self, prefix: str) -> str:
        """A name that no other file has."""
        return self._ids.make(prefix)

    def source(self, segments: Iterable[Segment], tables: Iterable[str] = ()) -> str:
        """An SQL source of all rows of ``segments`` and of the in-memory ``tables``, with today's columns."""
        parts = [f"SELECT {SELECTED} FROM {table}" for table in tables]
        paths = [str(self.folder / segment.path) for segment in segments]
        if paths or not parts:
            files = ", ".join(quoted(path) for path in (str(self.temporary / _SCHEMA), *paths))
            parts.append(f"SELECT {SELECTED} FROM read_parquet([{files}], union_by_name=true)")
        return "(" + " UNION ALL ".join(parts) + ")"

    def path(self, segment: Segment) -> Path:
        """Where ``segment`` lies."""
        return self.folder / segment.path

    def write(
        self, connection: duckdb.DuckDBPyConnection, select: str, parameters: Sequence[Any] = (), level: int = 0
    ) -> Segment | None:
        """The rows of ``select`` as a new file in order of time; None if there are none. Raises ``OSError``."""
        segment_id = self._ids.make("seg_")
        hidden = self.temporary / f"{segment_id}.parquet"
        try:
            try:
                connection.execute(
                    f'COPY ({select} ORDER BY "at", id) TO {quoted(str(hidden))} '
                    f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})",
                    list(parameters),
                ).fetchall()
                rows, first_at, last_at, first_id, last_id = connection.execute(
                    'SELECT count(*), min("at"), max("at"), min(id), max(id) FROM read_parquet(?)',
                    [str(hidden)],
                ).fetchall()[0]
            except duckdb.Error as error:
                raise OSError(f"the ledger's segment cannot be written: {error}") from error
            if not rows:
                return None
            digest, size = _synced(hidden)
            path = f"{iso(first_at)[:10]}/{segment_id}.parquet"
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            hidden.rename(target)
            for folder in (target.parent, self.folder):
                _sync_folder(folder)
            return Segment(
                id=segment_id,
                path=path,
                hash=digest,
                rows=rows,
                bytes=size,
                first_at=first_at,
                last_at=last_at,
                first_id=first_id,
                last_id=last_id,
                version=VERSION,
                level=level,
            )
        finally:
            with contextlib.suppress(FileNotFoundError):
                hidden.unlink()

    def delete(self, segments: Iterable[Segment]) -> None:
        """Delete the files of ``segments``, and the folders that are empty then."""
        for segment in segments:
            path = self.folder / segment.path
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def orphans(self, named: Iterable[Segment]) -> list[Path]:
        """The files that a killed process left without naming them in the manifest."""
        known = {segment.path for segment in named}
        return [
            path
            for path in self.folder.glob("????-??-??/seg_*.parquet")
            if str(path.relative_to(self.folder)) not in known
        ]

    def missing(self, named: Iterable[Segment]) -> list[Segment]:
        """The segments whose files are gone, or not of the size they had."""
        lost: list[Segment] = []
        for segment in named:
            try:
                whole = (self.folder / segment.path).stat().st_size == segment.bytes
            except FileNotFoundError:
                whole = False
            if not whole:
                lost.append(segment)
        return lost


def _synced(path: Path) -> tuple[str, int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return digest, os.fstat(file.fileno()).st_size


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
