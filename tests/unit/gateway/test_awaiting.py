"""What a call waits for that is not answered in time, as Temporal describes it."""

import pytest
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflow.v1 import PendingActivityInfo, PendingWorkflowTaskInfo, WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from paymaster.gateway.awaiting import Untaken, untaken

TASK_WAITS = PendingWorkflowTaskInfo(state=PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED)
TASK_WAITS.original_scheduled_time.FromNanoseconds(7)
TASK_IS_TAKEN = PendingWorkflowTaskInfo(state=PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED)
SENT = PendingActivityInfo(state=PendingActivityState.PENDING_ACTIVITY_STATE_STARTED, attempt=1)
RETRIED = PendingActivityInfo(state=PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, attempt=2)
UNSENT = PendingActivityInfo(state=PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, attempt=1)
UNSENT.scheduled_time.FromNanoseconds(8)


@pytest.mark.parametrize(
    ("task", "activities", "waits_for"),
    [
        (TASK_WAITS, [], Untaken("calls", 7, "paymaster")),
        (TASK_WAITS, [SENT], Untaken("calls", 7, "paymaster")),
        (TASK_IS_TAKEN, [], None),
        (None, [SENT], None),
        (None, [RETRIED], None),
        (None, [UNSENT], Untaken("activities", 8, "paymaster-activities")),
        (None, [], Untaken("ledger", 9, "paymaster-ledger")),
    ],
)
def test_what_a_call_waits_for(
    task: PendingWorkflowTaskInfo | None, activities: list[PendingActivityInfo], waits_for: Untaken | None
) -> None:
    described = DescribeWorkflowExecutionResponse(
        workflow_execution_info=WorkflowExecutionInfo(history_length=9),
        pending_workflow_task=task,
        pending_activities=activities,
    )
    assert untaken(described) == waits_for
