"""Transactions on pools, as many requests in each as there are: what one asks waits for nobody's disk but its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.clock import Clock
from mainstay.store.database import Database
from mainstay.store.shares import PoolRow, ShareRow, SharesPort

BATCH = 256
"""Requests that go into one transaction, at most."""


@dataclass(slots=True)
class _Turn:
    """One request within a batch: what it does to the loaded pools."""

    names: Collection[str]
    apply: Callable[[Books], Any]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Alone:
    """A request that has a transaction to itself."""

    run: Callable[[AsyncConnection], Awaitable[Any]]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class Books:
    """The pools of one batch, and what has changed in them."""

    rows: dict[str, PoolRow]
    changes: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def add(self, pool: str, gateway: str, units: int) -> None:
        share = self.rows[pool].shares.setdefault(gateway, ShareRow(0))
        units = max(units, -share.granted)
        share.granted += units
        self.changes[(pool, gateway)] = self.changes.get((pool, gateway), 0) + units


class Turns:
    """Does what it is asked in the order in which it is asked."""

    def __init__(self, database: Database, store: SharesPort, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._queue: list[_Turn | _Alone] = []
        self._worker: asyncio.Task[None] | None = None

    async def take(self, names: Collection[str], apply: Callable[[Books], Any]) -> Any:
        """What ``apply`` makes of these pools; its changes are kept, together with those of others."""
        return await self._submit(_Turn(names, apply, asyncio.get_running_loop().create_future()))

    async def alone(self, run: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        """What ``run`` makes in a transaction of its own."""
        return await self._submit(_Alone(run, asyncio.get_running_loop().create_future()))

    async def close(self) -> None:
        """Wait until everything that was asked is done."""
        if self._worker is not None:
            await self._worker

    async def _submit(self, request: _Turn | _Alone) -> Any:
        self._queue.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="shares")
        return await request.done

    async def _work(self) -> None:
        """Do what is queued, as many requests per transaction as there are. Cancelling one that waits stops nothing."""
        while self._queue:
            first = self._queue[0]
            if isinstance(first, _Alone):
                batch: list[_Turn | _Alone] = [self._queue.pop(0)]
            else:
                end = 0
                while end < min(len(self._queue), BATCH) and isinstance(self._queue[end], _Turn):
                    end += 1
                batch, self._queue = self._queue[:end], self._queue[end:]
            try:
                results = await self._transact(batch)
            except Exception as error:
                for request in batch:
                    if not request.done.done():
                        request.done.set_exception(error)
            else:
                for request, result in zip(batch, results, strict=True):
                    if not request.done.done():
                        request.done.set_result(result)

    async def _transact(self, batch: list[_Turn | _Alone]) -> list[Any]:
        async with self._database.write() as connection:
            if isinstance(batch[0], _Alone):
                return [await batch[0].run(connection)]
            now = self._clock.now()
            turns = [request for request in batch if isinstance(request, _Turn)]
            names = {name for turn in turns for name in turn.names}
            books = Books(await self._store.load(connection, names, now))
            results = [turn.apply(books) for turn in turns]
            await self._store.grant(connection, books.changes, now)
            return results
