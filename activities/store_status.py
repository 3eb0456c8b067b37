"""store_status: a copy of how the ledger stands goes into the database, where everybody reads it."""

import asyncio
import contextlib

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from paymaster.messages import StatusCopy
from paymaster.storage.status_rows import store_status

ONE_IN_S = 1.0


class StoreStatusActivities:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def store_status(self, copy: StatusCopy) -> None:
        """Returns a second after it began: the ledger sends its next copy then, and needs no timer for it."""
        clock = asyncio.get_running_loop().time
        until = clock() + ONE_IN_S
        await store_status(self._engine, copy, activity.info().scheduled_time)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(activity.wait_for_worker_shutdown(), max(0.0, until - clock()))
