"""A migration comes to its end whatever the database's own settings say, and however often it is killed."""

import asyncio
import sys
from datetime import timedelta

import pytest
from old_schemas import upgrade_to
from old_workers import NOW, OLD_ROW_NANOS, STORED_NANOS, OldWorker, old_table
from paymaster_process import ROOT, Databases, until
from sqlalchemy import TextClause, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.devstack import GuardedProcess, clean_environment
from paymaster.reports.usage import usage_report
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.hourly_sums import fill
from paymaster.storage.schema import SCHEMA_TABLE, check_schema, migrate

MIGRATES = "import asyncio, sys; from paymaster.storage.schema import migrate; asyncio.run(migrate(sys.argv[1]))"
STEPS = {
    "sums are made": "SELECT to_regclass('usage_hourly_unfilled') IS NOT NULL",
    "sums are added": "SELECT to_regclass('usage_hourly_filling') IS NOT NULL",
    "the index is made": "SELECT EXISTS (SELECT FROM pg_index WHERE NOT indisvalid)",
}
LEFT_OVER = text(
    "SELECT relname FROM pg_class LEFT JOIN pg_index ON indexrelid = pg_class.oid "
    "WHERE relname LIKE 'usage_hourly_%fill%' OR NOT indisvalid OR NOT indisready"
)
_ASKER = f"SELECT FROM pg_locks WHERE relation = '{SCHEMA_TABLE}'::regclass AND NOT granted"
ASKS_FOR_REVISION = text(f"SELECT EXISTS ({_ASKER})")
IS_ENDED_OR_WAITS_FOR_ASKER = text(
    f"SELECT bool_and(EXISTS ({_ASKER} AND pg_locks.pid = ANY(pg_blocking_pids(making.pid)))) IS NOT FALSE "
    "FROM pg_stat_progress_create_index AS making WHERE datname = current_database()"
)


async def test_a_database_that_cuts_everybody_short_is_migrated(databases: Databases) -> None:
    """Many programs share it, so it ends whatever takes long, and whoever waits."""
    url = await databases.create_empty()
    name = make_url(url).database
    engine = create_engine(url)
    async with engine.begin() as connection:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"ALTER DATABASE {name} SET {setting} = '1ms'"))
    await migrate(url)
    await check_schema(engine)  # by the connection from before
    await engine.dispose()


async def killed_when(engine: AsyncEngine, step: str) -> None:
    """Begins a migration in a process of its own, and kills that in the middle of the step."""
    url = engine.url.render_as_string(hide_password=False)
    process = GuardedProcess([sys.executable, "-c", MIGRATES, url], cwd=ROOT, env=clean_environment())

    async def so_far() -> bool:
        assert process.poll() is None, f"it ended before {step}"
        async with engine.connect() as connection:
            return await connection.scalar(text(STEPS[step])) is True

    try:
        await until(so_far, step)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.timeout(120)
async def test_one_that_is_killed_at_each_step_is_repeated(databases: Databases) -> None:
    """Beside two workers of 0.1.0, which store on: no row is lost or counted twice, and nothing is left over."""
    rows = 20_000
    engine, done = await old_table(databases, rows), asyncio.Event()
    url = engine.url.render_as_string(hide_password=False)
    workers = [OldWorker(engine), OldWorker(engine)]
    async with asyncio.TaskGroup() as storing:
        for worker in workers:
            storing.create_task(worker.run(done))
        async with engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(text("SELECT txid_current_snapshot()"))  # so that an index is not made in a moment
            for step in STEPS:
                await killed_when(engine, step)
        await migrate(url)
        done.set()
    await check_schema(engine)
    stored = max(worker.stored for worker in workers)  # both store the same
    nanos = rows * OLD_ROW_NANOS + stored * STORED_NANOS
    assert await posted_by_account(engine, "default", ["service:openai"]) == {"service:openai": nanos}
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.cost_nanos, total.attempts, total.unconfirmed_nanos) == (nanos, rows + stored, 0)
    async with engine.connect() as connection:
        assert (await connection.scalars(LEFT_OVER)).all() == []
    await engine.dispose()


async def before_the_index(databases: Databases, rows: int) -> AsyncEngine:
    """A database in which the sums are filled, and the table of before is no partition yet."""
    engine = await old_table(databases, rows)
    await upgrade_to(engine, "0015")
    await fill(engine)
    await upgrade_to(engine, "0017")
    return engine


@pytest.mark.timeout(60)
async def test_what_a_killed_one_left_running_is_ended(databases: Databases) -> None:
    """PostgreSQL goes on making the index, which would wait for the next one's transaction, and that for the index."""
    engine = await before_the_index(databases, 10)
    async with engine.connect() as worker, engine.connect() as schema:
        await worker.execute(text("LOCK TABLE api_usage IN ROW EXCLUSIVE MODE"))  # it stores, and the index waits
        await killed_when(engine, "the index is made")
        await schema.execute(text(f"LOCK TABLE {SCHEMA_TABLE}"))  # whoever asks for the revision waits, in a snapshot
        again = asyncio.create_task(migrate(engine.url.render_as_string(hide_password=False)))

        async def is_true(query: TextClause) -> bool:
            async with engine.connect() as connection:
                return await connection.scalar(query) is True

        await until(lambda: is_true(ASKS_FOR_REVISION), "the next one asks for the revision")
        await worker.rollback()
        await until(
            lambda: is_true(IS_ENDED_OR_WAITS_FOR_ASKER),
            "the index waits for the next one, or nobody makes it any more",
        )
    async with asyncio.timeout(20):
        await again
    await check_schema(engine)
    await engine.dispose()


async def test_rows_after_the_end_of_the_table_of_before_are_summed(databases: Databases) -> None:
    """Also what was stored before that table is a partition, if the migration rests there for more than a month."""
    rows = 10
    engine = await before_the_index(databases, rows)
    for _ in range(2):
        await OldWorker(engine, NOW + timedelta(days=100)).store()
    await migrate(engine.url.render_as_string(hide_password=False))
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.cost_nanos, total.attempts) == (rows * OLD_ROW_NANOS + STORED_NANOS, rows + 1)
    await engine.dispose()


@pytest.mark.timeout(60)
async def test_two_that_migrate_at_once_both_end(databases: Databases) -> None:
    """While one makes an index online, which waits for all who have a snapshot, the other waits for it."""
    engine = await old_table(databases, 1_000)
    url = engine.url.render_as_string(hide_password=False)
    await asyncio.gather(migrate(url), migrate(url))
    await check_schema(engine)
    await engine.dispose()
