"""LLMCallWorkflow: reserve → call → record and settle, falling back, until a service has answered or none is left."""

import asyncio
from datetime import timedelta
from functools import cached_property

from temporalio import exceptions, workflow
from temporalio.common import RawValue, RetryPolicy

from paymaster.calls.cost import cost_nanos
from paymaster.messages import (
    BAD_SAMPLE,
    CONTEXT_TOO_LONG,
    UNKNOWN_OUTCOME,
    BudgetNotice,
    CallRef,
    Candidate,
    Completion,
    CountRequest,
    Denied,
    Failure,
    Grant,
    LLMResult,
    Outcome,
    ReserveRequest,
    ServiceCall,
    Settled,
    TokenCount,
    UsageRecord,
    call_id_of,
)
from paymaster.messages.call_steps import RequestFacts
from paymaster.messages.temporal_names import (
    CALL_SERVICE,
    CALL_WORKFLOW,
    COUNT_TOKENS,
    MEASURE_REQUEST,
    NOT_WANTED,
)
from paymaster.observability.search_attributes import call_attributes
from paymaster.observability.temporal_ui import asked, state_of_call, summary
from paymaster.providers.bounds import facts_of
from paymaster.security.payloads import PLAIN, asker_of, for_reader, in_plain_text, storages_of
from workflows.call_failures import failure_of
from workflows.call_requests import request_of
from workflows.holds import Holds, duration_ms, ms_of, now_ms
from workflows.queues import activities_queue_here
from workflows.signals import tolerate_any_payload_count

UNAVAILABLE_REASONS = {"ledger_unreachable", "ledger_error", "breaker_open", "request_out_of_reach"}
"""Denials that are not about money or limits: services, the ledger or the database do not work."""
SEND_MARGIN = timedelta(seconds=10)
"""The HTTP timeout must come first: it knows whether anything was sent."""
STORING_MAX = timedelta(days=7)
"""How much longer an attempt may take whose answer is too large to be carried, while the database does not take it. An
attempt that hangs ends sooner: its heartbeats do."""
MEASURING_TIMEOUT = timedelta(minutes=5)
"""Also for the database to answer, and for workers to be done with other large requests."""
COUNTING_TIMEOUT = timedelta(seconds=30)
"""Also for a worker to take it: a call must not wait long for a smaller bound."""
COMPARED_BYTES_MAX = 1_000_000
"""Requests up to this size are compared with others of their run; for larger ones a workflow task has no time."""
HEARTBEAT_TIMEOUT = timedelta(seconds=20)
"""How long after its worker died an attempt is given up. With a beat every 8 s a worker that is only slow has 12 s."""


