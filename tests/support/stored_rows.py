"""What the database has of a call, as entries."""

from sqlalchemy import select
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
