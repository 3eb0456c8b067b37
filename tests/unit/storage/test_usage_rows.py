"""The usage database on a real PostgreSQL: exact sums, harmless repetition, and nothing that cannot be stored."""

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st
from paymaster_process import Databases
from records import usual_entry
from searches import examples
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.ext.asyncio import AsyncEngine
from stored_rows import entries_of_call

from paymaster.devstack import EmbeddedStack
from paymaster.messages import AccountConfig, CapChange, ConfigChange, DeskConfig, LoadSpend, UsageEntry
from paymaster.reports.calls import calls_report
from paymaster.reports.trends import usage_trends
from paymaster.reports.usage import Dimension, usage_report, usage_report_with_total
from paymaster.storage import usage_rows
from paymaster.storage.account_sums import posted_by_account
from paymaster.storage.engine import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, create_engine
from paymaster.storage.ledger_state_rows import insert_cap_changes, insert_configurations, latest_granted_ms, load_spend
from paymaster.storage.schema import (
    OLDER_SCHEMA_REVISION,
    SCHEMA_REVISION,
    MigrationsMissing,
    SchemaOutdated,
    check_schema,
    migrate,
    name_older_schema,
)
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.budget_path import budget_ancestors
from paymaster.values.money import TokenUsage

NUMBERS = itertools.count(1)
YEAR_MS = 365 * 86_400_000
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def at_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def entry(**fields: object) -> UsageEntry:
    """An entry with an attempt id of its own unless the fields say otherwise."""
    number = next(NUMBERS)
    usual = usual_entry(number) | {
        "granted_at_ms": at_ms(MIDNIGHT) + number,
        "started_at_ms": at_ms(MIDNIGHT) + number + 20,
        "duration_ms": 1_234,
        "usage": TokenUsage(input_tokens=100, cached_input_tokens=40, output_tokens=7),
    }
    return UsageEntry.model_validate(usual | fields)


