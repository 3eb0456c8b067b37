"""Agents under Temporal's own plugins: the model's activity with our client, and a child workflow in its place."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import plugin_agents
import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from plugin_agents import ANSWER, KEY, ROUTES, Route, model_reply
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Replayer

import paymaster
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.process import GuardedProcess
from paymaster.integrations.model_calls import ModelCalls
from paymaster.messages import RaiseCap, SetCap
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(90)
TIMES = 3
"""That an agent asks its model."""


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    services = {name: server.service(name) for name in ROUTES}
    for service in services.values():
        service.reply = model_reply
        service.usage = lambda request: TokenUsage(input_tokens=1_500, output_tokens=50)
    tables = configuration(
        list(services.values()),
        budgets={f"acme/{name}": {"cap_usd": {"total": "1"}} for name in ROUTES},
        only={name: {"api": route.api} for name, route in ROUTES.items()},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(params=ROUTES.values(), ids=list(ROUTES))
def route(request: pytest.FixtureRequest) -> Route:
    return request.param


class FailsBehindItsCall(Interceptor):
    """Each model activity fails once, when its answer is there."""

    def __init__(self) -> None:
        self.failed = 0

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        outer = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                result = await super().execute_activity(input)
                if "model" in activity.info().activity_type and activity.info().attempt == 1:
                    outer.failed += 1
                    raise RuntimeError("the attempt fails behind its call")
                return result

        return Inbound(next)


async def started(site: Site, route: Route, queue: str) -> WorkflowHandle[Any, str]:
    client = await route.connected(site.temporal_address, site.namespace)
    return await client.start_workflow(route.agent.run, route.name, id=f"agent-{uuid4()}", task_queue=queue)


async def replays(route: Route, handle: WorkflowHandle[Any, str], *interceptors: Interceptor) -> set[str]:
    """Replays the history in the sandbox. The names of its activities."""
    history = await handle.fetch_history()
    replayer = Replayer(
        workflows=[route.agent],
        plugins=route.plugins(),
        interceptors=[*route.interceptors(), *interceptors],
        workflow_runner=paymaster.sandbox(),
    )
    await replayer.replay_workflow(history)
    attributes = [event.activity_task_scheduled_event_attributes for event in history.events]
    return {each.activity_type.name for each in attributes if each.activity_type.name}


async def test_each_request_of_a_plugins_agent_is_one_bill(site: Site, server: CountingServer, route: Route) -> None:
    """Where its model is asked by an activity, this fails once behind each request, and finds its answer again."""
    service, queue, fails = server.service(route.name), f"queue-{uuid4()}", FailsBehindItsCall()
    before = service.count
    async with route.worker(await route.connected(site.temporal_address, site.namespace), queue, fails):
        handle = await started(site, route, queue)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
    assert fails.failed == (0 if route.intercepted else TIMES)
    assert all(KEY not in str(request.headers) for request in service.requests)
    names = await replays(route, handle)
    assert any("model" in name for name in names) is not route.intercepted
    await settled_books(site)


async def parked(site: Site, service: FakeService, before: int) -> None:
    async def one_is() -> bool:
        return (await site.ledger.status()).parked == 1

    await until(one_is, "the second request is parked")
    assert service.count - before == 1


async def capped(site: Site, route: Route) -> None:
    """What is left in the budget is enough for the first request's bound, and not for the second's beside its cost."""
    account = f"budget:acme/{route.name}"
    status = await site.balance(account)
    to = nanos_to_usd(status.posted_nanos + 3_500_000)
    await site.ledger.set_cap(SetCap(account=account, window="total", to=f"{to:f}", reason="less", who="ada"))


async def raised(site: Site, route: Route) -> None:
    change = RaiseCap(account=f"budget:acme/{route.name}", window="total", by="1", reason="more", who="ada")
    await site.ledger.raise_cap(change)


async def test_an_agent_that_is_parked_and_killed_pays_once(
    site: Site, server: CountingServer, route: Route, tmp_path: Path
) -> None:
    """Its worker is killed while its second request waits for money; its activity may take less time than that."""
    service, queue = server.service(route.name), f"queue-{uuid4()}"
    before = service.count
    await capped(site, route)
    program = [sys.executable, plugin_agents.__file__, route.name, site.temporal_address, site.namespace, queue]
    async with GuardedProcess(program, log_file=tmp_path / "agent.log") as agent:
        handle = await started(site, route, queue)
        await parked(site, service, before)
        agent.kill()
    async with route.worker(await route.connected(site.temporal_address, site.namespace), queue):
        await raised(site, route)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
    await replays(route, handle)
    await settled_books(site)


async def test_an_agent_under_way_stays_with_activities(site: Site, server: CountingServer) -> None:
    route = ROUTES["agents-activity"]
    service, queue = server.service(route.name), f"queue-{uuid4()}"
    before = service.count
    await capped(site, route)
    client = await route.connected(site.temporal_address, site.namespace)
    async with route.worker(client, queue):
        handle = await started(site, route, queue)
        await parked(site, service, before)
    moved = ModelCalls(f"acme/{route.name}")
    async with route.worker(client, queue, moved):
        await raised(site, route)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
    assert await replays(route, handle, moved) == {"invoke_model_activity"}
    await settled_books(site)
