"""One of something is told as one."""

import pytest

from paymaster.values.plurals import counted


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 histories"), (1, "1 history"), (2, "2 histories"), (2_000, "2,000 histories")]
)
def test_a_number_has_its_noun(number: int, told: str) -> None:
    assert counted(number, "history", "histories") == told


def test_most_nouns_have_an_s_more() -> None:
    assert (counted(1, "row"), counted(1_000, "row")) == ("1 row", "1,000 rows")