@pytest.fixture
async def empty_database(stack: EmbeddedStack) -> AsyncIterator[str]:
    """The URL of a database without tables."""
    name = f"empty_{next(NUMBERS)}"
    admin = create_engine(stack.database_url).execution_options(isolation_level="AUTOCOMMIT")
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(stack.database_url).set(database=name).render_as_string(hide_password=False)
    async with admin.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    await admin.dispose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def migrated_once(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """For Hypothesis, whose examples cannot have a database each; they have ledgers or calls of their own."""
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


# ---------------------------------------------------------------- schema


def test_the_schema_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def _columns_of(connection: Connection, table: str) -> list[ReflectedColumn]:
    return inspect(connection).get_columns(table)


async def test_migrating_an_empty_database_gives_the_columns_that_are_read(empty_database: str) -> None:
    await migrate(empty_database)
    engine = create_engine(empty_database)
    await check_schema(engine)
    async with engine.connect() as connection:
        for table in (usage_rows.usage_table, usage_rows.counted_usage):
            found = await connection.run_sync(_columns_of, table.name)
            assert [(column["name"], column["type"].compile(engine.dialect)) for column in found] == [
                (column.name, column.type.compile(engine.dialect)) for column in table.columns
            ]
    await engine.dispose()


async def test_migrating_again_and_at_the_same_time_is_harmless(empty_database: str) -> None:
    await asyncio.gather(migrate(empty_database), migrate(empty_database), migrate(empty_database))
    await migrate(empty_database)
    engine = create_engine(empty_database)
    await check_schema(engine)
    await engine.dispose()


async def test_another_programs_alembic_in_the_same_database_is_left_alone(empty_database: str) -> None:
    engine = create_engine(empty_database)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    await migrate(empty_database)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
    await check_schema(engine)
    await engine.dispose()


async def test_migrations_are_not_in_the_wheel_and_the_error_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("paymaster.storage.schema.MIGRATIONS", tmp_path / "migrations")
    with pytest.raises(MigrationsMissing, match="migrations run from Paymaster's checkout or image"):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing")


async def test_a_database_without_our_tables_says_how_to_make_them(empty_database: str) -> None:
    engine = create_engine(empty_database)
    with pytest.raises(SchemaOutdated, match="no Paymaster tables yet: run `paymaster migrate`"):
        await check_schema(engine)
    await engine.dispose()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("0000", f"has schema 0000, this Paymaster needs {SCHEMA_REVISION}: run `paymaster migrate`"),
        ("9999", f"has schema 9999, newer than {SCHEMA_REVISION} of this Paymaster: update this Paymaster"),
    ],
)
async def test_an_older_and_a_newer_schema_are_told_apart(engine: AsyncEngine, found: str, message: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE paymaster_schema SET version_num = :found"), {"found": found})
    with pytest.raises(SchemaOutdated, match=message):
        await check_schema(engine)


async def test_migrating_never_goes_back(engine: AsyncEngine, database_url: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE paymaster_schema SET version_num = '9999'"))
    with pytest.raises(SchemaOutdated, match="update this Paymaster"):
        await migrate(database_url)


async def test_the_way_back_takes_nothing_out(engine: AsyncEngine, database_url: str) -> None:
    """0.1.0 starts on its own schema only; going on after that finds what was there."""
    change = 'INSERT INTO cap_changes (ledger, epoch, sequence, at, account, "window", until_window_end, who, reason)'
    async with engine.begin() as connection:
        await connection.execute(text(f"{change} VALUES ('l', 'e', 1, now(), 'budget:a', 'day', false, 'ada', '')"))
    await name_older_schema(database_url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT version_num FROM paymaster_schema")) == OLDER_SCHEMA_REVISION
    await migrate(database_url)
    await check_schema(engine)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM cap_changes WHERE by_file = false")) == 1


# ---------------------------------------------------------------- what is stored


async def test_a_stored_entry_comes_back_as_it_was(engine: AsyncEngine) -> None:
    full = entry(
        call_id="c",
        model_answered="gpt-5.6-luna-2026-02",
        status="failed",
        error_class="ServerError",
        http_status=500,
        provider_request_id="req_1",
        usage=TokenUsage(
            input_tokens=2**40, cached_input_tokens=3, cache_write_tokens=2, output_tokens=5, reasoning_tokens=4
        ),
        cost_nanos=12_345_678_901_234_567_891,
        metadata={"team": "a", "Wörter": "ja 👍"},
    )
    several = entry(call_id="c", budget="acme/a", further_budgets=("customers/42", "acme/b"))
    bare = entry(call_id="c", started_at_ms=None, duration_ms=None, usage=None, cost_nanos=0)
    zero = entry(call_id="c", usage=TokenUsage())
    await insert_entries(engine, [full, several, bare, zero])
    assert await entries_of_call(engine, "c") == [full, several, bare, zero]


async def test_inserting_twice_changes_nothing_even_with_other_content(engine: AsyncEngine) -> None:
    first = entry(call_id="c", cost_nanos=5)
    await insert_entries(engine, [first, first])
    await insert_entries(engine, [first.model_copy(update={"cost_nanos": 6}), entry(cost_nanos=7)])
    assert await entries_of_call(engine, "c") == [first]
    assert await posted_by_account(engine, "default", ["budget:acme"]) == {"budget:acme": 12}


async def test_a_request_made_again_under_its_id_is_stored(engine: AsyncEngine) -> None:
    """Temporal was put back, and the call ran again: both requests were billed. Stored again, they are the same two."""
    first = entry(call_id="c", cost_nanos=5)
    second = first.model_copy(update={"cost_nanos": 7, "started_at_ms": (first.started_at_ms or 0) + 3_600_000})
    for _ in range(2):
        await insert_entries(engine, [first])
        await insert_entries(engine, [second])
    found = await entries_of_call(engine, "c")
    assert [each.cost_nanos for each in found] == [5, 7]
    assert found[1] == second.model_copy(update={"attempt_id": f"{first.attempt_id}@{second.started_at_ms}"})
    assert await posted_by_account(engine, "default", ["budget:acme"]) == {"budget:acme": 12}


@pytest.mark.parametrize(("first", "second"), [("unconfirmed", "final"), ("final", "unconfirmed")])
async def test_neither_of_two_requests_hides_the_other(engine: AsyncEngine, first: str, second: str) -> None:
    """One may have been billed, the other was: also where the states differ, and both come in one batch."""
    one = entry(call_id="c", state=first, cost_nanos=5)
    again = one.model_copy(update={"state": second, "cost_nanos": 7, "started_at_ms": (one.started_at_ms or 0) + 1})
    await insert_entries(engine, [one, again])
    assert await posted_by_account(engine, "default", ["budget:acme"]) == {"budget:acme": 12}


async def test_a_lost_workers_attempt_is_one_however_often_told(engine: AsyncEngine) -> None:
    """When it began is only guessed, by each worker that goes on with the call."""
    lost = entry(call_id="c", state="unconfirmed", status="unknown", error_class="worker_lost", cost_nanos=5)
    guessed = lost.model_copy(update={"started_at_ms": (lost.started_at_ms or 0) + 10_000})
    await insert_entries(engine, [lost])
    await insert_entries(engine, [guessed])
    assert await entries_of_call(engine, "c") == [lost]


async def test_what_was_granted_while_the_clock_was_ahead_counts_when_it_came_back(engine: AsyncEngine) -> None:
    """A year ahead: in the day of the return, and in no later one; without a return in every window."""
    noon = at_ms(MIDNIGHT) + 12 * 3_600_000
    await insert_entries(engine, [entry(granted_at_ms=noon, cost_nanos=3), entry(granted_at_ms=noon + YEAR_MS)])

    async def spent(day_ms: int, returned_at_ms: int | None) -> int:
        wanted = LoadSpend(
            number=1,
            ledger="default",
            accounts=("budget:acme",),
            known_holds=(),
            with_cap_changes=False,
            window_starts_ms={"minute": day_ms, "hour": day_ms, "day": day_ms, "month": day_ms, "total": 0},
            latest_ms=noon + 3_600_000,
            returned_at_ms=returned_at_ms,
        )
        return (await load_spend(engine, wanted)).posted_nanos["budget:acme"].get("day", 0)

    assert await spent(at_ms(MIDNIGHT), noon + 60_000) == 1_003
    assert await spent(at_ms(MIDNIGHT) + 86_400_000, noon + 60_000) == 0
    assert await spent(noon + 1, None) == 1_000
    assert await latest_granted_ms(engine, "default") == noon + YEAR_MS
    assert await latest_granted_ms(engine, "another") == 0


async def test_inserting_no_entries_needs_no_database() -> None:
    await insert_entries(create_engine("postgresql://nobody@127.0.0.1:1/nothing"), [])


@given(hostile=st.text(st.characters(exclude_categories=()), max_size=40))
@settings(max_examples=examples(50), deadline=None)
async def test_no_text_is_refused(migrated_once: AsyncEngine, hostile: str) -> None:
    stored = entry(model_answered=hostile, error_class=hostile, metadata={hostile: hostile}, status="failed")
    await insert_entries(migrated_once, [stored])
    [back] = await entries_of_call(migrated_once, stored.call_id)
    harmless = "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in hostile)
    assert (back.model_answered, back.error_class, back.metadata) == (harmless, harmless, {harmless: harmless})


async def test_what_postgresql_refuses_is_replaced_where_it_can_be_seen(engine: AsyncEngine) -> None:
    hostile = entry(
        call_id="c\0\ud800",
        model_answered="x" * 2_000_000,
        provider_request_id="\0",
        http_status=10**30,
        duration_ms=10**15,
        usage=TokenUsage(input_tokens=10**40, output_tokens=-(10**40)),
        cost_nanos=10**30,
        metadata={"k\0": "v" * 5_000},
    )
    good = entry(call_id="good")
    await insert_entries(engine, [hostile, good, hostile.model_copy(update={"attempt_id": "2", "call_id": "2"})])
    assert await entries_of_call(engine, "good") == [good]
    [stored] = await entries_of_call(engine, "c\0\ud800")
    assert stored.call_id == "c\ufffd\ufffd"
    assert stored.model_answered == "x" * 599 + "…"
    assert stored.provider_request_id == "\ufffd"
    assert (stored.http_status, stored.duration_ms) == (2**31 - 1, 2**31 - 1)
    assert stored.usage == TokenUsage(input_tokens=2**63 - 1, output_tokens=1 - 2**63)
    assert stored.cost_nanos == 10**20 - 1
    assert stored.metadata == {"k\ufffd": "v" * 599 + "…"}
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.input_tokens, total.cost_nanos) == (2 * (2**63 - 1) + 100, 2 * (10**20 - 1) + 1_000)


async def test_no_text_is_too_long_for_an_index(engine: AsyncEngine) -> None:
    generator = random.Random(1)  # PostgreSQL compresses what repeats itself
    long = "".join(chr(generator.randrange(0x10000, 0x110000)) for _ in range(5_000))
    await insert_entries(engine, [entry(attempt_id=long, call_id=long, workflow_id=long, ledger=long, budget=long)])
    assert len(await entries_of_call(engine, long)) == 1


async def test_two_writers_of_the_same_entries_never_wait_in_a_circle(engine: AsyncEngine) -> None:
    for _ in range(10):
        entries = [entry() for _ in range(200)]
        await asyncio.gather(
            *(insert_entries(engine, order) for order in (entries, entries[::-1], random.sample(entries, 200)))
        )
    posted = await posted_by_account(engine, "default", ["service:openai"])
    assert posted == {"service:openai": 10 * 200 * 1_000}


# ---------------------------------------------------------------- what counts


BUDGETS = [
    "acme",
    "acme/content",
    "acme/content/writer",
    "acme/content2",
    "acme/cont_nt",
    "acme%",
    "a",
    "other/content",
]
SERVICES = ["openai", "anthropic"]


@st.composite
def attempts(draw: st.DrawFn) -> list[UsageEntry]:
    """The rows of one attempt: final, unconfirmed, or both."""
    number = next(NUMBERS)
    same = {
        "attempt_id": f"a-{number}",
        "call_id": f"call-{number}",
        "run_id": f"run-{number}",
        "budget": draw(st.sampled_from(BUDGETS)),
        "service": draw(st.sampled_from(SERVICES)),
        "granted_at_ms": at_ms(MIDNIGHT) + draw(st.integers(-(10**9), 10**9)),
        "started_at_ms": at_ms(MIDNIGHT) + number,
    }
    states = draw(st.sampled_from([["final"], ["unconfirmed"], ["final", "unconfirmed"]]))
    return [entry(**same, state=state, cost_nanos=draw(st.integers(0, 10**19))) for state in states]


@given(rows=st.lists(attempts(), max_size=12).map(lambda lists: list(itertools.chain(*lists))), data=st.data())
@settings(max_examples=examples(60), deadline=None)
async def test_sums_are_exact_and_final_wins_in_any_order_of_insertion(
    migrated_once: AsyncEngine, rows: list[UsageEntry], data: st.DataObject
) -> None:
    ledger = f"ledger-{next(NUMBERS)}"
    rows = [row.model_copy(update={"ledger": ledger}) for row in rows]
    for order in (data.draw(st.permutations(rows)), data.draw(st.permutations(rows))):
        cut = data.draw(st.integers(0, len(order)))
        await insert_entries(migrated_once, order[:cut])
        await insert_entries(migrated_once, order[cut:])

    counted: dict[str, UsageEntry] = {}
    for row in rows:
        if row.state == "final" or row.attempt_id not in counted:
            counted[row.attempt_id] = row
    expected: defaultdict[str, int] = defaultdict(int)
    for row in counted.values():
        expected[f"service:{row.service}"] += row.cost_nanos
        for ancestor in budget_ancestors(row.budget):
            expected[f"budget:{ancestor}"] += row.cost_nanos

    accounts = [f"budget:{path}" for path in (*BUDGETS, "nowhere")] + [f"service:{name}" for name in SERVICES]
    assert await posted_by_account(migrated_once, ledger, accounts) == {name: expected[name] for name in accounts}
    reports: list[list[Dimension]] = [[], ["budget"], ["service", "model", "budget", "day", "status"]]
    for by in reports:
        report = await usage_report(migrated_once, ledger=ledger, by=by)
        assert sum(row.cost_nanos for row in report) == sum(row.cost_nanos for row in counted.values())
        assert sum(row.attempts for row in report) == len(counted)
        assert sum(row.unconfirmed_nanos for row in report) == sum(
            row.cost_nanos for row in counted.values() if row.state == "unconfirmed"
        )
    for path in BUDGETS:
        [row] = await usage_report(migrated_once, ledger=ledger, by=(), budget=path)
        assert row.cost_nanos == expected[f"budget:{path}"]


async def test_a_budget_does_not_match_its_siblings_and_names_hold_no_wildcards(engine: AsyncEngine) -> None:
    budgets = ["acme/content", "acme/content/writer", "acme/content2", "acme/content-2/writer", "acme/conXent/writer"]
    await insert_entries(engine, [entry(budget=budget, cost_nanos=10**i) for i, budget in enumerate(budgets)])
    for account, nanos in {
        "acme/content": 11,
        "acme/content2": 100,
        "acme/con_ent": 0,
        "acme/con%": 0,
        "acme/": 0,
        "acme": 11_111,
        "cme": 0,
    }.items():
        assert await posted_by_account(engine, "default", [f"budget:{account}"]) == {f"budget:{account}": nanos}
        [row] = await usage_report(engine, ledger="default", by=(), budget=account)
        assert row.cost_nanos == nanos


async def test_ledgers_are_separate(engine: AsyncEngine) -> None:
    await insert_entries(engine, [entry(ledger="a", cost_nanos=1), entry(ledger="b", cost_nanos=2)])
    assert await posted_by_account(engine, "b", ["service:openai"]) == {"service:openai": 2}
    assert [row.cost_nanos for row in await usage_report(engine, ledger="a", by=())] == [1]
    assert [row.cost_nanos for row in await calls_report(engine, ledger="a")] == [1]


# ---------------------------------------------------------------- reports


async def test_a_day_is_the_utc_day_of_the_grant_wherever_the_server_is(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"ALTER DATABASE {engine.url.database} SET timezone = 'Pacific/Kiritimati'"))
    await engine.dispose()  # the setting is for new connections
    await insert_entries(engine, [entry(granted_at_ms=at_ms(MIDNIGHT) - 1), entry(granted_at_ms=at_ms(MIDNIGHT))])
    report = await usage_report(engine, ledger="default", by=["day"])
    assert [(row.day, row.calls) for row in report] == [(date(2026, 2, 28), 1), (date(2026, 3, 1), 1)]


async def test_since_includes_what_was_granted_at_that_time(engine: AsyncEngine) -> None:
    await insert_entries(engine, [entry(granted_at_ms=at_ms(MIDNIGHT) + ms) for ms in (-1, 0, 1)])
    assert [row.calls for row in await usage_report(engine, ledger="default", by=(), since=MIDNIGHT)] == [2]
    assert len(await calls_report(engine, ledger="default", since=MIDNIGHT)) == 2


async def test_a_call_that_fell_back_is_one_call_with_its_attempts(engine: AsyncEngine) -> None:
    start = at_ms(MIDNIGHT)
    call = {"call_id": "c", "run_id": "run"}
    first_hold = call | {"granted_at_ms": start, "usage": None}
    second_hold = call | {"granted_at_ms": start + 999, "service": "local", "model": "small"}
    expiry = second_hold | {"attempt_id": "run/2/expiry", "status": "expired", "started_at_ms": None, "usage": None}
    await insert_entries(
        engine,
        [
            # Two attempts under one hold have one time of grant; the order is the one of sending.
            entry(**first_hold, attempt_id="run/1/2", started_at_ms=start + 900, status="unknown", cost_nanos=50),
            entry(**first_hold, attempt_id="run/1/1", started_at_ms=start, status="failed", cost_nanos=0),
            # This hold expired and was settled after all: no request of its own.
            entry(**expiry, state="unconfirmed", cost_nanos=99),
            entry(**second_hold, attempt_id="run/2/1", started_at_ms=start + 1_000, cost_nanos=7),
            entry(**expiry, state="final", cost_nanos=0),
        ],
    )
    [shown] = await calls_report(engine, ledger="default")
    assert (shown.service, shown.model, shown.status) == ("local", "small", "completed")
    assert (shown.attempts, shown.cost_nanos, shown.granted_at) == (3, 57, MIDNIGHT)
    assert (shown.input_tokens, shown.cached_input_tokens, shown.output_tokens) == (100, 40, 7)
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.calls, total.attempts, total.cost_nanos) == (1, 3, 57)
    by_service = await usage_report(engine, ledger="default", by=["service"])
    assert [(row.service, row.calls, row.attempts) for row in by_service] == [("local", 1, 1), ("openai", 1, 2)]
    # Not said is not zero.
    assert [row.input_tokens for row in by_service] == [100, None]


