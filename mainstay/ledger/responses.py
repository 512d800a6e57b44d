"""Responses of the Responses API, stored for their team: taken out of the spool, found, listed, forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from mainstay.core.errors import NotFound, TooLarge
from mainstay.ledger.response_spool import StoredResponse, decode
from mainstay.ledger.spool import reference
from mainstay.store.blobs import Blobs
from mainstay.store.database import Database
from mainstay.store.responses import LONGEST_ID, ResponseRow, ResponsesPort
from mainstay.wire.openai_responses_state import stored_input

Json = dict[str, Any]

SCOPE = "responses"
"""The scope of the blobs."""

_AT_ONCE = 8
_BATCH_BYTES = 8 * 1024 * 1024
_PAUSE, _ERROR_PAUSE = 0.2, 1.0
_THREADS = 200
_TRIES, _TRY_PAUSE = 20, 0.005
_LARGEST = 80 * 1024 * 1024
_log = logging.getLogger(__name__)


class History(NamedTuple):
    """Everything that was said up to and with the response ``key`` of the thread ``root``, oldest first."""

    key: str
    root: str
    items: list[Json]


class Responses:
    """Every method keeps to one team. Reading takes in first what still waits in the spool, so that a response can be
    found as soon as its caller has it. One per control process; app starts it and runs ``run`` as a task."""

    def __init__(
        self, spool: Path, database: Database, store: ResponsesPort, blobs: Blobs, limit: int = 32 * 1024 * 1024
    ) -> None:
        self.unreadable = 0
        """Files in the spool that were no response."""
        self._spool = spool
        self._database = database
        self._store = store
        self._blobs = blobs
        self._limit = limit  # bytes of a history
        self._collecting = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def run(self) -> None:
        """Take in what comes, until ``stop``."""
        failing = False
        while not self._stopping.is_set():
            try:
                await self.collect()
                failing = False
            except Exception as error:  # a full disk, a database that is away: the spool waits
                if not failing:
                    _log.error("responses cannot be stored, trying again: %s", type(error).__name__)
                failing = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _ERROR_PAUSE if failing else _PAUSE)
        with contextlib.suppress(Exception):
            await self.collect()

    def stop(self) -> None:
        """Let ``run`` end, after it has taken in what is there."""
        self._stopping.set()

    async def collect(self) -> int:
        """Store all that waits in the spool; how many. Raises when the storage fails: what waits stays.

        A file is removed once all of it is stored: killed in between, it is stored again, as the same.
        """
        total = 0
        async with self._collecting:
            for path in await asyncio.to_thread(_waiting, self._spool):
                total += await self._taken(path)
        return total

    async def _taken(self, path: Path) -> int:
        """Store what is in one file; nothing if its gateway writes to it at this moment."""
        file = await asyncio.to_thread(_locked, path)
        if file is None:
            return 0
        total = 0
        try:
            while batch := await asyncio.to_thread(_batch, file):
                rows = await asyncio.gather(*(self._kept(data) for data in batch))
                async with self._database.write() as connection:
                    for row in rows:
                        if row is not None:
                            await self._store.put(connection, row)
                            total += 1
            await asyncio.to_thread(path.unlink, True)
        finally:
            file.close()  # and with it the lock
        return total

    async def _kept(self, data: bytes) -> ResponseRow | None:
        read = await asyncio.to_thread(_read, data)
        if read is None:
            self.unreadable += 1
            _log.warning("what waits in the spool of responses is no response and is left out")
            return None
        stored, place, packed = read
        await self._blobs.put(SCOPE, place, packed)
        return ResponseRow(
            stored.key, stored.team, stored.id, stored.root, stored.previous, stored.at, stored.user, len(data)
        )

    async def response(self, team: str, identifier: str) -> bytes:
        """The response object as JSON. Raises ``NotFound``."""
        return (await self._content(await self._row(team, identifier))).response

    async def history(self, team: str, identifier: str) -> History:
        """What a turn that continues the response must know. Raises ``NotFound``, or ``TooLarge`` if it is too long."""
        row = await self._row(team, identifier)
        items: list[Json] = []
        for stored in await self._chain(row):
            items += _asked(stored)
            items += _answered(stored)
        return History(row.key, row.root, items)

    async def input_items(self, team: str, identifier: str) -> list[Json]:
        """All items that the response was made from, those of earlier turns included, each with an id. Raises ``NotFound``."""
        items: list[Json] = []
        stored: StoredResponse | None = None
        for one in await self._chain(await self._row(team, identifier)):
            if stored is not None:
                items += _answered(stored)
            items += _asked(one, listed=True)
            stored = one
        return items

    async def delete(self, team: str, identifier: str) -> None:
        """Forget the response. Raises ``NotFound``."""
        await self.collect()  # what waits must not come back afterwards
        await self._row(team, identifier)
        async with self._database.read() as connection:
            rows = await self._store.find(connection, team, identifier)
        await self._forget(rows)

    async def sweep(self, before: float) -> int:
        """Forget the threads in which nothing has happened since ``before`` (seconds since the epoch); how many responses."""
        forgotten = 0
        while True:
            async with self._database.read() as connection:
                rows = await self._store.expired(connection, before, _THREADS)
            if not rows:
                return forgotten
            forgotten += await self._forget(rows)

    async def erase(self, user: str) -> int:
        """Forget every response to the end user; how many. Later turns of their threads are refused."""
        await self.collect()
        forgotten = 0
        while True:
            async with self._database.read() as connection:
                rows = await self._store.of_user(connection, user, _THREADS)
            if not rows:
                return forgotten
            forgotten += await self._forget(rows)

    async def _forget(self, rows: Iterable[ResponseRow]) -> int:
        # What it says goes first: killed in between, there is a row that leads to nothing.
        keys: list[str] = []
        for row in rows:
            place = _place(row.key)
            if place is not None:
                await self._blobs.delete(SCOPE, place)
            keys.append(row.key)
        async with self._database.write() as connection:
            return await self._store.remove(connection, keys)

    async def _row(self, team: str, identifier: str) -> ResponseRow:
        failed: Exception | None = None
        try:
            await self.collect()
        except Exception as error:  # what is stored can be read, though nothing can be added to it
            failed = error
        async with self._database.read() as connection:
            rows = await self._store.find(connection, team, identifier[:LONGEST_ID])
        if not rows and failed is not None:
            raise failed
        if not rows or len(identifier) > LONGEST_ID:
            raise not_found(identifier)
        return rows[0]

    async def _content(self, row: ResponseRow) -> StoredResponse:
        place = _place(row.key)
        data = None if place is None else await self._blobs.get(SCOPE, place)
        stored = None if data is None else await asyncio.to_thread(_unpacked, data)
        if stored is None:
            raise not_found(row.id)
        return stored

    async def _chain(self, row: ResponseRow) -> list[StoredResponse]:
        """The stored responses from the first of the thread to ``row``."""
        async with self._database.read() as connection:
            thread = {one.key: one for one in await self._store.thread(connection, row.team, row.root)}
        chain = [row]
        while (before := chain[-1].previous) is not None:
            earlier = thread.pop(before, None)
            if earlier is None:
                raise NotFound(
                    f"an earlier turn of the conversation that {row.id[:100]!r} continues was deleted; send the whole "
                    "conversation as input instead",
                    code="previous_response_not_found",
                )
            chain.append(earlier)
        if sum(one.size for one in chain) > self._limit:
            raise TooLarge(
                f"the conversation that {row.id[:100]!r} ends is over the limit of {self._limit} bytes; go on with a "
                "shorter one as input"
            )
        found: list[StoredResponse] = []
        chain.reverse()
        for start in range(0, len(chain), _AT_ONCE):
            found += await asyncio.gather(*(self._content(one) for one in chain[start : start + _AT_ONCE]))
        return found


def not_found(identifier: str) -> NotFound:
    """No such response, as far as the team may know."""
    return NotFound(
        f"there is no response {identifier[:100]!r} that your key may use; only responses that were stored can be used later",
        code="response_not_found",
    )


def _asked(stored: StoredResponse, listed: bool = False) -> list[Json]:
    """The items that were sent in for a response; for a listing each has an id, the same every time."""
    items: list[Json] = []
    for part, given in enumerate((stored.earlier, stored.input)):
        if given:
            count = 0

            def numbered(prefix: str, part: int = part) -> str:
                nonlocal count
                count += 1
                return f"{prefix}{stored.key.rpartition('_')[2]}_{'io'[part == 0]}{count}"

            items += stored_input(b'{"input":%b}' % given, numbered if listed else None)
    return items


def _answered(stored: StoredResponse) -> list[Json]:
    output = cast(Json, msgspec.json.decode(stored.response)).get("output")
    return [cast(Json, item) for item in cast(list[Any], output)] if isinstance(output, list) else []


def _place(key: str) -> str | None:
    if not key.isascii() or not key.replace("_", "").isalnum() or len(key) > 64:
        return None
    try:
        return reference(key)
    except ValueError:
        return None


def _waiting(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries)
    return []


def _locked(path: Path) -> BinaryIO | None:
    """The file, with nobody else at it; None if it is gone, or in use."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:  # for microseconds, unless the gateway was stopped in the midst of it
            time.sleep(_TRY_PAUSE)
    file.close()
    return None


def _batch(file: BinaryIO) -> list[bytes]:
    """The next responses in the file; the last one that was cut is none, its gateway was killed before it answered."""
    found: list[bytes] = []
    size = 0
    while len(found) < _AT_ONCE and size < _BATCH_BYTES:
        head = file.read(4)
        length = int.from_bytes(head, "big")
        if len(head) < 4 or length > _LARGEST or len(data := file.read(length)) < length:
            break
        found.append(data)
        size += length
    return found


def _read(data: bytes) -> tuple[StoredResponse, str, bytes] | None:
    """A response, the name of its blob, and the blob; None if it is none."""
    try:
        stored = decode(data)
        msgspec.json.decode(stored.response, type=Json)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    place = _place(stored.key)
    if place is None or len(stored.id) > LONGEST_ID:
        return None
    return stored, place, zlib.compress(data, 1)


def _unpacked(data: bytes) -> StoredResponse | None:
    unpacker = zlib.decompressobj()
    try:
        return decode(unpacker.decompress(data, _LARGEST))
    except (zlib.error, msgspec.MsgspecError):
        return None
