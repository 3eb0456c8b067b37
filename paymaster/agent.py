"""What an agent's workflow calls: `await generate(LLMRequest(...))`."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import overload

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, WorkflowAlreadyStartedError, is_cancelled_exception

from paymaster.agent_starts import denial_in_agent, room_for_start, storages_of_agent
from paymaster.asked_ledger import ledger_of_agent
from paymaster.calls.structured_output import Output, answer_as
from paymaster.errors import AnswerGone, CallIdReused, completed_or_raise, not_reused_or_raise
from paymaster.messages import (
    Asker,
    LLMRequest,
    LLMResult,
    Standing,
    call_workflow_id,
    json_bytes,
)
from paymaster.messages.call_steps import BodyPiece
from paymaster.messages.temporal_names import (
    AWAIT_RESULT,
    CALL_WORKFLOW,
    READ_PIECE,
    STANDING,
    activities_task_queue,
    calls_task_queue,
    generation_id,
    generation_of,
)
from paymaster.observability.temporal_ui import call_details, call_summary
from paymaster.runs import asking_workflow, in_current_run
from paymaster.security.payloads import as_raw, for_reader, from_asker, read_raw
from paymaster.standing_request import ANSWERED_WITHIN, ASKED_FOR, RETRIES, standing_request, standing_unknown
from paymaster.stored_answers import pieces_of, whole


@overload
async def generate(request: LLMRequest) -> LLMResult: ...
@overload
async def generate(request: LLMRequest, output: type[Output]) -> Output: ...
async def generate(request: LLMRequest, output: type[Output] | None = None) -> LLMResult | Output:
    """The answer of a model, as a durable child workflow under the request's budget.

    With `output`, a pydantic model, the answer as one: its schema goes with the request, and an answer that does not
    fit is repaired once, by a call of its own.

    May take as long as the request may wait for money. Cancelling it leaves no hold behind. The same `call_id` again
    gives the stored result and costs nothing; a call that ended without an answer and unbilled, or was cancelled before
    anything was sent, is asked anew.

    Raises CallDenied (budget, limit, configuration), CallUnavailable (every allowed service failed), CallIdReused, and
    with `output` OutputInvalid.
    """
    if output is not None:
        return await answer_as(output, request, generate)
    return completed_or_raise(await try_generate(request))


async def try_generate(request: LLMRequest) -> LLMResult:
    """Like `generate`, but returns denied and failed calls instead of raising: `outcome`, `reason`, `detail` say why.

    Raises only CallIdReused, and RuntimeError outside of workflows.
    """
    if not workflow.in_workflow():
        raise RuntimeError(
            "paymaster.generate works in workflows; elsewhere, also in an activity, it is paymaster.client.generate, "
            "which takes a client too"
        )
    if denied := denial_in_agent(request):
        return denied
    asker = asking_workflow().model_copy(update={"drawn": request.call_id is None})
    call_id = request.call_id or str(workflow.uuid4())
    request = in_current_run(request).model_copy(update={"call_id": call_id})
    generated_id = call_id
    while True:
        try:
            return not_reused_or_raise(await _answer_of_child(request, generated_id, asker))
        except WorkflowAlreadyStartedError:
            result = await _answer_of_other(generated_id)
        if not_reused_or_raise(result).request_digest != request.digest():
            raise CallIdReused(call_id)
        # Patched: version 0.1.0 gave such a call back as it had ended.
        if not result.may_be_asked_again or not workflow.patched("generations-of-calls"):
            return result
        generated_id = generation_id(call_id, generation_of(result.call_id, call_id) + 1)


async def _answer_of_child(request: LLMRequest, generated_id: str, asker: Asker) -> LLMResult:
    """Raises WorkflowAlreadyStartedError when there is such a call already."""
    await room_for_start(json_bytes(request))
    ledger = ledger_of_agent()
    answer = await workflow.execute_child_workflow(
        CALL_WORKFLOW.name,
        from_asker(CALL_WORKFLOW.takes(request), storages_of_agent(), asker),
        id=call_workflow_id(generated_id, ledger),
        task_queue=calls_task_queue(ledger),
        result_type=RawValue,
        # An agent that ends lets a call that is being paid for finish its bookkeeping.
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        static_summary=call_summary(request),
        static_details=call_details(request),
    )
    return read_raw(answer, CALL_WORKFLOW.result)


async def _answer_of_other(call_id: str) -> LLMResult:
    """The result of the call's newest generation, which somebody else started."""
    answer = await workflow.execute_activity(
        AWAIT_RESULT.name,
        for_reader(AWAIT_RESULT.takes(call_id), storages_of_agent()),
        task_queue=activities_task_queue(ledger_of_agent()),
        result_type=RawValue,
        start_to_close_timeout=timedelta(days=366),
        heartbeat_timeout=timedelta(seconds=30),
    )
    return read_raw(answer, AWAIT_RESULT.result)


async def standing(budget: str | Sequence[str], *, run: str | None = None) -> Standing:
    """What is left of a budget, or of several that a call would count for, and of those above them, now; with `run`,
    also of the limits of that run, once it has made a call.

    Costs this workflow an activity; after a call `result.standing` says it without one. Raises StandingUnknown for a
    budget that does not exist, and where no ledger answers within two minutes.
    """
    try:
        answer = await workflow.execute_activity(
            STANDING.name,
            as_raw(STANDING.takes(standing_request(budget, run))),
            task_queue=activities_task_queue(ledger_of_agent()),
            result_type=RawValue,
            start_to_close_timeout=ANSWERED_WITHIN,
            schedule_to_close_timeout=ASKED_FOR,
            retry_policy=RETRIES,
        )
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        raise standing_unknown(error.cause) from error
    return read_raw(answer, STANDING.result)


async def read_answer(result: LLMResult) -> bytes:
    """The answer to a wire call as the provider wrote it, also when it was too large to be in the result.

    A stored answer comes in pieces, by an activity for each megabyte that it has compressed; they are in this
    workflow's history then. Raises AnswerGone when it is not stored any more, which is when Temporal has deleted the
    call's workflow, and ValueError for a result without the bytes of a provider.
    """
    return await whole(answer_pieces(result))


def answer_pieces(result: LLMResult) -> AsyncIterator[bytes]:
    """Like `read_answer`, but piece by piece, for a workflow that does not want to hold all of it."""
    return pieces_of(result, _read_piece)


async def _read_piece(piece: BodyPiece) -> bytes:
    try:
        answer = await workflow.execute_activity(
            READ_PIECE.name,
            as_raw(READ_PIECE.takes(piece)),
            task_queue=activities_task_queue(ledger_of_agent()),
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        )
    except ActivityError as error:
        raise AnswerGone(str(error.cause)) from error
    return read_raw(answer, READ_PIECE.result)
