"""PostgreSQL stops under load: answers do not wait for it, and afterwards every entry is there and the books agree."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus

from paymaster import LLMRequest, Outcome
from paymaster.client import try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap, backlog_workflow_id

ASKING = 8
"""Agents that ask one thing after the other."""
ANSWERED_WITHIN_S = 10.0
"""Now and then a call finds out for all that the database does not answer: 3 s, twice when it was about to be asked."""


@pytest.fixture
async def own_database() -> AsyncIterator[EmbeddedStack]:
    """A PostgreSQL that can be stopped."""
    async with EmbeddedStack(temporal=False, model=False) as stack:
        yield stack


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    return server.service(f"without-database-{request.node.callspec.id}")


@pytest.fixture
async def site(
    stack: EmbeddedStack, own_database: EmbeddedStack, service: FakeService, tmp_path: Path
) -> AsyncIterator[Site]:
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "100"}}})
    database_url = await Databases(own_database.database_url).create()
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


@pytest.mark.parametrize(
    "down_s",
    [
        pytest.param(10.0, id="short", marks=pytest.mark.timeout(90)),
        pytest.param(30.0, id="long", marks=[pytest.mark.full, pytest.mark.timeout(180)]),
    ],
)
async def test_answers_do_not_wait_for_a_database_that_is_down_and_no_entry_is_lost(
    site: Site, own_database: EmbeddedStack, service: FakeService, down_s: float
) -> None:
    """Eight agents ask all the time, before, while and after it is down. An admin raises a cap meanwhile."""
    took: list[tuple[float, float]] = []
    call_ids: list[str] = []
    stopping = asyncio.Event()

    async def ask_on(agent: int) -> None:
        number = 0
        while not stopping.is_set():
            call_id = f"{agent}-{(number := number + 1)}"
            began = time.monotonic()
            request = LLMRequest(route="writer", budget=f"acme/{agent}", prompt=call_id, call_id=call_id)
            result = await try_generate(site.client, request)
            took.append((began, time.monotonic() - began))
            assert (result.outcome, result.attempts) == (Outcome.COMPLETED, 1)
            call_ids.append(call_id)

    async with asyncio.TaskGroup() as asking:
        for agent in range(ASKING):
            asking.create_task(ask_on(agent))
        await until(lambda: len(took) >= 2 * ASKING, "calls are answered")
        down = time.monotonic()
        await own_database.postgres.stop()
        await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="1", who="ada"))
        answered = len(took)
        await until(lambda: time.monotonic() > down + down_s, "it is down for so long", down_s + 10)
        answered = len(took) - answered
        assert await site.in_backlog() > 0, "nothing had to wait, so this proves nothing"
        await own_database.postgres.start()
        up = time.monotonic()
        here = len(took)
        await until(lambda: len(took) >= here + 2 * ASKING, "calls are answered with it again")
        stopping.set()

    longest = max(seconds for began, seconds in took if down - 1 <= began <= up)
    print(f"{answered} answers in {down_s:.0f} s without a database, the slowest after {longest:.1f} s")
    assert longest < ANSWERED_WITHIN_S
    assert answered >= ASKING * down_s / ANSWERED_WITHIN_S

    status = await settled_books(site, service, deadline_s=60)
    assert status.unconfirmed == 0
    assert service.count == len(call_ids)
    async with site.engine.connect() as connection:
        rows = (
            (await connection.execute(text("SELECT call_id FROM usage_entries WHERE state = 'final'"))).scalars().all()
        )
    assert Counter(rows) == dict.fromkeys(call_ids, 1)
    assert [change["who"] for change in await site.cap_changes()] == ["ada"]
    if down_s > 10:
        backlog = site.client.get_workflow_handle(backlog_workflow_id("default"))

        async def ended() -> bool:
            return (await backlog.describe()).status is WorkflowExecutionStatus.COMPLETED

        await until(ended, "the backlog workflow ends when nothing is left", 60)
