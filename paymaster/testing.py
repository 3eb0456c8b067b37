"""Unit tests of agents: each call ends as a script says, without a ledger, a database, a worker or a provider.

    async with local_temporal() as temporal:
        async with scripted_calls(temporal.client, [completed("Hello"), denied()]) as calls:
            async with Worker(temporal.client, task_queue="agents", workflows=[MyAgent]):
                article = await temporal.client.execute_workflow(MyAgent.run, …)
    assert calls.requests[0].prompt == "…"

The server is that of the extra `testing`, or any `temporal` on PATH. The agent's own code runs as it is.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from paymaster.asked_ledger import ledger_of_client
from paymaster.generations import newest_result
from paymaster.messages import (
    BudgetNotice,
    LLMRequest,
    LLMResult,
    Outcome,
    Standing,
    ToolCall,
    call_id_of,
)
from paymaster.messages.base import Message
from paymaster.messages.purchases import (
    PurchaseBegun,
    PurchaseEnd,
    PurchaseOutcome,
    PurchaseRequest,
    PurchaseResult,
)
from paymaster.messages.temporal_names import (
    CALL_WORKFLOW,
    PURCHASE_BEGIN,
    PURCHASE_END,
    PURCHASE_WORKFLOW,
    SCRIPTED_CALL,
    SCRIPTED_PURCHASE,
    SCRIPTED_PURCHASE_END,
    STANDING,
    activities_task_queue,
    calls_task_queue,
    purchase_granted_signal,
)
from paymaster.plugin import PaymasterPlugin
from paymaster.security.payloads import as_raw, read_raw
from paymaster.settings import Settings
from paymaster.temporal_program import DYNAMIC_CONFIG, temporal_program
from paymaster.values.json_reading import read_json
from paymaster.values.money import TokenUsage, usd_to_nanos

__all__ = [
    "PurchaseScript",
    "Script",
    "ScriptedCall",
    "ScriptedCalls",
    "ScriptedPurchase",
    "completed",
    "denied",
    "local_temporal",
    "parked",
    "scripted_calls",
    "unavailable",
]

_STARTS_WITHIN = timedelta(seconds=30)
_HEARTBEAT_EVERY_S = 10.0
_ANSWER_WITHIN = timedelta(seconds=10)


class ScriptedCall(Message):
    """How one call ends."""

    result: LLMResult
    """Its call id and its request's digest are filled in."""
    parked_for: timedelta = timedelta()
    """How long it waits for money before."""


class ScriptedPurchase(Message):
    """A purchase of the agent, as it ended."""

    request: PurchaseRequest
    result: PurchaseResult


PurchaseScript = Callable[[PurchaseRequest], ScriptedCall | None]
"""What says whether a purchase is granted: None, or `denied(…)`."""

Script = Sequence[ScriptedCall] | Callable[[LLMRequest], ScriptedCall]
"""The ends of calls in the order in which they start, or what says it of each. Where an agent makes calls at once their
order is not fixed, and a function that looks at the request is the better script."""


def completed(
    answer: str | BaseModel = "",
    *,
    cost_usd: Decimal | str = "0.001",
    tool_calls: Sequence[ToolCall] = (),
    refused: bool = False,
    finish_reason: str = "stop",
    usage: TokenUsage | None = None,
    budget: Sequence[BudgetNotice] = (),
    service: str = "scripted",
    model: str = "scripted",
) -> ScriptedCall:
    """An answer. A pydantic model is answered as JSON. `usage` None: 10 tokens of input and 5 of output."""
    return ScriptedCall(
        result=LLMResult(
            outcome=Outcome.COMPLETED,
            call_id="",
            text=answer if isinstance(answer, str) else answer.model_dump_json(),
            tool_calls=tuple(tool_calls),
            refused=refused,
            finish_reason=finish_reason,
            usage=usage or TokenUsage(input_tokens=10, output_tokens=5),
            cost_nanos=usd_to_nanos(Decimal(cost_usd)),
            service=service,
            model=model,
            attempts=1,
            budget=tuple(budget),
        )
    )


def denied(reason: str = "cap_reached", detail: str = "the script denies it") -> ScriptedCall:
    """Nothing is sent. `reason` is a word such as `cap_reached`, `input_too_long` or `unknown_route`."""
    return ScriptedCall(result=LLMResult(outcome=Outcome.DENIED, call_id="", reason=reason, detail=detail))


