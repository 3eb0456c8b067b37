"""deliver: the desk's outbox. Answers to parked calls go to their workflows, expired holds into the database."""

import asyncio

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from paymaster.database import insert_entries
from paymaster.messages import Delivery, ExpiredHold, Outbox, ParkedAnswer
from paymaster.usage_entries import expiry_entry

SIGNALS_AT_ONCE = 20


class DeliverActivities:
    def __init__(self, client: Client, engine: AsyncEngine) -> None:
        self._client = client
        self._engine = engine

    @activity.defn
    async def deliver(self, outbox: Outbox) -> Delivery:
        """What arrived, and for whom it came too late. The rest is sent again with the next batch."""
        delivered: list[int] = []
        gone: list[int] = []
        places = asyncio.Semaphore(SIGNALS_AT_ONCE)

        async def signal(item: ParkedAnswer) -> None:
            handle = self._client.get_workflow_handle(item.call.workflow_id, run_id=item.call.run_id)
            async with places:
                try:
                    await handle.signal("budget_answer", item)
                    delivered.append(item.sequence)
                except RPCError as error:
                    if error.status is RPCStatusCode.NOT_FOUND:
                        gone.append(item.sequence)
                    else:
                        activity.logger.warning("answer to %s not delivered: %s", item.call.workflow_id, error)

        await asyncio.gather(*(signal(item) for item in outbox.items if isinstance(item, ParkedAnswer)))
        expired = [item for item in outbox.items if isinstance(item, ExpiredHold)]
        if expired:
            entries = [expiry_entry(item.grant, item.call, outbox.ledger) for item in expired]
            try:
                await insert_entries(self._engine, entries)
                delivered += [item.sequence for item in expired]
            except (SQLAlchemyError, OSError, TimeoutError) as error:  # the answers above did arrive
                activity.logger.warning("%d expired holds not stored: %s", len(expired), error)
        return Delivery(delivered=tuple(delivered), gone=tuple(gone))