async def test_calls_are_counted_once_for_each_group_whatever_their_attempts(engine: AsyncEngine) -> None:
    """The quick way of counting against the plain one, over every mix of attempts, holds, groups and time."""
    entries = [
        entry(
            attempt_id=f"run-{call}/{hold}/{attempt}",
            run_id=f"run-{call}",
            call_id=f"call-{call}",
            service=("local", "openai")[(call + hold) % 2],
            status=("failed", "completed")[attempt % 2],
            budget=f"acme/{call % 3}",
            metadata={"team": f"t{call % 2}"} if call % 3 else {},
            state="unconfirmed" if (call + attempt) % 5 == 0 else "final",
            granted_at_ms=at_ms(MIDNIGHT) + (call * 7 + hold) * 3_600_000,
        )
        for call in range(30)
        for hold in range(1, 1 + call % 12)
        for attempt in range(1, 2 + call % 3)
    ]
    await insert_entries(engine, entries)
    by_name: dict[str, Callable[[UsageEntry], object]] = {
        "service": lambda each: each.service,
        "budget": lambda each: each.budget,
        "status": lambda each: each.status,
        "metadata.team": lambda each: each.metadata.get("team"),
    }
    since, until = MIDNIGHT + timedelta(hours=20), MIDNIGHT + timedelta(hours=120)
    counted = [each for each in entries if at_ms(since) <= each.granted_at_ms < at_ms(until)]
    first_of_all = set(first_attempts(entries, lambda _: ()))
    for by in ([], ["service"], ["status", "service"], ["metadata.team"], ["budget", "metadata.team"]):
        rows, total = await usage_report_with_total(engine, ledger="default", by=by, since=since, until=until)
        found = {
            tuple(row.metadata["team"] if name == "metadata.team" else getattr(row, name) for name in by): row.calls
            for row in rows
        }

        def key_of(each: UsageEntry, by: list[str] = by) -> tuple[object, ...]:
            return tuple(by_name[name](each) for name in by)

        first = set(first_attempts(entries, key_of))
        expected: Counter[tuple[object, ...]] = Counter()
        for each in counted:
            expected[key_of(each)] += each.attempt_id in first
        assert found == expected
        assert total.calls == sum(each.attempt_id in first_of_all for each in counted)
        assert total.cost_nanos == sum(each.cost_nanos for each in counted)


