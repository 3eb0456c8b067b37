"""catch_up: what the usage backlog has, once more: rows into the database, settlements to the ledger."""

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.record_usage import is_refused
from paymaster.client import Ledger
from paymaster.database import insert_entries
from paymaster.messages import BacklogBatch, CaughtUp, Refused, UnknownHold, UsageRecord, Void
from paymaster.usage_entries import entries_of, settlement_of


class CatchUpActivities:
    def __init__(self, ledger: Ledger, engine: AsyncEngine) -> None:
        self._ledger = ledger
        self._engine = engine

    @activity.defn
    async def catch_up(self, batch: BacklogBatch) -> CaughtUp:
        """Stores and settles all of it, and names what is refused for good. Raises while somebody does not answer.

        Harmless for what was stored or settled before.
        """
        rejected = await self._store(batch.records)
        records = [record for record in batch.records if record.grant.hold_id not in rejected]
        commands = [settlement_of(record) for record in records] + [Void(hold_id=hold_id) for hold_id in batch.voids]
        if commands:
            answers = await self._ledger.send(commands)
            for record, answer in zip(records, answers, strict=False):
                if isinstance(answer, UnknownHold | Refused):
                    activity.logger.error("hold %s was not settled: %s", record.grant.hold_id, answer)
        return CaughtUp(rejected=tuple(rejected))

    async def _store(self, records: tuple[UsageRecord, ...]) -> list[str]:
        """The holds whose rows the database refuses."""
        entries = [entry for record in records for entry in entries_of(record, self._ledger.name)]
        try:
            await insert_entries(self._engine, entries)
            return []
        except SQLAlchemyError as error:
            if not is_refused(error):
                raise
        rejected: list[str] = []
        for record in records:  # one at a time, so that a bad one is alone
            try:
                await insert_entries(self._engine, entries_of(record, self._ledger.name))
            except SQLAlchemyError as error:
                if not is_refused(error):
                    raise
                activity.logger.error("the database refuses the entries of %s: %s", record.grant.hold_id, error)
                rejected.append(record.grant.hold_id)
        return rejected
