"""await_result: the result of a call that somebody else started under the same call id."""

import asyncio

from temporalio import activity
from temporalio.client import Client

from paymaster.messages import LLMResult, call_workflow_id

HEARTBEAT_EVERY_S = 10.0


class AwaitResultActivities:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def await_result(self, call_id: str) -> LLMResult:
        """Waits for as long as that call takes. Raises WorkflowFailureError when it failed or was cancelled."""
        handle = self._client.get_workflow_handle(call_workflow_id(call_id), result_type=LLMResult)
        result = asyncio.ensure_future(handle.result())
        try:
            while not result.done():
                activity.heartbeat()
                await asyncio.wait([result], timeout=HEARTBEAT_EVERY_S)
            return result.result()
        finally:
            result.cancel()
