"""Promise 10: what is running when a new version is deployed goes on with it. Recorded histories, replayed."""

import gzip
import re
from pathlib import Path

import pytest
from purchasing_agents import Buys
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.common import RawValue
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from paymaster.messages import backlog_workflow_id
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from workflows.content_agent import ContentAgentWorkflow
from workflows.eager_calls import EagerCalls
from workflows.ledger import BudgetWorkflow
from workflows.llm_call import LLMCallWorkflow
from workflows.purchase import PurchaseWorkflow
from workflows.usage_backlog import UsageBacklogPieceWorkflow, UsageBacklogWorkflow

FOLDER = Path(__file__).parent / "histories"
TEXTS = {file.stem: file.read_text() for file in FOLDER.glob("*.json")} | {
    file.name.removesuffix(".json.gz"): gzip.decompress(file.read_bytes()).decode() for file in FOLDER.glob("*.json.gz")
}
"""The histories by name."""
IDS = {"usage-backlog-in-pieces": backlog_workflow_id("default")}
"""Workflow ids that are a part of what a workflow does."""
OURS = (
    LLMCallWorkflow,
    PurchaseWorkflow,
    BudgetWorkflow,
    UsageBacklogWorkflow,
    UsageBacklogPieceWorkflow,
    ContentAgentWorkflow,
    Buys,
)
WANTED = {
    "budget-first-run",
    "budget-latest-run",
    "budget-second-run",
    "buyer",
    "call-cancelled-parked",
    "call-cancelled-sent",
    "call-failed-over",
    "call-granted",
    "call-parked-and-counted",
    "call-parked-and-raised",
    "content-agent",
    "purchase-cancelled",
    "purchase-of-a-workflow",
    "purchase-parked",
    "usage-backlog",
    "usage-backlog-after-a-piece",
    "usage-backlog-in-pieces",
    "usage-backlog-piece",
}


def history(name: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(IDS.get(name, name), TEXTS[name])


def test_every_kind_of_history_is_there() -> None:
    assert TEXTS.keys() == WANTED


@pytest.mark.parametrize("rules", [1, 2])
@pytest.mark.parametrize("name", sorted(WANTED))
async def test_the_workflows_of_today_can_go_on_with_this_history(name: str, rules: int) -> None:
    """Whichever rules the ledger goes by. When this fails, see record_histories.py."""
    eager = EagerCalls()
    eager.follow(rules)
    replayer = Replayer(workflows=OURS, plugins=[PaymasterPlugin(Settings())], interceptors=[eager])
    await replayer.replay_workflow(history(name))


def test_a_history_holds_what_its_name_says() -> None:
    texts = TEXTS
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW" in texts["budget-first-run"]
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW" in texts["budget-second-run"]
    assert "budget_answer" in texts["call-parked-and-raised"]
    signalled, asked = (texts["call-parked-and-counted"].index(name) for name in ("budget_answer", "count_tokens"))
    assert signalled < asked
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED" in texts["call-cancelled-parked"]
    assert "EVENT_TYPE_ACTIVITY_TASK_COMPLETED" in texts["call-cancelled-sent"]
    assert texts["call-granted"].count("EVENT_TYPE_ACTIVITY_TASK_SCHEDULED") == 1
    assert texts["call-failed-over"].count("EVENT_TYPE_ACTIVITY_TASK_SCHEDULED") > 1
    assert "EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED" in texts["buyer"]
    assert "EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED" in texts["purchase-of-a-workflow"]
    assert "budget_answer" in texts["purchase-parked"]
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED" in texts["purchase-cancelled"]
    assert "EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED" in texts["usage-backlog-in-pieces"]
    assert "EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW" in texts["usage-backlog-in-pieces"]
    assert "piece_ended" in texts["usage-backlog-after-a-piece"]
    assert texts["usage-backlog-piece"].count("EVENT_TYPE_ACTIVITY_TASK_COMPLETED") > 1


def test_a_history_does_not_say_on_which_machine_it_was_recorded() -> None:
    for name, text in TEXTS.items():
        assert not re.search(r'"stackTrace": "[^"]|"\d+@|site-packages', text), name


@workflow.defn(name="LLMCallWorkflow")
class Changed:
    """What a careless change does: one more step before the first."""

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        await workflow.sleep(1)
        return await LLMCallWorkflow(message).run(message)


async def test_a_changed_workflow_is_noticed() -> None:
    # As our workers run it; a sandbox would import this file, and the tests' libraries with it.
    runner = UnsandboxedWorkflowRunner()
    replayer = Replayer(workflows=[Changed], plugins=[PaymasterPlugin(Settings())], workflow_runner=runner)
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history("call-granted"))
