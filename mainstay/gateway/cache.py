"""The exact cache: equal requests of one tenant are answered once, streams included; identical concurrent calls wait for one."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.core.event import End, Event, Frame
from mainstay.core.usage import Usage
from mainstay.gateway.routed import Routed

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode

_ENTRY = 1024
"""Bytes that an entry takes beside its frames."""
_EVENT = 256
"""Bytes that an event takes beside its text."""
_CHANGES_ANSWERS = ("anthropic-beta", "anthropic-version", "openai-beta")
"""Headers of the caller that go to the upstream and may change its answer."""


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

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key).size

    def __len__(self) -> int:
        return len(self._entries)


Landed = Literal["kept", "gone", "failed", "not kept"]
"""How a flight ended: its reply is in the memory; its caller went away; it failed; its reply may not be kept."""

Flight = asyncio.Future[Landed]


class Cache:
    """The stage. It acts on routes with a ``cache`` rule; ``x-mainstay-cache: off`` passes it by, ``refresh`` renews."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory, self._clock = memory, clock
        self._flights: dict[bytes, Flight] = {}

    def enter(self, call: Routed) -> Reply | asyncio.Task[Reply | None] | None:
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
        if wish != "refresh":
            entry = self._memory.get(key)
            if entry is not None:
                return self._replay(call, entry)
            if key in self._flights:
                return self._wait(call, key)  # type: ignore[return-value]
        self._lead(call, key)
        return None

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

    def _lead(self, call: Routed, key: bytes) -> None:
        flight: Flight | None = None
        if key not in self._flights:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        call.recording = Recording(key, flight, call.to.cache.max_bytes if call.to.cache else 0)
        call.taps.append(call.recording.tap)

    def _replay(self, call: Routed, entry: Entry) -> Reply:
        call.cache = "hit"
        call.model, call.provider, call.finish, call.usage = entry.model, entry.provider, entry.finish, entry.usage
        call.first_token = self._clock.monotonic()
        call.why.append("cache")
        return Reply(entry.dialect, call.stream, _replayed(call, entry), content_type=entry.content_type)

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
        return self._memory.put(recording.key, entry)

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


class Recording:
    """Collects what goes to the caller, until it is whole or too large."""

    __slots__ = ("_bytes", "_events", "_limit", "_whole", "flight", "key", "size")

    def __init__(self, key: bytes, flight: Flight | None, limit: int) -> None:
        self.key, self.flight, self._limit = key, flight, limit
        self._bytes: list[bytes] = []
        self._events: list[Event] = []
        self._whole: int | None = None  # how many of the pieces come before the sign of the end
        self.size = 0

    def tap(self, frames: list[Frame]) -> None:
        """Take in frames."""
        if self.size > self._limit:
            return
        for raw, events, _ in frames:
            if events and type(events[-1]) is End and self._whole is None:
                self._whole = len(self._bytes)
            if raw is not None:
                self.size += len(raw)
                self._bytes.append(raw)
            else:
                self.size += sum([_size(event) for event in events])
                self._events += events
        if self.size > self._limit:
            self._bytes.clear()
            self._events.clear()

    def frames(self) -> list[Frame]:
        """The whole reply as few frames, the last of which is its sign of the end; none if there is no whole reply."""
        if self._whole is None or self.size > self._limit or (self._bytes and self._events):
            return []
        if self._events:
            return [Frame(None, tuple(self._events))]
        before, end = b"".join(self._bytes[: self._whole]), b"".join(self._bytes[self._whole :])
        return [*([Frame(before, ())] if before else []), Frame(end, (End(),))]


def _size(event: Event) -> int:
    size = _EVENT
    for part in event:
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, tuple | dict):  # log probabilities, citations
            size += 4 * len(_encode(part))
    return size


async def _replayed(call: Routed, entry: Entry) -> AsyncIterator[list[Frame]]:
    for tap in call.taps:
        tap(entry.frames)
    yield list(entry.frames)
