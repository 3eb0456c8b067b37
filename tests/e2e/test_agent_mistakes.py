"""What an agent may do wrong does not stick it: a request that is none fails it, many large ones start in turn."""

import asyncio
from collections import Counter

import pytest
from paymaster_process import new_namespace
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, Worker

from paymaster import LLMRequest, generate
from paymaster.devstack import EmbeddedStack
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings
from paymaster.testing import ScriptedCall, completed, scripted_calls

pytestmark = pytest.mark.timeout(30)


SETTINGS = Settings.model_validate({"services": {}, "routes": {}})


async def client_of(stack: EmbeddedStack) -> Client:
    namespace = await new_namespace(stack.temporal_address)
    return await Client.connect(stack.temporal_address, namespace=namespace, plugins=[PaymasterPlugin(SETTINGS)])


@workflow.defn(sandboxed=False)
class Mistaken:
    @workflow.run
    async def run(self, effort: str) -> str:
        request = LLMRequest.model_validate({"route": "r", "budget": "b", "prompt": "p", "reasoning_effort": effort})
        return request.reasoning_effort or ""


@workflow.defn(sandboxed=False)
class Many:
    @workflow.run
    async def run(self, calls: int, size: int) -> list[str]:
        requests = [LLMRequest(route="r", budget="b", prompt=f"{number:03}" + "x" * size) for number in range(calls)]
        results = await asyncio.gather(*(generate(request) for request in requests))
        return [result.text for result in results]


@pytest.mark.parametrize(("calls", "size", "tasks"), [(12, 400_000, 2), (40, 10_000, 1), (3, 1_800_000, 3)])
async def test_large_requests_of_one_step_start_in_turn(
    stack: EmbeddedStack, calls: int, size: int, tasks: int
) -> None:
    """Server 1.32 ends a workflow whose task gives more than 4 MiB, older ones leave it running for ever."""
    client = await client_of(stack)

    def says_which(request: LLMRequest) -> ScriptedCall:
        return completed((request.prompt or "")[:3])

    async with scripted_calls(client, says_which), Worker(client, task_queue="agents", workflows=[Many]):
        handle = await client.start_workflow(Many.run, args=[calls, size], id="many", task_queue="agents")
        assert await handle.result() == [f"{number:03}" for number in range(calls)]
        history = await handle.fetch_history()
    kind = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
    started = Counter(
        event.start_child_workflow_execution_initiated_event_attributes.workflow_task_completed_event_id
        for event in history.events
        if event.event_type == kind
    )
    assert (sum(started.values()), len(started)) == (calls, tasks)
    await Replayer(workflows=[Many], plugins=[PaymasterPlugin(SETTINGS)]).replay_workflow(history)


async def test_a_request_that_is_none_fails_its_agent(stack: EmbeddedStack) -> None:
    client = await client_of(stack)
    async with Worker(client, task_queue="agents", workflows=[Mistaken]):
        assert await client.execute_workflow(Mistaken.run, "xhigh", id="right", task_queue="agents") == "xhigh"
        with pytest.raises(WorkflowFailureError) as failure:
            await client.execute_workflow(Mistaken.run, "harder", id="wrong", task_queue="agents")
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "ValidationError"
    assert "reasoning_effort" in str(failure.value.cause)
