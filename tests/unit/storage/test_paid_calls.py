"""Which calls were paid for, asked of a real PostgreSQL: each state of a row, each place where it can be."""

import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from old_schemas import upgrade_to
from paymaster_process import Databases
from records import usual_entry
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import CallRef, UsageEntry, call_workflow_id
from paymaster.storage.engine import create_engine
from paymaster.storage.paid_calls import PaidCall, paid_calls
from paymaster.storage.pruning import prune
from paymaster.storage.schema import OLDER_SCHEMA_REVISION, migrate
from paymaster.storage.usage_rows import insert_entries

NUMBERS = itertools.count(1)
NOW = datetime.now(UTC)
# As 0.1.0 stores a row.
OLD_INSERT = text(
    """
    INSERT INTO api_usage (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                           model, granted_at, status, cost_usd, price_source, metadata)
    VALUES ('r/1/1', 'final', 'r/1', 'old', 'call/old', 'r', 'default', 'e', 'acme', 'openai', 'm', now(), 'completed',
            0.000000007, 'test', '{}')
    """
)
MANY = text(
    """
    INSERT INTO usage_entries (attempt_id, state, hold_id, call_id, workflow_id, run_id, ledger, epoch, budget, service,
                               model, granted_at, status, cost_usd, price_source, metadata)
    SELECT n || '/1/1', 'final', n || '/1', 'many-' || n, 'call/many-' || n, n, 'default', 'e', 'acme', 'openai', 'm',
           now() - n * interval '10 minutes', 'completed', 0.000000007, 'test', '{}'
    FROM generate_series(1, 20000) AS n
    """
)
COLLATIONS = text(
    """
    SELECT format('%I.%I', nspname, collname) FROM pg_collation JOIN pg_namespace ON pg_namespace.oid = collnamespace
    WHERE collencoding IN (-1, pg_char_to_encoding('UTF8')) AND collprovider IN ('b', 'c')
    """
)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, command_timeout_s=60)
    yield engine
    await engine.dispose()


def at_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def entry(call_id: str, ledger: str = "default", **fields: object) -> UsageEntry:
    usual = usual_entry(next(NUMBERS)) | {"call_id": call_id, "workflow_id": call_workflow_id(call_id, ledger)}
    return UsageEntry.model_validate(usual | {"ledger": ledger, "granted_at_ms": at_ms(NOW)} | fields)


async def found(engine: AsyncEngine, *call_ids: str, ledger: str = "default") -> list[set[str]]:
    """The ids of the runs that are found for each call, without their order."""
    paid = await paid_calls(engine, ledger, [call_workflow_id(call_id, ledger) for call_id in call_ids])
    return [{"pruned"} if each.is_pruned else {run.run_id for run in each.runs} for each in paid]


@pytest.mark.parametrize(
    ("fields", "is_paid"),
    [
        ({"status": "completed"}, True),
        ({"status": "completed", "cost_nanos": 0}, True),
        ({"status": "failed"}, True),
        ({"status": "failed", "cost_nanos": 0}, False),
        ({"status": "unknown", "state": "unconfirmed"}, True),
        ({"status": "expired", "state": "unconfirmed"}, True),
    ],
)
async def test_what_was_answered_or_billed_is_found(engine: AsyncEngine, fields: dict[str, Any], is_paid: bool) -> None:
    row = entry("one", **fields)
    await insert_entries(engine, [row])
    expected = PaidCall((CallRef(workflow_id="call/one", run_id=row.run_id),) if is_paid else ())
    asked = ["call/one", "call/none", "call/one"]
    assert await paid_calls(engine, "default", asked) == [expected, PaidCall(), expected]


async def test_what_was_resolved_as_unbilled_is_not(engine: AsyncEngine) -> None:
    rows = [entry("one", attempt_id="a", status="unknown", state="unconfirmed")]
    await insert_entries(engine, rows)
    assert await found(engine, "one") == [{rows[0].run_id}]
    await insert_entries(engine, [rows[0].model_copy(update={"state": "final", "cost_nanos": 0})])
    assert await found(engine, "one") == [set()]


