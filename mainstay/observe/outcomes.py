"""Whether it was good, and what good costs: scores, feedback, success, override, cost per successful task.

A fold over the ledger and the verdicts that count; docs/guide/outcomes.md defines every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainstay.core.errors import Invalid
from mainstay.core.verdict import EXTERNAL_TAG, VerdictType
from mainstay.ledger.filter import Source, known, sent_by
from mainstay.ledger.judged import TABLE
from mainstay.ledger.query import Ledger
from mainstay.observe.intervals import student, wilson

ALIASES = {"prompt": "tag.prompt", "prompt_version": "tag.prompt_version"}
"""Short names of the dimensions that are tags."""

GROUPS = 1000
"""Groups that one question may have."""

_DIMENSIONS = 4
_WORDS = 50  # categories that are told of a type


@dataclass(frozen=True, slots=True)
class Share:
    """``part`` of ``whole``, with Wilson's interval."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95 %."""
        return wilson(self.part, self.whole)


@dataclass(frozen=True, slots=True)
class Score:
    """The verdicts of one type: ``mean`` is a boolean's share of true; of categories there are only the counts."""

    count: int
    mean: float | None
    interval: tuple[float, float] | None
    words: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Outcome:
    """The figures of one group of tasks. Money is in nano-dollars.

    ``unpriced`` are calls of judged tasks whose cost is unknown: with any, the cost per success is a lower bound.
    """

    group: dict[str, str | None]
    tasks: int
    calls: int
    cost_nano: int
    feedback: Share
    success: Share
    override: Share
    judged_nano: int
    unpriced: int
    scores: dict[str, Score] = field(default_factory=dict[str, Score])

    @property
    def per_success_nano(self) -> int | None:
        """What judged tasks cost, failed ones too, over those that succeeded; half to even; None without a success."""
        if not self.success.part:
            return None
        whole, rest = divmod(self.judged_nano, self.success.part)
        twice = 2 * rest
        return whole + (twice > self.success.part or (twice == self.success.part and whole % 2 == 1))


async def outcomes(
    ledger: Ledger,
    types: Mapping[str, VerdictType],
    by: Sequence[str] = (),
    *,
    team: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = 100,
    timeout: float | None = None,
    source: Source = "gateway",
) -> list[Outcome]:
    """The figures per value of the fields ``by``, groups with the most tasks first, of one team's calls or of all.

    The window (microseconds since the epoch) is of the calls, not of the verdicts, which may come later. Raises
    ``Invalid`` for a field that does not exist or is no text, ``TooSlow`` after ``timeout`` seconds.
    """
    if not 1 <= limit <= GROUPS:
        raise Invalid(f"limit is a number from 1 to {GROUPS}", field="limit")
    if len(by) > _DIMENSIONS or len(set(by)) != len(by):
        raise Invalid(f"by is at most {_DIMENSIONS} different fields", field="by")
    columns: list[str] = []
    parameters: list[Any] = []
    for i, name in enumerate(by):
        found = known(ALIASES.get(name, name))
        if found.sort != "text":
            raise Invalid(f"by: {name} is not a text such as team, model, workflow, route or tag.NAME", field="by")
        columns.append(f"{found.sql} AS g{i}")
        parameters += found.parameters
    sent = sent_by(source)
    conditions = [sent.sql]
    parameters += sent.parameters
    for sql, value in (('"team" = ?', team), ('"at" >= ?', since), ('"at" < ?', until)):
        if value is not None:
            conditions.append(sql)
            parameters.append(value)
    with ledger.pinned() as view:
        segments = [
            one
            for one in view.segments
            if (since is None or one.last_at >= since) and (until is None or one.first_at < until)
        ]
        read = ledger.files.source(segments, view.tables)
        tables = _tables(read, columns, " AND ".join(conditions))
        groups = [f"g{i}" for i in range(len(by))]
        rows = await ledger.engine.read(_rates(tables, groups, limit), parameters, timeout=timeout)
        scored = await ledger.engine.read(_scores(tables, groups), parameters, timeout=timeout)
    made = {tuple(row[: len(by)]): _outcome(by, row) for row in rows}
    _add_scores(made, types, scored, len(by))
    return list(made.values())


