"""Budget paths: what is within a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.values.budget_path import budgets_charged, budgets_named, check_budget_path, is_within

PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize("path", ["acme/content", "acme/content/writer", "acme/content/a/b"])
def test_a_budget_and_what_is_below_it_are_within_it(path: str) -> None:
    assert is_within(path, "acme/content")


@pytest.mark.parametrize("path", ["", "acme", "acme/contents", "acme/press", "/acme/content", "x/acme/content"])
def test_nothing_else_is(path: str) -> None:
    assert not is_within(path, "acme/content")


@given(named=st.lists(PATHS, min_size=1, max_size=4))
def test_a_call_counts_once_for_each_budget_above_it(named: list[str]) -> None:
    charged = budgets_charged(named)
    assert len(set(charged)) == len(charged)
    assert set(charged) == {path for path in charged if any(is_within(budget, path) for budget in named)}
    assert set(named) <= set(charged)
    assert charged[0] == named[0]


@given(named=st.lists(PATHS, min_size=1, max_size=4))
def test_what_is_charged_says_who_was_named(named: list[str]) -> None:
    """But for those that are charged anyway."""
    found = budgets_named(budgets_charged(named))
    assert set(budgets_charged(found)) == set(budgets_charged(named))
    assert set(found) <= set(named)


@pytest.mark.parametrize("path", ["a/./b", "..", "dev/x/../y"])
def test_a_budget_is_no_way_up(path: str) -> None:
    with pytest.raises(ValueError, match="is not a segment"):
        check_budget_path(path)
    assert check_budget_path("a/.b/..c") == "a/.b/..c"
