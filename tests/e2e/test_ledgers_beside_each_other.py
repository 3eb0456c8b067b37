"""Three ledgers in one namespace and on one database: none takes another's calls, recalls, rows or bodies.

Their budgets, routes, calls and clients have the same names, so that whatever is mixed up is seen: each ledger has a
service of its own, which says whose it is. The default one has the names of version 0.1.0.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from agent_workflows import OneQuestion, agents_running
from counting_server import CountingServer, FakeService
from gateway_process import KEY, client_table, running_gateway
from neighbour_ledgers import neighbour, recalls_of
from nexus_agents import Asks
from nexus_callers import CALLERS_TASK_QUEUE, callers_of, make_endpoint
from old_version import unpack
from paymaster_process import (
    Databases,
    Site,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
    write_configuration,
)
from sqlalchemy import text
from temporalio.client import WorkflowHandle

import paymaster
from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.client import generate, standing, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import DeskConfig, EndpointRequest, LedgerStart, RaiseCap
from paymaster.values.money import TokenUsage

pytestmark = pytest.mark.timeout(280)
NAMES = ("default", "acme", "zoo")
SMALL = "acme/small"
"""A budget in which one call leaves too little for another."""
AT_ONCE = 10
PARKED = 3
NUMBERS = itertools.count(1)


class Place(NamedTuple):
    """One of the ledgers."""

    site: Site
    service: FakeService

    @property
    def name(self) -> str:
        return self.site.settings.ledger.name

    async def parked(self) -> int:
        return (await self.site.ledger.status()).parked

    async def raise_small(self) -> None:
        change = RaiseCap(account=f"budget:{SMALL}", window="total", by="1", reason="for all of it")
        await self.site.ledger.raise_cap(change)


def tables_of(name: str, service: FakeService) -> dict[str, object]:
    budgets = {"acme": {"cap_usd": {"total": "1"}}, SMALL: {"cap_usd": {"total": "0.002"}}}
    service.usage = lambda request: TokenUsage(input_tokens=1_000, output_tokens=50)
    service.text = lambda request: f"{name} says"
    return configuration([service], budgets=budgets, routes={"writer": [service]}, ledger={"name": name})


@pytest.fixture
async def places(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, tmp_path: Path
) -> AsyncIterator[list[Place]]:
    """The ledgers, without workers yet."""
    number = next(NUMBERS)
    services = [server.service(f"{name}-{number}") for name in NAMES]
    tables = [tables_of(name, service) for name, service in zip(NAMES, services, strict=True)]
    async with AsyncExitStack() as running:
        database_url, folder = await databases.create(), tmp_path / "site"
        first = running_site(stack.temporal_address, database_url, folder, tables[0], workers=0)
        site = await running.enter_async_context(first)
        others = [
            await running.enter_async_context(neighbour(site, tmp_path / name, each))
            for name, each in zip(NAMES[1:], tables[1:], strict=True)
        ]
        yield [Place(*each) for each in zip([site, *others], services, strict=True)]


def ask(call_id: str, budget: str = "acme") -> LLMRequest:
    return LLMRequest(route="writer", budget=budget, prompt="Hello", call_id=call_id)


async def park(place: Place) -> list[WorkflowHandle[object, LLMResult]]:
    """Has calls parked; their ids are the same in every ledger."""
    await generate(place.site.client, ask("uses it up", SMALL))
    waiting = [await start(place.site.client, ask(f"waits-{number}", SMALL)) for number in range(PARKED)]

    async def all_wait() -> bool:
        return await place.parked() == PARKED

    await until(all_wait, f"the calls of {place.name} are parked")
    return waiting


async def at_once(place: Place) -> None:
    """Calls of a program and of agents, and purchases."""
    client, queue = place.site.client, f"agents-of-{place.name}"

    async def buy(fee: str) -> None:
        async with paymaster.purchase("acme", up_to="0.01", what="search", client=client) as bought:
            bought.cost(fee)

    async with agents_running(client, queue):
        agents = [
            client.execute_workflow(
                OneQuestion.run, ask(f"agent-{number}"), id=f"agent-{number}-of-{place.name}", task_queue=queue
            )
            for number in range(AT_ONCE)
        ]
        calls = [generate(client, ask(f"call-{number}")) for number in range(AT_ONCE)]
        results = await asyncio.gather(*agents, *calls, *(buy("0.001") for _ in range(3)))
    answered = [result for result in results if isinstance(result, LLMResult)]
    assert {(result.service, result.text) for result in answered} == {(place.service.name, f"{place.name} says")}
    assert len(answered) == 2 * AT_ONCE


async def rows_by_ledger(site: Site) -> dict[str, set[tuple[str, str]]]:
    """Of each ledger in the database, which services were charged for which calls."""
    query = text("SELECT ledger, service, call_id FROM usage_entries WHERE service NOT LIKE 'search'")
    found: dict[str, set[tuple[str, str]]] = {}
    async with site.engine.connect() as connection:
        for ledger, service, call_id in await connection.execute(query):
            found.setdefault(ledger, set()).add((service, call_id))
    return found


async def lose(place: Place) -> None:
    """Ends its ledger's workflow. The next call begins it anew."""
    await place.site.client.get_workflow_handle(f"budget/{place.name}").terminate("its state is lost")


