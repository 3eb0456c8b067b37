"""The embedded Temporal comes back at the same address with its workflows, and takes the settings that it is given."""

import socket
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest
from temporalio.client import Client

from paymaster.devstack import EmbeddedStack, StackError

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack(
        postgres=False,
        model=False,
        temporal_on_disk=True,
        dynamic_config={"limit.historyCount.suggestContinueAsNew": 1},
        search_attributes={"Tenant": "Keyword"},
    ) as stack:
        yield stack


async def start_workflow(stack: EmbeddedStack) -> str:
    """Starts a workflow that no worker will run and returns its id."""
    client = await Client.connect(stack.temporal_address)
    handle = await client.start_workflow("Nothing", id=str(uuid.uuid4()), task_queue="nobody")
    return handle.id


async def has_workflow(stack: EmbeddedStack, workflow_id: str) -> bool:
    client = await Client.connect(stack.temporal_address)
    return (await client.get_workflow_handle(workflow_id).describe()).id == workflow_id


async def test_workflows_survive_stop_and_start_at_the_same_address(stack: EmbeddedStack) -> None:
    address, workflow_id = stack.temporal_address, await start_workflow(stack)
    await stack.temporal.stop()
    with pytest.raises(RuntimeError):
        await Client.connect(address)
    await stack.temporal.start()
    assert stack.temporal_address == address
    assert await has_workflow(stack, workflow_id)


async def test_workflows_survive_sigkill_of_the_server(stack: EmbeddedStack) -> None:
    workflow_id = await start_workflow(stack)
    stack.temporal.process.kill()
    await stack.temporal.process.wait()
    await stack.temporal.start()
    assert await has_workflow(stack, workflow_id)


async def test_search_attributes_are_registered(stack: EmbeddedStack) -> None:
    client = await Client.connect(stack.temporal_address)
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    assert "Tenant" in listed.custom_attributes


async def test_dynamic_configuration_reaches_the_server(stack: EmbeddedStack) -> None:
    """With the limit at one event, the first workflow task already suggests to continue as new."""
    client = await Client.connect(stack.temporal_address)
    await client.start_workflow("Nothing", id=str(uuid.uuid4()), task_queue="polled")
    queue = TaskQueue(name="polled")
    task = await client.workflow_service.poll_workflow_task_queue(
        PollWorkflowTaskQueueRequest(namespace="default", task_queue=queue, identity="test")
    )
    (started,) = (e for e in task.history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    assert started.workflow_task_started_event_attributes.suggest_continue_as_new


async def test_a_wanted_port_is_used_and_headless_has_no_web_ui() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with EmbeddedStack(postgres=False, model=False, temporal_port=port, headless=True) as stack:
        assert stack.temporal_address == f"127.0.0.1:{port}"
        assert stack.temporal_ui_url is None
        assert await has_workflow(stack, await start_workflow(stack))


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {port} on 127.0.0.1 is in use"):
            await EmbeddedStack(postgres=False, model=False, temporal_port=port, headless=True).start()


async def test_a_server_that_dies_at_start_shows_the_end_of_its_log() -> None:
    stack = EmbeddedStack(postgres=False, model=False, search_attributes={"Tenant": "NoSuchType"})
    with pytest.raises(StackError, match=r"(?s)Temporal died at start.*NoSuchType"):
        await stack.start()
