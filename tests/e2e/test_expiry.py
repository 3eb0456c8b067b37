"""Promises 2 and 5: a hold that nobody settles ends as spending that nobody confirmed, and a late bill corrects it."""

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService
from paymaster_process import Databases, Site, balance_of, configuration, running_site, settled_books, until
from stored_rows import entries_of_call
from temporalio.testing import ActivityEnvironment

from activities.reserve import ReserveActivities
from activities.run_roots import RunRoots
from activities.used_call_ids import UsedCallIds
from paymaster import LLMRequest, Outcome
from paymaster.client import Backlog, start
from paymaster.devstack import EmbeddedStack
from paymaster.ledger.commits import ledger_commits
from paymaster.messages import CallRef, Ended, Granted, ReserveRequest
from paymaster.settings.desk_config import desk_config

pytestmark = pytest.mark.timeout(90)
EXPIRES_AFTER_S = 2.0
ANSWER_NANOS = 12 * 1_000 + 5 * 4_000  # the server's usual usage at its usual price


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, server: CountingServer, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [server.service("expiring"), server.service("late")],
        budgets={"acme": {"cap_usd": {"total": "1"}}},
        service={"timeout": "1s", "retry": {"maximum_attempts": 1}},
        ledger={"hold_expires_after": f"{EXPIRES_AFTER_S:.0f}s"},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


@pytest.fixture
def service(request: pytest.FixtureRequest, server: CountingServer) -> FakeService:
    return server.service("late" if "late" in request.node.name else "expiring")


def ask(service: FakeService) -> LLMRequest:
    return LLMRequest(route=service.name, budget="acme/writer", prompt="Say hello", call_id=service.name)


async def unconfirmed(site: Site) -> int:
    return (await site.ledger.status()).unconfirmed


async def test_the_hold_of_a_terminated_call_expires_at_its_bound(site: Site, service: FakeService) -> None:
    """Nobody is left to say what it cost: the bound stays charged, as an unconfirmed row, and the books agree."""
    service.hold()
    call = await start(site.client, ask(service))
    await until(lambda: service.held == 1, "the call is in flight")
    bound = site.bound_nanos(service, ask(service))
    balance = await site.balance("budget:acme")
    assert (balance.posted_nanos, balance.pending_nanos) == (0, bound)
    await call.terminate("somebody's mistake")
    assert (await site.ledger.status()).holds == 1, "the hold was freed although the request may be billed"

    await until(lambda: unconfirmed(site), "the hold expires")
    service.release()
    status = await settled_books(site, service)
    assert status.unconfirmed == 1
    assert (await site.balance("budget:acme")).posted_nanos == bound
    (entry,) = await entries_of_call(site.engine, service.name)
    assert entry.attempt_id == f"{call.first_execution_run_id}/1/expiry"
    assert (entry.state, entry.status) == ("unconfirmed", "expired")
    assert (entry.cost_nanos, entry.started_at_ms, entry.usage) == (bound, None, None)


async def test_a_settlement_that_comes_late_is_not_charged_twice(site: Site, service: FakeService) -> None:
    """The worker slept longer than the hold lived. Its own report replaces the expiry, in the books and in the rows."""
    before = await site.ledger.status()
    service.hold()
    call = await start(site.client, ask(service))
    await until(lambda: service.held == 1, "the call is in flight")
    granted = time.monotonic()
    site.workers[0].process.send_signal(signal.SIGSTOP)
    await until(lambda: time.monotonic() > granted + EXPIRES_AFTER_S, "the hold's time is over")
    service.release()
    site.workers[0].process.send_signal(signal.SIGCONT)

    result = await call.result()
    assert result.outcome is Outcome.COMPLETED
    status = await settled_books(site, service)
    bound = site.bound_nanos(service, ask(service))
    entries = await entries_of_call(site.engine, service.name)
    assert {f"{entry.attempt_id.partition('/')[2]} {entry.state}": entry.cost_nanos for entry in entries} == {
        "1/expiry unconfirmed": bound,
        "1/expiry final": 0,
        "1/1 unconfirmed": bound,
        "2/1 final": ANSWER_NANOS,
    }
    assert result.cost_nanos == bound + ANSWER_NANOS
    assert status.unconfirmed == before.unconfirmed + 1
    assert (await site.balance(f"service:{service.name}")).posted_nanos == bound + ANSWER_NANOS


async def test_a_hold_that_is_given_back_late_is_charged_nowhere(site: Site, service: FakeService) -> None:
    """Its worker died with the grant in its hands and came back to a cancelled call: nothing was ever sent.

    Last in this file: should the books disagree, they stay so.
    """
    await settled_books(site)
    before = await site.ledger.status()
    config = desk_config(site.settings)
    commits = ledger_commits(site.ledger, config)
    backlog, roots = Backlog(site.client, site.ledger.name), RunRoots(site.client)
    used = UsedCallIds(site.client, site.engine, site.ledger.name)
    reservations = ReserveActivities(site.settings, commits, backlog, roots, used)
    now_ms = int(time.time() * 1000)
    request = ReserveRequest(
        hold_id="lost-run/1",
        call=CallRef(workflow_id="call/lost", run_id="lost-run"),
        route=service.name,
        budget="acme/writer",
        input_bytes=100,
        max_output_tokens=100,
        on_exhausted="fail",
        wait_at_most_ms=None,
        started_at_ms=now_ms,
        asked_at_ms=now_ms,
        priority=0,
    )
    # The two activities as the call workflow would run them; no workflow, because it could not be stopped in between.
    reservation = await ActivityEnvironment().run(reservations.reserve, request)
    assert isinstance(reservation.answer, Granted)

    async def expired() -> bool:
        status = await site.ledger.status()
        return status.unconfirmed == before.unconfirmed + 1 and status.outbox == 0

    await until(expired, "the hold expires")
    assert isinstance((await ActivityEnvironment().run(reservations.reserve, request)).answer, Ended)
    await ActivityEnvironment().run(reservations.void, request.hold_id)
    status = await settled_books(site)
    assert status.unconfirmed == before.unconfirmed
    assert balance_of(status, "budget:acme") == balance_of(before, "budget:acme")
