"""Ledgers beside each other: one that version 0.1.0 began under another name than "default" is found, and told of."""

import pytest

from paymaster.ledger.neighbours import misplaced


@pytest.mark.parametrize(
    ("ledger", "task_queue"),
    [
        ("default", "paymaster-ledger"),
        ("acme", "paymaster-ledger@acme"),
        ("default", None),
        ("acme", None),
    ],
)
def test_a_ledger_in_its_place_or_not_running_is_well(ledger: str, task_queue: str | None) -> None:
    assert misplaced(ledger, task_queue) is None


def test_a_named_ledger_of_0_1_0_is_told_how_to_go_on() -> None:
    told = misplaced("acme", "paymaster-ledger") or ""
    assert "'acme' runs on the task queue 'paymaster-ledger', which version 0.1.0 gave every ledger" in told
    assert "workers of 'acme' take 'paymaster-ledger@acme'" in told
    assert "`temporal workflow terminate --workflow-id budget/acme`" in told
