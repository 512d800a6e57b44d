"""The frames of a committed reply, and what is done when its stream breaks off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainstay.core.call import Reply
from mainstay.core.errors import FailureKind, Invalid, MainstayError, UpstreamFailed
from mainstay.core.event import End, Event, Frame
from mainstay.gateway.active import Active
from mainstay.gateway.rescue import Continuation, Regeneration
from mainstay.gateway.retry import MOST_ATTEMPTS
from mainstay.gateway.routed import Routed
from mainstay.gateway.target import Target
from mainstay.wire.dialect import Writer

if TYPE_CHECKING:
    from mainstay.gateway.attempt import Search

_RESCUABLE: frozenset[FailureKind] = frozenset(
    ("cut", "timeout", "connect", "server_error", "overloaded", "unreadable", "rate_limit", "quota", "too_large")
)
_GENERATIVE = ("chat", "messages", "responses")


class Stream:
    """Yields the frames of the attempt that answered; when it fails after content was sent, of whoever completes it."""

    __slots__ = ("_active", "_call", "_finished", "_first", "_raw", "_rescue", "_search", "_sent", "_writer", "reply")

    def __init__(self, call: Routed, search: Search, active: Active, first: list[Frame]) -> None:
        self._call, self._search, self._active = call, search, active
        self._first: list[Frame] | None = first
        self._finished = False
        self._rescue: Continuation | Regeneration | None = None
        self._writer: Writer | None = None
        self._sent = active.progress
        self._raw = active.source is not None and active.source.raw
        self.reply: Reply | None = Reply(
            dialect=call.dialect if self._raw else "",
            stream=call.stream,
            frames=self,
            progress=self._sent,
        )

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> list[Frame]:
        frames = await self._frames()
        if not frames:
            raise StopAsyncIteration
        taps = self._call.taps
        if taps:
            # What is translated still has the upstream's bytes beside it, which the caller does not get.
            given = frames if self._raw else [Frame(None, frame.events) for frame in frames]
            for tap in taps:
                tap(given)
        return frames

    async def _frames(self) -> list[Frame]:
        if self._first is not None:
            frames, self._first = self._first, None
            if not self._call.stream:
                self._end()
            if frames:
                return frames
        if self._finished:
            return []
        try:
            if self._rescue is not None:
                return await self._rescued()
            frames = await self._active.next()
        except UpstreamFailed as failure:
            saved = await self._save(failure)
            if saved is None:
                raise
            return saved
        if not frames:
            self._end()
        return frames

    def _end(self) -> None:
        self._finished = True
        call, active = self._call, self._active
        active.succeeded()
        call.model, call.provider = active.target.name, active.target.provider
        call.usage = active.attempt.usage
        finishes = active.progress.finishes
        call.finish = finishes[min(finishes)].reason if finishes else None

    async def _rescued(self) -> list[Frame]:
        """The next frames of the target that completes the answer."""
        assert self._rescue is not None
        while True:
            frames = await self._active.next()
            if not frames:
                tail = self._rescue.end()
                self._end()
                return [self._written(tail)] if tail else []
            events = self._rescue.feed([event for frame in frames for event in frame.events])
            if events:
                return [self._written(events)]

    def _written(self, events: list[Event]) -> Frame:
        if self._writer is None:
            return Frame(None, tuple(events))
        raw = self._writer.write(events)
        if any(type(event) is End for event in events):
            raw += self._writer.end()
        return Frame(raw, tuple(events))

    async def _save(self, failure: UpstreamFailed) -> list[Frame] | None:
        """Find a target that completes what was sent; None where there is none."""
        call, broken = self._call, self._active
        broken.failed(failure)
        call.why.append(f"{broken.target.name}:{failure.kind} in the stream")
        self._search.note(failure, broken.target)
        progress = self._sent
        if (
            call.to.rescue
            and call.stream
            and call.operation in _GENERATIVE
            and failure.kind in _RESCUABLE
            and not progress.overflow
        ):
            for target, continues in self._candidates():
                if self._search.pace.count >= MOST_ATTEMPTS or self._search.clock.monotonic() >= call.ask.deadline:
                    break
                if not self._may(target, broken):
                    continue
                frames = await self._resume(target, continues)
                if frames is not None:
                    return frames
        self._finished = True
        call.model, call.provider = broken.target.name, broken.target.provider
        return None

    def _may(self, target: Target, broken: Active) -> bool:
        """Whether the target may be asked, after what has become of the attempts so far."""
        if target.name in self._search.silent:
            return False
        if target is broken.target:
            return self._call.to.retry_budget.allows()
        return target.health.breaker.admits()

    def _candidates(self) -> list[tuple[Target, bool]]:
        """Who may complete the answer and how, best first: a continuation costs least; then the others, then the same again."""
        call, progress = self._call, self._sent
        usable = [target for target in call.order if not self._search.too_small(target)]
        usable.sort(key=lambda target: target is self._active.target)
        continuing = [(t, True) for t in usable if progress.text_only and progress.text.strip() and continues(t)]
        return continuing + [(target, False) for target in usable]

    async def _resume(self, target: Target, continues: bool) -> list[Frame] | None:
        call, broken = self._call, self._active
        try:
            ask = call.ask.continuing(self._sent.text) if continues else call.ask
            active, frames = await self._search.attempt(target, ask)
        except UpstreamFailed as failure:
            self._search.note(failure, target)
            call.why.append(f"rescue by {target.name}:{failure.kind}")
            return None
        except MainstayError as error:
            call.why.append(f"rescue by {target.name}:{error.code}")
            return None
        sent = self._sent
        rescue = Continuation(sent) if continues else Regeneration(sent)
        self._active, self._rescue = active, rescue
        if self._writer is None and self.reply is not None and self.reply.dialect:
            writer = call.ask.dialect.writer(call.ask.peek.usage_wanted, request=call.body)
            writer.write(sent.condensed())  # brings the writer to where the raw bytes have left the caller
            self._writer = writer
        try:
            while True:
                events = rescue.feed([event for frame in frames for event in frame.events])
                if events:
                    break
                frames = await active.next()
                if not frames:
                    events = rescue.end()
                    self._end()
                    break
        except UpstreamFailed as failure:
            self._search.note(failure, target)
            active.failed(failure)
            call.why.append(f"rescue by {target.name}:{failure.kind}")
            self._active, self._rescue = broken, None
            return None
        except Invalid as mismatch:
            active.cancelled()
            call.why.append(f"rescue by {target.name}:{mismatch.message}")
            self._active, self._rescue = broken, None
            return None
        active.attempt.rescue = "continued" if rescue.continued else "regenerated"
        self._sent = rescue.progress
        if self.reply is not None:
            self.reply.progress = rescue.progress
        call.fallback = True
        call.why.append(f"rescue by {target.name}:{active.attempt.rescue}")
        return [self._written(events)] if events else await self._frames()


def continues(target: Target) -> bool:
    """Whether the target may be given the beginning of its answer: known to, or speaking a format in which it is usual."""
    prefill = target.facts.prefill
    return prefill if prefill is not None else target.wire in ("anthropic", "bedrock")
