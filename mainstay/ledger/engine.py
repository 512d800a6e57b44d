"""DuckDB in memory, fenced in: threads, memory, files of one folder, time limits."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from mainstay.core.errors import MainstayError, Unavailable

T = TypeVar("T")

_READERS = 2


class TooSlow(Unavailable):
    """A query took longer than it may."""

    code = "query_timeout"


class Engine:
    """One writer at a time, two readers beside it, each in a thread of its own; nothing outside ``folder`` is reached.

    Extensions are neither loaded nor fetched, and no statement can change that. ``memory`` is DuckDB's own limit
    (such as 512MB); what does not fit is spilled to ``folder/tmp``, at most 4 GB of it.
    """

    def __init__(self, folder: Path, *, memory: str = "512MB", threads: int = 2, timeout: float = 30.0) -> None:
        folder = folder.absolute()
        self.temporary = folder / "tmp"
        """Files that are being made; emptied at every start."""
        self._timeout = timeout
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True, mode=0o700)
        options: dict[str, str | bool | int | float | list[str]] = {
            "threads": str(threads),
            "memory_limit": memory,
            "temp_directory": str(self.temporary / "spill"),
            "max_temp_directory_size": "4GB",
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        }
        self._connection = duckdb.connect(":memory:", config=options)
        folders = quoted(str(folder))
        for statement in (
            f"SET allowed_directories = [{folders}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(statement).fetchall()
        self._writer = ThreadPoolExecutor(1, "ledger-writer")
        self._builder = ThreadPoolExecutor(1, "ledger-builder")
        self._readers = ThreadPoolExecutor(_READERS, "ledger-reader")
        self._closed = False

    async def write(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run ``work`` on the writer's connection, after what was asked of it before. It is not interrupted."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, self._connection)

    async def build(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run ``work``, which makes a file, on a connection of its own beside writer and readers, one at a time."""

        def run() -> T:
            cursor = self._connection.cursor()
            try:
                return work(cursor)
            finally:
                cursor.close()

        return await asyncio.get_running_loop().run_in_executor(self._builder, run)

    async def read(
        self, sql: str, parameters: Sequence[Any] = (), *, timeout: float | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises ``TooSlow`` after ``timeout`` seconds; a caller who goes away ends it, too."""
        query = _Query(self._connection, sql, parameters)
        work = asyncio.get_running_loop().run_in_executor(self._readers, query.run)
        limit = self._timeout if timeout is None else timeout
        try:
            return await asyncio.wait_for(asyncio.shield(work), limit)
        except (TimeoutError, asyncio.CancelledError) as error:
            while not work.done():  # again and again: an interruption between two steps of a query is lost on it
                query.interrupt()
                await asyncio.wait([work], timeout=0.05)
            if isinstance(error, TimeoutError):
                if not work.exception():
                    return work.result()
                raise TooSlow(
                    f"the query took longer than {limit:g} s; narrow the time span or the filter", retry_after=1.0
                ) from None
            work.exception()  # seen, so that nobody reports it as lost
            raise
        except duckdb.OutOfMemoryException as error:
            raise MainstayError(
                "the query needs more memory than the ledger may use; narrow it", code="query_too_large"
            ) from error

    async def close(self) -> None:
        """End all work and free the memory."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._readers.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self._builder.shutdown, wait=True)
        await asyncio.to_thread(self._writer.shutdown, wait=True)
        self._connection.close()


class _Query:
    """One query on a connection of its own, which can be interrupted from another thread at any moment."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any]) -> None:
        self._connection = connection
        self._sql = sql
        self._parameters = list(parameters)
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._interrupted = False
        self._guard = threading.Lock()

    def run(self) -> list[tuple[Any, ...]]:
        with self._guard:
            if self._interrupted:
                raise TooSlow("the query was given up before it began")
            cursor = self._cursor = self._connection.cursor()
        try:
            return cursor.execute(self._sql, self._parameters).fetchall()
        finally:
            with self._guard:
                self._cursor = None
            cursor.close()

    def interrupt(self) -> None:
        with self._guard:
            self._interrupted = True
            if self._cursor is not None:
                self._cursor.interrupt()


def quoted(text: str) -> str:
    """``text`` as an SQL string, for the few places that take no parameter (file names, which are our own)."""
    return "'" + text.replace("'", "''") + "'"
