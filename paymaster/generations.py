"""Generations of a call: it is asked for again under its id when it ended without an answer and unbilled.

Each is a workflow of its own, begun after the one before it has ended, so that two callers at once begin one together.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import cast

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from paymaster.asked_ledger import ledger_of_client
from paymaster.messages import LLMRequest, LLMResult, Outcome, call_id_of, call_workflow_id
from paymaster.messages.temporal_names import CALL_SERVICE, first_generation, generation_id, generation_of
from paymaster.security.payloads import as_raw, in_plain_text, read_raw


class CallHandle(WorkflowHandle[object, LLMResult]):
    """A handle whose result does not depend on the data converter of its client."""

    def __init__(self, client: Client, call_id: str, *, run_id: str | None = None) -> None:
        """`run_id` None: whichever run the workflow has."""
        super().__init__(
            client,
            call_workflow_id(call_id, ledger_of_client(client)),
            result_run_id=run_id,
            first_execution_run_id=run_id,
            result_type=RawValue,
        )

    async def result(
        self,
        *,
        follow_runs: bool = True,
        rpc_metadata: Mapping[str, str | bytes] | None = None,
        rpc_timeout: timedelta | None = None,
    ) -> LLMResult:
        answer = await super().result(follow_runs=follow_runs, rpc_metadata=rpc_metadata or {}, rpc_timeout=rpc_timeout)
        return read_raw(cast(RawValue, answer), LLMResult)

    async def unbilled_end(self) -> LLMResult | None:
        """Its result, where it ended without an answer and nothing was billed, or may have been: its call id is free.

        A call that was cancelled before anything was sent has none of its own: one that says so.
        """
        status = (await self.describe()).status
        if status is WorkflowExecutionStatus.CANCELED:
            return await self._end_unsent()
        result = await self.result() if status is WorkflowExecutionStatus.COMPLETED else None
        return result if result is not None and result.may_be_asked_again else None

    async def asked(self) -> LLMRequest:
        """What the call was started with."""
        async for event in self.fetch_history_events(page_size=1):
            return await self._request_in(event)
        raise AssertionError("a history begins with the start of its workflow")

    async def _request_in(self, started: HistoryEvent) -> LLMRequest:
        payloads = started.workflow_execution_started_event_attributes.input.payloads
        [message] = await self._client.data_converter.decode(payloads, [RawValue])
        return read_raw(cast(RawValue, message), LLMRequest)

    async def _end_unsent(self) -> LLMResult | None:
        """None where an attempt was begun, whether it came to anything or not."""
        digest = ""
        async for event in self.fetch_history_events():
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == CALL_SERVICE.name:
                return None
            if event.HasField("workflow_execution_started_event_attributes"):
                digest = (await self._request_in(event)).digest()
        return LLMResult(
            outcome=Outcome.UNAVAILABLE,
            call_id=call_id_of(self.id),
            reason="cancelled",
            detail="the call was cancelled before anything was sent",
            request_digest=digest,
        )


async def latest_generation(client: Client, call_id: str, *, known: int = 1) -> int:
    """The number of the newest one; `known` exists. Asks Temporal as often as that number has binary digits, twice."""
    found, absent = known, known + 1
    while await _exists(client, generation_id(call_id, absent)):
        found, absent = absent, 2 * absent
    while absent - found > 1:
        between = (found + absent) // 2
        if await _exists(client, generation_id(call_id, between)):
            found = between
        else:
            absent = between
    return found


async def newest_result(client: Client, generated_id: str, *, plain: bool = False) -> RawValue:
    """The result of the newest generation of the call that this one, which exists, belongs to.

    `plain`: whoever asks reads plain text only. Raises a non-retryable ApplicationError where it failed, or was
    cancelled when it had been sent: it stays so, however often it is asked.
    """
    call_id = first_generation(generated_id)
    known = generation_of(generated_id, call_id)
    newest = generation_id(call_id, await latest_generation(client, call_id, known=known))
    try:
        workflow_id = call_workflow_id(newest, ledger_of_client(client))
        return await client.get_workflow_handle(workflow_id, result_type=RawValue).result()
    except WorkflowFailureError as error:
        if (unsent := await CallHandle(client, newest).unbilled_end()) is not None:
            return in_plain_text(unsent) if plain else as_raw(unsent)
        ended = "was cancelled" if isinstance(error.cause, CancelledError) else f"failed: {error.cause}"
        detail = f"the call {newest!r} {ended}: ask under another call id"
        raise ApplicationError(detail, type="CallEnded", non_retryable=True) from error


async def _exists(client: Client, call_id: str) -> bool:
    try:
        await client.get_workflow_handle(call_workflow_id(call_id, ledger_of_client(client))).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
