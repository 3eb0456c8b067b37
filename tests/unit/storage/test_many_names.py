"""A hundred thousand budgets in the rows, of which one is asked for: it is looked up, and not summed up with all."""

from collections.abc import AsyncIterator
from time import perf_counter

import pytest
from paymaster_process import Databases
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import NO_TRIGGERS

from paymaster.messages import LoadSpend
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import load_spend
from paymaster.values.windows import WINDOWS

NAMES, PIECE = 100_000, 5_000
FILL = text(
    """
    INSERT INTO usage_entries (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, run)
    SELECT n || '/1/1', 'final', n || '/1', n, n, n, 'many', 'e', 'users/' || n % :names, 's', 'm', now(), 'completed',
           (n % 7) / 1000.0, 'test', 'run@' || n % :names
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
    """
)


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    for first in range(1, 2 * NAMES, PIECE):  # within the time that a statement may take
        async with engine.begin() as connection:
            await connection.execute(NO_TRIGGERS)
            await connection.execute(FILL, {"names": NAMES, "first": first, "last": first + PIECE - 1})
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("ANALYZE usage_entries"))
    yield engine
    await engine.dispose()


@pytest.mark.full
async def test_a_name_is_looked_up_among_a_hundred_thousand(engine: AsyncEngine) -> None:
    numbers = range(17, NAMES, NAMES // 100)
    accounts = (*(f"budget:users/{n}" for n in numbers), *(f"run:run@{n}" for n in numbers))
    wanted = LoadSpend(
        number=0,
        ledger="many",
        accounts=accounts,
        known_holds=(),
        with_cap_changes=False,
        window_starts_ms=dict.fromkeys(WINDOWS, 0),
        by_account=True,
    )
    began = perf_counter()
    found = await load_spend(engine, wanted)
    looked_up = perf_counter() - began
    for n in numbers:
        nanos = (n % 7 + (n + NAMES) % 7) * 1_000_000
        assert found.posted_nanos[f"budget:users/{n}"]["total"] == found.posted_nanos[f"run:run@{n}"]["total"] == nanos
    began = perf_counter()
    all_budgets = [f"budget:users/{n}" for n in numbers]
    summed = await load_spend(engine, wanted.model_copy(update={"accounts": tuple(all_budgets), "by_account": False}))
    pass_over_all = perf_counter() - began
    assert {key: found.posted_nanos[key] for key in all_budgets} == summed.posted_nanos
    assert looked_up < pass_over_all / 3, f"{looked_up:.3f} s for {len(accounts)}, {pass_over_all:.3f} s for a pass"
