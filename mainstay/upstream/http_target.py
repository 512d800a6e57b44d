"""A provider reached over HTTP: one ask in its wire format, and its reply as frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Protocol
from urllib.parse import quote

from mainstay.core.clock import Clock
from mainstay.core.errors import Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Frame, Opaque, Start, UsageSeen
from mainstay.core.model import ModelFacts
from mainstay.upstream.ask import Ask
from mainstay.upstream.http import Origin, Pool, Upstream
from mainstay.upstream.http_heads import head, with_callers
from mainstay.upstream.http_translated import TRANSLATED, Reads, translated
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.dialect import Dialect, Reader

ERROR_BODY = 256 * 1024
"""Bytes of an error reply that are read; the rest is cut off."""
MAX_BODY = 32 * 1024 * 1024
"""Bytes of a plain reply, decompressed; more is refused."""
LARGE = 256 * 1024
"""Bytes of a plain reply from which on it must find room before more of it is read."""
READ = 4
"""How much more memory a reply takes that is read and written anew: its text, and the new reply, beside itself."""
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
_SHORTEST_SECRET = 8
"""Characters of a secret that is looked for in errors; a shorter one would be found in every other word."""
_HIDDEN = "[hidden]"
_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "cf-ray")
_STREAM_TYPES = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")


class Auth(Protocol):
    """Shows our key to the provider."""

    async def headers(self, method: str, host: str, target: str, body: bytes) -> Mapping[str, str]:
        """The headers that go with this very request."""
        ...


class HttpTarget:
    """Every model of one provider's account."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        base_path: str,
        query: str,
        headers: Mapping[str, str],
        auth: Auth | None,
        dialect: Dialect,
        plain: Dialect | None,
        clock: Clock,
        stream_usage: bool = True,
        azure_version: str | None = None,
        max_tokens_field: str | None = None,
        developer_role: bool | None = None,
        top_k: bool | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self._secrets = tuple(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)
        self._pool, self._origin, self._base_path, self._query = pool, origin, base_path, query
        usual = {"host": origin.authority, "content-type": "application/json", "accept-encoding": "gzip"}
        self._lines = usual | dict(headers)
        self._head = head(self._lines)
        self._auth, self._dialect, self._plain, self._clock = auth, dialect, plain, clock
        self._stream_usage, self._azure_version = stream_usage, azure_version
        self._max_tokens_field, self._developer_role, self._top_k = max_tokens_field, developer_role, top_k
        self._facts: dict[ModelFacts, ModelFacts] = {}
        self._vertex = "/publishers/" in base_path
        self._targets: dict[tuple[str, str, bool], str] = {}

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> HttpSource:
        """Put the question; returns when the reply's head is there."""
        read: Reads | None = None
        other = None
        if ask.operation in TRANSLATED:
            other = translated(ask, self._dialect, model, self._with_own(facts), self._vertex)
        if other is not None:
            dialect, same, withhold = self._dialect, False, False
            body, operation, read = other
        else:
            dialect, same, body, withhold = self._written(ask, model, facts)
            operation = ask.operation if dialect.name == ask.dialect.name else _OPERATION[dialect.name]
        stream = ask.peek.stream
        target = self._targets.get((operation, model, stream))
        if target is None:
            target = self._target(dialect, operation, model, stream)
            if len(self._targets) < 10_000:
                self._targets[(operation, model, stream)] = target
        lines = self._head if not ask.headers else with_callers(self._lines, ask.headers, same)
        if self._auth is not None:
            signed = await self._auth.headers("POST", self._origin.authority, target, body)
            lines += head(signed)
        upstream = await self._pool.send(
            self._origin,
            "POST",
            target,
            lines,
            body,
            connect_timeout=ask.connect_timeout(self._clock.monotonic()),
            max_body=None if stream else MAX_BODY,
            fresh=ask.pace is not None and ask.pace.repeated,
        )
        ask.sent += 1
        source = HttpSource(upstream, ask, dialect, same, withhold, self._clock, read)
        source.model = model
        try:
            await source.begin()
        except UpstreamFailed as failure:
            source.close()
            _hide(failure, self._secrets)
            raise
        except BaseException:
            source.close()
            raise
        return source

    def _written(self, ask: Ask, model: str, facts: ModelFacts) -> tuple[Dialect, bool, bytes, bool]:
        caller = ask.dialect
        dialect = self._dialect
        if ask.operation in PLAIN_OPERATIONS:
            if self._plain is None:
                raise Unsupported(f"{ask.operation} goes only to a provider that speaks OpenAI's format", field="model")
            dialect = self._plain
        if caller.name == dialect.name and not ask.prefilled:
            asks_usage = ask.peek.stream and self._stream_usage
            if ask.prompt_cache is not None and isinstance(dialect, Anthropic):
                body = dialect.rewrite(ask.operation, ask.body, ask.peek, model, False, cache_prompt=ask.prompt_cache)
            else:
                body = dialect.rewrite(ask.operation, ask.body, ask.peek, model, asks_usage)
            return dialect, True, body, asks_usage and not ask.peek.usage_wanted
        body = ask.write(dialect, model, self._with_own(facts))
        same = caller.name == dialect.name
        return dialect, same, body, same and not ask.peek.usage_wanted

    def _with_own(self, facts: ModelFacts) -> ModelFacts:
        """``facts``, and what is true of everything at this provider where they say nothing."""
        known = self._facts.get(facts)
        if known is None:
            known = replace(
                facts,
                max_tokens_field=facts.max_tokens_field or self._max_tokens_field,
                roles_developer=self._developer_role if facts.roles_developer is None else facts.roles_developer,
                top_k=self._top_k if facts.top_k is None else facts.top_k,
                stream_usage=self._stream_usage if facts.stream_usage is None else facts.stream_usage,
            )
            if len(self._facts) >= 256:
                self._facts.clear()
            self._facts[facts] = known
        return known

    def _target(self, dialect: Dialect, operation: str, model: str, stream: bool) -> str:
        path = dialect.path(operation, model, stream)
        if self._azure_version is not None:
            path = f"/openai/deployments/{quote(model, safe='')}{path}?api-version={self._azure_version}"
        target = self._base_path + path
        if self._query:
            target += ("&" if "?" in target else "?") + self._query
        return target


