"""What accounts spent lately: PostgreSQL's sums are those that the desk's rule of charging makes."""

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import charged_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.forecast import FURTHEST_MS, HOUR_MS, Spent
from paymaster.reports.recent import last_hour, spent_lately
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.budget_path import accounts_charged

NOW_MS = 1_772_325_000_123
OLDEST_MS = (NOW_MS - FURTHEST_MS) // HOUR_MS * HOUR_MS
NUMBERS = itertools.count(1)
BUDGETS = st.sampled_from(["a", "a/b", "a/b/c", "ab", "b"])
# Around each bound, and anywhere.
AGES = st.one_of(
    st.sampled_from([0, HOUR_MS - 1, HOUR_MS, HOUR_MS + 1]),
    st.sampled_from([NOW_MS - OLDEST_MS, NOW_MS - OLDEST_MS + 1]),
    st.integers(0, FURTHEST_MS * 2),
)
SPENT = st.lists(
    st.tuples(
        st.lists(BUDGETS, min_size=1, max_size=3).map(tuple), st.sampled_from(["x", "y"]), AGES, st.integers(0, 10**12)
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


@given(spent=SPENT)
@settings(max_examples=examples(60), deadline=None)
async def test_sums_are_those_of_the_desk(
    engine: AsyncEngine, spent: list[tuple[tuple[str, ...], str, int, int]]
) -> None:
    ledger = f"ledger-{next(NUMBERS)}"
    rows = [(budgets, service, NOW_MS - age_ms, nanos) for budgets, service, age_ms, nanos in spent]
    await insert_entries(
        engine,
        [
            charged_entry(ledger, number, budgets, service, nanos, granted_at_ms=at_ms)
            for number, (budgets, service, at_ms, nanos) in enumerate(rows)
        ],
    )
    lately: Counter[str] = Counter()
    hours: dict[str, Counter[int]] = {}
    for budgets, service, at_ms, nanos in rows:
        for account in accounts_charged(budgets, service, None):
            if at_ms >= OLDEST_MS:
                hours.setdefault(account, Counter())[at_ms // HOUR_MS * HOUR_MS] += nanos
            if at_ms >= NOW_MS - HOUR_MS:
                lately[account] += nanos

    asked = ["budget:a", "budget:a/b", "budget:ab", "budget:%", "service:x"]
    found = await spent_lately(engine, ledger, NOW_MS, asked)
    expected = {name: Spent(lately[name], dict(hours.get(name, {}))) for name in asked}
    assert found == expected
    assert found["budget:%"] == Spent(0, {})
    everybody = await last_hour(engine, ledger, NOW_MS)
    assert everybody == dict(lately)


@pytest.mark.full
async def test_a_month_of_a_hundred_budgets_is_read_at_once(databases: Databases) -> None:
    """Three models in every hour of 31 days: what `budget show` and a page of the console wait for. The bound is for
    a busy machine."""
    engine = create_engine(await databases.create(), command_timeout_s=600)
    async with engine.begin() as connection:
        await connection.execute(text(_A_MONTH), {"now": datetime.fromtimestamp(NOW_MS / 1000, UTC)})
        await connection.execute(text("ANALYZE usage_hourly"))
    began = time.perf_counter()
    found = await spent_lately(engine, "months", NOW_MS, [f"budget:acme/b{number}" for number in range(100)])
    took_s = time.perf_counter() - began
    await engine.dispose()
    print(f"31 days of 100 budgets from 223,200 hourly sums: {took_s:.2f} s")
    this_hour = NOW_MS // HOUR_MS
    spent = {(this_hour - back) * HOUR_MS: 15_000_000 for back in range(744)}
    assert all(each == Spent(0, spent) for each in found.values())
    assert took_s < 10


_A_MONTH = """
    INSERT INTO usage_hourly (ledger, hour, budget, service, model, state, entries, attempts, calls, calls_of_service,
                              calls_of_model, calls_of_candidate, reported, input_tokens, cached_input_tokens,
                              cache_write_tokens, output_tokens, reasoning_tokens, cost_usd)
    SELECT 'months', date_trunc('hour', CAST(:now AS timestamptz)) - back * interval '1 hour', 'acme/b' || budget, 's',
           'm' || model, 'final', 5, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0.005
    FROM generate_series(0, 743) AS back, generate_series(0, 99) AS budget, generate_series(1, 3) AS model
"""
