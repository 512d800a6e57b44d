"""Sums over the ledger: what calls cost and used, by any group of dimensions, in exact integers."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mainstay.core.errors import Invalid
from mainstay.ledger.filter import ALL, Field, Filter, known, sent_by
from mainstay.ledger.query import Ledger, touches, within

SORTS = ("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio")
"""The sorts of tokens; all but ``input`` and ``output`` are parts of those two."""

MOST_DIMENSIONS = 8
MOST_GROUPS = 10_000
"""Groups that one answer names; the rest is one sum."""

HOUR, DAY = 3_600_000_000, 86_400_000_000
"""Microseconds."""

_FIELDS = (
    "team", "key", "key_id", "user", "session", "workflow", "route", "model", "upstream_model", "provider",
    "operation", "dialect", "cache", "outcome", "status", "stream", "snapshot",
)  # fmt: skip
_TIMES = {
    # The SQL of a bucket, and how its name is made of it; both in UTC. Weeks begin on Monday; day 0 was a Thursday.
    "hour": (f'"at" // {HOUR} * {HOUR}', "strftime(make_timestamp({}), '%Y-%m-%dT%H:00:00Z')"),
    "day": (f'"at" // {DAY} * {DAY}', "strftime(make_timestamp({}), '%Y-%m-%d')"),
    "week": (f'(("at" // {DAY} + 3) // 7 * 7 - 3) * {DAY}', "strftime(make_timestamp({}), '%Y-%m-%d')"),
    "month": ("date_trunc('month', make_timestamp(\"at\"))", "strftime({}, '%Y-%m')"),
}

DIMENSIONS = (*_FIELDS, *_TIMES)
"""What calls can be grouped by, beside ``tag.NAME``."""

FAILED_COST = "list_sum([one.cost_nano FOR one IN attempts IF one.error IS NOT NULL])"
"""The SQL of what a call's attempts cost that were cancelled or ended in an error: money for no answer."""

