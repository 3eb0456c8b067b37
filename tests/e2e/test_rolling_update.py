"""A rolling update from 0.1.0 and the way back, with real workers of both versions on one Temporal and one database.

The steps are those of docs/deployment.md. 0.1.0's code comes from this repository's history, and runs with today's
dependencies; in a clone without that history these tests are skipped.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from old_version import OldVersion, unpack
from paymaster_process import ROOT, Site, Worker, configuration, results_of, running_site, settled_books, until

from paymaster import LLMRequest
from paymaster.admission.state import RULES
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.ledger.versions import running_workers
from paymaster.messages import ACTIVITIES_TASK_QUEUE, Outcome, RaiseCap, call_workflow_id
from paymaster.values.money import TokenUsage

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
TODAY = ROOT / "worker.py"
NUMBERS = itertools.count(1)
SMALL = "acme/small"
"""A budget in which one call leaves too little for another."""


@pytest.fixture(scope="module")
def old_version(tmp_path_factory: pytest.TempPathFactory) -> OldVersion:
    return unpack(tmp_path_factory.mktemp("0.1.0"))


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"rolling-{next(NUMBERS)}")


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    """A site with the database of 0.1.0, without a worker yet."""
    budgets = {"acme": {"cap_usd": {"total": "1", "day": "1"}}, SMALL: {"cap_usd": {"total": "0.002"}}}
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=50)
    tables = configuration([service], budgets=budgets, routes={"writer": [service]})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site:
        await migrate(site, "--way-back")
        yield site


async def migrate(site: Site, *options: str) -> None:
    migrated = await site.command("migrate", *options)
    assert migrated.code == 0, migrated


async def update(site: Site) -> Worker:
    """The new version's first steps."""
    await migrate(site)
    return await started(site, TODAY)


def ask(call_id: str, budget: str = "acme") -> LLMRequest:
    return LLMRequest(route="writer", budget=budget, prompt="Hello", call_id=call_id)


async def started(site: Site, program: Path) -> Worker:
    (worker,) = await site.start_workers(program=[program])
    return worker


async def old_agent(site: Site, old: OldVersion, *call_ids: str) -> None:
    """Calls from a process with 0.1.0's client; each must be answered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        ROOT / "tests" / "support" / "old_agent.py",
        *call_ids,
        env=site.environment | {"PYTHONPATH": str(old.folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert output.decode().split() == ["completed"] * len(call_ids), output.decode()


async def asked_by(site: Site, call_id: str) -> str:
    """The task queue of the call's request to its service."""
    async for event in site.client.get_workflow_handle(call_workflow_id(call_id)).fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            return event.activity_task_scheduled_event_attributes.task_queue.name
    raise AssertionError(f"{call_id} has asked nobody")


async def parked(site: Site, count: int) -> None:
    async def so_many() -> bool:
        return (await site.ledger.status()).parked == count

    await until(so_many, f"{count} calls are parked")


async def test_a_rolling_update_loses_nothing_and_can_go_back(
    site: Site, service: FakeService, old_version: OldVersion
) -> None:
    old = await started(site, old_version.worker)
    await old_agent(site, old_version, "old-old")
    await generate(site.client, ask("new-old"))
    await generate(site.client, ask("uses it up", SMALL))
    waiting = [await start(site.client, ask(f"waits-{number}", SMALL)) for number in range(3)]
    await parked(site, 3)

    new = await update(site)
    assert "`paymaster upgrade`" in new.log()
    await generate(site.client, ask("side by side"))
    assert await asked_by(site, "side by side") == ACTIVITIES_TASK_QUEUE  # the old one sends nothing from that of calls
    refused = await site.command("upgrade")
    assert refused.code == 1
    assert "older workers run" in refused.errors

    assert await old.terminate() == 0
    await old_agent(site, old_version, "old-new")
    assert (await site.ledger.status()).rules == 1
    await site.ledger.raise_cap(RaiseCap(account=f"budget:{SMALL}", window="total", by="0.001"))
    await parked(site, 2)

    await migrate(site, "--way-back")
    back = await started(site, old_version.worker)
    assert await new.terminate() == 0
    await generate(site.client, ask("gone back"))
    await site.ledger.raise_cap(RaiseCap(account=f"budget:{SMALL}", window="total", by="1"))
    assert {result.outcome for result in await results_of(waiting)} == {Outcome.COMPLETED}
    await settled_books(site, service)

    await update(site)
    assert await back.terminate() == 0
    await until_only_new_workers_poll(site)
    upgraded = await site.document("upgrade")
    assert upgraded == {"before": 1, "rules": RULES}
    assert (await site.ledger.status()).rules == RULES
    await old_agent(site, old_version, "old-upgraded")
    await generate(site.client, ask("upgraded"))
    await settled_books(site, service)
    assert (await site.command("reconcile")).code == 0
    assert (await site.document("upgrade"))["before"] == RULES


async def until_only_new_workers_poll(site: Site) -> None:
    async def so_it_is() -> bool:
        return all(worker.rules == RULES for worker in await running_workers(site.client, "default"))

    await until(so_it_is, "Temporal has forgotten the old worker", 100)


async def test_a_new_ledger_waits_for_old_workers_to_go(site: Site, old_version: OldVersion) -> None:
    """Where an old worker runs, a ledger that begins goes by the rules that it knows; else by the newest."""
    old = await started(site, old_version.worker)
    await site.client.get_workflow_handle("budget/default").terminate()
    await update(site)
    assert (await site.ledger.status()).rules == 1
    await old.kill()


async def test_an_old_worker_cannot_take_an_upgraded_ledger(
    site: Site, service: FakeService, old_version: OldVersion
) -> None:
    """Started by mistake: its tasks of the ledger fail, nothing is lost, and the new worker goes on."""
    old = await started(site, old_version.worker)
    await generate(site.client, ask("first"))
    await old.terminate()
    await update(site)
    upgraded = await site.command("upgrade", "--force")  # Temporal still counts the one that has just ended
    assert upgraded.code == 0, upgraded
    await migrate(site, "--way-back")
    mistaken = site.launch_worker([old_version.worker])
    results = await asyncio.gather(*(generate(site.client, ask(f"then-{number}")) for number in range(10)))
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    await mistaken.kill()
    assert (await site.ledger.status()).rules == RULES
    await settled_books(site, service, deadline_s=90)
