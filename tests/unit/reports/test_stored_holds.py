"""Holds as they are stored: one for each, however many rows it has, in the order of the grants."""

from datetime import UTC, datetime

from paymaster.messages import UsageEntry
from paymaster.reports.replayed import StoredHold
from paymaster.reports.stored_holds import stored_holds
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import TokenUsage

GRANTED_MS = int(datetime(2027, 3, 10, 12, tzinfo=UTC).timestamp()) * 1000 + 123


def entry(attempt: str, **fields: object) -> UsageEntry:
    usual: dict[str, object] = {
        "attempt_id": attempt,
        "state": "final",
        "hold_id": attempt.rsplit("/", 1)[0],
        "call_id": "c",
        "workflow_id": "call/c",
        "run_id": "run",
        "ledger": "default",
        "epoch": "epoch",
        "budget": "acme/team",
        "service": "s",
        "model": "m",
        "granted_at_ms": GRANTED_MS,
        "started_at_ms": GRANTED_MS + 10,
        "duration_ms": 1_000,
        "status": "completed",
        "cost_nanos": 7,
        "usage": TokenUsage(input_tokens=100, output_tokens=20),
        "price_source": "test",
    }
    return UsageEntry.model_validate(usual | fields)


async def found(
    database_url: str, *entries: UsageEntry, since: datetime | None = None, until: datetime | None = None
) -> list[StoredHold]:
    engine = create_engine(database_url)
    try:
        await insert_entries(engine, entries)
        return [hold async for hold in stored_holds(engine, ledger="default", since=since, until=until)]
    finally:
        await engine.dispose()


async def test_all_attempts_under_a_hold_are_one(database_url: str) -> None:
    run = {"run": "root/first/researcher"}
    failed = {"status": "failed", "usage": None, "cost_nanos": 0, "duration_ms": 300}
    holds = await found(
        database_url,
        entry("run/1/2", started_at_ms=GRANTED_MS + 2_000, **run),
        entry("run/1/1", **failed, **run),
        entry("run/1/3", cost_nanos=5, state="unconfirmed", status="unknown", usage=None, duration_ms=9_000, **run),
        entry("run/1/3/correction/1", cost_nanos=1, status="corrected", usage=None, hold_id="run/1", **run),
    )
    assert holds == [
        StoredHold(
            call_id="c",
            budgets=("acme/team",),
            service="s",
            model="m",
            granted_at_ms=GRANTED_MS,
            cost_nanos=13,
            tokens=120,
            run="root/first/researcher",
            attempts_ended_ms=(GRANTED_MS + 310, GRANTED_MS + 3_000, GRANTED_MS + 9_010),
        )
    ]


async def test_what_is_final_counts_and_what_expired_ended_unseen(database_url: str) -> None:
    unseen = {"started_at_ms": None, "duration_ms": None, "status": "expired", "usage": None}
    [settled, expired] = await found(
        database_url,
        entry("run/1/1", state="unconfirmed", cost_nanos=90, usage=None, status="unknown"),
        entry("run/1/1", cost_nanos=8),
        entry("run/2/expiry", state="unconfirmed", cost_nanos=50, granted_at_ms=GRANTED_MS + 1, **unseen),
    )
    assert (settled.cost_nanos, settled.tokens) == (8, 120)
    assert (expired.cost_nanos, expired.tokens, expired.attempts_ended_ms) == (50, 0, ())


async def test_budgets_are_those_that_the_call_named(database_url: str) -> None:
    [hold] = await found(database_url, entry("run/1/1", further_budgets=("customers/42", "x")))
    assert hold.budgets == ("acme/team", "customers/42", "x")


async def test_they_come_in_the_order_of_their_grants_and_of_one_ledger(database_url: str) -> None:
    """More of them than are read at once."""
    entries = [
        entry(f"run-{number}/1/1", granted_at_ms=GRANTED_MS + number * 7 % 5_001, call_id=f"c-{number}")
        for number in range(5_001)
    ]
    await found(database_url, entry("run-x/1/1", ledger="other"), *entries[:2_500])
    holds = await found(database_url, *entries[2_500:])
    assert [hold.granted_at_ms for hold in holds] == [GRANTED_MS + number for number in range(5_001)]
    since, until = (datetime.fromtimestamp((GRANTED_MS + ms) / 1000, UTC) for ms in (10, 20))
    part = await found(database_url, since=since, until=until)
    assert [hold.granted_at_ms - GRANTED_MS for hold in part] == list(range(10, 20))