def unavailable(
    reason: str = "server_error", detail: str = "the script has every service fail", *, cost_usd: Decimal | str = "0"
) -> ScriptedCall:
    """Every service failed. `cost_usd` is what the failed attempts cost all the same."""
    cost_nanos = usd_to_nanos(Decimal(cost_usd))
    result = LLMResult(
        outcome=Outcome.UNAVAILABLE, call_id="", reason=reason, detail=detail, attempts=1, cost_nanos=cost_nanos
    )
    return ScriptedCall(result=result)


def parked(duration: timedelta, then: ScriptedCall | None = None) -> ScriptedCall:
    """Waits for money, for so long by the server's clock, and ends as `then`. None: as `completed()`.

    As with a real ledger, a request with `on_exhausted="fail"` is denied at once (`cap_reached`), and one with a
    shorter `wait_at_most` when that is over (`waited_too_long`).
    """
    return (then or completed()).model_copy(update={"parked_for": duration})


class ScriptedCalls:
    """What the agent asked for so far."""

    def __init__(self, script: Script, purchases: PurchaseScript = lambda request: None) -> None:
        self.purchases: list[ScriptedPurchase] = []
        """In the order in which they ended."""
        self._purchase_script = purchases
        self.requests: list[LLMRequest] = []
        """In the order in which the calls started, each with its call id."""
        self._function = script if callable(script) else None
        self._rest: Iterator[ScriptedCall] = iter(()) if callable(script) else iter(script)

    @activity.defn(name=SCRIPTED_CALL)
    async def end_of(self, message: RawValue) -> RawValue:
        """The end of the call that starts now, a ScriptedCall. Fails the call where the script has none."""
        return as_raw(self._end_of(read_raw(message, LLMRequest)))

    @activity.defn(name=SCRIPTED_PURCHASE)
    async def denial_of(self, message: RawValue) -> RawValue:
        """The result of a purchase that is denied. None: it is granted."""
        request = read_raw(message, PurchaseRequest)
        end = self._purchase_script(request)
        if end is None:
            return as_raw(None)
        result = PurchaseResult(outcome=PurchaseOutcome.DENIED, reason=end.result.reason, detail=end.result.detail)
        self.purchases.append(ScriptedPurchase(request=request, result=result))
        return as_raw(result)

    @activity.defn(name=SCRIPTED_PURCHASE_END)
    async def keep_purchase(self, message: RawValue) -> None:
        self.purchases.append(read_raw(message, ScriptedPurchase))

    def _end_of(self, request: LLMRequest) -> ScriptedCall:
        self.requests.append(request)
        if self._function is not None:
            return self._function(request)
        scripted = next(self._rest, None)
        if scripted is None:
            number, prompt = len(self.requests), (request.prompt or "")[:100]
            raise ApplicationError(f"the script ends before call {number}: route {request.route!r}, prompt {prompt!r}")
        return scripted


