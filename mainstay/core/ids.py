"""Identifiers that sort by the time at which they were made."""

from __future__ import annotations

import os
from hashlib import sha256

from mainstay.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # ten bits at a time


class Ids:
    """Makes ids of 26 characters: 50 bits of milliseconds, 80 bits that no other process has.

    Ids of one ``Ids`` are strictly increasing, also within one millisecond and when the wall clock
    goes back. The random part is seeded from the operating system once per process and counts up from
    there: ids are unique, and not secret. Call it in the process that uses it; after a ``fork`` make a new one.
    """

    __slots__ = ("_clock", "_head", "_ms", "_tail")

    def __init__(self, clock: Clock | None = None, seed: int | None = None) -> None:
        self._clock = clock or Clock()
        self._ms = -1
        self._tail = int.from_bytes(os.urandom(9), "big") if seed is None else seed
        self._head = ""

    def make(self, prefix: str = "") -> str:
        """A new id, with ``prefix`` (such as ``call_``) before it."""
        ms = self._clock.now_ns() // 1_000_000
        if ms > self._ms:
            self._ms = ms
            self._head = "".join(_PAIRS[(ms >> shift) & 1023] for shift in (40, 30, 20, 10, 0))
        self._tail = tail = (self._tail + 1) & ((1 << 80) - 1)
        pairs = _PAIRS
        return (
            f"{prefix}{self._head}{pairs[tail >> 70]}{pairs[tail >> 60 & 1023]}{pairs[tail >> 50 & 1023]}"
            f"{pairs[tail >> 40 & 1023]}{pairs[tail >> 30 & 1023]}{pairs[tail >> 20 & 1023]}"
            f"{pairs[tail >> 10 & 1023]}{pairs[tail & 1023]}"
        )


def made_from(at: float, what: bytes, prefix: str = "") -> str:
    """The id of what is told by the bytes ``what`` and began at ``at``, seconds since the epoch: always the same one."""
    head, tail = int(at * 1000) & ((1 << 50) - 1), int.from_bytes(sha256(what).digest()[:10], "big")
    letters = [_PAIRS[head >> shift & 1023] for shift in (40, 30, 20, 10, 0)]
    return prefix + "".join(letters + [_PAIRS[tail >> shift & 1023] for shift in (70, 60, 50, 40, 30, 20, 10, 0)])


def made_at(identifier: str) -> float:
    """The time, in seconds since the epoch, at which ``identifier`` was made (its prefix is skipped)."""
    body = identifier.rpartition("_")[2]
    ms = 0
    for char in body[:10]:
        ms = ms << 5 | _ALPHABET.index(char)
    return ms / 1000
