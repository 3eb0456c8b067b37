"""The ledgers of a namespace beside each other: which there are, and whether one is where its workers look for it."""

from temporalio.client import Client

from paymaster.messages.temporal_names import LEDGER_WORKFLOW, budget_workflow_id, ledger_task_queue

SHOWN_MAX = 20
_RUNNING = f'WorkflowType = "{LEDGER_WORKFLOW.name}" AND ExecutionStatus = "Running"'


async def ledgers_running(client: Client) -> dict[str, str]:
    """The names of the ledgers that run in the client's namespace, at most `SHOWN_MAX`, each with its task queue.

    One that has just begun may be missing. Raises RPCError.
    """
    found = client.list_workflows(_RUNNING, limit=SHOWN_MAX)
    prefix = budget_workflow_id("")
    return dict(sorted([(each.id.removeprefix(prefix), each.task_queue) async for each in found]))


def misplaced(ledger: str, task_queue: str | None) -> str | None:
    """Why no worker of this version takes what the ledger does that runs on this task queue. None: they do, or it does
    not run."""
    own = ledger_task_queue(ledger)
    if task_queue in (None, own):
        return None
    return (
        f"ledger.name: {ledger!r} runs on the task queue {task_queue!r}, which version 0.1.0 gave every ledger; it is "
        f"the default ledger's now, and workers of {ledger!r} take {own!r}. Let its calls end under the older workers "
        f"and stop these, then end it by `temporal workflow terminate --workflow-id {budget_workflow_id(ledger)}`: it "
        "begins anew from the stored rows, configuration and caps"
    )
