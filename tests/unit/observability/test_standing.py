"""How a ledger stands is read from its copy, so that many processes that measure do not ask it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from desk_kit import Site, capped, config
from paymaster_process import until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.runtime import Runtime

from paymaster.ledger.copied_status import CopiedStatus
from paymaster.ledger.handle import Ledger
from paymaster.messages import DeskStatus, StatusCopy
from paymaster.observability.measurements import LatestStatus
from paymaster.observability.telemetry import COPIED_LATELY, Telemetry
from paymaster.storage.engine import create_engine
from paymaster.storage.status_rows import store_status

NAME = "measured"
NOWHERE = "127.0.0.1:1"
PROCESSES = 8
BUDGETS = {f"a/{number}": capped(day=1) for number in range(1_200)}


class AskedLedger(Ledger):
    """Answers, and counts how often it is asked."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, NAME)
        self.asked = 0

    async def status(self) -> DeskStatus:
        self.asked += 1
        return DeskStatus(
            ledger=NAME, epoch="asked", config_digest="", accounts=(), holds=7, parked=0, outbox=0, unconfirmed=0
        )

    async def in_backlog(self) -> int:
        return 0


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def ledger() -> AskedLedger:
    return AskedLedger(await Client.connect(NOWHERE, lazy=True))


async def copy(engine: AsyncEngine, ago: timedelta) -> StatusCopy:
    """The whole of a desk with many budgets, as it was so long ago."""
    desk = Site(config(budgets=BUDGETS)).desk
    copies: list[StatusCopy] = []
    while desk.copies.is_due:
        taken = desk.copies.take(0)
        copies.append(taken.model_copy(update={"status": taken.status.model_copy(update={"ledger": NAME})}))
        await store_status(engine, copies[-1], datetime.now(UTC) - ago)
    return copies[-1]


async def seen(ledger: Ledger, engine: AsyncEngine) -> list[DeskStatus]:
    """What each of several processes measures, when it has looked some times."""
    rounds = 0

    class Counted(CopiedStatus):
        async def whole(self, within: timedelta) -> DeskStatus | None:
            nonlocal rounds
            rounds += 1
            return await super().whole(within)

    latest = [LatestStatus() for _ in range(PROCESSES)]
    async with AsyncExitStack() as running:
        for each in latest:
            measuring = Telemetry(Runtime.default(), [SimplePlugin("measures")], bytes, each, every_s=0.01)
            await running.enter_async_context(measuring.watching(ledger, Counted(engine, NAME)))
        await until(lambda: rounds > 3 * PROCESSES and all(each.status for each in latest), "each has looked")
        return [each.status for each in latest if each.status is not None]


async def test_a_ledger_that_copies_is_not_asked(ledger: AskedLedger, engine: AsyncEngine) -> None:
    copied = await copy(engine, timedelta(0))
    found = await seen(ledger, engine)
    assert ledger.asked == 0
    assert {each.epoch for each in found} == {copied.status.epoch}
    for each in found:
        accounts = [account.account for account in each.accounts if account.account.startswith("budget:a/")]
        assert accounts == sorted(f"budget:{path}" for path in BUDGETS)


@pytest.mark.parametrize("copied_ago", [None, COPIED_LATELY * 2])
async def test_one_that_does_not_is_asked(
    ledger: AskedLedger, engine: AsyncEngine, copied_ago: timedelta | None
) -> None:
    """By the rules of 0.1.0 there is no copy."""
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM ledger_status"))
    if copied_ago is not None:
        await copy(engine, copied_ago)
    assert {(each.epoch, each.holds) for each in await seen(ledger, engine)} == {("asked", 7)}
    assert ledger.asked >= PROCESSES


async def test_it_is_asked_while_the_database_is_away(ledger: AskedLedger) -> None:
    nowhere = create_engine(f"postgresql+asyncpg://nobody@{NOWHERE}/none")
    assert {each.epoch for each in await seen(ledger, nowhere)} == {"asked"}
    await nowhere.dispose()