def _tables(source: str, columns: list[str], where: str) -> str:
    """The common tables: the calls with their tasks, the verdicts on each call, the verdicts on each task.

    A task of several calls has a separator in its name, which no call's id has.
    """
    groups = "".join(f", {column}" for column in columns)
    external = f"map_extract_value(\"tags\", '{EXTERNAL_TAG}')"
    return f"""
WITH calls AS (
  SELECT id, coalesce("team", '') AS owner, "session" AS ses, {external} AS ext, cost_nano AS cost,
    cost_nano IS NULL AND ("input" IS NOT NULL OR "output" IS NOT NULL) AS unpriced,
    CASE WHEN "session" IS NOT NULL THEN 's' || coalesce("team", '') || chr(31) || "session"
         WHEN "workflow" IS NOT NULL AND trace IS NOT NULL
           THEN 'w' || coalesce("team", '') || chr(31) || "workflow" || chr(31) || trace
         ELSE id END AS task,
    "session" IS NULL AND ("workflow" IS NULL OR trace IS NULL) AS alone{groups}
  FROM {source} WHERE {where}),
joined AS (
  SELECT calls.*, v.* FROM calls JOIN {TABLE} v ON v.v_about = 'call' AND v.v_matched AND v.v_subject = calls.id
  UNION ALL
  SELECT calls.*, v.* FROM calls JOIN {TABLE} v
    ON v.v_about = 'session' AND v.v_team = calls.owner AND v.v_subject = calls.ses
  UNION ALL
  SELECT calls.*, v.* FROM calls JOIN {TABLE} v
    ON v.v_about = 'external' AND v.v_team = calls.owner AND v.v_subject = calls.ext),
said AS (SELECT DISTINCT task, v_uid, v_name, v_rank, v_number FROM joined)"""


def _rates(tables: str, groups: list[str], limit: int) -> str:
    """Tasks, rates and money of each group. A task is judged by those whose word counts most; a tie is no success."""
    named = "".join(f"{group}, " for group in groups)
    order = ", ".join(["tasks DESC", *(f"{group} NULLS LAST" for group in groups)])
    grouped = f"GROUP BY {', '.join(groups)}" if groups else ""
    return f"""{tables},
votes AS (SELECT task, v_rank, sum(v_number) AS yes, count(*) AS n FROM said WHERE v_name = 'task_success'
  GROUP BY task, v_rank),
judged AS (SELECT task, arg_min(2 * yes > n, v_rank) AS success FROM votes GROUP BY task),
changed AS (SELECT task, bool_or(v_number > 0) AS over FROM said WHERE v_name IN ('edit', 'handoff') GROUP BY task),
heard AS (SELECT DISTINCT task FROM said WHERE v_rank < 3),
tasks AS (
  SELECT {named}task, count(*) AS calls, sum(cost) AS cost, count(*) FILTER (unpriced) AS unpriced
  FROM calls WHERE NOT alone GROUP BY {named}task
  UNION ALL SELECT {named}task, 1, cost, unpriced::BIGINT FROM calls WHERE alone)
SELECT {named}count(*) AS tasks, coalesce(sum(calls), 0), coalesce(sum(cost), 0),
  count(heard.task), count(judged.task), count(*) FILTER (judged.success), count(changed.task),
  count(*) FILTER (changed.over), coalesce(sum(cost) FILTER (judged.task IS NOT NULL), 0),
  coalesce(sum(unpriced) FILTER (judged.task IS NOT NULL), 0)
FROM tasks LEFT JOIN heard ON heard.task = tasks.task LEFT JOIN judged ON judged.task = tasks.task
  LEFT JOIN changed ON changed.task = tasks.task
{grouped} ORDER BY {order} LIMIT {limit}"""


def _scores(tables: str, groups: list[str]) -> str:
    """Of each group, type and category: how many verdicts, their mean and deviation. Each verdict counts once."""
    named = "".join(f"{group}, " for group in groups)
    return f"""{tables}
SELECT {named}v_name, v_word, count(*) AS n, avg(v_number), stddev_samp(v_number), sum(v_number)
FROM (SELECT DISTINCT {named}v_uid, v_name, v_word, v_number FROM joined)
GROUP BY {named}v_name, v_word ORDER BY n DESC, v_name, v_word"""


def _outcome(by: Sequence[str], row: tuple[Any, ...]) -> Outcome:
    tasks, calls, cost, heard, judged, successes, decided, changed, judged_nano, unpriced = map(int, row[len(by) :])
    return Outcome(
        group=dict(zip(by, row[: len(by)], strict=True)),
        tasks=tasks,
        calls=calls,
        cost_nano=cost,
        feedback=Share(heard, tasks),
        success=Share(successes, judged),
        override=Share(changed, decided),
        judged_nano=judged_nano,
        unpriced=unpriced,
    )


def _add_scores(
    made: dict[tuple[Any, ...], Outcome], types: Mapping[str, VerdictType], rows: list[tuple[Any, ...]], width: int
) -> None:
    for row in rows:
        outcome = made.get(tuple(row[:width]))
        if outcome is None:
            continue
        name, word, count, mean, deviation, total = row[width:]
        if word is not None:
            there = outcome.scores.get(name) or Score(0, None, None)
            words = {**there.words, word: count} if len(there.words) < _WORDS else there.words
            outcome.scores[name] = Score(there.count + count, None, None, words)
            continue
        kind = types.get(name)
        boolean = kind is not None and kind.sort == "boolean"
        interval = wilson(round(total), count) if boolean else student(mean, deviation, count)
        outcome.scores[name] = Score(count, mean, interval)
