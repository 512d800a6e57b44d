"""Verdicts, their types and the outcome figures as the control API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mainstay.core.money import usd
from mainstay.core.verdict import EXTERNAL_TAG, Asked, Verdict, VerdictType
from mainstay.ledger.rows import iso
from mainstay.observe.outcomes import Outcome, Score, Share

if TYPE_CHECKING:
    from mainstay.control import Control

_MOST = 1000


async def of_call(control: Control, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts that count for a call: those about it, its session and its external id."""
    tag = row["tags"].get(EXTERNAL_TAG)
    subjects = [("call", row["id"]), ("session", row["session"]), ("external", tag)]
    asked = Asked(team=row["team"] or "", subjects=tuple((a, s) for a, s in subjects if s), limit=_MOST)
    return [shown(one, control.judging.types) for one, _ in await control.judging.verdicts.page(asked)]


def shown(one: Verdict, types: Mapping[str, VerdictType]) -> dict[str, Any]:
    """A verdict."""
    kind = types.get(one.name)
    value: Any = one.word if one.number is None else one.number
    if kind is not None and kind.sort == "boolean" and one.number is not None:
        value = one.number == 1.0
    return {
        "id": one.id,
        "origin": one.origin,
        {"call": "call", "session": "session", "external": "external_id"}[one.about]: one.subject,
        "team": one.team or None,
        "name": one.name,
        "value": value,
        "unit": "" if kind is None else kind.unit,
        "by": one.by,
        "why": one.why,
        "at": iso(one.at),
        "received": iso(one.received),
        "sender": one.sender,
        "edit": one.edit is not None,
        "matched": one.matched,
    }


def type_shown(one: VerdictType) -> dict[str, Any]:
    """A verdict type."""
    return {
        "name": one.name,
        "type": one.sort,
        "min": one.low,
        "max": one.high,
        "unit": one.unit,
        "categories": list(one.categories),
        "low_below": one.low_below,
        "low_above": one.low_above,
        "low_when": one.low_when,
        "low_of": list(one.low_of),
    }


def outcome_shown(one: Outcome, types: Mapping[str, VerdictType]) -> dict[str, Any]:
    """The figures of one group; money is text, exact to the nano-dollar."""
    cost = one.per_success_nano
    return {
        "group": one.group,
        "tasks": one.tasks,
        "calls": one.calls,
        "cost_usd": usd(one.cost_nano),
        "feedback_rate": _share(one.feedback),
        "task_success_rate": _share(one.success),
        "override_rate": _share(one.override),
        "judged_cost_usd": usd(one.judged_nano),
        "cost_per_successful_task_usd": None if cost is None else usd(cost),
        "unpriced_calls": one.unpriced,
        "scores": {name: _score(score, types.get(name)) for name, score in sorted(one.scores.items())},
    }


def _share(one: Share) -> dict[str, Any]:
    return {"value": one.value, "interval": one.interval, "of": one.whole, "count": one.part}


def _score(one: Score, kind: VerdictType | None) -> dict[str, Any]:
    made: dict[str, Any] = {"n": one.count, "mean": one.mean, "interval": one.interval}
    if one.words:
        made["categories"] = one.words
    if kind is not None and kind.unit:
        made["unit"] = kind.unit
    return made
