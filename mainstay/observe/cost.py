"""What calls cost, as it is reported: by any dimensions, the drivers among them, and what changed since the week before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mainstay.core.money import Nano, usd
from mainstay.ledger.rows import iso
from mainstay.ledger.totals import DAY, SORTS, Changed, Comparison, Grouped, Sums

WEEK = 7 * DAY
"""Microseconds."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time from ``since`` on and before ``until``, in microseconds since the epoch."""

    since: int
    until: int

    def as_json(self) -> dict[str, str]:
        """Both ends in ISO 8601, UTC."""
        return {"since": iso(self.since), "until": iso(self.until)}

    @property
    def week_before(self) -> int:
        """How much earlier the same weekdays and hours were last, without overlap, in microseconds: whole weeks."""
        return max(1, -(-(self.until - self.since) // WEEK)) * WEEK


def money(nano: Nano | None, unpriced: int = 0) -> str | None:
    """Nano-dollars as dollars, exactly. A sum of nothing is 0 where all was known, and unknown where something was not."""
    if nano is None:
        return None if unpriced else "0"
    return usd(nano)


def figures(sums: Sums, failed: bool = False) -> dict[str, Any]:
    """Sums as they are reported: money as exact decimal numbers in strings, null where it is unknown.

    ``failed``: the part that attempts without an answer had was looked for, and is told.
    """
    part = {"failed_cost_usd": money(sums.failed_nano, sums.unpriced)} if failed else {}
    return {
        "cost_usd": money(sums.cost_nano, sums.unpriced),
        "calls": sums.calls,
        "unpriced_calls": sums.unpriced,
        "estimated_calls": sums.estimated,
        **part,
        "tokens": dict(zip(SORTS, sums.tokens, strict=True)),
    }


def named(by: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values of the dimensions by their names."""
    return dict(zip(by, values, strict=True))


def report(found: Grouped, by: Sequence[str], window: Window, failed: bool) -> dict[str, Any]:
    """Costs by ``by``. ``total`` is the sum of the rows in ``data`` and of ``rest``, which is null if all are named."""
    return {
        "window": window.as_json(),
        "by": list(by),
        "data": [{"group": named(by, group.values), **figures(group.sums, failed)} for group in found.groups],
        "rest": _rest(found.count - len(found.groups), figures(found.rest, failed)),
        "groups": found.count,
        "total": figures(found.total, failed),
    }


def top(found: Grouped, by: Sequence[str], window: Window, share: int) -> dict[str, Any]:
    """The drivers: each group's share of the cost, what it makes with those before it, and how few make ``share`` %."""
    whole = found.total.cost_nano or 0
    data = [
        {
            "group": named(by, group.values),
            **figures(group.sums),
            "share": _share(group.sums.cost_nano, whole),
            "cumulative_share": _share(group.cumulative_nano, whole),
        }
        for group in found.groups
    ]
    what = ", ".join(by)
    sentence = (
        f"{share} % of the cost comes from {found.drivers} of {found.count} values of {what}"
        if whole
        else "nothing whose price is known was spent"
    )
    return {
        "window": window.as_json(),
        "by": list(by),
        "data": data,
        "rest": _rest(found.count - len(found.groups), figures(found.rest)),
        "total": figures(found.total),
        "pareto": {
            "share": share / 100,
            "drivers": found.drivers,
            "groups": found.count,
            "groups_with_cost": found.paid,
            "sentence": sentence,
        },
    }


def deviation(found: Comparison, by: Sequence[str], window: Window, shift: int) -> dict[str, Any]:
    """What changed from the window ``shift`` microseconds earlier, the greatest change first."""
    sums = [*found.groups, found.rest]
    now = sum((one.now for one in sums), Sums())
    before = sum((one.before for one in sums), Sums())
    return {
        "window": window.as_json(),
        "before": Window(window.since - shift, window.until - shift).as_json(),
        "by": list(by),
        "data": [{"group": named(by, one.values), **_change(one)} for one in found.groups],
        "rest": _rest(found.count - len(found.groups), _change(found.rest)),
        "groups": found.count,
        "new": found.new,
        "vanished": found.vanished,
        "total": _change(Changed((), now, before)),
    }


def _change(one: Changed) -> dict[str, Any]:
    now, before = known(one.now), known(one.before)
    change = None if now is None or before is None else now - before
    return {
        "state": "new" if not one.before.calls else "vanished" if not one.now.calls else "changed",
        "cost_usd": None if now is None else usd(now),
        "before_usd": None if before is None else usd(before),
        "change_usd": None if change is None else usd(change),
        "change": None if change is None or not before else round(change / before, 6),
        "calls": one.now.calls,
        "calls_before": one.before.calls,
        "unpriced_calls": one.now.unpriced,
        "unpriced_calls_before": one.before.unpriced,
    }


def known(sums: Sums) -> Nano | None:
    """The cost, which is 0 for no calls and None where of none of the calls it is known."""
    if sums.cost_nano is None and not sums.unpriced:
        return 0
    return sums.cost_nano


def _share(nano: Nano | None, whole: Nano) -> float | None:
    return None if nano is None or not whole else round(nano / whole, 6)


def _rest(groups: int, shown: dict[str, Any]) -> dict[str, Any] | None:
    return {"groups": groups, **shown} if groups > 0 else None
