"""The months of `usage_entries`: making those that come, and having the rows of before become the first of them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.storage.engine import DATABASE_ERRORS

logger = logging.getLogger(__name__)
_LOOK_AFTER = timedelta(hours=6)
_MAKE = text(
    "SELECT usage_entries_make(today, (today + interval '3 months')::date) "
    "FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS of_utc"
)
"""Whatever time zone the session has."""
SHORT_LOCKS = text("SET LOCAL lock_timeout = '2s'")
"""Whoever waits for a lock keeps everybody waiting who comes later. For one transaction, which then is tried again."""

SHORTER_LOCKS = text("SET LOCAL lock_timeout = '500ms'")
"""Shorter than PostgreSQL's deadlock_timeout: where a writer waits for us and we for it, we give way, and nobody's
transaction is broken off."""

_ROWS_STAY = text("LOCK TABLE ONLY usage_entries IN ACCESS SHARE MODE")
_LOCK_NOT_AVAILABLE = "55P03"
_LOCKS_TRIED_AFTER_S = (1.0,) * 60
"""Between attempts: somebody reads or writes a table for that long, such as for a report."""
_INDEX = "api_usage_attempt_id_state_granted_at_idx"
_IS_ATTACHED = text("SELECT relispartition FROM pg_class WHERE oid = to_regclass('api_usage')")
_IS_UNCHECKED = text("SELECT count(*) FROM pg_constraint WHERE conname = 'api_usage_ends' AND NOT convalidated")
_MAY_LOOK = text("SELECT has_table_privilege('usage_entries_begin', 'SELECT')")
_BEGINNINGS = text("SELECT count(*) FROM usage_entries_begin")
_IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


@asynccontextmanager
async def one_snapshot(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A connection for several queries that see the rows, and the sums of what is pruned, as they are at one moment."""
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="REPEATABLE READ")
        # Before there is a snapshot: of a month that goes in between it would have neither the rows nor the sums.
        await connection.execute(_ROWS_STAY)
        yield connection


def is_lock_refused(error: DBAPIError) -> bool:
    """Whether somebody else held the table for longer than `SHORT_LOCKS` allows."""
    return getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


async def with_locks(step: Callable[[], Awaitable[None]]) -> None:
    """Takes a step, a transaction that waits for locks for a short time only, again and again until it gets them.

    Raises the driver's errors: that of a refused lock after a minute.
    """
    for wait_s in (*_LOCKS_TRIED_AFTER_S, None):
        try:
            await step()
            return
        except DBAPIError as error:
            if not is_lock_refused(error) or wait_s is None:
                raise
        await asyncio.sleep(wait_s)


async def prepare(engine: AsyncEngine) -> None:
    """Checks the rows of before, and makes the index that they need as a partition. Workers go on storing meanwhile.

    Harmless when it is done, or was begun and broken off.
    """
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        if await connection.scalar(_IS_ATTACHED):
            return
        if await connection.scalar(_IS_UNCHECKED):
            await connection.execute(text("ALTER TABLE api_usage VALIDATE CONSTRAINT api_usage_ends"))
        is_valid = await connection.scalar(_IS_VALID, {"name": _INDEX})
        if is_valid is False:  # it was broken off
            await connection.execute(text(f"DROP INDEX CONCURRENTLY {_INDEX}"))
        if not is_valid:
            columns = "attempt_id, state, granted_at"
            await connection.execute(text(f"CREATE UNIQUE INDEX CONCURRENTLY {_INDEX} ON api_usage ({columns})"))


async def has_two_beginnings(engine: AsyncEngine) -> bool:
    """Whether a dump's rows were added to tables that a migration had made: each says when months begin.

    False also where this role may not look, as that of workers need not.
    """
    async with engine.connect() as connection:
        return bool(await connection.scalar(_MAY_LOOK)) and (await connection.scalar(_BEGINNINGS) or 0) > 1


async def make_coming_months(engine: AsyncEngine) -> int:
    """Makes the partitions of this month and the next three that are missing; how many. Raises the driver's errors."""
    async with engine.begin() as connection:
        await connection.execute(SHORT_LOCKS)
        return await connection.scalar(_MAKE) or 0


async def follow_months(engine: AsyncEngine) -> None:
    """Makes them again and again, for a worker that runs for long. Until one is made its rows are in another one."""
    while True:
        try:
            await make_coming_months(engine)
        except DATABASE_ERRORS as error:
            logger.warning("the coming months' partitions were not made, trying again later: %s", error)
        await asyncio.sleep(_LOOK_AFTER.total_seconds())
