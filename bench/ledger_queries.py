"""How long questions to the ledger take: N generated calls in segments of its own writer, then each question five times.

    python -m bench.ledger_queries --calls 1000000 [--home DIR] [--json]

The engine is the product's: DuckDB with two threads and 512 MB. The calls are spread over 28 days, 40 teams, 400 keys,
20,000 users, 12 models at 4 providers and 30 features; 2 % have no price, 8 % are cache hits, 3 % a failed attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb

from mainstay.core.ids import Ids
from mainstay.ledger.cost_export import export_cost
from mainstay.ledger.cost_use import looks, uses
from mainstay.ledger.engine import Engine
from mainstay.ledger.filter import parse
from mainstay.ledger.query import Ledger
from mainstay.ledger.rows import COLUMNS
from mainstay.ledger.totals import DAY, compared, daily, totals
from mainstay.store.database import Database
from mainstay.store.manifest import Segment, SqlManifest

PER_SEGMENT = 250_000
SPAN = 28 * DAY
_TIMES = 5

# Of the call's number i. Each hash is another one, so that the dimensions are independent of each other.
_MADE = {
    "v": "2",
    "id": "'call_' || lpad(CAST(i AS VARCHAR), 26, '0')",
    "at": "{first} + i * {step} + CAST(hash(i, 1) % {step} AS BIGINT)",
    "operation": "CASE hash(i, 2) % 10 WHEN 0 THEN 'embeddings' WHEN 1 THEN 'messages' ELSE 'chat' END",
    "dialect": "CASE hash(i, 2) % 10 WHEN 1 THEN 'anthropic' ELSE 'openai' END",
    "stream": "hash(i, 3) % 2 = 0",
    "status": "CASE WHEN hash(i, 4) % 50 = 0 THEN 503 ELSE 200 END",
    "outcome": "CASE WHEN hash(i, 4) % 50 = 0 THEN 'failed' ELSE 'ok' END",
    "trace": "md5(CAST(i AS VARCHAR))",
    "key": "'key' || (hash(i, 5) % 400)",
    "key_id": "'key_' || (hash(i, 5) % 400)",
    "team": "'team' || (hash(i, 5) % 40)",
    "user": "'user' || CAST(floor(20000 * pow((hash(i, 6) % 100000) / 100000.0, 3)) AS INTEGER)",
    "session": "'session' || (hash(i, 7) % 200000)",
    "workflow": "'workflow' || (hash(i, 8) % 15)",
    "tags": "MAP {{'feature': 'feature' || (hash(i, 9) % 30), 'segment': 'segment' || (hash(i, 10) % 5), "
    "'prompt': 'prompt' || (hash(i, 11) % 50)}}",
    "route": "'route' || (hash(i, 12) % 6)",
    "model": "'model' || (hash(i, 13) % 12)",
    "provider": "'provider' || (hash(i, 13) % 4)",
    "upstream_model": "'upstream-' || (hash(i, 13) % 12)",
    "attempts": "CASE WHEN hash(i, 14) % 100 < 8 THEN [] ELSE list_concat("
    "CASE WHEN hash(i, 15) % 100 < 3 THEN [{attempt_failed}] ELSE [] END, [{attempt}]) END",
    "input": "100 + CAST(hash(i, 16) % 4000 AS BIGINT)",
    "output": "20 + CAST(hash(i, 17) % 600 AS BIGINT)",
    "cached_input": "CASE WHEN hash(i, 18) % 4 = 0 THEN 64 ELSE 0 END",
    "cache_write": "0",
    "reasoning": "0",
    "input_audio": "0",
    "output_audio": "0",
    "usage_estimated": "false",
    "cost_nano": "CASE WHEN hash(i, 19) % 50 = 0 THEN NULL WHEN hash(i, 14) % 100 < 8 THEN 0 "
    "ELSE 1000 + CAST(hash(i, 20) % 90000000 AS BIGINT) END",
    "cost_estimated": "false",
    "duration_ms": "50.0 + hash(i, 21) % 9000",
    "first_token_ms": "20.0 + hash(i, 22) % 900",
    "overhead_ms": "0.3",
    "cache": "CASE WHEN hash(i, 14) % 100 < 8 THEN 'hit' ELSE 'miss' END",
    "finish": "'stop'",
    "snapshot": "'5f0c0ffee'",
    "request_bytes": "800",
    "charges": "MAP {{'team:team' || (hash(i, 5) % 40) || ':usd:month||2026-11': 1000}}",
}
_ATTEMPT = (
    "{{'target': 'model' || (hash(i, 13) % 12), 'provider': 'provider' || (hash(i, 13) % 4), "
    "'upstream_model': 'upstream-' || (hash(i, 13) % 12), 'at': 0, 'duration_ms': 900.0, 'first_token_ms': 90.0, "
    "'status': {status}, 'error': {error}, 'message': NULL, 'usage': NULL, 'cost_nano': 2000, 'request_id': md5('r' || i), "
    "'rescue': NULL}}"
)


def generated(first: int, step: int, start: int, end: int) -> str:
    """The SQL of the calls from number ``start`` on and before ``end``."""
    attempt = _ATTEMPT.format(status=200, error="NULL")
    failed = _ATTEMPT.format(status=503, error="'overloaded'")
    columns: list[str] = []
    for name, sql in COLUMNS.items():
        made = _MADE.get(name, "NULL").format(first=first, step=step, attempt=attempt, attempt_failed=failed)
        columns.append(f'CAST({made} AS {sql}) AS "{name}"')
    return f"SELECT {', '.join(columns)} FROM range({start}, {end}) AS made(i)"


async def filled(home: Path, calls: int, first: int) -> tuple[Ledger, Database]:
    """A ledger with ``calls`` calls from ``first`` on, in segments as its upkeep leaves them."""
    home.mkdir(parents=True, exist_ok=True)
    database = await Database.open(f"sqlite+aiosqlite:///{home / 'control.db'}")
    ledger = Ledger(home / "ledger", database, SqlManifest(), Ids(), Engine(home / "ledger"))
    await ledger.open()
    step = max(SPAN // calls, 1)
    for start in range(0, calls, PER_SEGMENT):
        select = generated(first, step, start, min(start + PER_SEGMENT, calls))

        def write(connection: duckdb.DuckDBPyConnection, select: str = select) -> Segment | None:
            return ledger.files.write(connection, select, level=1)

        segment = await ledger.engine.build(write)
        if segment is not None:
            await ledger.swap([], [segment])
    return ledger, database


async def timed(question: Callable[[], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each time that the question was asked."""
    found: list[float] = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        answer = await question()
        found.append((time.perf_counter() - began) * 1e3)
        if isinstance(answer, Path):
            answer.unlink()
    return found


