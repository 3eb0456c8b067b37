"""Calls and the ledger in the Temporal UI: found by cost and budget, with details, at the price of one event."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_workflows import AGENTS_TASK_QUEUE, OneQuestion, agents_running
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import SearchAttributeKey

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import PauseService, ResumeService, budget_workflow_id
from paymaster.observability.search_attributes import ALL, SearchAttributesMissing, are_registered, register
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(90)
UPSERT = EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    service = server.service("shown")
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=len(request.prompt))
    return service


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service], budgets={"acme": {"cap_usd": {"total": "1"}}, "acme/poor": {"cap_usd": {"day": "0.0001"}}}
    )
    url = await databases.create()
    async with running_site(stack.temporal_address, url, module_folder, tables, workers=0) as site:
        migrated = await site.command("migrate")
        assert migrated.code == 0, migrated
        assert f"Temporal's namespace {site.namespace} has the search attributes" in migrated.output
        await site.start_workers(1)

        async def loaded() -> bool:
            return not any(account.loading for account in (await site.ledger.status()).accounts)

        await until(loaded, "the ledger knows what was spent before; until then it parks")
        yield site


def ask(prompt: str, budget: str = "acme/writer") -> LLMRequest:
    return LLMRequest(
        route="shown",
        budget=budget,
        prompt=prompt,
        on_exhausted="fail",
        metadata={"team": "a|b"},
        max_output_tokens=50,
    )


async def found(site: Site, query: str) -> set[str]:
    return {each.id async for each in site.client.list_workflows(query)}


async def until_found(site: Site, query: str, *calls: WorkflowHandle[Any, Any]) -> None:
    """The list shows these and no others; visibility follows history a moment later."""

    async def shown() -> bool:
        return await found(site, query) == {call.id for call in calls}

    await until(shown, f"the list shows {len(calls)} for {query}")


async def live_details(handle: WorkflowHandle[Any, Any]) -> str:
    """What the UI asks for."""
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def test_calls_are_found_by_cost_service_budget_and_outcome(site: Site, service: FakeService) -> None:
    cheap = await start(site.client, ask("x"))
    dear = await start(site.client, ask("x" * 50))
    refused = await start(site.client, ask("x", budget="acme/poor"))
    results: list[LLMResult] = [await call.result() for call in (cheap, dear, refused)]
    assert [result.outcome for result in results] == [Outcome.COMPLETED, Outcome.COMPLETED, Outcome.DENIED]
    limit = (results[0].cost_nanos + results[1].cost_nanos) / 2e9
    await until_found(site, f'PaymasterCostUsd > {limit:.9f} AND PaymasterService = "shown"', dear)
    await until_found(site, f'PaymasterCostUsd < {limit:.9f} AND PaymasterModel = "model-1"', cheap)
    await until_found(site, 'PaymasterOutcome = "denied" AND PaymasterBudget = "acme/poor"', refused)
    for call in (cheap, dear, refused):
        events = [event.event_type for event in (await call.fetch_history()).events]
        assert events.count(UPSERT) == 1, "one event more"
        assert events.index(UPSERT) == len(events) - 2, "and in the task that completes the call"
    assert "**0** in flight" in await live_details(site.client.get_workflow_handle(budget_workflow_id("default")))
    await settled_books(site, service)


async def test_a_parked_and_then_cancelled_call_is_found_and_says_what_it_waits_for(site: Site) -> None:
    await site.ledger.pause_service(PauseService(service="shown", reason="a|b", who="ada"))
    call = await start(site.client, ask("x", budget="acme/parked"))

    async def parked() -> bool:
        return (await site.ledger.status()).parked == 1

    try:
        await until(parked, "the call is parked")
        await until_found(site, 'PaymasterOutcome = "parked"', call)
        assert "parked until" in await live_details(call)
        ledger = site.client.get_workflow_handle(budget_workflow_id("default"))
        shown = await live_details(ledger)
        assert f"\n{call.id}  " in shown
        assert re.search(r"^budget:acme/poor +day ", shown, re.MULTILINE)
        assert re.search(r"^shown +paused by ada \(a\|b\)$", shown, re.MULTILINE)

        async def cost_no_event() -> bool:
            before = (await ledger.describe()).history_length
            await live_details(ledger)
            return (await ledger.describe()).history_length == before

        await until(cost_no_event, "a look costs no event, where the ledger itself does nothing meanwhile")
    finally:
        await call.cancel()
        await site.ledger.resume_service(ResumeService(service="shown"))
    with pytest.raises(WorkflowFailureError):
        await call.result()
    await until_found(site, 'PaymasterOutcome = "cancelled" AND PaymasterBudget = "acme/parked"', call)
    await until_found(site, 'PaymasterOutcome = "parked"')


async def test_an_agents_call_has_summary_and_details_too(site: Site, service: FakeService) -> None:
    request = ask("from an agent").model_copy(update={"call_id": "by-agent"})
    async with agents_running(site.client):
        await site.client.execute_workflow(OneQuestion.run, request, id="an-agent", task_queue=AGENTS_TASK_QUEUE)
    direct = await start(site.client, ask("from outside"))
    for call in (site.client.get_workflow_handle("call/by-agent"), direct):
        description = await call.describe()
        assert await description.static_summary() == "shown for acme/writer"
        details = await description.static_details()
        assert details is not None
        assert re.search(r"^team +a\|b$", details, re.MULTILINE)
        assert "from" not in details


async def test_an_absurd_route_fails_the_call_and_not_its_start(site: Site) -> None:
    """A summary or details above the server's limit would be refused, for an agent's child for ever."""
    request = ask("x").model_copy(update={"route": "r" * 100_000, "metadata": {"m": "x" * 100_000}})
    assert (await try_generate(site.client, request)).reason == "unknown_route"


async def test_registering_again_is_harmless_and_what_cannot_be_is_said_with_the_command(
    stack: EmbeddedStack, site: Site
) -> None:
    await register(site.client)
    assert await are_registered(site.client)
    elsewhere = await Client.connect(stack.temporal_address, namespace="not-there")
    assert not await are_registered(elsewhere)
    with pytest.raises(SearchAttributesMissing) as missing:
        await register(elsewhere)
    said = str(missing.value)
    assert "temporal operator search-attribute create --namespace not-there" in said
    assert "--name PaymasterCostUsd --type Double" in said
    assert "tcld namespace search-attributes add --namespace not-there" in said
    assert {key.name: key for key in ALL}.keys() == {
        f"Paymaster{name}" for name in ("Budget", "Service", "Model", "Outcome", "CostUsd", "Run")
    }
    assert all(isinstance(key, SearchAttributeKey) for key in ALL)
