"""For which accounts a stored row counts: PostgreSQL and the desk's own rule agree."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import charged_entry
from searches import examples
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.calls.purchases import PURCHASE
from paymaster.messages import LoadSpend
from paymaster.messages.ledger_steps import PURCHASES
from paymaster.reports.usage import usage_report
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import load_spend
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.budget_path import accounts_charged, budget_ancestors, budgets_charged
from paymaster.values.run_path import run_ancestors
from paymaster.values.windows import WINDOWS

NUMBERS = itertools.count(1)
SEGMENTS = st.sampled_from(["a", "A", "a_", "ab", "a.b", "-", "_"])
BUDGETS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
Spent = tuple[tuple[str, ...], str, str | None, int]
NAMED = st.lists(BUDGETS, min_size=1, max_size=4).map(tuple)
RUNS = st.one_of(
    st.none(), st.lists(st.sampled_from(["a@1", "a@", "a", "0", ":"]), min_size=1, max_size=3).map("/".join)
)
SPENT = st.lists(st.tuples(NAMED, st.sampled_from(["a", "ab", "a-b"]), RUNS, st.integers(0, 10**12)), max_size=10)


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


@given(spent=SPENT)
@settings(max_examples=examples(60), deadline=None)
async def test_sql_charges_whom_the_desk_charges(engine: AsyncEngine, spent: list[Spent]) -> None:
    ledger = f"ledger-{next(NUMBERS)}"
    await insert_entries(
        engine,
        [
            charged_entry(ledger, number, budgets, service, nanos, run=run)
            for number, (budgets, service, run, nanos) in enumerate(spent)
        ],
    )
    charged: Counter[str] = Counter()
    for budgets, service, run, nanos in spent:
        charged.update(dict.fromkeys(accounts_charged(budgets, service, run), nanos))
    # Those too that no row counts for, but whose names are alike.
    accounts = [
        *charged,
        *(
            name
            for name in ("budget:b", "budget:a/b", "budget:%", "run:b", "run:a@", "service:b")
            if name not in charged
        ),
    ]
    expected = {account: charged[account] for account in accounts}

    assert await posted_by_account(engine, ledger, accounts) == expected
    wanted = LoadSpend(
        number=0,
        ledger=ledger,
        accounts=tuple(name for name in accounts if not name.startswith("run:")),
        known_holds=(),
        with_cap_changes=False,
        window_starts_ms=dict.fromkeys(WINDOWS, 0),
    )
    loaded = (await load_spend(engine, wanted)).posted_nanos
    assert {name: loaded.get(name, {}).get("total", 0) for name in wanted.accounts} == {
        name: expected[name] for name in wanted.accounts
    }
    looked_up = tuple(name for name in accounts if not name.startswith("service:"))
    found = await load_spend(engine, wanted.model_copy(update={"accounts": looked_up, "by_account": True}))
    assert {name: found.posted_nanos.get(name, {}).get("total", 0) for name in looked_up} == {
        name: expected[name] for name in looked_up
    }
    of_runs = Counter(f"run:{path}" for _, _, run, _ in spent if run is not None for path in run_ancestors(run))
    assert found.runs == {name: (calls, 1_000) for name, calls in of_runs.items()}
    renewed = {"calls_in": ("hour", "day"), "window_starts_ms": {**wanted.window_starts_ms, "day": 1_001}}
    found = await load_spend(engine, wanted.model_copy(update={"accounts": looked_up, "by_account": True, **renewed}))
    assert found.run_calls == {name: {"hour": calls, "day": 0} for name, calls in of_runs.items()}
    for path in {path for budgets, *_ in spent for path in budgets_charged(budgets)}:
        [row] = await usage_report(engine, ledger=ledger, by=(), budget=path)
        rows = await usage_report(engine, ledger=ledger, by=("budget",), budget=path)
        assert row.cost_nanos == sum(each.cost_nanos for each in rows) == expected[f"budget:{path}"]
        assert all(path in budget_ancestors(each.budget or "") for each in rows)


async def test_unconfirmed_purchases_are_counted_apart(engine: AsyncEngine) -> None:
    """But for those that the desk counts itself, and those of a name that is a service's by now."""
    said = ["search", "search", "search", "a", "new"]
    entries = [charged_entry("bought", number, ("acme",), service, 5) for number, service in enumerate(said)]
    unconfirmed = [each.model_copy(update={"state": "unconfirmed"}) for each in entries]
    bought = [each if each.service == "a" else each.model_copy(update={"model": PURCHASE}) for each in unconfirmed]
    await insert_entries(engine, [*bought[1:], bought[0].model_copy(update={"state": "final"})])
    wanted = LoadSpend(
        number=0,
        ledger="bought",
        accounts=("budget:acme", "service:a", "service:new"),
        known_holds=(bought[1].hold_id,),
        with_cap_changes=False,
        window_starts_ms=dict.fromkeys(WINDOWS, 0),
    )
    found = await load_spend(engine, wanted)
    assert found.unconfirmed == {"budget:acme": (3, 15), "service:a": (1, 5), "service:new": (1, 5), PURCHASES: (1, 0)}
    assert found.posted_nanos.keys() == {"budget:acme", "service:a", "service:new"}
