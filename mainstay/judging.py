"""Control's part for verdicts: their types, their joining to calls, and the outcome figures of the last day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mainstay.core.artifact import Artifact
from mainstay.core.verdict import BUILT_IN, VerdictType
from mainstay.ledger.counters import Sample
from mainstay.ledger.filter import Filter
from mainstay.ledger.judged import low
from mainstay.ledger.record import CallRecord
from mainstay.ledger.verdicts import Verdicts
from mainstay.observe.outcome_metrics import BY, GROUPS, samples
from mainstay.observe.outcomes import Outcome, outcomes
from mainstay.registry import verdict_types
from mainstay.store.blobs import Blobs
from mainstay.store.verdicts import SqlVerdicts

if TYPE_CHECKING:
    from mainstay.control import Control

_DAY = 86_400_000_000
_SOON, _EVERY = 2.0, 60.0  # seconds between two reckonings, at least and at most
_SHARE = 20.0  # a reckoning that took a second is not done again for so many
_log = logging.getLogger("mainstay.control")


class Judging:
    """What control knows of verdicts. Made before the ledger's ingest, opened before anything is taken in."""

    def __init__(self, control: Control, blobs: Blobs) -> None:
        self.types: Mapping[str, VerdictType] = BUILT_IN
        """Every verdict type in force."""
        self._control = control
        self._day: list[Outcome] = []
        self.verdicts = Verdicts(
            control.ledger,
            control.database,
            SqlVerdicts(),
            blobs,
            control.ids,
            control.clock,
            lambda: self.types,
        )

    async def open(self) -> None:
        """Read what is there."""
        await self.verdicts.open()

    def in_force(self, artifacts: Iterable[Artifact]) -> None:
        """These artifacts are in force now."""
        self.types = verdict_types.in_force(artifacts)

    def saw(self, record: CallRecord) -> None:
        """A call has come into the ledger."""
        self.verdicts.saw(record)

    async def low(self) -> Filter:
        """The calls that did not satisfy, by the thresholds of the types in force."""
        await self.verdicts.match()
        return Filter(*low(self.types.values()))

    async def run(self) -> None:
        """Join verdicts to calls as they come, and reckon the last day's figures, at least every minute."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.verdicts.run())
            group.create_task(self._reckon())

    async def _reckon(self) -> None:
        seen: tuple[int, ...] = ()
        clock, pause = self._control.clock, _SOON
        while True:
            mark = (self._control.ingest.status().stored, self.verdicts.accepted.total(), self.verdicts.unmatched)
            if mark != seen or pause == _EVERY:  # calls also leave the window by themselves
                began = clock.monotonic()
                try:
                    await self.verdicts.match()
                    since = int(clock.now() * 1e6) - _DAY
                    self._day = await outcomes(self._control.ledger, self.types, BY, since=since, limit=GROUPS)
                    seen = mark
                except Exception as error:  # too slow, too large, a database that is away: the last figures stay
                    _log.warning("the outcome figures of the last day cannot be reckoned: %s", type(error).__name__)
                pause = min(_EVERY, max(_SOON, _SHARE * (clock.monotonic() - began)))
            else:
                pause = min(_EVERY, pause * 2)
            await asyncio.sleep(pause)

    def samples(self) -> Iterable[Sample]:
        """The figures for Prometheus."""
        return samples(self.verdicts.accepted, self.verdicts.unmatched, self._day)
