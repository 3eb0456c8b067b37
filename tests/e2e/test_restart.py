"""A budget workflow that begins without a state: what was spent and what admins raised comes back from the database."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Site, configuration, results_of, running_site, settled_books, until

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start
from paymaster.devstack import EmbeddedStack
from paymaster.messages import DeskStatus, RaiseCap, SetCap
from paymaster.values.money import TokenUsage, nanos_to_usd, usd_to_nanos

pytestmark = pytest.mark.timeout(90)
CAPS = {"hour": "0.5", "day": "0.6", "month": "0.7", "total": "0.8"}
"""No minute: it would end during the test."""
NUMBERS = itertools.count(1)
RAISED = {"hour": "0.6", "day": "0.9", "month": "0.75", "total": "9"}


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    service = server.service(f"restarted-{next(NUMBERS)}")
    service.usage = lambda request: TokenUsage(input_tokens=101 + request.number, output_tokens=request.number % 7)
    return service


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": CAPS}, "acme/content": {"cap_usd": {"day": "0.3"}}},
        service={"cap_usd": {"total": "5"}},
    )
    await until(lambda: time.time() % 3_600 < 3_570, "the hour does not end during the test", 40)
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def ask(number: int) -> LLMRequest:
    budget = ("acme", "acme/content", "acme/content/writer")[number % 3]
    return LLMRequest(route="writer", budget=budget, prompt=f"question {number}", max_output_tokens=20)


async def raise_all(site: Site) -> None:
    """A raise, two that lapse with their window, and a cap that is set, from one to the other."""
    account = "budget:acme"
    await site.ledger.raise_cap(RaiseCap(account=account, window="hour", by="0.1", until_window_end=True))
    await site.ledger.raise_cap(RaiseCap(account=account, window="day", by="0.2", until_window_end=True))
    await site.ledger.raise_cap(RaiseCap(account=account, window="day", by="0.1"))
    await site.ledger.raise_cap(RaiseCap(account=account, window="month", by="0.05"))
    await site.ledger.set_cap(SetCap(account=account, window="total", to="9"))
    await site.ledger.set_cap(SetCap(account="budget:acme/new", window="day", to="0.000000001"))


def books(status: DeskStatus) -> dict[tuple[str, str], tuple[int | None, str, int, int]]:
    """What must be the same in every epoch."""
    return {
        (account.account, window.window): (
            window.cap_nanos,
            window.cap_from,
            window.posted_nanos,
            window.pending_nanos,
        )
        for account in status.accounts
        for window in account.windows
    }


async def loaded(site: Site, epoch: str) -> DeskStatus:
    """The status of the next epoch, when it has read what was spent."""
    status = await site.ledger.status()

    async def known() -> bool:
        nonlocal status
        status = await site.ledger.status()
        return status.epoch != epoch and not any(account.loading for account in status.accounts)

    await until(known, "the new ledger knows what was spent")
    return status


async def test_everything_that_was_spent_and_raised_comes_back_after_the_ledger_was_lost(
    site: Site, service: FakeService
) -> None:
    """To the nano-dollar, for all windows, with the raises that last until the end of a window that still runs."""
    calls = [await start(site.client, ask(number)) for number in range(30)]
    await results_of(calls)
    await raise_all(site)
    before = await settled_books(site, service)
    await site.client.get_workflow_handle("budget/default").terminate("the namespace is lost")

    # The next call starts a new one.
    result = await generate(site.client, ask(30))
    after = await loaded(site, before.epoch)
    assert await settled_books(site, service)
    assert after.epoch != before.epoch
    expected = books(before)
    assert {(a, w) for a, w in expected if a == "budget:acme"} == {("budget:acme", window) for window in CAPS}
    for (account, window), (cap, source, posted, pending) in list(expected.items()):
        charged = account in ("budget:acme", f"service:{service.name}")
        expected[account, window] = (cap, source, posted + (result.cost_nanos if charged else 0), pending)
    assert books(await site.ledger.status()) == expected
    caps = {window: usd_to_nanos(usd) for window, usd in RAISED.items()}
    assert {w: (await site.balance("budget:acme", w)).cap_nanos for w in ("hour", "day", "month", "total")} == caps


async def test_calls_in_flight_when_the_ledger_was_lost_are_neither_dropped_nor_counted_twice(
    site: Site, service: FakeService
) -> None:
    """Ten settle into the new books, under holds of the old ones; meanwhile others are granted by the new ledger."""
    await results_of([await start(site.client, ask(number)) for number in range(5)])
    before = await settled_books(site, service)
    service.hold()
    old = [await start(site.client, ask(number)) for number in range(10)]
    await until(lambda: service.held == 10, "ten calls are in flight")
    await site.client.get_workflow_handle("budget/default").terminate("the namespace is lost")

    new = [await start(site.client, ask(number)) for number in range(6)]
    await until(lambda: service.held == 16, "the new ledger grants")
    status = await loaded(site, before.epoch)
    assert status.holds == 6, "the new ledger cannot know of the others"
    posted = {account: row[2] for (account, window), row in books(before).items() if window == "total"}
    assert {account: row[2] for (account, window), row in books(status).items() if window == "total"} == posted

    service.release(5)  # of the old ones: while the six are held, what is spent is read again
    ends = [asyncio.create_task(call.result()) for call in old]
    await until(lambda: sum(end.done() for end in ends) == 5, "five have settled under holds of the old ledger")
    status = await loaded(site, before.epoch)
    assert status.holds == 6
    service.release()
    results = await results_of([*old, *new])
    await asyncio.gather(*ends)
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    status = await settled_books(site, service)
    charged = posted[f"service:{service.name}"] + sum(result.cost_nanos for result in results)
    assert (await site.balance(f"service:{service.name}")).posted_nanos == charged
    assert (await site.balance("budget:acme")).posted_nanos == charged
    assert [alert for alert in await site.alerts() if alert["what"] == "unknown_hold"] == []
    agree = await site.document("reconcile")
    assert (agree["agree"], agree["holds"]) == (True, 0)


async def test_calls_that_were_parked_when_the_ledger_was_lost_are_parked_again_and_go_on_after_a_raise(
    site: Site, service: FakeService
) -> None:
    request = ask(1).model_copy(update={"on_exhausted": "wait"})
    bound = str(nanos_to_usd(site.bound_nanos(service, request)))
    await site.ledger.set_cap(SetCap(account="budget:acme/content", window="day", to=bound))
    await generate(site.client, request)
    before = await settled_books(site, service)
    calls = [await start(site.client, request) for _ in range(5)]

    async def all_parked() -> bool:
        return (await site.ledger.status()).parked == 5

    await until(all_parked, "five calls wait for a raise")
    await site.client.get_workflow_handle("budget/default").terminate("somebody's mistake")
    await generate(site.client, ask(0))  # the next call starts a new one
    await loaded(site, before.epoch)
    await until(all_parked, "they are parked in the new ledger")
    await site.ledger.raise_cap(RaiseCap(account="budget:acme/content", window="day", by="0.3"))
    assert {result.outcome for result in await results_of(calls)} == {Outcome.COMPLETED}
    await settled_books(site, service)
    assert service.count == 7


async def test_another_namespace_with_the_same_database_and_ledger_goes_on_with_the_same_books(
    stack: EmbeddedStack, site: Site, service: FakeService, tmp_path: Path
) -> None:
    """What a team does that moves to another Temporal: what was lost there is nothing that was settled."""
    await results_of([await start(site.client, ask(number)) for number in range(6)])
    await raise_all(site)
    before = await settled_books(site, service)
    await site.workers[0].kill()
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": CAPS}, "acme/content": {"cap_usd": {"day": "0.3"}}},
        service={"cap_usd": {"total": "5"}},
    )
    async with running_site(stack.temporal_address, site.database_url, tmp_path / "moved", tables) as moved:
        assert moved.namespace != site.namespace
        after = await loaded(moved, before.epoch)
        assert books(after) == books(before)
        await generate(moved.client, ask(6))
        await settled_books(moved, service)
