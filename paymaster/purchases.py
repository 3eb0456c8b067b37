"""What costs money and is no call of an LLM, under the same caps: the fee of a tool, or of an MCP server.

    async with paymaster.purchase("acme/agent", up_to="0.05", what="web-search") as bought:
        found = await search(question, idempotency_key=bought.id)
        bought.cost(found.fee_usd)

Before the block the most that it can cost is held, and after it the cost is stored and posted.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import Literal, Protocol
from uuid import uuid4

from pydantic import TypeAdapter
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.agent_starts import room_for_start
from paymaster.asked_ledger import ledger_of_agent, ledger_of_client
from paymaster.errors import CallIdReused, PurchaseDenied, PurchaseEnded
from paymaster.ledger.updates import PAUSE_MAX_S, PAUSE_S, UPDATE_ERRORS, Fate, fate_of, update_once
from paymaster.messages import Budgets, json_bytes
from paymaster.messages.purchases import (
    PurchaseBegin,
    PurchaseEnd,
    PurchaseOutcome,
    PurchaseRequest,
    PurchaseResult,
)
from paymaster.messages.temporal_names import (
    CALL_ID_REUSED,
    PURCHASE_BEGIN,
    PURCHASE_END,
    PURCHASE_TURN,
    PURCHASE_WORKFLOW,
    ArgumentT,
    ResultT,
    UpdateName,
    calls_task_queue,
    generation_id,
    purchase_granted_signal,
    purchase_workflow_id,
)
from paymaster.observability.temporal_ui import summary
from paymaster.repeated_requests import RepeatedRequests, call_of
from paymaster.runs import asking_client, asking_workflow, in_current_run
from paymaster.security.payloads import as_raw, from_asker, read_raw
from paymaster.values.money import UsdAsNanos, format_usd
from paymaster.withdrawal import is_asked_again

__all__ = ["Bought", "Purchase", "purchase"]

_ASKS_FOR = timedelta(seconds=60)
"""How long one question waits for its answer; then it is asked again."""
_GIVES_UP_WITHIN_S = 10.0
_AMOUNT: TypeAdapter[int] = TypeAdapter(UsdAsNanos)
_NOTHING, _UNKNOWN = PurchaseEnd(outcome="nothing"), PurchaseEnd(outcome="unknown")


class Bought:
    """A purchase that may be paid for now."""

    def __init__(self, id: str) -> None:
        self.id = id
        """Of the purchase, the same in each attempt of an activity and each replay of a workflow: a seller that takes
        it as an idempotency key is paid once."""
        self.end: PurchaseEnd | None = None
        """What was said of it. None: nothing yet."""
        self.result: PurchaseResult | None = None
        """How it ended, after the block. None: the block has not ended, or not without an error."""

    def cost(self, usd: Decimal | str | int) -> None:
        """What it did cost, in US dollars: "0.012". More than `up_to` is posted all the same, and alerted.

        Raises ValidationError for what is no exact amount, PurchaseEnded where it was said before.
        """
        self._say(PurchaseEnd(outcome="paid", cost_nanos=_AMOUNT.validate_python(usd)))

    def nothing(self) -> None:
        """Nothing was bought, certainly: all that is held is free again. Raises PurchaseEnded."""
        self._say(_NOTHING)

    def _say(self, end: PurchaseEnd) -> None:
        if self.end is not None:
            raise PurchaseEnded(f"purchase {self.id}: what it did cost was said before; two fees are two purchases")
        self.end = end


class _Buying(Protocol):
    """The way of one purchase, from the buyer's side."""

    id: str

    async def begin(self) -> None:
        """Waits until it may be paid for. Raises PurchaseDenied and CallIdReused."""
        ...

    async def say(self, end: PurchaseEnd) -> None:
        """Raises PurchaseEnded where it is too late."""
        ...

    async def result(self) -> PurchaseResult:
        """Waits for the stored row and the settlement."""
        ...