async def check_recalls(places: list[Place], waiting: dict[str, list[WorkflowHandle[object, LLMResult]]]) -> None:
    """Who loses a ledger recalls its calls, and no other's."""
    recalled: dict[str, int] = dict.fromkeys(NAMES, 0)
    for place in (places[2], places[0]):
        await lose(place)
        await generate(place.site.client, ask(f"begins {place.name} anew"))
        recalled[place.name] = 1

        async def all_wait_again(place: Place = place) -> bool:
            seen = [await recalls_of(call) for call in waiting[place.name]]
            return seen == [1] * PARKED and await place.parked() == PARKED

        await until(all_wait_again, f"the calls of {place.name} were recalled")
        for name in NAMES:
            assert [await recalls_of(call) for call in waiting[name]] == [recalled[name]] * PARKED, name


async def check_raises(places: list[Place], waiting: dict[str, list[WorkflowHandle[object, LLMResult]]]) -> None:
    """A raised cap lets its own ledger's calls go on."""
    left = {place.name: PARKED for place in places}
    for place in places:
        await place.raise_small()
        results = await results_of(waiting[place.name])
        assert {(each.outcome, each.service) for each in results} == {(Outcome.COMPLETED, place.service.name)}
        left[place.name] = 0
        assert {each.name: await each.parked() for each in places} == left


async def check_commands(places: list[Place]) -> None:
    """Each command shows its own ledger's, by the configuration or by `--ledger`."""
    for place in places:
        rows = (await place.site.document("calls", "list", "--limit", "1000"))["calls"]
        assert len({row["call_id"] for row in rows}) == len(rows) >= 2 * AT_ONCE
        asked = {row["asked"].partition("/")[0] for row in rows if row["asked"]}  # else: before it was registered
        assert asked == {place.service.name}
        shown = await place.site.document("calls", "show", "waits-0")
        assert [attempt["service"] for attempt in shown["attempts"]] == [place.service.name]
        assert (await place.site.command("reconcile")).code == 0
        for name in ("budget", "show"), ("usage",):
            assert (await place.site.document(*name))["ledger"] == place.name
            by_name = await places[0].site.document(*name, "--ledger", place.name)
            assert by_name["ledger"] == place.name
        if (await place.site.ledger.status()).rules > 1:  # not of one that began anew beside an older worker
            assert (await standing(place.site.client, SMALL)).accounts
    assert "no run with limits is in use now" in (await places[0].site.command("runs", "list")).errors
    told = (await places[0].site.command("doctor", "--ledger", "nobody")).output
    assert "in this namespace run the ledgers acme, default, zoo" in told


async def test_three_ledgers_take_nothing_of_each_other(places: list[Place]) -> None:
    assert (await places[0].site.command("migrate")).code == 0  # for the search attributes
    await asyncio.gather(*(place.site.start_workers() for place in places))
    parked = await asyncio.gather(*map(park, places))
    await check_all(places, dict(zip(NAMES, parked, strict=True)))


