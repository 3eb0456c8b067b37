"""SDKs, frameworks and Temporal's own plugins, when a worker is killed (SIGKILL) while the provider has a request."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import agents_in_flight
import pytest
from agents_in_flight import AGENTS, READY
from counting_server import CountingServer, FakeService
from paymaster_process import MODEL, PRICE, ROOT, Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy import select
from temporalio.client import WorkflowHandle

from paymaster.devstack import EmbeddedStack
from paymaster.devstack.process import GuardedProcess
from paymaster.messages import UsageEntry
from paymaster.storage.usage_rows import entry_of, usage_table

pytestmark = pytest.mark.timeout(180)
Handles = Mapping[str, WorkflowHandle[Any, Any]]


class End(NamedTuple):
    """What became of an agent."""

    result: Any
    sent: int
    """Requests that its provider got."""
    rows: list[UsageEntry]


class Killed(NamedTuple):
    """Whose worker was killed, "calls" or "agents", and the ends of the agents by their names."""

    whose: str
    ends: Mapping[str, End]


@asynccontextmanager
async def agents_running(site: Site, log_file: Path) -> AsyncGenerator[GuardedProcess]:
    """The agents' worker process, which takes work."""
    command = [sys.executable, agents_in_flight.__file__, site.temporal_address, site.namespace]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    async with GuardedProcess(command, env={**site.environment, "PYTHONPATH": path}, log_file=log_file) as process:
        await until(lambda: READY in log_file.read_text(), "the agents' workers are ready", 90)
        yield process


async def last_request_held(name: str, service: FakeService) -> None:
    """Of an agent; its requests before that one are answered."""
    for number, _ in enumerate(AGENTS[name].replies, 1):
        await until(lambda: service.held, f"the provider has request {number} of {name}", 60)
        if number < len(AGENTS[name].replies):
            service.release(1)


async def kill_the_calls_worker(site: Site, services: Mapping[str, FakeService]) -> None:
    """What was in flight is asked once more, by the next one."""
    await site.workers[0].kill()
    await site.start_workers()
    await until(
        lambda: all(service.held >= 2 for service in services.values()), "each last request is sent once more", 60
    )


async def is_tried_again(agent: WorkflowHandle[Any, Any]) -> bool:
    pending = (await agent.describe()).raw_description.pending_activities
    return any(activity.attempt > 1 for activity in pending)


async def activities_tried_again(handles: Handles) -> None:
    """They join the calls that are in flight."""

    async def all_are() -> bool:
        asking = [handle for name, handle in handles.items() if AGENTS[name].by_activity]
        return all([await is_tried_again(handle) for handle in asking])

    await until(all_are, "each activity that has a request in flight is tried again")


async def rows_of(site: Site, budget: str) -> list[UsageEntry]:
    query = select(usage_table).where(usage_table.c.budget == budget).order_by(usage_table.c.granted_at)
    async with site.engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


async def ends_of(site: Site, services: Mapping[str, FakeService], handles: Handles) -> dict[str, End]:
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(handle.result() for handle in handles.values()))
    await settled_books(site, *services.values())
    return {
        name: End(result, services[name].count, await rows_of(site, f"acme/{name}"))
        for name, result in zip(handles, results, strict=True)
    }


def tables_for(services: Mapping[str, FakeService]) -> dict[str, object]:
    return configuration(
        list(services.values()),
        routes={name: [service] for name, service in services.items()},
        budgets={"acme": {"cap_usd": {"total": "10"}}},
        service={"models": {MODEL: {"max_output_tokens": 2_000, "price": PRICE}}},
        only={service.name: {"api": AGENTS[name].api} for name, service in services.items()},
    )


async def started(site: Site) -> Handles:
    return {
        name: await site.client.start_workflow(
            agent.workflow.run, args=agent.arguments, id=f"agent-{uuid4()}", task_queue=name
        )
        for name, agent in AGENTS.items()
    }


def services_of(server: CountingServer, whose: str) -> dict[str, FakeService]:
    """Each holds what it gets."""
    services = {name: server.service(f"{whose}-{name}") for name in AGENTS}
    for name, service in services.items():
        replies = AGENTS[name].replies
        service.script.extend([*replies, replies[-1]])  # the last request may be sent once more
        service.usage = lambda request, usage=AGENTS[name].usage: usage
        service.hold()
    return services


@pytest.fixture(scope="module", params=["calls", "agents"])
async def killed(
    request: pytest.FixtureRequest,
    stack: EmbeddedStack,
    databases: Databases,
    server: CountingServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Killed]:
    """All agents at once, each in the middle of its last request when the worker dies."""
    whose, folder = request.param, tmp_path_factory.mktemp(request.param)
    services, database_url = services_of(server, whose), await databases.create()
    async with AsyncExitStack() as running:
        site = await running.enter_async_context(
            running_site(stack.temporal_address, database_url, folder, tables_for(services))
        )
        agents = await running.enter_async_context(agents_running(site, folder / "first.log"))
        handles = await started(site)
        await asyncio.gather(*(last_request_held(name, service) for name, service in services.items()))
        if whose == "calls":
            await kill_the_calls_worker(site, services)
        else:
            agents.kill()
            await agents.wait(timeout=10)
            await running.enter_async_context(agents_running(site, folder / "second.log"))
            await activities_tried_again(handles)
        for service in services.values():
            service.release()
        yield Killed(whose, await ends_of(site, services, handles))


@pytest.mark.parametrize("name", AGENTS)
def test_its_last_request_is_one_bill(killed: Killed, name: str) -> None:
    """At most one more row, unconfirmed, where the worker that sent the request died; none where its agent's did."""
    agent, end = AGENTS[name], killed.ends[name]
    more = 1 if killed.whose == "calls" else 0
    assert end.result == agent.right
    assert end.sent == len(agent.replies) + more
    assert Counter(row.state for row in end.rows) == Counter(final=len(agent.replies), unconfirmed=more)
    paid = [row.call_id for row in end.rows if row.state == "final"]
    assert len(set(paid)) == len(paid)
    assert all(row.call_id == paid[-1] and row.status == "unknown" for row in end.rows if row.state == "unconfirmed")
