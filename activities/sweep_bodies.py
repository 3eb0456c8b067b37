"""sweep_bodies: deletes stored answers when Temporal has the workflows of their calls no more.

It is asked, not guessed: a call may be parked for a year, and each namespace keeps ended workflows for its own time.
"""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages.call_steps import BodySweep
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
            gone = [reference for reference, workflow_id in looked_at.items() if workflow_id not in known]
            await look_again_later(self._engine, [each for each in looked_at if looked_at[each] in known])
            await delete_bodies(self._engine, gone)
            if gone:
                activity.logger.info("%d stored answers deleted, whose calls are gone from Temporal", len(gone))
        return await has_bodies(self._engine, sweep.ledger, namespace)

    async def _known(self, workflow_ids: set[str]) -> set[str]:
        """Those of which Temporal has any run."""
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def is_known(workflow_id: str) -> bool:
            async with places:
                try:
                    await self._client.get_workflow_handle(workflow_id).describe()
                except RPCError as error:
                    if error.status is RPCStatusCode.NOT_FOUND:
                        return False
                    raise
                return True

        ids = list(workflow_ids)
        found = await asyncio.gather(*(is_known(each) for each in ids))
        return {each for each, is_there in zip(ids, found, strict=True) if is_there}
