"""What the cache takes in of a reply while it goes to its caller."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from mainstay.core.event import End, Event, Frame

_EVENT = 256
"""Bytes that an event takes beside its text."""

_encode = msgspec.json.Encoder().encode

Landed = Literal["kept", "gone", "failed", "not kept"]
"""How a flight ended: its reply is in the memory; its caller went away; it failed; its reply may not be kept."""

Flight = asyncio.Future[Landed]


class Recording:
    """Collects what goes to the caller, until it is whole or too large."""

    __slots__ = ("_bytes", "_events", "_limit", "_whole", "flight", "key", "renews", "size")

    def __init__(self, key: bytes, flight: Flight | None, limit: int, renews: bool = False) -> None:
        self.key, self.flight, self._limit, self.renews = key, flight, limit, renews
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
    parts: tuple[object, ...] = event
    for part in parts:
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, tuple | dict):  # log probabilities, citations
            size += 4 * len(_encode(part))
    return size
