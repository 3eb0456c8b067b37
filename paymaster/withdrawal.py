"""Calls that somebody outside a workflow waits for: one that nobody wants any more is cancelled."""

import asyncio
from contextlib import suppress

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

import paymaster.client
from paymaster.errors import CallDenied, CallIdReused, not_reused_or_raise
from paymaster.messages import LLMRequest, LLMResult

_CANCEL_WITHIN_S = 10.0


async def result_while_wanted(
    client: Client, request: LLMRequest, *, keeps: bool, id_is_drawn: bool = False
) -> LLMResult:
    """The result of a call with this id, which is cancelled when this is.

    One with an id that the caller chose goes on (`keeps`), as it does when only this worker ends: whoever asks again
    finds it. `id_is_drawn`: at random, for this request. Raises CallIdReused.
    """
    starting = asyncio.ensure_future(paymaster.client.start(client, request, id_is_drawn=id_is_drawn))
    try:
        result = await (await asyncio.shield(starting)).result()
    except CallDenied as error:
        return error.result
    except asyncio.CancelledError:
        with suppress(TimeoutError, RPCError, RuntimeError, CallDenied, CallIdReused):
            async with asyncio.timeout(_CANCEL_WITHIN_S):
                if not keeps and not await is_asked_again(client):
                    await (await starting).cancel()  # also when only its start was under way
        raise
    if not_reused_or_raise(result).request_digest != request.digest():
        raise CallIdReused(request.call_id or "")
    return result


async def is_asked_again(client: Client) -> bool:
    """Whether the activity that is cancelled is to be tried again, as when only its worker or its time ends."""
    details = activity.cancellation_details() if activity.in_activity() else None
    if details is None or details.cancel_requested:
        return False
    info = activity.info()
    if not details.not_found or info.workflow_id is None:
        return True
    # Temporal knows no such attempt any more: it timed out and there is a newer one, or its workflow has ended.
    asker = client.get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    return (await asker.describe()).status is WorkflowExecutionStatus.RUNNING