@workflow.defn(name=CALL_WORKFLOW.name, sandboxed=False)
class ScriptedCallWorkflow:
    """Stands where Paymaster's own workflow of a call stands otherwise."""

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is an LLMRequest, the result an LLMResult."""
        request = read_raw(message, LLMRequest)
        end = await workflow.execute_local_activity(
            SCRIPTED_CALL,
            message,
            result_type=RawValue,
            start_to_close_timeout=_ANSWER_WITHIN,
            retry_policy=RetryPolicy(maximum_attempts=1),  # what is wrong with a script stays wrong
        )
        scripted = read_raw(end, ScriptedCall)
        result, waits = scripted.result, scripted.parked_for
        if waits and request.on_exhausted == "fail":
            result, waits = denied().result, timedelta()
        elif request.wait_at_most is not None and waits > request.wait_at_most:
            result, waits = denied("waited_too_long").result, request.wait_at_most
        if waits:
            await workflow.sleep(waits)
        result = result.model_copy(
            update={
                "call_id": call_id_of(workflow.info().workflow_id),
                "request_digest": request.digest(),
                "waited_ms": waits // timedelta(milliseconds=1),
                "parsed": _parsed(request, result),
            }
        )
        return as_raw(result)


@workflow.defn(name=PURCHASE_WORKFLOW.name, sandboxed=False)
class ScriptedPurchaseWorkflow:
    """Stands where Paymaster's own workflow of a purchase stands otherwise."""

    def __init__(self) -> None:
        self._granted = self._over = False
        self._end: PurchaseEnd | None = None

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is a PurchaseRequest, the result a PurchaseResult."""
        denial = await self._tell(SCRIPTED_PURCHASE, message)
        if denial.payload.data:
            self._over = True
            return denial
        await self._grant()
        await workflow.wait_condition(lambda: self._end is not None)
        self._over = True
        request = read_raw(message, PurchaseRequest)
        result = _result_of(request, self._end)
        await self._tell(SCRIPTED_PURCHASE_END, as_raw(ScriptedPurchase(request=request, result=result)))
        return as_raw(result)

    async def _grant(self) -> None:
        self._granted, info = True, workflow.info()
        if info.parent is not None:
            parent = workflow.get_external_workflow_handle(info.parent.workflow_id, run_id=info.parent.run_id)
            await parent.signal(purchase_granted_signal(info.workflow_id))

    async def _tell(self, activity_name: str, message: RawValue) -> RawValue:
        return await workflow.execute_local_activity(
            activity_name,
            message,
            result_type=RawValue,
            start_to_close_timeout=_ANSWER_WITHIN,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )

    @workflow.update(name=PURCHASE_BEGIN.name)
    async def begin(self, message: RawValue) -> RawValue:
        await workflow.wait_condition(lambda: self._granted or self._over)
        return as_raw(PurchaseBegun(state="taken" if self._over else "granted"))

    @workflow.signal(name=PURCHASE_END.name)
    def purchase_end(self, message: RawValue) -> None:
        self._end = read_raw(message, PurchaseEnd)


def _result_of(request: PurchaseRequest, end: PurchaseEnd | None) -> PurchaseResult:
    if end is None or end.outcome == "unknown":
        return PurchaseResult(outcome=PurchaseOutcome.UNCONFIRMED, cost_nanos=request.up_to_nanos)
    return PurchaseResult(outcome=PurchaseOutcome(end.outcome), cost_nanos=end.cost_nanos)


def _parsed(request: LLMRequest, result: LLMResult) -> object:
    """The answer as data, where JSON was asked for and this is some."""
    if request.json_schema is None or result.parsed is not None:
        return result.parsed
    try:
        return read_json(result.text.encode())
    except ValueError:
        return None


@asynccontextmanager
async def scripted_calls(
    client: Client,
    script: Script,
    *,
    standing: Standing | None = None,
    purchases: PurchaseScript = lambda request: None,
) -> AsyncGenerator[ScriptedCalls]:
    """While the block runs, calls that are made through this client's namespace end as the script says.

    `standing` is what `paymaster.standing` answers for every budget. Default: nothing is capped. `purchases` says how
    purchases end. Default: each is granted.

    The client needs PaymasterPlugin, and no real worker may run in its namespace. Any server will do: `local_temporal`,
    or `WorkflowEnvironment.start_time_skipping()`, on which days of parking take no time.
    """
    if not any(isinstance(plugin, PaymasterPlugin) for plugin in client.config()["plugins"]):
        raise ValueError("the client needs PaymasterPlugin: Client.connect(…, plugins=[PaymasterPlugin()])")
    calls = ScriptedCalls(script, purchases)

    @activity.defn
    async def await_result(call_id: RawValue) -> RawValue:
        """The result of a call that was started before under this id."""
        result = asyncio.ensure_future(newest_result(client, read_raw(call_id, str)))
        try:
            while not result.done():
                activity.heartbeat()
                await asyncio.wait([result], timeout=_HEARTBEAT_EVERY_S)
            return result.result()
        finally:
            result.cancel()

    @activity.defn(name=STANDING.name)
    async def always_stands(asked: RawValue) -> RawValue:
        return as_raw(standing or Standing())

    ledger = ledger_of_client(client)
    calls_worker = Worker(
        client,
        task_queue=calls_task_queue(ledger),
        workflows=[ScriptedCallWorkflow, ScriptedPurchaseWorkflow],
        activities=[calls.end_of, calls.denial_of, calls.keep_purchase],
    )
    results_worker = Worker(client, task_queue=activities_task_queue(ledger), activities=[await_result, always_stands])
    async with calls_worker, results_worker:
        yield calls


@asynccontextmanager
async def local_temporal() -> AsyncGenerator[WorkflowEnvironment]:
    """A Temporal server of its own in this machine's memory, on loopback, with a client that has PaymasterPlugin.

    Takes about a second to start: once for all tests is enough. Paymaster's settings of this machine do not matter.
    Raises NoTemporalProgram, with what to type, when there is no program `temporal`.
    """
    program = await asyncio.to_thread(temporal_program)
    dynamic = [f"{name}={json.dumps(value)}" for name, value in DYNAMIC_CONFIG.items()]
    server = await WorkflowEnvironment.start_local(
        plugins=[PaymasterPlugin(Settings())],
        dev_server_existing_path=str(program),
        dev_server_log_level="error",
        dev_server_startup_timeout=_STARTS_WITHIN,
        dev_server_extra_args=[argument for value in dynamic for argument in ("--dynamic-config-value", value)],
    )
    async with server:
        yield server