# Without a sandbox, here and in the ledger: it took two fifths of the worker's time. tests/e2e/test_sandbox.py has one.
@workflow.defn(name=CALL_WORKFLOW.name, sandboxed=False)
class LLMCallWorkflow:
    @workflow.init
    def __init__(self, message: RawValue) -> None:
        """Decodes the request here: the SDK fails the workflow's task for ever with one that it cannot decode."""
        info = workflow.info()
        self._request, self._denial = request_of(message)
        self._came_plain = PLAIN in message.payload.metadata
        self._storages = storages_of(message)
        self._asker = asker_of(message)
        root = info.root and CallRef(workflow_id=info.root.workflow_id, run_id=info.root.run_id)
        self._root = root or self._asker.workflow
        self._call = CallRef(workflow_id=info.workflow_id, run_id=info.run_id)
        self._holds = Holds(
            self._question,
            on_parked=lambda: self._make_findable("parked"),
            on_count_first=self._count_tokens,
        )
        self._sending: workflow.ActivityHandle[Completion] | None = None
        self._counting: workflow.ActivityHandle[TokenCount] | None = None
        self._counted: dict[str, int | None] = {}
        self._failed: list[str] = []
        self._too_long_for: list[str] = []
        self._last_failure: Failure | None = None
        self._unknown: dict[str, int] = {}
        self._paused: dict[str, int] = {}
        self._attempts = 0
        self._cost_nanos = 0
        self._budget: tuple[BudgetNotice, ...] = ()
        self._grant: Grant | None = None
        self._caller_gone = False

    @cached_property
    def _facts(self) -> RequestFacts:
        """Of a request that is here; of another `measure_request` says them. Kept, because to look at a long request
        takes a good part of the time that a workflow task may take."""
        return facts_of(self._request)

    @cached_property
    def _digest(self) -> str:
        in_run = self._root is not None or self._asker.run is not None or self._request.run is not None
        return self._request.digest() if in_run and self._facts.input_bytes <= COMPARED_BYTES_MAX else ""

    @workflow.run
    async def run(self, message: RawValue) -> RawValue:
        """`message` is an LLMRequest, the result an LLMResult: in plain text for whoever asks in plain text."""
        result = await self._result_of_call()
        return in_plain_text(result, self._storages) if self._came_plain else for_reader(result, self._storages)

    async def _result_of_call(self) -> LLMResult:
        # Who sends does not check everywhere what can be carried. Patched: such calls of 0.1.0 may be under way.
        if self._denial is not None and workflow.patched("deny-what-cannot-be-carried"):
            return self._denied(self._denial)
        try:
            denied = await self._measure()
            result = await self._to_its_end() if denied is None else self._denied(denied)
        except asyncio.CancelledError:
            if not self._caller_gone:
                self._make_findable("cancelled")
                raise
            result = self._result(Outcome.UNAVAILABLE, NOT_WANTED, "its caller had gone before anything was sent")
        self._make_findable(result.outcome)
        return result

    async def _measure(self) -> Denied | None:
        """Has a request looked at whose body is stored, before anything is reserved. Why it is denied; None: it is not.

        Not patched: a message of before has no such request.
        """
        if self._request.wire is None or self._request.wire.stored is None:
            return None
        try:
            measured = await workflow.execute_activity(
                MEASURE_REQUEST.name,
                MEASURE_REQUEST.takes(self._request),
                result_type=MEASURE_REQUEST.result,
                task_queue=activities_queue_here(),
                schedule_to_close_timeout=MEASURING_TIMEOUT,
                start_to_close_timeout=MEASURING_TIMEOUT / 2,
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
                summary=summary("what a large request may cost"),
            )
        except exceptions.ActivityError as error:
            if exceptions.is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            return Denied(hold_id="", reason="request_out_of_reach", detail=str(error.cause))
        if measured.facts is not None:
            self._facts = measured.facts
        return measured.denied

    async def _to_its_end(self) -> LLMResult:
        """Cancellation takes effect only where no money is at stake."""
        attempts = asyncio.create_task(self._run_attempts())
        try:
            return await asyncio.shield(attempts)
        except asyncio.CancelledError:
            await self._give_up()
            return await attempts

    async def _give_up(self) -> None:
        """Has nothing sent any more. What is sent already is waited for, since it is paid for."""
        self._holds.cancelled = True
        if self._sending is not None:
            # The SDK would drop an answer that came in this task: the condition is looked at when it has been
            # taken. Not patched: where one came, version 0.1.0 ended, so no such call is under way.
            await workflow.wait_condition(lambda: True)
        if self._sending is not None:
            self._sending.cancel()
        if self._counting is not None:
            self._counting.cancel()

    async def _run_attempts(self) -> LLMResult:
        while True:
            answer = await self._holds.reserve()
            if isinstance(answer, Denied):
                return self._denied(answer)
            if self._holds.is_withdrawn(answer.grant.hold_id):
                await self._holds.void(answer.grant.hold_id)
                continue
            self._grant = answer.grant
            ended = await self._send(answer.grant)
            await self._record(answer.grant, ended)
            if self._holds.cancelled and not (self._caller_gone and ended.attempts):
                raise asyncio.CancelledError
            if isinstance(ended, Completion):
                return self._completed(answer.grant, ended)
            if not ended.fall_back or self._caller_gone or ended.ends_call:
                return self._unavailable(ended)
            self._pass_over(answer.grant, ended)

    @workflow.signal
    @tolerate_any_payload_count
    def budget_answer(self, signal: RawValue) -> None:
        """The ledger ends a parking. Which hold it is about says the answer itself, so that twice is harmless."""
        self._holds.take_answer(signal)

    @workflow.signal
    @tolerate_any_payload_count
    def budget_withdrawn(self, signal: RawValue) -> None:
        """An admin takes a grant back. What was sent already is sent."""
        self._holds.take_withdrawal(signal)

    @workflow.signal
    async def caller_gone(self) -> None:
        """Nobody waits for the answer any more: what is not sent is given up, what is sent comes to its result, which
        is there for whoever asks again. A cancelled call has none."""
        self._caller_gone = True
        await self._give_up()

    @workflow.signal
    def ledger_began(self) -> None:
        """The ledger restarted from the stored entries and knows of no parked call: a parked one asks again."""
        self._holds.ledger_began()

    # ------------------------------------------------------------ reserve

    def _question(self, hold_id: str, asked_at_ms: int) -> ReserveRequest:
        request = self._request
        return ReserveRequest(
            hold_id=hold_id,
            call=self._call,
            route=request.route,
            budget=request.budgets[0],
            further_budgets=request.budgets[1:],
            **dict(self._facts),
            on_exhausted=request.on_exhausted,
            wait_at_most_ms=duration_ms(request.wait_at_most),
            started_at_ms=ms_of(workflow.info().start_time),
            asked_at_ms=asked_at_ms,
            priority=request.priority,
            excluded=tuple(self._failed),
            too_long_for=tuple(self._too_long_for),
            granted_before=self._grant is not None,
            counted=self._counted,
            # A call that has asked goes on, also if encryption is turned on meanwhile.
            plain=self._came_plain and not self._holds.asked,
            # What is paid for under this id from now on is this call's own.
            may_be_reused=not (self._asker.drawn or self._holds.asked),
            run=request.run or self._asker.run,
            root=None if request.run or self._asker.run else self._root,
            digest=self._digest,
            run_limits=request.run_limits,
            run_parts=request.run_parts,
        )

    async def _count_tokens(self, candidate: Candidate) -> None:
        """Once for a candidate, whatever comes of it: without a count the bound of the bytes stays."""
        name = f"{candidate.service}/{candidate.model}"
        if name in self._counted:
            return
        self._counting = workflow.start_activity(
            COUNT_TOKENS.name,
            COUNT_TOKENS.takes(CountRequest(request=self._request, candidate=candidate)),
            result_type=COUNT_TOKENS.result,
            task_queue=activities_queue_here(),
            schedule_to_close_timeout=COUNTING_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
            summary=summary(f"tokens for {name}"),
        )
        tokens: int | None = None
        try:
            tokens = (await self._counting).tokens
        except exceptions.ActivityError as error:
            workflow.logger.warning("the tokens were not counted: %s", error)
        finally:
            self._counting = None
        self._counted[name] = tokens

    # ------------------------------------------------------------ call

    async def _send(self, grant: Grant) -> Completion | Failure:
        """One activity under one hold: of its attempts at most one can be billed."""
        timeout = timedelta(milliseconds=grant.timeout_ms)
        self._sending = workflow.start_activity(
            CALL_SERVICE.name,
            CALL_SERVICE.takes(ServiceCall(grant=grant, request=self._request, storages=self._storages)),
            result_type=CALL_SERVICE.result,
            task_queue=activities_queue_here(),
            schedule_to_start_timeout=timedelta(milliseconds=grant.expires_at_ms - grant.granted_at_ms),
            start_to_close_timeout=timeout + SEND_MARGIN + STORING_MAX,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=grant.retry.initial_interval_ms),
                backoff_coefficient=grant.retry.backoff_coefficient,
                maximum_interval=timedelta(milliseconds=grant.retry.maximum_interval_ms),
                maximum_attempts=grant.retry.maximum_attempts,
                non_retryable_error_types=[
                    UNKNOWN_OUTCOME,
                    "TemporalTimeout:StartToClose",
                    "TemporalTimeout:Heartbeat",
                ],
            ),
            summary=summary(asked(grant)),
        )
        try:
            return await self._sending
        except exceptions.ActivityError as error:
            return failure_of(error, now_ms())
        finally:
            self._sending = None

    # ------------------------------------------------------------ record and settle

    async def _record(self, grant: Grant, ended: Completion | Failure) -> None:
        """Stores a row for each attempt and posts their cost, or has the backlog do it as soon as it is possible."""
        self._attempts += len(ended.attempts)
        self._cost_nanos += sum(cost_nanos(grant, attempt) for attempt in ended.attempts)
        settled = await self._holds.record(
            UsageRecord(
                call=self._call,
                grant=grant,
                attempts=ended.attempts,
                answered=isinstance(ended, Completion),
                metadata=self._request.metadata,
                dialect=None if self._request.wire is None else self._request.wire.dialect,
            )
        )
        self._budget = settled.notices if isinstance(settled, Settled) else ()

    def _pass_over(self, grant: Grant, failure: Failure) -> None:
        """The next reserve asks for another candidate; after an unknown outcome or a bad answer first for the same.

        One that is paused stays, as often as its service may be asked: the ledger chooses it when the pause is over.
        """
        self._last_failure = failure
        candidate = f"{grant.service}/{grant.model}"
        if failure.model_paused:
            self._paused[candidate] = self._paused.get(candidate, 0) + 1
            if self._paused[candidate] < grant.retry.maximum_attempts:
                return
        if failure.reason == CONTEXT_TOO_LONG:
            self._too_long_for.append(candidate)
        if failure.unknown or failure.reason == BAD_SAMPLE:
            self._unknown[grant.service] = self._unknown.get(grant.service, 0) + 1
            if self._unknown[grant.service] <= grant.max_unconfirmed:
                return
        self._failed.append(candidate)

    # ------------------------------------------------------------ what operators see

    def _make_findable(self, outcome: str) -> None:
        """One event, in the same task as what it tells of; none where the attributes are not registered."""
        if self._holds.findable:
            budget, cost, run = self._request.budgets[0], self._cost_nanos, self._holds.run
            workflow.upsert_search_attributes(call_attributes(budget, outcome, self._grant, cost, run))

    def live_details(self) -> str:
        """Where the call is now, for whoever looks at it in the Temporal UI."""
        sending = self._grant if self._sending else None
        return state_of_call(self._holds.parked, sending, self._attempts, self._cost_nanos, self._failed)

    # ------------------------------------------------------------ results

    def _completed(self, grant: Grant, completion: Completion) -> LLMResult:
        answered = completion.attempts[-1]
        result = self._result(Outcome.COMPLETED)
        return result.model_copy(
            update={
                "text": completion.text,
                "parsed": completion.parsed,
                "schema_problem": completion.schema_problem,
                "wire": completion.wire,
                "tool_calls": completion.tool_calls,
                "state": completion.state,
                "refused": completion.refused,
                "finish_reason": completion.finish_reason,
                "usage": answered.usage or result.usage,
                "service": grant.service,
                "model": answered.model_answered or grant.model,
                "fell_back": bool({*self._failed, *self._paused} - {f"{grant.service}/{grant.model}"}),
                "money_short": grant.money_short,
            }
        )

    def _denied(self, denied: Denied) -> LLMResult:
        if denied.reason == "no_candidate" and self._last_failure is not None:
            unavailable = self._unavailable(self._last_failure)
            return unavailable.model_copy(update={"detail": f"{unavailable.detail}; {denied.detail}"})
        self._budget = denied.in_the_way or self._budget
        outcome = Outcome.UNAVAILABLE if denied.reason in UNAVAILABLE_REASONS else Outcome.DENIED
        return self._result(outcome, denied.reason, denied.detail)

    def _unavailable(self, failure: Failure) -> LLMResult:
        result = self._result(Outcome.UNAVAILABLE, failure.reason, failure.detail)
        return result.model_copy(update={"wire": failure.wire})

    def _result(self, outcome: Outcome, reason: str | None = None, detail: str | None = None) -> LLMResult:
        return LLMResult(
            outcome=outcome,
            reason=reason,
            detail=detail,
            call_id=call_id_of(self._call.workflow_id),
            attempts=self._attempts,
            cost_nanos=self._cost_nanos,
            waited_ms=self._holds.waited_ms,
            budget=self._budget,
            request_digest=self._request.digest(),
        )
