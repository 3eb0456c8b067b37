"""What a worker adds to a ledger's usage backlog, and how it waits while the backlog's workflow does not keep up."""

import logging
from collections.abc import Sequence

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.ledger.backlog_pile import with_bounded_metadata
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import (
    BacklogBatch,
    BacklogStart,
    UsageRecord,
    backlog_workflow_id,
    json_bytes,
)
from paymaster.messages.temporal_names import ADD, BACKLOG_WORKFLOW, calls_task_queue
from paymaster.security.payloads import as_raw
from paymaster.values.limits import BACKLOG_EVENTS_MAX, BACKLOG_HISTORY_BYTES_MAX, BATCH_BYTES_MAX

LOOKS_AFTER_SIGNALS = 100
"""A sender looks how large the history has become after so many signals, or when they had BATCH_BYTES_MAX."""

logger = logging.getLogger(__name__)


class BacklogFull(Exception):
    """The backlog's run has as much history as it may have, and has not continued as new yet."""


class Backlog:
    """The usage backlog of a ledger, started when it is needed. Many additions go in one signal."""

    def __init__(self, client: Client, ledger: str) -> None:
        self._client = client
        self._ledger = ledger
        self._additions = GroupCommit[BacklogBatch, None](self._send, size_of=json_bytes)
        self._signals_since = LOOKS_AFTER_SIGNALS
        self._bytes_since = 0
        self._full = False

    async def add_record(self, record: UsageRecord) -> None:
        """Keeps what was spent until it is stored and settled.

        Raises CommitUnavailable when Temporal is away, or the backlog was full for 30 s.
        """
        await self._additions.submit(BacklogBatch(records=(with_bounded_metadata(record),)))

    async def add_void(self, hold_id: str) -> None:
        """Keeps trying to void a hold. Raises CommitUnavailable, as `add_record` does."""
        await self._additions.submit(BacklogBatch(voids=(hold_id,)))

    async def _send(self, batches: Sequence[BacklogBatch]) -> Sequence[None]:
        batch = BacklogBatch(
            records=tuple(record for each in batches for record in each.records),
            voids=tuple(hold_id for each in batches for hold_id in each.voids),
        )
        if self._signals_since >= LOOKS_AFTER_SIGNALS or self._bytes_since >= BATCH_BYTES_MAX:
            await self._look()
        await self._client.start_workflow(
            BACKLOG_WORKFLOW.name,
            as_raw(BACKLOG_WORKFLOW.takes(BacklogStart(ledger=self._ledger))),
            id=backlog_workflow_id(self._ledger),
            task_queue=calls_task_queue(self._ledger),
            start_signal=ADD.name,
            start_signal_args=[as_raw(ADD.takes(batch))],
            static_summary=f"what waits to be stored and settled for ledger {self._ledger}",
        )
        self._signals_since += 1
        self._bytes_since += json_bytes(batch)
        return [None] * len(batches)

    async def _look(self) -> None:
        """Raises BacklogFull. Beyond Temporal's own bounds the server would end the run, with all that waits in it."""
        events, size = await self._history()
        if events > BACKLOG_EVENTS_MAX or size > BACKLOG_HISTORY_BYTES_MAX:
            text = (
                f"the usage backlog does not keep up, calls wait for it: the run of workflow "
                f"{backlog_workflow_id(self._ledger)} has {events:,} events and {size:,} bytes of history"
            )
            if not self._full:
                logger.error("%s", text)
            self._full = True
            raise BacklogFull(text)
        self._full = False
        self._signals_since = self._bytes_since = 0

    async def _history(self) -> tuple[int, int]:
        """Events and bytes of the run that is or was the last one; 0 of none."""
        try:
            description = await self._client.get_workflow_handle(backlog_workflow_id(self._ledger)).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return 0, 0
            raise
        if description.close_time is not None:
            return 0, 0
        return description.history_length, description.raw_info.history_size_bytes
