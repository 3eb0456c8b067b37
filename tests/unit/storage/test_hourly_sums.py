"""The hourly sums are those of the rows, whatever is stored how often, in which order and by how many at once."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.engine import create_engine
from paymaster.storage.hourly_sums import fill
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import TokenUsage

NUMBERS = itertools.count(1)
NEW_YEAR_MS = round(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000
# The view says which rows count. No call is among another's, so that the first of each is found in its own rows.
BY_ROWS = """
WITH ranked AS (
    SELECT *, date_trunc('hour', granted_at, 'UTC') AS hour,
           row_number() OVER (PARTITION BY run_id ORDER BY attempt_id COLLATE "C") AS nth,
           row_number() OVER (PARTITION BY run_id, service ORDER BY attempt_id COLLATE "C") AS nth_of_service,
           row_number() OVER (PARTITION BY run_id, model ORDER BY attempt_id COLLATE "C") AS nth_of_model,
           row_number() OVER (PARTITION BY run_id, service, model ORDER BY attempt_id COLLATE "C") AS nth_of_candidate
    FROM api_usage_counted WHERE ledger = :ledger
)
SELECT hour, budget, charged_budgets, service, model, state, count(*) AS entries,
       count(*) FILTER (WHERE status NOT IN ('expired', 'corrected')) AS attempts,
       count(*) FILTER (WHERE nth = 1) AS calls, count(*) FILTER (WHERE nth_of_service = 1) AS calls_of_service,
       count(*) FILTER (WHERE nth_of_model = 1) AS calls_of_model,
       count(*) FILTER (WHERE nth_of_candidate = 1) AS calls_of_candidate, count(input_tokens) AS reported,
       coalesce(sum(input_tokens), 0), coalesce(sum(cached_input_tokens), 0), coalesce(sum(cache_write_tokens), 0),
       coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0), sum(cost_usd) AS cost_usd
FROM ranked GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
"""
SUMMED = """
SELECT hour, budget, charged_budgets, service, model, state, entries, attempts, calls, calls_of_service, calls_of_model,
       calls_of_candidate, reported, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
       reasoning_tokens, cost_usd
FROM usage_hourly WHERE ledger = :ledger AND entries > 0 ORDER BY 1, 2, 3, 4, 5, 6
"""
LEFT_OVER = """
SELECT count(*) FROM usage_hourly WHERE ledger = :ledger AND entries = 0 AND (
    cost_usd <> 0 OR attempts <> 0 OR calls <> 0 OR calls_of_candidate <> 0 OR reported <> 0 OR input_tokens <> 0)
"""


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples have ledgers of their own."""
    engine = create_engine(await databases.create(), command_timeout_s=30)
    yield engine
    await engine.dispose()


@st.composite
def rows_of_a_call(draw: st.DrawFn) -> list[UsageEntry]:
    """Attempts under one hold or several, near the end of an hour, some of them unconfirmed, resolved, or corrected."""
    number = next(NUMBERS)
    budgets = draw(st.sampled_from([("acme",), ("acme/a",), ("acme/a", "customers/7")]))
    usage = st.sampled_from([None, TokenUsage(), TokenUsage(input_tokens=2**62, output_tokens=9, reasoning_tokens=3)])
    rows: list[UsageEntry] = []
    for hold in range(1, 1 + draw(st.integers(1, 3))):
        own = {
            "call_id": f"call-{number}",
            "run_id": f"run-{number}",
            "budget": budgets[0],
            "further_budgets": budgets[1:],
            "service": draw(st.sampled_from(["openai", "azure"])),
            "model": draw(st.sampled_from(["luna", "sol"])),
            "granted_at_ms": NEW_YEAR_MS + draw(st.integers(-HOUR_MS - 1, HOUR_MS + 1)),
        }
        for attempt in [*range(1, 1 + draw(st.integers(1, 2))), "expiry"][: draw(st.integers(1, 3))]:
            attempt_id = {"attempt_id": f"run-{number}/{hold}/{attempt}"}
            status = {"status": "expired" if attempt == "expiry" else draw(st.sampled_from(["completed", "failed"]))}
            states = draw(st.sampled_from([["final"], ["unconfirmed"], ["final", "unconfirmed"]]))
            for state in states:
                said = {"state": state, "cost_nanos": draw(st.integers(-5, 10**19)), "usage": draw(usage)}
                rows.append(UsageEntry.model_validate(usual_entry(number) | own | attempt_id | status | said))
    return rows


