"""UsageBacklogWorkflow: keeps safe what the database or the ledger did not take, until they do.

One for each ledger; it starts with the first record that had to wait and ends when nothing is left. What is too much
for one run's continue-as-new is handed on in pieces to UsageBacklogPieceWorkflows, which store them on their own.
"""

import asyncio
import contextlib
from datetime import timedelta
from functools import partial

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

from paymaster.ledger.backlog_pile import Pile, SetAside, unpacked
from paymaster.messages import (
    BacklogBatch,
    BacklogPiece,
    BacklogStart,
    CaughtUp,
    PieceEnded,
    SetAsideSum,
    UsageRecord,
    backlog_workflow_id,
)
from paymaster.messages.temporal_names import BACKLOG_PIECE_WORKFLOW, BACKLOG_WORKFLOW, CATCH_UP, PIECE_ENDED
from paymaster.values.limits import PIECE_BYTES_MAX
from paymaster.values.packed import pack
from workflows.queues import activities_queue_here
from workflows.signals import message_of, text_of, tolerate_any_payload_count

IDLE_TIMEOUT = timedelta(seconds=30)
"""How long an empty backlog waits for more before its workflow ends."""
PIECE_RETRY_INTERVAL_MAX = timedelta(seconds=30)
"""The longest wait between two tries of one piece: hundreds of pieces may wait for one database."""


@workflow.defn(name=BACKLOG_WORKFLOW.name, sandboxed=False)
class UsageBacklogWorkflow:
    @workflow.init
    def __init__(self, start: BacklogStart) -> None:
        self._ledger = start.ledger
        self._set_aside = SetAside(start.set_aside, start.set_aside_more)
        self._pile = Pile(partial(_refuse, self._set_aside))
        if start.waiting is not None:
            self._pile.add(unpacked(start.waiting))
        self._pieces = start.pieces
        self._pieces_waiting = start.pieces_waiting

    @workflow.run
    async def run(self, start: BacklogStart) -> None:
        while not _is_ending():
            if self._pieces:  # their ends are told to this workflow
                await workflow.wait_condition(lambda: self._has_work() or not self._pieces or _is_ending())
            else:
                with contextlib.suppress(TimeoutError):
                    # What was set aside stays visible until somebody has looked at it and ends this workflow.
                    await workflow.wait_condition(self._has_work, timeout=None if self._set_aside else IDLE_TIMEOUT)
                if not self._has_work():
                    return
            if self._has_work():
                await self._catch_up()
        await self._hand_on()
        workflow.continue_as_new(
            BacklogStart(
                ledger=self._ledger,
                waiting=pack(self._pile.all()),
                set_aside=tuple(self._set_aside.records),
                set_aside_more=self._set_aside.more,
                pieces=self._pieces,
                pieces_waiting=self._pieces_waiting,
            )
        )

    @workflow.signal
    @tolerate_any_payload_count
    def add(self, signal: RawValue) -> None:
        if text := text_of(signal, BacklogBatch):
            self._pile.add(text)

    @workflow.signal
    @tolerate_any_payload_count
    def piece_ended(self, signal: RawValue) -> None:
        if ended := message_of(signal, PieceEnded):
            self._pieces = max(0, self._pieces - 1)
            self._pieces_waiting = max(0, self._pieces_waiting - ended.waited) if self._pieces else 0
            self._set_aside.add(ended.set_aside)
            self._set_aside.more += ended.set_aside_more

    @workflow.query
    def waiting(self) -> int:
        """What is not stored or settled yet, here and in pieces."""
        return len(self._pile) + self._pieces_waiting

    @workflow.query
    def set_aside(self) -> list[UsageRecord]:
        """What is refused for good, the latest of it."""
        return self._set_aside.records

    @workflow.query
    def set_aside_sum(self) -> SetAsideSum:
        """How much is refused for good in all."""
        return self._set_aside.sum()

    def _has_work(self) -> bool:
        return bool(self._pile)

    def _batch(self) -> BacklogBatch:
        """Of 0.1.0 runs go on whose batches were cut by number alone."""
        batch = self._pile.first()
        if self._pile.would_have_more() and not workflow.patched("backlog-batches-by-bytes"):
            return self._pile.first_by_number()
        return batch

    async def _catch_up(self) -> None:
        batch = self._batch()
        catching_up = asyncio.ensure_future(_caught_up(batch))
        await workflow.wait_condition(lambda: catching_up.done() or _is_ending())
        # However long the database takes, this run's history must not grow; the next one sends the batch again.
        if not catching_up.done() and workflow.patched("backlog-ends-at-once"):
            return
        try:
            done = await catching_up
        except ActivityError as error:  # not the end: between two rounds this run may continue as new
            workflow.logger.warning("still no answer, trying again: %s", error.cause)
            return
        self._set_aside.add(_rejected(batch, done))
        self._pile.remove(batch)

    async def _hand_on(self) -> None:
        """What does not fit into the next run's start becomes the start of other workflows. Meanwhile more may come."""
        if self._pile.bytes <= PIECE_BYTES_MAX or not workflow.patched("backlog-in-pieces"):
            return
        workflow.logger.error(
            "%d records and voids wait to be stored and settled, more than one workflow hands on to the next: "
            "does the database answer?",
            self.waiting(),
        )
        number = 0
        while piece := self._pile.take_surplus():
            count, text = piece
            number += 1
            self._pieces += 1
            self._pieces_waiting += count
            backlog_id, run_id = workflow.info().workflow_id, workflow.info().run_id
            with contextlib.suppress(WorkflowAlreadyStartedError):  # nobody else uses this id
                await workflow.start_child_workflow(
                    UsageBacklogPieceWorkflow.run,
                    BacklogPiece(ledger=self._ledger, waiting=pack(text)),
                    id=f"{backlog_id}/{run_id}/{number}",
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    static_summary=f"a piece of what waits to be stored and settled for ledger {self._ledger}",
                )


