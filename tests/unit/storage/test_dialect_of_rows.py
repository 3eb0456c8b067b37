"""The format of a wire call, as it is stored and reported; older workers write rows without it."""

from collections.abc import AsyncIterator

import pytest
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import entries_of_call

from paymaster.messages import UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import migrate, name_older_schema
from paymaster.storage.usage_rows import insert_entries

OLDER_ROW = """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source)
    VALUES ('a', 'final', 'h', 'old', 'call/old', 'r', 'default', 'e', 'acme', 'openai', 'm', now(), 'completed', 1, 't'
    )
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


def entry(number: int, dialect: str | None) -> UsageEntry:
    at = {"granted_at_ms": number, "started_at_ms": number}
    return UsageEntry.model_validate(usual_entry(number) | at | {"call_id": "c", "dialect": dialect})


async def test_usage_is_summed_up_by_dialect(engine: AsyncEngine) -> None:
    rows = [entry(1, "anthropic"), entry(2, None), entry(3, "anthropic")]
    await insert_entries(engine, rows)
    assert await entries_of_call(engine, "c") == rows
    report = await usage_report(engine, ledger="default", by=["dialect"])
    assert [(row.dialect, row.attempts) for row in report] == [("anthropic", 2), (None, 1)]


async def test_rows_from_before_have_no_dialect(engine: AsyncEngine, database_url: str) -> None:
    """A worker of before writes one; then the schema is called by its older name, and migrated once more."""
    await insert_entries(engine, [entry(1, "gemini")])
    async with engine.begin() as connection:
        await connection.execute(text(OLDER_ROW))
    await name_older_schema(database_url)
    await migrate(database_url)
    report = await usage_report(engine, ledger="default", by=["dialect"])
    assert {(row.dialect, row.attempts) for row in report} == {("gemini", 1), (None, 1)}
