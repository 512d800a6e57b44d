"""What calls cost as a file: a row for each call, or for each group of them, as CSV or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import duckdb

from mainstay.core.errors import MainstayError
from mainstay.ledger.engine import quoted
from mainstay.ledger.filter import ALL, Filter
from mainstay.ledger.query import Ledger
from mainstay.ledger.totals import FAILED_COST, SORTS, SUMS, keyed, reading, shown

_TEXTS = (
    "team", "key", "user", "session", "workflow", "route", "model", "upstream_model", "provider", "operation",
    "dialect", "outcome",
)  # fmt: skip
_TIMEOUT = 600.0

_ACTIVE = "'=', '+', '-', '@', '|', '%', '＝', '＋', '－', '＠'"
"""What a spreadsheet takes a cell for a formula by, where the cell begins with it; the wide forms are read as the narrow."""


async def export_cost(
    ledger: Ledger,
    format: Literal["csv", "parquet"],
    by: Sequence[str] = (),
    filter: Filter = ALL,
    *,
    since: int | None = None,
    until: int | None = None,
) -> Path:
    """A file of what calls cost: one row per value of ``by``, dearest first; without ``by``, one per call, oldest first.

    ``cost_nano`` is an integer and ``cost_usd`` a decimal number, both exact, both empty where unknown. In CSV, a text
    that a spreadsheet might take for a formula has an apostrophe before it. The file is the caller's to delete, and is
    gone after a restart. Raises ``Invalid`` for unknown dimensions, ``MainstayError`` where it cannot be written.
    """
    parameters = keyed(by)[2]
    target = ledger.files.temporary / f"{ledger.files.new_name('export_')}.{format}"
    options = "FORMAT parquet, COMPRESSION zstd" if format == "parquet" else "FORMAT csv, HEADER true"
    with reading(ledger, filter, since, until) as (source, condition):
        rows = f"{source} WHERE {condition.sql}"
        select = _grouped(by, format, rows) if by else _each(format, rows)
        statement = f"COPY ({select}) TO {quoted(str(target))} ({options})"
        try:
            await ledger.engine.read(statement, [*parameters, *condition.parameters], timeout=_TIMEOUT)
        except duckdb.IOException as error:
            target.unlink(missing_ok=True)
            raise MainstayError(f"the export cannot be written: {error}", code="export_failed") from error
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return target


def _dollars(nano: str) -> str:
    """The SQL of nano-dollars as dollars: a decimal number with nine places, so that nothing is rounded."""
    return f"CAST({nano} AS DECIMAL(38, 0)) * CAST(0.000000001 AS DECIMAL(9, 9))"


def _safe(text: str, format: str) -> str:
    if format == "parquet":
        return text
    first = f"left(ltrim({text}, ' ' || chr(9) || chr(10) || chr(13)), 1)"
    active = f"{first} IN ({_ACTIVE}) OR left({text}, 1) IN (chr(9), chr(10), chr(13))"
    return f"CASE WHEN {active} THEN chr(39) || {text} ELSE {text} END"


def _each(format: str, rows: str) -> str:
    texts = ", ".join(f'{_safe(_name(name), format)} AS "{name}"' for name in _TEXTS)
    tags = "tags" if format == "parquet" else "to_json(tags) AS tags"
    return (
        'SELECT id, strftime(make_timestamp("at"), \'%Y-%m-%dT%H:%M:%S.%fZ\') AS "at", '
        f"{texts}, coalesce(cache, 'off') AS cache, status, {tags}, {', '.join(_name(sort) for sort in SORTS)}, "
        f"cost_nano, {_dollars('cost_nano')} AS cost_usd, cost_estimated, "
        f'CAST(coalesce({FAILED_COST}, 0) AS BIGINT) AS failed_nano FROM {rows} ORDER BY "at", id'
    )


def _grouped(by: Sequence[str], format: str, rows: str) -> str:
    keys, names, _ = keyed(by)
    inner = ", ".join([*keys, *(f"{sql} AS {_name(name)}" for name, sql in SUMS.items())])
    labels = [
        f"{_safe(f'CAST({text} AS VARCHAR)', format)} AS {_name(name)}"
        for name, text in zip(by, shown(by), strict=True)
    ]
    integers = ", ".join(f"CAST({_name(name)} AS DECIMAL(38, 0)) AS {_name(name)}" for name in SUMS)
    order = ", ".join(["cost_nano DESC NULLS LAST", "calls DESC", *names])
    return (
        f"SELECT {', '.join(labels)}, {_dollars('cost_nano')} AS cost_usd, {integers} "
        f"FROM (SELECT {inner} FROM {rows} GROUP BY {', '.join(names)}) ORDER BY {order}"
    )


def _name(name: str) -> str:
    """A column's name in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