def first_attempts(entries: list[UsageEntry], key_of: Callable[[UsageEntry], tuple[object, ...]]) -> Iterable[str]:
    """Of each call in each group, whenever that was."""
    first: dict[tuple[object, ...], str] = {}
    for each in sorted(entries, key=lambda each: each.attempt_id):
        first.setdefault((each.call_id, *key_of(each)), each.attempt_id)
    return first.values()


async def test_the_table_of_calls_has_the_latest_oldest_first(engine: AsyncEngine) -> None:
    await insert_entries(engine, [entry(call_id=f"c{i}", granted_at_ms=at_ms(MIDNIGHT) + i) for i in range(10)])
    assert [call.call_id for call in await calls_report(engine, ledger="default", limit=3)] == ["c7", "c8", "c9"]


async def test_a_report_of_an_empty_ledger_is_empty_and_its_total_is_zero(engine: AsyncEngine) -> None:
    assert await usage_report(engine, ledger="default", by=["service"]) == []
    [total] = await usage_report(engine, ledger="default", by=())
    assert (total.calls, total.attempts, total.cost_nanos, total.input_tokens) == (0, 0, 0, None)


# ---------------------------------------------------------------- connections


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:geheim@h/d", "write postgresql"),
        ("postgresql://u:geheim@x:geheim@h:geheim/d", "percent-encode"),
        ("geheim", "percent-encode"),
        ("postgresql://u:geheim@h/d?service=geheim", "not supported, remove service"),
        ("postgresql://u:geheim@h/d?pgbouncer=geheim", "pgbouncer= with another word"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_the_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        create_engine(url)
    assert "geheim" not in str(refused.value)


async def test_a_database_that_never_answers_is_given_up_after_seconds() -> None:
    connections: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    engine = create_engine(f"postgresql://u@127.0.0.1:{silent.sockets[0].getsockname()[1]}/d")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await insert_entries(engine, [entry()])
    assert time.monotonic() - started < CONNECT_TIMEOUT_S + 1
    await engine.dispose()
    for writer in connections:
        writer.close()
    silent.close()
    await silent.wait_closed()


async def test_a_command_that_never_ends_is_given_up_after_seconds(engine: AsyncEngine) -> None:
    row = entry()
    async with engine.connect() as connection:
        await connection.execute(text("LOCK TABLE usage_entries"))
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await insert_entries(engine, [row])
        assert time.monotonic() - started < COMMAND_TIMEOUT_S + 1
    await insert_entries(engine, [row])
    assert await entries_of_call(engine, row.call_id) == [row]


async def test_the_first_insert_after_the_database_dropped_its_connections_succeeds(
    engine: AsyncEngine, stack: EmbeddedStack
) -> None:
    await asyncio.gather(*(insert_entries(engine, [entry()]) for _ in range(5)))
    admin = create_engine(stack.database_url)
    async with admin.connect() as connection:
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": engine.url.database},
        )
    await admin.dispose()
    await asyncio.gather(*(insert_entries(engine, [entry()]) for _ in range(5)))
    [total] = await usage_report(engine, ledger="default", by=())
    assert total.calls == 10


