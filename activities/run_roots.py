"""With which workflow a run began: Temporal knows the root of each workflow, and the first run of its chain."""

from collections import OrderedDict

from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import CallRef
from paymaster.values.run_path import run_id_of_root

REMEMBERED_MAX = 10_000
"""Workflows whose runs are remembered; those that were not asked for longest are forgotten first."""
_NOT_TOLD = {
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
    RPCStatusCode.INVALID_ARGUMENT,
}
"""Why Temporal does not describe a workflow, however often it is asked."""


class RunRoots:
    """Looks up the runs of workflows, each once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._found: OrderedDict[CallRef, str] = OrderedDict()

    async def run_of(self, workflow: CallRef) -> str:
        """The id of the run that this workflow is in, its own or that of the agent which it works for.

        A workflow that Temporal does not describe is taken for the first of its chain. Raises RPCError for a failure
        that passes.
        """
        found = self._found.get(workflow) or await self._look_up(workflow)
        self._found[workflow] = found
        self._found.move_to_end(workflow)
        if len(self._found) > REMEMBERED_MAX:
            self._found.popitem(last=False)
        return found

    async def _look_up(self, workflow: CallRef) -> str:
        described = await self._described(workflow)
        if described is None:
            return run_id_of_root(workflow.workflow_id, workflow.run_id)
        root = described.root_execution
        if root.run_id and root.run_id != workflow.run_id:
            return await self.run_of(CallRef(workflow_id=root.workflow_id, run_id=root.run_id))
        return run_id_of_root(workflow.workflow_id, described.first_run_id or workflow.run_id)

    async def _described(self, workflow: CallRef) -> WorkflowExecutionInfo | None:
        """None: Temporal does not tell."""
        handle = self._client.get_workflow_handle(workflow.workflow_id, run_id=workflow.run_id)
        try:
            return (await handle.describe()).raw_description.workflow_execution_info
        except RPCError as error:
            if error.status in _NOT_TOLD:
                return None
            raise
