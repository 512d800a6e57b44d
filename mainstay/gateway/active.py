"""One attempt at one target while it lasts: its timing, what it has produced, how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainstay.core.call import Attempt
from mainstay.core.clock import Clock
from mainstay.core.errors import FailureKind, MainstayError, UpstreamFailed
from mainstay.core.event import End, Failed, Frame
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage, clamped
from mainstay.gateway.target import Target
from mainstay.upstream.ask import Ask, Source

if TYPE_CHECKING:
    from mainstay.gateway.routed import Routed

_KINDS: frozenset[str] = frozenset(FailureKind.__args__)  # type: ignore[attr-defined]

_GENERATIVE = ("chat", "messages", "responses", "completions")
_FILTERED = ("content_filter", "refusal")

# What ends a stream in each format where a provider says that it has finished, but not that it has ended.
_TERMINAL = {"openai": b"data: [DONE]\n\n", "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n'}


class Active:
    """Created when the attempt begins, with a place at both of the target's gates.

    Exactly one of ``succeeded``, ``failed``, ``cancelled`` and ``withdrawn`` takes effect.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_failure",
        "_plain",
        "_probe",
        "_settled",
        "_started",
        "attempt",
        "progress",
        "source",
        "target",
    )

    def __init__(self, call: Routed, target: Target, clock: Clock) -> None:
        self.target = target
        self.attempt = Attempt(target.name, target.provider, target.upstream_model, clock.now())
        self.progress = Progress()
        self.source: Source | None = None
        self._call, self._clock = call, clock
        self._started = clock.monotonic()
        self._settled = False
        self._failure: UpstreamFailed | None = None
        self._plain: bytes | None = None  # a plain reply that passes through and does not say what it used
        health = target.health
        health.in_flight += 1
        self._probe = health.breaker.begin()

    async def begin(self, ask: Ask) -> None:
        """Put the question. Raises ``UpstreamFailed``, ``Unsupported`` or ``Invalid``, having settled."""
        before = self._clock.monotonic()
        sent = ask.sent
        try:
            self.source = await self.target.answerer.ask(ask, self.target.upstream_model, self.target.facts)
        except UpstreamFailed as failure:
            self.failed(failure)
            raise
        except MainstayError:
            self.withdrawn()
            raise
        except BaseException:
            self.cancelled(asked=ask.sent > sent)
            raise
        finally:
            self._call.upstream_seconds += self._clock.monotonic() - before
            if ask.repeated and ask.repeated == self.target.upstream_model:
                ask.repeated = ""
                self._call.why.append(f"{self.target.name}:reconnected")
        self.attempt.status = self.source.status
        self.attempt.request_id = self.source.request_id

    async def next(self) -> list[Frame]:
        """The next frames that can be understood; an empty list when the reply is whole. Raises ``UpstreamFailed``."""
        source = self.source
        assert source is not None
        while True:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                try:
                    raise failure
                finally:
                    del failure  # an error refers to this frame: nothing here may refer to the error
            before = self._clock.monotonic()
            try:
                frames = await source.next()
            except UpstreamFailed:
                if not (source.stream and self._finished()):
                    raise
                frames = []  # nothing but the terminal sign is missing
            finally:
                self._call.upstream_seconds += self._clock.monotonic() - before
            if not frames:
                return self._ended(source)
            frames = self._seen(frames)
            if frames:
                return frames

    def _seen(self, frames: list[Frame]) -> list[Frame]:
        progress = self.progress
        had = progress.content
        kept = frames
        for i, frame in enumerate(frames):
            if frame.unread:
                kept = [one for one in frames if not one.unread]
                continue
            progress.see(frame.events)
            if progress.failed is not None:
                self._failure = _failure_in(progress.failed)
                if self.source is not None:
                    self.source.hide(self._failure)
                kept = [one for one in frames[:i] if not one.unread]
                break
        if not self._call.stream and progress.usage is None:
            self._plain = frames[0].raw
        if not had and progress.content:
            now = self._clock.monotonic()
            self.attempt.first_token_ms = (now - self._started) * 1000
            self.target.health.breaker.answered(self._probe)
            if self._call.stream:
                self.target.health.latency.seen(now - self._started)
            if self._call.first_token is None:
                self._call.first_token = now
        return kept

    def _ended(self, source: Source) -> list[Frame]:
        progress = self.progress
        if source.done or progress.end:
            return []
        if self._finished():
            progress.end = True
            return [Frame(_TERMINAL.get(source.dialect.name, b"") if source.raw else None, (End(),))]
        raise UpstreamFailed("cut", f"{self.target.name} ended its answer before it was complete")

    def _finished(self) -> bool:
        """Every choice that was asked for, and every one that said something, has ended."""
        progress = self.progress
        return len(progress.finishes) >= self._call.peek.n and progress.finished

    def filtered(self, frames: list[Frame]) -> bool:
        """Whether ``frames``, the first of the reply, say that the provider's filter let no content through."""
        seen = self.progress
        if not seen.finishes or any(finish.reason not in _FILTERED for finish in seen.finishes.values()):
            return False
        if not self._call.stream and frames and frames[0].raw is not None:
            assert self.source is not None
            seen = Progress()  # of a plain reply that passes through, only the outside was looked at
            seen.see(self.source.dialect.read_reply(frames[0].raw))
        return not any(text for _, _, text in seen.shape())

    def succeeded(self) -> None:
        """The reply is whole."""
        if self._close():
            self.target.health.breaker.succeeded(self._probe)
            if not self._call.stream:
                self.target.health.plain.seen(self.attempt.duration_ms / 1000)
            self._settle(self.progress.usage or self.estimate())

    def failed(self, failure: UpstreamFailed) -> None:
        """The target failed; what it reported having used is charged, nothing else."""
        if self._close():
            # Its frames hold what was read of the reply, and it is kept as long as the call.
            failure.__traceback__ = None
            self.target.health.breaker.failed(failure.kind, self._probe, failure.retry_after)
            self.attempt.error, self.attempt.message = failure.kind, failure.message
            if failure.status is not None:
                self.attempt.status = failure.status
            self._settle(self.progress.usage)

    def cancelled(self, asked: bool = True) -> None:
        """The caller went away, or another attempt was quicker; what was produced is charged, if the target was asked."""
        if self._close():
            self.target.health.breaker.gone(self._probe)
            self.attempt.error = "cancelled"
            if not asked:
                self._settle(None)
            else:
                self._settle(self.progress.usage if self._tells_all() else self.estimate())

    def withdrawn(self) -> None:
        """The question could not be put: nothing was asked."""
        if self._close():
            self.target.health.breaker.gone(self._probe)

    @property
    def settled(self) -> bool:
        """It has ended, and its cost is known as far as it can be."""
        return self._settled

    def _tells_all(self) -> bool:
        """Whether the provider has reported the tokens so far. Some report at the start what they have read, and the
        answer only with its end."""
        progress, usage = self.progress, self.progress.usage
        return usage is not None and (bool(progress.finishes) or usage.output * 8 >= progress.size)

    def estimate(self) -> Usage:
        """What the attempt has used, where the provider does not tell: a token for every four bytes."""
        said = self.progress
        if self._plain is not None and self.source is not None and self._call.operation in _GENERATIVE:
            said = Progress()
            try:
                said.see(self.source.dialect.read_reply(self._plain))
            except MainstayError:
                pass  # it went to the caller as it is; nobody can say what is in it
        usage = self.progress.usage
        read = self._call.tokens if usage is None else usage.input
        return clamped(read, -(-said.size // 4), estimated=True)

    def _close(self) -> bool:
        if self._settled:
            return False
        self._settled = True
        health = self.target.health
        health.in_flight -= 1
        health.gate.leave()
        health.provider_gate.leave()
        self.attempt.duration_ms = (self._clock.monotonic() - self._started) * 1000
        if self.source is not None:
            self.source.close()
        return True

    def _settle(self, usage: Usage | None) -> None:
        attempt, price = self.attempt, self.target.price
        attempt.usage = usage
        if usage is None:
            attempt.cost = 0
        elif price is not None:
            attempt.cost = price.cost(usage)


def _failure_in(event: Failed) -> UpstreamFailed:
    kind: FailureKind = event.kind if event.kind in _KINDS else "server_error"  # type: ignore[assignment]
    return UpstreamFailed(kind, event.message or "the provider reported an error inside its stream")
