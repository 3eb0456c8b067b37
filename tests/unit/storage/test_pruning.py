"""A year in an hour: rows are made up, pruned and stored again, and every sum is that of a plain model."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as searched
from hypothesis import strategies as st
from old_workers import OLD_ROW_NANOS, STORED_NANOS, OldWorker, old_table
from paymaster_process import Databases, until
from plain_usage import PlainUsage, day_of, made_up_rows
from records import usual_entry
from searches import examples
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import LoadSpend, UsageEntry
from paymaster.messages.temporal_names import first_generation
from paymaster.reports.usage import UsageRow, usage_report_with_total
from paymaster.storage.account_sums import posted_by_account, pruned_before
from paymaster.storage.engine import create_engine
from paymaster.storage.ledger_state_rows import load_spend, other_ledgers
from paymaster.storage.pruning import old_rows, prune
from paymaster.storage.schema import migrate
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.windows import WINDOWS, Window, window_start_ms

NOW = datetime.now(UTC)
NUMBERS = itertools.count(1)
MAKE = text("SELECT usage_entries_make(CAST(:first AS date), CAST(:last AS date))")
PARTITIONS = text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_entries'::regclass")
ID_OF = text("SELECT usage_pruned_id(:ledger, usage_first_generation(:call))")
USED = text("SELECT EXISTS (SELECT FROM usage_pruned_ids WHERE call = usage_pruned_id(:ledger, :call))")
WAITING = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND wait_event_type = 'Lock' AND query LIKE :statement"
)

WAITS_LONG = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE 'LOCK TABLE usage_entries%' AND now() - query_start > interval '500 ms'"
)


def months_ago(months: int) -> datetime:
    """The beginning of that month, UTC."""
    number = NOW.year * 12 + NOW.month - 1 - months
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


@pytest.fixture
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create(), command_timeout_s=300)
    yield engine
    await engine.dispose()


class Year:
    """Fourteen months of rows; the oldest two months have no partition of their own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.model = PlainUsage()

    async def fill(self, calls: int, *, months: bool = True) -> None:
        if months:
            async with self.engine.begin() as connection:
                await connection.execute(MAKE, {"first": months_ago(12).date(), "last": NOW.date()})
        for ledger in ("default", "other"):
            rows = made_up_rows(ledger, months_ago(14), (NOW - months_ago(14)).days, calls, next(NUMBERS))
            await self.store(rows)
            if ledger == "default":
                self.model.store(rows)

    async def store(self, rows: Sequence[UsageEntry]) -> None:
        for number in range(0, len(rows), 1_000):
            await insert_entries(self.engine, rows[number : number + 1_000])

    async def prune(self, before: datetime) -> int:
        return sum([each.entries async for each in prune(self.engine, before)])

    async def check(self) -> None:
        """Everything that does not need the rows themselves is as if none had gone."""
        posted = self.model.posted()
        accounts = [*posted, "budget:nobody", "run:nobody"]
        assert await posted_by_account(self.engine, "default", accounts) == {each: posted[each] for each in accounts}
        await self.check_loaded(accounts)
        await self._check_reports()
        assert await other_ledgers(self.engine, "default") == ()

    async def check_loaded(self, accounts: list[str]) -> None:
        now_ms = round(NOW.timestamp() * 1000)
        starts: dict[Window, int] = {window: window_start_ms(window, now_ms) for window in WINDOWS}
        runs = [each for each in accounts if each.startswith("run:")]
        budgets = [each for each in accounts if each.startswith("budget:")]
        services = [each for each in accounts if each.startswith("service:")]
        spent = {window: self.model.posted(datetime.fromtimestamp(ms / 1000, UTC)) for window, ms in starts.items()}
        for asked, by_account in (([*budgets, *services], False), ([*budgets, *runs], True)):
            wanted = LoadSpend(
                number=0,
                ledger="default",
                accounts=tuple(asked),
                known_holds=(),
                with_cap_changes=False,
                window_starts_ms=starts,
                by_account=by_account,
            )
            loaded = await load_spend(self.engine, wanted)
            for account in asked:
                found = loaded.posted_nanos.get(account, {})
                assert {each: found.get(each, 0) for each in WINDOWS} == {
                    each: spent[each][account] for each in WINDOWS
                }
            unconfirmed = self.model.unconfirmed()
            assert {each: count for each, (count, _) in loaded.unconfirmed.items()} == {
                each: unconfirmed[each] for each in asked if unconfirmed[each]
            }
            if by_account:
                assert loaded.runs == self.model.runs()

    async def _check_reports(self) -> None:
        by = ["service", "model", "budget", "day"]
        rows, _ = await usage_report_with_total(self.engine, ledger="default", by=by)
        assert {(row.service, row.model, row.budget, row.day): figures(row) for row in rows} == self.model.report(
            lambda row: (row.service, row.model, row.budget, day_of(row))
        )
        since = await pruned_before(self.engine, "default")
        rows, _ = await usage_report_with_total(self.engine, ledger="default", by=["run"], since=since)
        assert {row.run: figures(row) for row in rows} == self.model.report(lambda row: row.run, since)
        rows, _ = await usage_report_with_total(self.engine, ledger="default", by=["metadata.team"], since=since)
        assert {row.metadata["team"]: figures(row) for row in rows} == self.model.report(
            lambda row: row.metadata["team"], since
        )


