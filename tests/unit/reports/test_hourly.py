"""Reports of hourly sums say what those of rows say, wherever their times begin and end."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.reports.hourly import Hours, summed_hours
from paymaster.reports.trends import usage_trends
from paymaster.reports.usage import Scope, UsageRow, usage_report_with_total
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import TokenUsage

LEDGER = "default"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BYS = [[], ["service"], ["model"], ["budget", "day"], ["day", "model", "service"], ["service", "budget", "model"]]
MINUTES = st.one_of(st.none(), st.integers(-90, 60 * 60))


def calls() -> list[UsageEntry]:
    """Ninety calls over two days and a half, many with further attempts in later hours or on another service."""
    return [
        UsageEntry.model_validate(
            usual_entry(call)
            | {
                "attempt_id": f"run-{call}/{hold}/1",
                "service": ("openai", "azure")[(call + hold) % 2],
                "model": ("luna", "sol")[(call // 2 + hold) % 2],
                "budget": f"acme/{call % 3}",
                "further_budgets": ("customers/7",) if call % 4 == 0 else (),
                "state": "unconfirmed" if (call + hold) % 7 == 0 else "final",
                "granted_at_ms": round(NOON.timestamp() * 1000) + call * 2_400_000 + (hold - 1) * 1_700_000,
                "usage": None if call % 5 == 0 else TokenUsage(input_tokens=call, output_tokens=hold),
                "cost_nanos": 10**9 * call + hold,
            }
        )
        for call in range(90)
        for hold in range(1, 2 + call % 3)
    ]


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    await insert_entries(engine, calls())
    yield engine
    await engine.dispose()


def added_up(rows: Sequence[UsageRow]) -> dict[tuple[object, ...], tuple[object, ...]]:
    """The rows of a report that has one more dimension, without that one."""
    found: dict[tuple[object, ...], list[UsageRow]] = {}
    for row in rows:
        found.setdefault((row.service, row.model, row.budget, row.day), []).append(row)
    return {key: figures(of_key) for key, of_key in found.items()}


def figures(rows: Sequence[UsageRow]) -> tuple[object, ...]:
    tokens = ([getattr(row, name) for row in rows] for name in ("input_tokens", "cached_input_tokens", "output_tokens"))
    return (
        *(sum(getattr(row, name) for row in rows) for name in ("calls", "attempts", "cost_nanos", "unconfirmed_nanos")),
        *(sum(known) if (known := [each for each in column if each is not None]) else None for column in tokens),
    )


@given(
    by=st.sampled_from(BYS), since=MINUTES, until=MINUTES, budget=st.sampled_from([None, "acme", "acme/1", "customers"])
)
@settings(max_examples=examples(150), deadline=None)
async def test_sums_and_rows_report_the_same(
    engine: AsyncEngine, by: list[str], since: int | None, until: int | None, budget: str | None
) -> None:
    scope: Scope = {
        "since": None if since is None else NOON + timedelta(minutes=since),
        "until": None if until is None else NOON + timedelta(minutes=until),
        "budget": budget,
        "run": None,
    }
    rows, total = await usage_report_with_total(engine, ledger=LEDGER, by=by, **scope)
    # All calls completed: the further dimension, which the sums do not have, changes no count.
    of_rows, of_rows_total = await usage_report_with_total(engine, ledger=LEDGER, by=[*by, "status"], **scope)
    assert total == of_rows_total
    if by:
        assert added_up(rows) == added_up(of_rows)
        assert [row.cost_nanos for row in rows] == [row.cost_nanos for row in of_rows]  # in the same order
    trends = await usage_trends(engine, ledger=LEDGER, **scope)
    assert sum(point.cost_nanos for point in trends.costs) == total.cost_nanos


async def test_a_report_of_whole_hours_reads_no_rows(databases: Databases) -> None:
    """Rows that are gone are in the sums."""
    engine = create_engine(await databases.create())
    try:
        await insert_entries(engine, calls())
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM usage_entries"))
        scope: Scope = {"since": NOON, "until": NOON + timedelta(days=9), "budget": None, "run": None}
        rows, found = await usage_report_with_total(engine, ledger=LEDGER, by=["service", "day"], **scope)
        assert sum(row.cost_nanos for row in rows) == found.cost_nanos == sum(each.cost_nanos for each in calls())
        assert found.calls == 90
        _, of_rows = await usage_report_with_total(engine, ledger=LEDGER, by=["status"], **scope)
        assert of_rows.cost_nanos == 0
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, Hours(None, None)),
        (NOON, NOON + HOUR, Hours(NOON, NOON + HOUR)),
        (NOON + timedelta.resolution, NOON + 3 * HOUR, Hours(NOON + HOUR, NOON + 3 * HOUR)),
        (NOON, NOON + HOUR - timedelta.resolution, None),
        (NOON + HOUR / 2, NOON + 3 * HOUR / 2, None),
        (NOON + HOUR / 2, None, Hours(NOON + HOUR, None)),
        (None, NOON + HOUR / 2, Hours(None, NOON)),
    ],
)
def test_hours_that_a_report_covers_in_part_are_read_from_rows(
    since: datetime | None, until: datetime | None, expected: Hours | None
) -> None:
    assert summed_hours(["service"], since, until) == expected
    for other in ("status", "run", "dialect", "metadata.team"):
        assert summed_hours(["service", other], since, until) is None
    assert summed_hours(["service"], since, until, run="nightly") is None
