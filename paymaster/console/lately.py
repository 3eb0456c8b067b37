"""Accounts on a page, with when their caps will be used up."""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.console.accounts import ShownAccount, shown
from paymaster.messages import AccountStatus
from paymaster.reports.forecast import Forecast
from paymaster.reports.forecasts import Forecasts, forecasts_of

KEPT_MS = 30_000
"""Pages that are looked at renew themselves every few seconds, and weeks of spending do not change so fast."""


class ShownLately:
    def __init__(self, engine: AsyncEngine, ledger: str) -> None:
        self._engine = engine
        self._ledger = ledger
        self._kept: dict[str, tuple[int, dict[tuple[str, str], Forecast]]] = {}
        """By account, with when it was made."""

    async def shown(self, accounts: Sequence[AccountStatus], now_ms: int, below: str = "") -> list[ShownAccount]:
        """`below`: the budget from which on the tree is shown. Raises what the database raises."""
        forecasts = await self._forecasts(accounts, now_ms)
        return [shown(each, now_ms, below, forecasts) for each in accounts]

    async def _forecasts(self, accounts: Sequence[AccountStatus], now_ms: int) -> Forecasts:
        kept = {name: each for name, each in self._kept.items() if now_ms - each[0] < KEPT_MS}
        wanted = [each for each in accounts if each.account not in kept]
        found: Forecasts = {}
        if wanted:
            with suppress(TimeoutError):  # the page then shows the average since the window began
                found = await forecasts_of(self._engine, self._ledger, wanted, now_ms)
        for each in wanted:
            kept[each.account] = now_ms, {key: found[key] for key in _keys(each) if key in found}
        self._kept = kept
        return {key: forecast for each in accounts for key, forecast in kept[each.account][1].items()}


def _keys(account: AccountStatus) -> list[tuple[str, str]]:
    return [(account.account, window.window) for window in account.windows]
