"""The reply of a provider over HTTP, as frames: its phases, its limits, and what of it is nobody else's to see."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from mainstay.core.clock import Clock
from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import End, Event, Frame, Opaque, Start, UsageSeen
from mainstay.upstream.ask import Ask
from mainstay.upstream.hiding import hidden_bytes, hide
from mainstay.upstream.http import Upstream
from mainstay.upstream.http_translated import Reads
from mainstay.wire.dialect import Dialect, Reader

ERROR_BODY = 256 * 1024
"""Bytes of an error reply that are read; the rest is cut off."""
MAX_BODY = 32 * 1024 * 1024
"""Bytes of a plain reply that passes through, decompressed: pictures, mostly. More is refused."""
MAX_READ = 16 * 1024 * 1024
"""Bytes of one that is read and written anew, which takes several times its size; more is refused."""
LARGE = 256 * 1024
"""Bytes of a plain reply from which on it must find room before more of it is read."""
READ = 4
"""For how many of its bytes one counts that is read and written anew: its text and the new reply lie beside it."""
MAX_PRELUDE = 1024 * 1024
"""Bytes of a stream before its first content, or four times the request, which some give back; more is refused."""
COMMENTS = 64 * 1024
"""Bytes of a stream before its first content from which on comments are dropped: they wait with it, each an object."""

_PASSED_ON = (
    "x-request-id",
    "request-id",
    "openai-processing-ms",
    "openai-version",
    "openai-model",
    "x-amzn-requestid",
)
_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "cf-ray")
_STREAM_TYPES = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")


_COMMENT = Opaque("comment")


_KEEPS_OPEN = frozenset(("comment", "ping", "chunk", "response.created", "response.queued", "response.in_progress"))
"""What providers send to keep a connection open, or before they have begun to answer."""


def _begins(event: Event) -> bool:
    if isinstance(event, Opaque):
        return event.what not in _KEEPS_OPEN
    return not isinstance(event, Start | UsageSeen)


def _tells_error(body: bytes) -> bool:
    """Whether there is an error beside an answer, as some providers tell of one. Inside a text the quotes would be
    escaped; and there is one member of that name in every reply of the Responses API, which is null."""
    return body.count(b'"error"') > body.count(b'"error":null') + body.count(b'"error": null')


class HttpSource:
    """One reply of a provider."""

    def __init__(
        self,
        upstream: Upstream,
        ask: Ask,
        dialect: Dialect,
        raw: bool,
        withhold: bool,
        clock: Clock,
        model: str,
        secrets: tuple[str, ...] = (),
        read: Reads | None = None,
    ) -> None:
        self.dialect, self.raw = dialect, raw
        self.stream = ask.peek.stream
        self.status = 0
        self.request_id: str | None = None
        self.content_type = "application/json"
        self.headers: list[tuple[str, str]] = []
        self.done = False
        self.model = model
        """What the provider calls the model: for a reply that does not say."""
        self._begun = False
        self._upstream, self._ask, self._withhold, self._clock = upstream, ask, withhold, clock
        self._translated, self._secrets = read, secrets
        self._heard: Mapping[str, str] = {}
        self._reader: Reader | None = None
        self._finished = False
        self._content = False
        self._held = 0  # bytes of the pool's room

    async def begin(self) -> None:
        """Wait for the head of the reply. Raises ``UpstreamFailed`` for an error status."""
        ask, upstream = self._ask, self._upstream
        first = ask.phases.first_token if self.stream else ask.phases.plain
        upstream.deadline = min(self._clock.monotonic() + first, ask.deadline)
        upstream.phase = "first_token" if self.stream else "plain"
        status, headers = await upstream.head(self._may_repeat)
        self.status, self._heard = status, headers
        for name in _REQUEST_IDS:
            if name in headers:
                self.request_id = headers[name]
                break
        if status >= 300 or status < 200:
            await self._refused(status, headers)
        content_type = headers.get("content-type", "")
        self.content_type = content_type or self.content_type
        if self.raw:
            self.headers = [(name, headers[name]) for name in _PASSED_ON if name in headers]
        if self.stream and content_type.partition(";")[0].strip().lower() in _STREAM_TYPES:
            self._reader = self.dialect.reader(ask.operation)

    def _may_repeat(self) -> bool:
        pace = self._ask.pace
        if pace is not None and not pace.repeats(self._clock.monotonic()):
            return False
        self._ask.repeated = self.model
        return True

    async def _refused(self, status: int, headers: Mapping[str, str]) -> None:
        body = bytearray()
        patience = min(10.0, self._ask.phases.idle)
        self._upstream.deadline = min(self._clock.monotonic() + patience, self._ask.deadline)
        try:
            while len(body) < ERROR_BODY and (piece := await self._upstream.read()):
                body += piece
        except UpstreamFailed:
            pass  # what arrived of the error is all that there is to tell
        error = self.dialect.read_error(status, headers, bytes(body[:ERROR_BODY]))
        error.content_type = headers.get("content-type", "application/json")
        if not self.raw:
            error.body = None
        raise error

    def hide(self, failure: UpstreamFailed) -> None:
        """Take out of ``failure`` what the provider quotes of our own secrets."""
        hide(failure, self._secrets)

    async def next(self) -> list[Frame]:
        """The next frames; an empty list at the end."""
        reader, upstream, ask = self._reader, self._upstream, self._ask
        try:
            if reader is None:
                return await self._whole()
            while not self._finished:
                data = await upstream.read()
                if data:
                    frames = reader.feed(data)
                    if self._moves(frames):
                        upstream.deadline = min(self._clock.monotonic() + ask.phases.idle, ask.deadline)
                    elif not self._content and upstream.size > COMMENTS:
                        if upstream.size > max(MAX_PRELUDE, 4 * len(ask.body)):
                            why = f"the provider sent {upstream.size} bytes and no answer"
                            raise UpstreamFailed("too_large", why)
                        frames = [frame for frame in frames if frame.events != (_COMMENT,)]
                else:
                    frames = reader.finish()
                    self._finished = True
                self.done = reader.done
                if frames:
                    if not self.raw and not self._begun:
                        frames = self._named(frames)
                    return self._withheld(frames) if self._withhold else frames
        except UpstreamFailed as failure:
            self.hide(failure)
            raise
        return []

    def _named(self, frames: list[Frame]) -> list[Frame]:
        """Where the format says neither its id nor its time nor its model: what we know of them."""
        for i, frame in enumerate(frames):
            if frame.events and isinstance(start := frame.events[0], Start):
                self._begun = True
                now = self._clock.now()
                start = start._replace(
                    id=start.id or self.request_id or f"{int(now * 1e6):x}",
                    model=start.model or self.model,
                    created=start.created or int(now),
                )
                return [*frames[:i], Frame(frame.raw, (start, *frame.events[1:]), frame.unread), *frames[i + 1 :]]
        return frames

    def _moves(self, frames: list[Frame]) -> bool:
        """Whether the wait for the next event begins anew: when the answer begins, and from then on with every event."""
        if self._content:
            return any(event != _COMMENT for frame in frames for event in frame.events)
        if any(_begins(event) for frame in frames for event in frame.events):
            self._content = True
            self._upstream.phase = "idle"
        return self._content

    def _withheld(self, frames: list[Frame]) -> list[Frame]:
        # The caller did not ask for usage; we did. It gets neither the last chunk nor the nulls before it.
        kept: list[Frame] = []
        for frame in frames:
            raw, events = frame.raw, frame.events
            if raw is not None:
                if len(events) == 1 and type(events[0]) is UsageSeen:
                    frame = Frame(b"", events)
                elif b'"usage":null' in raw:
                    frame = Frame(raw.replace(b',"usage":null', b"", 1), events, frame.unread)
            kept.append(frame)
        return kept

    async def _whole(self) -> list[Frame]:
        if self._finished:
            return []
        upstream, ask = self._upstream, self._ask
        data = await upstream.read()
        first = data
        whole: BytesIO | None = None
        most = MAX_BODY if self.raw and not self.stream else MAX_READ
        upstream.phase = "idle"
        while data:
            if upstream.size > LARGE and not self._held:
                await self._take_room(most)
            if upstream.size > most:  # a stream has no limit of its own, and this is none
                raise UpstreamFailed("too_large", f"the reply is larger than {most} bytes", status=self.status)
            upstream.deadline = min(self._clock.monotonic() + ask.phases.idle, ask.deadline)
            data = await upstream.read()
            if data:
                if whole is None:  # which gives its bytes away uncopied, where pieces that are joined are there twice
                    whole = BytesIO()
                    whole.write(first)
                    first = b""
                whole.write(data)
        body = first if whole is None else whole.getvalue()
        self._finished = self.done = True
        if self._translated is not None:
            body, usage = self._translated(body, self._heard)
            self.raw, self.content_type = True, "application/json"  # it is the caller's format now
            return [Frame(body, (UsageSeen(usage), End()))]
        if self.stream:  # it was asked for a stream and answered plainly: its events are the stream
            self.raw = False
            return self._named([Frame(None, self._read(body))])
        if self.raw:
            if len(body) <= ERROR_BODY and b'"error"' in body and _tells_error(body):
                body = hidden_bytes(body, self._secrets)
            return [Frame(body, self.dialect.glance(ask.operation, body))]
        return self._named([Frame(None, self._read(body))])

    def _read(self, body: bytes) -> tuple[Event, ...]:
        events = self.dialect.read_reply(body)
        return events if events and type(events[-1]) is End else (*events, End())

    async def _take_room(self, most: int) -> None:
        """Wait for room for the whole reply. Raises ``Unavailable``."""
        heard, ask = self._heard, self._ask
        length = None if "content-encoding" in heard else heard.get("content-length")
        size = most if length is None else min(int(length), most)
        patience = min(ask.phases.idle, ask.deadline - self._clock.monotonic())
        self._held = await self._upstream.room.take(size if most == MAX_BODY else size * READ, patience)

    def close(self) -> None:
        """Give the connection back, or close it if the reply is not complete."""
        if self._held:
            self._upstream.room.give(self._held)
            self._held = 0
        self._upstream.release()
