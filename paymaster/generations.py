"""Generations of a call: it is asked for again under its id when it ended without an answer and unbilled.

Each is a workflow of its own, begun after the one before it has ended, so that two callers at once begin one together.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import cast

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode

from paymaster.messages import LLMResult, call_workflow_id
from paymaster.messages.temporal_names import first_generation, generation_id, generation_of
from paymaster.security.payloads import read_raw


class CallHandle(WorkflowHandle[object, LLMResult]):
    """A handle whose result does not depend on the data converter of its client."""

    def __init__(self, client: Client, call_id: str, *, run_id: str | None = None) -> None:
        """`run_id` None: whichever run the workflow has."""
        super().__init__(
            client,
            call_workflow_id(call_id),
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

    async def result_if_completed(self) -> LLMResult | None:
        """None while it runs, and when it was cancelled, terminated or failed."""
        completed = (await self.describe()).status is WorkflowExecutionStatus.COMPLETED
        return await self.result() if completed else None


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


async def newest_id(client: Client, generated_id: str) -> str:
    """The id of the newest generation of the call that this one, which exists, belongs to."""
    call_id = first_generation(generated_id)
    known = generation_of(generated_id, call_id)
    return generation_id(call_id, await latest_generation(client, call_id, known=known))


async def _exists(client: Client, call_id: str) -> bool:
    try:
        await client.get_workflow_handle(call_workflow_id(call_id)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
