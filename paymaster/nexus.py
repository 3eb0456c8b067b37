"""Paymaster from another namespace: what a workflow calls there, `await generate(LLMRequest(...), endpoint="content")`.

The endpoint leads to Paymaster's namespace, and has a budget that Paymaster's configuration gives it.
"""

from collections.abc import AsyncIterator
from functools import partial
from typing import overload

import nexusrpc
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import NexusOperationError

from paymaster.agent_starts import place_for_operation, room_for_start
from paymaster.calls.request_limits import denial_of
from paymaster.calls.structured_output import Output, answer_as
from paymaster.errors import AnswerGone, completed_or_raise
from paymaster.messages import BodyPiece, EndpointRequest, LLMRequest, LLMResult, json_bytes
from paymaster.messages.temporal_names import GENERATE_OPERATION, NEXUS_SERVICE, READ_PIECE_OPERATION
from paymaster.observability.temporal_ui import call_summary
from paymaster.runs import asking_from_elsewhere, in_current_run
from paymaster.security.payloads import as_raw, from_asker, read_raw
from paymaster.stored_answers import pieces_of, whole

__all__ = ["EndpointRequest", "PaymasterService", "answer_pieces", "generate", "read_answer", "try_generate"]


@nexusrpc.service(name=NEXUS_SERVICE)
class PaymasterService:
    """The Nexus service that Paymaster's workers serve, for `workflow.create_nexus_client`.

    The client's data converter has to be one for Pydantic's models; `generate` and `try_generate` work with any.
    """

    generate: nexusrpc.Operation[LLMRequest, LLMResult]
    """A call, whose result comes back whatever its outcome. The request may be an EndpointRequest or a wire call."""
    read_piece: nexusrpc.Operation[BodyPiece, bytes]
    """A piece, compressed, of an answer that is too large for Temporal (`LLMResult.wire.stored`)."""


@overload
async def generate(request: LLMRequest, *, endpoint: str) -> LLMResult: ...
@overload
async def generate(request: LLMRequest, output: type[Output], *, endpoint: str) -> Output: ...
async def generate(request: LLMRequest, output: type[Output] | None = None, *, endpoint: str) -> LLMResult | Output:
    """The answer of a model, as `paymaster.generate` gives it, through a Nexus endpoint.

    Raises CallDenied (budget, limit, configuration), CallUnavailable (every allowed service failed), with `output`
    OutputInvalid, and NexusOperationError for what Paymaster takes for no request of this endpoint.
    """
    if output is not None:
        return await answer_as(output, request, partial(generate, endpoint=endpoint))
    return completed_or_raise(await try_generate(request, endpoint=endpoint))


async def try_generate(request: LLMRequest, *, endpoint: str) -> LLMResult:
    """Like `generate`, but returns denied and failed calls instead of raising. Raises only NexusOperationError.

    Of one workflow 25 are under way at once, because Temporal lets it have 30 Nexus operations; others wait for these.
    """
    if denied := denial_of(request):
        return denied
    request = in_current_run(request)
    paymaster = workflow.create_nexus_client(service=NEXUS_SERVICE, endpoint=endpoint)
    async with place_for_operation():
        await room_for_start(json_bytes(request))
        asked = from_asker(request, "", asking_from_elsewhere())
        answer = await paymaster.execute_operation(
            GENERATE_OPERATION, asked, output_type=RawValue, summary=call_summary(request)
        )
    return read_raw(answer, LLMResult)


async def read_answer(result: LLMResult, *, endpoint: str) -> bytes:
    """The answer to a wire call as the provider wrote it, also when it was too large to be in the result.

    A stored answer comes in pieces, by an operation for each megabyte that it has compressed; they are in this
    workflow's history then. Raises AnswerGone when it is not stored any more, which is when Temporal has deleted the
    call's workflow, and ValueError for a result without the bytes of a provider.
    """
    return await whole(answer_pieces(result, endpoint=endpoint))


def answer_pieces(result: LLMResult, *, endpoint: str) -> AsyncIterator[bytes]:
    """Like `read_answer`, but piece by piece, for a workflow that does not want to hold all of it."""
    return pieces_of(result, partial(_read_piece, endpoint))


async def _read_piece(endpoint: str, piece: BodyPiece) -> bytes:
    paymaster = workflow.create_nexus_client(service=NEXUS_SERVICE, endpoint=endpoint)
    try:
        async with place_for_operation():
            answer = await paymaster.execute_operation(READ_PIECE_OPERATION, as_raw(piece), output_type=RawValue)
    except NexusOperationError as error:
        if isinstance(error.cause, nexusrpc.HandlerError) and error.cause.type is nexusrpc.HandlerErrorType.NOT_FOUND:
            raise AnswerGone(error.cause.message) from error
        raise
    return read_raw(answer, bytes)
