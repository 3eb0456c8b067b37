"""sweep_bodies: deletes stored answers when Temporal has the workflows of their calls no more, and stored requests when
their calls have ended.

It is asked, not guessed: a call may be parked for a year, and each namespace keeps ended workflows for its own time.
"""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages.call_steps import BodySweep
from paymaster.messages.temporal_names import is_stored_request
from paymaster.storage.call_bodies import bodies_to_look_at, delete_bodies, has_bodies, look_again_later

LOOKED_AT_ONCE = 500
"""Bodies that are looked at before the next ones are read from the database."""
ASKED_AT_ONCE = 5
"""Questions to Temporal at a time: calls need it more."""


class SweepBodiesActivities:
    def __init__(self, client: Client, engine: AsyncEngine) -> None:
        self._client = client
        self._engine = engine

    @activity.defn
    async def sweep_bodies(self, sweep: BodySweep) -> bool:
        """Whether any body is left. Two at once do the same work twice, and nothing else.

        Raises RPCError when Temporal does not say whether it has a workflow: nothing is deleted then.
        """
        namespace = self._client.namespace
        while looked_at := await bodies_to_look_at(self._engine, sweep.ledger, namespace, LOOKED_AT_ONCE):
            known = await self._known(set(looked_at.values()))
            activity.heartbeat()
            gone = [name for name, call in looked_at.items() if not _is_needed(name, known[call])]
            await look_again_later(self._engine, list(looked_at.keys() - gone))
            await delete_bodies(self._engine, gone)
            if gone:
                activity.logger.info("%d stored bodies deleted, which no call needs any more", len(gone))
        return await has_bodies(self._engine, sweep.ledger, namespace)

    async def _known(self, workflow_ids: set[str]) -> dict[str, WorkflowExecutionStatus | None]:
        """How it is with each of them. None: Temporal has no run of it."""
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def status(workflow_id: str) -> WorkflowExecutionStatus | None:
            async with places:
                try:
                    return (await self._client.get_workflow_handle(workflow_id).describe()).status
                except RPCError as error:
                    if error.status is RPCStatusCode.NOT_FOUND:
                        return None
                    raise

        ids = list(workflow_ids)
        return dict(zip(ids, await asyncio.gather(*map(status, ids)), strict=True))


def _is_needed(name: str, call: WorkflowExecutionStatus | None) -> bool:
    """An answer may be read for as long as there is its call, a request while the call may send it."""
    return call is WorkflowExecutionStatus.RUNNING if is_stored_request(name) else call is not None