PLAIN_OPERATIONS = frozenset(
    (
        "completions",
        "embeddings",
        "images.generations",
        "images.edits",
        "images.variations",
        "audio.transcriptions",
        "audio.translations",
        "audio.speech",
        "moderations",
        "rerank",
    )
)
"""What is passed through to a target of the same format, and never translated."""

_OPERATION = {
    "openai": "chat",
    "openai-responses": "responses",
    "anthropic": "messages",
    "gemini": "chat",
    "bedrock": "chat",
}


_COMMENT = Opaque("comment")


def _hide(failure: UpstreamFailed, secrets: tuple[str, ...]) -> None:
    """Take out of a provider's error what it quotes of our own secrets."""
    for secret in secrets:
        if secret in failure.message:
            failure.message = failure.message.replace(secret, _HIDDEN)
        if failure.provider_code is not None and secret in failure.provider_code:
            failure.provider_code = None
        if failure.body is not None and secret.encode() in failure.body:
            failure.body = failure.body.replace(secret.encode(), _HIDDEN.encode())
    failure.args = (failure.message,)


_KEEPS_OPEN = frozenset(("comment", "ping", "chunk", "response.created", "response.queued", "response.in_progress"))
"""What providers send to keep a connection open, or before they have begun to answer."""


def _begins(event: Event) -> bool:
    if isinstance(event, Opaque):
        return event.what not in _KEEPS_OPEN
    return not isinstance(event, Start | UsageSeen)


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
        read: Reads | None = None,
    ) -> None:
        self.dialect, self.raw = dialect, raw
        self.stream = ask.peek.stream
        self.status = 0
        self.request_id: str | None = None
        self.content_type = "application/json"
        self.headers: list[tuple[str, str]] = []
        self.done = False
        self.model = ""
        """What the provider calls the model: for a reply that does not say."""
        self._begun = False
        self._upstream, self._ask, self._withhold, self._clock = upstream, ask, withhold, clock
        self._translated = read
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

    async def next(self) -> list[Frame]:
        """The next frames; an empty list at the end."""
        if self._reader is None:
            return await self._whole()
        reader, upstream, ask = self._reader, self._upstream, self._ask
        while not self._finished:
            data = await upstream.read()
            if data:
                frames = reader.feed(data)
                if self._moves(frames):
                    upstream.deadline = min(self._clock.monotonic() + ask.phases.idle, ask.deadline)
                elif not self._content and upstream.size > COMMENTS:
                    if upstream.size > max(MAX_PRELUDE, 4 * len(ask.body)):
                        raise UpstreamFailed("too_large", f"the provider sent {upstream.size} bytes and no answer")
                    frames = [frame for frame in frames if frame.events != (_COMMENT,)]
            else:
                frames = reader.finish()
                self._finished = True
            self.done = reader.done
            if frames:
                if not self.raw and not self._begun:
                    frames = self._named(frames)
                return self._withheld(frames) if self._withhold else frames
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
        upstream.phase = "idle"
        while data:
            if upstream.size > LARGE and not self._held:
                await self._take_room()
            if upstream.size > MAX_BODY:  # a stream has no limit of its own, and this is none
                raise UpstreamFailed("too_large", f"the reply is larger than {MAX_BODY} bytes", status=self.status)
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
            return [Frame(body, self.dialect.glance(ask.operation, body))]
        return self._named([Frame(None, self._read(body))])

    def _read(self, body: bytes) -> tuple[Event, ...]:
        events = self.dialect.read_reply(body)
        return events if events and type(events[-1]) is End else (*events, End())

    async def _take_room(self) -> None:
        """Wait for room for the whole reply. Raises ``Unavailable``."""
        heard, ask = self._heard, self._ask
        length = None if "content-encoding" in heard else heard.get("content-length")
        size = MAX_BODY if length is None else min(int(length), MAX_BODY)
        patience = min(ask.phases.idle, ask.deadline - self._clock.monotonic())
        self._held = await self._upstream.room.take(size if self.raw else size * READ, patience)

    def close(self) -> None:
        """Give the connection back, or close it if the reply is not complete."""
        if self._held:
            self._upstream.room.give(self._held)
            self._held = 0
        self._upstream.release()
