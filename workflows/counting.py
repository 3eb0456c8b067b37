"""How many tokens the input of a request has, for a program that is no workflow."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from paymaster.messages.temporal_names import COUNT_INPUT, INPUT_COUNT_WORKFLOW
from workflows.queues import activities_queue_here


@workflow.defn(name=INPUT_COUNT_WORKFLOW.name, sandboxed=False)
class InputCountWorkflow:
    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is an LLMRequest, the result an InputCount."""
        return await workflow.execute_activity(
            COUNT_INPUT.name,
            message,
            result_type=RawValue,
            task_queue=activities_queue_here(),
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=5), maximum_attempts=3),
        )
