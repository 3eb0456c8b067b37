"""A run of a hundred calls at once that may make twenty: not one more, whatever dies, and all once it is raised."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, caps_watched, configuration, running_site, settled_books, until
from run_agents import WORKFLOWS, Fleet, asked
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

import paymaster
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RunState
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(200)
QUEUE = "fleets"
CALLS, MAY = 100, 20
NUMBERS: defaultdict[str, int] = defaultdict(itertools.count().__next__)
"""By the name of a test."""
ASKED = asked("fleet 00", "writer").model_copy(update={"call_id": None})
"""A request that is as long as any of them."""
AS_BOUND = TokenUsage(input_tokens=input_bytes(ASKED) + INPUT_OVERHEAD_TOKENS, output_tokens=100)
"""An answer that costs all that was set aside for it."""


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    """One for each test, whose bill is compared with the rows."""
    service = server.service(f"fleet-{NUMBERS[request.node.name]}")
    service.usage = lambda request: AS_BOUND
    return service


@pytest.fixture
async def site(stack: EmbeddedStack, databases: Databases, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "100"}}, "acme/counted": {"per_run": {"calls": MAY}}},
        service={"breaker": {"failures": 1_000, "cooldown": "1s"}, "max_unconfirmed": 5},
    )
    async with running_site(stack.temporal_address, await databases.create(), tmp_path, tables) as site:
        yield site


async def run_state(site: Site, run: str) -> RunState | None:
    accounts = {account.account: account for account in (await site.ledger.status()).accounts}
    return accounts[f"run:{run}"].run if f"run:{run}" in accounts else None


async def kill_in_the_middle(site: Site, service: FakeService) -> None:
    """When ten calls are at the provider, all of which may have been billed, and nobody else may call."""

    async def all_parked() -> bool:
        return service.held == MAY - 10 and (await site.ledger.status()).parked == CALLS - MAY

    await until(all_parked, "twenty calls were granted, and the others wait", 60)
    [worker] = site.workers
    worker.process.kill()
    await worker.process.stop()
    service.release()
    await site.start_workers(1)


async def check_reports(site: Site, run: str) -> None:
    """The books, the rows and what the command says of them, to the nano-dollar."""
    reported = await site.document("usage", "--by", "run")
    shown = await site.document("runs", "show", run)
    [row] = reported["rows"]
    within = await site.document("usage", "--by", "service", "--run", run)
    assert (row["run"], row["calls"]) == (run, CALLS)
    assert row["cost_usd"] == reported["total"]["cost_usd"] == within["total"]["cost_usd"]
    assert shown["posted_usd"] == row["cost_usd"], shown


async def fleet_of(client: Client, *args: Any) -> WorkflowHandle[Fleet, None]:
    return await client.start_workflow(Fleet.run, args=[*args, False], id=f"fleet-{uuid4()}", task_queue=QUEUE)


async def test_calls_of_a_run_are_counted_exactly(site: Site, service: FakeService) -> None:
    """By a budget's `per_run`, over SDKs too; the worker of the agents has nothing but Paymaster's sandbox."""
    client = await Client.connect(site.temporal_address, namespace=site.namespace)
    async with (
        Worker(client, task_queue=QUEUE, workflows=WORKFLOWS, workflow_runner=paymaster.sandbox()),
        caps_watched(site),
    ):
        fleet = await fleet_of(client, "writer", "acme/counted", None, True)
        run = f"{fleet.id}@{fleet.first_execution_run_id}"
        await until(lambda: service.answered == 10, "the first ten are answered")
        service.hold()
        await kill_in_the_middle(site, service)

        async def answered() -> bool:
            state = await run_state(site, run)
            assert state is not None
            assert state.calls <= MAY
            return service.answered >= MAY and (await site.ledger.status()).holds == 0

        await until(answered, "those that were granted are answered, after the worker's death", 60)
        state = await run_state(site, run)
        assert state is not None
        assert state.calls == MAY
        assert len({request.prompt for request in service.requests}) == MAY
        raised = await site.command("runs", "raise", run, "--calls", str(CALLS - MAY), "--reason", "worth it")
        assert raised.code == 0, raised
        await fleet.result()
    await settled_books(site, service)
    assert len({request.prompt for request in service.requests}) == CALLS
    await check_reports(site, run)


@pytest.mark.full
async def test_the_money_of_a_run_is_exact(site: Site, service: FakeService) -> None:
    """By `run_budget`, which the plugin hands to the sub-agents."""
    bound_nanos = site.bound_nanos(service, ASKED)
    async with Worker(site.client, task_queue=QUEUE, workflows=WORKFLOWS), caps_watched(site):
        fleet = await fleet_of(site.client, "writer", "acme/agents", str(nanos_to_usd(MAY * bound_nanos)), False)
        run = f"{fleet.id}@{fleet.first_execution_run_id}"
        await until(lambda: service.answered == 10, "the first ten are answered")
        service.hold()
        await kill_in_the_middle(site, service)

        async def spent() -> bool:
            status = await site.ledger.status()
            return status.holds == 0 and status.parked == CALLS - 10

        await until(spent, "those that were lost are charged, and wait for money with the others", 60)
        assert (await site.balance(f"run:{run}")).posted_nanos == MAY * bound_nanos
        assert service.count == MAY
        more = str(nanos_to_usd((CALLS - 10) * bound_nanos))
        raised = await site.command("runs", "raise", run, "--by", more, "--reason", "worth it")
        assert raised.code == 0, raised
        await fleet.result()
    await settled_books(site, service)
    await check_reports(site, run)
