"""What a page says of amounts: short, true, and with the exact sum beside it."""

from hypothesis import given
from hypothesis import strategies as st

from paymaster.console.words import usd, usd_left
from paymaster.values.money import format_usd, usd_to_nanos


@given(st.integers(1, 10**18))
def test_no_page_says_that_more_is_left_than_there_is(nanos: int) -> None:
    """Nor that nothing is; what is said is within a hundredth, or a cent."""
    said = usd_to_nanos(usd_left(nanos).striptags().replace("$", "").replace(",", ""))
    assert 0 < said <= nanos
    assert nanos - said < max(nanos // 100, 1) or nanos - said < usd_to_nanos("0.01")
    assert format_usd(nanos) in usd_left(nanos)


def test_a_cap_of_which_something_is_spent_is_not_left_whole() -> None:
    assert usd_left(999_800_000) == "<data value='$0.9998' title='$0.9998'>$0.999</data>"
    assert usd_left(1_999_999_999) == "<data value='$1.999999999' title='$1.999999999'>$1.99</data>"
    assert usd_left(1_000_000_000) == usd(1_000_000_000) == "<data value='$1.00'>$1.00</data>"
