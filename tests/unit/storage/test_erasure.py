"""What is personal goes out of the database, whatever its age, and what was paid stays; nothing comes back later."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from old_schemas import upgrade_to
from paymaster_process import Databases, until
from records import usual_entry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import UsageEntry
from paymaster.storage.call_bodies import insert_body
from paymaster.storage.engine import create_engine
from paymaster.storage.erasure import (
    ErasedRows,
    StoredCall,
    begin_erasure,
    calls_of_ids,
    calls_with_metadata,
    end_erasure,
    erase_stored,
    note_erased,
    stored_of,
    with_metadata,
)
from paymaster.storage.ledger_log import logged_changes
from paymaster.storage.left_requests import note_left, take_left
from paymaster.storage.schema import OLDER_SCHEMA_REVISION, migrate
from paymaster.storage.usage_rows import insert_entries

pytestmark = pytest.mark.stack
NUMBERS = itertools.count(1)
NOW = datetime.now(UTC)
MONEY = "SELECT to_jsonb(u) - 'metadata' FROM usage_entries AS u ORDER BY id"
SUMS = "SELECT to_jsonb(s) FROM usage_hourly AS s ORDER BY key"
METADATA = "SELECT call_id, metadata FROM usage_entries ORDER BY id"
# As 0.1.0 stores a row.
OLD_INSERT = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    VALUES (:run_id || '/1/1', 'final', 'h', :call_id, 'call/' || :call_id, :run_id, 'default', 'e', 'acme', 'openai',
            'm', :granted_at, 'completed', 1, 'test', '{"customer": "42"}')
    ON CONFLICT (attempt_id, state) DO NOTHING
    """
)


def at_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def entry(**fields: Any) -> UsageEntry:
    usual = {"granted_at_ms": at_ms(NOW), "metadata": {"customer": "42", "note": "jane"}}
    return UsageEntry.model_validate(usual_entry(next(NUMBERS)) | usual | fields)


def call_of(row: UsageEntry) -> StoredCall:
    return StoredCall(row.call_id, row.workflow_id, row.run_id)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def all_of(engine: AsyncEngine, query: str) -> list[Any]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def erase(engine: AsyncEngine, *calls: StoredCall) -> ErasedRows:
    await note_erased(engine, [call.run_id for call in calls])
    return await erase_stored(engine, "default", "n", calls)


async def test_calls_are_found_by_metadata_and_by_id(engine: AsyncEngine) -> None:
    long = "x" * 1_000
    rows = [
        entry(call_id="a"),
        entry(call_id="a~g2", metadata={"customer": "42"}),
        entry(call_id="b", metadata={"customer": "421"}),
        entry(call_id="c", metadata={"customer": "42", "note": long}),
        entry(call_id="d", ledger="other"),
        entry(call_id="e", metadata={}),
    ]
    await insert_entries(engine, rows)

    async def found(metadata: dict[str, str]) -> list[str]:
        return sorted(call.call_id for call in await calls_with_metadata(engine, "default", metadata))

    assert await found({"customer": "42"}) == ["a", "a~g2", "c"]
    assert await found({"customer": "42", "note": "jane"}) == ["a"]
    assert await found({"note": long}) == ["c"], "rows have the beginning of a long value"
    assert sorted(await calls_of_ids(engine, "default", ["a", "d"])) == sorted(map(call_of, rows[:2]))
    told = await with_metadata(engine, "default", [row.workflow_id for row in rows])
    assert told == {row.run_id for row in rows[:4]}


async def test_metadata_goes_and_money_stays_in_every_partition(databases: Databases) -> None:
    """Also in the table that 0.1.0 made, of a row that it stored."""
    engine = create_engine(await databases.create_empty())
    await upgrade_to(engine, OLDER_SCHEMA_REVISION)
    old = {"run_id": "old", "call_id": "old", "granted_at": NOW - timedelta(days=40)}
    async with engine.begin() as connection:
        await connection.execute(OLD_INSERT, old)
    await migrate(engine.url.render_as_string(hide_password=False))
    times = (NOW, NOW + timedelta(days=70), NOW + timedelta(days=400))
    rows = [entry(granted_at_ms=at_ms(at)) for at in times]
    rows.append(rows[0].model_copy(update={"state": "unconfirmed", "cost_nanos": 7}))
    await insert_entries(engine, [*rows, entry(call_id="other", metadata={"customer": "43"})])
    places = await all_of(engine, "SELECT DISTINCT tableoid::regclass::text FROM usage_entries")
    assert len(places) >= 3
    before = [await all_of(engine, query) for query in (MONEY, SUMS)]

    found = await calls_with_metadata(engine, "default", {"customer": "42"})
    assert len(found) == 4
    assert (await stored_of(engine, "default", "n", found)).rows == 5
    assert (await erase(engine, *found)).rows == 5
    assert await calls_with_metadata(engine, "default", {"customer": "42"}) == []
    kept = [(call, data) for call, data in await all_of(engine, METADATA) if data]
    assert kept == [("other", {"customer": "43"})]
    assert [await all_of(engine, query) for query in (MONEY, SUMS)] == before
    assert await erase(engine, *found) == ErasedRows(0, 0, 0, 0)
    await engine.dispose()


