"""Promise 6: a call that was parked in a ledger which is lost asks the one that begins anew."""

from datetime import timedelta
from uuid import uuid4

import pytest
from paymaster_process import new_namespace, until
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

from paymaster import LLMRequest, LLMResult
from paymaster.devstack import EmbeddedStack
from paymaster.messages import Denied, Parked, Reservation, ReserveRequest
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from workflows.llm_call import LLMCallWorkflow

HOUR_MS = 3_600_000


class LostLedger:
    """Its last answer, a parking, is still on the way to the call when the next ledger has begun and said so."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.asked: list[str] = []

    @activity.defn
    async def reserve(self, request: ReserveRequest) -> Reservation:
        self.asked.append(request.hold_id)
        if len(self.asked) > 1:
            return Reservation(answer=Denied(hold_id=request.hold_id, reason="asked_again", detail=""))
        await self._client.get_workflow_handle(request.call.workflow_id).signal("ledger_began")
        await until(lambda: self._is_told(request.call.workflow_id), "the call has seen the signal")
        deadline_at_ms = request.started_at_ms + HOUR_MS
        return Reservation(answer=Parked(hold_id=request.hold_id, deadline_at_ms=deadline_at_ms, detail="of the lost"))

    async def _is_told(self, workflow_id: str) -> bool:
        history = await self._client.get_workflow_handle(workflow_id).fetch_history()
        kinds = [event.event_type for event in history.events]
        signalled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        return signalled in kinds and EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED in kinds[kinds.index(signalled) :]


@pytest.mark.timeout(60)
async def test_a_recall_that_overtakes_the_lost_ledgers_answer_is_not_missed(stack: EmbeddedStack) -> None:
    client = await Client.connect(
        stack.temporal_address,
        namespace=await new_namespace(stack.temporal_address),
        plugins=[PaymasterPlugin(Settings())],
    )
    ledger = LostLedger(client)
    async with Worker(client, task_queue="recall", workflows=[LLMCallWorkflow], activities=[ledger.reserve]):
        result = await client.execute_workflow(
            "LLMCallWorkflow",
            LLMRequest(route="writer", budget="acme", prompt="Say hello"),
            id=f"call/{uuid4()}",
            task_queue="recall",
            result_type=LLMResult,
            task_timeout=timedelta(seconds=1),  # so that signals come while a local activity is under way
            execution_timeout=timedelta(seconds=20),
        )
    assert result.reason == "asked_again"
    assert ledger.asked == [ledger.asked[0]] * 2, "it asks under the same id, and keeps its place"
