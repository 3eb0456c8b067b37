"""Money is exact: compared with fractions, which never round."""

import decimal
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from paymaster.values.money import NANOS_MAX, Price, TokenUsage, UsdAsNanos, format_usd, nanos_to_usd, usd_to_nanos

rates = st.one_of(st.integers(0, 10**6), st.integers(0, 10**14))
counts = st.one_of(st.integers(0, 20), st.integers(0, 10**9))
prices = st.builds(
    Price,
    input_nanos=rates,
    output_nanos=rates,
    cached_input_nanos=st.none() | rates,
    cache_write_nanos=st.none() | rates,
    source=st.just("test"),
)


class Priced(BaseModel):
    usd: UsdAsNanos


# ---------------------------------------------------------------- cost and bound


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """What a provider can say: cached and written tokens are part of the input."""
    input_tokens = draw(counts)
    cached = draw(st.integers(0, input_tokens))
    written = draw(st.integers(0, input_tokens - cached))
    return TokenUsage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=draw(counts),
    )


@given(price=prices, usage=usages())
def test_a_cost_is_rounded_up_once_and_by_less_than_a_nano_dollar(price: Price, usage: TokenUsage) -> None:
    """Each kind of token at its own rate; a rate that is not given is that of the input."""
    cached_rate = price.input_nanos if price.cached_input_nanos is None else price.cached_input_nanos
    written_rate = price.input_nanos if price.cache_write_nanos is None else price.cache_write_nanos
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    exact = (
        Fraction(plain * price.input_nanos, 10**6)
        + Fraction(usage.cached_input_tokens * cached_rate, 10**6)
        + Fraction(usage.cache_write_tokens * written_rate, 10**6)
        + Fraction(usage.output_tokens * price.output_nanos, 10**6)
    )
    assert 0 <= price.cost_nanos(usage) - exact < 1


@given(price=prices, usage=usages(), more_input=counts, more_output=counts)
def test_no_usage_within_the_bound_costs_more_than_the_bound(
    price: Price, usage: TokenUsage, more_input: int, more_output: int
) -> None:
    """Also when the cache is dearer than the input, as it is for writing at Anthropic."""
    bound = price.bound_nanos(usage.input_tokens + more_input, usage.output_tokens + more_output)
    assert price.cost_nanos(usage) <= bound


@given(price=prices, input_tokens_max=counts, output_tokens_max=counts)
def test_a_bound_is_what_the_dearest_usage_costs(price: Price, input_tokens_max: int, output_tokens_max: int) -> None:
    """Not a nano-dollar more: what is held and not needed keeps others waiting."""
    usage = TokenUsage(input_tokens=input_tokens_max, output_tokens=output_tokens_max)
    dearest = [
        usage,
        usage.model_copy(update={"cached_input_tokens": input_tokens_max}),
        usage.model_copy(update={"cache_write_tokens": input_tokens_max}),
    ]
    assert price.bound_nanos(input_tokens_max, output_tokens_max) == max(map(price.cost_nanos, dearest))


@given(price=prices, usage=st.builds(TokenUsage, **dict.fromkeys(TokenUsage.model_fields, counts)))
def test_a_provider_that_counts_more_cached_than_input_tokens_gets_no_discount(price: Price, usage: TokenUsage) -> None:
    """Some count cached tokens beside the input and not in it: what they say they billed is never made smaller."""
    output_only = TokenUsage(output_tokens=usage.output_tokens)
    assert price.cost_nanos(usage) >= price.cost_nanos(output_only) >= 0


def test_a_cost_in_front_of_the_reader() -> None:
    """$0.20 and $1.20 per million, cached at a tenth: 1,000 in, of which 600 cached, and 50 out."""
    price = Price(
        input_nanos=200_000_000, cached_input_nanos=20_000_000, output_nanos=1_200_000_000, source="price list"
    )
    usage = TokenUsage(input_tokens=1_000, cached_input_tokens=600, output_tokens=50, reasoning_tokens=30)
    assert price.cost_nanos(usage) == 400 * 200 + 600 * 20 + 50 * 1_200 == 152_000


