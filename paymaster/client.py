"""Paymaster from outside a workflow: connecting, and calls; `Ledger` is what admins and operators ask."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import cache, partial
from typing import overload
from uuid import uuid4

from temporalio.client import (
    Client,
    Plugin,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import RawValue, WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ActivityError, WorkflowAlreadyStartedError
from temporalio.runtime import Runtime, TelemetryConfig

from paymaster.asked_ledger import ledger_of_client
from paymaster.calls.request_limits import denial_of
from paymaster.calls.structured_output import Output, answer_as
from paymaster.errors import AnswerGone, CallDenied, CallIdReused, completed_or_raise, not_reused_or_raise
from paymaster.generations import CallHandle, latest_generation
from paymaster.ledger.backlog_sender import Backlog as Backlog
from paymaster.ledger.handle import Ledger
from paymaster.messages import LLMRequest, LLMResult, Standing, call_workflow_id
from paymaster.messages.call_steps import BodyPiece, InputCount
from paymaster.messages.temporal_names import (
    ANSWER_PIECE_WORKFLOW,
    CALL_WORKFLOW,
    INPUT_COUNT_WORKFLOW,
    STANDING_WORKFLOW,
    ResultT,
    calls_task_queue,
    generation_id,
)
from paymaster.observability.temporal_ui import call_details, call_summary
from paymaster.plugin import PaymasterPlugin
from paymaster.redaction import remember
from paymaster.runs import asking_client, in_current_run
from paymaster.security.payloads import as_raw, from_asker, read_raw
from paymaster.security.team_storage import storage_names
from paymaster.settings import Settings
from paymaster.standing_request import ASKED_FOR, standing_request, standing_unknown
from paymaster.stored_answers import pieces_of, whole
from paymaster.values.limits import REQUEST_BYTES_MAX, STORED_REQUEST_BYTES_MAX
from paymaster.waiting import log_why_it_waits

__all__ = [
    "Ledger",
    "ResultT",
    "answer_pieces",
    "connect",
    "generate",
    "input_count",
    "quiet_runtime",
    "read_answer",
    "standing",
    "start",
    "try_generate",
]

_LONG_BYTES = 256 * 1024
"""Of a wire call's body, which is looked at in a thread from here on: it takes 30 ms for a megabyte."""
COUNTED_WITHIN = timedelta(seconds=45)


async def connect(
    settings: Settings | None = None,
    *,
    ledger: str | None = None,
    plugins: Sequence[Plugin] = (),
    runtime: Runtime | None = None,
) -> Client:
    """A client of the Temporal that the standard environment configuration names (temporal.toml, TEMPORAL_ADDRESS, …).

    Without one: localhost:7233. `settings` and `ledger` as for `PaymasterPlugin`; `plugins` come after it; `runtime`
    None: the process's default one. Raises RuntimeError when Temporal can't be reached, KeyUnavailable without a key
    for the payloads' encryption, ConfigurationError for what is no ledger's name.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    if "api_key" in config:
        remember(config["api_key"])
    return await Client.connect(**config, plugins=[PaymasterPlugin(settings, ledger=ledger), *plugins], runtime=runtime)


@cache
def quiet_runtime() -> Runtime:
    """For programs that talk to people: the SDK's own part, in Rust, would write raw lines to their terminal."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


@overload
async def generate(client: Client, request: LLMRequest) -> LLMResult: ...
@overload
async def generate(client: Client, request: LLMRequest, output: type[Output]) -> Output: ...
async def generate(client: Client, request: LLMRequest, output: type[Output] | None = None) -> LLMResult | Output:
    """The answer of a model, or with `output`, a pydantic model, the answer as one, repaired once if need be.

    Raises CallDenied, CallUnavailable, CallIdReused and OutputInvalid, like `paymaster.generate`.
    """
    if output is not None:
        return await answer_as(output, request, partial(generate, client))
    return completed_or_raise(await try_generate(client, request))


async def try_generate(client: Client, request: LLMRequest, *, quiet: bool = False) -> LLMResult:
    """Like `generate`, but returns denied and failed calls instead of raising. Raises only CallIdReused.

    While the call waits, the logger `paymaster.waiting` warns that no worker is there, or says why it is parked and
    until when; unless it is to be `quiet`.
    """
    try:
        handle = await start(client, request)
    except CallDenied as error:
        return error.result
    told = None if quiet else asyncio.create_task(log_why_it_waits(client, handle))
    try:
        result = await handle.result()
    finally:
        if told is not None:
            told.cancel()
    if request.call_id is not None and not_reused_or_raise(result).request_digest != request.digest():
        raise CallIdReused(request.call_id)
    return result