CALLS = st.lists(rows_of_a_call(), min_size=1, max_size=4).map(lambda calls: list(itertools.chain(*calls)))


async def assert_sums_are_those_of_rows(engine: AsyncEngine, ledger: str) -> None:
    async with engine.connect() as connection:
        summed = (await connection.execute(text(SUMMED), {"ledger": ledger})).all()
        assert summed == (await connection.execute(text(BY_ROWS), {"ledger": ledger})).all()
        assert await connection.scalar(text(LEFT_OVER), {"ledger": ledger}) == 0


def of_new_ledger(rows: Sequence[UsageEntry]) -> tuple[str, list[UsageEntry]]:
    ledger = f"ledger-{next(NUMBERS)}"
    renamed = [
        row.model_copy(update={"ledger": ledger, **{name: f"{ledger}/{getattr(row, name)}" for name in IDS}})
        for row in rows
    ]
    return ledger, renamed


IDS = ("attempt_id", "call_id", "run_id", "hold_id")
"""An attempt that is stored for one ledger is there already for another."""


@given(rows=CALLS, data=st.data())
@settings(max_examples=examples(100), deadline=None)
async def test_sums_are_those_of_the_rows(engine: AsyncEngine, rows: list[UsageEntry], data: st.DataObject) -> None:
    ledger, rows = of_new_ledger(rows)
    for order in (data.draw(st.permutations(rows)), data.draw(st.permutations(rows))):
        cut = data.draw(st.integers(0, len(order)))
        await insert_entries(engine, order[:cut])
        await insert_entries(engine, order[cut:])
        await assert_sums_are_those_of_rows(engine, ledger)


@given(rows=CALLS, data=st.data())
@settings(max_examples=examples(60), deadline=None)
async def test_writers_at_once_count_each_row_once(
    engine: AsyncEngine, rows: list[UsageEntry], data: st.DataObject
) -> None:
    """Each row by two writers, also the unconfirmed one and the final one of an attempt at the same time."""
    ledger, rows = of_new_ledger(rows)
    writers: defaultdict[int, list[UsageEntry]] = defaultdict(list)
    for row in [*rows, *rows]:
        writers[data.draw(st.integers(1, 6))].append(row)
    await asyncio.gather(*(insert_entries(engine, each) for each in writers.values()))
    await assert_sums_are_those_of_rows(engine, ledger)


@given(before=CALLS, after=CALLS, data=st.data())
@settings(max_examples=examples(40), deadline=None)
async def test_rows_from_before_are_summed_up_beside_writers(
    databases: Databases, before: list[UsageEntry], after: list[UsageEntry], data: st.DataObject
) -> None:
    """What the migration meets: some of a call's rows are there, and the others come meanwhile."""
    ledger, rows = of_new_ledger([*before, *after])
    rows = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    engine = create_engine(await databases.create(), command_timeout_s=30)
    try:
        await insert_entries(engine, rows[:cut])
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM usage_hourly"))
            unfilled = "CREATE TABLE usage_hourly_unfilled AS SELECT coalesce(max(id), 0) AS last_id FROM usage_entries"
            await connection.execute(text(unfilled))
        await asyncio.gather(fill(engine), *(insert_entries(engine, [row]) for row in rows[cut:]))
        await fill(engine)
        await assert_sums_are_those_of_rows(engine, ledger)
    finally:
        await engine.dispose()
