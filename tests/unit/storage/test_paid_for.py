"""What was paid for what, as it is stored and reported, and the migration that made room for it."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from old_schemas import upgrade_to
from paymaster_process import Databases
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import entries_of_call

from paymaster.messages import UsageEntry
from paymaster.reports.kinds import KindRow, kinds_report
from paymaster.reports.usage import usage_report
from paymaster.storage.engine import create_engine
from paymaster.storage.schema import check_schema, migrate
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.cost_lines import NOT_RECORDED, UNITS, CostLine, Kind, adding_up_to, in_one
from paymaster.values.money import NANOS_MAX

NUMBERS = itertools.count(1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINES = (
    CostLine(kind="input", quantity=60, unit_price_nanos=10**9, cost_nanos=600),
    CostLine(kind="cached_input", quantity=40, unit_price_nanos=10**8, cost_nanos=40, model="small"),
    CostLine(kind="web_search", quantity=2, cost_nanos=360),
)


def entry(**fields: object) -> UsageEntry:
    number = next(NUMBERS)
    at_ms = round(NOON.timestamp() * 1000) + number
    usual = usual_entry(number) | {"granted_at_ms": at_ms, "started_at_ms": at_ms, "paid_for": LINES}
    return UsageEntry.model_validate(usual | fields)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def migrated_once(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples cannot have a database each; they have ledgers of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


async def figures(engine: AsyncEngine, **asked: Any) -> list[tuple[object, ...]]:
    rows = await kinds_report(engine, ledger="default", **asked)
    return [(*row.keys.values(), row.kind, row.quantity, row.unit, row.cost_nanos) for row in rows]


# ---------------------------------------------------------------- rows


async def test_the_lines_of_a_row_come_back_as_they_were(engine: AsyncEngine) -> None:
    """Nothing paid for is not the same as not recorded."""
    rows = [entry(call_id="c", paid_for=lines) for lines in (LINES, None)]
    rows.append(entry(call_id="c", cost_nanos=0, paid_for=()))
    await insert_entries(engine, rows)
    assert await entries_of_call(engine, "c") == rows
    async with engine.connect() as connection:
        stored = await connection.scalars(text("SELECT paid_for::text FROM usage_entries ORDER BY id"))
        lines, not_recorded, nothing = stored.all()
    assert lines.count("model") == 1
    assert (not_recorded, nothing) == (None, "[]")


async def test_lines_are_stored_as_they_add_up_to_what_is_stored(engine: AsyncEngine) -> None:
    """A cost is cut at what its column holds, and what PostgreSQL refuses is replaced in lines too."""
    hostile = CostLine(kind="in\0put", quantity=10**30, cost_nanos=10**30, model="\ud800")
    await insert_entries(engine, [entry(call_id="c", cost_nanos=10**30, paid_for=(hostile,))])
    (back,) = await entries_of_call(engine, "c")
    assert back.cost_nanos == NANOS_MAX
    assert back.paid_for == (
        CostLine(kind="in\ufffdput", quantity=2**63 - 1, cost_nanos=10**30, model="\ufffd"),
        CostLine(kind="adjustment", quantity=1, cost_nanos=NANOS_MAX - 10**30),
    )


async def test_rows_of_before_stay_as_they_are_and_older_workers_write(databases: Databases) -> None:
    """A database at the schema of before is migrated while it is full; then comes a row without lines."""
    url = await databases.create_empty()
    engine = create_engine(url)
    await upgrade_to(engine, "0004")
    async with engine.begin() as connection:
        await connection.execute(text(_OLDER_ROW), {"attempt": "a-1"})
        before = (await connection.execute(text("SELECT * FROM api_usage"))).mappings().one()
    await engine.dispose()
    await migrate(url)
    await check_schema(engine)
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT * FROM usage_entries"))).mappings().one() == {
            **before,
            **dict.fromkeys(("paid_for", "dialect", "charged_budgets", "run")),
        }
        await connection.execute(text(_OLDER_ROW), {"attempt": "a-2"})
    await insert_entries(engine, [entry()])
    assert [row.paid_for for row in await entries_of_call(engine, "old")] == [None, None]
    assert await figures(engine) == [
        ("input", 60, "tokens", 600),
        ("cached_input", 40, "tokens", 40),
        ("web_search", 2, "searches", 360),
        (NOT_RECORDED, None, None, 2 * 7),
    ]
    await engine.dispose()


_OLDER_ROW = """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source)
    VALUES (:attempt, 'final', 'h', 'old', 'call/old', 'r', 'default', 'e', 'acme', 'openai', 'm', now(), 'completed',
            0.000000007, 'test')
