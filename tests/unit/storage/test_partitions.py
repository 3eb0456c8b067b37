"""Rows are in the partition of their month, and a table from before becomes one while its workers go on."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from old_workers import NOW, OLD_ROW_NANOS, STORED_NANOS, OldWorker, old_table
from paymaster_process import Databases
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import entries_of_call

from paymaster.messages import UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.partitions import make_coming_months
from paymaster.storage.schema import check_schema, migrate
from paymaster.storage.usage_rows import insert_entries

NUMBERS = itertools.count(1)
PLACES = text(
    "SELECT call_id, tableoid::regclass::text AS place FROM usage_entries WHERE call_id = ANY(:calls) ORDER BY id"
)


def entry(**fields: object) -> UsageEntry:
    return UsageEntry.model_validate(usual_entry(next(NUMBERS)) | fields)


def at_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def places(engine: AsyncEngine, *calls: str) -> dict[str, str]:
    async with engine.connect() as connection:
        return {row.call_id: row.place for row in await connection.execute(PLACES, {"calls": list(calls)})}


async def test_a_row_is_in_its_months_partition_and_none_is_refused(engine: AsyncEngine) -> None:
    """Whatever the clock says: what has no month's partition is in the default one."""
    granted = {"now": NOW, "long ago": datetime(1999, 5, 1, tzinfo=UTC), "ahead": NOW + timedelta(days=400)}
    rows = [entry(call_id=name, granted_at_ms=at_ms(at)) for name, at in granted.items()]
    await insert_entries(engine, rows)
    await insert_entries(engine, rows)
    default = "usage_entries_default"
    assert await places(engine, *granted) == {
        "now": f"{NOW:usage_entries_%Y_%m}",
        "long ago": default,
        "ahead": default,
    }
    assert await posted_by_account(engine, "default", ["budget:acme"]) == {"budget:acme": 3_000}


async def test_a_month_that_is_made_takes_what_came_before_it(engine: AsyncEngine) -> None:
    """Nothing is counted twice, and a row that is written again is there already."""
    ahead = (NOW.replace(day=1) + timedelta(days=190)).replace(day=15)
    rows = [entry(call_id="ahead", granted_at_ms=at_ms(ahead), state=state) for state in ("unconfirmed", "final")]
    rows[1] = rows[0].model_copy(update={"state": "final", "cost_nanos": 7})
    await make_coming_months(engine)  # one may have begun since the database was made
    await insert_entries(engine, rows)
    assert await make_coming_months(engine) == 0
    async with engine.begin() as connection:
        made = text("SELECT usage_entries_make(CAST(:month AS date), CAST(:month AS date))")
        assert await connection.scalar(made, {"month": ahead.date()}) == 1
    assert await places(engine, "ahead") == {"ahead": f"{ahead:usage_entries_%Y_%m}"}
    await insert_entries(engine, rows)
    assert await entries_of_call(engine, "ahead") == rows[::-1]
    assert [row.cost_nanos for row in await usage_report(engine, ledger="default", by=())] == [7]


@pytest.mark.parametrize(
    "rows", [20_000, pytest.param(10_000_000, marks=[pytest.mark.full, pytest.mark.timeout(3_000)])]
)
async def test_a_table_of_before_is_migrated_while_old_workers_store(databases: Databases, rows: int) -> None:
    """They wait for moments, lose nothing, and go on storing into what has become a partition."""
    engine = await old_table(databases, rows)
    worker, done = OldWorker(engine), asyncio.Event()
    storing = asyncio.create_task(worker.run(done))
    began = time.perf_counter()
    await migrate(engine.url.render_as_string(hide_password=False))
    took = time.perf_counter() - began
    during = worker.stored
    done.set()
    await storing
    print(
        f"{rows:,} rows: migrated in {took:.1f} s, {during} stored meanwhile, the longest in {worker.longest_s:.2f} s"
    )
    await check_schema(engine)
    for _ in range(200):
        await worker.store()
    nanos = rows * OLD_ROW_NANOS + worker.stored * STORED_NANOS
    assert await posted_by_account(engine, "default", ["service:openai"]) == {"service:openai": nanos}
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.cost_nanos, total.attempts, total.unconfirmed_nanos) == (nanos, rows + worker.stored, 0)
    async with engine.connect() as connection:
        elsewhere = text(
            "SELECT count(*) FROM usage_entries, usage_entries_begin WHERE attempt_id LIKE 'old-%' "
            "AND (usage_entries.tableoid = 'api_usage'::regclass) <> (granted_at < ends_at)"
        )
        assert await connection.scalar(elsewhere) == 0
    [again] = await entries_of_new_worker(engine)
    assert again == "old-1"
    assert worker.longest_s < 30
    await engine.dispose()


async def entries_of_new_worker(engine: AsyncEngine) -> list[str]:
    """What an old worker stored, a new one does not store again."""
    row = entry(attempt_id="old-1", call_id="c", run_id="old-1", granted_at_ms=at_ms(NOW + timedelta(days=1)))
    await insert_entries(engine, [row])
    query = text("SELECT attempt_id FROM usage_entries WHERE attempt_id = 'old-1' AND state = 'final'")
    async with engine.connect() as connection:
        return list((await connection.execute(query)).scalars())
