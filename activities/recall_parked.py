"""recall_parked: has the calls ask again that were parked in a ledger which is lost."""

import asyncio

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

SIGNALS_AT_ONCE = 20
RUNNING_CALLS = 'WorkflowType = "LLMCallWorkflow" AND ExecutionStatus = "Running"'


class RecallParkedActivities:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def recall_parked(self) -> int:
        """Tells every running call that the ledger began anew; how many. Who is not parked there asks nothing.

        Calls of another ledger ask again under the id that they are parked with, and keep their place.
        """
        places = asyncio.Semaphore(SIGNALS_AT_ONCE)

        async def signal(workflow_id: str, run_id: str) -> None:
            async with places:
                try:
                    await self._client.get_workflow_handle(workflow_id, run_id=run_id).signal("ledger_began")
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:  # that one has ended meanwhile
                        raise

        calls = [(call.id, call.run_id) async for call in self._client.list_workflows(RUNNING_CALLS)]
        await asyncio.gather(*(signal(*call) for call in calls))
        return len(calls)
