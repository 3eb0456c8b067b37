"""For which accounts a stored row counts: PostgreSQL and the desk's own rule agree."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from searches import examples
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import LoadSpend, UsageEntry
from paymaster.reports.usage import usage_report
from paymaster.storage.charging import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import load_spend
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.budget_path import accounts_charged, budget_ancestors, budgets_charged
from paymaster.values.windows import WINDOWS

NUMBERS = itertools.count(1)
SEGMENTS = st.sampled_from(["a", "A", "a_", "ab", "a.b", "-", "_"])
BUDGETS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
Spent = tuple[tuple[str, ...], str, int]
NAMED = st.lists(BUDGETS, min_size=1, max_size=4).map(tuple)
SPENT = st.lists(st.tuples(NAMED, st.sampled_from(["a", "ab", "a-b"]), st.integers(0, 10**12)), max_size=10)


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


def entry(ledger: str, number: int, budgets: tuple[str, ...], service: str, cost_nanos: int) -> UsageEntry:
    run = f"{ledger}-{number}"
    return UsageEntry(
        attempt_id=f"{run}/1/1",
        state="final",
        hold_id=f"{run}/1",
        call_id=run,
        workflow_id=f"call/{run}",
        run_id=run,
        ledger=ledger,
        epoch="epoch",
        budget=budgets[0],
        further_budgets=budgets[1:],
        service=service,
        model="model",
        granted_at_ms=1_000,
        status="completed",
        cost_nanos=cost_nanos,
        price_source="test",
    )


@given(spent=SPENT)
@settings(max_examples=examples(60), deadline=None)
async def test_sql_charges_whom_the_desk_charges(engine: AsyncEngine, spent: list[Spent]) -> None:
    ledger = f"ledger-{next(NUMBERS)}"
    await insert_entries(engine, [entry(ledger, number, *row) for number, row in enumerate(spent)])
    charged: Counter[str] = Counter()
    for budgets, service, nanos in spent:
        charged.update(dict.fromkeys(accounts_charged(budgets, service), nanos))
    # Those too that no row counts for, but whose names are alike.
    accounts = [
        *charged,
        *(name for name in ("budget:b", "budget:a/b", "budget:%", "service:b") if name not in charged),
    ]
    expected = {account: charged[account] for account in accounts}

    assert await posted_by_account(engine, ledger, accounts) == expected
    wanted = LoadSpend(
        number=0,
        ledger=ledger,
        accounts=tuple(accounts),
        known_holds=(),
        with_cap_changes=False,
        window_starts_ms=dict.fromkeys(WINDOWS, 0),
    )
    loaded = (await load_spend(engine, wanted)).posted_nanos
    assert {name: loaded.get(name, {}).get("total", 0) for name in accounts} == expected
    budgets_alone = tuple(name for name in accounts if name.startswith("budget:"))
    by_account = wanted.model_copy(update={"accounts": budgets_alone, "by_account": True})
    found = (await load_spend(engine, by_account)).posted_nanos
    assert {name: found.get(name, {}).get("total", 0) for name in budgets_alone} == {
        name: nanos for name, nanos in expected.items() if name.startswith("budget:")
    }
    for path in {path for budgets, _, _ in spent for path in budgets_charged(budgets)}:
        [row] = await usage_report(engine, ledger=ledger, by=(), budget=path)
        rows = await usage_report(engine, ledger=ledger, by=("budget",), budget=path)
        assert row.cost_nanos == sum(each.cost_nanos for each in rows) == expected[f"budget:{path}"]
        assert all(path in budget_ancestors(each.budget or "") for each in rows)
