"""The run of a call, as it is stored and reported; older workers write rows without it."""

import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import entries_of_call

from paymaster.messages import UsageEntry
from paymaster.reports.kinds import kinds_report
from paymaster.reports.trends import usage_trends
from paymaster.reports.usage import usage_report
from paymaster.storage.charging import counts_for_run
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries, usage_table
from paymaster.values.run_path import run_ancestors

NUMBERS = itertools.count(1)
SEGMENTS = st.sampled_from(["a", "A", "a_", "ab", "a.b", "a-", "a@1", "a:", "0", "_"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


def entry(ledger: str, run: str | None, cost_nanos: int) -> UsageEntry:
    at = {"granted_at_ms": 1_000, "started_at_ms": 1_000}
    fields = {"ledger": ledger, "run": run, "cost_nanos": cost_nanos}
    return UsageEntry.model_validate(usual_entry(next(NUMBERS)) | at | fields)


@given(spent=st.lists(st.tuples(st.none() | PATHS, st.integers(0, 10**12)), max_size=10))
@settings(max_examples=examples(60), deadline=None)
async def test_a_run_is_reported_with_all_its_parts(engine: AsyncEngine, spent: list[tuple[str | None, int]]) -> None:
    """Whatever runs have names that are alike, and in each of the reports the same."""
    ledger = f"runs-{next(NUMBERS)}"
    await insert_entries(engine, [entry(ledger, run, nanos) for run, nanos in spent])
    rows = await usage_report(engine, ledger=ledger, by=["run"])
    assert {row.run: row.attempts for row in rows} == {
        run: sum(each == run for each, _ in spent) for run in {run for run, _ in spent}
    }
    for wanted in {above for run, _ in spent if run is not None for above in run_ancestors(run)} | {"a"}:
        expected = sum(nanos for run, nanos in spent if run is not None and wanted in run_ancestors(run))
        [total] = await usage_report(engine, ledger=ledger, by=[], run=wanted)
        assert total.cost_nanos == expected
        kinds = await kinds_report(engine, ledger=ledger, run=wanted)
        assert sum(row.cost_nanos for row in kinds) == expected
        trends = await usage_trends(engine, ledger=ledger, run=wanted)
        assert sum(point.cost_nanos for point in trends.costs) == expected


async def test_the_run_of_a_row_comes_back(engine: AsyncEngine) -> None:
    stored = entry("default", "pr-17/researcher", 5).model_copy(update={"call_id": "comes-back"})
    await insert_entries(engine, [stored])
    assert await entries_of_call(engine, "comes-back") == [stored]


async def test_a_run_is_found_by_the_index(engine: AsyncEngine) -> None:
    """With all that is below it."""
    rows = usage_table.select().where(usage_table.c.ledger == "l", counts_for_run(usage_table, "a"))
    query = rows.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    async with engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {query}"))).scalars())
    assert "api_usage_run_idx" in plan
    assert "Index Cond: ((ledger = 'l'::text) AND (run >= 'a'::text) AND (run < 'a0'::text))" in plan
