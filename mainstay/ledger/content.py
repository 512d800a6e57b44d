"""Inputs and outputs of calls, stored apart from their records, under their own retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mainstay.ledger.spool import FOLDER, Content, decode, reference
from mainstay.store.blobs import Blobs

SCOPE = "content"
"""The scope of the blobs."""

_PAGE = 1000
_AT_ONCE = 8
_LARGEST = 64 * 1024 * 1024
_log = logging.getLogger(__name__)


class ContentStore:
    """Takes content out of the gateways' spools into blobs named by ``spool.reference``, compressed."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.unreadable = 0
        """Files in a spool that were no content."""

    async def collect(self, journal: Path, limit: int = 64) -> int:
        """Store what waits in the spool of ``journal``, at most ``limit`` contents; how many. Raises ``OSError``.

        A content is deleted from the spool once it is stored: killed in between, it is stored again, as the same.
        """
        folder = journal / FOLDER
        names = await asyncio.to_thread(_waiting, folder, limit)
        for start in range(0, len(names), _AT_ONCE):
            async with asyncio.TaskGroup() as group:  # most of the time goes into waiting for the disk
                for name in names[start : start + _AT_ONCE]:
                    group.create_task(self._stored(folder / name))
        return len(names)

    async def _stored(self, path: Path) -> None:
        place = _place(path.name)
        data = None if place is None else await asyncio.to_thread(_read, path)
        if place is None or data is None:
            self.unreadable += 1
            _log.warning("a file in the content spool of %s is no content and is removed", path.parent.parent.name)
        else:
            await self._blobs.put(SCOPE, place, data)
        await asyncio.to_thread(path.unlink, True)

    async def get(self, call: str) -> Content | None:
        """The content of call ``call``; None if it has none, or none any more."""
        place = _place(call)
        data = None if place is None else await self._blobs.get(SCOPE, place)
        return None if data is None else _unpacked(data)

    async def erase(self, calls: Iterable[str]) -> int:
        """Delete the content of these calls; how many had some."""
        erased = 0
        for call in calls:
            place = _place(call)
            erased += place is not None and await self._blobs.delete(SCOPE, place)
        return erased

    async def sweep(self, before: int) -> int:
        """Delete the content of the calls made on days (UTC) that ended by ``before`` (microseconds); how many."""
        day = before // 86_400_000_000
        swept = 0
        while True:
            found = await self._blobs.list(SCOPE, limit=_PAGE)
            old = [blob.name for blob in found if int(blob.name.partition("/")[0]) < day]
            for name in old:
                swept += await self._blobs.delete(SCOPE, name)
            if len(old) < _PAGE:
                return swept


def _place(call: str) -> str | None:
    """Where the content of ``call`` would be; None if that is no call's id."""
    if not call.isascii() or not call.replace("_", "").isalnum() or len(call) > 100:
        return None
    try:
        return reference(call)
    except ValueError:
        return None


def _waiting(folder: Path, limit: int) -> list[str]:
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
                if len(names) >= limit:
                    break
    return names


def _read(path: Path) -> bytes | None:
    """What lies at ``path``, checked and compressed; None if it is not the content of that call."""
    data = path.read_bytes()
    try:
        return zlib.compress(data, 1) if decode(data).call == path.name else None
    except msgspec.MsgspecError:
        return None


def _unpacked(data: bytes) -> Content | None:
    unpacker = zlib.decompressobj()
    try:
        return decode(unpacker.decompress(data, _LARGEST))
    except (zlib.error, msgspec.MsgspecError):
        return None
