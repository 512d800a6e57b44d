"""How calls used what they paid for: tokens by route and model, with what caches answered, for the arithmetic of savings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainstay.core.usage import Usage
from mainstay.ledger.filter import ALL, Filter
from mainstay.ledger.query import Ledger
from mainstay.ledger.totals import SORTS, reading

LONG_PROMPT = 1024
"""Input tokens from which providers keep a prompt: the smallest that any of them names."""

MOST = 10_000


@dataclass(frozen=True, slots=True)
class Use:
    """Calls of one route that one model answered, or whose stored answer had come from it (``hit``).

    ``long`` ones had more input than the model's price has a second rate from. ``usage`` is the sum of their tokens.
    ``uncached`` calls had a prompt of 1024 tokens or more of which nothing was read from the provider's cache nor
    written to it; ``uncached_input`` are their tokens. ``median_input`` is the median prompt, and ``excess_input``
    are the tokens by which prompts were longer than that.
    """

    route: str | None
    model: str
    hit: bool
    long: bool
    calls: int
    cost_nano: int | None
    unpriced: int
    usage: Usage
    uncached: int
    uncached_input: int
    median_input: int
    excess_input: int


@dataclass(frozen=True, slots=True)
class Looks:
    """What the exact cache had for the calls of one route; ``off`` were not looked up. ``cost_nano`` is of the latter."""

    route: str | None
    hits: int
    misses: int
    off: int
    off_nano: int | None


async def uses(
    ledger: Ledger,
    filter: Filter = ALL,
    *,
    since: int,
    until: int,
    above: Mapping[str, int],
    timeout: float | None = None,
) -> list[Use]:
    """The use of every route and model; ``above`` are the input tokens from which a model's second rate holds.

    Only calls that ended well, or whose attempt at the model told of its tokens, are in it: others bought nothing.
    """
    long = " ".join('WHEN ? THEN "input" > ?' for _ in above)
    parameters: list[Any] = [value for pair in above.items() for value in pair]
    tokens = ", ".join(f'coalesce(sum("{sort}"), 0)' for sort in SORTS)
    condition = filter.both(Filter('model IS NOT NULL AND "input" IS NOT NULL'))
    with reading(ledger, condition, since, until) as (source, where):
        rows = await ledger.engine.read(
            f"WITH used AS (SELECT route, model, coalesce(cache = 'hit', false) AS hit, "
            f"{f'CASE model {long} ELSE false END' if above else 'false'} AS long, cost_nano, "
            f"{', '.join(f'{chr(34)}{sort}{chr(34)}' for sort in SORTS)} FROM {source} WHERE {where.sql}), "
            "medians AS (SELECT route AS r, model AS m, hit AS h, long AS l, "
            'CAST(quantile_disc("input", 0.5) AS BIGINT) AS median FROM used GROUP BY ALL) '
            f"SELECT route, model, hit, long, count(*), sum(cost_nano), count(*) FILTER (cost_nano IS NULL), {tokens}, "
            f'count(*) FILTER ({_UNCACHED}), coalesce(sum("input") FILTER ({_UNCACHED}), 0), any_value(median), '
            'sum(greatest("input" - median, 0)) '
            "FROM used JOIN medians ON route IS NOT DISTINCT FROM r AND model = m AND hit = h AND long = l "
            f"GROUP BY route, model, hit, long ORDER BY sum(cost_nano) DESC NULLS LAST, route, model LIMIT {MOST}",
            [*parameters, *where.parameters],
            timeout=timeout,
        )
    return [_use(row) for row in rows]


_UNCACHED = f'"input" >= {LONG_PROMPT} AND coalesce(cached_input, 0) = 0 AND coalesce(cache_write, 0) = 0'


def _use(row: tuple[Any, ...]) -> Use:
    route, model, hit, long, calls, cost, unpriced, *figures = row
    counts = [int(figure) for figure in figures]
    usage = Usage(**dict(zip(SORTS, counts[:7], strict=True)))
    return Use(
        route, model, hit, long, int(calls), None if cost is None else int(cost), int(unpriced), usage, *counts[7:]
    )


async def looks(
    ledger: Ledger, filter: Filter = ALL, *, since: int, until: int, timeout: float | None = None
) -> list[Looks]:
    """What the exact cache had, by route, of the calls that ended well."""
    condition = filter.both(Filter("outcome = 'ok'"))
    with reading(ledger, condition, since, until) as (source, where):
        rows = await ledger.engine.read(
            "SELECT route, count(*) FILTER (cache = 'hit'), count(*) FILTER (cache = 'miss'), "
            "count(*) FILTER (coalesce(cache, 'off') NOT IN ('hit', 'miss')), "
            "sum(cost_nano) FILTER (coalesce(cache, 'off') NOT IN ('hit', 'miss')) "
            f"FROM {source} WHERE {where.sql} GROUP BY route ORDER BY count(*) DESC, route LIMIT {MOST}",
            where.parameters,
            timeout=timeout,
        )
    return [
        Looks(row[0], int(row[1]), int(row[2]), int(row[3]), None if row[4] is None else int(row[4])) for row in rows
    ]
