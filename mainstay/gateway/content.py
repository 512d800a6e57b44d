"""Keeps what was asked and answered, where the route or key says so; apart from the record, and bounded."""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.core.errors import MainstayError
from mainstay.core.event import Event, Frame
from mainstay.gateway.routed import Routed
from mainstay.ledger.spool import Content, ContentSpool
from mainstay.wire.dialect import Dialect

LIMIT = 8 * 1024 * 1024
"""Bytes of a reply that are kept; of a longer one nothing is."""


class KeepContent:
    """The stage. Without ``content: true`` on the route or key it does nothing at all."""

    def __init__(self, spool: ContentSpool, dialects: Mapping[str, Dialect]) -> None:
        self._spool, self._dialects = spool, dialects

    def enter(self, call: Routed) -> None:
        """Listen to what goes to the caller."""
        if call.keep_content:
            call.kept = Kept()
            call.taps.append(call.kept.tap)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Hand it over."""
        kept = call.kept
        if kept is None:
            return
        reply = b"".join(kept.raw)
        if kept.events:
            reply = self._written(call, kept.events)
        call.content = self._spool.put(
            Content(
                call.id,
                int(call.at * 1e6),
                call.body,
                reply,
                call.headers.get("content-type", "application/json"),
                "application/json" if kept.events or not call.stream else "text/event-stream",
            )
        )

    def _written(self, call: Routed, events: list[Event]) -> bytes:
        """What was said, in the caller's format; also of a reply that broke off."""
        try:
            return self._dialects[call.dialect].write_reply(events, request=call.body)
        except MainstayError as error:
            return self._dialects[call.dialect].write_error(error, 502)


class Kept:
    """What has gone to the caller so far: bytes, or events where the format was translated."""

    __slots__ = ("_size", "events", "over", "raw")

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.events: list[Event] = []
        self.over = False
        self._size = 0

    def tap(self, frames: list[Frame]) -> None:
        """Take in frames."""
        if self.over:
            return
        for frame in frames:
            if frame.raw is not None:
                self._size += len(frame.raw)
                self.raw.append(frame.raw)
            else:
                self._size += 64 * len(frame.events)
                self.events += frame.events
        if self._size > LIMIT:
            self.over = True
            self.raw.clear()
            self.events.clear()
