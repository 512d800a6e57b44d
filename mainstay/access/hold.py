"""The units that one call holds: settled to what it used, or put back; exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mainstay.access.pool import Pool
from mainstay.access.rules import CONCURRENT, REQUESTS, TOKENS, USD


class Keeper(Protocol):
    """The purse, as a hold sees it."""

    def second(self) -> int: ...
    def wake(self, taken: Sequence[tuple[Pool, int]]) -> None: ...


class Hold:
    """Units taken for one call. ``settle`` or ``release`` it, once; whatever comes second does nothing.

    ``charges`` is, after settling, the money used per pool, as the call's closing record needs it. ``warnings`` are
    sentences about limits that are near, or passed where the rule is soft.
    """

    __slots__ = ("_purse", "_second", "_taken", "charges", "warnings")

    def __init__(self, purse: Keeper, taken: list[tuple[Pool, int]], second: int, warnings: list[str]) -> None:
        self._purse = purse
        self._taken: list[tuple[Pool, int]] | None = taken
        self._second = second
        self.warnings = warnings
        self.charges: dict[str, int] = {}

    @property
    def open(self) -> bool:
        """Whether it still holds anything."""
        return self._taken is not None

    @property
    def holds(self) -> dict[str, int]:
        """The nano-dollars held per pool, as the call's opening record needs them; empty once settled or released."""
        held: dict[str, int] = {}
        for pool, units in self._taken or ():
            if pool.code == USD:
                held[pool.name] = held.get(pool.name, 0) + units
        return held

    def settle(self, tokens: int | None = None, nano: int | None = None) -> None:
        """The call has ended and used that much; None means unknown, and is charged as what was held."""
        taken = self._taken
        if taken is None:
            return
        self._taken = None
        charges = self.charges
        waited = False
        for pool, units in taken:
            code = pool.code
            if code == USD:
                used = units if nano is None else nano
                name = pool.name
                charges[name] = charges[name] + used if name in charges else used
                pool.spent += used
                pool.idle += units - used
            elif code == CONCURRENT:
                pool.idle += 1
            elif code == TOKENS:
                used = units if tokens is None else tokens
                pool.idle += units - used
                second = self._purse.second()
                if pool.second == second:
                    pool.newest += used
                    pool.used += used
                else:
                    pool.use(used, second)
            if pool.queue:
                waited = True
        if waited:
            self._purse.wake(taken)

    def release(self) -> None:
        """The call was not made after all: everything is idle again, the request too."""
        taken = self._taken
        if taken is None:
            return
        self._taken = None
        put_back(taken, self._second)
        self._purse.wake(taken)


def put_back(taken: Sequence[tuple[Pool, int]], second: int) -> None:
    """Undo what was taken in ``second``."""
    for pool, units in taken:
        if pool.code == REQUESTS:
            pool.unuse(units, second)
        else:
            pool.idle += units
