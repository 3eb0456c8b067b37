"""Agents under Temporal's own plugins: the model's activity with our client, and a child workflow in its place."""

import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import plugin_agents
import pytest
from agents import OpenAIProvider
from counting_server import CountingServer, FakeService, Reply
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from plugin_agents import ANSWER, KEY, NOWHERE, ROUTES, AgentsSDKAgent, Route, model_reply
from pydantic_ai.durable_exec.temporal import PydanticAIPlugin
from pydantic_plugin_agents import PlainAgents
from sdk_answers import GENERATED, MESSAGE, RESPONSE
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ActivityError, CancelledError, FailureError
from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Replayer, Worker

import paymaster
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.process import GuardedProcess
from paymaster.integrations.model_calls import ModelCalls
from paymaster.messages import RaiseCap, SetCap
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(90)
TIMES = 3
"""That an agent asks its model."""
PLAIN = {
    "plain-chat": ("openai", None),
    "plain-responses": ("openai-responses", RESPONSE),
    "plain-claude": ("anthropic", MESSAGE),
    "plain-gemini": ("gemini", GENERATED),
}
"""API and answer of services by the names of their models."""
INTERCEPTED = [route for route in ROUTES.values() if route.intercepted]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    services = {name: server.service(name) for name in ROUTES}
    for service in services.values():
        service.reply = model_reply
        service.usage = lambda request: TokenUsage(input_tokens=1_500, output_tokens=50)
    plain = [server.service(name) for name in PLAIN]
    tables = configuration(
        [*services.values(), *plain],
        budgets={f"acme/{name}": {"cap_usd": {"total": "1"}} for name in (*ROUTES, "models")}
        | {"poor": {"cap_usd": {"total": "0.000001"}}},
        only={name: {"api": api} for name, (api, _) in PLAIN.items()}
        | {name: {"api": route.api} for name, route in ROUTES.items()},
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


def agent_running(site: Site, route: Route, queue: str, folder: Path) -> GuardedProcess:
    program = [sys.executable, plugin_agents.__file__, route.name, site.temporal_address, site.namespace, queue]
    return GuardedProcess(program, log_file=folder / "agent.log")


async def test_an_agent_that_is_parked_and_killed_pays_once(
    site: Site, server: CountingServer, route: Route, tmp_path: Path
) -> None:
    """Its worker is killed while its second request waits for money; its activity may take less time than that."""
    service, queue = server.service(route.name), f"queue-{uuid4()}"
    before = service.count
    await capped(site, route)
    async with agent_running(site, route, queue, tmp_path) as agent:
        handle = await started(site, route, queue)
        await parked(site, service, before)
        agent.kill()
    async with route.worker(await route.connected(site.temporal_address, site.namespace), queue):
        await raised(site, route)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
    await replays(route, handle)
    await settled_books(site)


async def test_an_agent_under_way_stays_with_activities(site: Site, server: CountingServer, tmp_path: Path) -> None:
    route = ROUTES["agents-activity"]
    service, queue = server.service(route.name), f"queue-{uuid4()}"
    before = service.count
    await capped(site, route)
    # In a process of its own: what is left of an agent in the middle of its run complains when it is collected.
    async with agent_running(site, route, queue, tmp_path):
        handle = await started(site, route, queue)
        await parked(site, service, before)
    moved = ModelCalls(f"acme/{route.name}")
    async with route.worker(await route.connected(site.temporal_address, site.namespace), queue, moved):
        await raised(site, route)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
    assert await replays(route, handle, moved) == {"invoke_model_activity"}
    await settled_books(site)


@pytest.fixture(scope="module")
async def plain(site: Site) -> AsyncIterator[Client]:
    """A client of pydantic-ai, with a worker whose model calls are ours."""
    client = await Client.connect(site.temporal_address, namespace=site.namespace, plugins=[PydanticAIPlugin()])
    worker = Worker(
        client,
        task_queue="plain-agents",
        workflows=[PlainAgents],
        interceptors=[ModelCalls("acme/models")],
        workflow_runner=paymaster.sandbox(),
    )
    async with worker:
        yield client


async def run(plain: Client, name: str) -> tuple[str, WorkflowHistory]:
    handle = await plain.start_workflow(PlainAgents.run, name, id=f"agent-{uuid4()}", task_queue="plain-agents")
    return await handle.result(), await handle.fetch_history()


@pytest.mark.parametrize("name", PLAIN)
async def test_each_class_of_model_is_moved(plain: Client, server: CountingServer, name: str) -> None:
    service = server.service(name)
    answer = PLAIN[name][1]
    service.reply = lambda request: Reply(body=answer)
    text, history = await run(plain, name.removeprefix("plain-"))
    assert text == ("answer to Hello" if answer is None else "é")
    assert service.count == 1
    assert "the-key-of-the-caller" not in str(service.requests[-1].headers)
    assert not any(event.HasField("activity_task_scheduled_event_attributes") for event in history.events)
    replayer = Replayer(
        workflows=[PlainAgents],
        plugins=[PydanticAIPlugin()],
        interceptors=[ModelCalls("acme/models")],
        workflow_runner=paymaster.sandbox(),
    )
    await replayer.replay_workflow(history)


async def test_a_model_that_is_not_moved_is_said_once(plain: Client, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        text, history = await run(plain, "of-nobody")
        assert text == "é"
        assert any(event.HasField("activity_task_scheduled_event_attributes") for event in history.events)
    said = [record.message for record in caplog.records if "stays one" in record.message]
    assert len(said) == 1
    assert "a TestModel cannot be moved, only these: OpenAIChatModel" in said[0]


@pytest.mark.parametrize("route", INTERCEPTED, ids=lambda route: route.name)
async def test_an_agent_that_is_cancelled_leaves_no_call(site: Site, server: CountingServer, route: Route) -> None:
    service, queue = server.service(route.name), f"queue-{uuid4()}"
    before = service.count
    await capped(site, route)
    async with route.worker(await route.connected(site.temporal_address, site.namespace), queue):
        handle = await started(site, route, queue)
        await parked(site, service, before)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    assert isinstance(failure.value.cause, CancelledError)
    await raised(site, route)
    await replays(route, handle)
    await settled_books(site)
    assert service.count - before == 1


@pytest.mark.parametrize("route", INTERCEPTED, ids=lambda route: route.name)
async def test_a_denied_request_fails_as_the_activity_would(site: Site, route: Route) -> None:
    queue = f"queue-{uuid4()}"
    client = await route.connected(site.temporal_address, site.namespace)
    poor = Worker(
        client,
        task_queue=queue,
        workflows=[route.agent],
        interceptors=[ModelCalls("poor")],
        workflow_runner=paymaster.sandbox(),
    )
    async with poor:
        handle = await started(site, route, queue)
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
    cause = failure.value.cause
    assert isinstance(cause, ActivityError) is (route.agent is AgentsSDKAgent)
    texts: list[str] = []
    while isinstance(cause, FailureError):
        texts.append(str(cause))
        cause = cause.cause
    assert "bound_above_cap" in texts[-1]


async def test_a_model_asked_by_a_local_activity_is_moved(site: Site, server: CountingServer) -> None:
    route, queue = ROUTES["agents-interceptor"], f"queue-{uuid4()}"
    service = server.service(route.name)
    before = service.count
    params = ModelActivityParameters(use_local_activity=True, start_to_close_timeout=timedelta(seconds=5))
    plugin = OpenAIAgentsPlugin(model_params=params, model_provider=OpenAIProvider(api_key=KEY, base_url=NOWHERE))
    client = await Client.connect(site.temporal_address, namespace=site.namespace, plugins=[plugin])
    async with route.worker(client, queue):
        handle = await started(site, route, queue)
        assert await handle.result() == ANSWER
    assert service.count - before == TIMES
