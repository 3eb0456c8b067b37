"""generate: a call for a caller of another namespace, under the budget of the endpoint that it came through."""

from collections.abc import Mapping
from typing import cast

import nexusrpc
from nexusrpc.handler import OperationHandler, operation_handler, service_handler
from pydantic import ValidationError
from temporalio import nexus
from temporalio.client import Client
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from paymaster.calls.request_limits import denial_of
from paymaster.errors import CallIdReused
from paymaster.keys.api_key import KeyUnavailable
from paymaster.messages import CALLS_TASK_QUEUE, EndpointRequest, LLMRequest, call_workflow_id
from paymaster.messages.temporal_names import CALL_WORKFLOW, NEXUS_SERVICE
from paymaster.observability.temporal_ui import call_details, call_summary
from paymaster.security.payloads import PLAIN, as_raw, in_plain_text, read_raw
from paymaster.settings.tables import EndpointSettings
from paymaster.values.budget_path import is_within
from paymaster.values.cut import cut
from paymaster.values.limits import DETAIL_BYTES_MAX


@nexusrpc.service(name=NEXUS_SERVICE)
class _Service:
    """`paymaster.nexus.PaymasterService`, with messages that are read here, where what is wrong can be said."""

    generate: nexusrpc.Operation[RawValue, RawValue]


@service_handler(service=_Service)
class PaymasterServiceHandler:
    def __init__(self, endpoints: Mapping[str, EndpointSettings]) -> None:
        """By their names, which Temporal gives with each request."""
        self._endpoints = endpoints

    @operation_handler
    def generate(self) -> OperationHandler[RawValue, RawValue]:
        return GenerateOperation(self._endpoints)


class GenerateOperation(nexus.TemporalOperationHandler[RawValue, RawValue]):
    """Starts the call's workflow, whose result Temporal brings to the caller: an LLMResult, also of a denied call.

    What no call can be made of is an error that is not tried again: BAD_REQUEST, UNAUTHORIZED for a budget or a route
    that the endpoint does not give, CONFLICT for a call id that was used for something else.
    """

    def __init__(self, endpoints: Mapping[str, EndpointSettings]) -> None:
        self._endpoints = endpoints

    async def start_operation(
        self, ctx: nexus.TemporalStartOperationContext, client: nexus.TemporalNexusClient, input: RawValue
    ) -> nexus.TemporalOperationResult[RawValue]:
        """A call id counts within its endpoint. Without one it is the id of the operation's request, which Temporal
        repeats when it asks again: one operation is one call."""
        endpoint = nexus.info().endpoint
        request = _through(endpoint, self._endpoints, _request_of(input))
        call_id = f"{endpoint}/{request.call_id or ctx.request_id}"
        is_plain = PLAIN in input.payload.metadata
        if denied := denial_of(request):
            denied = denied.model_copy(update={"call_id": call_id})
            return nexus.TemporalOperationResult[RawValue].sync(in_plain_text(denied) if is_plain else as_raw(denied))
        message = in_plain_text(request) if is_plain else as_raw(request)
        try:
            return await _start(client, request, message, call_id, WorkflowIDConflictPolicy.FAIL)
        except WorkflowAlreadyStartedError:
            if await _digest_of(client.client, call_id) != request.digest():
                raise _error("CONFLICT", CallIdReused(request.call_id or "").message) from None
        try:
            return await _start(client, request, message, call_id, WorkflowIDConflictPolicy.USE_EXISTING)
        except WorkflowAlreadyStartedError:  # it has ended
            handle = client.client.get_workflow_handle(call_workflow_id(call_id), result_type=RawValue)
            return nexus.TemporalOperationResult[RawValue].sync(cast(RawValue, await handle.result()))

    async def cancel_workflow_run(
        self, ctx: nexus.TemporalCancelOperationContext, options: nexus.CancelWorkflowRunOptions
    ) -> None:
        """Cancels the call. Whoever asks over HTTP writes the operation's token, so only calls of its endpoint."""
        if not options.workflow_id.startswith(call_workflow_id(f"{nexus.info().endpoint}/")):
            raise _error("NOT_FOUND", "this endpoint has no such call")
        await super().cancel_workflow_run(ctx, options)


def _request_of(message: RawValue) -> EndpointRequest:
    try:
        found = cast(object, read_raw(message, EndpointRequest))
        if isinstance(found, EndpointRequest):
            return found
        problems = f"{type(found).__name__} instead of JSON"
    except KeyUnavailable as error:  # tried again until a worker has the key
        raise nexusrpc.HandlerError(
            str(error), type=nexusrpc.HandlerErrorType.INTERNAL, retryable_override=True
        ) from None
    except ValidationError as error:
        # Without what was sent: the error is readable where the request may have been encrypted.
        told = error.errors(include_url=False, include_input=False, include_context=False)[:10]
        problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the request'}: {each['msg']}" for each in told)
    except Exception as error:  # converters raise whatever they like
        problems = str(error)
    raise _error("BAD_REQUEST", f"not an LLMRequest: {problems}")


def _through(endpoint: str, endpoints: Mapping[str, EndpointSettings], request: EndpointRequest) -> LLMRequest:
    """The request with its budget, when the endpoint gives it."""
    if not endpoint:
        raise _error(
            "UNAUTHORIZED",
            "this request came through no Nexus endpoint that Temporal names, so it has no budget: ask through one, "
            "and by Temporal Server 1.30 or newer",
        )
    settings = endpoints.get(endpoint)
    if settings is None:
        raise _error("UNAUTHORIZED", f"Paymaster has no endpoint {endpoint!r}: add [nexus.endpoints.{endpoint}]")
    if request.budget and not is_within(request.budget, settings.budget):
        raise _error(
            "UNAUTHORIZED",
            f"the endpoint {endpoint!r} gives the budget {settings.budget!r} and those below it, not "
            f"{request.budget!r}: name one of these, or none",
        )
    if settings.routes is not None and request.route not in settings.routes:
        raise _error(
            "UNAUTHORIZED",
            f"the endpoint {endpoint!r} gives the routes {', '.join(settings.routes)}, not {request.route!r}",
        )
    return request.model_copy(update={"budget": request.budget or settings.budget})


async def _start(
    client: nexus.TemporalNexusClient,
    request: LLMRequest,
    message: RawValue,
    call_id: str,
    conflict: WorkflowIDConflictPolicy,
) -> nexus.TemporalOperationResult[RawValue]:
    """Raises WorkflowAlreadyStartedError where there is a call with this id; with USE_EXISTING only where it ended."""
    return await client.start_workflow(
        CALL_WORKFLOW.name,
        message,
        id=call_workflow_id(call_id),
        task_queue=CALLS_TASK_QUEUE,
        result_type=RawValue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=conflict,
        static_summary=call_summary(request),
        static_details=call_details(request),
    )


async def _digest_of(client: Client, call_id: str) -> str | None:
    """Of the request that the call with this id began with; None when there is none any more."""
    handle = client.get_workflow_handle(call_workflow_id(call_id))
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [message] = await client.data_converter.decode(payloads, [RawValue])
        return read_raw(message, LLMRequest).digest()
    return None


def _error(kind: str, words: str) -> nexusrpc.HandlerError:
    return nexusrpc.HandlerError(
        cut(words, DETAIL_BYTES_MAX), type=nexusrpc.HandlerErrorType[kind], retryable_override=False
    )
