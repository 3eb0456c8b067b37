"""Money is exact: no float, rounded once, upwards."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.money import NANOS_MAX, Price, TokenUsage, format_usd, nanos_to_usd, usd_to_nanos

rates = st.integers(0, 10**13)
tokens = st.integers(0, 10**7)
prices = st.builds(
    Price,
    input_nanos=rates,
    output_nanos=rates,
    cached_input_nanos=st.none() | rates,
    cache_write_nanos=st.none() | rates,
    source=st.just("test"),
)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Cached and cache-write tokens are part of the input."""
    cached, written, plain = draw(tokens), draw(tokens), draw(tokens)
    return TokenUsage(
        input_tokens=cached + written + plain,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=draw(tokens),
    )


@given(prices, usages())
def test_a_cost_is_rounded_up_by_less_than_a_nano_dollar(price: Price, usage: TokenUsage) -> None:
    cached_rate = price.input_nanos if price.cached_input_nanos is None else price.cached_input_nanos
    written_rate = price.input_nanos if price.cache_write_nanos is None else price.cache_write_nanos
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    exact = Fraction(
        plain * price.input_nanos
        + usage.cached_input_tokens * cached_rate
        + usage.cache_write_tokens * written_rate
        + usage.output_tokens * price.output_nanos,
        1_000_000,
    )
    assert 0 <= price.cost_nanos(usage) - exact < 1


@given(prices, usages(), tokens, tokens)
def test_no_usage_within_the_bound_costs_more_than_the_bound(
    price: Price, usage: TokenUsage, more_input: int, more_output: int
) -> None:
    bound = price.bound_nanos(usage.input_tokens + more_input, usage.output_tokens + more_output)
    assert price.cost_nanos(usage) <= bound


@given(st.integers(-NANOS_MAX, NANOS_MAX))
def test_dollars_and_nano_dollars_are_the_same_amount(nanos: int) -> None:
    assert usd_to_nanos(nanos_to_usd(nanos)) == usd_to_nanos(f"{nanos_to_usd(nanos):f}") == nanos
    assert Decimal(format_usd(nanos).replace("$", "").replace(",", "")) == nanos_to_usd(nanos)


@pytest.mark.parametrize("amount", ["", "5 $", "1e", "NaN", "Infinity", "0.0000000001", "1e11", 0.1, True, None])
def test_what_is_no_exact_amount_is_refused(amount: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        usd_to_nanos(amount)  # pyright: ignore[reportArgumentType]


def test_prices_of_a_fraction_of_a_nano_dollar_a_token_are_exact() -> None:
    """$0.0375 per million tokens is 37.5 nano-dollars a token."""
    price = Price(input_nanos=usd_to_nanos("0.0375"), output_nanos=0, source="test")
    assert price.cost_nanos(TokenUsage(input_tokens=2)) == 75
    assert price.cost_nanos(TokenUsage(input_tokens=1)) == 38
