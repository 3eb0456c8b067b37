"""Paths of runs: which are taken, what they are parts of, and the ids of runs that nobody named."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.values.run_path import RUN_LENGTH_MAX, check_run_path, run_ancestors, run_id_of_root

FIRST_RUN_ID = "01977b2e-5c1f-7d60-9a51-2f0f5a1c9c11"
PATHS = st.lists(st.from_regex("[A-Za-z0-9._:@-]{1,5}", fullmatch=True), min_size=1, max_size=8).map("/".join)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "a b", "a/ü", "a\n", "x" * (RUN_LENGTH_MAX + 1), "/".join("a" * 17)]
)
def test_what_cannot_be_read_and_typed_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="a run's"):
        check_run_path(path)


@given(path=PATHS)
def test_a_part_is_a_part_of_each_that_it_is_below(path: str) -> None:
    ancestors = run_ancestors(check_run_path(path))
    assert ancestors[0] == path
    assert ancestors[-1] == path.partition("/")[0]
    assert all(above == below.rpartition("/")[0] for below, above in pairwise(ancestors))


@given(path=PATHS, other=PATHS)
def test_what_is_below_a_run_is_one_range_of_names(path: str, other: str) -> None:
    """In the order of bytes: "0" is what comes after "/"."""
    assert (path in run_ancestors(other)[1:]) == (f"{path}/" <= other < f"{path}0")


@given(workflow_id=st.text(min_size=1, max_size=1_000))
def test_every_workflow_has_a_run_that_can_be_named(workflow_id: str) -> None:
    """With room for the names of parts."""
    run = run_id_of_root(workflow_id, FIRST_RUN_ID)
    assert check_run_path(f"{run}/researcher/critic-of-sources")
    assert run.endswith(f"@{FIRST_RUN_ID}")
    assert run_id_of_root("nightly:2026-11-29", "r") == "nightly:2026-11-29@r"
