"""An id outlives the history of its call, or purchase: what was paid for is not paid again, whoever asks and how."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import openai
import pytest
from agent_workflows import AGENTS_TASK_QUEUE, OneQuestion, agents_running
from counting_server import CountingServer, FakeService, Reply
from forgotten import FORGETS_SOON, forget
from gateway_process import KEY, GatewayProcess, client_table, running_gateway
from paymaster_process import Databases, Site, configuration, running_site, settled_books
from sdk_agents import asked
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from paymaster import CallDenied, CallIdReused, CallUnavailable, LLMRequest, LLMResult, Outcome, purchase
from paymaster.client import generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.generations import CallHandle, latest_generation
from paymaster.messages import call_workflow_id
from paymaster.messages.temporal_names import generation_id, purchase_workflow_id
from paymaster.storage.usage_rows import entries_of_call
from paymaster.transport import PaymasterTransport

pytestmark = pytest.mark.timeout(90)
BUDGET = "acme/writer"


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("chat")


def tables_of(*services: FakeService) -> dict[str, object]:
    tables = configuration(list(services), budgets={"acme": {"cap_usd": {"total": "1"}}})
    return tables | {"gateway": {"clients": {"tester": client_table(KEY, "acme")}}}


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack(postgres=False, model=False, dynamic_config=FORGETS_SOON) as stack:
        yield stack


@pytest.fixture(scope="module")
async def site(
    temporal: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = tables_of(service)
    async with (
        running_site(temporal.temporal_address, await databases.create(), module_folder, tables) as site,
        agents_running(site.client),
    ):
        yield site


@pytest.fixture(scope="module")
async def gateway(site: Site) -> AsyncIterator[GatewayProcess]:
    async with running_gateway(site) as gateway:
        yield gateway


def ask(call_id: str | None = None, prompt: str = "Hello", route: str = "chat") -> LLMRequest:
    return LLMRequest(route=route, budget=BUDGET, prompt=prompt, call_id=call_id, max_output_tokens=50)


async def by_client(site: Site, request: LLMRequest) -> LLMResult:
    return await generate(site.client, request)


async def by_agent(site: Site, request: LLMRequest) -> LLMResult:
    """Raises what the agent's workflow failed with."""
    try:
        return await site.client.execute_workflow(
            OneQuestion.run, request, id=f"agent-{uuid4()}", task_queue=AGENTS_TASK_QUEUE
        )
    except WorkflowFailureError as error:
        if isinstance(error.cause, ApplicationError) and error.cause.type == CallIdReused.__name__:
            raise CallIdReused(request.call_id or "", error.cause.message) from None
        raise


async def stored(site: Site, call_id: str) -> list[object]:
    return list(await entries_of_call(site.engine, site.ledger.name, call_id))


def says(call_id: str) -> str:
    return f"call id '{call_id}' was used before, by a call that was paid for and whose answer is not kept any more"


@pytest.mark.parametrize("asks", [by_client, by_agent])
async def test_what_was_paid_for_is_not_paid_again(
    site: Site, service: FakeService, asks: Callable[[Site, LLMRequest], Awaitable[LLMResult]]
) -> None:
    """Whatever is asked under the id, and however often; the budget is as it was."""
    call_id = str(uuid4())
    await asks(site, ask(call_id))
    rows, count = await stored(site, call_id), service.count
    balance = await site.balance("budget:acme")
    await forget(site.client, call_workflow_id(call_id))
    for prompt in ("Hello", "Hello", "Something else"):
        with pytest.raises(CallIdReused, match=says(call_id)):
            await asks(site, ask(call_id, prompt))
    assert service.count == count
    assert (await stored(site, call_id), await site.balance("budget:acme")) == (rows, balance)
    assert await latest_generation(site.client, call_id) == 1
    await settled_books(site, service)


async def test_who_only_starts_it_learns_it_from_the_result(site: Site, service: FakeService) -> None:
    call_id = str(uuid4())
    await generate(site.client, ask(call_id))
    await forget(site.client, call_workflow_id(call_id))
    result = await (await start(site.client, ask(call_id))).result()
    assert (result.outcome, result.reason, result.attempts) == (Outcome.DENIED, "call_id_reused", 0)
    with pytest.raises(CallIdReused, match=says(call_id)):
        await start(site.client, ask(call_id))
    await settled_books(site, service)


