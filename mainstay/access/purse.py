"""A gateway's purse: its shares of all pools, from which calls are admitted without asking anybody."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mainstay.access.hold import Hold, put_back
from mainstay.access.pool import UNKNOWN, Pool
from mainstay.access.rules import REQUESTS, USD, Claim, parts, window_end
from mainstay.access.waiting import Ask, Waiting
from mainstay.core.clock import Clock
from mainstay.core.errors import Unavailable

SWEEP = 5_000
"""Pools that one round of ``idle_to_give`` looks at."""

REST = 30.0
"""Seconds between two looks at the same pool: what nobody used meanwhile is given back.

A pool in use keeps its idle units, since they are what calls live on while control is dead; control asks for them back
when another gateway needs them.
"""


class Shortage(NamedTuple):
    """Why a call cannot be admitted from this gateway's own shares at once: the claims, with the units that are missing.

    Nothing is missing where it is only that others were first.
    """

    missing: list[tuple[Claim, int]]


class Remaining(NamedTuple):
    """What is left under one rule, for headers: about how many units, and in how many seconds all will be back."""

    claim: Claim
    limit: int
    remaining: int
    reset: float


class Purse:
    """The shares of one gateway process.

    It holds at most ``most`` pools that somebody may still need; pools of past windows and those that nobody used for a
    while are given back and forgotten. For a single thread: none of its plain methods is interrupted.
    """

    def __init__(self, clock: Clock, *, most: int = 50_000) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._most = most
        self._pools: dict[str, Pool] = {}
        self._waiting: Waiting[Hold] = Waiting(self._take_or_short, self._pool_of, clock)
        self._give: dict[str, int] = {}  # units of forgotten pools, to be handed back with the next round
        self._money: set[str] = set()  # those of them that are money
        self._forgot: set[tuple[str, str]] = set()  # (rule, window) of forgotten pools in which money was spent
        self._round: list[str] = []
        self._rest_until = 0.0

    # admitting

    def try_hold(self, claims: Sequence[Claim]) -> Hold | Shortage:
        """Take all claims from the shares, or nothing; nothing either while earlier calls wait for the same pools."""
        if len(self._waiting) and self._contended(claims):
            return self._shortage(claims, self._monotonic())
        return self._try(claims)

    def _try(self, claims: Sequence[Claim]) -> Hold | Shortage:
        now = self._monotonic()
        second = int(now) + 1
        pools = self._pools
        taken: list[tuple[Pool, int]] = []
        warnings: list[str] = []
        for claim in claims:
            rule, name, units = claim
            pool = pools.get(name)
            if pool is None:
                pool = self._open(claim)
            idle = pool.idle - units
            if idle < 0:
                pool.expire(now)
                idle = pool.idle - units
                if idle < 0:
                    put_back(taken, second)
                    return self._shortage(claims, now)
            pool.idle = idle
            pool.touched = True
            code = rule.code
            if code == REQUESTS:
                if pool.second == second:
                    pool.newest += units
                    pool.used += units
                else:
                    pool.use(units, second)
            elif code == USD and idle + pool.left < rule.warn_below:
                warnings.append(_near(claim, pool))
            taken.append((pool, units))
        return Hold(self, taken, second, warnings)

    async def acquire(self, claims: Sequence[Claim], ask: Ask) -> Hold:
        """Take all claims, asking control once for what is missing.

        Calls that wait for the same pool are served in order. ``ask`` sends a Need; its answer comes to ``credit``, the
        loss of the connection to ``cut``. Raises ``OverLimit`` if control has no more, or does not answer and a rule
        with a shortage neither is soft nor says ``unreachable: allow``.
        """
        hold = self.try_hold(claims)
        if isinstance(hold, Hold):
            return hold
        return await self._waiting.wait(claims, ask)

    def remaining(self, claims: Sequence[Claim]) -> list[Remaining]:
        """What is left under each of these rules: this gateway's idle units and what control last said was free."""
        return [Remaining(claim, claim.rule.amount, *self.left(claim)) for claim in claims]

    def left(self, claim: Claim) -> tuple[int, float]:
        """The same of one rule: about how many units, and in how many seconds all will be back."""
        amount = claim.rule.amount
        pool = self._pools.get(claim.pool)
        if pool is None:
            return amount, 0.0
        now = self._monotonic()
        pool.expire(now)
        left = pool.idle + pool.left
        return 0 if left < 0 else left if left < amount else amount, pool.reset(now)

    def left_share(self, claims: Sequence[Claim]) -> float:
        """The share of the tightest budget that is left, 0 to 1; 1 without a budget."""
        least = 1.0
        for claim in claims:
            if claim.rule.code == USD:
                pool = self._pools.get(claim.pool)
                if pool is not None:
                    amount = claim.rule.amount
                    left = (pool.idle + pool.left) / amount if amount else 0.0
                    if left < least:
                        least = left if left > 0 else 0.0
        return least

    # talking with control

    def credit(
        self,
        need: int,
        units: Mapping[str, int],
        wait: Mapping[str, float] | None = None,
        left: Mapping[str, int] | None = None,
    ) -> None:
        """Control's Grant: the units are this gateway's now."""
        for name, more in units.items():
            pool = self._pools.get(name)
            if pool is not None:
                pool.share += more
                pool.idle += more
            elif more > 0:
                self._give[name] = self._give.get(name, 0) + more
        for name, free in (left or {}).items():
            pool = self._pools.get(name)
            if pool is not None:
                pool.left = free
        self._waiting.answered(need, units, wait or {})

    def cut(self) -> None:
        """The connection to control is lost: no answer to any Need will come."""
        self._waiting.cut()

    def shares(self) -> dict[str, int]:
        """All units of each pool that are this gateway's, used and spent ones included, for its Hello.

        A pool that was forgotten while money of it was spent is left out: control knows better.
        """
        found = {name: pool.share for name, pool in self._pools.items() if pool.exact}
        # Control takes what a Hello leaves out for given back, except money. So only that is still to be given.
        self._give = {name: units for name, units in self._give.items() if name in self._money and name not in found}
        self._money.intersection_update(self._give)
        return found

    def reclaim(self, name: str, units: int) -> tuple[int, float | None]:
        """Give back up to so many idle units of a pool; and in how many seconds more may be idle, if known."""
        pool = self._pools.get(name)
        if pool is None:
            return self._give.pop(name, 0), None
        now = self._monotonic()
        pool.expire(now)
        given = max(min(units, pool.idle), 0)
        pool.idle -= given
        pool.share -= given
        return given, None if given >= units else pool.expected(1, now)

    def idle_to_give(self) -> dict[str, int]:
        """Units to hand back now, already deducted: what nobody needed for ``REST`` seconds, and what is past.

        Call it every second or so, and only while connected. It looks at a bounded number of pools each time.
        """
        given, self._give = self._give, {}
        self._money.clear()
        now, wall = self._monotonic(), self._clock.now()
        if not self._round:
            if now < self._rest_until:
                return given
            self._rest_until = now + REST
            self._round = list(self._pools)
            self._forgot = {known for known in self._forgot if (window_end(known[1]) or wall + 1) > wall}
        for name in self._round[-SWEEP:]:
            pool = self._pools.get(name)
            if pool is None:
                continue
            units = self._sweep(pool, now, wall)
            if units > 0:
                given[name] = given.get(name, 0) + units
        del self._round[-SWEEP:]
        return given

    def gauges(self) -> dict[str, float]:
        """Figures for ``/metrics``."""
        return {"pools": float(len(self._pools)), "calls_waiting_for_units": float(len(self._waiting))}

    # inside

    def second(self) -> int:
        """The whole second that ends next (monotonic)."""
        return int(self._monotonic()) + 1

    def wake(self, taken: Sequence[tuple[Pool, int]]) -> None:
        """Units of these pools may have become idle."""
        for pool, _ in taken:
            if pool.queue:
                self._waiting.changed(pool)

    def _pool_of(self, claim: Claim) -> Pool:
        return self._pools.get(claim.pool) or self._open(claim)

    def _contended(self, claims: Sequence[Claim]) -> bool:
        pools = self._pools
        for claim in claims:
            pool = pools.get(claim.pool)
            if pool is not None and pool.queue:
                return True
        return False

    def _shortage(self, claims: Sequence[Claim], now: float) -> Shortage:
        missing: list[tuple[Claim, int]] = []
        for claim in claims:
            pool = self._pool_of(claim)
            pool.expire(now)
            if claim.units > pool.idle:
                missing.append((claim, claim.units - pool.idle))
        return Shortage(missing)

    def _take_or_short(self, claims: Sequence[Claim], forced: Collection[str]) -> Hold | list[tuple[Claim, Pool]]:
        """As ``try_hold``, but pools in ``forced`` may go into debt; else the claims that are short, with their pools."""
        if not forced:
            hold = self._try(claims)
            if isinstance(hold, Hold):
                return hold
            return [(claim, self._pool_of(claim)) for claim, _ in hold.missing]
        short = [
            (claim, self._pool_of(claim))
            for claim, _ in self._shortage(claims, self._monotonic()).missing
            if claim.pool not in forced
        ]
        if short:
            return short
        second = self.second()
        taken: list[tuple[Pool, int]] = []
        warnings: list[str] = []
        for claim in claims:
            pool = self._pool_of(claim)
            passed = claim.units > pool.idle
            pool.idle -= claim.units
            pool.touched = True
            if pool.code == REQUESTS:
                pool.use(claim.units, second)
            if passed:
                warnings.append(f"over {claim.rule.sentence}{_whom(claim)}")
            elif pool.code == USD and pool.idle + pool.left < claim.rule.warn_below:
                warnings.append(_near(claim, pool))
            taken.append((pool, claim.units))
        return Hold(self, taken, second, warnings)

    def _open(self, claim: Claim) -> Pool:
        if len(self._pools) >= self._most:
            self._make_room()
        rule, _, window = parts(claim.pool)
        pool = Pool(claim.pool, claim.rule, exact=(rule, window) not in self._forgot)
        if self._give:  # what is not handed back yet need not be asked for again
            pool.share = pool.idle = self._give.pop(claim.pool, 0)
            self._money.discard(claim.pool)
        self._pools[claim.pool] = pool
        return pool

    def _make_room(self) -> None:
        """Forget the first of the oldest pools that nothing depends on."""
        for i, pool in enumerate(self._pools.values()):
            if pool.quiet:
                self._forget(pool)
                return
            if i >= 64:
                break
        if len(self._pools) >= 4 * self._most:
            raise Unavailable("too many users, tags and keys are active at once; try again in a second")

    def _sweep(self, pool: Pool, now: float, wall: float) -> int:
        pool.expire(now)
        past = pool.ends is not None and pool.ends <= wall
        units = 0
        if (past or not pool.touched) and pool.asked is None and not pool.queue:
            units = pool.idle
        if units > 0:
            pool.idle -= units
            pool.share -= units
            if pool.left < UNKNOWN:
                pool.left += units
        elif pool.quiet and pool.idle == 0 and (past or (not pool.touched and not pool.spent)):
            del self._pools[pool.name]  # given back at least one round ago
        pool.touched = False
        return max(units, 0)

    def _forget(self, pool: Pool) -> None:
        del self._pools[pool.name]
        if pool.idle > 0:
            self._give[pool.name] = self._give.get(pool.name, 0) + pool.idle
            if pool.code == USD:
                self._money.add(pool.name)
        if pool.spent:
            rule, _, window = parts(pool.name)
            self._forgot.add((rule, window))


def _whom(claim: Claim) -> str:
    scope = parts(claim.pool)[1]
    return f" ({scope})" if scope else ""


def _near(claim: Claim, pool: Pool) -> str:
    left = max(pool.idle + pool.left, 0)
    percent = 100 - 100 * left // claim.rule.amount if claim.rule.amount else 100
    return f"{percent} % of {claim.rule.sentence}{_whom(claim)} is used"
