"""Cuts a stream of server-sent events into events, keeping every byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, cast

from mainstay.core.errors import UpstreamFailed

_BOM = b"\xef\xbb\xbf"
# The end of a line and a blank line after it. A carriage return that might be half of "\r\n" is not judged before the
# next byte is there, except after a lone carriage return: such a stream ends all its lines with one, and waiting would
# delay every event by one. So where events end does not depend on how the bytes were cut.
_END = re.compile(rb"\r\r|\r?\n(?:\n|\r\n|\r(?=[^\n]))")
_LINE = re.compile(rb"\r\n|\n|\r")


class SseEvent(NamedTuple):
    """One event: ``raw`` are its exact bytes with the framing, ``data`` its joined data lines.

    ``event`` is the last ``event:`` line, empty if there is none. All ``raw`` of a stream, concatenated, are the
    stream; so comments and stray blank lines are events too, with no ``data``.
    """

    raw: bytes
    data: bytes
    event: bytes = b""


# Half the price of calling the class.
_new = cast(Callable[[type[SseEvent], tuple[bytes, bytes, bytes]], SseEvent], tuple.__new__)


class SseSplitter:
    """Splits what ``feed`` is given, however it was cut. No event may be longer than ``limit`` bytes."""

    __slots__ = ("_any_return", "_begun", "_limit", "_pending")

    def __init__(self, limit: int = 8 * 1024 * 1024) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._any_return = False  # a carriage return was seen: line ends are no longer "\n" alone
        self._begun = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that ``data`` completes. Raises ``UpstreamFailed(too_large)`` for one over the limit."""
        pending = self._pending
        if not self._any_return and b"\r" in data:
            self._any_return = True
        if pending:
            # Only the seam and the new bytes can hold an end: what was searched once is not searched again, and the
            # pending bytes are copied once, when their event is whole.
            seam = bytes(pending[-3:]) + data
            if (_END.search(seam) is None) if self._any_return else (b"\n\n" not in seam):
                pending += data
                if len(pending) > self._limit:
                    raise self._too_large()
                return []
            pending += data
            data = bytes(pending)
            pending.clear()
        return self._split_any(data) if self._any_return else self._split(data)

    def finish(self) -> list[SseEvent]:
        """Call at the end of the body: an event that lacks its blank line is given back as it is."""
        rest = bytes(self._pending)
        self._pending.clear()
        return [self._parse(rest, rest)] if rest else []

    def _split(self, data: bytes) -> list[SseEvent]:
        """Events whose lines all end with a line feed: nearly every stream there is."""
        parts = data.split(b"\n\n")
        rest = parts.pop()
        if rest:
            self._keep(rest)
        events: list[SseEvent] = []
        for part in parts:
            raw = part + b"\n\n"
            if len(raw) > self._limit:
                raise self._too_large()
            if part.startswith(b"data: "):
                if b"\n" not in part:
                    self._begun = True
                    events.append(_new(SseEvent, (raw, part[6:], b"")))
                    continue
            elif part.startswith(b"event: "):
                at = part.find(b"\n")
                if part.startswith(b"\ndata: ", at) and part.find(b"\n", at + 1) < 0:
                    self._begun = True
                    events.append(_new(SseEvent, (raw, part[at + 7 :], part[7:at])))
                    continue
            events.append(self._parse(raw, part))
        return events

    def _split_any(self, data: bytes) -> list[SseEvent]:
        """Events with any line endings."""
        events: list[SseEvent] = []
        at = 0
        for end in _END.finditer(data):
            stop = end.end()
            if stop - at > self._limit:
                raise self._too_large()
            events.append(self._parse(data[at:stop], data[at : end.start()]))
            at = stop
        if at < len(data):
            self._keep(data[at:])
        return events

    def _keep(self, rest: bytes) -> None:
        if len(rest) > self._limit:
            raise self._too_large()
        self._pending += rest

    def _parse(self, raw: bytes, part: bytes) -> SseEvent:
        if not self._begun:
            self._begun = True
            part = part.removeprefix(_BOM)
        data: list[bytes] = []
        event = b""
        for line in _LINE.split(part) if self._any_return else part.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                event = value.removeprefix(b" ")
        return SseEvent(raw, b"\n".join(data), event)

    def _too_large(self) -> UpstreamFailed:
        return UpstreamFailed("too_large", f"the provider sent an event of more than {self._limit} bytes")
