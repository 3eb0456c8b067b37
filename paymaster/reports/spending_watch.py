"""A worker looks at what is spent, and tells the ledger of what people should know: it alerts them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError

from paymaster.ledger.copied_status import CopiedStatus
from paymaster.messages import AccountStatus
from paymaster.messages.spending import Foreseen, SpendingReport, Unusual
from paymaster.reports.anomalies import spent_by_account, unusual_accounts
from paymaster.reports.forecast import HOUR_MS, Spent, forecast, foreseen
from paymaster.reports.forecasts import forecasts_of
from paymaster.reports.recent import HOURS_OF_MOST, last_hour, past_of_accounts, portions_of_last_hour
from paymaster.settings import AlertsSettings
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.ledger_log import accounts_alerted
from paymaster.values.limits import BATCH_ITEMS_MAX

LOOKS_EVERY_S = 300.0
_ACCOUNTS_AT_ONCE = 500
_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtextextended('paymaster spending watch ' || :ledger, 0))")
logger = logging.getLogger(__name__)


class SpendingWatch:
    def __init__(
        self,
        settings: AlertsSettings,
        engine: AsyncEngine,
        ledger: str,
        tell: Callable[[SpendingReport], Awaitable[None]],
    ) -> None:
        """`tell` is how the ledger of this name is told."""
        self._settings = settings
        self._engine = engine
        self._ledger = ledger
        self._tell = tell
        self._copy = CopiedStatus(engine, ledger)

    async def follow(self) -> None:
        """For as long as the worker runs. What cannot be looked at now is looked at the next time."""
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            try:
                await self.look(int(time.time() * 1_000))
            except (*DATABASE_ERRORS, RPCError) as error:
                logger.warning("nobody has looked at what is spent, for forecasts and anomalies: %s", error)

    async def look(self, now_ms: int) -> SpendingReport:
        """What the ledger was told; nothing while another worker looks. Raises what database and Temporal raise."""
        async with self._engine.connect() as connection:
            # With the transaction it ends, also behind a pooler that shares connections.
            if not await connection.scalar(_ALONE, {"ledger": self._ledger}) or await self._copy.ledger() is None:
                return SpendingReport()
            report = SpendingReport(
                foreseen=tuple(await self._foreseen(now_ms)) if self._settings.forecasts else (),
                unusual=tuple(await self._unusual(now_ms)) if self._settings.anomalies else (),
            )
            if report.foreseen or report.unusual:
                await self._tell(report)
            return report

    async def _foreseen(self, now_ms: int) -> list[Foreseen]:
        """By the last hour first, because few caps are used up so soon; of these the weeks before are looked at."""
        soon = sorted([each async for each in self._used_up_soon(now_ms)], key=lambda each: each[0])
        accounts = list({each.account: each for _, each in soon}.values())[:HOURS_OF_MOST]
        if not accounts:
            return []
        forecasts = await forecasts_of(self._engine, self._ledger, accounts, now_ms)
        found = (
            foreseen(account, window, forecasts[account.account, window.window], now_ms)
            for account in accounts
            for window in account.windows
            if window.cap_nanos is not None
        )
        return [each for each in found if each is not None][:BATCH_ITEMS_MAX]

    async def _used_up_soon(self, now_ms: int) -> AsyncIterator[tuple[int, AccountStatus]]:
        """When, and which account, by the rate of the last hour; once for each of its caps."""
        lately = await last_hour(self._engine, self._ledger, now_ms)
        keys = sorted(account for account, nanos in lately.items() if nanos > 0)
        for number in range(0, len(keys), _ACCOUNTS_AT_ONCE):
            for account in await self._accounts(keys[number : number + _ACCOUNTS_AT_ONCE]):
                for window in account.windows:
                    found = forecast(window, Spent(lately[account.account]), now_ms)
                    told = None if found is None else foreseen(account, window, found, now_ms)
                    if told is not None:
                        yield told.used_up_at_ms, account

    async def _accounts(self, keys: Sequence[str]) -> list[AccountStatus]:
        found = await self._copy.accounts(keys)
        return [] if found is None else found.accounts

    async def _unusual(self, now_ms: int) -> list[Unusual]:
        ledger, floor_nanos = self._ledger, self._settings.anomaly_above_usd
        portions = await portions_of_last_hour(self._engine, ledger, now_ms)
        spent = await asyncio.to_thread(spent_by_account, portions)
        most = [(account, nanos) for account, nanos in spent.most_common(_ACCOUNTS_AT_ONCE) if nanos >= floor_nanos]
        if not most:
            return []
        past = await past_of_accounts(self._engine, ledger, now_ms, [account for account, _ in most])
        told = await accounts_alerted(self._engine, ledger, "anomaly", now_ms - HOUR_MS)
        found = await asyncio.to_thread(unusual_accounts, portions, past, floor_nanos, told)
        return found[:BATCH_ITEMS_MAX]
