"""What a call consumed, as a typed total with its parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call or attempt.

    ``input`` and ``output`` are totals; the others are parts of them, disjoint by construction:
    ``cached_input`` (read from the provider's cache), ``cache_write`` (written to it) and ``input_audio`` are
    within ``input``; ``reasoning`` and ``output_audio`` are within ``output``. ``clamped`` makes any
    provider's figures satisfy the invariant ``parts <= total``. ``estimated`` marks figures that the
    provider did not report.
    """

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """All tokens, in and out."""
        return self.input + self.output

    @property
    def plain_input(self) -> int:
        """Input tokens that are neither cached, written nor audio."""
        return self.input - self.cached_input - self.cache_write - self.input_audio

    @property
    def plain_output(self) -> int:
        """Output tokens that are neither reasoning nor audio."""
        return self.output - self.reasoning - self.output_audio

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached_input + other.cached_input,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.input_audio + other.input_audio,
            self.output_audio + other.output_audio,
            self.estimated or other.estimated,
        )


def clamped(
    input: int,
    output: int,
    cached_input: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
    input_audio: int = 0,
    output_audio: int = 0,
    estimated: bool = False,
) -> Usage:
    """A ``Usage`` from figures that may contradict each other: parts are cut to fit their total, negatives to 0."""
    left = input = max(input, 0)
    cached_input = min(max(cached_input, 0), left)
    left -= cached_input
    cache_write = min(max(cache_write, 0), left)
    left -= cache_write
    input_audio = min(max(input_audio, 0), left)
    left = output = max(output, 0)
    reasoning = min(max(reasoning, 0), left)
    left -= reasoning
    output_audio = min(max(output_audio, 0), left)
    return Usage(input, output, cached_input, cache_write, reasoning, input_audio, output_audio, estimated)


NOTHING = Usage()
"""No tokens at all."""
