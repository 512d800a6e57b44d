"""The exact cache: equal requests of one tenant are answered once, streams included; identical concurrent calls wait for one."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.event import End, Event, Finish, Frame, Start, UsageSeen
from mainstay.gateway.routed import Routed

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(slots=True)
class Entry:
    """One complete reply, as it went to the caller who caused it."""

    frames: tuple[Frame, ...]
    dialect: str
    content_type: str
    headers: list[tuple[str, str]]
    model: str
    provider: str
    finish: str | None
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

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep ``entry``, dropping others for it."""
        if entry.size > self._limit:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry
        self.size += entry.size
        while self.size > self._limit:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key).size

    def __len__(self) -> int:
        return len(self._entries)


class Cache:
    """The stage. It acts on routes with a ``cache`` rule; ``x-mainstay-cache: off`` passes it by, ``refresh`` renews."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory, self._clock = memory, clock
        self._flights: dict[bytes, asyncio.Future[None]] = {}

    def enter(self, call: Routed) -> Reply | asyncio.Task[Reply | None] | None:
        """A stored reply; None where there is none."""
        rule = call.to.cache
        wish = call.headers.get("x-mainstay-cache", "")
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
        """An identical call is under way: wait for it, and take its place if it fails."""
        while (flight := self._flights.get(key)) is not None:
            left = call.ask.deadline - self._clock.monotonic()
            await asyncio.wait((flight,), timeout=max(0.0, left))
            if not flight.done():
                return None  # out of time: the attempt will say so
            entry = self._memory.get(key)
            if entry is not None:
                return self._replay(call, entry)
        self._lead(call, key)
        return None

    def _lead(self, call: Routed, key: bytes) -> None:
        flight: asyncio.Future[None] | None = None
        if key not in self._flights:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        call.recording = Recording(key, flight, call.to.cache.max_bytes if call.to.cache else 0)
        call.taps.append(call.recording.tap)

    def _replay(self, call: Routed, entry: Entry) -> Reply:
        call.cache = "hit"
        call.model, call.provider, call.finish = entry.model, entry.provider, entry.finish
        call.first_token = self._clock.monotonic()
        call.why.append("cache")
        return Reply(
            entry.dialect,
            call.stream,
            _once(entry.frames),
            content_type=entry.content_type,
            headers=list(entry.headers),
        )

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Keep the reply if it is whole and the first choice's own, and let those who wait go on."""
        recording = call.recording
        if recording is None:
            return
        if error is None and recording.whole and not call.fallback and call.model is not None:
            rule = call.to.cache
            assert rule is not None
            self._memory.put(
                recording.key,
                Entry(
                    tuple(recording.frames),
                    recording.dialect(call),
                    call.reply_type,
                    [],
                    call.model,
                    call.provider or "",
                    call.finish,
                    self._clock.monotonic() + rule.ttl,
                    recording.size + 256,
                ),
            )
        if recording.flight is not None:
            self._flights.pop(recording.key, None)
            recording.flight.set_result(None)

    def _key(self, call: Routed, scope: str) -> bytes | None:
        """Tenant, what the route means now, format, and the whole request, unknown fields included."""
        try:
            body = _encode(_decode(call.body))
        except msgspec.DecodeError:
            return None  # not JSON: audio and images are not cached
        principal = call.principal
        tenant = principal.team if scope == "team" else principal.key_id
        parts = (
            "cache-1",
            tenant,
            call.to.version,
            call.dialect,
            call.operation,
            call.headers.get("anthropic-beta", ""),
        )
        return hashlib.blake2b("\0".join(parts).encode() + b"\0" + body, digest_size=20).digest()


class Recording:
    """Collects what goes to the caller, until it is whole or too large."""

    __slots__ = ("_limit", "flight", "frames", "key", "size", "whole")

    def __init__(self, key: bytes, flight: asyncio.Future[None] | None, limit: int) -> None:
        self.key, self.flight, self._limit = key, flight, limit
        self.frames: list[Frame] = []
        self.size = 0
        self.whole = False

    def tap(self, frames: list[Frame]) -> None:
        """Take in frames."""
        for frame in frames:
            self.size += len(frame.raw) if frame.raw is not None else sum(_size(event) for event in frame.events)
            if any(type(event) is End for event in frame.events):
                self.whole = self.size <= self._limit
        if self.size <= self._limit:
            self.frames += frames
        else:
            self.frames.clear()
            self.whole = False

    def dialect(self, call: Routed) -> str:
        """The dialect of the raw bytes, or empty where events were kept."""
        return call.dialect if all(frame.raw is not None for frame in self.frames) else ""


def _size(event: Event) -> int:
    if isinstance(event, Start | Finish | UsageSeen | End):
        return 64
    return 64 + sum(len(part) for part in event if isinstance(part, str))


async def _once(frames: tuple[Frame, ...]) -> AsyncIterator[list[Frame]]:
    # Bytes are joined, so that a stream of a thousand events costs one write.
    if all(frame.raw is not None for frame in frames):
        events = tuple(event for frame in frames[:-1] for event in frame.events)
        body = b"".join(frame.raw or b"" for frame in frames[:-1])
        yield [*([Frame(body, events)] if body else []), frames[-1]]
    else:
        yield list(frames)
