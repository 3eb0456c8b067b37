"""What is left of some budgets, for a program that is no workflow."""

from temporalio import workflow
from temporalio.common import RawValue

from paymaster.messages.temporal_names import STANDING, STANDING_WORKFLOW
from paymaster.standing_request import ANSWERED_WITHIN, ASKED_FOR, RETRIES
from workflows.queues import activities_queue_here


@workflow.defn(name=STANDING_WORKFLOW.name, sandboxed=False)
class StandingWorkflow:
    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is a StandingRequest, the result a Standing."""
        return await workflow.execute_activity(
            STANDING.name,
            message,
            result_type=RawValue,
            task_queue=activities_queue_here(),
            start_to_close_timeout=ANSWERED_WITHIN,
            schedule_to_close_timeout=ASKED_FOR,
            retry_policy=RETRIES,
        )
