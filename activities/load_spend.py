"""load_spend: what was spent before the ledger knew an account, from the stored entries."""

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import LoadedSpend, LoadSpend, backlog_workflow_id
from paymaster.messages.temporal_names import BACKLOG_PIECE_WORKFLOW, WAITING
from paymaster.storage.ledger_state_rows import load_spend

RUNNING_PIECES = f'WorkflowType = "{BACKLOG_PIECE_WORKFLOW.name}" AND ExecutionStatus = "Running"'


class LoadSpendActivities:
    def __init__(self, client: Client, engine: AsyncEngine) -> None:
        self._client = client
        self._engine = engine

    @activity.defn
    async def load_spend(self, wanted: LoadSpend) -> LoadedSpend:
        """Raises while entries wait in the usage backlog: sums without them would be too small."""
        waiting = await self._backlog(wanted.ledger)
        if waiting:
            raise ApplicationError(f"{waiting} entries still wait for the database", type="BacklogNotEmpty")
        return await load_spend(self._engine, wanted)

    async def _backlog(self, ledger: str) -> int:
        """How many entries wait; its pieces may have outlived a backlog that somebody ended, which counts them."""
        return await self._waiting(backlog_workflow_id(ledger)) or sum(
            [
                await self._waiting(piece.id)
                async for piece in self._client.list_workflows(RUNNING_PIECES)
                if piece.id.startswith(f"{backlog_workflow_id(ledger)}/")
            ]
        )

    async def _waiting(self, workflow_id: str) -> int:
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
                return 0
            return await handle.query(WAITING.name, result_type=WAITING.result)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return 0
            raise
