"""What the worker runs without a sandbox is deterministic: its histories replay inside one, which forbids all else."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService, Reply
from paymaster_process import Databases, Site, configuration, running_site, until
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from paymaster import LLMRequest, Outcome
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.client import Backlog, generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap
from paymaster.plugin import PaymasterPlugin
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import nanos_to_usd
from workflows.ledger import BudgetWorkflow
from workflows.llm_call import LLMCallWorkflow
from workflows.usage_backlog import UsageBacklogWorkflow

ROUTE = "either"
SANDBOX = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("paymaster"))


def ask(budget: str) -> LLMRequest:
    return LLMRequest(route=ROUTE, budget=budget, prompt="What is a ledger?", max_output_tokens=100)


BOUND_NANOS = (input_bytes(ask("poor")) + INPUT_OVERHEAD_TOKENS) * 1_000 + 100 * 4_000
"""Enough for one call: after it there is too little for another."""


@pytest.fixture(scope="module")
def services(server: CountingServer) -> list[FakeService]:
    return [server.service("replayed-first"), server.service("replayed-second")]


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, services: list[FakeService], module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        services,
        routes={ROUTE: services},
        budgets={"rich": {"cap_usd": {"total": "1"}}, "poor": {"cap_usd": {"total": str(nanos_to_usd(BOUND_NANOS))}}},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def histories(site: Site, services: list[FakeService]) -> list[WorkflowHistory]:
    """A call that is answered, one that falls back, one that is parked, raised and answered, and one that is cancelled
    while it is parked; the ledger that decided on them, and the backlog."""
    assert (await generate(site.client, ask("rich"))).outcome is Outcome.COMPLETED
    services[0].script.append(Reply(status=401))
    assert (await generate(site.client, ask("rich"))).fell_back
    assert (await generate(site.client, ask("poor"))).outcome is Outcome.COMPLETED
    parked = [await start(site.client, ask("poor")) for _ in range(3)]

    async def so_many_wait() -> bool:
        return (await site.ledger.status()).parked == len(parked)

    await until(so_many_wait, "the calls are parked")
    await parked[0].cancel()
    await site.ledger.raise_cap(RaiseCap(account="budget:poor", window="total", by="0.01"))
    for call in parked[1:]:
        assert (await call.result()).waited_ms > 0
    await Backlog(site.client, site.ledger.name).add_void("a hold that never was")

    async def the_backlog_is_empty() -> bool:
        history = await site.client.get_workflow_handle(f"usage-backlog/{site.ledger.name}").fetch_history()
        return any(event.HasField("activity_task_completed_event_attributes") for event in history.events)

    await until(the_backlog_is_empty, "the backlog has done its work")
    ids = {run.id async for run in site.client.list_workflows()}
    return [await site.client.get_workflow_handle(each).fetch_history() for each in sorted(ids)]


async def test_every_history_replays_in_the_sandbox(site: Site, services: list[FakeService]) -> None:
    replayer = Replayer(
        workflows=[LLMCallWorkflow, BudgetWorkflow, UsageBacklogWorkflow],
        unsandboxed_workflow_runner=SANDBOX,
        plugins=[PaymasterPlugin(site.settings)],
    )
    recorded = await histories(site, services)
    assert len(recorded) == 8, [history.workflow_id for history in recorded]
    for history in recorded:
        # As JSON, the form in which histories are kept.
        await replayer.replay_workflow(WorkflowHistory.from_json(history.workflow_id, json.loads(history.to_json())))