def figures(row: UsageRow) -> tuple[int, ...]:
    """A row of a report in the order of the model."""
    return row.calls, row.attempts, row.input_tokens or 0, row.cost_nanos, row.unconfirmed_nanos


@pytest.mark.parametrize("calls", [300, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(3_000)])])
async def test_a_year_in_an_hour(engine: AsyncEngine, calls: int) -> None:
    """Pruned month by month, everything stored again after each, late rows come, and what was unsure is resolved."""
    year = Year(engine)
    await year.fill(calls)
    await year.check()
    for months in (13, 12, 7, 2):
        before = months_ago(months)
        old = await old_rows(engine, before)
        assert await year.prune(before) == sum(each.entries for each in old)
        await year.check()
        assert await pruned_before(engine, "default") == before
        await year.store(year.model.all_rows)
        await year.check()
        late = made_up_rows("default", months_ago(14), 28, 20, next(NUMBERS))
        year.model.store(late)
        await year.store(late)
        await year.store(late)
        await year.check()
    unsure = [row for row in year.model.counted() if row.state == "unconfirmed"]
    resolved = [row.model_copy(update={"state": "final", "cost_nanos": 11}) for row in unsure]
    year.model.store(resolved)
    await year.store(resolved)
    await year.check()
    assert await year.prune(months_ago(2)) > 0
    await year.check()
    assert await year.prune(months_ago(2)) == 0


async def test_a_call_id_from_before_is_remembered(engine: AsyncEngine) -> None:
    """Whatever generation of it was answered; one that ended unbilled and without an answer may be asked for again."""
    granted = {"granted_at_ms": round(months_ago(5).timestamp() * 1000), "cost_nanos": 0}
    rows = [
        UsageEntry.model_validate(usual_entry(1) | granted | {"call_id": "answered~g3"}),
        UsageEntry.model_validate(usual_entry(2) | granted | {"call_id": "failed", "status": "failed"}),
    ]
    await insert_entries(engine, rows)
    assert [each.entries async for each in prune(engine, months_ago(2))] == [2]
    async with engine.connect() as connection:
        used = {
            call: await connection.scalar(USED, {"ledger": ledger, "call": call})
            for ledger, call in (("default", "answered"), ("default", "failed"))
        }
        assert used == {"answered": True, "failed": False}
        assert not await connection.scalar(USED, {"ledger": "other", "call": "answered"})


