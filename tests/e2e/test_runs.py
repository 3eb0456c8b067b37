"""Runs of agents: which run a call counts for, wherever it is asked for."""

import importlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from counting_server import CountingServer
from page_snippets import snippets
from paymaster_process import Databases, Site, configuration, running_site, settled_books
from run_agents import ACTIVITIES, PLACES, WORKFLOWS, RunAgent, asked
from temporalio.client import Client
from temporalio.worker import Worker

import paymaster
from paymaster import LLMRequest, RunLimits, run_budget
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.errors import CallDenied
from paymaster.messages import budget_workflow_id
from paymaster.observability.search_attributes import RUN

pytestmark = pytest.mark.timeout(120)
QUEUE = "agents-in-runs"


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    service = server.service("runs")
    page = {"per_run": {"usd": "2.00", "calls": 200, "lasts": "2h"}}
    tables = configuration(
        [service],
        routes={"runs": [service], "writer": [service]},
        budgets={
            "acme": {"cap_usd": {"total": "1"}},
            "acme/agents": page,
            "watchers": {"per_run": {"calls": 2, "renews": "1w"}},
        },
    )
    url = await databases.create()
    async with running_site(stack.temporal_address, url, module_folder, tables, workers=0) as site:
        migrated = await site.command("migrate")
        assert migrated.code == 0, migrated
        await site.start_workers(1)
        yield site


@pytest.fixture(scope="module")
async def agents(site: Site) -> AsyncIterator[Client]:
    """Their worker has nothing of Paymaster but its sandbox."""
    client = await Client.connect(site.temporal_address, namespace=site.namespace)
    with ThreadPoolExecutor(4) as threads:
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            activity_executor=threads,
            workflow_runner=paymaster.sandbox(),
        ):
            yield client


async def run_of(site: Site, call_id: str) -> str | None:
    """What the call's workflow says."""
    described = await site.client.get_workflow_handle(f"call/{call_id}").describe()
    return described.typed_search_attributes.get(RUN)


async def test_all_calls_of_an_agent_are_in_one_run(
    site: Site, agents: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its sub-agents and activities too, and after it has continued as new; those of another agent in another."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", site.temporal_address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", site.namespace)
    for name in ("first", "second"):
        agent = await agents.start_workflow(
            RunAgent.run, args=[PLACES, name, "runs", 2], id=f"agent {name}", task_queue=QUEUE
        )
        await agent.result()
        calls = [f"{name}/{times}/{place}" for times in (1, 2) for place in PLACES]
        calls = [f"{call}/own" if call.endswith("/child") else call for call in calls]
        calls = [f"{call}/activity" if call.endswith("/child-activity") else call for call in calls]
        runs = {call: await run_of(site, call) for call in calls}
        assert set(runs.values()) == {f"agent_{name}@{agent.first_execution_run_id}"}, runs


async def test_a_programs_call_has_the_run_that_is_named(site: Site) -> None:
    """Or none, or itself where it has limits."""
    unnamed, named, limited = (asked(f"program-{uuid4()}", "runs") for _ in range(3))
    await (await start(site.client, unnamed)).result()
    with run_budget(run="pr-17"):
        await (await start(site.client, named)).result()
    handle = await start(site.client, limited.model_copy(update={"run_limits": RunLimits(usd="0.50")}))
    await handle.result()
    found = [await run_of(site, each.call_id or "") for each in (unnamed, named, limited)]
    assert found == [None, "pr-17", f"{handle.id.replace('/', '_')}@{handle.first_execution_run_id}"]
    await settled_books(site)


async def test_a_renewed_run_is_what_it_was_in_new_books(site: Site) -> None:
    """What it took in this week is read from its rows when the ledger has lost everything."""
    request = LLMRequest(route="runs", budget="watchers", prompt="Hello", run="watcher", on_exhausted="fail")
    for _ in range(2):
        await generate(site.client, request)
    await settled_books(site)
    shown = await site.document("runs", "show", "watcher")
    assert (shown["calls"], shown["calls_max"], shown["renews"]) == (2, 2, "week")
    await site.client.get_workflow_handle(budget_workflow_id("default")).terminate("its state is lost")
    with pytest.raises(CallDenied, match="has used up the 2 calls of this week"):
        await generate(site.client, request)
    await site.document("runs", "raise", "watcher", "--calls", "1", "--reason", "more to watch")
    await generate(site.client, request)


async def test_the_agent_of_the_page(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run is in the rows, and its part."""
    for name, code in snippets("budgets.md").items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    agent = importlib.import_module("one_run").Research
    async with Worker(site.client, task_queue="page-of-runs", workflows=[agent]):
        research = await site.client.start_workflow(agent.run, "Why?", id="research", task_queue="page-of-runs")
        assert (await research.result()).startswith("answer to What is wrong")
    run = f"research@{research.first_execution_run_id}"
    rows = (await site.document("usage", "--by", "run", "--run", run))["rows"]
    assert [(row["run"], row["calls"]) for row in rows] == [(run, 1), (f"{run}/critic", 1)]
    [part] = (await site.document("usage", "--by", "budget", "--run", f"{run}/critic"))["rows"]
    assert part["cost_usd"] == rows[1]["cost_usd"]
    await settled_books(site)
