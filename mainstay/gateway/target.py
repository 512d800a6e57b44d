"""One model of one provider as the hot path sees it: whom to ask, what is known of it, how it is doing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mainstay.core.clock import Clock
from mainstay.core.model import ModelFacts
from mainstay.core.money import Nano, Price
from mainstay.upstream.ask import Answerer
from mainstay.upstream.breaker import Breaker
from mainstay.upstream.gate import Gate

HALF_LIFE = 10.0
"""Seconds after which a measurement counts half as much, and a slow target that nobody tries is believed half as slow."""


class Latency:
    """A decaying estimate of how long a target takes, in seconds.

    A target that was slow is asked less, so that nobody would notice its recovery. Therefore the estimate of one that is
    not measured sinks, until it looks worth a try.
    """

    __slots__ = ("_at", "_clock", "_sum", "_weight")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum = self._weight = self._at = 0.0

    def seen(self, seconds: float) -> None:
        """Take in one measurement."""
        now = self._clock.monotonic()
        factor = 0.5 ** ((now - self._at) / HALF_LIFE)
        self._sum = self._sum * factor + seconds
        self._weight = self._weight * factor + 1.0
        self._at = now

    def estimate(self, trying: bool = False) -> float:
        """What the next answer will take; 0 before the first measurement, so that what was never tried is tried.

        ``trying``: somebody is finding out at this moment, so that nobody else needs to.
        """
        if not self._weight:
            return 0.0
        mean = self._sum / self._weight
        return mean if trying else mean * 0.5 ** ((self._clock.monotonic() - self._at) / HALF_LIFE)


@dataclass(slots=True)
class Health:
    """What is remembered of a target over changes of configuration."""

    breaker: Breaker
    gate: Gate
    provider_gate: Gate
    latency: Latency
    """Of streams, until their first content."""
    plain: Latency
    """Of plain replies, until they are whole."""
    in_flight: int = 0
    limit: int | None = None


@dataclass(slots=True)
class Target:
    """One model artifact, compiled."""

    name: str
    provider: str
    upstream_model: str
    wire: str
    answerer: Answerer
    facts: ModelFacts
    price: Price | None
    health: Health
    max_call: Nano | None = None  # the declared bound of one call

    def lacks(self, tools: bool, images: bool, audio: bool, schema: bool, tokens: int) -> str | None:
        """What this call, of ``tokens`` as ``estimated_tokens`` has them, needs and the target is known not to have."""
        facts = self.facts
        if tools and facts.tools is False:
            return "no tools"
        if images and facts.images is False:
            return "no images"
        if audio and facts.audio is False:
            return "no audio"
        if schema and facts.schema is False:
            return "no schema"
        # Only what certainly does not fit is passed over: text may have six bytes to a token. A provider knows better.
        if facts.context_window is not None and tokens * 2 > facts.context_window * 3:
            return f"context of {facts.context_window}"
        return None


_DATA = re.compile(rb"[A-Za-z0-9+/=_-]{2048,}")
_DATA_TOKENS = 1600
_SAMPLE = 8192


def estimated_tokens(body: bytes, media: bool = False) -> int:
    """The input tokens of a request, estimated: one for every four bytes of text.

    ``media``: it may hold some in base64, which counts little for its size.
    """
    size = len(body)
    if size > _SAMPLE:
        # Of escapes, six bytes for one character, the beginning tells how many there are: all of it would take too long.
        size -= 5 * body.count(b"\\u", 0, _SAMPLE) * size // _SAMPLE
        if media:
            for data in _DATA.finditer(body):
                size -= max(0, data.end() - data.start() - 4 * _DATA_TOKENS)
    return -(-max(size, 0) // 4)