class Purchase:
    """What `purchase` gives to `async with`."""

    def __init__(self, request: PurchaseRequest, client: Client | None) -> None:
        self._request, self._client = request, client
        self._buying: _Buying
        self._bought: Bought

    async def __aenter__(self) -> Bought:
        """Waits until the money is held. Raises PurchaseDenied, CallIdReused where Temporal has forgotten that it was
        paid for, and ValueError where a client is missing."""
        if workflow.in_workflow():
            self._buying = _OfWorkflow(in_current_run(self._request))
        else:
            self._buying = _OfClient(in_current_run(self._request), self._client or _client_of_activity())
        await self._buying.begin()
        self._bought = Bought(self._buying.id)
        return self._bought

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Says what it did cost. Raises PurchaseEnded where that is too late, and no error of the block is lost."""
        end = self._bought.end or _UNKNOWN
        if error is None:
            await self._buying.say(end)
            self._bought.result = await self._buying.result()
            return
        with suppress(PurchaseEnded, RPCError):
            await self._buying.say(end)


def purchase(
    budget: Budgets,
    *,
    up_to: Decimal | str | int,
    what: str,
    priority: int = 0,
    on_exhausted: Literal["wait", "fail"] | None = None,
    wait_at_most: timedelta | None = None,
    metadata: Mapping[str, str] | None = None,
    client: Client | None = None,
) -> Purchase:
    """A block in which something may be bought that costs `up_to` US dollars at most: they are held meanwhile.

    `what` names it in rows and reports, such as "web-search"; the other arguments are fields of LLMRequest. `client`
    None: in a workflow none is needed, and in an `async def` activity it is that of its worker.

    The block says `bought.cost("0.012")` or `bought.nothing()`. One that says neither, also because it failed or its
    worker died, may have paid: it stays charged at `up_to`, as unconfirmed, until somebody resolves it. An activity
    that is tried again buys again, under a hold of its own; when Temporal has forgotten what an earlier try paid for,
    it gets CallIdReused instead.

    Raises ValidationError for bad arguments.
    """
    request = PurchaseRequest(
        what=what,
        budget=budget,
        up_to_nanos=_AMOUNT.validate_python(up_to),
        priority=priority,
        on_exhausted=on_exhausted,
        wait_at_most=wait_at_most,
        metadata=dict(metadata or {}),
    )
    return Purchase(request, client)


# ------------------------------------------------------------ in a workflow


class _OfWorkflow:
    """A child workflow, which signals when it may be paid for."""

    def __init__(self, request: PurchaseRequest) -> None:
        self._request = request
        self.id = str(workflow.uuid4())
        self._child: workflow.ChildWorkflowHandle[object, RawValue] | None = None

    async def begin(self) -> None:
        workflow_id, granted = purchase_workflow_id(self.id, ledger_of_agent()), asyncio.Event()
        name = purchase_granted_signal(workflow_id)

        def on_granted() -> None:
            granted.set()

        workflow.set_signal_handler(name, on_granted)
        try:
            self._child = child = await self._started(workflow_id)
            await workflow.wait_condition(lambda: granted.is_set() or child.done())
        except asyncio.CancelledError:
            with suppress(PurchaseEnded):
                await self.say(_NOTHING)
            raise
        finally:
            workflow.set_signal_handler(name, None)
        if not granted.is_set():
            nothing = PurchaseResult(outcome=PurchaseOutcome.DENIED, reason="cancelled", detail="it was given up")
            raise _denied(self.id, await _denial(self) or nothing)

    async def _started(self, workflow_id: str) -> "workflow.ChildWorkflowHandle[object, RawValue]":
        await room_for_start(json_bytes(self._request))
        asker = asking_workflow().model_copy(update={"drawn": True})
        return await workflow.start_child_workflow(
            PURCHASE_WORKFLOW.name,
            from_asker(PURCHASE_WORKFLOW.takes(self._request), "", asker),
            id=workflow_id,
            task_queue=calls_task_queue(ledger_of_agent()),
            result_type=RawValue,
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
            static_summary=_summary(self._request),
        )

    async def say(self, end: PurchaseEnd) -> None:
        if self._child is None:
            return
        try:
            await self._child.signal(PURCHASE_END.name, as_raw(PURCHASE_END.takes(end)))
        except ApplicationError as error:
            raise await _too_late(self, end) from error

    async def result(self) -> PurchaseResult:
        assert self._child is not None
        try:  # shielded: what was said is true, also for a buyer that is cancelled now
            return read_raw(await asyncio.shield(self._child), PURCHASE_WORKFLOW.result)
        except ChildWorkflowError as error:
            raise PurchaseEnded(f"purchase {self.id} ended without a result: {error.cause}") from error


# ------------------------------------------------------------ anywhere else


_elsewhere = RepeatedRequests()


def _client_of_activity() -> Client:
    if not activity.in_activity():
        raise ValueError(
            "outside workflows and activities a purchase needs a client: "
            "purchase(…, client=await paymaster.client.connect())"
        )
    return activity.client()


class _OfClient:
    """A workflow that is started by a client, and found again by an activity that is tried again.

    What an earlier attempt has begun to pay for is ended as unconfirmed, and bought again as the next generation.
    """

    def __init__(self, request: PurchaseRequest, client: Client) -> None:
        self._request, self._client = request, client
        self._ledger = ledger_of_client(client)
        self._purchase = call_of(request, 0, _elsewhere)
        self.id = self._purchase.id
        self._handle = self._run_of(self.id)

    async def begin(self) -> None:
        generation = 1
        try:
            while not await self._is_granted(generation):
                generation += 1
        except asyncio.CancelledError:
            with suppress(TimeoutError, RPCError, PurchaseEnded):
                async with asyncio.timeout(_GIVES_UP_WITHIN_S):
                    if not await is_asked_again(self._client):
                        await self.say(_NOTHING)
            raise
        finally:
            self._purchase.end(failed=False)

    async def _is_granted(self, generation: int) -> bool:
        """False: that generation is over. Raises PurchaseDenied or CallIdReused where it is denied now."""
        is_awaited = await self._start(generation_id(self.id, generation))
        begin = PurchaseBegin(attempt=str(uuid4()))
        while (begun := await _asked(self._handle, PURCHASE_BEGIN, begin)) is not None and begun.state == "parked":
            is_awaited = True
            await _asked(self._handle, PURCHASE_TURN, None)
        if begun is not None and begun.state == "granted":
            return True
        if begun is not None and begun.state == "superseded":
            raise PurchaseEnded(f"purchase {self.id} is made by a later attempt of this activity")
        if begun is not None:
            with suppress(PurchaseEnded):  # by itself, meanwhile
                await self.say(_UNKNOWN)
        denial = await _denial(self)
        if denial is not None and is_awaited:
            raise _denied(self.id, denial)
        return False

    async def _start(self, generated_id: str) -> bool:
        """False: it was started before."""
        drawn = self._purchase.id_is_drawn
        asker = asking_client(self._client.namespace).model_copy(update={"drawn": drawn})
        try:
            started = await self._client.start_workflow(
                PURCHASE_WORKFLOW.name,
                from_asker(PURCHASE_WORKFLOW.takes(self._request), "", asker),
                id=purchase_workflow_id(generated_id, self._ledger),
                task_queue=calls_task_queue(self._ledger),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=_summary(self._request),
            )
        except WorkflowAlreadyStartedError as error:
            self._handle = self._run_of(generated_id, error.run_id)
            return False
        self._handle = self._run_of(generated_id, started.result_run_id)
        return True

    def _run_of(self, generated_id: str, run_id: str | None = None) -> WorkflowHandle[object, RawValue]:
        workflow_id = purchase_workflow_id(generated_id, self._ledger)
        return self._client.get_workflow_handle(workflow_id, run_id=run_id, result_type=RawValue)

    async def say(self, end: PurchaseEnd) -> None:
        try:
            await self._handle.signal(PURCHASE_END.name, as_raw(PURCHASE_END.takes(end)))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise await _too_late(self, end) from error

    async def result(self) -> PurchaseResult:
        try:
            return read_raw(await self._handle.result(), PURCHASE_WORKFLOW.result)
        except WorkflowFailureError as error:
            raise PurchaseEnded(f"purchase {self.id} ended without a result: {error.cause}") from error


async def _asked(
    handle: WorkflowHandle[object, RawValue], update: UpdateName[ArgumentT, ResultT], message: ArgumentT
) -> ResultT | None:
    """The answer to an update, however long it takes. None: the purchase has ended. Raises one of UPDATE_ERRORS."""
    update_id, pause_s = str(uuid4()), PAUSE_S
    while True:
        try:
            return await update_once(handle, update, message, within=_ASKS_FOR, update_id=update_id)
        except UPDATE_ERRORS as error:
            fate = fate_of(error)
            if fate is Fate.NO_LEDGER:
                return None
            if not fate.asks_again:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)


async def _denial(buying: _Buying) -> PurchaseResult | None:
    """How a purchase was denied that has ended. None: it was not."""
    try:
        result = await buying.result()
    except PurchaseEnded as error:
        return PurchaseResult(outcome=PurchaseOutcome.DENIED, reason="cancelled", detail=error.message)
    return result if result.outcome is PurchaseOutcome.DENIED else None


def _denied(purchase_id: str, result: PurchaseResult) -> PurchaseDenied | CallIdReused:
    if result.reason == CALL_ID_REUSED:
        return CallIdReused(purchase_id, result.detail)
    return PurchaseDenied(result)


async def _too_late(buying: _Buying, end: PurchaseEnd) -> PurchaseEnded:
    said = {"paid": f"it did cost {format_usd(end.cost_nanos)}", "nothing": "nothing was bought"}
    try:
        attempt = (await buying.result()).attempt_id
    except PurchaseEnded:
        attempt = None
    resolve = f"`paymaster unconfirmed resolve {attempt or 'ATTEMPT'} --cost USD`"
    what = said.get(end.outcome, "nobody knows what it did cost")
    return PurchaseEnded(f"purchase {buying.id} had ended before it was said that {what}: {resolve} books it")


def _summary(request: PurchaseRequest) -> str:
    return summary(f"{request.what} for {', '.join(request.budgets)}, up to {format_usd(request.up_to_nanos)}")
