"""Headers of a wire call: what HTTP cannot carry would cost a connection, and the bound of an attempt."""

import pytest
from pydantic import ValidationError

from paymaster.messages.wire import Wire


def test_what_surrounds_a_value_is_left_out() -> None:
    assert Wire(dialect="openai", body=b"{}", headers={"x-title": "\t a b "}).headers == {"x-title": "a b"}


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb: c", "a\0b", "é", "\u2603", "\x7f"])
def test_a_value_that_no_header_can_have_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="no printable ASCII character"):
        Wire(dialect="openai", body=b"{}", headers={"x-title": value})
