"""The exact cache: equal requests of one tenant are answered once, streams included; identical concurrent calls wait for one."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.core.event import Frame
from mainstay.core.usage import Usage
from mainstay.gateway.cache_recording import Flight, Landed, Recording
from mainstay.gateway.routed import Routed

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode

_ENTRY = 1024
"""Bytes that an entry takes beside its frames."""
_CHANGES_ANSWERS = ("anthropic-beta", "anthropic-version", "openai-beta")
"""Headers of the caller that go to the upstream and may change its answer."""


Mark = tuple[int, int]
"""What a shared store tells one stored entry from another under the same key by."""


@dataclass(slots=True)
class Entry:
    """One complete reply, as it went to the caller who caused it."""

    frames: list[Frame]
    dialect: str  # of the frames' bytes; empty where they are events
    content_type: str
    model: str
    provider: str
    finish: str | None
    usage: Usage | None
    until: float  # monotonic
    size: int
    expires: float = 0.0  # seconds since the epoch: what other processes, and this one started again, go by
    ttl: float = 0.0  # seconds
    mark: Mark | None = None  # of the stored one; None: it is in this process's memory alone


class Shared(Protocol):
    """Where entries are that several processes share. It is never a reason to fail: what it cannot do is a miss."""

    def get(self, key: bytes, held: Entry | None) -> Entry | Awaitable[Entry | None] | None:
        """The entry in force, None where there is none. ``held`` is the one in this process's memory, and is returned
        unless another was stored since, or it was removed. Only a store that must wait returns an awaitable."""
        ...

    def put(self, key: bytes, entry: Entry, renewed: bool) -> None:
        """Store ``entry`` once the reply has gone; ``renewed``: an older one must not be given any more. Never waits."""
        ...

    def remove(self, key: bytes) -> None:
        """Remove an entry that is out of date. Never waits."""
        ...

    def gauges(self) -> dict[str, float]:
        """``cache_store_failing`` (0 or 1), ``cache_stored`` and ``cache_not_stored`` (entries so far)."""
        ...

    async def run(self, forget: Callable[[], None]) -> None:
        """Work until cancelled; ``forget`` empties the memory, and is called when the store was emptied."""
        ...

    async def close(self) -> None:
        """Store what is to be stored, and end."""
        ...


class Memory:
    """Entries of this process, at most ``limit`` bytes of them, the least recently used dropped first."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit, self._clock = limit, clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.size = 0

    def get(self, key: bytes) -> Entry | None:
        """The entry, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep ``entry``, dropping others for it; False if it is larger than all the room there is."""
        if key in self._entries:
            self._drop(key)
        if entry.size > self._limit:
            return False
        self._entries[key] = entry
        self.size += entry.size
        while self.size > self._limit:
            self._drop(next(iter(self._entries)))
        return True

    def forget(self, key: bytes) -> None:
        """Drop the entry, if there is one."""
        if key in self._entries:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key).size

    def __len__(self) -> int:
        return len(self._entries)


