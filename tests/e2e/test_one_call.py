"""One call goes the whole way: budget, service, database, books. From outside and from an agent's workflow."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from agent_workflows import AGENTS_TASK_QUEUE, ManyQuestions, OneQuestion, agents_running
from counting_server import CountingServer, FakeService
from paymaster_process import (
    MODEL,
    Databases,
    Site,
    configuration,
    running_site,
    settled_books,
    until,
    write_configuration,
)
from stored_rows import entries_of_call
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, ChildWorkflowError
from temporalio.testing import ActivityEnvironment

from activities.reserve import ReserveActivities
from activities.run_roots import RunRoots
from activities.used_call_ids import UsedCallIds
from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.client import Backlog, generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.errors import CallIdReused
from paymaster.ledger.commits import ledger_commits
from paymaster.messages import CallRef, Granted, ReserveRequest
from paymaster.settings import load_settings
from paymaster.settings.desk_config import desk_config
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(60)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("one")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1"}}, "acme/small": {"cap_usd": {"total": "0.004"}}},
    )
    async with (
        running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site,
        agents_running(site.client),
    ):
        yield site


def ask(
    prompt: str, budget: str = "acme/writer", call_id: str | None = None, max_output_tokens: int = 50
) -> LLMRequest:
    return LLMRequest(
        route="one",
        budget=budget,
        prompt=prompt,
        call_id=f"call-{next(NUMBERS)}",
        max_output_tokens=50,
        metadata={"purpose": "test"},
    )


async def ask_from_outside(site: Site, request: LLMRequest) -> LLMResult:
    return await generate(site.client, request)


async def ask_from_an_agent(site: Site, request: LLMRequest) -> LLMResult:
    return await site.client.execute_workflow(
        OneQuestion.run, request, id=f"agent-{request.call_id}", task_queue=AGENTS_TASK_QUEUE
    )


@pytest.mark.parametrize("asked", [ask_from_outside, ask_from_an_agent])
async def test_a_call_gives_the_services_answer_and_stores_the_services_numbers(
    site: Site, service: FakeService, asked: Callable[[Site, LLMRequest], Awaitable[LLMResult]]
) -> None:
    """Text, tokens, cost, the row and the posted amount are all the server's own numbers."""
    usage = TokenUsage(input_tokens=1_000, cached_input_tokens=300, output_tokens=37, reasoning_tokens=20)
    service.usage = lambda request: usage
    before, count = await site.balance("budget:acme"), service.count
    request = ask("What are tides?")

    result = await asked(site, request)

    cost = 1_000 * 1_000 + 37 * 4_000  # $1 and $4 for a million tokens; no price for cached ones, so they cost as input
    assert result.outcome is Outcome.COMPLETED
    assert (result.text, result.finish_reason) == ("answer to What are tides?", "stop")
    assert (result.usage, result.cost_nanos) == (usage, cost)
    assert (result.service, result.model) == ("one", f"{MODEL}-2026-01-01")
    assert (result.attempts, result.fell_back, result.waited_ms) == (1, False, 0)
    assert service.count == count + 1
    assert service.requests[-1].body["max_tokens"] == 50
    assert service.requests[-1].key_sha256 is None

    (entry,) = await entries_of_call(site.engine, result.call_id)
    call = await site.client.get_workflow_handle(f"call/{result.call_id}").describe()
    assert entry.attempt_id == f"{call.run_id}/1/1"
    assert (entry.hold_id, entry.workflow_id, entry.run_id) == (f"{call.run_id}/1", call.id, call.run_id)
    assert (entry.state, entry.status, entry.http_status) == ("final", "completed", 200)
    assert (entry.usage, entry.cost_nanos, entry.price_source) == (usage, cost, "configuration")
    assert (entry.budget, entry.service, entry.model) == ("acme/writer", "one", MODEL)
    assert entry.model_answered == f"{MODEL}-2026-01-01"
    assert entry.provider_request_id == f"one-{service.count}"
    assert entry.metadata == {"purpose": "test"}

    (notice,) = result.budget
    assert (notice.account, notice.window) == ("budget:acme", "total")
    assert notice.posted_nanos == before.posted_nanos + cost
    assert notice.left_nanos == 1_000_000_000 - notice.posted_nanos
    await settled_books(site, service)


