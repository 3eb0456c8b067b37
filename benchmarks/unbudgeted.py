"""`python -m benchmarks.unbudgeted`: the worker of the calls without a budget, and of the bare ones.

It calls and stores with Paymaster's own code, on one task queue for each kind, as a team would write it that has no
budget to keep.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.worker import Worker

from activities.call_service import CallServiceActivities
from benchmarks.bare import bare_client
from benchmarks.compared import (
    BARE_TASK_QUEUE,
    UNBUDGETED_TASK_QUEUE,
    BareCall,
    Mailbox,
    SignalledLedger,
    UnbudgetedCall,
)
from paymaster.calls.usage_records import entries_of
from paymaster.client import connect
from paymaster.keys.ring import kept_keys
from paymaster.ledger.group_commit import GroupCommit
from paymaster.messages import AttemptReport, UsageEntry, UsageRecord
from paymaster.providers.connections import Connections
from paymaster.settings import load_settings
from paymaster.storage.engine import create_engine
from paymaster.storage.usage_rows import insert_entries


class StoreUsage:
    """Stores as Paymaster does: many rows in one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._inserts = GroupCommit[tuple[UsageEntry, ...], None](self._insert, size_of=len)

    @activity.defn
    async def store_usage(self, record: UsageRecord) -> None:
        await self._inserts.submit(entries_of(record, "unbudgeted"))

    async def _insert(self, groups: Sequence[tuple[UsageEntry, ...]]) -> Sequence[None]:
        await insert_entries(self._engine, [entry for entries in groups for entry in entries])
        return [None] * len(groups)


async def _run() -> None:
    settings = load_settings()
    client = await connect()
    assert settings.database.url is not None
    engine = create_engine(settings.database.url.get_secret_value())
    connections = Connections(settings.services)

    async def report(reports: Sequence[AttemptReport]) -> Sequence[None]:
        raise RuntimeError("the provider of the benchmarks never fails")

    reports = GroupCommit[AttemptReport, None](report, size_of=lambda report: 1, give_up_after_s=1)
    calls = CallServiceActivities(settings.services, kept_keys(settings), connections, reports)
    async with (
        Worker(
            client,
            task_queue=UNBUDGETED_TASK_QUEUE,
            workflows=[UnbudgetedCall, SignalledLedger, Mailbox],
            activities=[calls.call_service, StoreUsage(engine).store_usage],
            max_concurrent_activities=1_000,
        ),
        Worker(
            await bare_client(client.service_client.config.target_host, client.namespace),
            task_queue=BARE_TASK_QUEUE,
            workflows=[BareCall],
            activities=[calls.call_service],
            max_concurrent_activities=1_000,
        ),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run())
