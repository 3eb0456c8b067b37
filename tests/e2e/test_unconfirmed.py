"""What nobody knows is listed and resolved by a person, and `reconcile` finds and mends what does not agree."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService, Reply
from paymaster_process import Databases, Site, configuration, running_site, settled_books, until
from sqlalchemy import text
from stored_rows import entries_of_call, remove_rows
from temporalio.client import WorkflowFailureError

from paymaster import LLMRequest, Outcome
from paymaster.client import generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import PauseService, ResumeService, UsageEntry
from paymaster.storage.usage_rows import entries_of_attempt, insert_entries
from paymaster.values.money import nanos_to_usd, usd_to_nanos

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def service(server: CountingServer) -> FakeService:
    return server.service("unconfirmed")


@pytest.fixture(scope="module")
async def site(
    stack: EmbeddedStack, databases: Databases, service: FakeService, module_folder: Path
) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        budgets={"acme": {"cap_usd": {"total": "1", "month": "1"}}, "acme/writer": {"cap_usd": {"total": "0.5"}}},
        service={"timeout": "1s", "max_unconfirmed": 0, "retry": {"maximum_attempts": 1}},
        ledger={"hold_expires_after": "2s"},
    )
    async with running_site(stack.temporal_address, await databases.create(), module_folder, tables) as site:
        yield site


def ask(call_id: str) -> LLMRequest:
    return LLMRequest(route="unconfirmed", budget="acme/writer", prompt="Say hello", call_id=call_id)


async def a_lost_answer(site: Site, service: FakeService, call_id: str) -> None:
    """The connection is cut after the request: nobody knows whether it was billed."""
    service.script.append(Reply(cut=True))
    result = await try_generate(site.client, ask(call_id))
    assert (result.outcome, result.reason) == (Outcome.UNAVAILABLE, "connection_lost")


async def an_expired_hold(site: Site, service: FakeService, call_id: str) -> None:
    """The call's workflow is terminated in flight: nobody settles its hold."""
    service.hold()
    call = await start(site.client, ask(call_id))
    await until(lambda: service.held == 1, "the call is in flight")
    await call.terminate("somebody's mistake")

    async def expired() -> bool:
        return bool(await entries_of_call(site.engine, call_id))

    await until(expired, "the hold has expired")
    service.release()


@pytest.mark.parametrize(("lose", "cost"), [(a_lost_answer, "0.000123457"), (an_expired_hold, "0.02")])
async def test_a_person_resolves_what_nobody_knows_and_rows_and_books_agree(
    site: Site, service: FakeService, lose: Callable[[Site, FakeService, str], Awaitable[None]], cost: str
) -> None:
    """With the provider's bill in hand: below the bound, nothing at all, above it. Listed before, and not after."""
    call_id = f"{lose.__name__}-{cost}"
    before = (await settled_books(site)).unconfirmed
    posted = (await site.balance("budget:acme")).posted_nanos
    await lose(site, service, call_id)
    bound = site.bound_nanos(service, ask(call_id))
    status = await settled_books(site)
    assert status.unconfirmed == before + 1
    assert (await site.balance("budget:acme")).posted_nanos == posted + bound
    (entry,) = await entries_of_call(site.engine, call_id)
    listed = (await site.document("unconfirmed", "list"))["attempts"]
    assert [(each["attempt_id"], each["charged_usd"], each["call_id"]) for each in listed] == [
        (entry.attempt_id, str(nanos_to_usd(bound)), call_id)
    ]

    above = usd_to_nanos(cost) > bound
    if above:
        refused = await site.command("unconfirmed", "resolve", entry.attempt_id, "--cost", cost)
        assert (refused.code, "--force" in refused.errors) == (1, True), refused
        assert (await site.balance("budget:acme")).posted_nanos == posted + bound
    force = ["--force"] if above else []
    resolved = await site.document("unconfirmed", "resolve", entry.attempt_id, "--cost", cost, *force)
    assert resolved["posted"] is True
    assert (await site.document("unconfirmed", "list"))["attempts"] == []
    status = await settled_books(site)
    assert status.unconfirmed == before
    new = (await site.balance("budget:acme")).posted_nanos
    assert new - posted == usd_to_nanos(cost)
    assert {window: (await site.balance("budget:acme", window)).posted_nanos for window in ("month", "total")} == {
        "month": new,
        "total": new,
    }
    assert (await site.document("reconcile"))["agree"]
    too_much = await site.command("unconfirmed", "resolve", entry.attempt_id, "--cost", "1")
    assert (too_much.code, "--force" in too_much.errors) == (1, True)

    for corrected in ("0.000001", "0.000002"):  # a slip can be put right, up and down
        await site.document("unconfirmed", "resolve", entry.attempt_id, "--cost", corrected, "--reason", "a slip")

        async def is_posted(corrected: str = corrected) -> bool:
            return (await site.balance("budget:acme")).posted_nanos == posted + usd_to_nanos(corrected)

        await until(is_posted, "the books have the correction")
        assert (await site.document("reconcile"))["agree"]
    stored = await entries_of_attempt(site.engine, site.settings.ledger.name, entry.attempt_id)
    told = [[(line.kind, line.cost_nanos) for line in row.paid_for or ()] for row in stored]
    first = usd_to_nanos(cost)
    slips = (usd_to_nanos("0.000001") - first, 1_000)
    assert told == [[("bound", bound)], [("resolved", first)], *([("resolved", slip)] for slip in slips)]
    never = await site.command("unconfirmed", "resolve", f"{entry.attempt_id}/x", "--cost", "0")
    assert (never.code, "is not an unconfirmed attempt" in never.errors) == (1, True)


