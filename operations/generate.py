"""generate: a call for a caller of another namespace, under the budget of the endpoint that it came through."""

from typing import cast

from temporalio import nexus
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import CancelledError, WorkflowAlreadyStartedError

from operations.endpoints import Endpoints, asked_through, message_of, refusal
from paymaster.calls.request_limits import denial_of
from paymaster.errors import CallIdReused
from paymaster.generations import CallHandle, latest_generation
from paymaster.messages import Asker, EndpointRequest, LLMRequest, call_workflow_id
from paymaster.messages.temporal_names import CALL_WORKFLOW, calls_task_queue, generation_id, ledger_of_task_queue
from paymaster.observability.temporal_ui import call_details, call_summary
from paymaster.security.payloads import PLAIN, as_raw, asker_of, from_asker, in_plain_text, read_raw
from paymaster.settings.tables import EndpointSettings
from paymaster.values.budget_path import is_within
from paymaster.values.run_path import check_run_path

_ENDPOINT_CHARACTERS, _RUN_CHARACTERS = 56, 100
"""Of the id of a run that nobody named: together as long as in Paymaster's own namespace."""


class GenerateOperation(nexus.TemporalOperationHandler[RawValue, RawValue]):
    """Starts the call's workflow, whose result Temporal brings to the caller: an LLMResult, also of a denied call.

    What no call can be made of is an error that is not tried again: BAD_REQUEST, UNAUTHORIZED for a budget or a route
    that the endpoint does not give, CONFLICT for a call id that was used for something else.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def start_operation(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, input: RawValue
    ) -> nexus.TemporalOperationResult[RawValue]:
        """A call id counts within its endpoint. Without one it is the id of the operation's request, which Temporal
        repeats when it asks again: one operation is one call."""
        endpoint, settings = asked_through(self._endpoints)
        request = _through(endpoint, settings, message_of(input, EndpointRequest))
        call_id = f"{endpoint}/{request.call_id or ctx.request_id}"
        is_plain = PLAIN in input.payload.metadata
        if denied := denial_of(request):
            denied = denied.model_copy(update={"call_id": call_id})
            return nexus.TemporalOperationResult[RawValue].sync(in_plain_text(denied) if is_plain else as_raw(denied))
        asker = _asker(endpoint, asker_of(input))
        message = in_plain_text(request, asker=asker) if is_plain else from_asker(request, "", asker)
        generation = 1
        while True:
            generated_id = generation_id(call_id, generation)
            try:
                return await _start(client, request, message, generated_id, WorkflowIDConflictPolicy.FAIL)
            except WorkflowAlreadyStartedError:
                generation = await latest_generation(client.client, call_id, known=generation)
            generated_id = generation_id(call_id, generation)
            if await _digest_of(client.client, generated_id) != request.digest():
                raise refusal("CONFLICT", CallIdReused(request.call_id or "").message)
            if await CallHandle(client.client, generated_id).unbilled_end() is None:
                return await _attach(client, request, message, generated_id)
            generation += 1

    async def cancel_workflow_run(
        self, ctx: nexus.TemporalCancelOperationContext, options: nexus.CancelWorkflowRunOptions
    ) -> None:
        """Cancels the call. Whoever asks over HTTP writes the operation's token, so only calls of its endpoint."""
        of_endpoint = call_workflow_id(f"{nexus.info().endpoint}/", _ledger())
        if not options.workflow_id.startswith(of_endpoint):
            raise refusal("NOT_FOUND", "this endpoint has no such call")
        await super().cancel_workflow_run(ctx, options)


def _through(endpoint: str, settings: EndpointSettings, request: EndpointRequest) -> LLMRequest:
    """The request with its budget, when the endpoint gives it."""
    other = next((budget for budget in request.budgets if budget and not is_within(budget, settings.budget)), None)
    if other is not None:
        raise refusal(
            "UNAUTHORIZED",
            f"the endpoint {endpoint!r} gives the budget {settings.budget!r} and those below it, not "
            f"{other!r}: name one of these, or none",
        )
    if settings.routes is not None and request.route not in settings.routes:
        raise refusal(
            "UNAUTHORIZED",
            f"the endpoint {endpoint!r} gives the routes {', '.join(settings.routes)}, not {request.route!r}",
        )
    run = request.run and f"{endpoint}:{request.run}"
    try:
        check_run_path("/".join((run or "-", *(part.name for part in request.run_parts))))
    except ValueError as error:
        raise refusal("BAD_REQUEST", str(error)) from None
    return request.model_copy(update={"budget": request.budget or settings.budget, "run": run})


def _ledger() -> str:
    """Whose queue the operation came through."""
    return ledger_of_task_queue(nexus.info().task_queue)


def _asker(endpoint: str, said: Asker) -> Asker:
    """A run counts within its endpoint, as a call id does, and an id of whatever length is one."""
    return Asker(run=said.run and f"{endpoint[:_ENDPOINT_CHARACTERS]}:{said.run[-_RUN_CHARACTERS:]}")


async def _start(
    client: nexus.TemporalNexusClient,
    request: LLMRequest,
    message: RawValue,
    call_id: str,
    conflict: WorkflowIDConflictPolicy,
) -> nexus.TemporalOperationResult[RawValue]:
    """Raises WorkflowAlreadyStartedError where there is a call with this id; with USE_EXISTING only where it ended."""
    ledger = _ledger()
    return await client.start_workflow(
        CALL_WORKFLOW.name,
        message,
        id=call_workflow_id(call_id, ledger),
        task_queue=calls_task_queue(ledger),
        result_type=RawValue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=conflict,
        static_summary=call_summary(request),
        static_details=call_details(request),
    )


async def _attach(
    client: nexus.TemporalNexusClient, request: LLMRequest, message: RawValue, call_id: str
) -> nexus.TemporalOperationResult[RawValue]:
    """The result of a call that was started before: now, or when it has ended."""
    try:
        return await _start(client, request, message, call_id, WorkflowIDConflictPolicy.USE_EXISTING)
    except WorkflowAlreadyStartedError:
        return nexus.TemporalOperationResult[RawValue].sync(await _result_of(client.client, call_id))


async def _result_of(client: Client, call_id: str) -> RawValue:
    """An LLMResult of the call with this id, which has ended. Raises HandlerError when it has none."""
    handle = client.get_workflow_handle(call_workflow_id(call_id, _ledger()), result_type=RawValue)
    try:
        return cast(RawValue, await handle.result())
    except WorkflowFailureError as error:
        ended = "was cancelled" if isinstance(error.cause, CancelledError) else "ended without a result"
        raise refusal("CONFLICT", f"the call {call_id!r} {ended}: ask under another call id") from None


async def _digest_of(client: Client, call_id: str) -> str | None:
    """Of the request that the call with this id began with; None when there is none any more."""
    handle = client.get_workflow_handle(call_workflow_id(call_id, _ledger()))
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [message] = await client.data_converter.decode(payloads, [RawValue])
        return read_raw(message, LLMRequest).digest()
    return None
