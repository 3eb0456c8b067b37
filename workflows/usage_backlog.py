"""UsageBacklogWorkflow: keeps safe what the database or the ledger did not take, until they do.

One for each ledger; it starts with the first record that had to wait and ends when nothing is left.
"""

import contextlib
import zlib
from base64 import b64decode, b64encode
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError

from paymaster.messages import ACTIVITIES_TASK_QUEUE, BacklogBatch, BacklogStart, CaughtUp, UsageRecord
from workflows.signals import called_in_any_case, message_of

AT_MOST = 200
"""Records in one round."""
STAYS = timedelta(seconds=30)
"""How long it waits for more when nothing is left."""


@workflow.defn(name="UsageBacklogWorkflow", sandboxed=False)
class UsageBacklogWorkflow:
    @workflow.init
    def __init__(self, start: BacklogStart) -> None:
        carried = _unpacked(start.waiting)
        self._ledger = start.ledger
        self._records = list(carried.records)
        self._voids = list(carried.voids)
        self._set_aside = list(start.set_aside)

    @workflow.run
    async def run(self, start: BacklogStart) -> None:
        while not workflow.info().is_continue_as_new_suggested():
            with contextlib.suppress(TimeoutError):
                # What was set aside stays visible until somebody has looked at it and ends this workflow.
                await workflow.wait_condition(self._has_work, timeout=None if self._set_aside else STAYS)
            if not self._has_work():
                return
            await self._catch_up()
        waiting = BacklogBatch(records=tuple(self._records), voids=tuple(self._voids))
        workflow.continue_as_new(
            BacklogStart(ledger=self._ledger, waiting=_packed(waiting), set_aside=tuple(self._set_aside))
        )

    @workflow.signal
    @called_in_any_case
    def add(self, signal: RawValue) -> None:
        if batch := message_of(signal, BacklogBatch):
            self._records += batch.records
            self._voids += batch.voids

    @workflow.query
    def waiting(self) -> int:
        """What is not stored or settled yet."""
        return len(self._records) + len(self._voids)

    @workflow.query
    def set_aside(self) -> list[UsageRecord]:
        """What is refused for good."""
        return self._set_aside

    def _has_work(self) -> bool:
        return bool(self._records or self._voids)

    async def _catch_up(self) -> None:
        batch = BacklogBatch(records=tuple(self._records[:AT_MOST]), voids=tuple(self._voids[:AT_MOST]))
        try:
            done = await workflow.execute_activity(
                "catch_up",
                batch,
                result_type=CaughtUp,
                task_queue=ACTIVITIES_TASK_QUEUE,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=5), maximum_attempts=10),
            )
        except ActivityError as error:  # not the end: between two rounds this run may continue as new
            workflow.logger.warning("still no answer, trying again: %s", error.cause)
            return
        self._set_aside += [record for record in batch.records if record.grant.hold_id in done.rejected]
        del self._records[: len(batch.records)]
        del self._voids[: len(batch.voids)]


def _packed(batch: BacklogBatch) -> str:
    """Compressed, because thousands of records must fit into one payload."""
    return b64encode(zlib.compress(batch.model_dump_json().encode())).decode()


def _unpacked(packed: str | None) -> BacklogBatch:
    if packed is None:
        return BacklogBatch()
    return BacklogBatch.model_validate_json(zlib.decompress(b64decode(packed)))