@pytest.mark.parametrize("remembers", [0, 1, 2])
async def test_a_later_generation_has_the_same_id(site: Site, service: FakeService, remembers: int) -> None:
    """Which was answered when the first was not. While Temporal knows all of it, or only that one, it is given back."""
    call_id = str(uuid4())
    service.script.append(Reply(400))
    with pytest.raises(CallUnavailable):
        await generate(site.client, ask(call_id))
    answered = await generate(site.client, ask(call_id))
    assert answered.call_id == f"{call_id}~g2"
    count = service.count
    generations = [call_workflow_id(generation_id(call_id, number)) for number in (1, 2)]
    await forget(site.client, *generations[: 2 - remembers])
    if remembers < 2:
        with pytest.raises(CallIdReused, match=says(call_id)):
            await generate(site.client, ask(call_id))
    if remembers:
        assert (await generate(site.client, ask(call_id))).call_id == answered.call_id
    assert service.count == count
    await settled_books(site, service)


async def test_what_was_not_billed_is_asked_anew(site: Site, service: FakeService) -> None:
    """Its id is as free as while it had a history."""
    call_id = str(uuid4())
    service.script.append(Reply(400))
    with pytest.raises(CallUnavailable):
        await generate(site.client, ask(call_id))
    assert await stored(site, call_id)
    await forget(site.client, call_workflow_id(call_id))
    assert (await generate(site.client, ask(call_id))).text == "answer to Hello"
    await settled_books(site, service)


async def test_an_idempotency_key_outlives_its_call(gateway: GatewayProcess, site: Site, service: FakeService) -> None:
    """Refused with the status for a key that has another body, and in the words that every caller gets."""
    key = str(uuid4())

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(
                f"{gateway.url}/v1/chat/completions",
                json=asked("chat"),
                headers={"authorization": f"Bearer {KEY}", "idempotency-key": key},
            )

    first = await post()
    call_id, count = first.headers["x-paymaster-call-id"], service.count
    assert first.status_code == 200
    await forget(site.client, call_workflow_id(call_id))
    for _ in range(2):
        again = await post()
        assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
        assert again.json()["error"]["paymaster"]["reason"] == "call_id_reused"
        assert says(call_id) in again.json()["error"]["message"]
    assert service.count == count
    await settled_books(site, service)


async def test_an_id_that_an_sdk_sends_outlives_its_call(site: Site, service: FakeService) -> None:
    """Through the transport, whose SDK raises its error for a conflict."""
    key = str(uuid4())
    transport = httpx2.AsyncClient(transport=PaymasterTransport(BUDGET, client=site.client))
    async with openai.AsyncOpenAI(api_key="sk-x", http_client=transport) as client:
        await client.chat.completions.create(**asked("chat"), extra_headers={"Idempotency-Key": key})
        count = service.count
        await forget(site.client, call_workflow_id(key))
        for _ in range(2):
            with pytest.raises(openai.ConflictError, match=says(key)):
                await client.chat.completions.create(**asked("chat"), extra_headers={"Idempotency-Key": key})
    assert service.count == count
    await settled_books(site, service)


async def test_ids_that_were_drawn_are_not_looked_up(site: Site, service: FakeService) -> None:
    """They cannot have been used: what the request says of its id is in its history, and nowhere else."""
    drawn = await start(site.client, ask())
    given = await start(site.client, ask(str(uuid4())))
    says_so = [await _says_drawn(CallHandle(site.client, handle.id.removeprefix("call/"))) for handle in (drawn, given)]
    assert says_so == [True, False]
    await asyncio.gather(drawn.result(), given.result())
    await settled_books(site, service)


async def _says_drawn(handle: WorkflowHandle[Any, Any]) -> bool:
    async for event in handle.fetch_history_events(page_size=1):
        [payload] = event.workflow_execution_started_event_attributes.input.payloads
        return b'"drawn":true' in payload.metadata.get("paymaster-asker", b"")
    return False


def activity_of(site: Site) -> Callable[[int], ActivityEnvironment]:
    """The attempts of one activity, by their numbers."""
    info = replace(ActivityEnvironment.default_info(), activity_id=str(uuid4()))

    def attempt(number: int) -> ActivityEnvironment:
        environment = ActivityEnvironment(client=site.client)
        environment.info = replace(info, attempt=number, task_token=str(number).encode())
        return environment

    return attempt


async def buys(fee: str | None = "0.01") -> str:
    """`fee` None: nothing was bought. Gives the purchase's id."""
    async with purchase(BUDGET, up_to="0.05", what="search") as bought:
        if fee is None:
            bought.nothing()
        else:
            bought.cost(fee)
    return bought.id