async def test_a_call_of_two_months_is_counted_once(engine: AsyncEngine) -> None:
    """Also when its second attempt is resolved after the month of its first one was pruned."""
    async with engine.begin() as connection:
        await connection.execute(MAKE, {"first": months_ago(12).date(), "last": NOW.date()})
    border_ms = round(months_ago(5).timestamp() * 1000)
    of_call = usual_entry(1) | {"call_id": "two", "run_id": "two", "workflow_id": "call/two"}
    first = {"attempt_id": "two/1/1", "granted_at_ms": border_ms - 60_000, "status": "failed"}
    second = {"attempt_id": "two/2/1", "granted_at_ms": border_ms + 60_000, "state": "unconfirmed"}
    rows = [UsageEntry.model_validate(of_call | each) for each in (first, second)]
    await insert_entries(engine, rows)

    async def counted() -> tuple[int, int]:
        _, total = await usage_report_with_total(engine, ledger="default", by=["service"])
        return total.calls, total.attempts

    assert sum([each.entries async for each in prune(engine, months_ago(2))]) == 0
    assert await counted() == (1, 2)
    await insert_entries(engine, [rows[1].model_copy(update={"state": "final"})])
    assert await counted() == (1, 2)
    assert sum([each.entries async for each in prune(engine, months_ago(2))]) == 2
    assert await counted() == (1, 2)


@given(
    call=st.one_of(
        st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.from_regex(r"\A.{0,3}~g[0-9]{0,11}\Z")
    )
)
@searched(max_examples=examples(100), deadline=None)
async def test_sql_knows_a_calls_first_generation(shared: AsyncEngine, call: str) -> None:
    async with shared.connect() as connection:
        values = {"ledger": "default", "call": call}
        of_sql = await connection.scalar(ID_OF, values)
        plain = text("SELECT usage_pruned_id(:ledger, :call)")
        assert of_sql == await connection.scalar(plain, values | {"call": first_generation(call)})


@pytest.fixture(scope="module")
async def shared(databases: Databases) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(await databases.create())
    yield engine
    await engine.dispose()


async def kill(engine: AsyncEngine, statement: str) -> None:
    """Ends the connection that waits in a statement that begins so."""
    async with engine.connect() as connection:
        values = {"statement": f"{statement}%"}
        while (process := await connection.scalar(WAITING, values)) is None:
            await connection.rollback()
            await asyncio.sleep(0.01)
        await connection.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})


async def test_a_prune_that_is_killed_is_repeated(engine: AsyncEngine) -> None:
    """Once while it waits to take a month out, and once when one has gone."""
    year = Year(engine)
    await year.fill(200)
    before = months_ago(2)
    async with engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM usage_entries"))
        pruning = asyncio.create_task(year.prune(before))
        await kill(engine, "ALTER TABLE usage_entries DETACH")
        with pytest.raises(DBAPIError):
            await pruning
    assert await pruned_before(engine, "default") is None
    await year.check()
    steps = prune(engine, before)
    await anext(steps)
    await steps.aclose()
    await year.check()
    await year.store(year.model.all_rows)
    await year.prune(before)
    await year.check()


async def test_a_prune_that_is_killed_when_ids_are_noted(engine: AsyncEngine) -> None:
    """Then there are both, the rows and their ids, and what is written again is there already."""
    year = Year(engine)
    await year.fill(200, months=False)
    async with engine.connect() as other:
        await other.execute(text("SELECT FROM usage_entries_default FOR UPDATE"))
        pruning = asyncio.create_task(year.prune(months_ago(2)))
        await kill(engine, "%CREATE TEMPORARY TABLE usage_taken")
        with pytest.raises(DBAPIError):
            await pruning
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM usage_pruned_ids")) > 0
    await year.store(year.model.all_rows)
    await year.check()
    assert await year.prune(months_ago(2)) > 0
    await year.store(year.model.all_rows)
    await year.check()


@pytest.mark.parametrize("months", [True, False])
async def test_two_prunes_at_once_take_each_row_once(engine: AsyncEngine, months: bool) -> None:
    year = Year(engine)
    await year.fill(200, months=months)
    before = months_ago(2)
    old = sum(each.entries for each in await old_rows(engine, before))
    assert sum(await asyncio.gather(*(year.prune(before) for _ in range(3)))) == old > 0
    await year.check()