async def test_what_is_stored_late_brings_nothing_back(engine: AsyncEngine) -> None:
    """By a backlog, twice, or by a worker of 0.1.0; its money counts."""
    row, other = entry(), entry()
    await insert_entries(engine, [row.model_copy(update={"state": "unconfirmed", "cost_nanos": 9})])
    await erase(engine, call_of(row))
    late = [row, entry(run_id=row.run_id, attempt_id=f"{row.run_id}/2/1", call_id=row.call_id), other]
    for _ in range(2):
        await insert_entries(engine, late)
    await note_erased(engine, ["old"])
    async with engine.begin() as connection:
        for days in (0, 70):
            await connection.execute(OLD_INSERT, {"run_id": "old", "call_id": "old", "granted_at": NOW})
            old_other = {"run_id": f"old-{days}", "call_id": "old-other", "granted_at": NOW + timedelta(days=days)}
            await connection.execute(OLD_INSERT, old_other)
    kept = [call for call, data in await all_of(engine, METADATA) if data]
    assert kept == [other.call_id, "old-other", "old-other"]
    assert await all_of(engine, "SELECT sum(cost_usd) * 1000000000 FROM api_usage_counted") == [(3_000 + 3 * 10**9,)]
    summed = await all_of(engine, "SELECT sum(entries), sum(cost_usd) * 1000000000 FROM usage_hourly")
    assert summed == [(6, 3_000 + 3 * 10**9)]


async def test_a_row_that_is_being_stored_is_waited_for(engine: AsyncEngine) -> None:
    """Its transaction began before the call was noted, and so has not seen that."""
    row = entry()
    values = {"run_id": row.run_id, "call_id": row.call_id, "granted_at": NOW}
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'")
    async with engine.connect() as slow:
        await slow.execute(OLD_INSERT, values)
        erasing = asyncio.create_task(erase(engine, call_of(row)))

        async def waits() -> bool:
            async with engine.connect() as connection:
                return bool(await connection.scalar(waiting))

        await until(waits, "it waits for who stores")
        assert not erasing.done()
        await slow.commit()
    assert (await erasing).rows == 1
    assert [data for _, data in await all_of(engine, METADATA)] == [{}]


async def test_bodies_go_and_late_ones_are_not_stored(engine: AsyncEngine) -> None:
    row, other = entry(), entry()

    async def store(of: UsageEntry, name: str) -> None:
        named = {"ledger": "default", "namespace": "n", "workflow_id": of.workflow_id, "sha256": "0"}
        await insert_body(engine, f"{name}/abc", [b"1", b"2"], **named)

    await store(row, f"{row.run_id}/1/1")
    await store(row, f"request/{row.call_id}")
    await store(other, f"{other.run_id}/1/1")
    await note_left(engine, "default", "client", "digest", row.call_id)
    found = await stored_of(engine, "default", "n", [call_of(row)])
    assert (found.bodies, found.budgets, found.runs) == (2, (), ())
    erased = await erase(engine, call_of(row))
    assert (erased.bodies, erased.left_requests) == (2, 1)
    await store(row, f"{row.run_id}/2/1")
    names = await all_of(engine, "SELECT DISTINCT reference FROM call_bodies")
    assert names == [(f"{other.run_id}/1/1/abc",)]
    assert await take_left(engine, "default", "client", "digest") is None


async def test_alerts_that_may_quote_a_prompt_lose_their_words(engine: AsyncEngine) -> None:
    """Of the same service and model, while the call ran."""
    refused = entry(error_class="auth", status="failed", service="openai", model="luna")
    await insert_entries(engine, [refused, entry()])
    told = [("openai/luna: cannot do Jane", 0), ("openai/luna: cannot do Joe", -1), ("azure/luna: cannot do Jim", 0)]
    insert = text(
        "INSERT INTO alerts (ledger, epoch, sequence, at, what, text) VALUES ('default', 'e', :n, :at, :what, :text)"
    )
    async with engine.begin() as connection:
        for n, (words, days) in enumerate(told):
            at = NOW + timedelta(days=days, seconds=1)
            values = {"n": n, "at": at, "what": "service_refuses", "text": words}
            await connection.execute(insert, values)
    assert (await erase(engine, call_of(refused))).alerts == 1
    assert (await erase(engine, call_of(refused))).alerts == 0
    assert [words for (words,) in await all_of(engine, "SELECT text FROM alerts ORDER BY sequence")] == [
        "openai/luna: erased, since it may have quoted a prompt",
        *(words for words, _ in told[1:]),
    ]


async def test_who_erased_is_in_the_log(engine: AsyncEngine) -> None:
    """Also of one that was broken off; what was asked for is not."""
    number = await begin_erasure(engine, "default", "ada", "ticket 4711")
    await begin_erasure(engine, "default", "joe", "")
    await end_erasure(engine, number, {"histories": 3, "alerts' texts": 1, "stored bodies": 0, "left": 1})
    ended, broken_off = await logged_changes(engine, "default", None, 10)
    assert (ended.who, ended.reason) == ("ada", "ticket 4711")
    assert ended.what == "erased prompts and answers of calls: 3 histories, 1 alert's text, 1 left"
    assert (broken_off.who, broken_off.what) == (
        "joe",
        "began to erase prompts and answers of calls, and was broken off",
    )
    assert await logged_changes(engine, "other", None, 10) == []
