"""Promises 4 and 5: the worker is killed or stopped in the middle of everything, and the books still agree."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import (
    Site,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)
from temporalio import workflow
from temporalio.worker import Worker as TemporalWorker

from paymaster import LLMRequest, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.errors import LedgerNotFound
from paymaster.ledger.joining import join_ledger
from paymaster.messages import LEDGER_TASK_QUEUE, LedgerStart, budget_workflow_id
from paymaster.settings.desk_config import desk_config

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
async def service(server: CountingServer, request: pytest.FixtureRequest) -> FakeService:
    return server.service(re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-"))


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    tables = configuration([service], routes={"writer": [service]}, budgets={"acme": {"cap_usd": {"total": "1000"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def ask(number: int) -> LLMRequest:
    return LLMRequest(route="writer", budget="acme/writer", prompt=f"question {number:04}", call_id=f"call-{number}")


@pytest.mark.parametrize("calls_count", [90, pytest.param(300, marks=pytest.mark.full)])
async def test_all_calls_end_within_a_minute_of_the_workers_death(
    site: Site, service: FakeService, calls_count: int
) -> None:
    """SIGKILL with requests in flight, calls being reserved and calls being recorded: none is lost, none hidden."""
    answered_before = calls_count // 5
    service.hold()
    calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(calls_count)))
    await until(
        lambda: service.count >= calls_count * 14 // 15, "nearly all calls are sent, the last ones on their way", 60
    )
    service.release(answered_before)
    await until(lambda: service.answered == answered_before, "some are answered and about to be recorded")

    await site.workers[0].kill()
    service.release()
    sent_before = service.count
    await site.start_workers()
    restarted = time.monotonic()
    results = await results_of(calls, 60)
    print(f"{calls_count} calls ended {time.monotonic() - restarted:.1f} s after the restart")

    assert Counter((result.outcome, result.reason) for result in results) == {(Outcome.COMPLETED, None): calls_count}
    assert [result.text for result in results] == [f"answer to question {number:04}" for number in range(calls_count)]
    # What was in flight is booked at its bound and was sent once more, under another hold.
    status = await settled_books(site, service)
    assert status.unconfirmed >= sent_before - answered_before
    assert sum(result.attempts for result in results) == calls_count + status.unconfirmed
    times_sent = Counter(request.prompt for request in service.requests)
    for number, result in enumerate(results):  # an attempt may have died before its request was out
        assert times_sent[f"question {number:04}"] <= result.attempts <= 2


async def test_sigterm_lets_50_running_calls_complete_and_none_is_sent_twice(site: Site, service: FakeService) -> None:
    """The worker takes nothing new, waits for what is running, and leaves with exit code 0."""
    service.hold()
    calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(50)))
    await until(lambda: service.held == 50, "all calls are in flight")

    stopping = asyncio.create_task(site.workers[0].terminate(60))
    await until(lambda: "stopping" in site.workers[0].log(), "the worker heard the signal")
    assert not stopping.done()
    service.release()
    assert await stopping == 0
    assert service.count == 50

    await site.start_workers()
    results = await results_of(calls)
    assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: 50}
    assert {result.attempts for result in results} == {1}
    assert service.count == 50, "a call was sent a second time"
    status = await settled_books(site, service)
    assert status.unconfirmed == 0


@pytest.mark.full
async def test_after_the_grace_period_the_worker_leaves_and_another_one_goes_on(
    stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path
) -> None:
    """A service that does not answer cannot hold a worker back: what was sent stays charged and is asked once more."""
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"total": "1000"}}},
        worker={"grace_period": "2s"},
    )
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        service.hold()
        calls = await asyncio.gather(*(start(site.client, ask(number)) for number in range(50)))
        await until(lambda: service.held == 50, "all calls are in flight")
        stopped = time.monotonic()
        assert await site.workers[0].terminate(60) == 0
        took = time.monotonic() - stopped
        print(f"50 running calls: the worker left {took:.1f} s after SIGTERM")
        assert 2 <= took < 2 + 15  # what the settings say an orchestrator has to wait
        service.release()
        await site.start_workers()
        results = await results_of(calls)
        assert Counter(result.outcome for result in results) == {Outcome.COMPLETED: 50}
        assert {result.attempts for result in results} == {2}
        status = await settled_books(site, service)
        assert status.unconfirmed == 50


@workflow.defn(name="BudgetWorkflow", sandboxed=False)
class LedgerWhoseTaskFails:
    @workflow.run
    async def run(self, start: LedgerStart) -> None:
        raise RuntimeError("as if its worker had died with the task in hand")


@pytest.mark.full
async def test_a_start_waits_for_a_ledger_whose_task_keeps_failing(
    stack: EmbeddedStack, database_url: str, tmp_path: Path, server: CountingServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Temporal takes no update then, and tries the task again after ever longer pauses.

    What a worker does at its start is done here: one of its own would take the task, and might have no need to wait.
    """
    service = server.service("failed-task")
    tables = configuration([service], budgets={"acme": {"cap_usd": {"total": "1"}}})
    async with running_site(stack.temporal_address, database_url, tmp_path, tables, workers=0) as site:
        config = desk_config(site.settings)
        async with TemporalWorker(site.client, task_queue=LEDGER_TASK_QUEUE, workflows=[LedgerWhoseTaskFails]):
            await site.client.start_workflow(
                "BudgetWorkflow",
                LedgerStart(ledger=site.settings.ledger.name, config=config),
                id=budget_workflow_id(site.settings.ledger.name),
                task_queue=LEDGER_TASK_QUEUE,
            )

            async def is_in_failed_state() -> bool:
                with pytest.raises(LedgerNotFound) as refused:
                    await site.ledger.configure(config)
                return "failed state" in str(refused.value)

            await until(is_in_failed_state, "its task has failed several times", 60)
            joining = asyncio.create_task(join_ledger(site.ledger, config, site.engine, asyncio.Event(), who="test"))
            await until(lambda: joining.done() or "asking again" in caplog.text, "it is asked again", 30)
            assert not joining.done()
        worker = site.launch_worker()
        assert await asyncio.wait_for(joining, 80) >= 1
        await until(lambda: "worker ready" in worker.log() or worker.process.poll() is not None, "it is ready", 80)
        assert worker.process.poll() is None, worker.log()
        result = await try_generate(site.client, LLMRequest(route="failed-task", budget="acme", prompt="Say hello"))
        assert result.outcome is Outcome.COMPLETED
