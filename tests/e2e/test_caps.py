"""Promise 1 and promise 6 under load: 200 calls at once, two worker processes, money for 20."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService, Received
from paymaster_process import (
    Databases,
    Site,
    balance_of,
    caps_watched,
    configuration,
    results_of,
    running_site,
    settled_books,
    until,
)
from temporalio.client import Client, WorkflowHandle

from paymaster import LLMRequest, LLMResult, Outcome
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS
from paymaster.client import start
from paymaster.devstack import EmbeddedStack
from paymaster.devstack.temporal_binary import temporal_binary
from paymaster.errors import LedgerNotFound
from paymaster.messages import RaiseCap
from paymaster.providers.bounds import input_bytes
from paymaster.values.money import TokenUsage, nanos_to_usd

pytestmark = pytest.mark.timeout(180)
CALLS, PAID = 200, 20
OUTPUT_TOKENS = 100


def ask(name: str, number: int, on_exhausted: str) -> LLMRequest:
    """All requests are of one length, so that they have one bound."""
    return LLMRequest.model_validate(
        {
            "route": name,
            "budget": f"acme/{name}",
            "prompt": f"question {number:04}",
            "max_output_tokens": OUTPUT_TOKENS,
            "on_exhausted": on_exhausted,
        }
    )


USAGE_MAX = TokenUsage(
    input_tokens=input_bytes(ask("equal", 0, "fail")) + INPUT_OVERHEAD_TOKENS, output_tokens=OUTPUT_TOKENS
)
BOUND_NANOS = USAGE_MAX.input_tokens * 1_000 + USAGE_MAX.output_tokens * 4_000
CAP_NANOS = PAID * BOUND_NANOS


def as_much_as_allowed(request: Received) -> TokenUsage:
    return USAGE_MAX


def less_than_allowed(request: Received) -> TokenUsage:
    """Between a fifth and all of it, the same for the same question."""
    draw = random.Random(request.prompt)
    return TokenUsage(
        input_tokens=draw.randint(USAGE_MAX.input_tokens // 5, USAGE_MAX.input_tokens),
        output_tokens=draw.randint(OUTPUT_TOKENS // 5, OUTPUT_TOKENS),
    )


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    """Two worker processes. Each test has a budget and a service of its own name."""
    names = ("equal", "smaller", "raised-60", f"raised-{CALLS}")
    tables = configuration(
        [server.service(name) for name in names],
        budgets={f"acme/{name}": {"cap_usd": {"total": str(nanos_to_usd(CAP_NANOS))}} for name in names},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables, workers=2) as site:
        yield site


async def start_all(
    site: Site, service: FakeService, on_exhausted: str, count: int
) -> list[WorkflowHandle[object, LLMResult]]:
    requests = [ask(service.name, number, on_exhausted) for number in range(count)]
    assert {site.bound_nanos(service, request) for request in requests} == {BOUND_NANOS}
    return list(await asyncio.gather(*(start(site.client, request) for request in requests)))


async def until_through(site: Site, service: FakeService, count: int, through: int) -> int:
    """Waits until so many of `count` calls have come through, all others are parked, and each attempt that is not at
    the service is settled.

    Returns how many attempts Temporal started and gave to no worker, as it does when it is short of processor
    (docs/performance.md). Each stays charged at its bound, and its call waits with the others.
    """
    found = (0, 0, 0, 0, 0)

    async def so_many() -> bool:
        nonlocal found
        try:
            status = await site.ledger.status()
        except LedgerNotFound:  # 200 calls have begun: it did not answer in time
            return False
        posted = balance_of(status, f"budget:acme/{service.name}", "total").posted_nanos
        answered_nanos = 0 if service.held else service.bill_nanos(site.price(service))
        lost, rest = divmod(posted - answered_nanos, BOUND_NANOS)
        found = (status.parked, status.holds, service.count, lost, rest)
        return found == (count - through + lost, service.held, through - lost, lost, 0)

    try:
        await until(so_many, f"{through} of {count} calls are through, the others parked", 90)
    except AssertionError as error:
        error.add_note(f"parked, holds, requests, lost, posted in between: {found}")
        raise
    return found[3]


@pytest.mark.parametrize(
    ("name", "usage"),
    [("equal", as_much_as_allowed), pytest.param("smaller", less_than_allowed, marks=pytest.mark.full)],
)
async def test_200_calls_at_once_spend_the_cap_for_20_and_never_more(
    site: Site, server: CountingServer, name: str, usage: Callable[[Received], TokenUsage]
) -> None:
    """What the service billed never passes the cap, and nobody is refused while money is only on hold."""
    service = server.service(name)
    service.usage = usage
    service.hold()
    async with caps_watched(site):
        calls = await start_all(site, service, "fail", CALLS)
        lost = await until_through(site, service, CALLS, PAID)  # with `fail` too: money may come back
        assert service.held == PAID - lost
        service.release()
        results = await results_of(calls)
    await settled_books(site, service)

    completed = [result for result in results if result.outcome is Outcome.COMPLETED]
    denied = [result for result in results if result.outcome is Outcome.DENIED]
    assert len(completed) + len(denied) == CALLS
    assert {result.reason for result in denied} == {"cap_reached"}
    assert service.count == len(completed), "a denied call was sent, or one was sent twice"
    assert service.in_flight_max == PAID - lost
    bill = service.bill_nanos(site.price(service)) + lost * BOUND_NANOS
    assert bill <= CAP_NANOS
    balance = await site.balance(f"budget:acme/{name}")
    assert balance.posted_nanos == bill == sum(result.cost_nanos for result in results)
    assert CAP_NANOS - balance.posted_nanos < BOUND_NANOS, "calls were denied although another one would have fitted"
    assert len(completed) == PAID - lost if name == "equal" else len(completed) > PAID - lost
    print(f"{name}: {len(completed)} of {CALLS} completed, {lost} attempts lost")


@pytest.mark.parametrize("count", [60, pytest.param(CALLS, marks=pytest.mark.full)])
async def test_parked_calls_go_on_as_the_cap_is_raised_by_plain_json_the_temporal_command_and_an_update(
    site: Site, server: CountingServer, count: int
) -> None:
    """Each raise by k bounds lets k calls more through, the rest stays parked, and in the end all complete."""
    name = f"raised-{count}"
    service = server.service(name)
    service.usage = as_much_as_allowed
    account = f"budget:acme/{name}"
    async with caps_watched(site):
        calls = await start_all(site, service, "wait", count)
        await until_through(site, service, count, PAID)

        # As the Temporal UI does it: no converter of ours, just JSON.
        plain = await Client.connect(site.temporal_address, namespace=site.namespace)
        by = str(nanos_to_usd(7 * BOUND_NANOS))
        await plain.get_workflow_handle("budget/default").signal(
            "raise_cap", {"account": account, "window": "total", "by": by, "reason": "more to write"}
        )
        await until_through(site, service, count, PAID + 7)

        raise_cap = {"account": account, "window": "total", "by": str(nanos_to_usd(5 * BOUND_NANOS)), "reason": "more"}
        await signal_with_temporal_command(site, json.dumps(raise_cap))
        await until_through(site, service, count, PAID + 12)

        # Less than one bound more, twice: it adds up.
        half = nanos_to_usd(BOUND_NANOS - BOUND_NANOS // 2)
        for through in (PAID + 12, PAID + 13):
            await site.ledger.raise_cap(RaiseCap(account=account, window="total", by=str(half)))
            await until_through(site, service, count, through)

        rest = nanos_to_usd(count * BOUND_NANOS)  # more than the rest costs: some may be charged twice
        state = await site.ledger.raise_cap(RaiseCap(account=account, window="total", by=str(rest), reason="all of it"))
        assert (state.cap_nanos or 0) >= count * BOUND_NANOS
        results = await results_of(calls)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert service.count == count
    assert sum(result.waited_ms > 0 for result in results) >= count - PAID
    await settled_books(site, service)


async def signal_with_temporal_command(site: Site, message: str) -> None:
    """What an admin types who has nothing but Temporal's own command."""
    binary = await temporal_binary()
    address = ["--address", site.temporal_address, "--namespace", site.namespace]
    signal = ["workflow", "signal", "--workflow-id", "budget/default", "--name", "raise_cap", "--input", message]
    process = await asyncio.create_subprocess_exec(
        binary, *signal, *address, cwd=site.folder, env=site.environment, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
