"""Promise 3 at any moment: what was spent is a hold, waits in the backlog or is a row, whatever fails and whenever."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest
from records import CALL, GRANT
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from temporalio.testing import ActivityEnvironment

from activities.record_usage import RecordUsageActivities
from paymaster.client import Backlog
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit
from paymaster.messages import Answer, Attempt, Billing, Command, Deferred, Settle, Settled, UsageEntry, UsageRecord

RECORD = UsageRecord(
    call=CALL,
    grant=GRANT,
    attempts=(Attempt(number=1, started_at_ms=1, duration_ms=1, billing=Billing.UNKNOWN),),
    answered=False,
)


class Books:
    """A backlog and a ledger that write down in which order they were asked."""

    def __init__(self, *, ledger_answers: bool, backlog_answers: bool = True) -> None:
        self.done: list[str] = []
        self._ledger_answers = ledger_answers
        self._backlog_answers = backlog_answers

    async def add_record(self, record: UsageRecord) -> None:
        if not self._backlog_answers:
            raise CommitUnavailable("Temporal is away")
        assert record == RECORD
        self.done.append("in the backlog")

    async def settle(self, commands: Sequence[Command]) -> Sequence[Answer]:
        if not self._ledger_answers:
            raise ConnectionError("the ledger is away")
        assert all(isinstance(command, Settle) for command in commands)
        self.done.append("settled")
        return [Settled(hold_id=command.hold_id) for command in commands]

    def activities(self, engine: AsyncEngine, rows_wait_for: int = 1) -> RecordUsageActivities:
        commits = GroupCommit[Command, Answer](self.settle, size_of=lambda command: 1, give_up_after_s=0.01)
        return RecordUsageActivities("default", engine, commits, cast(Backlog, self), lambda waiting: rows_wait_for)


@pytest.fixture
async def no_database(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    monkeypatch.setattr("activities.record_usage.DATABASE_ANSWERS_WITHIN_S", 0.1)
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    yield engine
    await engine.dispose()


async def test_a_record_is_in_the_backlog_before_its_hold_ends(no_database: AsyncEngine) -> None:
    """Else sums of that moment, for a new budget say, would have neither the hold nor the row."""
    books = Books(ledger_answers=True)
    answer = await ActivityEnvironment().run(books.activities(no_database).record_usage, RECORD)
    assert answer == Settled(hold_id=GRANT.hold_id)
    assert books.done == ["in the backlog", "settled"]


async def test_nothing_is_settled_that_is_kept_nowhere(no_database: AsyncEngine) -> None:
    """Temporal then runs the activity again."""
    books = Books(ledger_answers=True, backlog_answers=False)
    with pytest.raises(CommitUnavailable):
        await ActivityEnvironment().run(books.activities(no_database).record_usage, RECORD)
    assert books.done == []


@pytest.mark.parametrize(("stored", "settled"), [*itertools.product([True, False], repeat=2)])
async def test_what_failed_goes_to_the_backlog_once(
    no_database: AsyncEngine, monkeypatch: pytest.MonkeyPatch, stored: bool, settled: bool
) -> None:
    books = Books(ledger_answers=settled)
    if stored:

        async def take(*_: object) -> None:
            books.done.append("stored")

        monkeypatch.setattr("activities.record_usage.insert_entries", take)
    answer = await ActivityEnvironment().run(books.activities(no_database).record_usage, RECORD)
    assert isinstance(answer, Settled if settled else Deferred)
    assert books.done.count("in the backlog") == (0 if stored and settled else 1)


async def test_rows_wait_for_as_many_as_are_worth_waiting_for(
    no_database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no company to wait for goes at once."""
    stored = list[int]()

    async def take(engine: AsyncEngine, entries: Sequence[UsageEntry]) -> None:
        stored.append(len(entries))

    async def recorded(rows: int, records: int) -> None:
        activities = Books(ledger_answers=True).activities(no_database, rows)
        async with asyncio.TaskGroup() as running:
            for number in range(records):
                running.create_task(ActivityEnvironment().run(activities.record_usage, RECORD))
                for _ in range(20):  # turns of the loop, in which one that does not wait is stored
                    await asyncio.sleep(0)
                assert len(stored) == (number + 1) // rows, stored

    monkeypatch.setattr("activities.record_usage.insert_entries", take)
    monkeypatch.setattr("activities.record_usage.ROWS_GATHER_AT_MOST_S", 60.0)
    await recorded(rows=1, records=2)
    assert stored == [1, 1]
    stored.clear()
    await recorded(rows=8, records=8)
    assert stored == [8]
