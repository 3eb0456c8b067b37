"""Which calls `paymaster erase` is about."""

import pytest

from paymaster.erasure.wanted import Wanted


def test_a_call_is_named_by_any_of_its_ids() -> None:
    """A generation, or its workflow, is the call."""
    wanted = Wanted.of(["call/a", "a~g3", "call@acme/b", "purchase/c"], [])
    assert wanted.call_ids == ("a", "b", "purchase/c")
    assert not wanted.is_meant({})


def test_metadata_have_to_have_all_that_is_named() -> None:
    wanted = Wanted.of([], ["customer=42", "note=a=b"])
    assert wanted.metadata == {"customer": "42", "note": "a=b"}
    assert wanted.is_meant({"customer": "42", "note": "a=b", "more": "x"})
    for other in ({}, {"customer": "42"}, {"customer": "421", "note": "a=b"}, {"note": "a=b"}):
        assert not wanted.is_meant(other)


@pytest.mark.parametrize(
    ("calls", "metadata"),
    [
        ([], []),
        (["a"], ["customer=42"]),
        ([], ["customer"]),
        ([], ["=42"]),
        ([], ["customer=42", "customer=43"]),
        ([""], []),
    ],
)
def test_what_nobody_can_mean_is_refused(calls: list[str], metadata: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--(call|metadata)"):
        Wanted.of(calls, metadata)
