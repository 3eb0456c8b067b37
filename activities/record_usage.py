"""record_usage: store what was spent, then tell the ledger. In this order, so that the books never lead the rows.

What the database does not take now goes to the usage backlog before the ledger is told. So whoever sums up what was
spent finds it in one of three places at any time: among the holds, in the backlog or in a row. The backlog is as
durable and keeps trying, and the agent gets its answer without waiting for the database or the ledger.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from paymaster.calls.usage_records import entries_of, settlement_of
from paymaster.ledger.backlog_sender import Backlog
from paymaster.ledger.batching import ROWS_GATHER_AT_MOST_S
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import (
    Answer,
    Command,
    Deferred,
    RecordAnswer,
    Refused,
    Settled,
    UnknownHold,
    UsageEntry,
    UsageRecord,
    json_bytes,
)
from paymaster.observability.measurements import rows_stored
from paymaster.storage.usage_rows import insert_entries

DATABASE_ANSWERS_WITHIN_S = 3.0
LOOK_AGAIN_AFTER_S = 5.0
"""How long to skip the database after it failed to respond."""


class RecordUsageActivities:
    """A local activity of the call workflow."""

    def __init__(
        self,
        ledger: str,
        engine: AsyncEngine,
        commits: GroupCommit[Command, Answer],
        backlog: Backlog,
        rows_worth_waiting_for: Callable[[Sequence[Command]], int] = lambda waiting: 1,
    ) -> None:
        """`rows_worth_waiting_for` tells of the commands that wait how many records a transaction should have. The
        default: none waits."""
        self._ledger = ledger
        self._engine = engine
        self._commits = commits
        self._backlog = backlog
        self._not_before = 0.0
        self._inserts = GroupCommit[tuple[UsageEntry, ...], None](
            self._insert,
            size_of=lambda entries: sum(map(json_bytes, entries)),
            give_up_after_s=DATABASE_ANSWERS_WITHIN_S,
            gathers_at_most_s=ROWS_GATHER_AT_MOST_S,
            worth_waiting_for=lambda entries: rows_worth_waiting_for(commits.waiting()),
        )

    @activity.defn
    async def record_usage(self, record: UsageRecord) -> RecordAnswer:
        """Harmless when it runs again: rows are unique, and a settled hold stays settled."""
        stored = await self._store(entries_of(record, self._ledger))
        if not stored:
            await self._backlog.add_record(record)
        answer = await self._settle(record)
        if stored and isinstance(answer, Deferred):
            await self._backlog.add_record(record)
        return answer

    async def _store(self, entries: tuple[UsageEntry, ...]) -> bool:
        """False when the database did not take them."""
        if not entries:
            return True
        if time.monotonic() < self._not_before:
            return False
        try:
            with rows_stored(entries):
                await self._inserts.submit(entries)
        except CommitUnavailable as error:
            self._not_before = time.monotonic() + LOOK_AGAIN_AFTER_S
            activity.logger.warning("the database does not answer, entries go to the backlog: %s", error)
            return False
        except PoisonedBatch as error:
            activity.logger.error("the database refuses an entry, which goes to the backlog: %s", error)
            return False
        return True

    async def _settle(self, record: UsageRecord) -> RecordAnswer:
        hold_id = record.grant.hold_id
        try:
            answer = await self._commits.submit(settlement_of(record))
        except (CommitUnavailable, PoisonedBatch) as error:
            activity.logger.error("hold %s could not be settled, the backlog tries again: %s", hold_id, error)
            return Deferred(hold_id=hold_id)
        assert isinstance(answer, Settled | UnknownHold | Refused)  # what the desk answers to a Settle
        if not isinstance(answer, Settled):
            activity.logger.error("hold %s was not settled: %s", hold_id, answer)
        return answer

    async def _insert(self, groups: Sequence[tuple[UsageEntry, ...]]) -> Sequence[None]:
        try:
            async with asyncio.timeout(DATABASE_ANSWERS_WITHIN_S):
                await insert_entries(self._engine, [entry for entries in groups for entry in entries])
        except SQLAlchemyError as error:
            if is_refused(error):
                raise PoisonedBatch(str(error)) from error
            raise
        return [None] * len(groups)


def is_refused(error: SQLAlchemyError) -> bool:
    """Whether the database answered that it will never take this, and not that it can't just now."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    # 22: data exception; 23: integrity constraint violation.
    return isinstance(state, str) and state[:2] in ("22", "23")
