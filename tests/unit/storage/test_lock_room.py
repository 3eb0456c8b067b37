"""What a statement over all months locks, and what PostgreSQL has to be set to for it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from paymaster_process import Databases
from records import usual_entry
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.lock_room import LockRoom, lock_room
from paymaster.storage.usage_rows import insert_entries

LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
MAKE = text("SELECT usage_entries_make(DATE '2026-01-01', DATE '2028-12-01')")


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create(), command_timeout_s=60)
    async with engine.begin() as connection:
        await connection.execute(MAKE)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize(
    ("per_transaction", "months", "connections", "lacking"),
    [(64, 14, 5, None), (64, 60, 5, 128), (64, 60, 80, 640), (640, 60, 80, None), (64, 14, 80, 256)],
)
def test_what_is_lacking_is_what_to_set(
    per_transaction: int, months: int, connections: int, lacking: int | None
) -> None:
    room = LockRoom(per_transaction, 100, 10 * (months + 3), 9, connections)
    assert room.lacking == lacking
    if lacking is not None:
        assert room._replace(per_transaction=lacking).lacking is None
        assert room._replace(per_transaction=lacking - 64).lacking is not None


async def test_no_statement_locks_more_than_is_counted(engine: AsyncEngine) -> None:
    """A report, and a row that is stored as the first one of a connection."""
    taken: list[int] = []

    @event.listens_for(engine.sync_engine, "commit")
    @event.listens_for(engine.sync_engine, "rollback")
    def count(connection: object) -> None:
        taken.append(connection.exec_driver_sql(LOCKS).scalar())  # pyright: ignore

    row = {"granted_at_ms": int(datetime(2026, 11, 3, tzinfo=UTC).timestamp() * 1_000)}
    await insert_entries(engine, [UsageEntry.model_validate(usual_entry(1) | row)])
    await usage_report(engine, ledger="default", by=["status"])
    room = await lock_room(engine)
    assert room.relations > 36 * 10
    assert room.relations / 2 < max(taken) <= room.of_statement
