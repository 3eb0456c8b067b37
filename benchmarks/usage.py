"""`paymaster usage` over a million stored attempts: how long the report takes."""

import asyncio
import time

from sqlalchemy import text

from benchmarks.figures import Figure
from paymaster.devstack import EmbeddedStack
from paymaster.reports.usage import usage_report_with_total
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import migrate

ROWS = 1_000_000
ROUNDS = 3
_FILL = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
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


def measure() -> list[Figure]:
    """The best of a few rounds of what `paymaster usage` asks the database: the others were disturbed."""
    return [Figure(f"usage over {ROWS:,} rows", asyncio.run(_seconds()), "s", ("≤", 2.0), "best of 3 rounds")]


async def fill(database_url: str, rows: int = ROWS) -> None:
    """Stores so many attempts over about a month, one in ten of them a second one of its call."""
    engine = create_engine(database_url, command_timeout_s=600)
    try:
        async with engine.begin() as connection:
            await connection.execute(_FILL, {"rows": rows})
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE api_usage"))  # as autovacuum does soon
    finally:
        await engine.dispose()


async def _seconds() -> float:
    async with EmbeddedStack(temporal=False, model=False) as stack:
        await migrate(stack.database_url)
        await fill(stack.database_url)
        engine = create_engine(stack.database_url, command_timeout_s=600)
        try:
            took: list[float] = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                await usage_report_with_total(engine, ledger="default", by=["service", "model"])
                took.append(time.perf_counter() - began)
            return min(took)
        finally:
            await engine.dispose()
