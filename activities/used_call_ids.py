"""Whether a call id was used by a call that Temporal has forgotten, and the stored rows have not.

What its own workflow has sent before it was reset, and an earlier generation of the call, have a history: they are no
reuse. A later generation is one, also where it has a history: of the first one, which was begun anew, it is gone.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.record_usage import DATABASE_ANSWERS_WITHIN_S, LOOK_AGAIN_AFTER_S
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import CallRef
from paymaster.messages.temporal_names import first_generation, generation_of
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.paid_calls import PaidCall, paid_calls

logger = logging.getLogger(__name__)
_FORGOTTEN = {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}
"""What Temporal answers about a run that it does not have, or whose id is none of its own."""


class UsedCallIds:
    """Asks the database for many calls at once, and Temporal only about what is found there."""

    def __init__(self, client: Client, engine: AsyncEngine, ledger: str) -> None:
        self._client = client
        self._engine = engine
        self._ledger = ledger
        self._not_before = 0.0
        self._is_away = False
        self._lookups = GroupCommit[str, PaidCall](self._look_up, size_of=len)

    async def was_used(self, call: CallRef) -> bool:
        """Whether another call with this id was answered or billed, or may have been. Of a database that does not
        answer nobody waits for long: then it was not, and the log says so once.

        Raises RPCError where Temporal does not tell now what it has.
        """
        if time.monotonic() < self._not_before:
            return False
        first = first_generation(call.workflow_id)
        generation = generation_of(call.workflow_id, first)
        paid = await self._lookups.submit(first)
        for run in paid.runs:
            is_later = generation_of(run.workflow_id, first) > generation
            if run.run_id != call.run_id and (is_later or not await self._has_history(run)):
                return True
        return paid.is_pruned

    async def _look_up(self, workflow_ids: Sequence[str]) -> Sequence[PaidCall]:
        try:
            async with asyncio.timeout(DATABASE_ANSWERS_WITHIN_S):
                found = await paid_calls(self._engine, self._ledger, workflow_ids)
        except DATABASE_ERRORS as error:
            self._not_before = time.monotonic() + LOOK_AGAIN_AFTER_S
            if not self._is_away:
                logger.warning(
                    "the database does not answer: until it does, a call id that was used before Temporal's "
                    "retention is not found, and would be paid again: %s",
                    error,
                )
            self._is_away = True
            return [PaidCall()] * len(workflow_ids)
        self._is_away = False
        return found

    async def _has_history(self, run: CallRef) -> bool:
        try:
            await self._client.get_workflow_handle(run.workflow_id, run_id=run.run_id).describe()
        except RPCError as error:
            if error.status in _FORGOTTEN:
                return False
            raise
        return True
