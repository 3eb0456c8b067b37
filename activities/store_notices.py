"""store_notices: what the ledger has to tell people goes into the log and the database."""

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from paymaster.calls.usage_records import expiry_correction, expiry_entry
from paymaster.messages import Alert, CapChange, ConfigChange, Delivery, ExpiredHold, Notices
from paymaster.storage.ledger_state_rows import insert_alerts, insert_cap_changes, insert_configurations
from paymaster.storage.usage_rows import insert_entries


class StoreNoticesActivities:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def store_notices(self, batch: Notices) -> Delivery:
        """All or none: what was stored already when it runs again stays as it is."""
        alerts = [notice for notice in batch.notices if isinstance(notice, Alert)]
        changes = [notice for notice in batch.notices if isinstance(notice, CapChange)]
        expired = [notice for notice in batch.notices if isinstance(notice, ExpiredHold)]
        if activity.info().attempt == 1:
            for alert in alerts:
                activity.logger.warning("alert %s: %s", alert.what, alert.text, extra=alert.model_dump(mode="json"))
        if alerts:
            await insert_alerts(self._engine, batch.ledger, batch.epoch, alerts)
        configured = [notice for notice in batch.notices if isinstance(notice, ConfigChange)]
        if changes:
            await insert_cap_changes(self._engine, batch.ledger, batch.epoch, changes)
        if configured and batch.config is not None:
            await insert_configurations(self._engine, batch.ledger, batch.epoch, configured, batch.config)
        if expired:
            entries = [
                (expiry_correction if notice.settled else expiry_entry)(notice.grant, notice.call, batch.ledger)
                for notice in expired
            ]
            await insert_entries(self._engine, entries)
        return Delivery(delivered=tuple(notice.sequence for notice in batch.notices))
