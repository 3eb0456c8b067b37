"""Many calls: one raise releases thousands of parked ones, and the budget workflow's history stays short."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, results_of, running_site, settled_books, until
from temporalio.client import WorkflowHandle

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import SetCap
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import nanos_to_usd

SUGGESTED, BATCH = 200, 60
"""Events after which a new run is suggested, and the most that what was begun already may add."""


def ask(route: str, budget: str, number: int = 0, on_exhausted: str = "wait") -> LLMRequest:
    prompt = f"question {number:05}"
    return LLMRequest.model_validate(
        {"route": route, "budget": budget, "prompt": prompt, "on_exhausted": on_exhausted, "max_output_tokens": 100}
    )


BOUND_NANOS = (input_bytes(ask("", "a")) + 1_024) * 1_000 + 100 * 4_000


@pytest.fixture
def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    return server.service(f"many-{request.node.callspec.id}")


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    money = {"cap_usd": {"total": str(nanos_to_usd(BOUND_NANOS))}}
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1000"}}, "acme/poor": money, "acme/rich": {}},
        ledger={"max_parked": 3_000},
    )
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=2) as site:
        yield site


async def spend_all(site: Site, service: FakeService) -> None:
    """One call, after which the budget `acme/poor` has no money for another one."""
    assert (await generate(site.client, ask(service.name, "acme/poor"))).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(40, marks=pytest.mark.timeout(120)),
        pytest.param(2_000, marks=[pytest.mark.full, pytest.mark.timeout(600)]),
    ],
)
async def test_one_raise_releases_all_parked_calls_and_those_block_nobody_meanwhile(
    site: Site, service: FakeService, count: int
) -> None:
    """A call that needs a raise lets others pass, also on the same service and the same ancestor."""
    await spend_all(site, service)
    at_once = asyncio.Semaphore(100)  # a client gives up a start that the server does not take in seconds

    async def begin(number: int) -> WorkflowHandle[object, LLMResult]:
        async with at_once:
            return await start(site.client, ask(service.name, "acme/poor", number))

    calls = list(await asyncio.gather(*map(begin, range(count))))

    async def parked() -> bool:
        return (await site.ledger.status()).parked == count

    await until(parked, f"{count} calls are parked", 300)
    sent = service.count
    behind = await generate(site.client, ask(service.name, "acme/rich"))
    assert (behind.outcome, behind.waited_ms, service.count) == (Outcome.COMPLETED, 0, sent + 1)

    began = time.monotonic()
    await site.ledger.set_cap(SetCap(account="budget:acme/poor", window="total", to="900"))

    async def released() -> bool:
        status = await site.ledger.status()
        return status.parked == 0 and status.outbox == 0

    await until(released, "all have their answer", 120)
    took = time.monotonic() - began
    print(f"{count} parked calls had their answer {took:.1f} s after the raise")
    assert took < 10 + count / 20  # on a machine that does much else meanwhile
    results = await results_of(calls, 400)
    assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: count}
    assert service.count == sent + 1 + count
    await settled_books(site, service)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1_000, marks=[pytest.mark.full, pytest.mark.timeout(240)]),
        pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1_800)]),
    ],
)
async def test_the_history_of_the_budget_workflow_is_never_much_longer_than_suggested(
    databases: Databases, server: CountingServer, tmp_path: Path, count: int
) -> None:
    """On a server that suggests a new run after 200 events: no run is longer by more than what was under way."""
    service = server.service(f"history-{count}")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1000"}}})
    limits = {"limit.historyCount.suggestContinueAsNew": SUGGESTED}
    async with EmbeddedStack(postgres=False, model=False, headless=True, dynamic_config=limits) as forgetful:
        database_url = await databases.create()
        async with running_site(forgetful.temporal_address, database_url, tmp_path, tables) as site:
            numbers = iter(range(count))

            async def ask_on() -> None:
                for number in numbers:
                    result = await generate(site.client, ask(service.name, "acme/writer", number))
                    assert result.outcome is Outcome.COMPLETED

            await asyncio.gather(*(ask_on() for _ in range(25)))
            await settled_books(site, service)
            assert service.count == count
            lengths: list[int] = []

            async def listed() -> bool:
                query = 'WorkflowId = "budget/default"'
                lengths[:] = [run.history_length async for run in site.client.list_workflows(query)]
                return len(lengths) >= 2

            await until(listed, "Temporal lists the runs")
            print(f"{count} calls in {len(lengths)} runs of the budget workflow, the longest has {max(lengths)} events")
            assert max(lengths) <= SUGGESTED + BATCH