async def test_timeouts_of_the_database_break_nothing_off(engine: AsyncEngine) -> None:
    """A month with many rows takes longer than most statements may, and would be broken off each time anew."""
    year = Year(engine)
    await year.fill(50)
    async with engine.begin() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(text(f"ALTER DATABASE {engine.url.database} SET {name} = '200ms'"))
    strict = create_engine(engine.url.render_as_string(hide_password=False))
    async with engine.connect() as writer:
        await writer.execute(text(f"LOCK TABLE {months_ago(12):usage_entries_%Y_%m} IN ROW EXCLUSIVE MODE"))
        pruning = asyncio.create_task(Year(strict).prune(months_ago(2)))

        async def waits() -> bool:
            async with engine.connect() as connection:
                return pruning.done() or bool(await connection.scalar(WAITS_LONG))

        await until(waits, "it waits for longer than the database lets statements do")
        await writer.rollback()
    assert await pruning > 0
    await year.check()
    await strict.dispose()


async def test_readers_and_writers_go_on_beside_a_prune(engine: AsyncEngine) -> None:
    """No reader sees a moment at which something is neither among the rows nor among the sums."""
    year = Year(engine)
    await year.fill(400)
    accounts = list(year.model.posted())
    expected = await posted_by_account(engine, "default", accounts)
    done, longest_s, read = asyncio.Event(), [0.0], 0

    async def store() -> None:
        """Second writes of everything, and rows of another ledger."""
        while not done.is_set():
            began = time.perf_counter()
            await insert_entries(engine, made_up_rows("new", NOW - timedelta(days=1), 1, 5, next(NUMBERS)))
            longest_s.append(time.perf_counter() - began)

    async def look() -> None:
        nonlocal read
        while not done.is_set():
            assert await posted_by_account(engine, "default", accounts) == expected
            await year.check_loaded(accounts)
            read += 1

    others = [asyncio.create_task(each()) for each in (store, store, look, look)]
    for months in range(13, 1, -1):
        assert await year.prune(months_ago(months)) > 0
        await year.store(year.model.all_rows)
    done.set()
    await asyncio.gather(*others)
    await year.check()
    print(f"{len(longest_s):,} stored meanwhile, the longest in {max(longest_s):.2f} s; {read} looks")
    assert read > 0
    assert max(longest_s) < 3


@pytest.mark.parametrize("rows", [20_000, pytest.param(500_000, marks=[pytest.mark.full, pytest.mark.timeout(3_000)])])
async def test_a_table_of_before_is_pruned_while_old_workers_store(databases: Databases, rows: int) -> None:
    """Also what is older than the prune, and what they had stored before."""
    engine = await old_table(databases, rows)
    await migrate(engine.url.render_as_string(hide_password=False))
    worker, done = OldWorker(engine, months_ago(6)), asyncio.Event()
    for _ in range(300):
        await worker.store()
    storing = asyncio.create_task(worker.run(done))
    began = time.perf_counter()
    pruned = [each async for each in prune(engine, months_ago(2))]
    took = time.perf_counter() - began
    done.set()
    await storing
    print(f"{pruned} in {took:.1f} s, {worker.stored} stored meanwhile, the longest in {worker.longest_s:.2f} s")
    assert pruned[0].entries > rows // 2
    for number in range(1, 1 + worker.stored):
        await worker.store_again(number)
    nanos = rows * OLD_ROW_NANOS + worker.stored * STORED_NANOS
    assert await posted_by_account(engine, "default", ["service:openai"]) == {"service:openai": nanos}
    _, total = await usage_report_with_total(engine, ledger="default", by=[])
    assert (total.cost_nanos, total.attempts) == (nanos, rows + worker.stored)
    assert worker.longest_s < 3
    await engine.dispose()
