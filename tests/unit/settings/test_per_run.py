"""What a budget's file says of each run: read exactly, told in words, and taken away by nobody in passing."""

from typing import Any

import pytest
from pydantic import ValidationError

from paymaster.admission.configuration import differences, in_words, without_removals
from paymaster.admission.signed_commands import changes_money
from paymaster.messages import DeskConfig, RunTerms
from paymaster.messages.bounds import check_config
from paymaster.settings import Settings
from paymaster.settings.desk_config import desk_config

ALL = {"usd": "2.00", "calls": 200, "lasts": "2h"}


def config(per_run: dict[str, Any] | None) -> DeskConfig:
    budget = {} if per_run is None else {"per_run": per_run}
    return desk_config(Settings.model_validate({"budgets": {"acme/agents": budget}}))


def test_the_desk_gets_what_the_file_says() -> None:
    found = config(ALL)
    check_config(found)
    assert found.budgets["acme/agents"].per_run == RunTerms(usd_nanos=2 * 10**9, calls=200, lasts_ms=7_200_000)
    assert config({"calls": 1}).budgets["acme/agents"].per_run == RunTerms(calls=1)


@pytest.mark.parametrize(
    "wrong", [{}, {"usd": 2.0}, {"usd": "-1"}, {"calls": 0}, {"lasts": "0s"}, {"cap": "1"}], ids=str
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="per_run"):
        config(wrong)


@pytest.mark.parametrize(
    ("before", "after", "words", "loosens"),
    [
        (None, ALL, "no limit → $2.00, 200 calls, 2h", False),
        (ALL, ALL | {"usd": "3"}, "$2.00, 200 calls, 2h → $3.00, 200 calls, 2h", False),
        (ALL, {"usd": "2.00"}, "$2.00, 200 calls, 2h → $2.00", True),
        (ALL, None, "$2.00, 200 calls, 2h → no limit", True),
    ],
)
def test_a_change_is_told_in_words(before: Any, after: Any, words: str, loosens: bool) -> None:
    """It needs a signature where changes of caps do, and somebody who agrees where a limit goes."""
    found = differences(config(before), config(after))
    assert in_words(found) == f"acme/agents per run {words}"
    assert [each.loosens for each in found] == [loosens]
    assert changes_money(config(before), config(after))


def test_a_workers_start_takes_no_limit_away() -> None:
    before = config(ALL)
    kept = without_removals(before, config({"usd": "5", "calls": 10}))
    assert kept.budgets["acme/agents"].per_run == RunTerms(usd_nanos=5 * 10**9, calls=10, lasts_ms=7_200_000)
    assert without_removals(before, config(None)).budgets == before.budgets