async def test_errors_do_not_show_what_callers_wrote(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE usage_entries CASCADE"))
    with pytest.raises(Exception, match="usage_entries") as failed:
        await insert_entries(engine, [entry(metadata={"note": "geheim"})])
    assert "geheim" not in str(failed.value)


async def test_sums_of_many_entries_are_exact(engine: AsyncEngine) -> None:
    rows = [
        entry(cost_nanos=random.randrange(10**12), granted_at_ms=at_ms(MIDNIGHT + timedelta(hours=hour)))
        for hour in range(5_000)
    ]
    await insert_entries(engine, rows)
    total = sum(row.cost_nanos for row in rows)
    assert await posted_by_account(engine, "default", ["budget:acme"]) == {"budget:acme": total}
    by_day = await usage_report(engine, ledger="default", by=["day"])
    assert sum(row.cost_nanos for row in by_day) == total


async def test_a_report_may_begin_and_end_with_the_calendar(engine: AsyncEngine) -> None:
    """From the first day that Python knows to the last moment: PostgreSQL knows both."""
    since, until = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for days in (timedelta(), timedelta(days=1)):
        [total] = await usage_report(engine, ledger="default", by=(), since=since + days, until=until - days)
        assert total.calls == 0
    trends = await usage_trends(engine, ledger="default", since=since, until=until)
    assert trends.costs == ()


# ---------------------------------------------------------------- configurations


async def test_a_stored_configuration_is_what_a_new_epoch_begins_with(engine: AsyncEngine) -> None:
    """The last one, with the digests of those before it and the changes of caps in the order of storing; nothing of the
    epoch that asks, and nothing of other ledgers."""
    change = CapChange(
        sequence=1,
        at_ms=1_000,
        account="budget:acme",
        window="day",
        from_nanos=5,
        to_nanos=7,
        by_nanos=2,
        file_nanos=5,
        until_window_end=False,
        who="ada",
        reason="",
    )
    ended = change.model_copy(update={"sequence": 3, "at_ms": 0, "to_nanos": None, "by_nanos": None, "by_file": True})
    await insert_cap_changes(engine, "default", "one", [change, ended])
    configs = [DeskConfig(digest=digest, budgets={"acme": AccountConfig()}) for digest in ("a", "b", "a", "c")]

    async def store(ledger: str, epoch: str, sequence: int, config: DeskConfig) -> None:
        stored = ConfigChange(sequence=sequence, at_ms=0, digest=config.digest, who="ada", text="")
        await insert_configurations(engine, ledger, epoch, [stored], config)

    for sequence, config in enumerate(configs):
        for _ in range(2):
            await store("default", "one", sequence, config)
    await store("default", "two", 1, DeskConfig(digest="of this epoch"))
    await store("other", "one", 1, DeskConfig(digest="of another ledger"))
    wanted = LoadSpend(
        number=1,
        ledger="default",
        accounts=(),
        known_holds=(),
        with_cap_changes=True,
        window_starts_ms={"minute": 0, "hour": 0, "day": 0, "month": 0, "total": 0},
        epoch="two",
    )
    loaded = await load_spend(engine, wanted)
    assert (loaded.config, loaded.superseded) == (configs[-1], ("b", "a"))
    assert loaded.cap_changes == (ended.model_copy(update={"who": ""}),), "what came before the file's value is over"
    assert loaded.other_ledgers == ()
    new = await load_spend(engine, wanted.model_copy(update={"ledger": "renamed"}))
    assert (new.config, new.cap_changes, new.other_ledgers) == (None, (), ())
