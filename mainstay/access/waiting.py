"""Calls that wait for units from control: first come, first served, one Need on its way per pool.

A call is refused only by the answer to a Need that was sent after it came and in which it was counted.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from mainstay.access.pool import Pool
from mainstay.access.rules import USD, Claim, Rule, parts
from mainstay.core.clock import Clock
from mainstay.core.errors import OverLimit, Unavailable

Ask = Callable[[int, dict[str, int]], None]
"""Sends a Need with this id and these wants. Raises ``ConnectionError`` where control is away.

A want of 0 names a pool of which the waiting calls have enough here, as long as nobody else gets it meanwhile.
"""

SOON = 0.25
"""Seconds after which a rule that would rather let a call pass (soft, or ``unreachable: allow``) does so."""

PATIENCE = 2.0
"""Seconds after which control, although connected, counts as away for every rule."""

REST = 0.02
"""Seconds between control's word that there is no more of a pool and the next question for it.

Whoever comes meanwhile waits for that question, so that callers who ask in vain do not keep control busy.
"""

MOST = 10_000
"""Calls that may wait at a time."""


class Releasable(Protocol):
    """What a waiter gets; put back if nobody is there any more to take it."""

    def release(self) -> None: ...


H = TypeVar("H", bound=Releasable)
Short = list[tuple[Claim, Pool]]


class Waiter(Generic[H]):
    """One call that waits."""

    __slots__ = ("ask", "claims", "forced", "future", "late", "number", "queues", "refused", "units")

    def __init__(self, number: int, claims: Sequence[Claim], ask: Ask, future: asyncio.Future[H]) -> None:
        self.number = number
        self.claims = claims
        self.ask = ask
        self.future = future
        self.units: dict[str, int] = {}
        for claim in claims:
            self.units[claim.pool] = self.units.get(claim.pool, 0) + claim.units
        self.forced: set[str] = set()  # pools that may go into debt for this call
        self.refused: set[str] = set()  # pools of which control has just said: no more
        self.queues: dict[str, Pool] = {}  # pools in whose queue it stands
        self.late = False


class Waiting(Generic[H]):
    """The queues of one purse.

    ``take`` holds all claims, or says which pools are short; pools in its second argument may go into debt.
    A call takes nothing while an earlier one waits for the same pool. Whoever has the lowest number is never blocked,
    so that no two wait for each other.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Claim], Collection[str]], H | Short],
        pool_of: Callable[[Claim], Pool],
        clock: Clock,
    ) -> None:
        self._take = take
        self._pool_of = pool_of
        self._clock = clock
        self._waiters: dict[int, Waiter[H]] = {}
        self._needs: dict[int, list[tuple[Pool, int]]] = {}
        self._last = 0
        self._changed: deque[Pool] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._advancing = False

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, claims: Sequence[Claim], ask: Ask) -> H:
        """What ``take`` makes, once there are units for it. Raises ``OverLimit``, or ``Unavailable`` if too many wait."""
        if len(self._waiters) >= MOST:
            raise Unavailable("too many calls wait for their share of a limit; try again in a second")
        loop = self._loop = asyncio.get_running_loop()
        self._last += 1
        waiter: Waiter[H] = Waiter(self._last, claims, ask, loop.create_future())
        self._waiters[waiter.number] = waiter
        timers: list[asyncio.TimerHandle] = []
        try:
            self._step(waiter)
            self._advance()
            if not waiter.future.done():
                timers.append(loop.call_later(SOON, self._late, waiter))
                timers.append(loop.call_later(PATIENCE, self._give_up, waiter))
            return await waiter.future
        except asyncio.CancelledError:
            future = waiter.future
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._leave(waiter)
            self._advance()

    def changed(self, pool: Pool) -> None:
        """Units of ``pool`` became idle, or control has answered: see who can go on."""
        self._changed.append(pool)
        self._advance()

    def answered(self, need: int, units: Mapping[str, int], wait: Mapping[str, float]) -> None:
        """Control has answered that Need, and the units are in their pools."""
        now = self._clock.monotonic()
        told: list[Waiter[H]] = []
        for pool, want in self._needs.pop(need, ()):
            pool.asked = None
            counted, pool.counted = pool.counted, []
            if units.get(pool.name, 0) < want:
                self._rest(pool)
                for one in counted:
                    waiter = self._waiters.get(one.number)
                    if waiter is not None:
                        waiter.refused.add(pool.name)
                        told.append(waiter)
            pool.wait_until = now + wait[pool.name] if pool.name in wait else 0.0
            self._changed.append(pool)
        self._advance()
        for waiter in told:  # true of this moment only: whoever still waits, for another pool, asks again
            waiter.refused.clear()

    def cut(self) -> None:
        """The connection is gone and with it every answer: whoever waits asks again, and is told so."""
        for pools in self._needs.values():
            for pool, _ in pools:
                pool.asked = None
                pool.counted = []
        self._needs.clear()
        for waiter in list(self._waiters.values()):
            if not waiter.future.done():
                self._step(waiter)
        self._advance()

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._changed:
                pool = self._changed.popleft()
                while pool.queue:
                    first = pool.queue[0]
                    self._step(self._waiters[first.number])
                    if pool.queue and pool.queue[0] is first:
                        break  # it goes on waiting, and so does everybody behind it
        finally:
            self._advancing = False

    def _step(self, waiter: Waiter[H]) -> None:
        while True:
            blocked = self._blocked(waiter)
            if blocked:
                short = blocked
            else:
                result = self._take(waiter.claims, waiter.forced)
                if not isinstance(result, list):
                    self._leave(waiter)
                    if waiter.future.done():
                        result.release()
                    else:
                        waiter.future.set_result(result)
                    return
                short = result
            self._stand(waiter, short)
            again = False
            if not blocked:
                now = self._clock.monotonic()
                for claim, pool in short:
                    hopeless = claim.units > claim.rule.amount
                    if hopeless or pool.name in waiter.refused or (pool.rests and claim.rule.soft):
                        if not claim.rule.soft:
                            return self._refuse(waiter, over(claim, pool, now))
                        waiter.forced.add(pool.name)
                        again = True
            if waiter.late:
                again = self._force(waiter, short) or again
            if not again and not self._request(waiter, [pool for _, pool in short if pool.asked is None]):
                again = self._force(waiter, short)
                if not again:
                    claim, pool = short[0]
                    return self._refuse(waiter, unreachable(claim))
            if not again:
                return

    def _blocked(self, waiter: Waiter[H]) -> Short:
        blocked: Short = []
        for claim in waiter.claims:
            pool = self._pool_of(claim)
            if pool.queue and pool.queue[0].number < waiter.number and claim.pool not in waiter.forced:
                blocked.append((claim, pool))
        return blocked

    def _force(self, waiter: Waiter[H], short: Short) -> bool:
        """Let the waiter pass where control does not answer and the rule says so; whether that changed anything."""
        names = {pool.name for claim, pool in short if claim.rule.soft or claim.rule.unreachable == "allow"}
        new = names - waiter.forced
        waiter.forced |= new
        return bool(new)

    def _request(self, waiter: Waiter[H], pools: list[Pool]) -> bool:
        """Send one Need for these pools and everybody who stands there; False where control is away.

        A pool that rests is asked for afterwards. Whatever else those calls claim is named too: control lets nobody have
        it before they have their answer, else two gateways could each take what the other's calls lack.
        """
        wants: dict[str, int] = {}
        asked: list[tuple[Pool, int]] = []
        for pool in pools:
            if pool.rests:
                continue
            want = sum(self._waiters[one.number].units[pool.name] for one in pool.queue) - pool.idle
            if want > 0 and pool.name not in wants:
                wants[pool.name] = want
                asked.append((pool, want))
        if not wants:
            return True
        for pool, _ in asked:
            for one in pool.queue:
                for name in self._waiters[one.number].units:
                    wants.setdefault(name, 0)
        self._last += 1
        need = self._last
        try:
            waiter.ask(need, wants)
        except ConnectionError:
            return False
        for pool, _ in asked:
            pool.asked = need
            pool.counted = list(pool.queue)
        self._needs[need] = asked
        return True

    def _rest(self, pool: Pool) -> None:
        if self._loop is not None and not pool.rests:
            pool.rests = True
            self._loop.call_later(REST, self._rested, pool)

    def _rested(self, pool: Pool) -> None:
        pool.rests = False
        self.changed(pool)

    def _stand(self, waiter: Waiter[H], short: Short) -> None:
        names = {pool.name for _, pool in short}
        for name in [name for name in waiter.queues if name not in names]:
            self._quit(waiter, waiter.queues.pop(name))
        for _, pool in short:
            if pool.name not in waiter.queues:
                waiter.queues[pool.name] = pool
                insort(pool.queue, waiter, key=attrgetter("number"))

    def _quit(self, waiter: Waiter[H], pool: Pool) -> None:
        pool.queue.remove(waiter)
        if pool.queue:
            self._changed.append(pool)

    def _leave(self, waiter: Waiter[H]) -> None:
        if self._waiters.pop(waiter.number, None) is None:
            return
        for pool in waiter.queues.values():
            self._quit(waiter, pool)
        waiter.queues.clear()

    def _refuse(self, waiter: Waiter[H], error: OverLimit) -> None:
        self._leave(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(error)

    def _late(self, waiter: Waiter[H]) -> None:
        waiter.late = True
        if not waiter.future.done():
            self._step(waiter)
            self._advance()

    def _give_up(self, waiter: Waiter[H]) -> None:
        if not waiter.future.done():
            rules = [claim for claim in waiter.claims if claim.pool in waiter.queues]
            self._refuse(waiter, unreachable((rules or list(waiter.claims))[0]))
            self._advance()


def over(claim: Claim, pool: Pool, now: float) -> OverLimit:
    """The error for a call that this rule refuses, with the time after which units are expected."""
    rule = claim.rule
    waits = [] if pool.wait_until <= now else [pool.wait_until - now]
    own = pool.expected(claim.units - pool.idle, now)
    if own is not None:
        waits.append(own)
    money = rule.code == USD
    after = max(min(waits, default=86_400.0 if money else 1.0), 1.0 if money else 0.001)
    scope = parts(claim.pool)[1]
    whom = f" ({scope})" if scope else ""
    if claim.units > rule.amount:
        sentence = _too_large(rule, whom)
    elif money:
        sentence = f"the budget of {rule.sentence}{whom} is used up or held by calls in flight"
    else:
        sentence = f"the limit of {rule.sentence}{whom} is reached"
    return OverLimit(
        f"{sentence}; try again in {_words(after)}, or have it raised",
        retry_after=after,
        rule=rule.id,
        code="budget_exceeded" if money else None,
    )


def _too_large(rule: Rule, whom: str) -> str:
    if rule.code != USD:
        return f"this call is larger than the whole limit of {rule.sentence}{whom}"
    return f"this call may cost more than the whole budget of {rule.sentence}{whom}: ask for fewer output tokens"


def unreachable(claim: Claim) -> OverLimit:
    """The error for a call that this process's share does not cover while control cannot be asked for more."""
    return OverLimit(
        f"this process's share of {claim.rule.sentence} is used up and the control process does not answer; "
        "try again in a second",
        retry_after=1.0,
        rule=claim.rule.id,
        code="limit_unverifiable",
    )


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} h"
