"""Every budget with its forecast: what is spent of it by its own counters, and what the ledger says of its run rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mainstay.access.rules import Rule, key_owner, named_rule, owner_rules, pool_name, team_owner, window_at, window_end
from mainstay.access.shares import Status
from mainstay.core.money import usd
from mainstay.ledger.filter import ALL, Filter
from mainstay.ledger.query import Ledger
from mainstay.ledger.rows import iso
from mainstay.ledger.totals import DAY, DaySum, daily
from mainstay.observe.cost_forecast import INTERVAL, LOOK_BACK, Forecast, forecast
from mainstay.registry.snapshot import Resolved

MOST = 1000
"""Users, tag values or models of one budget that have a forecast: those that cost most."""

_TOLD = {
    "weekday": "the mean of each weekday, and of what comes after this time of day, over {days} whole days",
    "daily": "the mean of {days} whole days, since there are fewer than 14",
    "linear": "what was spent since the first call per time since then: fewer than 2 whole days are known",
    "too_early": "nothing that can be told within an hour of the first call",
    "none": "nothing, since nothing was spent in the last 56 days",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A budget's rule and which calls belong to it: those with ``values`` of the dimensions ``by``; None: any value.

    ``scoped`` ones have a pool for each value, others one for all their calls.
    """

    rule: Rule
    by: tuple[str, ...]
    values: tuple[str, ...] | None = None
    scoped: bool = False


def watched(resolved: Resolved, team: str | None) -> list[Watched]:
    """The budgets in force; of one ``team`` only its own and its keys', since the others span teams."""
    found: dict[str, Watched] = {}
    for key in resolved.keys:
        if team in (None, key.team):
            for rule in owner_rules(key_owner(key.team, key.name), None, key.budgets):
                found[rule.id] = Watched(rule, ("team", "key"), (key.team, key.name))
    for one in resolved.teams:
        if team in (None, one.name):
            for rule in owner_rules(team_owner(one.name), None, one.budgets):
                found[rule.id] = Watched(rule, ("team",), (one.name,))
    for budget in resolved.budgets if team is None else ():
        scoped = named_rule(budget.body)
        by = {"all": (), "user": ("user",), "tag": (f"tag.{scoped.tag}",), "model": ("model",)}[scoped.by]
        values = () if scoped.by == "all" else None if scoped.value is None else (scoped.value,)
        found[scoped.rule.id] = Watched(scoped.rule, by, values, scoped.by != "all")
    return list(found.values())


async def forecasts(
    ledger: Ledger, budgets: Iterable[Watched], statuses: Iterable[Status], now: int, team: str | None
) -> dict[str, Any]:
    """The forecast of every budget and scope, and of all spending in this month; ``now`` is in microseconds."""
    histories = _Histories(ledger, now, team)
    pools = {pool_name(one.rule, one.scope, one.window): one for one in statuses}
    data: list[dict[str, Any]] = []
    for one in budgets:
        history = await histories.by(one.by)
        for values in _scopes(one, history):
            scope = values[0] if one.scoped else ""
            status = pools.pop(one.rule.pool(scope, now / 1e6), None)
            spent = 0 if status is None else status.spent
            data.append(_budget(one.rule, scope, spent, history.get(values, []), now))
        for pool in [pool for pool in pools if pool.startswith(f"{one.rule.id}|")]:
            status = pools.pop(pool)  # one whose calls are no longer in the ledger, or whose name was too long
            data.append(_budget(one.rule, status.scope, status.spent, [], now))
    data.sort(key=lambda row: -(row["share_at_end"] or 0.0))
    month, _ = window_at("month", now / 1e6)
    all_days = (await histories.by(())).get((), [])
    start = min((one.day for one in all_days if iso(one.day * DAY)[:7] == month), default=now // DAY)
    spent = sum(one.nano for one in all_days if one.day >= start)
    found = forecast(all_days, now=now, spent=spent, ends=_ends(month))
    unpriced = sum(one.unpriced for one in all_days if one.day >= start)
    whole = {"window": month, "spent_usd": usd(spent), "unpriced_calls": unpriced, **_shown(found)}
    return {"at": iso(now), "interval": INTERVAL, "data": data, "all": whole}


class _Histories:
    """What the days cost, read once for each way in which budgets divide calls."""

    def __init__(self, ledger: Ledger, now: int, team: str | None) -> None:
        self._ledger, self._now = ledger, now
        self._filter = ALL if team is None else Filter('"team" = ?', [team])
        self._found: dict[tuple[str, ...], dict[tuple[Any, ...], list[DaySum]]] = {}

    async def by(self, dimensions: tuple[str, ...]) -> dict[tuple[Any, ...], list[DaySum]]:
        """Per values of the dimensions."""
        if dimensions not in self._found:
            since = (self._now // DAY - LOOK_BACK) * DAY
            self._found[dimensions] = await daily(
                self._ledger,
                dimensions,
                self._filter,
                since=since,
                until=self._now,
                after=self._now % DAY,
                limit=MOST,
            )
        return self._found[dimensions]


def _scopes(one: Watched, history: dict[tuple[Any, ...], list[DaySum]]) -> Sequence[tuple[Any, ...]]:
    if one.values is not None:
        return [one.values]
    return [values for values in history if values[0]]


def _ends(window: str) -> int | None:
    end = window_end(window)
    return None if end is None else round(end * 1e6)


def _budget(rule: Rule, scope: str, spent: int, days: list[DaySum], now: int) -> dict[str, Any]:
    window, _ = window_at(rule.per, now / 1e6)
    found = forecast(days, now=now, spent=spent, ends=_ends(window), limit=rule.amount)
    if spent >= rule.amount:
        state = "reached"
    elif found.rate_nano is None:
        state = "unknown"
    elif found.reached_at is not None:
        state = "will be reached"
    else:
        state = "within"
    return {
        "rule": rule.id,
        "what": rule.sentence,
        "scope": scope,
        "window": window or "total",
        "soft": rule.soft,
        "limit_usd": usd(rule.amount),
        "spent_usd": usd(spent),
        "left_usd": usd(max(rule.amount - spent, 0)),
        "state": state,
        "share_at_end": None if found.end_nano is None or not rule.amount else round(found.end_nano / rule.amount, 6),
        "reached_at": None if found.reached_at is None or state == "reached" else iso(found.reached_at),
        **_shown(found),
    }


def _shown(found: Forecast) -> dict[str, Any]:
    def dollars(nano: int | None) -> str | None:
        return None if nano is None else usd(nano)

    return {
        "per_day_usd": dollars(found.rate_nano),
        "forecast_usd": dollars(found.end_nano),
        "low_usd": dollars(found.low_nano),
        "high_usd": dollars(found.high_nano),
        "estimator": found.estimator,
        "arithmetic": f"spent, and for what is left of the window {_TOLD[found.estimator].format(days=found.days)}",
    }