@workflow.defn(name=BACKLOG_PIECE_WORKFLOW.name, sandboxed=False)
class UsageBacklogPieceWorkflow:
    """A piece of a usage backlog: stores and settles it, tells the backlog, and ends."""

    @workflow.init
    def __init__(self, piece: BacklogPiece) -> None:
        self._set_aside = SetAside()
        self._pile = Pile(partial(_refuse, self._set_aside))
        self._pile.add(unpacked(piece.waiting))
        self._pile.read_all()
        self._took_over = len(self._pile)

    @workflow.run
    async def run(self, piece: BacklogPiece) -> PieceEnded:
        while self._pile:
            batch = self._pile.first()
            try:
                done = await workflow.execute_activity(
                    CATCH_UP.name,
                    CATCH_UP.takes(batch),
                    result_type=CATCH_UP.result,
                    task_queue=activities_queue_here(),
                    start_to_close_timeout=timedelta(minutes=1),
                    retry_policy=RetryPolicy(maximum_interval=PIECE_RETRY_INTERVAL_MAX),
                )
            except ActivityError as error:  # of a kind that Temporal does not retry
                workflow.logger.error("still no answer, trying again: %s", error.cause)
                await workflow.sleep(PIECE_RETRY_INTERVAL_MAX)
                continue
            self._set_aside.add(_rejected(batch, done))
            self._pile.remove(batch)
        ended = PieceEnded(
            waited=self._took_over, set_aside=tuple(self._set_aside.records), set_aside_more=self._set_aside.more
        )
        backlog = workflow.get_external_workflow_handle(backlog_workflow_id(piece.ledger))
        try:
            await backlog.signal(PIECE_ENDED.name, PIECE_ENDED.takes(ended))
        except ApplicationError as error:
            workflow.logger.error("the usage backlog was ended before its pieces: %s", error)
        return ended

    @workflow.query
    def waiting(self) -> int:
        """What is not stored or settled yet."""
        return len(self._pile)


async def _caught_up(batch: BacklogBatch) -> CaughtUp:
    return await workflow.execute_activity(
        CATCH_UP.name,
        CATCH_UP.takes(batch),
        result_type=CATCH_UP.result,
        task_queue=activities_queue_here(),
        start_to_close_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=5), maximum_attempts=10),
    )


def _refuse(set_aside: SetAside, why: str, record: UsageRecord | None) -> None:
    workflow.logger.error("%s", why)
    if record is not None:
        set_aside.add([record])


def _rejected(batch: BacklogBatch, done: CaughtUp) -> list[UsageRecord]:
    return [record for record in batch.records if record.grant.hold_id in done.rejected]


def _is_ending() -> bool:
    return workflow.info().is_continue_as_new_suggested()
