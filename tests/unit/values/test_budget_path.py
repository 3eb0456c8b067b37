"""Budget paths: what is within a budget."""

import pytest

from paymaster.values.budget_path import is_within


@pytest.mark.parametrize("path", ["acme/content", "acme/content/writer", "acme/content/a/b"])
def test_a_budget_and_what_is_below_it_are_within_it(path: str) -> None:
    assert is_within(path, "acme/content")


@pytest.mark.parametrize("path", ["", "acme", "acme/contents", "acme/press", "/acme/content", "x/acme/content"])
def test_nothing_else_is(path: str) -> None:
    assert not is_within(path, "acme/content")
