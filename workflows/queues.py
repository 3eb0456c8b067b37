"""Which task queue a workflow has its activities run on: that of its own ledger."""

from temporalio import workflow

from paymaster.messages.temporal_names import activities_task_queue, ledger_of_task_queue


def activities_queue_here() -> str:
    """By the workflow's own task queue, which its history has: it goes on the same whatever a worker is configured to
    be."""
    return activities_task_queue(ledger_of_task_queue(workflow.info().task_queue))
