"""Generations of a call have ids from which the call's own can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages.temporal_names import first_generation, generation_id, generation_of


@given(st.text(min_size=1, max_size=20), st.integers(1, 10**6))
def test_a_generation_is_named_and_read(call_id: str, number: int) -> None:
    assert generation_of(generation_id(call_id, number), call_id) == number
    if number > 1:
        assert first_generation(generation_id(call_id, number)) == call_id
    assert len({generation_id(call_id, number), generation_id(call_id, number + 1)}) == 2


@pytest.mark.parametrize("call_id", ["a", "~g2", "a~g", "a~gx", "a~g1", "a~g0", "a~g9999999999"])
def test_what_is_no_generation_is_the_call_itself(call_id: str) -> None:
    assert first_generation(call_id) == call_id
