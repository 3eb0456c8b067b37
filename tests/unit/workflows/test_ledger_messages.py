"""What the Temporal UI offers to paste beside each signal of the ledger."""

import pytest
from temporalio import workflow

from paymaster.messages import AdminMessage
from paymaster.messages.temporal_names import UpdateName
from workflows.ledger import SIGNALS, BudgetWorkflow
from workflows.ledger_messages import EXAMPLES


def test_each_signal_of_admins_has_an_example() -> None:
    of_admins = {each.name for each in SIGNALS if isinstance(each, UpdateName)}
    assert set(EXAMPLES) == of_admins


@pytest.mark.parametrize("signal", [each for each in SIGNALS if each.name in EXAMPLES], ids=lambda each: each.name)
def test_an_example_is_a_message(signal: UpdateName[AdminMessage, object]) -> None:
    """With every field that a person has to fill in."""
    message = signal.argument.model_validate_json(EXAMPLES[signal.name])
    assert (message.who, bool(message.reason)) == ("ada", True)


def test_no_signal_is_without_a_description() -> None:
    definition = workflow._Definition.from_class(BudgetWorkflow)
    assert definition is not None
    assert {name: each.description for name, each in definition.signals.items() if not each.description} == {}