async def start(client: Client, request: LLMRequest, *, id_is_drawn: bool = False) -> WorkflowHandle[object, LLMResult]:
    """Starts a call and does not wait for it; a call id that was used before gives that call.

    A call that ended without an answer and unbilled, or was cancelled before anything was sent, is asked anew: it gives
    its next generation. A call whose id was used by one that was paid for, and that Temporal has forgotten, ends as
    denied, with the reason `call_id_reused`: the stored rows are looked at for it, unless it has no id yet, or one that
    was drawn at random for this request (`id_is_drawn`).

    Raises CallDenied for a request that no message can carry: `request_too_long` or `not_text`; CallIdReused where such
    a call asked for something else, or ended for that reason.
    """
    storages = ",".join(storage_names(client.data_converter))
    bytes_max = STORED_REQUEST_BYTES_MAX if storages else REQUEST_BYTES_MAX
    is_long = request.wire is not None and len(request.wire.body) > _LONG_BYTES
    if denied := await asyncio.to_thread(denial_of, request, bytes_max) if is_long else denial_of(request, bytes_max):
        raise CallDenied(denied)
    drawn = id_is_drawn or request.call_id is None
    asker = asking_client(client.namespace).model_copy(update={"drawn": drawn})
    call_id = request.call_id or str(uuid4())
    request = in_current_run(request).model_copy(update={"call_id": call_id})
    ledger, generation = ledger_of_client(client), 1
    while True:
        generated_id = generation_id(call_id, generation)
        try:
            started = await client.start_workflow(
                CALL_WORKFLOW.name,
                from_asker(CALL_WORKFLOW.takes(request), storages, asker),
                id=call_workflow_id(generated_id, ledger),
                task_queue=calls_task_queue(ledger),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=call_summary(request),
                static_details=call_details(request),
            )
            return CallHandle(client, generated_id, run_id=started.result_run_id)
        except WorkflowAlreadyStartedError:
            generation = await latest_generation(client, call_id, known=generation)
        handle = CallHandle(client, generation_id(call_id, generation))
        unbilled = await handle.unbilled_end()
        if unbilled is None:
            return handle
        if not_reused_or_raise(unbilled).request_digest != request.digest():
            raise CallIdReused(call_id)
        generation += 1


async def standing(client: Client, budget: str | Sequence[str], *, run: str | None = None) -> Standing:
    """What is left of a budget, or of several that a call would count for, and of those above them, now; with `run`,
    also of the limits of that run, once it has made a call.

    Asks by a workflow of its own, so that a program needs neither the ledger's keys nor its database. Raises
    StandingUnknown for a budget that does not exist, and where no ledger answers within two minutes.
    """
    try:
        answer = await client.execute_workflow(
            STANDING_WORKFLOW.name,
            as_raw(STANDING_WORKFLOW.takes(standing_request(budget, run))),
            id=f"standing/{uuid4()}",
            task_queue=calls_task_queue(ledger_of_client(client)),
            result_type=RawValue,
            execution_timeout=2 * ASKED_FOR,
            static_summary="what is left of a budget",
        )
    except WorkflowFailureError as error:
        raise standing_unknown(error.cause) from error
    return read_raw(answer, STANDING_WORKFLOW.result)


async def input_count(client: Client, request: LLMRequest) -> InputCount:
    """How many tokens the input of a request has, by the tokenizer or the free counter of the first candidate of its
    route that has one. It costs nothing and needs no budget.

    Raises CallDenied for a request that no message can carry, WorkflowFailureError where no worker answers.
    """
    if denied := denial_of(request, REQUEST_BYTES_MAX):
        raise CallDenied(denied)
    answer = await client.execute_workflow(
        INPUT_COUNT_WORKFLOW.name,
        as_raw(INPUT_COUNT_WORKFLOW.takes(request)),
        id=f"count/{uuid4()}",
        task_queue=calls_task_queue(ledger_of_client(client)),
        result_type=RawValue,
        execution_timeout=COUNTED_WITHIN,
        static_summary="how many tokens a request has",
    )
    return read_raw(answer, INPUT_COUNT_WORKFLOW.result)


async def read_answer(client: Client, result: LLMResult) -> bytes:
    """The answer to a wire call as the provider wrote it, also when it was too large to be in the result.

    Raises AnswerGone when it is not stored any more, which is when Temporal has deleted the call's workflow, and
    ValueError for a result without the bytes of a provider.
    """
    return await whole(answer_pieces(client, result))


def answer_pieces(client: Client, result: LLMResult) -> AsyncIterator[bytes]:
    """Like `read_answer`, but piece by piece."""
    return pieces_of(result, partial(_read_piece, client))


async def _read_piece(client: Client, piece: BodyPiece) -> bytes:
    try:
        answer = await client.execute_workflow(
            ANSWER_PIECE_WORKFLOW.name,
            as_raw(ANSWER_PIECE_WORKFLOW.takes(piece)),
            id=f"answer/{uuid4()}",
            task_queue=calls_task_queue(ledger_of_client(client)),
            result_type=RawValue,
            static_summary=f"piece {piece.piece + 1} of {piece.body.pieces} of a stored answer",
        )
    except WorkflowFailureError as error:
        cause = error.cause
        raise AnswerGone(str(cause.cause if isinstance(cause, ActivityError) else cause)) from error
    return read_raw(answer, ANSWER_PIECE_WORKFLOW.result)
