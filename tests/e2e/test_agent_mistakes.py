"""A mistake in an agent's request fails the agent, in words; its task is not tried again for ever."""

import pytest
from paymaster_process import new_namespace
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from paymaster import LLMRequest
from paymaster.devstack import EmbeddedStack
from paymaster.plugin import PaymasterPlugin
from paymaster.settings import Settings

pytestmark = pytest.mark.timeout(30)


@workflow.defn(sandboxed=False)
class Mistaken:
    @workflow.run
    async def run(self, effort: str) -> str:
        request = LLMRequest.model_validate({"route": "r", "budget": "b", "prompt": "p", "reasoning_effort": effort})
        return request.reasoning_effort or ""


async def test_a_request_that_is_none_fails_its_agent(stack: EmbeddedStack) -> None:
    client = await Client.connect(
        stack.temporal_address,
        namespace=await new_namespace(stack.temporal_address),
        plugins=[PaymasterPlugin(Settings.model_validate({"services": {}, "routes": {}}))],
    )
    async with Worker(client, task_queue="agents", workflows=[Mistaken]):
        assert await client.execute_workflow(Mistaken.run, "xhigh", id="right", task_queue="agents") == "xhigh"
        with pytest.raises(WorkflowFailureError) as failure:
            await client.execute_workflow(Mistaken.run, "harder", id="wrong", task_queue="agents")
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "ValidationError"
    assert "reasoning_effort" in str(failure.value.cause)
