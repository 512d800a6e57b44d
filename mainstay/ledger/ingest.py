"""Turns the gateways' journals into the ledger, exactly once, and settles what calls cost in the same transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.clock import Clock
from mainstay.core.errors import Conflict
from mainstay.ledger.content import ContentStore
from mainstay.ledger.counters import Counters
from mainstay.ledger.query import SCOPE, Ledger
from mainstay.ledger.record import CallRecord, crashed, encode
from mainstay.ledger.tail import Found, Tail, removed_leftovers
from mainstay.store.database import Database
from mainstay.store.manifest import JournalCursor, Manifest, Segment, Totals

Settle = Callable[[AsyncConnection, str, Mapping[str, int]], Awaitable[None]]
"""Adds a gateway's charges, in nano-dollars per pool, to what its shares have spent; within the transaction."""

Recovered = Callable[[AsyncConnection, str], Awaitable[None]]
"""A dead gateway is settled: its shares shrink to what they have spent; within the same transaction."""

_ERROR_PAUSE = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """How far behind the ledger is, and what it holds.

    ``lag_bytes`` are at most still to be read, ``lag_seconds`` is how long ago the slowest journal was last read to
    its end. ``stored``, ``dropped`` and ``corrupt`` count since the ledger began; ``fresh`` rows are among the stored.
    """

    lag_bytes: int
    lag_seconds: float
    stored: int
    dropped: int
    corrupt: int
    fresh: int
    gateways: tuple[str, ...]
    error: str | None


@dataclass(slots=True)
class _Move:
    tail: Tail
    before: JournalCursor | None
    after: JournalCursor
    charges: dict[str, int]


@dataclass(slots=True)
class _Flush:
    """Rows on their way into the manifest; tried again as it is until it is through."""

    table: str
    moves: list[_Move]
    more: Totals
    segment: Segment | None = None
    written: bool = False


@dataclass(slots=True)
class _State:
    tails: dict[str, Tail] = field(default_factory=dict[str, Tail])
    flush: _Flush | None = None
    totals: Totals = field(default_factory=Totals)
    last_flush: float = 0.0
    error: str | None = None


