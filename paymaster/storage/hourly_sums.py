"""`usage_hourly`: what the rows of each hour sum up to, which a trigger keeps in the transactions that store rows.

`fill` sums up what was stored before there was the trigger, while workers go on storing."""

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Numeric, Table, Text, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

hourly_usage = Table(
    "usage_hourly",
    MetaData(),
    Column("ledger", Text),
    Column("hour", DateTime(timezone=True)),
    Column("budget", Text),
    Column("charged_budgets", ARRAY(Text)),
    Column("service", Text),
    Column("model", Text),
    Column("state", Text),
    *(
        Column(name, BigInteger)
        for name in (
            "entries",
            "attempts",
            "calls",
            "calls_of_service",
            "calls_of_model",
            "calls_of_candidate",
            "reported",
        )
    ),
    *(
        Column(name, Numeric)
        for name in (
            "input_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cost_usd",
        )
    ),
)

_UNFILLED, _FILLING = "usage_hourly_unfilled", "usage_hourly_filling"
_FILLED_AT_ONCE = 2_000
"""Sums: whoever stores rows of the same ledger waits while so many are added."""

_SUMS = [column.name for column in hourly_usage.columns if isinstance(column.type, BigInteger | Numeric)]
_KEYS = ", ".join(column.name for column in hourly_usage.columns if column.name not in _SUMS)
# The trigger has not seen the rows up to `last_id`, and counts later ones as if these were counted.
_FILL = f"""
CREATE TABLE {_FILLING} AS
WITH last AS (
    SELECT last_id FROM {_UNFILLED}
), counted AS (
    SELECT entry.* FROM usage_hourly_rows AS entry, last WHERE id <= last_id AND state = 'final'
    UNION ALL
    SELECT entry.* FROM usage_hourly_rows AS entry, last
    WHERE id <= last_id AND state = 'unconfirmed' AND NOT EXISTS (
        SELECT FROM usage_hourly_rows AS final
        WHERE final.attempt_id = entry.attempt_id AND final.state = 'final' AND final.id <= last_id
    )
), told AS (
    SELECT ledger, granted_at, budget, charged_budgets, service, model, state,
           1 AS entries, (status NOT IN ('expired', 'corrected'))::int AS attempts,
           1 AS calls, 1 AS calls_of_service, 1 AS calls_of_model, 1 AS calls_of_candidate,
           (input_tokens IS NOT NULL)::int AS reported,
           input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd
    FROM counted
    UNION ALL
    -- Few attempts are not the first of their call.
    SELECT ledger, granted_at, budget, charged_budgets, service, model, state,
           0, 0, -found.any_other::int, -found.of_service::int, -found.of_model::int, -found.of_candidate::int, 0,
           0, 0, 0, 0, 0, 0
    FROM counted, last, LATERAL (
        SELECT count(*) > 0 AS any_other,
               coalesce(bool_or(earlier.service = counted.service), false) AS of_service,
               coalesce(bool_or(earlier.model = counted.model), false) AS of_model,
               coalesce(bool_or(earlier.service = counted.service AND earlier.model = counted.model), false)
                   AS of_candidate
        FROM usage_hourly_rows AS earlier
        WHERE earlier.ledger = counted.ledger AND earlier.call_id = counted.call_id AND earlier.run_id = counted.run_id
            AND earlier.attempt_id COLLATE "C" < counted.attempt_id COLLATE "C" AND earlier.id <= last_id
    ) AS found
    WHERE attempt_id <> run_id || '/1/1'
)
SELECT ledger, date_trunc('hour', granted_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, budget, charged_budgets,
       service, model, state, {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _SUMS)}
FROM told GROUP BY 1, 2, 3, 4, 5, 6, 7
"""  # noqa: S608
_ADD = text(
    f"""
    WITH batch AS (
        DELETE FROM {_FILLING} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {_FILLING} WHERE ledger = :ledger LIMIT {_FILLED_AT_ONCE}
        )) RETURNING *
    )
    INSERT INTO usage_hourly AS sums ({_KEYS}, {", ".join(_SUMS)})
    SELECT {_KEYS}, {", ".join(_SUMS)} FROM batch
    ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = sums.{name} + excluded.{name}" for name in _SUMS)}
    """  # noqa: S608
)
_LOCK = text("SELECT pg_advisory_xact_lock(729562430, hashtext(:ledger))")  # the trigger's


async def fill(engine: AsyncEngine) -> None:
    """Sums up the rows from before the trigger. Harmless when it is done, or was begun and broken off.

    Whoever stores rows meanwhile waits for milliseconds at most.
    """
    async with engine.begin() as connection:
        if await _is_there(connection, _UNFILLED):
            await connection.execute(text(_FILL))
            await connection.execute(text(f"DROP TABLE {_UNFILLED}"))
    async with engine.connect() as connection:
        if not await _is_there(connection, _FILLING):
            return
        ledgers = (await connection.execute(text(f"SELECT DISTINCT ledger FROM {_FILLING}"))).scalars().all()  # noqa: S608
    for ledger in ledgers:
        while await _add(engine, ledger):
            pass
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP TABLE {_FILLING}"))


async def _add(engine: AsyncEngine, ledger: str) -> int:
    async with engine.begin() as connection:
        await connection.execute(_LOCK, {"ledger": ledger})
        return (await connection.execute(_ADD, {"ledger": ledger})).rowcount


async def _is_there(connection: AsyncConnection, name: str) -> bool:
    return await connection.scalar(select(func.to_regclass(name))) is not None