async def fees_of(site: Site, purchase_id: str) -> list[int]:
    """Of its rows and those of its second generation."""
    ids = [f"purchase/{purchase_id}", f"purchase/{purchase_id}~g2"]
    return [row.cost_nanos for each in ids for row in await entries_of_call(site.engine, site.ledger.name, each)]


@pytest.mark.parametrize("forgotten", [1, 2])
async def test_what_was_bought_is_not_bought_again(site: Site, service: FakeService, forgotten: int) -> None:
    """While Temporal knows of it an activity that is tried again does, as a new generation: afterwards none does."""
    attempt = activity_of(site)
    purchase_id = await attempt(1).run(buys)
    assert await attempt(2).run(buys) == purchase_id
    fees, balance = await fees_of(site, purchase_id), await site.balance("budget:acme")
    assert fees == [10_000_000] * 2
    ids = [purchase_workflow_id(generation_id(purchase_id, number), site.ledger.name) for number in (1, 2)]
    await forget(site.client, *ids[:forgotten])
    for number in (3, 4):
        with pytest.raises(CallIdReused, match=f"'purchase/{purchase_id}' was paid for before"):
            await attempt(number).run(buys)
    assert (await fees_of(site, purchase_id), await site.balance("budget:acme")) == (fees, balance)
    await settled_books(site, service)


async def test_what_was_not_bought_after_all_may_be(site: Site, service: FakeService) -> None:
    attempt = activity_of(site)
    purchase_id = await attempt(1).run(buys, None)
    await forget(site.client, purchase_workflow_id(purchase_id, site.ledger.name))
    assert await attempt(2).run(buys) == purchase_id
    assert await fees_of(site, purchase_id) == [0, 10_000_000]
    await settled_books(site, service)


async def test_ids_of_purchases_that_were_drawn_are_not_looked_up(site: Site, service: FakeService) -> None:
    """Those of programs; an activity has the same one in each of its attempts."""
    async with purchase(BUDGET, up_to="0.05", what="search", client=site.client) as bought:
        bought.nothing()
    ids = [bought.id, await activity_of(site)(1).run(buys)]
    names = [purchase_workflow_id(each, site.ledger.name) for each in ids]
    assert [await _says_drawn(site.client.get_workflow_handle(name)) for name in names] == [True, False]
    await settled_books(site, service)


async def test_no_call_is_taken_for_a_purchase(site: Site, service: FakeService) -> None:
    """Nor has one its id: what both have stored would be found under one name."""
    purchase_id, count = await activity_of(site)(1).run(buys), service.count
    with pytest.raises(CallDenied, match=f"bad_call_id: call id 'purchase/{purchase_id}' begins as those of purchases"):
        await generate(site.client, ask(f"purchase/{purchase_id}"))
    assert (await fees_of(site, purchase_id), service.count) == ([10_000_000], count)
    await settled_books(site, service)


async def test_a_reset_call_is_the_same_call(site: Site, service: FakeService) -> None:
    """An operator has it asked once more, and it is sent once more.

    Last of those that share a site: a call has two answers then, which the books take for a defect.
    """
    call_id = str(uuid4())
    await generate(site.client, ask(call_id))
    count = service.count
    await site.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=site.namespace,
            workflow_execution=WorkflowExecution(workflow_id=call_workflow_id(call_id)),
            reason="test",
            workflow_task_finish_event_id=4,
            request_id=str(uuid4()),
        )
    )
    result = await CallHandle(site.client, call_id).result()
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "answer to Hello")
    assert service.count == count + 1


async def test_a_database_that_is_stopped_holds_up_no_call(
    temporal: EmbeddedStack, server: CountingServer, tmp_path: Path
) -> None:
    """An id that was used is paid for again then: the log says so, once.

    It has a site of its own: in this one nobody counts twice what is there twice.
    """
    service = server.service("without")
    async with EmbeddedStack(temporal=False, model=False) as own_database:
        database_url = await Databases(own_database.database_url).create()
        async with running_site(temporal.temporal_address, database_url, tmp_path, tables_of(service)) as site:
            call_id = str(uuid4())
            await generate(site.client, ask(call_id, route="without"))
            await forget(site.client, call_workflow_id(call_id))
            await own_database.postgres.stop()
            result = await try_generate(site.client, ask(call_id, route="without"))
            others = [try_generate(site.client, ask(str(uuid4()), route="without")) for _ in range(5)]
            results = [result, *await asyncio.gather(*others)]
            assert [result.outcome for result in results] == [Outcome.COMPLETED] * 6
            assert site.logs().count("would be paid again") == 1
            assert service.count == 7
