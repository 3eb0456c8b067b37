"""Purchases whose hold comes to its end: before the buyer says what it did cost, and where nobody came to pay."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy import select
from temporalio.common import RawValue

from paymaster import purchase
from paymaster.devstack import EmbeddedStack
from paymaster.messages import CALLS_TASK_QUEUE, UsageEntry
from paymaster.messages.purchases import PurchaseOutcome, PurchaseRequest, PurchaseResult
from paymaster.messages.temporal_names import PURCHASE_WORKFLOW
from paymaster.security.payloads import as_raw, read_raw
from paymaster.storage.usage_rows import counted_usage, entry_of

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("late")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"timeout": "1s", "retry": {"maximum_attempts": 1}},
        ledger={"hold_expires_after": "2s"},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


async def rows_of(site: Site, budget: str) -> list[UsageEntry]:
    """Those that count."""
    query = select(counted_usage).where(counted_usage.c.budget == budget)
    async with site.engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


@pytest.mark.parametrize("cost", ["0.01", None])
async def test_what_is_said_late_corrects_what_was_unconfirmed(site: Site, cost: str | None) -> None:
    """Meanwhile it is charged at the most that it can have cost, which the alert says."""
    budget, before = f"acme/late-{cost}", (await site.balance("budget:acme")).posted_nanos

    async def unconfirmed() -> bool:
        posted = (await site.balance("budget:acme")).posted_nanos
        return bool(await rows_of(site, budget)) and posted == before + 300_000_000

    async with purchase(budget, up_to="0.3", what="search", client=site.client) as bought:
        await until(unconfirmed, "it is unconfirmed")
        if cost is None:
            bought.nothing()
        else:
            bought.cost(cost)
    await settled_books(site)
    nanos = 10_000_000 if cost else 0
    assert (await site.balance("budget:acme")).posted_nanos == before + nanos
    rows = await rows_of(site, budget)
    assert {row.state for row in rows} == {"final"}
    assert [row.cost_nanos for row in rows if not row.attempt_id.endswith("/expiry")] == [nanos]
    assert sum(row.cost_nanos for row in rows) == nanos
    assert len(await site.alerts("unconfirmed")) >= 1


async def test_one_that_nobody_comes_to_pay_for_is_given_back(site: Site) -> None:
    """A buyer that died while it was parked cannot have paid; what its hold was charged for when it expired, is given
    back too."""
    request = PurchaseRequest(what="search", budget="acme/nobody", up_to_nanos=500_000_000)
    result = await site.client.execute_workflow(
        PURCHASE_WORKFLOW.name,
        as_raw(request),
        id=f"purchase/{uuid4()}",
        task_queue=CALLS_TASK_QUEUE,
        result_type=RawValue,
    )
    assert read_raw(result, PurchaseResult).outcome is PurchaseOutcome.NOTHING
    await settled_books(site)
    rows = await rows_of(site, "acme/nobody")
    assert all((row.attempt_id.endswith("/expiry"), row.cost_nanos) == (True, 0) for row in rows)
    assert (await site.balance("budget:acme")).pending_nanos == 0


async def test_what_is_no_purchase_is_denied_in_words(site: Site) -> None:
    result = await site.client.execute_workflow(
        PURCHASE_WORKFLOW.name,
        {"what": "a/b", "budget": "acme", "up_to_nanos": 1},
        id=f"purchase/{uuid4()}",
        task_queue=CALLS_TASK_QUEUE,
        result_type=RawValue,
    )
    denied = read_raw(result, PurchaseResult)
    assert (denied.outcome, denied.reason) == (PurchaseOutcome.DENIED, "bad_request")
    assert "what" in (denied.detail or "")
