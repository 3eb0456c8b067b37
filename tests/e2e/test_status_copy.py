"""The ledger copies how it stands into the database: soon, once a second at most, and only when something changed."""

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, until
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from paymaster import LLMRequest
from paymaster.admission.copying import as_of
from paymaster.client import generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import AccountStatus, PauseService, RaiseCap, budget_workflow_id
from paymaster.messages.temporal_names import STORE_STATUS
from paymaster.storage.status_rows import copied_accounts, copied_ledger
from paymaster.values.time_zones import UTC_ZONE

pytestmark = pytest.mark.timeout(90)
ACCOUNTS = ["budget:acme", "budget:acme/content", "service:copied"]


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("copied")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    budgets = {"acme": {"cap_usd": {"day": "5"}}, "acme/content": {"cap_usd": {"total": "3"}}}
    tables = configuration([service], routes={"writer": [service]}, budgets=budgets)
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=1) as site:
        yield site


async def is_copied(site: Site, version: int) -> bool:
    copied = await copied_ledger(site.engine, site.ledger.name)
    return copied is not None and copied.version >= version


async def accounts_of_copy(site: Site, now_ms: int) -> list[AccountStatus]:
    """Without what only copies have."""
    found: list[AccountStatus] = []
    for each in await copied_accounts(site.engine, site.ledger.name, ACCOUNTS):
        status = as_of(each.status, int(each.copied_at.timestamp() * 1_000), now_ms, UTC_ZONE)
        found.append(status.model_copy(update={"tag": ""}))  # which only the copy has
    return found


async def copies_sent(client: Client, ledger: str) -> list[float]:
    """When each was, by the server's clock, in seconds."""
    handle = client.get_workflow_handle(budget_workflow_id(ledger))
    return [
        event.event_time.ToMicroseconds() / 1e6
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        and event.activity_task_scheduled_event_attributes.activity_type.name == STORE_STATUS.name
    ]


async def test_what_a_call_and_an_admin_changed_is_in_the_copy(site: Site) -> None:
    await generate(site.client, LLMRequest(route="writer", budget="acme/content", prompt="hello"))
    paused = await site.ledger.pause_service(PauseService(service="copied", who="ada"))
    raised = await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="day", by="1.5", who="ada"))
    assert raised.version >= paused.version > 0
    await until(lambda: is_copied(site, raised.version), "the copy has the raise")

    async def agrees() -> bool:
        status = await site.ledger.status()
        copied = await accounts_of_copy(site, status.now_ms)
        return copied == [each for each in status.accounts if each.account in ACCOUNTS]

    await until(agrees, "the copy says what the ledger says")
    ledger = await copied_ledger(site.engine, site.ledger.name)
    assert ledger is not None
    assert ledger.status.services[0].paused_by == "ada"


async def test_the_ledger_sends_a_copy_a_second_at_most(site: Site) -> None:
    before = len(await copies_sent(site.client, site.ledger.name))
    last = 0
    for _ in range(60):
        last = (await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="day", by="0.01"))).version
    await until(lambda: is_copied(site, last), "the copy has the last of them")
    sent = await copies_sent(site.client, site.ledger.name)
    assert all(after - one >= timedelta(seconds=1).total_seconds() for one, after in itertools.pairwise(sent))
    assert 1 <= len(sent) - before < 60