def questions(ledger: Ledger, first: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What is asked, by the name that the report gives it."""
    end = first + SPAN
    week = {"since": end - 7 * DAY, "until": end}
    whole = {"since": first, "until": end}
    one_team = parse("team=team7 and status<400")
    return {
        "cost by team, model: 7 days": lambda: totals(ledger, ["team", "model"], **week),
        "cost by team, model: all": lambda: totals(ledger, ["team", "model"], **whole),
        "the same, without failed attempts": lambda: totals(ledger, ["team", "model"], **whole, failed=False),
        "drivers by tag.feature: all": lambda: totals(ledger, ["tag.feature"], **whole, failed=False),
        "cost by team, model: all, filtered": lambda: totals(ledger, ["team", "model"], one_team, **whole),
        "cost by tag.feature: all": lambda: totals(ledger, ["tag.feature"], **whole),
        "cost by user (20,000): all": lambda: totals(ledger, ["user"], **whole, limit=100),
        "cost by session (200,000): all": lambda: totals(ledger, ["session"], **whole, limit=100),
        "cost by day, model: all": lambda: totals(ledger, ["day", "model"], **whole),
        "deviation by team, model: 7 days": lambda: compared(ledger, ["team", "model"], **week, shift=7 * DAY),
        "days for forecasts by team, key": lambda: daily(ledger, ["team", "key"], **whole, after=DAY // 3),
        "savings: use of routes and models: 7 days": lambda: uses(ledger, **week, above={}),
        "savings: use of routes and models: all": lambda: uses(ledger, **whole, above={}),
        "savings: look-ups by route: all": lambda: looks(ledger, **whole),
        "page of 100 calls, newest": lambda: ledger.calls(limit=100),
        "page of 100 calls, filtered": lambda: ledger.calls(one_team, limit=100),
        "export of groups, CSV: all": lambda: export_cost(ledger, "csv", ["team", "tag.feature"], **whole),
        "export of calls, Parquet: 7 days": lambda: export_cost(ledger, "parquet", **week),
        "export of calls, CSV: 7 days": lambda: export_cost(ledger, "csv", **week),
    }


async def run(home: Path, calls: int, as_json: bool) -> None:
    """Fill a ledger, ask, and print."""
    first = int(time.time() * 1e6) // DAY * DAY - SPAN
    began = time.perf_counter()
    ledger, database = await filled(home, calls, first)
    took = time.perf_counter() - began
    size = sum(segment.bytes for segment in ledger.segments)
    report: dict[str, Any] = {
        "calls": calls,
        "segments": len(ledger.segments),
        "bytes": size,
        "filled_s": round(took, 2),
    }
    if not as_json:
        print(f"{calls:,} calls in {len(ledger.segments)} segments of {size / 1e6:.0f} MB, generated in {took:.1f} s")
        print(f"{'question':44} {'median ms':>10} {'worst ms':>10}")
    for name, question in questions(ledger, first).items():
        times = await timed(question)
        report[name] = {"median_ms": round(statistics.median(times), 1), "worst_ms": round(max(times), 1)}
        if not as_json:
            print(f"{name:44} {statistics.median(times):10.1f} {max(times):10.1f}", flush=True)
    if as_json:
        print(json.dumps(report))
    await ledger.close()
    await database.close()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path, help="an empty folder; left out: one that is removed afterwards")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledger") as folder:
        asyncio.run(run(given.home or Path(folder) / "home", given.calls, given.json))


if __name__ == "__main__":
    main()