@pytest.mark.full
async def test_a_ledger_of_0_1_0_goes_on_beside_others(places: list[Place], tmp_path: Path) -> None:
    """It is begun, and its calls are parked, by the version before ledgers had names."""
    old_version, site = unpack(tmp_path / "0.1.0"), places[0].site
    assert (await site.command("migrate", "--way-back")).code == 0
    (old,) = await site.start_workers(program=[old_version.worker])
    parked_before = await park(places[0])
    assert (await site.command("migrate")).code == 0
    await asyncio.gather(*(place.site.start_workers() for place in places))
    assert await old.terminate() == 0
    assert (await site.command("upgrade", "--force")).code == 0  # Temporal still counts the one that has just ended
    parked = await asyncio.gather(*map(park, places[1:]))
    await check_all(places, dict(zip(NAMES, [parked_before, *parked], strict=True)))


async def test_a_named_ledger_of_0_1_0_is_told_of_and_not_waited_for(places: list[Place]) -> None:
    """It runs where no worker of this version looks for it."""
    site = places[1].site
    begin = LedgerStart(ledger="acme", config=DeskConfig(digest="of 0.1.0"))
    await site.client.start_workflow("BudgetWorkflow", begin, id="budget/acme", task_queue="paymaster-ledger")
    worker = site.launch_worker()
    assert await worker.process.wait(timeout=90) == 2, "its configuration cannot be used"
    advice = "temporal workflow terminate --workflow-id budget/acme"
    assert advice in worker.log()

    async def doctor_says_so() -> bool:
        return advice in (await site.command("doctor")).output

    await until(doctor_says_so, "visibility has the ledger, and doctor says what is wrong", 60)
    await site.client.get_workflow_handle("budget/acme").terminate("as it says")
    await site.start_workers()
    assert (await generate(site.client, ask("one"))).service == places[1].service.name


async def check_all(places: list[Place], waiting: dict[str, list[WorkflowHandle[object, LLMResult]]]) -> None:
    await asyncio.gather(*map(at_once, places))
    assert [await place.parked() for place in places] == [PARKED] * len(places)
    await check_recalls(places, waiting)
    await check_raises(places, waiting)
    for place in places:
        await settled_books(place.site, place.service)
    rows = await rows_by_ledger(places[0].site)
    for place in places:
        assert {service for service, _ in rows[place.name]} == {place.service.name}
        assert {f"waits-{number}" for number in range(PARKED)} <= {call_id for _, call_id in rows[place.name]}
        assert len(place.service.billed) == len(rows[place.name])
    assert rows.keys() == set(NAMES)
    await check_commands(places)


async def test_gateways_and_endpoints_lead_to_their_own_ledger(places: list[Place]) -> None:
    """One key of a client, and one call id, in each of two ledgers."""
    for place in places[:2]:
        endpoint = f"{place.service.name}-calls"
        asked_by = {
            "gateway": {"clients": {"tester": client_table(KEY, "acme")}},
            "nexus": {"endpoints": {endpoint: {"budget": "acme"}}},
        }
        write_configuration(place.site.folder / "paymaster.toml", tables_of(place.name, place.service) | asked_by)
        await place.site.start_workers()
        async with running_gateway(place.site) as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
            headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "one"}
            body = {"model": "writer", "messages": [{"role": "user", "content": "Hello"}]}
            answers = [await http.post("/v1/chat/completions", headers=headers, json=body) for _ in range(2)]
            call_id = answers[0].headers["x-paymaster-call-id"]
            found = await http.get(f"/v1/paymaster/calls/{call_id}", headers=headers)
        for answer in (*answers, found):
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == f"{place.name} says"
        assert place.service.count == 1, "one key is one bill"

        await make_endpoint(place.site, endpoint)
        async with callers_of(place.site) as caller:
            request = EndpointRequest(route="writer", prompt="Hello", call_id="one")
            result = await caller.execute_workflow(
                Asks.run, args=[endpoint, request], id=f"asks-{endpoint}", task_queue=CALLERS_TASK_QUEUE
            )
        assert result.service == place.service.name
    assert [place.service.count for place in places] == [2, 2, 0]
