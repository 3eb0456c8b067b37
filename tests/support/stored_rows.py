"""What the database has of a call, as entries."""

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.usage_rows import entry_of, storable, usage_table


async def entries_of_call(engine: AsyncEngine, call_id: str) -> list[UsageEntry]:
    """Every stored entry of a call in the order of granting and sending; an unconfirmed one and its final one both."""
    query = (
        select(usage_table)
        .where(usage_table.c.call_id == storable(call_id))
        .order_by(usage_table.c.granted_at, usage_table.c.started_at.nulls_last(), usage_table.c.id)
    )
    async with engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


NO_TRIGGERS = text("SET LOCAL session_replication_role = 'replica'")
"""For one transaction that stores more rows than any worker does at once: they are in no hourly sums."""

_REMOVE = "DELETE FROM usage_entries WHERE "
_SUM_UP = text(
    "SELECT usage_hourly_add(coalesce(jsonb_agg(jsonb_build_array(ledger, call_id, id)), '[]')) FROM usage_entries"
)


async def remove_rows(engine: AsyncEngine, which: str, **values: object) -> None:
    """Takes them out, and what they add to the sums: a backup that is put back has neither."""
    async with engine.begin() as connection:
        await connection.execute(text(_REMOVE + which), values)
        await connection.execute(text("DELETE FROM usage_hourly"))
        await connection.execute(_SUM_UP)
