"""The newest rows, in memory until they are in a segment."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import duckdb
import msgspec

from mainstay.core.clock import Clock
from mainstay.ledger.engine import Engine, quoted
from mainstay.ledger.record import CallRecord, decode
from mainstay.ledger.rows import COLUMNS, SELECTED

_LINES = "fresh.ndjson"
_READ = ", ".join(f"'{name}': {quoted(sql)}" for name, sql in COLUMNS.items())
_INSERTED = ", ".join('? AS "taken"' if name == "taken" else f'"{name}"' for name in COLUMNS)
_UNREADABLE = (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException)
_BIGGEST = 2**63 - 1
_log = logging.getLogger(__name__)


class Fresh:
    """Tables of rows: one that grows, and those that are frozen and being written."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._path = engine.temporary / _LINES
        self._number = 0
        self._counts: dict[str, int] = {}
        self._current = ""
        self._clock = clock
        self._taken = 0

    @property
    def rows(self) -> int:
        """Rows in all the tables."""
        return sum(self._counts.values())

    @property
    def tables(self) -> list[str]:
        """The tables that queries read."""
        return list(self._counts)

    async def open(self, taken: int) -> None:
        """Make the first table. ``taken`` is the latest time at which a row was taken in before."""
        self._taken = taken
        await self.freeze()

    async def freeze(self) -> str:
        """Begin a new table; the name of the one before it, whose rows no longer change."""
        frozen = self._current
        self._number += 1
        table = f"fresh_{self._number}"
        columns = ", ".join(f'"{name}" {sql}' for name, sql in COLUMNS.items())
        await self._engine.write(lambda connection: connection.execute(f"CREATE TABLE {table} ({columns})").fetchall())
        self._counts[table] = 0
        self._current = table
        return frozen

    def forget(self, table: str) -> None:
        """Show ``table`` to queries no more."""
        self._counts.pop(table, None)

    async def add(self, lines: Sequence[bytes]) -> int:
        """Add rows, each as JSON; the number of those that could not be read and were left out."""
        if not lines:
            return 0
        table = self._current
        added = await self._engine.write(lambda connection: self._insert(connection, table, lines))
        self._counts[table] += added
        return len(lines) - added

    def _insert(self, connection: duckdb.DuckDBPyConnection, table: str, lines: Sequence[bytes]) -> int:
        try:
            try:
                self._insert_whole(connection, table, lines)
                return len(lines)
            except _UNREADABLE:
                good = self._readable(connection, lines)
            if good:
                self._insert_whole(connection, table, good)
            return len(good)
        finally:  # rows that are erased later must not be left here
            self._path.unlink(missing_ok=True)

    def _insert_whole(self, connection: duckdb.DuckDBPyConnection, table: str, lines: Sequence[bytes]) -> None:
        # Who reads on behind a place in the ledger does so in this order, also when the clock goes back.
        self._taken = max(self._taken + 1, self._clock.now_ns() // 1000)
        statement = f"INSERT INTO {table} SELECT {_INSERTED} FROM {self._written(lines)}"
        connection.execute(statement, [self._taken]).fetchall()

    def _written(self, lines: Sequence[bytes]) -> str:
        # DuckDB reads JSON from files ten times faster than from parameters.
        self._path.write_bytes(b"\n".join(lines))
        return f"read_json({quoted(str(self._path))}, format='newline_delimited', columns={{{_READ}}})"

    def _readable(self, connection: duckdb.DuckDBPyConnection, lines: Sequence[bytes]) -> list[bytes]:
        """The lines that DuckDB can read; halves are tried, and a single bad line is rid of what it cannot hold."""
        if self._reads(connection, lines):
            return list(lines)
        if len(lines) > 1:
            middle = len(lines) // 2
            return self._readable(connection, lines[:middle]) + self._readable(connection, lines[middle:])
        try:
            line = _plain(decode(lines[0]))
        except msgspec.MsgspecError:
            line = None
        if line is not None and self._reads(connection, [line]):
            return [line]
        _log.error("a call's record cannot be read and is left out of the ledger")
        return []

    def _reads(self, connection: duckdb.DuckDBPyConnection, lines: Sequence[bytes]) -> bool:
        try:
            connection.execute(f"SELECT {SELECTED} FROM {self._written(lines)}").fetchall()
        except _UNREADABLE:
            return False
        return True


def _plain(record: CallRecord) -> bytes:
    """``record`` without the figures that no column can hold."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if type(value) is int and not -_BIGGEST <= value <= _BIGGEST:
            setattr(record, name, None)
    record.attempts = []
    record.charges = {pool: nano for pool, nano in record.charges.items() if -_BIGGEST <= nano <= _BIGGEST}
    if not -(2**31) <= record.status < 2**31:
        record.status = 0
    return msgspec.json.encode(record)
