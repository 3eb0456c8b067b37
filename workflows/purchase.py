"""PurchaseWorkflow: reserve → the buyer pays → record and settle what it says, or the most that it can have paid."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from paymaster.calls.purchases import attempt_of
from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import CallRef, Denied, Grant, ReserveRequest, Settled, UsageRecord
from paymaster.messages.purchases import (
    PurchaseBegin,
    PurchaseBegun,
    PurchaseEnd,
    PurchaseOutcome,
    PurchaseRequest,
    PurchaseResult,
)
from paymaster.messages.temporal_names import (
    PURCHASE_BEGIN,
    PURCHASE_END,
    PURCHASE_TURN,
    PURCHASE_WORKFLOW,
    purchase_granted_signal,
)
from paymaster.observability.search_attributes import call_attributes
from paymaster.observability.temporal_ui import state_of_call
from paymaster.security.payloads import PLAIN, as_raw, asker_of, in_plain_text
from workflows.holds import Holds, duration_ms, ms_of, now_ms
from workflows.signals import decoded, message_of, tolerate_any_payload_count
from workflows.updates import with_one_message

LATE_FOR = timedelta(days=1)
"""How long after its hold has expired the cost of a purchase may still be told."""
_SOONER = 20
"""A purchase is taken for unconfirmed by a twentieth of its hold's time before the ledger would do that."""
_NO_REQUEST = PurchaseRequest(what="-", budget="-", up_to_nanos=1)
"""Stands in for a message that cannot be read as a request."""
_FROM_PARENT = "its parent"
"""The attempt of a workflow that has started the purchase, and pays at most once."""
_UNKNOWN = PurchaseEnd(outcome="unknown")


