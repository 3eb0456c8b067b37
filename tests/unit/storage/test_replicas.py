"""A primary and its streaming replica: reports from the one that only reads, and what is stored when it takes over."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from paymaster_process import until
from records import usual_entry
from replicas import DatabaseServer, primary_and_replica
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from paymaster.messages import UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.access import ONLY_READS, only_reads, said_by_replica
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import migrate
from paymaster.storage.usage_rows import insert_entries

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]
NUMBERS = itertools.count(1)
STORED = text("SELECT attempt_id, count(*) AS rows FROM usage_entries GROUP BY attempt_id")


def entry() -> UsageEntry:
    return UsageEntry.model_validate(
        usual_entry(next(NUMBERS)) | {"granted_at_ms": round(datetime.now(UTC).timestamp() * 1000)}
    )


def url_of(*servers: DatabaseServer) -> str:
    return "postgresql://postgres@/postgres?" + "&".join(f"host={server.address}" for server in servers)


@pytest.fixture
async def servers() -> AsyncIterator[tuple[DatabaseServer, DatabaseServer]]:
    async with primary_and_replica() as (primary, replica):
        await migrate(primary.url)
        yield primary, replica


async def test_reports_are_read_from_a_replica(servers: tuple[DatabaseServer, DatabaseServer]) -> None:
    primary, replica = (create_engine(server.url) for server in servers)
    await insert_entries(primary, [entry(), entry()])

    async def have_arrived() -> bool:
        return await posted_by_account(replica, "default", ["budget:acme"]) == {"budget:acme": 2_000}

    await until(have_arrived, "the replica has the rows")
    for by in (("service",), ("run",)):
        [row] = await usage_report(replica, ledger="default", by=by)
        assert row.cost_nanos == 2_000
    assert await have_arrived()
    assert (await only_reads(primary), await only_reads(replica)) == (False, True)
    with pytest.raises(DBAPIError) as refused:
        await insert_entries(replica, [entry()])
    assert said_by_replica(refused.value) == ONLY_READS
    for engine in (primary, replica):
        await engine.dispose()


async def test_what_was_stored_is_there_when_a_replica_takes_over(
    servers: tuple[DatabaseServer, DatabaseServer],
) -> None:
    """Also what was found to be stored already, and what is stored again by who had no answer is there once."""
    primary, replica = servers
    engine = create_engine(url_of(replica, primary))
    stored: list[str] = []
    waits_for_replica, has_stored = entry(), asyncio.Event()

    async def store() -> None:
        while True:
            row = entry()
            while True:
                try:
                    await insert_entries(engine, [row])
                    break
                except (DBAPIError, OSError):
                    await asyncio.sleep(0.05)
            stored.append(row.attempt_id)
            if len(stored) > 100:
                has_stored.set()

    storing = [asyncio.create_task(store()) for _ in range(4)]
    await has_stored.wait()
    replica.freeze()
    for _ in range(2):
        with pytest.raises((DBAPIError, OSError)):
            await insert_entries(engine, [waits_for_replica])
    await primary.stop()
    replica.thaw()
    await replica.promote()
    before = len(stored)
    async with asyncio.timeout(30):
        while len(stored) < before + 100:
            await asyncio.sleep(0.05)
    for task in storing:
        task.cancel()
    await asyncio.gather(*storing, return_exceptions=True)
    async with engine.connect() as connection:
        found = {row.attempt_id: row.rows for row in await connection.execute(STORED)}
    assert [attempt for attempt in stored if found.get(attempt) != 1] == []
    await engine.dispose()
