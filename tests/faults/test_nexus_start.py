"""A worker that is killed while it starts a call for another namespace: one call, one bill."""

from pathlib import Path

import pytest
from counting_server import CountingServer
from nexus_agents import Asks
from nexus_callers import CALLERS_TASK_QUEUE, callers_of, make_endpoint
from paymaster_process import Databases, configuration, running_site, settled_books, until
from stored_rows import entries_of_call

from paymaster.devstack import EmbeddedStack
from paymaster.messages import EndpointRequest

WORKER = Path(__file__).with_name("worker_that_dies_starting.py")


@pytest.mark.timeout(120)
async def test_a_start_that_is_asked_again_is_one_call(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> None:
    service = server.service("started")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    tables |= {"nexus": {"endpoints": {"started": {"budget": "acme"}}}}
    database = await databases.create()
    async with (
        running_site(stack.temporal_address, database, tmp_path, tables, workers=0) as site,
        callers_of(site) as callers,
    ):
        await make_endpoint(site, "started")
        [dying] = await site.start_workers(program=[WORKER])
        asked = await callers.start_workflow(
            Asks.run,
            args=["started", EndpointRequest(route="started", prompt="Tides?")],
            id="asks",
            task_queue=CALLERS_TASK_QUEUE,
        )
        await until(lambda: dying.process.poll() is not None, "the worker is killed")
        await site.start_workers()
        result = await asked.result()
        assert (result.text, service.count) == ("answer to Tides?", 1)
        assert len(await entries_of_call(site.engine, result.call_id)) == 1
        assert [call.id async for call in site.client.list_workflows("WorkflowType = 'LLMCallWorkflow'")] == [
            f"call/{result.call_id}"
        ]
        await settled_books(site, service)