def test_prices_of_a_fraction_of_a_nano_dollar_a_token_are_exact() -> None:
    """$0.0375 per million tokens is 37.5 nano-dollars a token."""
    price = Price(input_nanos=usd_to_nanos("0.0375"), output_nanos=0, source="test")
    assert price.cost_nanos(TokenUsage(input_tokens=2)) == 75
    assert price.cost_nanos(TokenUsage(input_tokens=1)) == 38


# ---------------------------------------------------------------- amounts as people write them


@given(nanos=st.integers(-NANOS_MAX, NANOS_MAX))
def test_an_amount_comes_back_from_text_exactly(nanos: int) -> None:
    """The text is a decimal, its shortest form, one with an exponent, or what people are shown."""
    usd = nanos_to_usd(nanos)
    assert Fraction(usd) == Fraction(nanos, 10**9)
    shown = format_usd(nanos).replace("$", "").replace(",", "")
    for text in (str(usd), f"{usd:f}", f"{usd.normalize():E}", f" {usd} ", shown):
        assert usd_to_nanos(text) == nanos
    assert usd_to_nanos(usd) == nanos


@given(digits=st.integers(-(10**40), 10**40), exponent=st.integers(-45, 5))
def test_an_amount_is_exact_or_refused(digits: int, exponent: int) -> None:
    """However many digits it has: nothing finer than a nano-dollar is rounded away, and nothing is too large."""
    exact = Fraction(digits) * Fraction(10) ** (exponent + 9)
    text = f"{digits}e{exponent}"
    if exact.denominator == 1 and abs(exact) <= NANOS_MAX:
        assert usd_to_nanos(text) == exact
    else:
        with pytest.raises(ValueError, match="dollar"):
            usd_to_nanos(text)


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "free",
        "1e",
        "1,50",
        "$1",
        "5 $",
        "1.2.3",
        "0x10",
        "1_000",
        "\uff11\uff10",
        "\u0661\u0660",
        "1\n",
        "\u00a01",
        "NaN",
        "-NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "0.0000000001",
        "1e-1000040",
        "1e11",
        "100000000000",
        "99999999999.9999999999",
        "1e400",
        "1e999999999",
        "1e9999999999999999999",
        "1.0000000000000000000000000001",
        0.1,
        1.0,
        float("nan"),
        True,
        None,
        b"1",
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1E-10"),
        10**11,
    ],
    ids=repr,
)
def test_what_is_no_exact_amount_is_refused_by_a_value_error(amount: Any) -> None:
    """Never by another error, never by rounding."""
    with pytest.raises(ValueError, match=r"amount|nano-dollar"):
        usd_to_nanos(amount)


def test_the_largest_amount_is_what_the_database_can_store() -> None:
    """One nano-dollar below 10¹¹ dollars, NUMERIC(20,9)."""
    assert usd_to_nanos("99999999999.999999999") == NANOS_MAX
    assert usd_to_nanos("0e999999999") == usd_to_nanos("-0") == 0


def test_the_precision_of_the_surrounding_program_does_not_matter() -> None:
    """An agent may compute with six digits of its own."""
    with decimal.localcontext(prec=6):
        assert nanos_to_usd(12_345_678_901) == Decimal("12.345678901")
        assert usd_to_nanos("12.345678901") == 12_345_678_901


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (1_500_000_000, "$1.50"),
        (12_345, "$0.000012345"),
        (1, "$0.000000001"),
        (-20_000_000, "-$0.02"),
        (1_234_567 * 10**9, "$1,234,567.00"),
    ],
)
def test_people_see_at_least_cents_and_never_a_rounded_amount(nanos: int, text: str) -> None:
    """With the thousands apart."""
    assert format_usd(nanos) == text


@given(nanos=st.integers(0, NANOS_MAX))
def test_a_field_in_dollars_comes_back_from_json(nanos: int) -> None:
    """It is written as exact text and held in nano-dollars."""
    field = Priced.model_validate({"usd": nanos_to_usd(nanos)})
    assert field.usd == nanos
    assert Priced.model_validate_json(field.model_dump_json()) == field


@pytest.mark.parametrize("amount", ["-0.01", 0.2, "1e-10", "", None])
def test_a_field_in_dollars_refuses_negative_and_inexact_amounts(amount: object) -> None:
    """A price is never below nothing."""
    with pytest.raises(ValidationError, match="usd"):
        Priced.model_validate({"usd": amount})
