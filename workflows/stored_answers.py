"""What goes on around answers that are too large for Temporal: deleting them, and reading them from outside."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError

from paymaster.messages.call_steps import BodySweep
from paymaster.messages.temporal_names import ANSWER_PIECE_WORKFLOW, BODY_SWEEP_WORKFLOW, READ_PIECE, SWEEP_BODIES
from workflows.queues import activities_queue_here

SWEEP_EVERY = timedelta(hours=1)
ROUNDS_OF_A_RUN = 100
"""Then the workflow continues as new."""


@workflow.defn(name=BODY_SWEEP_WORKFLOW.name, sandboxed=False)
class BodySweepWorkflow:
    """One for each ledger; who stores a body starts it, and it ends when none is left."""

    @workflow.run
    async def run(self, sweep: BodySweep) -> None:
        empty = 0
        for _ in range(ROUNDS_OF_A_RUN):
            await workflow.sleep(SWEEP_EVERY, summary="stored answers are looked at again")
            # Twice: who has just found this workflow running may still be storing.
            empty = 0 if await self._any_left(sweep) else empty + 1
            if empty == 2:
                return
        workflow.continue_as_new(sweep)

    async def _any_left(self, sweep: BodySweep) -> bool:
        try:
            return await workflow.execute_activity(
                SWEEP_BODIES.name,
                SWEEP_BODIES.takes(sweep),
                result_type=SWEEP_BODIES.result,
                task_queue=activities_queue_here(),
                start_to_close_timeout=timedelta(hours=1),
                heartbeat_timeout=timedelta(minutes=1),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=5), maximum_attempts=10),
            )
        except ActivityError as error:
            workflow.logger.error("stored answers could not be looked at, the next time is in an hour: %s", error.cause)
            return True


@workflow.defn(name=ANSWER_PIECE_WORKFLOW.name, sandboxed=False)
class AnswerPieceWorkflow:
    """Reads a piece of a stored answer for a program that is no workflow."""

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is a BodyPiece, the result its bytes."""
        return await workflow.execute_activity(
            READ_PIECE.name,
            message,
            result_type=RawValue,
            task_queue=activities_queue_here(),
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        )