async def test_the_result_says_which_threshold_it_crossed_and_a_parked_call_says_how_long_it_waited(
    site: Site, service: FakeService
) -> None:
    """An agent can turn to a cheaper route in time, because the answer itself tells it how the budget stands."""
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=50)  # 0.0012 dollars
    first = await generate(site.client, ask("one", "acme/small"))
    second = await generate(site.client, ask("two", "acme/small"))
    assert [notice.account for notice in first.budget] == ["budget:acme/small", "budget:acme"]
    assert first.budget[0].crossed == ()
    assert second.budget[0].crossed == (0.5,)
    assert second.budget[0].posted_nanos == 2_400_000

    # What is left is enough for one bound: the fourth waits while the third has it on hold.
    service.usage = lambda request: TokenUsage(input_tokens=10, output_tokens=5)
    service.hold()
    third = await start(site.client, ask("three", "acme/small"))
    await until(lambda: service.held == 1, "the third is in flight")
    fourth = await start(site.client, ask("four", "acme/small"))

    async def parked() -> bool:
        return (await site.ledger.status()).parked == 1

    await until(parked, "the fourth is parked")
    service.release()
    results = await asyncio.gather(third.result(), fourth.result())
    assert [result.outcome for result in results] == [Outcome.COMPLETED, Outcome.COMPLETED]
    assert results[0].waited_ms == 0
    assert results[1].waited_ms > 0
    await settled_books(site, service)


async def test_one_call_id_from_two_agents_is_one_request_with_one_result(site: Site, service: FakeService) -> None:
    """The second asker gets the stored result, also while the first one is still waiting for it."""
    count = service.count
    request = ask("Asked twice")
    service.hold()
    agents = [
        await site.client.start_workflow(
            ManyQuestions.run, [request], id=f"twin-{n}-{request.call_id}", task_queue=AGENTS_TASK_QUEUE
        )
        for n in (1, 2)
    ]
    await until(lambda: service.held == 1, "the call is in flight")

    async def second_waits() -> bool:
        history = [await agent.fetch_history() for agent in agents]
        return any("await_result" in each.to_json() for each in history)

    await until(second_waits, "the second agent waits for the first one's call")
    service.release()
    first, second = [(await agent.result())[0] for agent in agents]
    assert first.outcome is Outcome.COMPLETED
    assert first == second == await try_generate(site.client, request)
    assert service.count == count + 1
    assert len(await entries_of_call(site.engine, first.call_id)) == 1
    await settled_books(site, service)


async def test_the_same_call_id_with_other_content_is_an_error_and_costs_nothing(
    site: Site, service: FakeService
) -> None:
    """From outside and from an agent: CallIdReused, and nothing is sent."""
    request = ask("The original")
    await generate(site.client, request)
    count = service.count
    other = request.model_copy(update={"prompt": "Something else"})

    with pytest.raises(CallIdReused):
        await try_generate(site.client, other)
    with pytest.raises(WorkflowFailureError) as failure:
        await ask_from_an_agent(site, other)
    assert isinstance(failure.value.cause, ApplicationError)
    assert not isinstance(failure.value.cause, ChildWorkflowError)
    assert failure.value.cause.type == "CallIdReused"
    assert service.count == count
    await settled_books(site, service)


async def test_a_price_that_changes_is_that_of_the_next_grant(
    site: Site, service: FakeService, module_folder: Path
) -> None:
    """A worker that was started with another price in its file brings it with every call; the ledger keeps none."""
    price = {"input": "3.00", "output": "8.00"}
    models = {MODEL: {"max_output_tokens": 100, "price": price}}
    file = module_folder / "dearer.toml"
    write_configuration(file, configuration([service], budgets={"acme": {}}, only={service.name: {"models": models}}))
    config, now_ms = desk_config(site.settings), int(time.time() * 1000)
    commits = ledger_commits(site.ledger, config)
    prices: list[tuple[int, int]] = []
    for number, settings in enumerate((site.settings, load_settings(file, environ={}))):
        backlog, roots = Backlog(site.client, site.ledger.name), RunRoots(site.client)
        used = UsedCallIds(site.client, site.engine, site.ledger.name)
        reservations = ReserveActivities(settings, commits, backlog, roots, used)
        request = ReserveRequest(
            hold_id=f"run-of-prices/{number}",
            call=CallRef(workflow_id="call/prices", run_id="run-of-prices"),
            route=service.name,
            budget="acme/writer",
            input_bytes=100,
            max_output_tokens=50,
            on_exhausted="fail",
            wait_at_most_ms=None,
            started_at_ms=now_ms,
            asked_at_ms=now_ms,
            priority=0,
        )
        granted = (await ActivityEnvironment().run(reservations.reserve, request)).answer
        await ActivityEnvironment().run(reservations.void, request.hold_id)
        assert isinstance(granted, Granted)
        prices.append((granted.grant.bound_nanos, granted.grant.price.output_nanos))
    tokens = 100 + INPUT_OVERHEAD_TOKENS
    assert prices == [(tokens * 1_000 + 50 * 4_000, 4 * 10**9), (tokens * 3_000 + 50 * 8_000, 8 * 10**9)]
    await settled_books(site, service)
