"""Versions side by side: what a worker tells of itself, and what it does with a ledger that is newer than itself."""

import logging
import re

import pytest

from paymaster.admission.state import RULES, NewerState
from paymaster.ledger.versions import VERSION, rules_of_identity, worker_identity
from paymaster.messages import DeskConfig, LedgerStart
from workflows.ledger import BudgetWorkflow, logged


def test_a_worker_tells_its_version_and_its_rules() -> None:
    assert re.fullmatch(rf"\d+@\S+ paymaster/{re.escape(VERSION)} rules/{RULES}", worker_identity())
    assert rules_of_identity(worker_identity()) == RULES


@pytest.mark.parametrize(
    "identity", ["17@host", "", "17@host paymaster/0.3 rules/x", "17@host paymaster/0.3 rules/2 x"]
)
def test_whoever_does_not_tell_is_as_old_as_can_be(identity: str) -> None:
    assert rules_of_identity(identity) == 1


@pytest.mark.parametrize(
    "start",
    [
        LedgerStart(ledger="books", config=DeskConfig(digest=""), rules=RULES + 1),
        LedgerStart(ledger="books", config=DeskConfig(digest=""), state=f"rules {RULES + 1}\nwhatever it writes"),
    ],
    ids=["a new ledger", "one that goes on"],
)
def test_a_newer_ledger_is_refused_in_words(start: LedgerStart, caplog: pytest.LogCaptureFixture) -> None:
    """What is raised at its start fails the workflow's task, which Temporal offers to the other workers too."""
    logged.clear()
    words = rf"rules {RULES + 1}, which a newer version .* knows rules up to {RULES} .* update this worker"
    with caplog.at_level(logging.ERROR, "paymaster.ledger"):
        for _ in range(2):
            with pytest.raises(NewerState, match=words):
                BudgetWorkflow(start)
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.search(rf"ledger books: .*{words}", said)
