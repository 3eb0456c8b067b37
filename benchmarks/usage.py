"""`paymaster usage`: how long it takes over a million attempts, and over the hourly sums of a hundred million."""

import asyncio
import time
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.figures import Figure
from paymaster.devstack import EmbeddedStack
from paymaster.reports.usage import usage_report_with_total
from paymaster.storage.engine import create_engine
from paymaster.storage.hourly_sums import fill as fill_sums
from paymaster.storage.schema import migrate

ROWS = 1_000_000
YEAR_OF_ROWS = 100_000_000
ROUNDS = 3
_FILL = text(
    """
    INSERT INTO usage_entries (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
        model, granted_at, started_at, duration_ms, status, error_class, input_tokens, cached_input_tokens,
        output_tokens, cost_usd, price_source, metadata)
    SELECT run || '/1/' || 1 + n % 10 / 9, CASE WHEN n % 500 = 0 THEN 'unconfirmed' ELSE 'final' END, run || '/1',
        'c-' || run, 'call/c-' || run, run, 'default', 'epoch', 'acme/team-' || n % 20, 'service-' || n % 4,
        'model-' || n % 8, at, at, 200 + n * 7919 % 5000,
        CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, CASE WHEN n % 10 = 0 THEN 'rate_limited' END,
        500 + n % 1000, n % 300, 50 + n % 200, (n * 7919 % 1000000) / 1e9, 'bench',
        jsonb_build_object('team', 'team-' || n % 50)
    FROM (
        SELECT n, md5((n - CASE WHEN n % 10 = 9 THEN 1 ELSE 0 END)::text)::uuid::text AS run,
            timestamptz '2026-10-01' + n * interval '3 seconds' AS at
        FROM generate_series(1, CAST(:rows AS bigint)) AS n
    ) AS attempts
    """
)

_UNSUMMED = (
    text("SET LOCAL session_replication_role = 'replica'"),
    text("CREATE TABLE usage_hourly_unfilled AS SELECT 9223372036854775807 AS last_id"),
)
"""For one transaction: the sums are made afterwards, as those of a table that is migrated."""
# What the rows of `_FILL` would leave, were they a hundred million over a year: of each hour and each of their forty
# combinations of budget, service and model, a fiftieth of which have unconfirmed ones.
_FILL_YEAR = text(
    """
    INSERT INTO usage_hourly (ledger, hour, budget, service, model, state, entries, attempts, calls, calls_of_service,
        calls_of_model, calls_of_candidate, reported, input_tokens, cached_input_tokens, cache_write_tokens,
        output_tokens, reasoning_tokens, cost_usd)
    SELECT 'default', timestamptz '2026-01-01 00:00Z' + hour * interval '1 hour', 'acme/team-' || n % 20,
        'service-' || n % 4, 'model-' || n % 8, state, each, each, each * 9 / 10, each * 9 / 10, each * 9 / 10,
        each * 9 / 10, each, each * 999, each * 150, 0, each * 149, 0, each * 0.000499999
    FROM generate_series(0, 8759) AS hour, generate_series(0, 39) AS n,
        LATERAL (
            SELECT 'final' AS state, CAST(:rows AS bigint) / 8760 / 40 AS each
            UNION ALL
            SELECT 'unconfirmed', 1 WHERE n % 20 = 0
        ) AS sums
    """
)


def measure() -> list[Figure]:
    """The best of a few rounds of what `paymaster usage` asks the database: the others were disturbed."""
    by_status, by_model, by_day = asyncio.run(_seconds())
    rounds, sums = f"best of {ROUNDS} rounds", f"over the hourly sums of {YEAR_OF_ROWS:,} rows of a year"
    return [
        Figure(f"usage by status over {ROWS:,} rows", by_status, "s", ("≤", 2.0), rounds),
        Figure(f"usage by service and model {sums}", by_model, "s", ("≤", 1.0), rounds),
        Figure(f"usage by budget and day {sums}", by_day, "s", ("≤", 1.0), rounds),
    ]


async def fill(database_url: str, rows: int = ROWS) -> None:
    """Stores so many attempts over about a month, one in ten of them a second one of its call."""
    engine = create_engine(database_url, command_timeout_s=600)
    try:
        async with engine.begin() as connection:
            for each in _UNSUMMED:
                await connection.execute(each)
            await connection.execute(_FILL, {"rows": rows})
            await connection.execute(text("ANALYZE usage_entries"))
        await fill_sums(engine)
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE usage_entries, usage_hourly"))  # as autovacuum does soon
    finally:
        await engine.dispose()


async def _seconds() -> tuple[float, float, float]:
    async with EmbeddedStack(temporal=False, model=False) as stack:
        await migrate(stack.database_url)
        await fill(stack.database_url)
        engine = create_engine(stack.database_url, command_timeout_s=600)
        try:
            by_status = await _best(engine, ["service", "model", "status"])
            async with engine.begin() as connection:
                await connection.execute(text("TRUNCATE usage_hourly"))
                await connection.execute(_FILL_YEAR, {"rows": YEAR_OF_ROWS})
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(text("VACUUM ANALYZE usage_hourly"))
            return by_status, await _best(engine, ["service", "model"]), await _best(engine, ["budget", "day"])
        finally:
            await engine.dispose()


async def _best(engine: AsyncEngine, by: Sequence[str]) -> float:
    took: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await usage_report_with_total(engine, ledger="default", by=by)
        took.append(time.perf_counter() - began)
    return min(took)
