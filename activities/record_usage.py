"""record_usage: store what was spent, then tell the ledger. In this order, so that the books never lead the rows."""

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.reserve import submit
from paymaster.database import insert_entries
from paymaster.group_commit import GroupCommit
from paymaster.messages import Answer, Command, Refused, SettleAnswer, Settled, UnknownHold, UsageRecord
from paymaster.usage_entries import entries_of, expiry_correction, settlement_of


class RecordUsageActivities:
    """A local activity of the call workflow."""

    def __init__(self, ledger: str, engine: AsyncEngine, commits: GroupCommit[Command, Answer]) -> None:
        self._ledger = ledger
        self._engine = engine
        self._commits = commits

    @activity.defn
    async def record_usage(self, record: UsageRecord) -> SettleAnswer:
        """Harmless when it runs again: rows are unique, and a settled hold stays settled."""
        entries = entries_of(record, self._ledger)
        if entries:
            await insert_entries(self._engine, entries)
        answer = await submit(self._commits, settlement_of(record.grant, record.ended))
        assert isinstance(answer, Settled | UnknownHold | Refused)  # what the desk answers to a Settle
        if isinstance(answer, Settled):
            if answer.expired:
                await insert_entries(self._engine, [expiry_correction(record.grant, record.call, self._ledger)])
        else:
            activity.logger.error("hold %s was not settled: %s", record.grant.hold_id, answer)
        return answer