@workflow.defn(name=PURCHASE_WORKFLOW.name, sandboxed=False)
class PurchaseWorkflow:
    """Its buyer is the workflow that has started it, or a program that asks by updates whether it may pay."""

    @workflow.init
    def __init__(self, message: RawValue) -> None:
        info = workflow.info()
        self._request, self._denial = _request_of(message)
        self._came_plain = PLAIN in message.payload.metadata
        self._asker = asker_of(message)
        root = info.root and CallRef(workflow_id=info.root.workflow_id, run_id=info.root.run_id)
        self._root = root or self._asker.workflow
        self._call = CallRef(workflow_id=info.workflow_id, run_id=info.run_id)
        self._holds = Holds(self._question, on_parked=lambda: self._make_findable("parked"))
        self._grant: Grant | None = None
        self._attempts: list[str] = []
        """In the order in which they came."""
        self._taken_by = ""
        self._begun_at_ms = 0
        self._end: PurchaseEnd | None = None
        self._cancelled = False
        self._cost_nanos = 0
        self._over = False

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is a PurchaseRequest, the result a PurchaseResult: in plain text for whoever asks in plain text."""
        buying = asyncio.create_task(self._buy())
        try:
            result = await asyncio.shield(buying)
        except asyncio.CancelledError:
            self._cancelled = self._holds.cancelled = True
            result = await buying
        self._over = True
        self._make_findable(result.outcome)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._cancelled and self._end is None:
            raise asyncio.CancelledError
        return self._for_buyer(result)

    async def _buy(self) -> PurchaseResult:
        """Cancellation takes effect only where no money is at stake."""
        if self._denial is not None:
            return PurchaseResult(outcome=PurchaseOutcome.DENIED, reason="bad_request", detail=self._denial)
        try:
            answer = await self._holds.reserve()
        except asyncio.CancelledError:  # nobody wants it any more
            return self._result(PurchaseOutcome.NOTHING)
        if isinstance(answer, Denied):
            return self._denied(answer)
        self._grant, self._begun_at_ms = answer.grant, now_ms()
        end = await self._end_in_time(answer.grant)
        if not self._taken_by:
            await self._holds.void(answer.grant.hold_id)
            return self._result(PurchaseOutcome.NOTHING)
        if end is not None or self._cancelled:
            return await self._record(answer.grant, end or _UNKNOWN)
        return await self._end_late(answer.grant)

    # ------------------------------------------------------------ the buyer

    async def _end_in_time(self, grant: Grant) -> PurchaseEnd | None:
        """What the buyer says while the hold lasts. None: nothing, or nobody took it."""
        if workflow.info().parent is not None and not await self._parent_knows():
            return None
        lasts_ms = grant.expires_at_ms - grant.granted_at_ms
        return await self._told(timedelta(milliseconds=lasts_ms - lasts_ms // _SOONER))

    async def _end_late(self, grant: Grant) -> PurchaseResult:
        """Unconfirmed at once, and then as the buyer says after all."""
        result = await self._record(grant, _UNKNOWN)
        end = await self._told(LATE_FOR)
        return result if end is None or end.outcome == "unknown" else await self._record(grant, end)

    async def _told(self, within: timedelta) -> PurchaseEnd | None:
        try:
            await workflow.wait_condition(
                lambda: self._end is not None or self._cancelled,
                timeout=within,
                timeout_summary="its buyer has the grant, and says what it did cost",
            )
        except TimeoutError:
            return None
        return self._end

    async def _parent_knows(self) -> bool:
        """Tells the workflow that has started the purchase that it may pay. False: that run is over."""
        parent = workflow.info().parent
        assert parent is not None
        self._taken_by = _FROM_PARENT  # before it is told: the answer may come first
        handle = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        try:
            await handle.signal(purchase_granted_signal(self._call.workflow_id))
        except ApplicationError:
            self._taken_by = ""
            return False
        return True

    @workflow.update(name=PURCHASE_BEGIN.name)
    @with_one_message
    async def begin(self, asked: PurchaseBegin) -> RawValue:
        """Whether this attempt may pay now: the answer, once given, is the same for it whenever it asks again."""
        if asked.attempt not in self._attempts:
            self._attempts.append(asked.attempt)
        await workflow.wait_condition(lambda: self._grant is not None or self._holds.parked is not None or self._over)
        return self._for_buyer(self._begun(asked.attempt))

    def _begun(self, attempt: str) -> PurchaseBegun:
        if attempt != self._attempts[-1] and attempt != self._taken_by:
            return PurchaseBegun(state="superseded")
        if self._holds.parked is not None:
            return PurchaseBegun(state="parked")
        if self._taken_by not in ("", attempt) or self._end is not None or self._over:
            return PurchaseBegun(state="taken")
        self._taken_by = attempt
        return PurchaseBegun(state="granted")

    @workflow.update(name=PURCHASE_TURN.name)
    async def turn(self, *_: object) -> RawValue:
        """Answered when the purchase is parked no more."""
        await workflow.wait_condition(lambda: self._grant is not None or self._over)
        return self._for_buyer(None)

    @workflow.signal(name=PURCHASE_END.name)
    @tolerate_any_payload_count
    def purchase_end(self, signal: RawValue) -> None:
        """What the buyer says of it. The first word counts."""
        end = message_of(signal, PurchaseEnd)
        if end is None or self._end is not None:
            return
        self._end = end
        if self._grant is None:  # it is given up while it is parked
            self._holds.cancelled = True

    # ------------------------------------------------------------ the ledger

    @workflow.signal
    @tolerate_any_payload_count
    def budget_answer(self, signal: RawValue) -> None:
        """The ledger ends a parking. Which hold it is about says the answer itself, so that twice is harmless."""
        self._holds.take_answer(signal)

    @workflow.signal
    def ledger_began(self) -> None:
        """The ledger restarted from the stored entries and knows of no parked call: a parked one asks again."""
        self._holds.ledger_began()

    def _question(self, hold_id: str, asked_at_ms: int) -> ReserveRequest:
        request = self._request
        return ReserveRequest(
            hold_id=hold_id,
            call=self._call,
            route=request.what,
            budget=request.budgets[0],
            further_budgets=request.budgets[1:],
            input_bytes=0,
            max_output_tokens=None,
            up_to_nanos=request.up_to_nanos,
            on_exhausted=request.on_exhausted,
            wait_at_most_ms=duration_ms(request.wait_at_most),
            started_at_ms=ms_of(workflow.info().start_time),
            asked_at_ms=asked_at_ms,
            priority=request.priority,
            # A purchase that has asked goes on, also if encryption is turned on meanwhile.
            plain=self._came_plain and not self._holds.asked,
            # What is paid for under this id from now on is this purchase's own.
            may_be_reused=not (self._asker.drawn or self._holds.asked),
            run=request.run or self._asker.run,
            root=None if request.run or self._asker.run else self._root,
            run_limits=request.run_limits,
            run_parts=request.run_parts,
        )

    async def _record(self, grant: Grant, end: PurchaseEnd) -> PurchaseResult:
        """Stores the row and posts the cost. One that is stored as unconfirmed may be stored again as it ended."""
        attempt = attempt_of(end, self._begun_at_ms, now_ms())
        settled = await self._holds.record(
            UsageRecord(
                call=self._call,
                grant=grant,
                attempts=(attempt,),
                answered=end.outcome == "paid",
                metadata=self._request.metadata,
            )
        )
        outcomes = {
            "paid": (PurchaseOutcome.PAID, end.cost_nanos),
            "nothing": (PurchaseOutcome.NOTHING, 0),
            "unknown": (PurchaseOutcome.UNCONFIRMED, grant.bound_nanos),
        }
        outcome, self._cost_nanos = outcomes[end.outcome]
        notices = settled.notices if isinstance(settled, Settled) else ()
        update = {"attempt_id": f"{grant.hold_id}/{attempt.number}", "budget": notices}
        return self._result(outcome).model_copy(update=update)

    # ------------------------------------------------------------ what operators and buyers see

    def _make_findable(self, outcome: str) -> None:
        if self._holds.findable:
            workflow.upsert_search_attributes(
                call_attributes(self._request.budgets[0], outcome, self._grant, self._cost_nanos, self._holds.run)
            )

    def live_details(self) -> str:
        """Where the purchase is now, for whoever looks at it in the Temporal UI."""
        waiting = None if self._over else self._grant
        return state_of_call(self._holds.parked, waiting, int(self._grant is not None), self._cost_nanos, ())

    def _denied(self, denied: Denied) -> PurchaseResult:
        result = self._result(PurchaseOutcome.DENIED)
        update = {"reason": denied.reason, "detail": denied.detail, "budget": denied.in_the_way}
        return result.model_copy(update=update)

    def _result(self, outcome: PurchaseOutcome) -> PurchaseResult:
        return PurchaseResult(outcome=outcome, cost_nanos=self._cost_nanos, waited_ms=self._holds.waited_ms)

    def _for_buyer(self, message: object) -> RawValue:
        return in_plain_text(message) if self._came_plain else as_raw(message)


def _request_of(message: RawValue) -> tuple[PurchaseRequest, str | None]:
    """The request, and what is wrong with it; an empty one in place of what is no request.

    Raises KeyUnavailable: the task is tried again until a worker has the key.
    """
    try:
        return decoded(message, PurchaseRequest), None
    except KeyUnavailable:
        raise
    except Exception as error:  # converters raise whatever they like
        return _NO_REQUEST, str(error)[:1_000].encode(errors="backslashreplace").decode()
