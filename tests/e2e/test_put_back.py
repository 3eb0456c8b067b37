"""PostgreSQL or Temporal put back to an earlier time, and both lost but for a backup: no cap forgets what was spent."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from counting_server import CountingServer, FakeService, Reply
from dumps import dump, empty, put_back
from paymaster_process import Site, configuration, results_of, running_site, settled_books, until
from sqlalchemy import text
from stored_rows import remove_rows

from paymaster import LLMRequest, Outcome
from paymaster.admission.desk import Desk
from paymaster.admission.state import DeskState
from paymaster.client import generate, start, try_generate
from paymaster.devstack import EmbeddedStack
from paymaster.messages import LEDGER_TASK_QUEUE, LedgerStart, RaiseCap
from paymaster.settings.desk_config import desk_config
from paymaster.storage.ledger_state_rows import load_spend
from paymaster.storage.status_rows import copied_accounts
from paymaster.storage.usage_rows import unconfirmed_entries

pytestmark = pytest.mark.timeout(180)
NUMBERS = itertools.count(1)


@pytest.fixture
def service(server: CountingServer) -> FakeService:
    return server.service(f"put-back-{next(NUMBERS)}")


@pytest.fixture
async def site(stack: EmbeddedStack, database_url: str, service: FakeService, tmp_path: Path) -> AsyncIterator[Site]:
    tables = configuration(
        [service],
        routes={"writer": [service]},
        budgets={"acme": {"cap_usd": {"month": "0.5", "total": "1"}}},
        service={"timeout": "1s", "max_unconfirmed": 0, "retry": {"maximum_attempts": 1}},
    )
    async with running_site(stack.temporal_address, database_url, tmp_path, tables) as site:
        yield site


def ask() -> LLMRequest:
    return LLMRequest(route="writer", budget="acme", prompt="Say hello")


async def spend(site: Site, calls: int) -> int:
    """Nano-dollars of so many calls."""
    results = await results_of([await start(site.client, ask()) for _ in range(calls)])
    return sum(result.cost_nanos for result in results)


async def loaded(site: Site) -> None:
    async def is_loaded() -> bool:
        return not any(account.loading for account in (await site.ledger.status()).accounts)

    await until(is_loaded, "the ledger has read what was spent")


async def put_database_back(site: Site, to_id: int) -> None:
    """Removes what was stored later: so a restored backup has it."""
    await remove_rows(site.engine, "id > :id", id=to_id)
    async with site.engine.begin() as connection:
        for table in ("cap_changes", "alerts"):
            await connection.execute(text(f"DELETE FROM {table} WHERE id > :id"), {"id": to_id})


async def last_id(site: Site) -> int:
    async with site.engine.connect() as connection:
        return await connection.scalar(text("SELECT coalesce(max(id), 0) FROM usage_entries")) or 0


async def test_a_database_put_back_forgets_nothing(site: Site, service: FakeService) -> None:
    """The ledger ran on: its higher sums stay until an admin accepts the rows; an unconfirmed row is written again."""
    before = await spend(site, 2)
    backup = await last_id(site)
    later = await spend(site, 3)
    service.script.append(Reply(cut=True))
    lost = await try_generate(site.client, ask())
    assert lost.outcome is Outcome.UNAVAILABLE
    await settled_books(site)
    posted = before + later + lost.cost_nanos
    (unsure,) = await unconfirmed_entries(site.engine, site.settings.ledger.name)
    await put_database_back(site, backup)

    found = await site.command("reconcile", "--repair")
    assert found.code == 1, found
    assert "1 rows that only the ledger had were written" in found.errors
    assert "paymaster reconcile --accept-lower budget:acme" in found.errors
    for window in ("month", "total"):
        assert (await site.balance("budget:acme", window)).posted_nanos == posted
    (again,) = await unconfirmed_entries(site.engine, site.settings.ledger.name)
    assert (again.attempt_id, again.cost_nanos) == (unsure.attempt_id, unsure.cost_nanos)

    async def alerted() -> bool:
        return bool(await site.alerts("spending_missing"))

    await until(alerted, "an alert says so")
    assert (await site.command("reconcile", "--accept-lower", "all")).code == 2, "without a reason"
    accepted = await site.document("reconcile", "--accept-lower", "all", "--reason", "a test")
    assert accepted["agree"]
    assert (await site.balance("budget:acme")).posted_nanos == before + lost.cost_nanos
    cost = (await generate(site.client, ask())).cost_nanos

    async def goes_on() -> bool:
        return (await site.balance("budget:acme")).posted_nanos == before + lost.cost_nanos + cost

    await until(goes_on, "calls go on from there")


async def test_a_repair_renews_what_is_shown(site: Site, service: FakeService, tmp_path: Path) -> None:
    """From the copy in the database, which a dump has as it was; also where rows and books agree."""

    async def is_shown(cap_nanos: int) -> bool:
        copied = await copied_accounts(site.engine, site.ledger.name, ["budget:acme"])
        shown = [window.cap_nanos for each in copied for window in each.status.windows if window.window == "total"]
        return shown == [cap_nanos]

    await spend(site, 1)
    await settled_books(site, service)
    await until(lambda: is_shown(10**9), "the copy has the cap")
    await dump(site.database_url, tmp_path / "dump")
    await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="1"))
    await until(lambda: is_shown(2 * 10**9), "the copy has the raise")
    await site.workers[0].terminate()
    await empty(site.database_url)
    assert await put_back(tmp_path / "dump", site.database_url) == ""
    assert (await site.command("migrate")).code == 0
    await site.start_workers()
    assert await is_shown(10**9)
    assert (await site.command("reconcile", "--repair")).code == 0
    await until(lambda: is_shown(2 * 10**9), "the copy has the raise again")


async def test_a_ledger_put_back_reads_what_it_does_not_know(site: Site, service: FakeService) -> None:
    """Its state is of an hour ago, the rows are of now: the worker that starts finds it, and the rows count."""
    before = await spend(site, 2)
    status = await settled_books(site, service)
    old = await state_of_now(site)
    later = await spend(site, 3)
    await settled_books(site, service)
    await site.workers[0].terminate()
    ledger = site.client.get_workflow_handle("budget/default")
    await ledger.terminate("Temporal is put back")
    await site.client.start_workflow(
        "BudgetWorkflow",
        LedgerStart(ledger=status.ledger, config=desk_config(site.settings), state=old),
        id="budget/default",
        task_queue=LEDGER_TASK_QUEUE,
    )
    await site.start_workers()
    await loaded(site)
    assert (await site.balance("budget:acme")).posted_nanos == before + later
    assert (await site.balance("budget:acme", "month")).posted_nanos == before + later

    async def alerted() -> bool:
        return bool(await site.alerts("ledger_behind"))

    await until(alerted, "an alert says so")
    assert (await site.document("reconcile"))["agree"]
    await spend(site, 1)
    await settled_books(site, service)


async def state_of_now(site: Site) -> str:
    """What a backup of Temporal has of the ledger."""
    status = await site.ledger.status()
    desk = Desk(DeskState(ledger=status.ledger, epoch=status.epoch))
    desk.configure(desk_config(site.settings), status.now_ms)
    wanted = desk.to_load()
    assert wanted is not None
    desk.loaded(await load_spend(site.engine, wanted), status.now_ms)
    desk.state.latest_granted_ms = status.now_ms
    return desk.dump()


async def test_both_lost_but_a_backup_goes_on_with_the_backup(site: Site, service: FakeService) -> None:
    """Rows and cap changes until the backup are the books; calls go on, and everything agrees."""
    await site.ledger.raise_cap(RaiseCap(account="budget:acme", window="total", by="1"))
    before = await spend(site, 3)
    await settled_books(site, service)
    backup = await last_id(site)
    await spend(site, 2)
    status = await settled_books(site, service)
    await site.client.get_workflow_handle("budget/default").terminate("Temporal is lost")
    await remove_rows(site.engine, "id > :id", id=backup)
    cost = await spend(site, 1)  # which starts a new ledger
    await loaded(site)
    after = await site.ledger.status()
    assert after.epoch != status.epoch
    total = await site.balance("budget:acme")
    assert (total.posted_nanos, total.cap_nanos) == (before + cost, 2_000_000_000)
    assert (await site.document("reconcile"))["agree"]
