"""One model of one provider as the hot path sees it: whom to ask, what is known of it, how it is doing."""

from __future__ import annotations

from dataclasses import dataclass

from mainstay.core.clock import Clock
from mainstay.core.model import ModelFacts
from mainstay.core.money import Nano, Price
from mainstay.upstream.ask import Answerer
from mainstay.upstream.breaker import Breaker
from mainstay.upstream.gate import Gate


class Latency:
    """A decaying estimate of the time to the first token, in seconds; what is old counts half as much each 30 s."""

    __slots__ = ("_at", "_clock", "_sum", "_weight")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum = self._weight = self._at = 0.0

    def seen(self, seconds: float) -> None:
        """Take in one measurement."""
        self._decay()
        self._sum += seconds
        self._weight += 1.0

    @property
    def estimate(self) -> float:
        """The estimate; 0 before the first measurement, so that what was never tried is tried."""
        return self._sum / self._weight if self._weight > 1e-9 else 0.0

    def _decay(self) -> None:
        now = self._clock.monotonic()
        factor = 0.5 ** ((now - self._at) / 30.0)
        self._sum *= factor
        self._weight *= factor
        self._at = now


@dataclass(slots=True)
class Health:
    """What is remembered of a target over changes of configuration."""

    breaker: Breaker
    gate: Gate
    provider_gate: Gate
    latency: Latency
    in_flight: int = 0


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
        """What this call needs and the target is known not to have; None if nothing."""
        facts = self.facts
        if tools and facts.tools is False:
            return "no tools"
        if images and facts.images is False:
            return "no images"
        if audio and facts.audio is False:
            return "no audio"
        if schema and facts.schema is False:
            return "no schema"
        # Four bytes a token is a low estimate: only what certainly does not fit is passed over.
        if facts.context_window is not None and tokens > facts.context_window:
            return f"context of {facts.context_window}"
        return None
