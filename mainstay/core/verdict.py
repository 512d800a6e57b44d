"""Verdicts: one opinion about one call, and the named types that say which opinions there can be."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mainstay.core.errors import Invalid

Sort = Literal["boolean", "number", "category"]
About = Literal["call", "session", "external"]
"""What a verdict is about: a call, all calls of a session, or all calls that carry the product's own id."""

EXTERNAL_TAG = "id"
"""The tag of a call that holds the product's own id."""

_BY = re.compile(r"user|product|(?:judge|human):[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,126}")
_WORD = 128


@dataclass(frozen=True, slots=True)
class VerdictType:
    """A named sort of opinion. ``low`` and ``high`` bound a number, both included; None leaves that side open.

    The last four say which values put a call on the list of calls that did not satisfy: numbers under ``low_below`` or
    over ``low_above``, the boolean ``low_when``, and the categories ``low_of``.
    """

    name: str
    sort: Sort
    low: float | None = None
    high: float | None = None
    unit: str = ""
    categories: tuple[str, ...] = ()
    low_below: float | None = None
    low_above: float | None = None
    low_when: bool | None = None
    low_of: tuple[str, ...] = ()

    def value(self, given: object, field: str = "value") -> Value:
        """``given`` as a value of this type. Raises ``Invalid`` that says what is expected."""
        if self.sort == "boolean" and isinstance(given, bool):
            return Value(float(given), None)
        if self.sort == "category" and isinstance(given, str) and self._word(given):
            return Value(None, given)
        if self.sort == "number" and isinstance(given, int | float) and not isinstance(given, bool):
            number = _finite(given)
            inside = number is not None and (self.low is None or number >= self.low)
            if number is not None and inside and (self.high is None or number <= self.high):
                return Value(number, None)
        raise Invalid(f"{field}: a verdict {self.name!r} is {self.expected}, not {_shown(given)}", field=field)

    def _word(self, given: str) -> bool:
        return given in self.categories if self.categories else 0 < len(given) <= _WORD and given.isprintable()

    @property
    def expected(self) -> str:
        """The values that there can be, in words."""
        if self.sort == "boolean":
            return "true or false"
        if self.sort == "category":
            return f"one of {', '.join(self.categories)}" if self.categories else f"text of 1 to {_WORD} characters"
        if self.low is not None and self.high is not None:
            return f"a number from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"a number from {self.low:g}"
        return "a number" if self.high is None else f"a number up to {self.high:g}"

    def said(self, value: Value) -> bool | float | str | None:
        """``value`` as it was given."""
        if self.sort == "boolean" and value.number is not None:
            return value.number == 1.0
        return value.word if value.number is None else value.number


@dataclass(frozen=True, slots=True)
class Value:
    """What a verdict says: a number (a boolean is 0 or 1), or a category's word."""

    number: float | None
    word: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One opinion. Times are microseconds since the epoch.

    ``origin`` is the team whose key sent it (empty: an administrator's), within which ``id`` is unique. ``team`` is the
    team whose calls it is about; empty while that is not known, which only a verdict about a call may be. ``sender`` is
    the name of the key that sent it, ``edit`` the place of an edit's content.
    """

    origin: str
    id: str
    team: str
    about: About
    subject: str
    name: str
    by: str
    number: float | None
    word: str | None
    why: str
    at: int
    received: int
    sender: str
    edit: str | None = None
    matched: bool = False

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """Of the verdicts of one group the latest counts, the others are its history."""
        return (self.team, self.about, self.subject, self.name, self.by)

    @property
    def order(self) -> tuple[int, str, str]:
        """Later in a group is what is greater here: its time, then its id, so that arrival plays no part."""
        return (self.at, self.id, self.origin)

    def same(self, other: Verdict) -> bool:
        """Whether ``other`` says the same, of the same subject."""
        return (self.about, self.subject, self.name, self.by, self.number, self.word) == (
            (other.about, other.subject, other.name, other.by, other.number, other.word)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """Which verdicts are asked for: all that is given must hold. ``subjects`` are pairs of what it is about and its name.

    ``since`` is in microseconds since the epoch. ``after`` is the order of the last verdict of the page before.
    """

    team: str | None = None
    subjects: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    by: str | None = None
    since: int | None = None
    unmatched: bool = False
    history: bool = False
    after: tuple[int, str, str] | None = None
    limit: int = 100


BUILT_IN: Mapping[str, VerdictType] = {
    one.name: one
    for one in (
        VerdictType("thumbs", "boolean", low_when=False),
        VerdictType("rating", "number", 1.0, 5.0, "stars", low_below=3.0),
        VerdictType("edit", "number", 0.0, 1.0, "share changed", low_above=0.5),
        VerdictType("task_success", "boolean", low_when=False),
        VerdictType("handoff", "boolean", low_when=True),
        VerdictType("outcome", "number"),
    )
}
"""The types that are always there; a bundle may give them other ranges, units and thresholds, not another sort."""


def known(types: Mapping[str, VerdictType], name: str, field: str = "name") -> VerdictType:
    """The type ``name``. Raises ``Invalid`` that names those there are."""
    found = types.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, types, 1, 0.6)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise Invalid(
        f'{field}: there is no verdict type "{name[:60]}"; {hint}there are {", ".join(sorted(types))}', field=field
    )


def checked_by(by: str, field: str = "by") -> str:
    """``by``, who judged. Raises ``Invalid`` for what is none."""
    if _BY.fullmatch(by) is None:
        raise Invalid(f"{field}: who judged is user, product, judge:NAME or human:NAME, not {_shown(by)}", field=field)
    return by


def latest(verdicts: list[Verdict]) -> list[Verdict]:
    """Of each group the one that counts, whatever the order of ``verdicts``."""
    found: dict[tuple[str, ...], Verdict] = {}
    for one in verdicts:
        there = found.get(one.group)
        if there is None or one.order > there.order:
            found[one.group] = one
    return list(found.values())


def _finite(given: int | float) -> float | None:
    try:
        number = float(given)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(given: object) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    if given is None:
        return "nothing"
    if isinstance(given, int | float):
        return f"{given:g}" if isinstance(given, float) else str(given)[:40]
    return f'"{given[:40]}"' if isinstance(given, str) else "another sort of value"
