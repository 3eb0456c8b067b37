"""answer_calls: the ledger's messages to calls: the end of a parking, or a grant taken back."""

import asyncio

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import CallMessage, CallMessages, Delivery, ParkedAnswer

SIGNALS_AT_ONCE = 20


class AnswerCallsActivities:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    async def answer_calls(self, batch: CallMessages) -> Delivery:
        """What arrived, and for whom it came too late. The rest is sent again with the next batch."""
        delivered: list[int] = []
        gone: list[int] = []
        places = asyncio.Semaphore(SIGNALS_AT_ONCE)

        async def signal(message: CallMessage) -> None:
            handle = self._client.get_workflow_handle(message.call.workflow_id, run_id=message.call.run_id)
            name = "budget_answer" if isinstance(message, ParkedAnswer) else "budget_withdrawn"
            async with places:
                try:
                    await handle.signal(name, message)
                    delivered.append(message.sequence)
                except RPCError as error:
                    if error.status is RPCStatusCode.NOT_FOUND:
                        gone.append(message.sequence)
                    else:
                        activity.logger.warning("%s to %s not delivered: %s", name, message.call.workflow_id, error)

        await asyncio.gather(*map(signal, batch.messages))
        return Delivery(delivered=tuple(delivered), gone=tuple(gone))
