"""Calls by their verdicts: the conditions of ``verdict.rating<3`` and of the list of calls that did not satisfy, in SQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mainstay.core.verdict import EXTERNAL_TAG, VerdictType

TABLE = "verdicts"
"""The engine's table of the verdicts that count now; ``Verdicts`` keeps it."""

COLUMNS = {
    "v_uid": "VARCHAR",  # origin and id
    "v_team": "VARCHAR",
    "v_about": "VARCHAR",
    "v_subject": "VARCHAR",
    "v_key": "VARCHAR",  # team and subject, for the sorts that are unique within a team only
    "v_matched": "BOOLEAN",
    "v_name": "VARCHAR",
    "v_by": "VARCHAR",
    "v_rank": "INTEGER",
    "v_number": "DOUBLE",
    "v_word": "VARCHAR",
}
"""Its columns; none is called like one of a call's, so that both can be in one condition."""

_PREFIX = "verdict."
_MARK = "chr(31)"
_OPERATORS = {"=": "=", "==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

Condition = tuple[str, list[Any]]
"""A condition in SQL, and the values of its parameters."""


def key(team: str, subject: str) -> str:
    """What stands in ``v_key``."""
    return f"{team}\x1f{subject}"


def rank(by: str) -> int:
    """Whose word counts more: a reviewer's (0), the user's (1), the product's (2), a judge's (3)."""
    return 0 if by.startswith("human:") else {"user": 1, "product": 2}.get(by, 3)


def named(field: str) -> str | None:
    """The verdict type that a filter's field is about; None for another field."""
    return field[len(_PREFIX) :] or None if field.startswith(_PREFIX) else None


def holding(where: str, parameters: Iterable[Any]) -> Condition:
    """The calls for which a verdict with ``where`` counts: one about the call, its session, or its external id."""
    given = list(parameters)
    select = f"SELECT %s FROM {TABLE} WHERE v_about = '%s' AND v_matched AND ({where})"
    external = f"map_extract_value(\"tags\", '{EXTERNAL_TAG}')"
    sql = (
        f"(id IN ({select % ('v_subject', 'call')})"
        f' OR coalesce(coalesce("team", \'\') || {_MARK} || "session" IN ({select % ("v_key", "session")}), false)'
        f" OR coalesce(coalesce(\"team\", '') || {_MARK} || {external} IN ({select % ('v_key', 'external')}), false))"
    )
    return sql, [*given, *given, *given]


def compared(name: str, operator: str, text: str, quoted: bool) -> Condition | None:
    """``verdict.NAME operator text``; None where these do not go together.

    A number is compared as one, true and false as 1 and 0, any other text, and what is quoted, as a category.
    """
    if operator == "=" and text.lower() == "null" and not quoted:
        sql, parameters = holding("v_name = ?", [name])
        return f"(NOT {sql})", parameters
    number = None if quoted else _number(text)
    if operator == "~":
        return holding("v_name = ? AND contains(lower(v_word), ?)", [name, text.lower()])
    if number is not None:
        return holding(f"v_name = ? AND v_number {_OPERATORS[operator]} ?", [name, number])
    if _OPERATORS[operator] != "=":
        return None
    return holding("v_name = ? AND v_word = ?", [name, text])


def low(types: Iterable[VerdictType]) -> Condition:
    """The calls of which a verdict says that they did not satisfy, by the thresholds of ``types``."""
    conditions: list[str] = []
    parameters: list[Any] = []
    for one in types:
        found: list[str] = []
        values: list[Any] = []
        for operator, bound in (("<", one.low_below), (">", one.low_above)):
            if bound is not None:
                found.append(f"v_number {operator} ?")
                values.append(bound)
        if one.low_when is not None:
            found.append("v_number = ?")
            values.append(float(one.low_when))
        for word in one.low_of:
            found.append("v_word = ?")
            values.append(word)
        if found:
            conditions.append(f"(v_name = ? AND ({' OR '.join(found)}))")
            parameters += [one.name, *values]
    return holding(" OR ".join(conditions), parameters) if conditions else ("false", [])


def _number(text: str) -> float | None:
    word = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}.get(text.lower())
    if word is not None:
        return word
    try:
        return float(text)
    except ValueError:
        return None
