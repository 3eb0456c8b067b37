"""Metadata as commands are given it."""

import pytest

from paymaster.values.metadata import metadata_of


def test_each_is_a_key_and_a_value() -> None:
    items = ["customer=42", "note=a=b", "empty=", "customer=42"]
    assert metadata_of(items) == {"customer": "42", "note": "a=b", "empty": ""}
    assert metadata_of([]) == {}


@pytest.mark.parametrize("item", ["customer", "=42", "=", ""])
def test_what_has_no_key_or_no_value_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match="is not KEY=VALUE"):
        metadata_of([item])


def test_a_key_has_one_value() -> None:
    with pytest.raises(ValueError, match="'customer' is given with two values"):
        metadata_of(["customer=42", "customer=43"])
