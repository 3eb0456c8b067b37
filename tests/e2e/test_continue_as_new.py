"""Promise 10, on a real server: cutting the budget workflow again and again changes nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer
from paymaster_process import (
    caps_watched,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)
from temporalio.client import WorkflowExecutionStatus

from paymaster import LLMRequest, Outcome
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap
from paymaster.money import nanos_to_usd
from paymaster.services.bounds import input_bytes

pytestmark = pytest.mark.timeout(120)
CALLS, PAID = 60, 20


@pytest.fixture
async def forgetful_temporal() -> AsyncIterator[str]:
    """The address of a server that suggests continue-as-new after every 50 events."""
    limits = {"limit.historyCount.suggestContinueAsNew": 50}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as stack:
        yield stack.temporal_address


def ask(number: int) -> LLMRequest:
    return LLMRequest(route="cut-off", budget="acme/writer", prompt=f"question {number:04}", max_output_tokens=100)


async def test_continue_as_new_after_every_50_events_loses_no_hold_no_parked_call_and_no_money(
    forgetful_temporal: str, database_url: str, server: CountingServer, tmp_path: Path
) -> None:
    """60 calls against a cap for 20, raised in the middle while holds are open: exact at each step, all complete."""
    service = server.service("cut-off")
    bound = (input_bytes(ask(0)) + 1_024) * 1_000 + 100 * 4_000
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": str(nanos_to_usd(PAID * bound))}}})
    async with running_site(forgetful_temporal, database_url, tmp_path, tables) as site:

        async def runs() -> int:
            query = 'WorkflowId = "budget/default"'
            return sum([1 async for _ in site.client.list_workflows(query)])

        async def in_flight() -> bool:
            status = await site.ledger.status()
            return (status.holds, status.parked, service.held) == (PAID, CALLS - PAID, PAID)

        async with caps_watched(site):
            service.hold()
            calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(CALLS)))
            await until(in_flight, "20 calls are in flight, 40 are parked")
            raised = RaiseCap(account="budget:acme", window="total", by=str(nanos_to_usd(PAID * bound)), reason="more")
            await site.ledger.signal_raise_cap(raised)
            await until(lambda: service.held == 2 * PAID, "the raise lets 20 more through")
            assert service.count == 2 * PAID
            service.release()
            await site.ledger.raise_cap(raised)
            results = await results_of(calls)

        assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: CALLS}
        assert service.count == CALLS
        status = await settled_books(site, service)
        budget = await site.client.get_workflow_handle("budget/default").describe()
        assert budget.status is WorkflowExecutionStatus.RUNNING
        assert status.epoch != budget.run_id, "the epoch is the first run's id, and this is not the first run"

        async def was_cut() -> bool:  # once or several times: the more commands go together, the fewer events they make
            return await runs() >= 2

        await until(was_cut, "Temporal lists the runs")
        print(f"{await runs()} runs of the budget workflow")