async def test_what_a_running_call_will_say_itself_is_not_resolved_by_a_person(site: Site) -> None:
    """Its hold expired because its worker slept; if a person wrote down the cost, it would be there twice."""
    await site.ledger.pause_service(PauseService(service="unconfirmed"))
    call = await start(site.client, ask("asleep"))

    async def parked() -> bool:
        return (await site.ledger.status()).parked == 1

    await until(parked, "the call waits, and is running")
    entry = UsageEntry(
        attempt_id="asleep/expiry",
        state="unconfirmed",
        hold_id="asleep",
        call_id="asleep",
        workflow_id=call.id,
        run_id=call.first_execution_run_id or "",
        ledger=site.settings.ledger.name,
        epoch="",
        budget="acme/writer",
        service="unconfirmed",
        model="model-1",
        granted_at_ms=0,
        status="expired",
        cost_nanos=20_000_000,
        price_source="test",
    )
    await insert_entries(site.engine, [entry])
    refused = await site.command("unconfirmed", "resolve", entry.attempt_id, "--cost", "0.02")
    assert (refused.code, f"{call.id} is still running" in refused.errors) == (1, True), refused
    await call.cancel()
    with pytest.raises(WorkflowFailureError):
        await call.result()
    await site.ledger.resume_service(ResumeService(service="unconfirmed"))
    resolved = await site.document("unconfirmed", "resolve", entry.attempt_id, "--cost", "0")
    assert resolved["posted"] is True, "the ledger reads the row, though it never had a hold of this name"
    await settled_books(site)


@pytest.mark.parametrize("change", ["lost", "added"])
async def test_reconcile_finds_what_was_changed_behind_the_ledgers_back_and_repair_mends_it(
    site: Site, service: FakeService, change: str
) -> None:
    """A row is lost, or a row is there that was never posted: exit code 1 with the difference; then the rows count."""
    result = await generate(site.client, ask(f"reconciled-{change}"))
    await settled_books(site)
    posted = (await site.balance("budget:acme")).posted_nanos
    if change == "lost":
        await remove_rows(site.engine, "call_id = :call", call=f"reconciled-{change}")
    else:
        another = """
            INSERT INTO usage_entries (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget,
                                   service, model, granted_at, status, cost_usd, price_source, metadata)
            SELECT 'other', state, 'other', 'other', workflow_id, run_id, ledger, epoch, budget,
                   service, model, granted_at, status, cost_usd, price_source, metadata
            FROM usage_entries WHERE call_id = 'reconciled-added'
        """
        async with site.engine.begin() as connection:
            assert (await connection.execute(text(another))).rowcount == 1
    difference = -result.cost_nanos if change == "lost" else result.cost_nanos

    found = await site.command("reconcile")
    assert found.code == 1
    assert "3 of 3 accounts differ" in found.errors
    assert (await site.balance("budget:acme")).posted_nanos == posted, "reconcile alone must change nothing"
    if change == "lost":  # what was posted stays, until somebody accepts that the rows are right
        kept = await site.command("reconcile", "--repair")
        assert (kept.code, "--accept-lower" in kept.errors) == (1, True)
        assert (await site.balance("budget:acme")).posted_nanos == posted
        mended = await site.document("reconcile", "--accept-lower", "all", "--reason", "a row was lost")
    else:
        mended = await site.document("reconcile", "--repair")
    assert mended["agree"]
    for window in ("month", "total"):
        assert (await site.balance("budget:acme", window)).posted_nanos == posted + difference
    assert (await site.balance("budget:acme/writer")).posted_nanos == posted + difference
    assert (await generate(site.client, ask(f"after-{change}"))).outcome is Outcome.COMPLETED
    await settled_books(site)