class Ingest:
    """Reads ``journals/*``; one per control process. App starts it, runs ``run`` as a task, and wakes it.

    Rows are visible to queries after the turn that read them. Every ``flush_seconds``, or at ``flush_rows`` rows,
    they are written to a segment, and one transaction names it in the manifest, moves the cursors, and settles the
    charges. Above ``fresh_limit`` rows in memory nothing more is read: the journals grow instead.
    """

    def __init__(
        self,
        journals: Path,
        database: Database,
        manifest: Manifest,
        ledger: Ledger,
        counters: Counters,
        *,
        settle: Settle,
        recovered: Recovered,
        content: ContentStore | None = None,
        saw: Callable[[CallRecord], None] | None = None,
        clock: Clock | None = None,
        poll: float = 0.2,
        flush_seconds: float = 5.0,
        flush_rows: int = 50_000,
        fresh_limit: int = 200_000,
        turn_bytes: int = 1024 * 1024,
    ) -> None:
        self._journals = journals
        self._database = database
        self._manifest = manifest
        self._ledger = ledger
        self._counters = counters
        self._settle = settle
        self._recovered = recovered
        self._content = content
        self._saw = saw
        self._clock = clock or Clock()
        self._poll = poll
        self._flush_seconds = flush_seconds
        self._flush_rows = flush_rows
        self._fresh_limit = fresh_limit
        self._turn_bytes = turn_bytes
        self._state = _State(last_flush=self._clock.monotonic())
        self._busy = asyncio.Lock()
        self._woken = asyncio.Event()
        self._asked: list[asyncio.Future[None]] = []  # who waits for a turn that has yet to begin
        self._running = self._stopping = False
        self._torn = False
        self._content_failed = False

    async def start(self) -> None:
        """Find out how far the journals have been taken in, and remove those that are done with."""
        await asyncio.to_thread(self._journals.mkdir, 0o700, True, True)
        await asyncio.to_thread(removed_leftovers, self._journals)
        async with self._database.write() as connection:
            self._state.totals = await self._manifest.count(connection, SCOPE, Totals())
            cursors = await self._manifest.cursors(connection)
            for gateway in cursors:
                if not (self._journals / gateway).is_dir():
                    await self._manifest.forget(connection, gateway)
        for gateway, cursor in cursors.items():
            if (self._journals / gateway).is_dir():
                tail = Tail(self._journals / gateway, cursor, self._clock.monotonic())
                if cursor.recovered:  # killed between the transaction and the removal
                    await self._removed(tail)
                else:
                    await asyncio.to_thread(tail.rebuild)
                    self._state.tails[gateway] = tail

    async def run(self) -> None:
        """Take in what comes, until ``stop``. Raises ``Conflict`` if another process takes in the same journals."""
        self._running = True
        while not self._stopping:
            more = False
            asked, self._asked = self._asked, []
            try:
                more = await self.turn()
                self._state.error = None
            except Conflict:
                raise
            except Exception as error:  # a full disk, a database that is away: the journals wait
                if self._state.error is None:
                    _log.exception("the journals cannot be taken in; trying again")
                self._state.error = f"{type(error).__name__}: {error}"
            if more:
                self._asked += [one for one in asked if not one.done()]  # the others have waited long enough
            else:
                _answer(asked)
            if not more and not self._stopping:
                pause = self._poll if self._state.error is None else _ERROR_PAUSE
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), pause)
                self._woken.clear()
        _answer(self._asked)
        await self.turn()
        await self.flush()

    async def caught_up(self, patience: float = 1.0) -> None:
        """Wait until what is in the journals at this moment can be asked for, ``patience`` seconds at most.

        So a caller that has its reply finds its call, without waiting for the next look. Only while ``run`` runs.
        """
        if self._stopping or not self._running:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        self.wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, patience)

    def wake(self) -> None:
        """There is something to read."""
        self._woken.set()

    def stop(self) -> None:
        """Let ``run`` end, after it has taken in what is there."""
        self._stopping = True
        self._woken.set()

    async def turn(self) -> bool:
        """Read once from every journal, and flush if it is time; whether more can be read at once."""
        async with self._busy:
            more = await self._turn()
            rows, now = self._ledger.fresh_rows, self._clock.monotonic()
            dead = any(tail.finished for tail in self._state.tails.values())
            if rows >= self._flush_rows or dead or now - self._state.last_flush >= self._flush_seconds:
                await self._flush()
            await self._ledger.tidy()
            return more

    async def flush(self) -> None:
        """Write all rows that were read to a segment and settle them, now."""
        async with self._busy:
            await self._flush()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncGenerator[None]:
        """Everything that was journalled is in segments, and nothing is taken in within."""
        async with self._busy:
            more = True
            while more:
                more = await self._turn()
                if self._ledger.fresh_rows >= self._flush_rows:  # nothing is read above the limit
                    await self._flush()
                    more = True
            await self._flush()
            yield

    def status(self) -> Status:
        """The figures of this moment."""
        state, now = self._state, self._clock.monotonic()
        waiting = [tail for tail in state.tails.values() if tail.lag_bytes]
        flushing = state.flush.more if state.flush is not None else Totals()
        return Status(
            lag_bytes=sum(tail.lag_bytes for tail in waiting),
            lag_seconds=max((now - tail.at_end for tail in waiting), default=0.0),
            stored=state.totals.stored + self._ledger.fresh_rows,
            dropped=state.totals.dropped + flushing.dropped + sum(tail.dropped for tail in state.tails.values()),
            corrupt=state.totals.corrupt + flushing.corrupt + sum(tail.corrupt for tail in state.tails.values()),
            fresh=self._ledger.fresh_rows,
            gateways=tuple(state.tails),
            error=state.error,
        )

    async def _turn(self) -> bool:
        state = self._state
        for folder in await asyncio.to_thread(_folders, self._journals):
            if folder.name not in state.tails:
                state.tails[folder.name] = Tail(folder, None, self._clock.monotonic())
        more = False
        for tail in list(state.tails.values()):
            if tail.finished:
                continue
            more = await self._collect(tail) or more
            if self._ledger.fresh_rows >= self._fresh_limit:
                await asyncio.to_thread(tail.measure)
                continue
            found = await asyncio.to_thread(tail.read, self._turn_bytes)
            await self._take_in(tail, found)
            if not found.at_end:
                more = True
            elif found.dead:
                await self._recover(tail)
        return more

    async def _collect(self, tail: Tail) -> bool:
        if self._content is None:
            return False
        try:
            more = await self._content.collect(tail.reader.folder) > 0
        except* OSError as error:  # calls are recorded though their content cannot be stored; the spool keeps it
            if not self._content_failed:
                _log.error("the content of calls cannot be stored: %s", error.exceptions[0])
            self._content_failed = True
            more = False
        else:
            self._content_failed = False
        return more

    async def _take_in(self, tail: Tail, found: Found) -> None:
        # What cannot be shown is not read: only when the rows are in does the tail move on.
        with self._whole():
            unreadable = await self._ledger.add([payload for payload, _ in found.closed])
            tail.apply(found, unreadable, self._clock.monotonic())
        for _, record in found.closed:
            self._shown(record)

    async def _recover(self, tail: Tail) -> None:
        """A dead gateway's journal has been read to its end: the calls that are still open have crashed."""
        if self._content is not None:
            while await self._content.collect(tail.reader.folder):
                pass
        records = [crashed(record) for record in tail.open_calls()]
        if records:
            _log.warning("gateway %s died with %d calls open", tail.gateway, len(records))
        with self._whole():
            await self._ledger.add([encode(record) for record in records])
            tail.finish(records)
        for record in records:
            self._shown(record)

    def _shown(self, record: CallRecord) -> None:
        """Tell those who follow the calls of one that queries see now."""
        self._counters.add(record)
        if self._saw is not None:
            self._saw(record)

    @contextlib.contextmanager
    def _whole(self) -> Generator[None]:
        # Cancelled in here, rows may be in the table without the tail knowing. They are not flushed then, ever: the
        # next process reads them again.
        try:
            yield
        except asyncio.CancelledError:
            self._torn = True
            raise

    async def _flush(self) -> None:
        state = self._state
        if self._torn:
            return
        if state.flush is None:
            state.last_flush = self._clock.monotonic()
            if any(tail.moved for tail in state.tails.values()):
                table = await self._ledger.freeze()
                state.flush = self._gathered(table)  # nothing is read between the two
        if state.flush is not None:
            flush = state.flush
            if not flush.written:
                flush.segment = await self._ledger.write(flush.table)
                flush.written = True
            await self._commit(flush)
            for move in flush.moves:
                move.tail.committed = move.after
            state.flush = None
            await self._ledger.adopt(flush.table, flush.segment)
            for move in flush.moves:
                await asyncio.to_thread(move.tail.reader.delete_before, move.after.segment)
        for tail in list(state.tails.values()):
            if tail.committed is not None and tail.committed.recovered:
                await self._removed(tail)
                del state.tails[tail.gateway]

    def _gathered(self, table: str) -> _Flush:
        flush = _Flush(table, [], Totals())
        dropped = corrupt = 0
        for tail in self._state.tails.values():
            if tail.moved:
                dropped += tail.take_dropped()
                corrupt += tail.take_corrupt()
                flush.moves.append(_Move(tail, tail.committed, tail.cursor_row(), tail.take_charges()))
        flush.more = Totals(0, dropped, corrupt)
        return flush

    async def _commit(self, flush: _Flush) -> None:
        rows = 0 if flush.segment is None else flush.segment.rows
        more = Totals(rows, flush.more.dropped, flush.more.corrupt)
        async with self._database.write() as connection:
            if flush.segment is not None:
                done = not await self._manifest.add(connection, SCOPE, flush.segment)
            else:
                stand = await self._manifest.cursors(connection)
                done = all(stand.get(move.after.gateway) == move.after for move in flush.moves)
            if done:  # it was committed before, though the answer to that got lost
                more = Totals()
            for move in flush.moves if not done else ():
                await self._manifest.move(connection, move.before, move.after)
                if move.charges:
                    await self._settle(connection, move.after.gateway, move.charges)
                if move.after.recovered:
                    await self._recovered(connection, move.after.gateway)
            totals = await self._manifest.count(connection, SCOPE, more)
        self._state.totals = totals

    async def _removed(self, tail: Tail) -> None:
        await asyncio.to_thread(tail.reader.dead)  # nobody takes the folder while it goes
        await asyncio.to_thread(tail.reader.remove)
        async with self._database.write() as connection:
            await self._manifest.forget(connection, tail.gateway)


def _answer(asked: list[asyncio.Future[None]]) -> None:
    for done in asked:
        if not done.done():
            done.set_result(None)


def _folders(journals: Path) -> list[Path]:
    return sorted(path for path in journals.iterdir() if path.is_dir() and not path.name.startswith("."))