@pytest.mark.parametrize("call_id", ["one", "Ünë/1 %_\\", "article~g2/x"])
async def test_a_later_generation_is_found_by_the_calls_id(engine: AsyncEngine, call_id: str) -> None:
    """And no other call whose id begins so, and no purchase."""
    others = ["~g0", "~g1", "~g1234567890", "~gamma", "~g2b", "~g", "~G2", "g2", "~h2", "~2", "/2", "~g-2", "~g٢"]
    await insert_entries(
        engine,
        [
            *(entry(f"{call_id}~g{number}", run_id=f"g{number}") for number in (2, 9, 10, 123456)),
            *(entry(f"{call_id}{other}", run_id=other) for other in others),
            entry(f"x{call_id}~g2", run_id="longer"),
            entry(call_id, ledger="other", run_id="of another ledger"),
            entry(f"purchase/{call_id}", workflow_id=f"purchase/{call_id}", run_id="purchase"),
        ],
    )
    assert await found(engine, call_id, f"purchase/{call_id}") == [{"g2", "g9", "g10", "g123456"}, set()]
    assert await found(engine, call_id, ledger="other") == [{"of another ledger"}]


async def test_every_partition_is_looked_at(engine: AsyncEngine) -> None:
    granted = {"now": NOW, "long ago": datetime(1999, 5, 1, tzinfo=UTC), "ahead": NOW + timedelta(days=400)}
    await insert_entries(engine, [entry(name, run_id=name, granted_at_ms=at_ms(at)) for name, at in granted.items()])
    assert await found(engine, *granted) == [{name} for name in granted]


async def test_rows_of_before_are_looked_at(databases: Databases) -> None:
    """Those of 0.1.0, which has one table."""
    url = await databases.create_empty()
    engine = create_engine(url)
    await upgrade_to(engine, OLDER_SCHEMA_REVISION)
    async with engine.begin() as connection:
        await connection.execute(OLD_INSERT)
    await migrate(url)
    assert await found(engine, "old", "new") == [{"r"}, set()]
    await engine.dispose()


async def test_pruned_calls_are_found_by_their_hashed_ids(engine: AsyncEngine) -> None:
    """By those that are asked for, of whichever generation the rows were, of this ledger, and if they were paid for."""
    long_ago = at_ms(NOW - timedelta(days=400))
    rows = [
        entry("one", granted_at_ms=long_ago),
        entry("two~g3", granted_at_ms=long_ago),
        entry("failed", status="failed", cost_nanos=0, granted_at_ms=long_ago),
        entry("elsewhere", ledger="other", granted_at_ms=long_ago),
    ]
    await insert_entries(engine, rows)
    before = (NOW - timedelta(days=300)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert sum([pruned.entries async for pruned in prune(engine, before)]) == len(rows)
    found_ids = await found(engine, "one", "two", "failed", "elsewhere", "three")
    assert found_ids == [{"pruned"}, {"pruned"}, set(), set(), set()]
    assert await found(engine, "elsewhere", ledger="other") == [{"pruned"}]


async def test_in_every_collation_generations_are_between_two_ids(engine: AsyncEngine) -> None:
    """On which it depends that the index finds them, whatever collation a database has; ICU's are not in this build."""
    ids = "VALUES ('call/x', '2'), ('call/x', '999999999'), ('call/Ünë-1', '10'), ('call/x~g2', '3'), ('call/ch', '2')"
    async with engine.connect() as connection:
        names = (await connection.execute(COLLATIONS)).scalars().all()
        for name in names:
            inside = f"id || '~g' || n > id || '~g' COLLATE {name} AND id || '~g' || n < id || '~h' COLLATE {name}"
            query = text(f"SELECT bool_and({inside}) FROM ({ids}) AS ids (id, n)")
            assert await connection.scalar(query), name
    assert len(names) > 3


async def test_a_lookup_reads_no_table(engine: AsyncEngine) -> None:
    """Only indexes, in every partition that has rows, whatever the planner knows of them."""
    async with engine.begin() as connection:
        await connection.execute(MANY)
    for analyzed in (False, True):
        if analyzed:
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(text("VACUUM ANALYZE usage_entries"))
        asked: list[tuple[str, Sequence[Any]]] = []

        def note(
            connection: object,
            cursor: object,
            statement: str,
            parameters: Sequence[Any],
            *_: object,
            asked: Any = asked,
        ) -> None:
            asked.append((statement, parameters))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        assert await found(engine, "many-7", "none") == [{"7"}, set()]
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        [(statement, parameters)] = asked
        async with engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute("SET plan_cache_mode = 'force_generic_plan'")
            lines = [row[0] for row in await raw.fetch(f"EXPLAIN (ANALYZE, COSTS off) {statement}", *parameters)]
        read = [line for line in lines if "Seq Scan on" in line and "rows=0" not in line]
        assert not read, "\n".join(lines)
