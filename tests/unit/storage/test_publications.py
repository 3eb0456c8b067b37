"""Where all tables are published, for a copy by logical replication, rows go on being stored, moved and taken out."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries

NUMBERS = itertools.count(1)
AHEAD = datetime.now(UTC) + timedelta(days=400)
# A table whose rows nobody changes needs nothing that tells them apart.
UNTOLD = text(
    """
    SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
        AND relname <> 'usage_entries_begin' AND NOT EXISTS (
            SELECT FROM pg_index
            WHERE indrelid = pg_class.oid AND (indisreplident OR relreplident = 'd' AND indisprimary) AND NOT EXISTS (
                SELECT FROM pg_attribute
                WHERE attrelid = pg_class.oid AND attgenerated <> '' AND attnum = ANY(indkey)
            )
        )
    """
)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE PUBLICATION everything FOR ALL TABLES"))
    yield engine
    await engine.dispose()


def entry(at: datetime) -> UsageEntry:
    return UsageEntry.model_validate(usual_entry(next(NUMBERS)) | {"granted_at_ms": round(at.timestamp() * 1000)})


async def test_rows_are_stored_moved_and_taken_out(engine: AsyncEngine) -> None:
    for at in (datetime.now(UTC), datetime.now(UTC), AHEAD):
        await insert_entries(engine, [entry(at)])
    async with engine.begin() as connection:
        made = await connection.scalar(
            text("SELECT usage_entries_make(CAST(:at AS date), CAST(:at AS date))"), {"at": AHEAD}
        )
        assert made == 1
        summed = await connection.scalar(text("SELECT sum(entries) FROM usage_hourly"))
        assert summed == 3
        deleted = await connection.execute(text("DELETE FROM usage_entries"))
        assert deleted.rowcount == 3


async def test_every_table_tells_its_rows_apart(engine: AsyncEngine) -> None:
    """By columns that a copy has, which generated ones are not."""
    async with engine.connect() as connection:
        assert (await connection.scalars(UNTOLD)).all() == []
