"""Databases of 0.1.0 with a year of rows, and a worker of it that stores beside whatever is done to them."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from old_schemas import upgrade_to
from paymaster_process import Databases
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import NO_TRIGGERS

from paymaster.storage.engine import create_engine
from paymaster.storage.schema import OLDER_SCHEMA_REVISION

NOW = datetime.now(UTC)
OLD_ROW_NANOS, STORED_NANOS = 7, 10**9
"""What a row of `old_table` costs, and one that the worker stores."""
_TRIED_AGAIN = {"23505", "40P01"}
"""A row that is there, and a deadlock: what two that store one row at once may be told beside a second unique index.
Its activity tries again, whatever it is."""
# As 0.1.0 stores a row: so it must go on until its workers are replaced.
_OLD_INSERT = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    VALUES (:attempt, :state, 'h', 'c', 'w', :attempt, 'default', 'e', 'acme', 'openai', 'm', :granted_at, 'completed',
            :cost_usd, 'test', '{}') ON CONFLICT (attempt_id, state) DO NOTHING
    """
)
# One in a hundred is unconfirmed, and each of these is resolved.
_FILL = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    SELECT n || '/1/1', state, n || '/1', 'c-' || n, 'w', n, 'default', 'e', 'acme/' || n % 20, 'openai', 'm',
           now() - n * interval '1 year' / :rows, 'completed', 0.000000007, 'test', '{}'
    FROM generate_series(1, CAST(:rows AS int)) AS n,
        LATERAL (SELECT 'final' AS state UNION ALL SELECT 'unconfirmed' WHERE n % 100 = 0) AS states
    """
)


async def old_table(databases: Databases, rows: int) -> AsyncEngine:
    """A database as 0.1.0 has it, with so many attempts over a year."""
    engine = create_engine(await databases.create_empty(), command_timeout_s=600)
    await upgrade_to(engine, OLDER_SCHEMA_REVISION)
    async with engine.begin() as connection:
        await connection.execute(NO_TRIGGERS)
        await connection.execute(_FILL, {"rows": rows})
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE api_usage"))
    return engine


class OldWorker:
    """Stores an attempt a few milliseconds, as 0.1.0 does, from a day on for 200 days, and each of them twice."""

    def __init__(self, engine: AsyncEngine, first_day: datetime = NOW) -> None:
        self._engine = engine
        self._first_day = first_day
        self.stored = 0
        self.longest_s = 0.0

    async def run(self, done: asyncio.Event) -> None:
        while not done.is_set():
            began = time.perf_counter()
            await self.store()
            self.longest_s = max(self.longest_s, time.perf_counter() - began)

    async def store(self) -> None:
        self.stored += 1
        await self.store_again(self.stored)

    async def store_again(self, number: int) -> None:
        granted_at = self._first_day + timedelta(days=number % 200)
        row = {"attempt": f"old-{number}", "granted_at": granted_at, "cost_usd": 1}
        while True:
            try:
                async with self._engine.begin() as connection:
                    for state in ("final", "unconfirmed", "final"):
                        await connection.execute(_OLD_INSERT, row | {"state": state})
                return
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _TRIED_AGAIN:
                    raise
