"""The last stage: asks the targets in turn until one answers, and commits to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, Unavailable, Unsupported, UpstreamFailed
from mainstay.core.event import Frame
from mainstay.gateway.active import Active
from mainstay.gateway.admit import covered
from mainstay.gateway.count import estimated, stands_in
from mainstay.gateway.retry import MOST_ATTEMPTS, Pace, decide, pause
from mainstay.gateway.routed import Routed
from mainstay.gateway.stream import Stream
from mainstay.gateway.target import Target
from mainstay.ledger.journal import Journal
from mainstay.ledger.recording import opened
from mainstay.upstream.ask import Ask

Sleep = Callable[[float], Awaitable[None]]


class Attempts:
    """The stage. ``enter`` returns when a target's first content (or whole plain reply) is there."""

    def __init__(
        self, journal: Journal, clock: Clock, chance: Callable[[], float], sleep: Sleep = asyncio.sleep
    ) -> None:
        self._journal, self._clock, self._chance, self._sleep = journal, clock, chance, sleep

    async def enter(self, call: Routed) -> Reply:
        """Ask until someone answers. Raises what the last one failed with."""
        holds: dict[str, int] = {}
        for hold in (call.hold, *call.model_holds.values()):
            if hold is not None:
                holds.update(hold.holds)
        self._journal.open(opened(call, holds, [target.name for target in call.order]))
        call.opened = True
        call.to.called()
        search = Search(call, self._clock, self._chance, self._sleep)
        try:
            active, frames = await search.run()
        except MainstayError:
            search.last = None  # an error refers to the frames through which it came, and they to the search
            if stands_in(call):
                return estimated(call)
            raise
        if search.last is not None:
            search.last.__traceback__ = None
        source = active.source
        assert source is not None
        call.model, call.provider = active.target.name, active.target.provider
        call.dropped = tuple(sorted(call.ask.dropped))
        stream = Stream(call, search, active, frames)
        reply = stream.reply
        assert reply is not None
        call.stream_of = stream
        reply.headers = source.headers
        if source.raw:
            reply.content_type = call.reply_type = source.content_type
        return reply

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Whatever is still running is cancelled."""
        for active in call.running:
            active.cancelled()
        if call.usage is None and call.attempts:  # it did not end well
            call.usage = call.attempts[-1].usage
        # Nothing may be left that refers to itself: the collector would have to find it, at a seventh of all the time.
        call.running = ()
        if call.stream_of is not None:
            call.stream_of.reply = None
            call.stream_of = None


class Search:
    """The search of one call for a target that answers; a rescue later goes on with the same counts."""

    def __init__(self, call: Routed, clock: Clock, chance: Callable[[], float], sleep: Sleep) -> None:
        self.call, self.clock = call, clock
        self._chance, self._sleep = chance, sleep
        self.pace = call.ask.pace = Pace()
        self.last: MainstayError | None = None
        self._hedge: Target | None = None  # the target that was asked beside another
        self._limited = False  # a provider said 429: from then on the pace is kept
        self._window: int | None = None  # a context error was seen: only larger windows are worth a try
        self.silent: set[str] = set()  # targets that timed out: never asked again for this call

    async def run(self) -> tuple[Active, list[Frame]]:
        """The first attempt that has content, with the frames it has yielded."""
        call = self.call
        order = [target for target in call.order if self._may(target)] or self._last_resort()
        for i, target in enumerate(order):
            if target is self._hedge:
                continue  # it has had its turn beside the one before it
            if self.too_small(target):
                call.why.append(f"{target.name}:context")
                continue
            others = i + 1 < len(order)
            if i:
                call.fallback = True
            found = await (
                self._hedged(target, order[i + 1]) if others and call.to.hedge else self._tries(target, others)
            )
            if found is not None:
                call.why.append(found[0].target.name)
                return found
        assert self.last is not None
        raise self.last

    def _may(self, target: Target) -> bool:
        if target.health.breaker.admits():
            return True
        self.call.why.append(f"{target.name}:breaker_open")
        return False

    def _last_resort(self) -> list[Target]:
        """Every breaker is open. Refusing everybody would only prolong an outage: one call at a time may probe."""
        resting = sorted(self.call.order, key=lambda target: target.health.breaker.opens_in())
        for target in resting:
            if not target.health.breaker.probing:
                return [target]
        wait = max(1.0, resting[0].health.breaker.opens_in())
        raise Unavailable(
            "every target of this route is failing; it is being probed", retry_after=wait, code="no_target"
        )

    def too_small(self, target: Target) -> bool:
        """Whether the request did not fit into a window that was at least as large."""
        window = target.facts.context_window
        return self._window is not None and window is not None and window <= self._window

    async def _tries(self, target: Target, others: bool) -> tuple[Active, list[Frame]] | None:
        """All tries at one target. None: go on to the next. Raises what is final."""
        tries, rule = 0, self.call.to.retry
        while True:
            tries += 1
            try:
                active, frames = await self.attempt(target)
                if others and rule.on_filter == "fallback" and active.filtered(frames):
                    failure = UpstreamFailed("content_filter", f"{target.name} filtered the whole of its answer")
                    active.failed(failure)
                    raise failure
                return active, frames
            except UpstreamFailed as failure:
                step = self._after(failure, target, tries, others)
                if step == "final":
                    raise
                if step == "next":
                    return None
                await self._pause(pause(failure, tries, rule, self._chance()))
            except Unsupported as error:
                self.call.why.append(f"{target.name}:cannot say {error.field}")
                self.last = self.last or error
                return None
            except Unavailable as error:
                used = error.code == "attempts_used"
                self.call.why.append(f"{target.name}:no attempt left" if used else f"{target.name}:busy")
                self.last = (self.last or error) if used else error
                return None

    def _after(self, failure: UpstreamFailed, target: Target, tries: int, others: bool) -> str:
        self.call.why.append(f"{target.name}:{failure.kind}")
        if not (isinstance(self.last, UpstreamFailed) and failure.kind in ("auth", "not_found")):
            self.last = failure
        self.note(failure, target)
        step = decide(failure, tries, self.call.to.retry, others)
        if step != "final" and (self.pace.count >= MOST_ATTEMPTS or self.clock.monotonic() >= self.call.ask.deadline):
            return "final"
        if step == "same" and others and not target.health.breaker.admits():
            return "next"  # this failure has opened its breaker
        if step == "same" and not self.call.to.retry_budget.allows():
            self.call.why.append("retry budget used up")
            return "next"
        return step

    def note(self, failure: UpstreamFailed, target: Target) -> None:
        """Remember what a failure says about the attempts that are still to come."""
        if failure.kind == "context_length":
            self._window = max(self._window or 0, target.facts.context_window or 0)
        elif failure.kind == "rate_limit":
            self._limited = True
        elif failure.kind == "timeout":
            self.silent.add(target.name)

    async def _pause(self, seconds: float) -> None:
        left = self.call.ask.deadline - self.clock.monotonic()
        if seconds >= left:
            assert self.last is not None
            raise self.last
        await self._sleep(seconds)
        self.call.upstream_seconds += seconds  # the pause is the provider's doing, not ours

    async def attempt(self, target: Target, ask: Ask | None = None) -> tuple[Active, list[Frame]]:
        """One attempt, up to its first content. Raises ``UpstreamFailed``, ``Unsupported``, ``Invalid``, ``Unavailable``."""
        call = self.call
        while self._limited and (wait := self.pace.wait(self.clock.monotonic())):
            await self._pause(wait)  # again, if somebody asked beside it has taken the turn
        if not covered(target, call):
            raise Unavailable("what is held of the budget does not cover another attempt", code="budget_held")
        health = target.health
        if not health.provider_gate.try_enter():
            await health.provider_gate.enter(call.priority, call.ask.deadline - self.clock.monotonic())
        try:
            if not health.gate.try_enter():
                await health.gate.enter(call.priority, call.ask.deadline - self.clock.monotonic())
        except BaseException:
            health.provider_gate.leave()
            raise
        if self.pace.count >= MOST_ATTEMPTS:  # whoever is asked beside it was quicker
            health.gate.leave()
            health.provider_gate.leave()
            raise Unavailable("the call has made all the attempts that it may", code="attempts_used")
        self.pace.attempted(self.clock.monotonic())
        active = Active(call, target, self.clock)
        call.running = (*call.running, active)
        call.attempts.append(active.attempt)
        try:
            return active, await self._first_content(active, ask or call.ask)
        except UpstreamFailed as failure:
            active.failed(failure)
            raise
        except (Unsupported, Invalid):
            active.cancelled()
            call.attempts.remove(active.attempt)
            raise
        except BaseException:
            active.cancelled()
            raise

    async def _first_content(self, active: Active, ask: Ask) -> list[Frame]:
        call = self.call
        await active.begin(ask)
        frames = await active.next()
        if not call.stream:
            return frames
        back = call.to.hold_back
        while not active.progress.content or (back and active.progress.size < back):
            more = await active.next()
            if not more:
                break
            frames += more
        return frames

    async def _hedged(self, target: Target, other: Target) -> tuple[Active, list[Frame]] | None:
        """Ask ``target``; if it is slow, ask ``other`` too; whoever has content first wins, the other is cancelled."""
        hedge = self.call.to.hedge
        assert hedge is not None
        asked = [asyncio.ensure_future(self._tries(target, True))]
        pending = set(asked)
        failure: BaseException | None = None
        try:
            await asyncio.wait(pending, timeout=hedge.after)
            if not asked[0].done() and other.health.breaker.admits() and hedge.allows(other, self.call):
                self.call.why.append(f"hedge:{other.name}")
                self._hedge = other
                asked.append(asyncio.ensure_future(self._tries(other, True)))
                pending.add(asked[1])
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                winner: tuple[Active, list[Frame]] | None = None
                for task in asked:
                    if task not in done:
                        continue
                    if (error := task.exception()) is not None:
                        failure = failure or error
                    elif (found := task.result()) is not None:
                        if winner is None:
                            winner = found
                        else:
                            found[0].cancelled()
                if winner is not None:
                    self.call.fallback = self.call.fallback or winner[0].target is not target
                    return winner
            if failure is not None:
                raise failure
            return None
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
