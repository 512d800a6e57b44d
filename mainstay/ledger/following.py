"""The calls of the ledger in the order in which it took them in, from a place on: for those who pass them on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from mainstay.core.ids import made_at
from mainstay.ledger.query import Ledger
from mainstay.ledger.record import VERSION, CallRecord
from mainstay.ledger.rows import SELECTED, row

_log = logging.getLogger(__name__)
_SLACK = 600.0  # seconds by which the clock may have gone back


class Place(NamedTuple):
    """Behind the call ``id``, which was taken in at ``taken`` (microseconds since the epoch)."""

    taken: int
    id: str = ""


class Following:
    """Reads on behind a place. Only calls that are in segments are read: what a kill takes back was never told.

    A call is found behind its place also when segments have been merged meanwhile: its place is in its row.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._end: tuple[Place, frozenset[str]] | None = None  # behind this place these segments had nothing

    async def read(self, place: Place, limit: int) -> tuple[list[CallRecord], Place]:
        """At most ``limit`` calls behind ``place``, and the place behind them."""
        with self._ledger.pinned() as view:
            ids = frozenset(one.id for one in view.segments)
            if self._end == (place, ids):
                return [], place
            newer = [one for one in view.segments if made_at(one.id) + _SLACK >= place.taken / 1e6]
            found = await self._ledger.engine.read(
                f"SELECT {SELECTED} FROM {self._ledger.files.source(newer)} "
                'WHERE "source" IS NULL AND (taken > ? OR (taken = ? AND id > ?)) ORDER BY taken, id '
                f"LIMIT {limit}",
                [place.taken, place.taken, place.id],
            )
        rows = [row(values) for values in found]
        if not rows:
            self._end = place, ids
            return [], place
        return list(_records(rows)), Place(rows[-1]["taken"], rows[-1]["id"])


def _records(rows: Iterable[dict[str, Any]]) -> Iterator[CallRecord]:
    for one in rows:
        try:
            yield record_of(one)
        except msgspec.ValidationError as error:  # it could not be read again either
            _log.error("the row of call %s cannot be passed on: %s", one["id"], error)


def record_of(row: dict[str, Any]) -> CallRecord:
    """A row of the ledger as the record that it was."""
    given = _given({name: value for name, value in row.items() if name != "taken"})
    return msgspec.convert({**given, "v": given.get("v", VERSION)}, CallRecord)


def _given(value: Any) -> Any:
    """``value`` without what is null in it, which a record leaves out."""
    if isinstance(value, dict):
        members: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {name: _given(one) for name, one in members.items() if one is not None}
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [_given(one) for one in items if one is not None]
    return value
