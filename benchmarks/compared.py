"""The workflows of the benchmarks: a bare call, one without a budget, an agent, and a ledger that is asked by signals.

In a file of their own that imports nothing large: a sandbox imports it anew for each run.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from paymaster import LLMRequest, LLMResult, Outcome, generate
from paymaster.admission.desk import Desk
from paymaster.admission.state import DeskState
from paymaster.messages import (
    CallRef,
    Completion,
    Grant,
    Granted,
    LedgerStart,
    LoadedSpend,
    Reserve,
    RetrySettings,
    ServiceCall,
    UsageRecord,
)
from paymaster.values.money import Price, TokenUsage

BARE_TASK_QUEUE = "bare"
UNBUDGETED_TASK_QUEUE = "unbudgeted"
AGENTS_TASK_QUEUE = "agents"


@workflow.defn(sandboxed=False)  # as Paymaster's own
class BareCall:
    """One activity that calls the service: no row, no budget. What a team has before it has either."""

    @workflow.run
    async def run(self, request: LLMRequest) -> str:
        completion = await _call_service(_granted_to_everybody(workflow.info().run_id, request), request)
        return completion.text


@workflow.defn(sandboxed=False)  # as Paymaster's own
class UnbudgetedCall:
    @workflow.run
    async def run(self, request: LLMRequest) -> LLMResult:
        info = workflow.info()
        grant = _granted_to_everybody(info.run_id, request)
        completion = await _call_service(grant, request)
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


async def _call_service(grant: Grant, request: LLMRequest) -> Completion:
    return await workflow.execute_activity(
        "call_service",
        ServiceCall(grant=grant, request=request),
        result_type=Completion,
        start_to_close_timeout=timedelta(seconds=130),
        heartbeat_timeout=timedelta(seconds=10),
        retry_policy=RetryPolicy(maximum_attempts=5),
    )


def _granted_to_everybody(run_id: str, request: LLMRequest) -> Grant:
    """`call_service` wants one; here nobody has decided anything."""
    return Grant(
        hold_id=f"{run_id}/1",
        budget=request.budgets[0],
        service=request.route,
        model="bench-model",
        price=Price(input_nanos=1_000, output_nanos=4_000, source="bench"),
        max_output_tokens=400,
        bound_nanos=0,
        granted_at_ms=_now_ms(),
        expires_at_ms=_now_ms() + 900_000,
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


# ---------------------------------------------------------------- a signal for each reservation


@workflow.defn(sandboxed=False)
class SignalledLedger:
    """Paymaster's desk, asked by a signal for each reservation, which it answers by another."""

    @workflow.init
    def __init__(self, start: LedgerStart) -> None:
        self._desk = Desk(DeskState(ledger=start.ledger, epoch="bench"))
        self._desk.configure(start.config, _now_ms())
        load = self._desk.to_load()
        assert load is not None  # a new ledger always asks what was spent before
        self._desk.loaded(LoadedSpend(number=load.number, posted_nanos={}), _now_ms())

    @workflow.run
    async def run(self, start: LedgerStart) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    async def reserve(self, command: Reserve) -> None:
        answer = self._desk.handle(command, _now_ms())
        assert isinstance(answer, Granted), answer
        await workflow.get_external_workflow_handle(command.call.workflow_id).signal(Mailbox.answer, answer)


@workflow.defn(sandboxed=False)
class Mailbox:
    """Ends when so many answers have come."""

    def __init__(self) -> None:
        self._answers = 0

    @workflow.run
    async def run(self, expected: int) -> None:
        await workflow.wait_condition(lambda: self._answers >= expected)

    @workflow.signal
    def answer(self, answer: Granted) -> None:
        self._answers += 1


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
