"""Money: integer nano-dollars, and prices per token that multiply exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from mainstay.core.usage import Usage

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

Nano = int
"""Nano-dollars."""


def nano_from_usd(usd: str | int | float | Decimal) -> Nano:
    """Dollars as nano-dollars, rounded half to even. A float is read by its shortest decimal form."""
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"{usd!r} is not an amount of money; write a number such as 0.15") from None
    if not amount.is_finite():
        raise ValueError(f"{usd!r} is not an amount of money; write a number such as 0.15")
    return int((amount * NANO).to_integral_value(ROUND_HALF_EVEN))


def usd(nano: Nano) -> str:
    """Nano-dollars as a decimal number of dollars without superfluous zeros, never in exponent form."""
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), NANO)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"


def _half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    twice = rest * 2
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


@dataclass(frozen=True, slots=True)
class Price:
    """What one model charges: nano-dollars per million tokens of each sort, and per request.

    ``cached_input`` and ``cache_write`` fall back to ``input``; ``reasoning`` to ``output``;
    ``input_audio`` to ``input``; ``output_audio`` to ``output``. ``source`` and ``as_of`` say where they come from.
    ``above`` is for providers that charge long requests at another rate: with more input tokens than its first part,
    its second part is the price of the whole request.
    """

    input: Nano
    output: Nano
    cached_input: Nano | None = None
    cache_write: Nano | None = None
    reasoning: Nano | None = None
    input_audio: Nano | None = None
    output_audio: Nano | None = None
    request: Nano = 0  # per request, not per million
    source: str = "bundle"
    as_of: str = ""
    above: tuple[int, Price] | None = None

    def cost(self, usage: Usage) -> Nano:
        """The exact cost of ``usage``, rounded once, half to even, to the nano-dollar."""
        if self.above is not None and usage.input > self.above[0]:
            return self.above[1].cost(usage)
        input_rate, output_rate = self.input, self.output
        parts = (
            usage.plain_input * input_rate
            + usage.plain_output * output_rate
            + usage.cached_input * (input_rate if self.cached_input is None else self.cached_input)
            + usage.cache_write * (input_rate if self.cache_write is None else self.cache_write)
            + usage.reasoning * (output_rate if self.reasoning is None else self.reasoning)
            + usage.input_audio * (input_rate if self.input_audio is None else self.input_audio)
            + usage.output_audio * (output_rate if self.output_audio is None else self.output_audio)
        )
        return _half_even(parts, 1_000_000) + self.request

    def bound(self, input_tokens: int, output_tokens: int) -> Nano:
        """An upper bound of the cost of a call with at most that many tokens, whatever their sort."""
        dearest_input, dearest_output = self.input, self.output
        for rate in (self.cached_input, self.cache_write, self.input_audio):
            if rate is not None and rate > dearest_input:
                dearest_input = rate
        for rate in (self.reasoning, self.output_audio):
            if rate is not None and rate > dearest_output:
                dearest_output = rate
        bound = -(-(input_tokens * dearest_input + output_tokens * dearest_output) // 1_000_000) + self.request
        if self.above is not None and input_tokens > self.above[0]:
            return max(bound, self.above[1].bound(input_tokens, output_tokens))
        return bound
