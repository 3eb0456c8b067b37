"""What is bought under a budget: held, and posted as its buyer says, in workflows, in activities and anywhere else."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from counting_server import CountingServer, FakeService
from page_snippets import snippets
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from purchasing_agents import QUEUE, Buys, BuysByActivity, Errand, buyers_running, run_errand
from sandboxed_agents import run_and_replay
from sqlalchemy import select
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.testing import ActivityEnvironment

from paymaster import LLMRequest, PurchaseDenied, PurchaseEnded, purchase, run_budget
from paymaster.client import generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import RaiseCap, UsageEntry
from paymaster.reports.kinds import kinds_report
from paymaster.reports.usage import usage_report
from paymaster.storage.usage_rows import entry_of, usage_table
from paymaster.values.run_path import run_id_of_root

pytestmark = pytest.mark.timeout(40)
FEE, UP_TO = 12_000_000, 50_000_000
Buyer = Callable[[Client, Errand], Awaitable[object]]


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("model")


@pytest.fixture(scope="module")
def shop(server: CountingServer) -> FakeService:
    return server.service("shop")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={
            "acme": {"cap_usd": {"total": "1"}},
            "tools": {"cap_usd": {"total": "1"}},
            "shared": {"cap_usd": {"total": "1"}},
            "given-up": {"cap_usd": {"total": "1"}},
            "poor": {"cap_usd": {"total": "0.06"}},
            "waits": {"cap_usd": {"total": "0.06"}},
        },
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture(scope="module")
async def agents(site: Site) -> AsyncIterator[Client]:
    async with buyers_running(site.temporal_address, site.namespace) as client:
        yield client


async def in_a_workflow(client: Client, errand: Errand) -> object:
    return await run_and_replay(client, Buys, errand, queue=QUEUE)


async def in_an_activity(client: Client, errand: Errand) -> object:
    return await client.execute_workflow(BuysByActivity.run, errand, id=f"buyer-{uuid4()}", task_queue=QUEUE)


async def elsewhere(client: Client, errand: Errand) -> object:
    return await run_errand(errand, client)


async def is_asked_twice(client: Client) -> bool:
    """Whether a second attempt of an activity asks for the purchase that the first one waits for."""
    running = "WorkflowType = 'PurchaseWorkflow' AND ExecutionStatus = 'Running'"
    handles = [client.get_workflow_handle(each.id) async for each in client.list_workflows(running)]
    histories = [(await handle.fetch_history()).to_json() for handle in handles]
    return any(text.count('"name": "begin"') == 2 for text in histories)


async def rows_of(site: Site, budget: str) -> list[UsageEntry]:
    query = select(usage_table).where(usage_table.c.budget == budget).order_by(usage_table.c.id)
    async with site.engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


@pytest.mark.parametrize("buyer", [in_a_workflow, in_an_activity, elsewhere])
async def test_its_row_and_its_books_have_the_cost(site: Site, agents: Client, shop: FakeService, buyer: Buyer) -> None:
    budget, count = f"acme/{buyer.__name__}", shop.count
    before = (await site.balance("budget:acme")).posted_nanos
    await buyer(agents, Errand(budget=budget, shop=shop.base_url))
    [row] = await rows_of(site, budget)
    assert (row.service, row.state, row.status, row.cost_nanos) == ("search", "final", "completed", FEE)
    assert (row.usage, row.call_id.startswith("purchase/")) == (None, True)
    assert row.call_id == f"purchase/{shop.requests[-1].prompt}"
    assert shop.count == count + 1
    await settled_books(site)
    assert (await site.balance("budget:acme")).posted_nanos == before + FEE


async def test_reports_show_what_was_bought(site: Site, agents: Client, shop: FakeService) -> None:
    await elsewhere(agents, Errand(budget="acme/reported", shop=shop.base_url))
    [of_service] = await usage_report(site.engine, ledger="default", by=["service"], budget="acme/reported")
    assert (of_service.attempts, of_service.cost_nanos) == (1, FEE)
    [kind] = await kinds_report(site.engine, ledger="default", budget="acme/reported")
    assert (kind.kind, kind.quantity, kind.unit, kind.cost_nanos) == ("purchase", 1, "purchases", FEE)


async def test_a_fee_and_a_call_share_the_cap(site: Site, agents: Client, service: FakeService) -> None:
    """While the fee is on hold nobody else has that money."""
    async with purchase("shared", up_to="1", what="search", client=agents) as bought:
        held = await site.balance("budget:shared")
        assert held.pending_nanos == 1_000_000_000
        request = LLMRequest(route="model", budget="shared", prompt="Hello", on_exhausted="fail")
        call = asyncio.ensure_future(generate(site.client, request))

        async def parked() -> bool:
            return (await site.ledger.status()).parked == 1

        await until(parked, "the call waits for what is on hold")
        bought.nothing()
    assert (await call).text
    [row] = [row for row in await rows_of(site, "shared") if row.service == "search"]
    assert (row.state, row.status, row.cost_nanos, row.error_class) == ("final", "failed", 0, "nothing_bought")
    await settled_books(site, service)


async def test_it_counts_for_the_run_of_its_buyer(site: Site, agents: Client) -> None:
    """What a run may cost is for its calls and what it buys together."""
    with run_budget("0.06", run="an-errand"):
        await elsewhere(agents, Errand(budget="acme/run"))
        with pytest.raises(PurchaseDenied, match="an-errand"):
            await elsewhere(agents, Errand(budget="acme/run", on_exhausted="fail"))
    [row] = await rows_of(site, "acme/run")
    assert row.run == "an-errand"
    agent = await agents.start_workflow(Buys.run, Errand(budget="acme/of-agent"), id=f"r-{uuid4()}", task_queue=QUEUE)
    await agent.result()
    [row] = await rows_of(site, "acme/of-agent")
    assert row.run == run_id_of_root(agent.id, agent.result_run_id or "")
    await settled_books(site)


async def test_it_counts_for_several_budgets(site: Site, agents: Client) -> None:
    before = (await site.balance("budget:tools")).posted_nanos
    await elsewhere(agents, Errand(budget="acme/several", also="tools/search"))
    [row] = await rows_of(site, "acme/several")
    assert row.budgets == ("acme/several", "tools/search")
    assert (await site.balance("budget:tools")).posted_nanos == before + FEE
    await settled_books(site)


@pytest.mark.parametrize("buyer", [in_a_workflow, elsewhere])
async def test_a_buyer_that_says_nothing_may_have_paid(site: Site, agents: Client, buyer: Buyer) -> None:
    """It stays charged at the most that it can have cost, until somebody resolves it."""
    budget = f"acme/silent-{buyer.__name__}"
    with pytest.raises((RuntimeError, WorkflowFailureError)):
        await buyer(agents, Errand(budget=budget, fails=True))

    async def stored() -> bool:
        return bool(await rows_of(site, budget))

    await until(stored, "its row is stored")
    [row] = await rows_of(site, budget)
    assert (row.state, row.status, row.cost_nanos, row.error_class) == ("unconfirmed", "unknown", UP_TO, "not_told")
    listed = (await site.document("unconfirmed", "list", "--json"))["attempts"]
    assert row.attempt_id in [each["attempt_id"] for each in listed]
    posted = (await site.balance("budget:acme")).posted_nanos
    await site.command("unconfirmed", "resolve", row.attempt_id, "--cost", "0.02")
    assert (await site.balance("budget:acme")).posted_nanos == posted - 30_000_000
    await settled_books(site)


@pytest.mark.parametrize("buyer", [in_a_workflow, elsewhere])
async def test_without_money_it_is_denied_and_nothing_is_bought(
    site: Site, agents: Client, shop: FakeService, buyer: Buyer
) -> None:
    await elsewhere(agents, Errand(budget="poor")) if buyer is in_a_workflow else None
    count = shop.count
    errand = Errand(budget="poor", shop=shop.base_url, on_exhausted="fail")
    if buyer is in_a_workflow:
        assert await buyer(agents, errand) == ["denied", "cap_reached"]
    else:
        with pytest.raises(
            PurchaseDenied, match=r"cap_reached: search: it can cost up to \$0.05; budget:poor has a cap of"
        ):
            await buyer(agents, errand)
    assert shop.count == count
    await settled_books(site)


@pytest.mark.parametrize("buyer", [in_a_workflow, in_an_activity, elsewhere])
async def test_it_waits_for_money_and_goes_on_when_there_is_some(site: Site, agents: Client, buyer: Buyer) -> None:
    """Of an activity also when it times out meanwhile: its next attempt waits for the same purchase."""
    async with purchase("waits/first", up_to="0.06", what="search", client=agents) as first:
        waiting = asyncio.ensure_future(buyer(agents, Errand(budget="waits")))

        async def parked() -> bool:
            return (await site.ledger.status()).parked == 1

        await until(parked, "it is parked")
        if buyer is in_an_activity:
            await until(lambda: is_asked_twice(agents), "its activity is tried again")
            assert await parked()
        first.nothing()
    await waiting
    await settled_books(site)
    await site.ledger.raise_cap(RaiseCap(account="budget:waits", window="total", by="0.012"))
    assert [row.cost_nanos for row in (await rows_of(site, "waits"))[-1:]] == [FEE]


@pytest.mark.parametrize("buyer", [in_a_workflow, elsewhere])
async def test_one_that_is_given_up_leaves_no_hold(site: Site, agents: Client, buyer: Buyer) -> None:
    async def parked() -> int:
        return (await site.ledger.status()).parked

    async def nobody() -> bool:
        return await parked() == 0

    errand = Errand(budget="given-up", up_to="0.9")
    async with purchase("given-up", up_to="0.9", what="search", client=agents) as first:
        if buyer is in_a_workflow:
            agent = await agents.start_workflow(Buys.run, errand, id=f"buyer-{uuid4()}", task_queue=QUEUE)
            await until(parked, "it is parked")
            await agent.cancel()
        else:
            waiting = asyncio.ensure_future(buyer(agents, errand))
            await until(parked, "it is parked")
            waiting.cancel()
        await until(nobody, "nobody waits any more")
        first.nothing()
    await settled_books(site)


async def test_the_tool_of_the_page(
    site: Site, agents: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paid_tool.py").write_text(snippets("budgets.md")["paid_tool.py"])
    monkeypatch.syspath_prepend(tmp_path)
    tool = importlib.import_module("paid_tool").search
    found = await ActivityEnvironment(client=agents).run(tool, "tides")
    assert found == "what is known of tides"
    [row] = await rows_of(site, "acme/research")
    assert (row.service, row.cost_nanos) == ("web-search", FEE)


async def test_bad_amounts_and_two_words_are_refused(agents: Client) -> None:
    with pytest.raises(ValueError, match="not exact"):
        purchase("acme", up_to=0.05, what="search", client=agents)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="up_to_nanos"):
        purchase("acme", up_to="0", what="search", client=agents)
    with pytest.raises(ValueError, match="a purchase needs a client"):
        await purchase("acme", up_to="1", what="search").__aenter__()
    async with purchase("acme/two-words", up_to="0.1", what="search", client=agents) as bought:
        bought.cost("0.01")
        with pytest.raises(PurchaseEnded, match="two fees are two purchases"):
            bought.cost("0.01")
    assert bought.result is not None
    assert bought.result.cost_nanos == 10_000_000


async def test_one_that_an_admin_ends_says_so_to_its_buyer(site: Site, agents: Client) -> None:
    async def buyer() -> None:
        async with purchase("acme/ended", up_to="0.1", what="search", client=agents) as bought:
            handle = agents.get_workflow_handle(f"purchase/{bought.id}")
            await handle.cancel()

            async def over() -> bool:
                return (await handle.describe()).status is WorkflowExecutionStatus.CANCELED

            await until(over, "its workflow has ended")
            bought.cost("0.01")

    with pytest.raises(PurchaseEnded, match="unconfirmed resolve"):
        await buyer()
    [row] = await rows_of(site, "acme/ended")
    assert (row.state, row.cost_nanos) == ("unconfirmed", 100_000_000)
    await settled_books(site)
