"""catch_up: what the usage backlog has, once more: rows into the database, settlements to the ledger."""

import asyncio

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.record_usage import is_refused
from paymaster.calls.usage_records import entries_of, settlement_of
from paymaster.ledger.group_commit import CommitUnavailable, GroupCommit, PoisonedBatch
from paymaster.messages import (
    Answer,
    AttemptReport,
    BacklogBatch,
    CaughtUp,
    Command,
    Refused,
    UnknownHold,
    UsageRecord,
    Void,
    backlog_workflow_id,
)
from paymaster.storage.usage_rows import insert_entries
from paymaster.values.money import format_usd

BATCHES_AT_ONCE = 2
"""In one process: hundreds of pieces may wait for a database that has just come back, and calls need it too."""
DATABASE_ANSWERS_WITHIN_S = 20.0


class CatchUpActivities:
    def __init__(
        self,
        ledger: str,
        engine: AsyncEngine,
        commits: GroupCommit[Command, Answer],
        reports: GroupCommit[AttemptReport, None],
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._commits = commits
        self._reports = reports
        self._places = asyncio.Semaphore(BATCHES_AT_ONCE)

    @activity.defn
    async def catch_up(self, batch: BacklogBatch) -> CaughtUp:
        """Stores and settles all of it, and names what is refused for good. Raises while somebody does not answer.

        Harmless for what was stored or settled before.
        """
        async with self._places:
            rejected = await self._store(batch.records)
            commands = [settlement_of(record) for record in batch.records]
            voids = [Void(hold_id=hold_id) for hold_id in batch.voids]
            refused = await asyncio.gather(*map(self._refuses, [*commands, *voids]))
        for record, problem in zip(batch.records, refused, strict=False):
            if problem is not None:
                rejected.setdefault(record.grant.hold_id, f"the ledger refuses it: {problem}")
        for record in batch.records:
            if record.grant.hold_id in rejected:
                await self._tell(record, rejected[record.grant.hold_id])
        return CaughtUp(rejected=tuple(rejected))

    async def _refuses(self, command: Command) -> str | None:
        """Why the ledger will never take this command; None when it did. Raises CommitUnavailable."""
        try:
            answer = await self._commits.submit(command)
        except PoisonedBatch as error:
            activity.logger.error("the ledger refuses %s of hold %.200s: %s", command.kind, command.hold_id, error)
            return str(error)
        if isinstance(answer, UnknownHold | Refused):
            activity.logger.error("hold %s was not settled: %s", command.hold_id, answer)
        return None

    async def _store(self, records: tuple[UsageRecord, ...]) -> dict[str, str]:
        """The holds whose rows the database refuses, with what it says."""
        try:
            await self._insert(*records)
            return {}
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
        rejected: dict[str, str] = {}
        for record in records:  # one at a time, so that a bad one is alone
            try:
                await self._insert(record)
            except SQLAlchemyError as error:
                if not is_refused(error):
                    raise
                rejected[record.grant.hold_id] = f"the database refuses its entries: {error}"
        return rejected

    async def _insert(self, *records: UsageRecord) -> None:
        entries = [entry for record in records for entry in entries_of(record, self._ledger)]
        async with asyncio.timeout(DATABASE_ANSWERS_WITHIN_S):
            await insert_entries(self._engine, entries)

    async def _tell(self, record: UsageRecord, problem: str) -> None:
        """Its money is in the log, in an alert and in the backlog, which keeps it for a person to look at."""
        grant, cost = record.grant, format_usd(settlement_of(record).cost_nanos)
        text = (
            f"{cost} of {grant.budget[:200]} at {grant.service[:100]} are in no row: hold {grant.hold_id[:200]} is set "
            f"aside (query set_aside of {backlog_workflow_id(self._ledger)}), because {problem[:300]}"
        )
        activity.logger.error("%s", text)
        try:
            report = AttemptReport(hold_id="", service=grant.service, error_class="record_refused", alert=text)
            await self._reports.submit(report)
        except (CommitUnavailable, PoisonedBatch) as error:
            activity.logger.warning("not alerted: %s", error)
