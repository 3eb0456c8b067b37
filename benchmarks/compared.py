"""The workflows of the benchmarks: the call without a budget that Paymaster's is compared with, and an agent.

In a file of their own that imports nothing large: a sandbox imports it anew for each run.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from paymaster import LLMRequest, LLMResult, Outcome, generate
from paymaster.messages import CallRef, Completion, Grant, RetrySettings, ServiceCall, UsageRecord
from paymaster.money import Price, TokenUsage

UNBUDGETED_TASK_QUEUE = "unbudgeted"
AGENTS_TASK_QUEUE = "agents"


@workflow.defn
class UnbudgetedCall:
    @workflow.run
    async def run(self, request: LLMRequest) -> LLMResult:
        info = workflow.info()
        grant = _granted_to_everybody(info.run_id, request)
        completion = await workflow.execute_activity(
            "call_service",
            ServiceCall(grant=grant, request=request),
            result_type=Completion,
            start_to_close_timeout=timedelta(seconds=130),
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=5),
        )
        record = UsageRecord(
            call=CallRef(workflow_id=info.workflow_id, run_id=info.run_id),
            grant=grant,
            attempts=completion.attempts,
            answered=True,
        )
        await workflow.execute_activity("store_usage", record, start_to_close_timeout=timedelta(minutes=1))
        return LLMResult(
            outcome=Outcome.COMPLETED,
            call_id=info.workflow_id,
            text=completion.text,
            usage=completion.attempts[-1].usage or TokenUsage(),
            service=grant.service,
            model=grant.model,
        )


def _granted_to_everybody(run_id: str, request: LLMRequest) -> Grant:
    """`call_service` wants one; here nobody has decided anything."""
    return Grant(
        hold_id=f"{run_id}/1",
        budget=request.budget,
        service=request.route,
        model="bench-model",
        price=Price(input_nanos=1_000, output_nanos=4_000, source="bench"),
        max_output_tokens=400,
        bound_nanos=0,
        granted_at_ms=workflow.time_ns() // 1_000_000,
        expires_at_ms=workflow.time_ns() // 1_000_000 + 900_000,
        epoch="bench",
        timeout_ms=120_000,
        retry=RetrySettings(),
        max_retry_after_ms=60_000,
        max_unconfirmed=1,
    )


@workflow.defn
class Agent:
    """Asks five questions at once, again and again."""

    @workflow.run
    async def run(self, kind: str, request: LLMRequest, calls: int) -> None:
        for _ in range(0, calls, 5):
            await asyncio.gather(*(self._ask(kind, request) for _ in range(5)))

    async def _ask(self, kind: str, request: LLMRequest) -> LLMResult:
        if kind == "governed":
            return await generate(request)
        return await workflow.execute_child_workflow(
            "UnbudgetedCall",
            request,
            id=f"u/{workflow.uuid4()}",
            task_queue=UNBUDGETED_TASK_QUEUE,
            result_type=LLMResult,
        )