"""


# ---------------------------------------------------------------- reports


lines = st.builds(
    CostLine,
    kind=st.sampled_from([*Kind, "a kind of a later version"]),
    quantity=st.integers(0, 10**12),
    unit_price_nanos=st.none() | st.integers(0, 10**15),
    cost_nanos=st.integers(0, 10**18),
    model=st.none() | st.just("m"),
)


@st.composite
def rows_of_an_attempt(draw: st.DrawFn) -> list[UsageEntry]:
    """Final, unconfirmed, or both, with lines or from before there were any."""
    number = next(NUMBERS)
    rows: list[UsageEntry] = []
    for state in draw(st.sampled_from([["final"], ["unconfirmed"], ["final", "unconfirmed"]])):
        cost = draw(st.integers(-(10**18), 10**19))
        found = draw(st.none() | st.lists(lines, max_size=4))
        paid_for = None if found is None else adding_up_to(found, cost)
        same = {"attempt_id": f"a-{number}", "service": draw(st.sampled_from(["openai", "local"]))}
        rows.append(entry(**same, state=state, cost_nanos=cost, paid_for=paid_for, started_at_ms=number))
    return rows


@given(attempts=st.lists(rows_of_an_attempt(), max_size=12))
@settings(max_examples=examples(60), deadline=None)
async def test_the_kinds_are_what_the_rows_cost(migrated_once: AsyncEngine, attempts: list[list[UsageEntry]]) -> None:
    """To the nano-dollar, and only the row that counts of each attempt is in it; quantities are exact too."""
    ledger = f"ledger-{next(NUMBERS)}"
    rows = [row.model_copy(update={"ledger": ledger}) for row in itertools.chain(*attempts)]
    await insert_entries(migrated_once, rows)
    counted = {row.attempt_id: row for row in sorted(rows, key=lambda row: row.state, reverse=True)}.values()
    expected: dict[tuple[str, str], list[int]] = {}
    for row in counted:
        told = ((line.kind, line.quantity, line.cost_nanos) for line in row.paid_for or ())
        for kind, quantity, cost in [(NOT_RECORDED, 0, row.cost_nanos)] if row.paid_for is None else told:
            sums = expected.setdefault((row.service, kind), [0, 0])
            sums[0] += quantity
            sums[1] += cost
    report = await kinds_report(migrated_once, ledger=ledger, by=["service"])
    assert {(row.keys["service"], row.kind): [row.quantity or 0, row.cost_nanos] for row in report} == expected
    [total] = await usage_report(migrated_once, ledger=ledger, by=())
    for by in ([], ["service", "day"], ["metadata.team", "status"]):
        report = await kinds_report(migrated_once, ledger=ledger, by=by)
        assert sum(row.cost_nanos for row in report) == total.cost_nanos


async def test_a_report_by_kind_is_grouped_and_in_the_order_of_kinds(engine: AsyncEngine) -> None:
    await insert_entries(
        engine,
        [
            entry(metadata={"team": "a"}),
            entry(metadata={"team": "a"}, granted_at_ms=round((NOON - timedelta(days=1)).timestamp() * 1000)),
            entry(budget="acme", cost_nanos=9, paid_for=in_one(Kind.BOUND, 9)),
            entry(budget="other", cost_nanos=5, paid_for=None),
            entry(budget="other", cost_nanos=0, paid_for=()),
        ],
    )
    of_noon = [("input", 60, "tokens", 600), ("cached_input", 40, "tokens", 40), ("web_search", 2, "searches", 360)]
    assert await figures(engine, budget="acme", since=NOON) == [*of_noon, ("bound", 1, "attempts", 9)]
    assert await figures(engine, until=NOON, by=["day"]) == [("2026-02-28", *line) for line in of_noon]
    assert await figures(engine, budget="other") == [(NOT_RECORDED, None, None, 5)]
    teams = await kinds_report(engine, ledger="default", by=["metadata.team"])
    assert teams[0] == KindRow(
        keys={"metadata.team": "a"}, kind="input", quantity=120, unit=UNITS["input"], cost_nanos=1_200
    )
    assert [row.kind for row in teams if row.keys["metadata.team"] is None] == ["bound", NOT_RECORDED]
    assert await kinds_report(engine, ledger="another") == []
