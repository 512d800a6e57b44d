"""Prices, costs, bounds and usage: exact to the nano-dollar."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.money import NANO, Price, nano_from_usd, usd
from mainstay.core.usage import NOTHING, Usage, clamped

counts = st.integers(-5, 3_000_000)
usages = st.builds(clamped, counts, counts, counts, counts, counts, counts, counts, st.booleans())
rates = st.integers(0, 200 * NANO)
rate = st.none() | rates
flat = st.builds(Price, rates, rates, rate, rate, rate, rate, rate, st.integers(0, NANO))
prices = st.builds(
    lambda price, above, threshold: Price(
        **{name: getattr(price, name) for name in FIELDS}, above=None if above is None else (threshold, above)
    ),
    flat,
    st.none() | flat,
    st.integers(0, 2_000_000),
)
FIELDS = (
    *("input", "output", "cached_input", "cache_write", "reasoning", "input_audio", "output_audio", "request"),
    *("source", "as_of"),
)


@given(st.lists(counts, min_size=7, max_size=7))
def test_parts_never_exceed_their_total(figures: list[int]) -> None:
    usage = clamped(*figures)
    assert usage.plain_input >= 0
    assert usage.plain_output >= 0
    assert min(usage.cached_input, usage.cache_write, usage.reasoning, usage.input_audio, usage.output_audio) >= 0
    assert usage.total == usage.input + usage.output == max(figures[0], 0) + max(figures[1], 0)


@given(usages, usages)
def test_usage_adds_up_part_by_part(one: Usage, two: Usage) -> None:
    both = one + two
    assert both.total == one.total + two.total
    assert both.plain_input == one.plain_input + two.plain_input
    assert both.estimated == (one.estimated or two.estimated)
    assert one + NOTHING == one


@given(prices, usages)
def test_the_cost_is_that_of_exact_fractions_rounded_once(price: Price, usage: Usage) -> None:
    used = price
    if price.above is not None and usage.input > price.above[0]:
        used = price.above[1]

    def of(name: str, otherwise: int) -> int:
        found = getattr(used, name)
        return otherwise if found is None else found

    exact = sum(
        (
            Fraction(usage.plain_input * used.input),
            Fraction(usage.plain_output * used.output),
            Fraction(usage.cached_input * of("cached_input", used.input)),
            Fraction(usage.cache_write * of("cache_write", used.input)),
            Fraction(usage.input_audio * of("input_audio", used.input)),
            Fraction(usage.reasoning * of("reasoning", used.output)),
            Fraction(usage.output_audio * of("output_audio", used.output)),
        ),
        Fraction(),
    )
    assert price.cost(usage) == round(exact / 1_000_000) + used.request  # Fraction rounds half to even


@given(prices, usages, st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_bound_is_never_below_a_cost(price: Price, usage: Usage, more_input: int, more_output: int) -> None:
    """Whatever sorts of tokens a provider reports within those numbers."""
    assert price.cost(usage) <= price.bound(usage.input + more_input, usage.output + more_output)


@pytest.mark.parametrize(
    ("tokens", "nano"),
    [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)],
    ids=["half to 0", "1", "1.5 to 2", "2.5 to 2", "3.5 to 4"],
)
def test_halves_go_to_the_even_side(tokens: int, nano: int) -> None:
    assert Price(500_000, 0).cost(Usage(tokens, 0)) == nano


def test_the_prices_of_the_design() -> None:
    small = Price(nano_from_usd(0.15), nano_from_usd(0.60), nano_from_usd(0.075))
    assert small.cost(Usage(1_000_000, 0)) == 150_000_000
    assert small.cost(Usage(1_000, 500, cached_input=400)) == 600 * 150 + 400 * 75 + 500 * 600
    assert Price(100, 100).cost(Usage(1_000_000, 0, cached_input=1_000_000)) == 100, "left out: as input"


def test_long_requests_are_charged_at_their_own_rate() -> None:
    price = Price(1_000_000, 2_000_000, above=(200, Price(2_000_000, 3_000_000)))
    assert price.cost(Usage(200, 10)) == 200 + 20
    assert price.cost(Usage(201, 10)) == 402 + 30
    assert price.bound(200, 10) == 220
    assert price.bound(201, 10) == 432


@given(st.decimals(-1_000_000, 1_000_000, places=12))
def test_amounts_in_dollars(amount: Decimal) -> None:
    nano = nano_from_usd(str(amount))
    assert nano == int((amount * NANO).to_integral_value(ROUND_HALF_EVEN))
    assert nano_from_usd(usd(nano)) == nano
    assert "e" not in usd(nano).lower()


def test_amounts_as_they_are_shown() -> None:
    assert [usd(nano) for nano in (0, 1, 10, NANO, -NANO // 2, 1_230_000_000)] == [
        *("0", "0.000000001", "0.00000001", "1", "-0.5", "1.23"),
    ]
    for wrong in ("ten", "nan", "inf", ""):
        with pytest.raises(ValueError, match="not an amount of money"):
            nano_from_usd(wrong)