SUMS: Mapping[str, str] = {
    "calls": "count(*)",
    "cost_nano": "sum(cost_nano)",
    "unpriced": "count(*) FILTER (cost_nano IS NULL)",
    "estimated": "count(*) FILTER (cost_estimated)",
    "failed_nano": f"sum({FAILED_COST})",
    **{sort: f'sum("{sort}")' for sort in SORTS},
}
"""The sums of a group of calls and their SQL, in the order of ``Sums``."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What some calls come to. Money is in nano-dollars; None is unknown: no call of them told.

    ``unpriced`` calls are those whose cost is unknown, which ``cost_nano`` leaves out; ``estimated`` ones are priced by
    an estimate of their tokens. ``failed_nano`` is the part of the cost that attempts without an answer had; it is told
    of unpriced calls, too, as far as it is known. ``tokens`` is by sort; those of answers from the cache are among them.
    """

    calls: int = 0
    cost_nano: int | None = None
    unpriced: int = 0
    estimated: int = 0
    failed_nano: int | None = None
    tokens: tuple[int | None, ...] = (None,) * len(SORTS)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            _added(self.cost_nano, other.cost_nano),
            self.unpriced + other.unpriced,
            self.estimated + other.estimated,
            _added(self.failed_nano, other.failed_nano),
            tuple(_added(one, two) for one, two in zip(self.tokens, other.tokens, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The sums of the calls with these values of the dimensions (None: without), and those of all groups down to it."""

    values: tuple[Any, ...]
    sums: Sums
    cumulative_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Grouped:
    """Groups, dearest first; the ``rest`` are those that were too many to name.

    ``total`` is the sum of both. ``count`` is the number of all groups, ``paid`` of those that cost anything, and
    ``drivers`` the smallest number of them that make up the share that was asked for.
    """

    groups: list[Group]
    rest: Sums
    count: int
    paid: int
    drivers: int

    @property
    def total(self) -> Sums:
        """The sum of all groups."""
        return sum((group.sums for group in self.groups), self.rest)


@dataclass(frozen=True, slots=True)
class Changed:
    """One group in the window and in the one it is compared with."""

    values: tuple[Any, ...]
    now: Sums
    before: Sums


@dataclass(frozen=True, slots=True)
class Comparison:
    """Groups, those whose cost changed most first; ``rest`` sums the others up, ``count`` counts them all."""

    groups: list[Changed]
    rest: Changed
    count: int
    new: int
    vanished: int


def dimensions(by: Sequence[str]) -> list[tuple[Field, str]]:
    """The SQL of the dimensions ``by``, and the template of how each is shown. Raises ``Invalid`` for unknown ones."""
    if len(by) > MOST_DIMENSIONS:
        raise Invalid(f"group by at most {MOST_DIMENSIONS} dimensions", field="by")
    found: list[tuple[Field, str]] = []
    for name in by:
        if by.count(name) > 1:
            raise Invalid(f'"{name[:60]}" is given twice; give it once', field="by")
        if name in _TIMES:
            sql, template = _TIMES[name]
            found.append((Field(sql, "text"), template))
        elif name in _FIELDS or (name.partition(".")[0] in ("tag", "tags") and name.partition(".")[2]):
            found.append((known(name), "{}"))
        else:
            raise Invalid(
                f'there is no dimension "{name[:60]}"; there are {", ".join(DIMENSIONS)} and tag.NAME', field="by"
            )
    return found


async def totals(
    ledger: Ledger,
    by: Sequence[str] = (),
    filter: Filter = ALL,
    *,
    since: int | None = None,
    until: int | None = None,
    limit: int = 1000,
    share: int = 80,
    failed: bool = True,
    timeout: float | None = None,
) -> Grouped:
    """What the calls from ``since`` on and before ``until`` come to, per value of ``by``; ``share`` is in per cent.

    Without ``failed``, ``failed_nano`` is not looked for: the attempts of every call need not be read, which takes five
    times as long as all the rest.
    """
    keys, order, parameters = keyed(by)
    if not 1 <= limit <= MOST_GROUPS:
        raise Invalid(f"limit is a number from 1 to {MOST_GROUPS}", field="limit")
    wanted = SUMS if failed else {**SUMS, "failed_nano": "CAST(NULL AS BIGINT)"}
    sums = ", ".join(f"{sql} AS s{i}" for i, sql in enumerate(wanted.values()))
    ranking = ", ".join(["s1 DESC NULLS LAST", "s0 DESC", *order])
    labels = shown(by)
    own = [f"s{i}" for i in range(len(SUMS))]
    rest = [f"sum({name}) FILTER (rank > {limit})" for name in own]
    with reading(ledger, filter, since, until) as (source, condition):
        rows = await ledger.engine.read(
            f"WITH grouped AS (SELECT {', '.join([*keys, sums])} FROM {source} WHERE {condition.sql} {_by(order)}), "
            f"ranked AS (SELECT *, row_number() OVER (ORDER BY {ranking}) AS rank, "
            f"sum(s1) OVER (ORDER BY {ranking} ROWS UNBOUNDED PRECEDING) AS cumulative, sum(s1) OVER () AS whole "
            "FROM grouped) "
            f"SELECT {', '.join([*labels, *own])}, rank, cumulative, NULL, NULL FROM ranked WHERE rank <= {limit} "
            f"UNION ALL SELECT {', '.join([*(['NULL'] * len(labels)), *rest])}, NULL, count(*), "
            "count(*) FILTER (s1 > 0), "
            f"count(*) FILTER (s1 > 0 AND (cumulative - s1) * 100 < whole * {share}) FROM ranked",
            [*parameters, *condition.parameters],
            timeout=timeout,
        )
    width = len(labels)
    named = sorted((row for row in rows if row[-4] is not None), key=lambda row: row[-4])
    last = next(row for row in rows if row[-4] is None)
    groups = [Group(tuple(row[:width]), _sums(row[width:-4]), _int(row[-3])) for row in named]
    return Grouped(groups, _sums(last[width:-4]), int(last[-3]), int(last[-2]), int(last[-1]))


async def compared(
    ledger: Ledger,
    by: Sequence[str],
    filter: Filter = ALL,
    *,
    since: int,
    until: int,
    shift: int,
    limit: int = 1000,
    timeout: float | None = None,
) -> Comparison:
    """The window from ``since`` to ``until`` beside the same window ``shift`` microseconds earlier, per value of ``by``."""
    keys, order, parameters = keyed(by)
    if not 1 <= limit <= MOST_GROUPS:
        raise Invalid(f"limit is a number from 1 to {MOST_GROUPS}", field="limit")
    windows = [(since, until), (since - shift, until - shift)]
    own: list[str] = []
    columns = list(keys)
    for start, end in windows:
        inside = f'"at" >= {start:d} AND "at" < {end:d}'
        for sql in _COMPARED:
            columns.append(f"{sql.format(inside)} AS s{len(own)}")
            own.append(f"s{len(own)}")
    either = Filter(
        '("at" >= ? AND "at" < ?) OR ("at" >= ? AND "at" < ?)', [bound for window in windows for bound in window]
    )
    labels = shown(by)
    ranking = ", ".join(["abs(coalesce(s1, 0) - coalesce(s4, 0)) DESC", "s0 + s3 DESC", *order])
    rest = [f"sum({name}) FILTER (rank > {limit})" for name in own]
    with reading(ledger, filter.both(either), min(since, since - shift), max(until, until - shift)) as (
        source,
        condition,
    ):
        rows = await ledger.engine.read(
            f"WITH grouped AS (SELECT {', '.join(columns)} FROM {source} WHERE {condition.sql} {_by(order)}), "
            f"ranked AS (SELECT *, row_number() OVER (ORDER BY {ranking}) AS rank FROM grouped) "
            f"SELECT {', '.join([*labels, *own])}, rank, NULL, NULL FROM ranked WHERE rank <= {limit} "
            f"UNION ALL SELECT {', '.join([*(['NULL'] * len(labels)), *rest])}, -count(*) - 1, "
            "count(*) FILTER (s3 = 0), count(*) FILTER (s0 = 0) FROM ranked",
            [*parameters, *condition.parameters],
            timeout=timeout,
        )
    width = len(labels)
    named = sorted((row for row in rows if row[-3] > 0), key=lambda row: row[-3])
    last = next(row for row in rows if row[-3] < 0)
    groups = [_changed(row, width) for row in named]
    return Comparison(groups, _changed(last, width), -int(last[-3]) - 1, int(last[-2]), int(last[-1]))


_COMPARED = (
    "count(*) FILTER ({0})",
    "sum(cost_nano) FILTER ({0})",
    "count(*) FILTER (cost_nano IS NULL AND {0})",
)


def _changed(row: Sequence[Any], width: int) -> Changed:
    figures = row[width:-3]
    now, before = (
        Sums(int(calls or 0), _int(cost), int(unpriced or 0)) for calls, cost, unpriced in (figures[:3], figures[3:])
    )
    return Changed(tuple(row[:width]), now, before)


@dataclass(frozen=True, slots=True)
class DaySum:
    """What one day (counted since the epoch, in UTC) cost in nano-dollars, and what of it after a given time of day."""

    day: int
    first_at: int
    nano: int
    tail_nano: int
    unpriced: int


async def daily(
    ledger: Ledger,
    by: Sequence[str],
    filter: Filter = ALL,
    *,
    since: int,
    until: int,
    after: int,
    limit: int = 1000,
    timeout: float | None = None,
) -> dict[tuple[Any, ...], list[DaySum]]:
    """Per value of ``by`` (the ``limit`` dearest of them), what each day cost, and what after ``after`` µs of the day."""
    keys, order, parameters = keyed(by)
    partition = f"PARTITION BY {', '.join(order)}" if order else ""
    with reading(ledger, filter, since, until) as (source, condition):
        rows = await ledger.engine.read(
            f'WITH days AS (SELECT {"".join(f"{key}, " for key in keys)}"at" // {DAY} AS d, min("at") AS first_at, '
            f'coalesce(sum(cost_nano), 0) AS nano, coalesce(sum(cost_nano) FILTER ("at" % {DAY} >= {after:d}), 0) AS tail, '
            f"count(*) FILTER (cost_nano IS NULL) AS unpriced FROM {source} WHERE {condition.sql} "
            f"GROUP BY {', '.join([*order, 'd'])}), "
            f"whole AS (SELECT *, sum(nano) OVER ({partition}) AS every "
            "FROM days), "
            f"ranked AS (SELECT *, dense_rank() OVER (ORDER BY {', '.join(['every DESC', *order])}) AS rank FROM whole) "
            f"SELECT {''.join(f'{one}, ' for one in shown(by))}d, first_at, nano, tail, unpriced FROM ranked "
            f"WHERE rank <= {limit} ORDER BY d",
            [*parameters, *condition.parameters],
            timeout=timeout,
        )
    found: dict[tuple[Any, ...], list[DaySum]] = {}
    for row in rows:
        found.setdefault(tuple(row[: len(by)]), []).append(DaySum(*(int(figure) for figure in row[len(by) :])))
    return found


@contextlib.contextmanager
def reading(ledger: Ledger, filter: Filter, since: int | None, until: int | None) -> Generator[tuple[str, Filter]]:
    """An SQL source with all the calls of that time, and the condition that holds of those that are meant."""
    with ledger.pinned() as view:
        segments = [one for one in view.segments if touches(one, since, until)]
        condition = filter.both(sent_by("gateway")).both(within(since, until))
        yield ledger.files.source(segments, view.tables), condition


def keyed(by: Sequence[str]) -> tuple[list[str], list[str], list[Any]]:
    """The columns ``k0``, ``k1`` … of the dimensions, their names, and the parameters."""
    found = dimensions(by)
    columns = [f"{one.sql} AS k{i}" for i, (one, _) in enumerate(found)]
    return columns, [f"k{i}" for i in range(len(found))], [value for one, _ in found for value in one.parameters]


def shown(by: Sequence[str]) -> list[str]:
    """The SQL of how the columns ``k0``, ``k1`` … are shown."""
    return [template.format(f"k{i}") for i, (_, template) in enumerate(dimensions(by))]


def _by(names: Sequence[str]) -> str:
    return f"GROUP BY {', '.join(names)}" if names else ""


def _sums(figures: Sequence[Any]) -> Sums:
    calls, cost, unpriced, estimated, failed, *tokens = figures
    return Sums(
        int(calls or 0),
        _int(cost),
        int(unpriced or 0),
        int(estimated or 0),
        _int(failed),
        tuple(_int(count) for count in tokens),
    )


def _int(figure: Any) -> int | None:
    return None if figure is None else int(figure)


def _added(one: int | None, two: int | None) -> int | None:
    return two if one is None else one if two is None else one + two
