"""Rows are in the partition of their month, and a table from before becomes one while its workers go on."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from old_schemas import upgrade_to
from paymaster_process import Databases
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import NO_TRIGGERS, entries_of_call

from paymaster.messages import UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.charging import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.partitions import make_coming_months
from paymaster.storage.schema import OLDER_SCHEMA_REVISION, check_schema, migrate
from paymaster.storage.usage_rows import insert_entries

NUMBERS = itertools.count(1)
NOW = datetime.now(UTC)
PLACES = text(
    "SELECT call_id, tableoid::regclass::text AS place FROM usage_entries WHERE call_id = ANY(:calls) ORDER BY id"
)
# As 0.1.0 stores a row: so it must go on until its workers are replaced.
OLD_INSERT = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    VALUES (:attempt, :state, 'h', 'c', 'w', :attempt, 'default', 'e', 'acme', 'openai', 'm', :granted_at, 'completed',
            :cost_usd, 'test', '{}') ON CONFLICT (attempt_id, state) DO NOTHING
    """
)
# One in a hundred is unconfirmed, and each of these is resolved.
FILL = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    SELECT n || '/1/1', state, n || '/1', 'c-' || n, 'w', n, 'default', 'e', 'acme/' || n % 20, 'openai', 'm',
           now() - n * interval '1 year' / :rows, 'completed', 0.000000007, 'test', '{}'
    FROM generate_series(1, CAST(:rows AS int)) AS n,
        LATERAL (SELECT 'final' AS state UNION ALL SELECT 'unconfirmed' WHERE n % 100 = 0) AS states
    """
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
    await insert_entries(engine, rows)
    assert await make_coming_months(engine) == 0
    async with engine.begin() as connection:
        made = text("SELECT usage_entries_make(CAST(:month AS date), CAST(:month AS date))")
        assert await connection.scalar(made, {"month": ahead.date()}) == 1
    assert await places(engine, "ahead") == {"ahead": f"{ahead:usage_entries_%Y_%m}"}
    await insert_entries(engine, rows)
    assert await entries_of_call(engine, "ahead") == rows[::-1]
    assert [row.cost_nanos for row in await usage_report(engine, ledger="default", by=())] == [7]


async def old_table(databases: Databases, rows: int) -> AsyncEngine:
    """A database as 0.1.0 has it, with so many attempts over a year."""
    engine = create_engine(await databases.create_empty(), command_timeout_s=600)
    await upgrade_to(engine, OLDER_SCHEMA_REVISION)
    async with engine.begin() as connection:
        await connection.execute(NO_TRIGGERS)
        await connection.execute(FILL, {"rows": rows})
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE api_usage"))
    return engine


class OldWorker:
    """Stores an attempt a few milliseconds, as 0.1.0 does, some for months to come, and each of them twice."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.stored = 0
        self.longest_s = 0.0

    async def run(self, done: asyncio.Event) -> None:
        while not done.is_set():
            began = time.perf_counter()
            await self.store()
            self.longest_s = max(self.longest_s, time.perf_counter() - began)

    async def store(self) -> None:
        self.stored += 1
        granted_at = NOW + timedelta(days=self.stored % 200)
        row = {"attempt": f"old-{self.stored}", "granted_at": granted_at, "cost_usd": 1}
        async with self._engine.begin() as connection:
            for state in ("final", "unconfirmed", "final"):
                await connection.execute(OLD_INSERT, row | {"state": state})


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
    nanos = rows * 7 + worker.stored * 10**9
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
