"""Histories that are gone, as when a namespace's retention is over."""

from paymaster_process import until
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

FORGETS_SOON = {
    "history.transferProcessorUpdateAckInterval": "100ms",
    "history.visibilityProcessorUpdateAckInterval": "100ms",
}
"""Of a server: it deletes a history when it has written down that everything else about it is done, which it does every
half minute by default."""


async def forget(client: Client, *workflow_ids: str) -> None:
    """Has Temporal, with FORGETS_SOON, delete these workflows, and waits until it knows of none."""
    for workflow_id in workflow_ids:
        await client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(
                namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=workflow_id)
            )
        )

    async def are_gone() -> bool:
        return not any([await _exists(client, workflow_id) for workflow_id in workflow_ids])

    await until(are_gone, "Temporal has forgotten them")


async def _exists(client: Client, workflow_id: str) -> bool:
    try:
        await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