class Cache:
    """The stage. It acts on routes with a ``cache`` rule; ``x-mainstay-cache: off`` passes it by, ``refresh`` renews.

    Entries are in this process's ``memory``, and in ``shared`` if there is one.
    """

    def __init__(self, memory: Memory, clock: Clock, shared: Shared | None = None) -> None:
        self._memory, self._clock, self._shared = memory, clock, shared
        self._flights: dict[bytes, Flight] = {}

    def enter(self, call: Routed) -> Reply | Awaitable[Reply | None] | None:
        """A stored reply; None where there is none. Refuses a wish that it does not know."""
        rule, wish = call.to.cache, call.headers.get("x-mainstay-cache")
        if wish:
            wish = wish.lower()
            if wish not in ("off", "refresh"):
                raise Invalid(
                    "x-mainstay-cache is off or refresh; leave it out to use the cache", field="x-mainstay-cache"
                )
        if rule is None or wish == "off":
            return None
        key = self._key(call, rule.scope)
        if key is None:
            return None
        call.cache = "miss"
        if wish == "refresh":
            self._lead(call, key, renews=True)
            return None
        held = self._memory.get(key)
        if held is None and key in self._flights:
            return self._wait(call, key)
        entry = held
        if self._shared is not None:
            found = self._shared.get(key, held)
            if found is not None and not isinstance(found, Entry):
                return self._look(call, key, held, found)
            entry = found
            if entry is not held:
                self._take(key, entry)
        if entry is not None:
            return self._replay(call, entry)
        self._lead(call, key)
        return None

    async def _look(
        self, call: Routed, key: bytes, held: Entry | None, looking: Awaitable[Entry | None]
    ) -> Reply | None:
        """Wait for the shared store's word; who asks the same meanwhile, and has nothing either, waits for this call."""
        if held is None:
            self._lead(call, key)
        entry = await looking
        if entry is not held:
            self._take(key, entry)
        if entry is None:
            if held is None:
                return None
            if key in self._flights:
                return await self._wait(call, key)
            self._lead(call, key)
            return None
        recording = call.recording
        if recording is not None:
            call.recording = None
            call.taps.remove(recording.tap)
            self._land(recording, "kept" if self._memory.get(key) is not None else "not kept")
        return self._replay(call, entry)

    def _take(self, key: bytes, entry: Entry | None) -> None:
        """The memory has from now on what the shared store has."""
        if entry is None:
            self._memory.forget(key)
        else:
            self._memory.put(key, entry)

    async def _wait(self, call: Routed, key: bytes) -> Reply | None:
        """An identical call is under way: wait for it, and take its place if it fails.

        Nobody waits for a second failure, for a reply that is not kept, or for more than half of its own time: it is
        better then that all ask at once than one after the other.
        """
        failures = 0
        now = self._clock.monotonic()
        until = now + max(0.0, call.ask.deadline - now) / 2
        while failures < 2 and (flight := self._flights.get(key)) is not None:
            await asyncio.wait((flight,), timeout=max(0.0, until - self._clock.monotonic()))
            if not flight.done():
                break
            entry = self._memory.get(key)
            if entry is not None:
                return self._replay(call, entry)
            landed = flight.result()
            if landed == "not kept":
                break
            failures += landed == "failed"
        self._lead(call, key)
        return None

    def _lead(self, call: Routed, key: bytes, renews: bool = False) -> None:
        flight: Flight | None = None
        if key not in self._flights:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        call.recording = Recording(key, flight, call.to.cache.max_bytes if call.to.cache else 0, renews)
        call.taps.append(call.recording.tap)

    def _replay(self, call: Routed, entry: Entry) -> Reply:
        call.cache = "hit"
        call.model, call.provider, call.finish, call.usage = entry.model, entry.provider, entry.finish, entry.usage
        call.first_token = self._clock.monotonic()
        call.why.append("cache")
        return Reply(entry.dialect, call.stream, Replayed(call, entry.frames), content_type=entry.content_type)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Keep the reply if it is whole and the first choice's own, and let those who wait go on."""
        recording = call.recording
        if recording is None:
            return
        call.recording = None
        landed: Landed = "not kept"
        if error is not None:
            landed = "failed" if isinstance(error, Exception) else "gone"
        elif self._keep(call, recording):
            landed = "kept"
        self._land(recording, landed)

    def _land(self, recording: Recording, landed: Landed) -> None:
        if recording.flight is not None:
            del self._flights[recording.key]
            recording.flight.set_result(landed)

    def _keep(self, call: Routed, recording: Recording) -> bool:
        rule, frames = call.to.cache, recording.frames()
        if rule is None or not frames or call.fallback or call.model != call.choice:
            return False
        entry = Entry(
            frames,
            call.dialect if frames[0].raw is not None else "",
            call.reply_type,
            call.choice,
            call.provider or "",
            call.finish,
            call.usage,
            self._clock.monotonic() + rule.ttl,
            recording.size + _ENTRY,
        )
        kept = self._memory.put(recording.key, entry)
        if self._shared is not None:
            if kept and call.opened_by.content is not False:  # the key's content is not to be stored
                entry.expires, entry.ttl = self._clock.now() + rule.ttl, rule.ttl
                self._shared.put(recording.key, entry, recording.renews)
            else:
                self._shared.remove(recording.key)
        return kept

    def _key(self, call: Routed, scope: str) -> bytes | None:
        """Tenant, what the route means now, format, and the whole request, unknown fields included.

        None for what is not JSON: sound and forms are not cached.
        """
        body = canonical(call.body)
        if body is None:
            return None
        principal, headers = call.principal, call.headers
        parts = [
            scope,
            principal.team if scope == "team" else principal.key_id,
            call.to.version,
            call.branch,
            call.dialect,
            call.operation,
            [headers.get(name) for name in _CHANGES_ANSWERS],
        ]
        return hashlib.sha256(_encode(parts) + body).digest()


def canonical(body: bytes) -> bytes | None:
    """JSON with its keys sorted and nothing between its values; None for what is not JSON.

    A body in which one object has a key twice, which parsers read differently, is only ever equal to itself.
    """
    try:
        sorted_body = _encode(_decode(body))
        bare = msgspec.json.format(body, indent=-1)
        # A member that was lost makes it shorter. Else it is as long, but for numbers and characters that are spelled
        # otherwise: then members are counted, by the quote and colon after a key, which are in no string, unless one
        # spells its quotes in another way.
        if len(bare) != len(sorted_body) and (b"\\u0022" in body or bare.count(b'":') != sorted_body.count(b'":')):
            return body
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return sorted_body


class Replayed:
    """The frames of an entry as those of a reply: one list."""

    __slots__ = ("_call", "_frames")

    def __init__(self, call: Routed, frames: list[Frame]) -> None:
        self._call = call
        self._frames: list[Frame] | None = frames

    def __aiter__(self) -> Replayed:
        return self

    async def __anext__(self) -> list[Frame]:
        """All of them, once."""
        frames = self._frames
        if frames is None:
            raise StopAsyncIteration
        self._frames = None
        for tap in self._call.taps:
            tap(frames)
        return list(frames)
