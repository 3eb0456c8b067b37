"""A worker that looks at what is spent: whom it tells of what, with PostgreSQL and the copy of a ledger's status."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from copied_status import every_copy
from desk_kit import DAY, HOUR, MINUTE, Site, at, capped, config
from paymaster_process import Databases
from records import charged_entry
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import Alert
from paymaster.messages.spending import Foreseen, SpendingReport, SpentOn
from paymaster.reports.spending_watch import SpendingWatch
from paymaster.settings import AlertsSettings
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import insert_alerts
from paymaster.storage.status_rows import store_status
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import NANOS_PER_USD as USD

NOW_MS = at(2027, 3, 10, 12, 30)
WEEK = 7 * DAY
LEDGER = "test"  # the kit's
NUMBERS = itertools.count(1)


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


class Watched:
    """What the ledger was told."""

    def __init__(self, engine: AsyncEngine, **settings: object) -> None:
        self.told: list[SpendingReport] = []
        self.engine = engine
        self.watch = SpendingWatch(AlertsSettings.model_validate(settings), engine, LEDGER, self.take)

    async def take(self, report: SpendingReport) -> None:
        self.told.append(report)


async def spend(
    engine: AsyncEngine, ago_ms: int, usd: float, budget: str = "acme/content", run: str | None = None
) -> None:
    entry = charged_entry(LEDGER, next(NUMBERS), (budget,), "s", int(usd * USD), granted_at_ms=NOW_MS - ago_ms, run=run)
    await insert_entries(engine, [entry])


async def copy_status(engine: AsyncEngine) -> None:
    """Of a ledger in which acme/content has $10 a day, of which nothing is posted."""
    site = Site(config(budgets={"acme/content": capped(day=10, hour=10, month=900), "acme": capped()}), now_ms=NOW_MS)
    for copy in every_copy(site.desk, NOW_MS):
        await store_status(engine, copy, datetime.fromtimestamp(NOW_MS / 1000, UTC))


async def test_a_cap_that_will_be_used_up_is_told(engine: AsyncEngine) -> None:
    """$2 in the last hour of $10 a day: in five hours. Of the month it lasts, and an hour is not worth it."""
    watched = Watched(engine, anomalies=False)
    await spend(engine, 59 * MINUTE, 2)
    await spend(engine, 61 * MINUTE, 100)
    await watched.watch.look(NOW_MS)
    assert watched.told == [], "the ledger has copied nothing yet"
    await copy_status(engine)
    await watched.watch.look(NOW_MS)
    [report] = watched.told
    assert report.foreseen == (
        Foreseen(account="budget:acme/content", window="day", used_up_at_ms=NOW_MS + 5 * HOUR, by_pattern=False),
    )


async def test_four_weeks_decide_whether_it_usually_lasts(engine: AsyncEngine) -> None:
    """$2 at this hour each week, and then nothing: it lasts, as it always does."""
    watched = Watched(engine, anomalies=False)
    await copy_status(engine)
    for week in range(5):
        await spend(engine, week * WEEK + MINUTE, 2)
    await watched.watch.look(NOW_MS)
    assert watched.told == []
    for week in range(1, 5):
        await spend(engine, week * WEEK - 3 * HOUR, 60)
    await watched.watch.look(NOW_MS)
    [report] = watched.told
    [foreseen] = report.foreseen
    assert foreseen.by_pattern
    assert NOW_MS + 2 * HOUR < foreseen.used_up_at_ms < NOW_MS + 4 * HOUR


async def test_what_is_far_above_its_past_is_told_once_an_hour(engine: AsyncEngine) -> None:
    """The budget at this hour of the week usually spends a dollar; its run has no past, and the service as little."""
    watched = Watched(engine, forecasts=False)
    await copy_status(engine)
    for week in range(1, 9):
        await spend(engine, week * WEEK, 1)
    await spend(engine, 5 * MINUTE, 12, run="article-7")
    await watched.watch.look(NOW_MS)
    [report] = watched.told
    [unusual] = report.unusual
    assert (unusual.account, unusual.nanos, unusual.usual_nanos) == ("budget:acme/content", 12 * USD, USD)
    assert unusual.spent_on == (
        SpentOn(what="model", name="s/model", nanos=12 * USD),
        SpentOn(what="run", name="article-7", nanos=12 * USD),
    )
    alert = Alert(sequence=1, at_ms=NOW_MS - 59 * MINUTE, what="anomaly", account=unusual.account, text="…")
    await insert_alerts(engine, LEDGER, "epoch", [alert])
    await watched.watch.look(NOW_MS)
    assert watched.told == [report]
    await watched.watch.look(NOW_MS + MINUTE)
    assert watched.told == [report] * 2


async def test_a_run_that_has_a_past_is_compared_with_it(engine: AsyncEngine) -> None:
    """A part of it, too, and instead of the budget in which it is."""
    watched = Watched(engine, forecasts=False)
    await copy_status(engine)
    for week in range(1, 6):
        await spend(engine, week * WEEK, 1, run="nightly/a")
        await spend(engine, week * WEEK, 20)
    await spend(engine, MINUTE, 40, run="nightly/a")
    await spend(engine, MINUTE, 20)
    await watched.watch.look(NOW_MS)
    [report] = watched.told
    assert [each.account for each in report.unusual] == ["run:nightly/a"]


@pytest.mark.parametrize(
    ("settings", "weeks", "usd"),
    [
        ({}, 3, 12),  # too young
        ({}, 8, 1.9),  # less than a dollar more
        ({"anomaly_above_usd": "20"}, 8, 12),
        ({"anomalies": False}, 8, 12),
    ],
)
async def test_what_is_no_news_is_not_told(
    engine: AsyncEngine, settings: dict[str, object], weeks: int, usd: float
) -> None:
    watched = Watched(engine, forecasts=False, **settings)
    await copy_status(engine)
    for week in range(1, weeks + 1):
        await spend(engine, week * WEEK, 1)
    await spend(engine, MINUTE, usd)
    await watched.watch.look(NOW_MS)
    assert watched.told == []


async def test_one_worker_looks_at_a_time(engine: AsyncEngine) -> None:
    """While one is telling the ledger another finds that it is looked at, and asks nothing."""
    tells, may_end = asyncio.Event(), asyncio.Event()

    async def tell(_: SpendingReport) -> None:
        tells.set()
        await may_end.wait()

    await copy_status(engine)
    await spend(engine, MINUTE, 2)
    first = asyncio.create_task(SpendingWatch(AlertsSettings(), engine, LEDGER, tell).look(NOW_MS))
    await tells.wait()
    second = Watched(engine)
    assert await second.watch.look(NOW_MS) == SpendingReport()
    may_end.set()
    assert (await first).foreseen
    assert (await second.watch.look(NOW_MS)).foreseen
