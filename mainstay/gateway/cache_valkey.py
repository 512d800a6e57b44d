"""The exact cache's entries in a Valkey or Redis server, which the machines of an installation share."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from valkey.asyncio import Valkey
from valkey.asyncio.connection import BlockingConnectionPool

from mainstay.core.clock import Clock
from mainstay.gateway.cache import Entry, Mark
from mainstay.gateway.cache_format import decoded, encoded

log = logging.getLogger("mainstay.gateway.cache")

_HERE: Mark = (0, 0)
"""The mark of an entry that is about to be stored."""

_WAIT = 0.25
"""Seconds that a look may take, the time until a connection stands included."""
_WRITE = 1.0
"""Seconds that storing one entry may take."""
_REST = 5.0
"""Seconds that a server is left alone after it was too slow or not there."""
_CONNECTIONS = 16
_BACKLOG = 32 * 1024 * 1024
"""Bytes of entries that may wait for the server; what comes on top stays in memory alone."""
_PATIENCE = 5.0
"""Seconds that the end waits for what is to be stored."""
_MARK, _NONCE = 16, 12
"""Bytes that an entry's value begins with, by which it is told from another; the first of them are its nonce."""


class Names:
    """What an installation calls its entries in the server: nobody without ``secret`` can guess or make one."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.prefix = b"mainstay:cache:" + hashlib.blake2b(secret, digest_size=8).hexdigest().encode() + b":"

    def of(self, key: bytes) -> bytes:
        """The name of the entry of ``key``."""
        return self.prefix + hashlib.blake2b(key, key=self._secret, digest_size=32).hexdigest().encode()


class Server:
    """Entries in the server at ``url``, sealed with keys that follow from the installation's ``secret`` (32 bytes).

    Every hit of this process's memory is confirmed by a look at the server, which sends 16 bytes for it. A server that
    does not answer in time, or at all, is a miss and never an error, and is left alone for a while; memory goes on.
    """

    def __init__(self, url: str, secret: bytes, clock: Clock) -> None:
        self._clock, self._names = clock, Names(secret)
        self._seal = AESGCM(hashlib.blake2b(key=secret, person=b"seal", digest_size=32).digest())
        self._client: Any = client(url)
        self._resting = float("-inf")  # until then, on the monotonic clock
        self._stored = self._not_stored = 0
        self._waiting: deque[tuple[bytes, Entry | None]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._failing = False

    def get(self, key: bytes, held: Entry | None) -> Entry | Awaitable[Entry | None] | None:
        if self._clock.monotonic() < self._resting or (held is not None and held.mark == _HERE):
            return held
        return self._get(key, held)

    def put(self, key: bytes, entry: Entry, renewed: bool) -> None:
        # Others have an older one until it is there: a moment, since a server cannot be told without waiting.
        if self._waiting_bytes > _BACKLOG:
            self._not_stored += 1
            entry.mark = None
            return
        entry.mark = _HERE
        self._later(key, entry)

    def remove(self, key: bytes) -> None:
        self._later(key, None)

    def gauges(self) -> dict[str, float]:
        return {
            "cache_store_failing": float(self._failing),
            "cache_stored": float(self._stored),
            "cache_not_stored": float(self._not_stored),
        }

    async def run(self, forget: Callable[[], None]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send()

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._send(), _PATIENCE)
        except TimeoutError:
            pass
        await self._client.aclose()

    # reading

    async def _get(self, key: bytes, held: Entry | None) -> Entry | None:
        name = self._names.of(key)
        try:
            async with asyncio.timeout(_WAIT):
                if held is not None and held.mark is not None:
                    mark = await self._client.getrange(name, 0, _MARK - 1)
                    if mark == _packed(held.mark):
                        self._well()
                        return held
                    if not mark:
                        return None
                value = await self._client.get(name)
        except Exception as error:
            self._trouble(error)
            return held
        self._well()
        found = self._opened(key, name, value) if value else None
        if held is not None and held.mark is None and (found is None or found.expires <= held.expires):
            if held.expires:  # it could not be stored before; without a time, it is not to be
                self.put(key, held, renewed=False)
            return held
        return found

    def _opened(self, key: bytes, name: bytes, value: bytes) -> Entry | None:
        mark = value[:_MARK]
        try:
            entry = decoded(key, self._seal.decrypt(mark[:_NONCE], value[_MARK:], name + mark))
        except (InvalidTag, ValueError):
            return None
        if entry is None or entry.expires <= self._clock.now():
            return None
        # Never longer than it had at first, whatever another machine's clock says.
        entry.until = self._clock.monotonic() + min(entry.expires - self._clock.now(), entry.ttl)
        entry.mark = (int.from_bytes(mark[:8], "big"), int.from_bytes(mark[8:], "big"))
        return entry

    # writing

    def _later(self, key: bytes, entry: Entry | None) -> None:
        self._waiting.append((key, entry))
        self._waiting_bytes += entry.size if entry is not None else 0
        if len(self._waiting) == 1:
            # Two turns of the loop later: the reply's last bytes go with the journal's flush, in the next one.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._wake.set)

    async def _send(self) -> None:
        while self._waiting:
            key, entry = self._waiting.popleft()
            self._waiting_bytes -= entry.size if entry is not None else 0
            if self._clock.monotonic() >= self._resting:
                try:
                    async with asyncio.timeout(_WRITE):
                        await self._store(self._names.of(key), key, entry)
                    self._well()
                    continue
                except Exception as error:
                    self._trouble(error)
            if entry is not None:
                self._not_stored += 1
                entry.mark = None

    async def _store(self, name: bytes, key: bytes, entry: Entry | None) -> None:
        if entry is None:
            await self._client.unlink(name)
            return
        left = int((entry.expires - self._clock.now()) * 1000)
        if left <= 0:
            entry.mark = None
            return
        mark = os.urandom(_MARK)
        sealed = self._seal.encrypt(mark[:_NONCE], b"".join(encoded(key, entry)), name + mark)
        await self._client.set(name, mark + sealed, px=left)
        entry.mark = (int.from_bytes(mark[:8], "big"), int.from_bytes(mark[8:], "big"))
        self._stored += 1

    def _trouble(self, error: Exception) -> None:
        self._resting = self._clock.monotonic() + _REST
        if not self._failing:
            self._failing = True
            # Only what kind: the address may hold a password.
            log.warning("the cache's server cannot be used (%s): the cache goes on in memory", type(error).__name__)

    def _well(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the cache's server can be used again")


def client(url: str) -> Any:
    """A client of the server at ``url``. Raises ``ValueError`` for what is no such address."""
    pools: Any = BlockingConnectionPool  # its types are incomplete
    times = {"timeout": _WAIT, "socket_timeout": _WRITE, "socket_connect_timeout": _WRITE}
    return Valkey.from_pool(pools.from_url(url, max_connections=_CONNECTIONS, **times))


async def clear(url: str, secret: bytes) -> int:
    """Remove all entries of the installation; how many there were."""
    names, connected, count = Names(secret), client(url), 0
    try:
        batch: list[bytes] = []
        async for name in connected.scan_iter(match=names.prefix + b"*", count=1000):
            batch.append(name)
            if len(batch) == 1000:
                count += await connected.unlink(*batch)
                batch.clear()
        if batch:
            count += await connected.unlink(*batch)
    finally:
        await connected.aclose()
    return count


def _packed(mark: Mark) -> bytes:
    return mark[0].to_bytes(8, "big") + mark[1].to_bytes(8, "big")
