"""Purchases when a worker is killed (SIGKILL) before, while and after the fee is paid, and when its cost is settled."""

import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import purchasing_agents
import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import ROOT, Databases, Site, configuration, running_site, settled_books, until
from purchasing_agents import ATTEMPT_TAKES_S, FEE, QUEUE, READY, UP_TO, Buys, BuysByActivity, Errand, connected
from sqlalchemy import select

from paymaster.devstack import EmbeddedStack
from paymaster.devstack.process import GuardedProcess
from paymaster.messages import UsageEntry
from paymaster.storage.usage_rows import counted_usage, entry_of
from paymaster.values.money import usd_to_nanos

pytestmark = pytest.mark.timeout(60)
STEPS = ("before", "shop", "after", "settled")
"""At which a buyer may be killed: just before it pays, while it pays, when it has paid, when its cost is settled."""


@pytest.fixture(scope="module")
def steps(server: CountingServer) -> dict[str, FakeService]:
    return {step: server.service(f"killed-{step}") for step in STEPS}


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration([server.service("unused")], budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@asynccontextmanager
async def buyers(site: Site, log_file: Path) -> AsyncGenerator[GuardedProcess]:
    """Their worker's process, which takes work."""
    command = [sys.executable, purchasing_agents.__file__, site.temporal_address, site.namespace]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    async with GuardedProcess(command, env={**site.environment, "PYTHONPATH": path}, log_file=log_file) as process:
        await until(lambda: READY in log_file.read_text(), "the buyers' worker is ready", 60)
        yield process


async def rows_of(site: Site, budget: str) -> list[UsageEntry]:
    """Those that count."""
    query = select(counted_usage).where(counted_usage.c.budget == budget).order_by(counted_usage.c.granted_at)
    async with site.engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


def errand(budget: str, steps: dict[str, FakeService], attempt_takes_s: float = ATTEMPT_TAKES_S) -> Errand:
    urls = {step: service.base_url for step, service in steps.items()}
    return Errand(
        budget=budget,
        before=urls["before"],
        shop=urls["shop"],
        after=urls["after"],
        settled=urls["settled"],
        attempt_takes_s=attempt_takes_s,
    )


@pytest.mark.parametrize("step", STEPS)
async def test_each_fee_of_a_killed_buyer_has_one_row(
    site: Site, steps: dict[str, FakeService], tmp_path: Path, step: str
) -> None:
    """Its activity is tried again and pays again, under a hold of its own. The attempt that was killed is charged at
    the most that it can have paid, unless its cost was settled."""
    budget, paid = f"acme/{step}", steps["shop"].count
    client = await connected(site.temporal_address, site.namespace)
    steps[step].hold()
    async with buyers(site, tmp_path / "first.log") as process:
        agent = await client.start_workflow(
            BuysByActivity.run, errand(budget, steps), id=f"killed-{uuid4()}", task_queue=QUEUE
        )
        await until(lambda: steps[step].held == 1, "the buyer is at that step")
        process.kill()
        await process.wait(timeout=10)
    steps[step].release()
    async with buyers(site, tmp_path / "second.log"):
        purchase_id = await agent.result()
    await settled_books(site)

    rows, fees = await rows_of(site, budget), steps["shop"].count - paid
    assert fees == (1 if step == "before" else 2)
    states = Counter((row.state, row.cost_nanos) for row in rows)
    fee, bound = ("final", usd_to_nanos(FEE)), ("unconfirmed", usd_to_nanos(UP_TO))
    assert states == (Counter({fee: 2}) if step == "settled" else Counter({fee: 1, bound: 1}))
    assert {row.call_id for row in rows} == {f"purchase/{purchase_id}", f"purchase/{purchase_id}~g2"}
    assert {request.prompt for request in steps["shop"].requests[paid:]} == {purchase_id}


async def test_a_workflow_whose_worker_is_killed_buys_once(
    site: Site, steps: dict[str, FakeService], tmp_path: Path
) -> None:
    """Its activity pays again, at a shop that knows the purchase by its id."""
    paid = steps["shop"].count
    client = await connected(site.temporal_address, site.namespace)
    steps["shop"].hold()
    async with buyers(site, tmp_path / "first.log") as process:
        wanted = Errand(budget="acme/workflow", shop=steps["shop"].base_url)
        agent = await client.start_workflow(Buys.run, wanted, id=f"killed-{uuid4()}", task_queue=QUEUE)
        await until(lambda: steps["shop"].held == 1, "the fee is being paid")
        process.kill()
        await process.wait(timeout=10)
    steps["shop"].release()
    async with buyers(site, tmp_path / "second.log"):
        assert await agent.result() == ["paid", f"{FEE}000000"]
    await settled_books(site)
    [row] = await rows_of(site, "acme/workflow")
    assert (row.state, row.cost_nanos) == ("final", usd_to_nanos(FEE))
    assert len({request.prompt for request in steps["shop"].requests[paid:]}) == 1


@pytest.mark.parametrize("step", ["before", "shop", "after"])
async def test_a_purchase_outlives_paymasters_own_worker(
    site: Site, steps: dict[str, FakeService], tmp_path: Path, step: str
) -> None:
    """Its activity has time to wait until another worker is there: it is not tried again."""
    budget, waits_s = f"acme/own-{step}", 50.0
    client = await connected(site.temporal_address, site.namespace)
    steps[step].hold()
    async with buyers(site, tmp_path / "buyers.log"):
        wanted = (
            Errand(budget=budget, shop=steps["shop"].base_url, attempt_takes_s=waits_s)
            if step == "shop"
            else errand(budget, steps, waits_s)
        )
        runs = Buys.run if step == "shop" else BuysByActivity.run
        agent = await client.start_workflow(runs, wanted, id=f"own-{uuid4()}", task_queue=QUEUE)
        await until(lambda: steps[step].held == 1, "the buyer is at that step")
        await site.workers[-1].kill()
        steps[step].release()
        await site.start_workers()
        await agent.result()
    await settled_books(site)
    [row] = await rows_of(site, budget)
    assert (row.state, row.cost_nanos) == ("final", usd_to_nanos(FEE))
