"""An agent that repeats one call is held at the configured number, and let go on or ended by a command."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from run_agents import WORKFLOWS, Looper
from temporalio.client import Client
from temporalio.worker import Worker

import paymaster
from paymaster.devstack import EmbeddedStack

pytestmark = pytest.mark.timeout(120)
QUEUE = "loopers"
MAY = 3


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service("looped")


@pytest.fixture
async def site(stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "1"}, "runaway": {"identical_calls": MAY}}},
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:
        yield site


async def test_an_agent_in_a_loop_is_held_and_ended_by_the_command_in_the_alert(
    site: Site, service: FakeService
) -> None:
    agents = await Client.connect(site.temporal_address, namespace=site.namespace)
    async with Worker(agents, task_queue=QUEUE, workflows=WORKFLOWS, workflow_runner=paymaster.sandbox()):
        loop = await agents.start_workflow(
            Looper.run, args=[20, "writer", "acme/agents"], id=f"loop-{uuid4()}", task_queue=QUEUE
        )
        run = f"{loop.id}@{loop.first_execution_run_id}"

        async def held() -> bool:
            return any(each.run is not None and each.run.held for each in (await site.ledger.status()).accounts)

        await until(held, "the call that would be one too many is parked")
        assert service.count == MAY
        shown = await site.document("runs", "show", run)
        assert (shown["calls"], shown["held"]) == (MAY, "it has asked 3 times for the same thing")

        # What the alert says, word for word but for the reason.
        resumed = await site.command("runs", "resume", run, "--reason", "it was meant to")
        assert resumed.code == 0, resumed
        assert resumed.output == f"{run} goes on, with no cap, {MAY} calls, no end\n"
        await until(lambda: service.count == 2 * MAY, "it goes on, for as many calls again")
        await until(held, "and is held again")
        ended = await site.command("runs", "end", run, "--reason", "it loops")
        assert ended.code == 0, ended
        assert await loop.result() == 2 * MAY, "the call that waited is denied"
    assert service.count == 2 * MAY
    await settled_books(site, service)
    told = await site.alerts("runaway")
    assert len(told) == 2
    assert all(f"`paymaster runs end {run}`" in alert["text"] for alert in told)
