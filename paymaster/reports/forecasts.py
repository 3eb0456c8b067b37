"""When the caps of some accounts will be used up: one answer for the CLI, the console and alerts."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import AccountStatus
from paymaster.reports.forecast import Forecast, Spent, forecast
from paymaster.reports.recent import HOURS_OF_MOST, last_hour, spent_lately
from paymaster.settings.time_zones import offsets_of
from paymaster.values.time_zones import Zone

Forecasts = Mapping[tuple[str, str], Forecast]
"""By account and window; without those that have no cap."""
_HOURS_WITHIN_S = 2.0
"""Where weeks of rows take longer to be summed, what is said is said by the last hour alone."""


async def forecasts_of(engine: AsyncEngine, ledger: str, accounts: Sequence[AccountStatus], now_ms: int) -> Forecasts:
    """By the pattern of four weeks too, of at most `HOURS_OF_MOST` accounts. Raises what the database raises."""
    names = [each.account for each in accounts if any(window.cap_nanos is not None for window in each.windows)]
    spent: Mapping[str, Spent] | None = None
    if len(names) <= HOURS_OF_MOST:
        try:
            async with asyncio.timeout(_HOURS_WITHIN_S):
                spent = await spent_lately(engine, ledger, now_ms, names)
        except TimeoutError:
            pass
    if spent is None:
        spent = {name: Spent(nanos) for name, nanos in (await last_hour(engine, ledger, now_ms)).items()}
    # A second or so of many accounts: others go on meanwhile.
    return await asyncio.to_thread(_forecasts, accounts, spent, now_ms)


def _forecasts(accounts: Sequence[AccountStatus], spent: Mapping[str, Spent], now_ms: int) -> Forecasts:
    found = (
        (
            each.account,
            window.window,
            forecast(window, spent.get(each.account, Spent(0)), now_ms, _zone(each.time_zone)),
        )
        for each in accounts
        for window in each.windows
    )
    return {(account, window): each for account, window, each in found if each is not None}


@lru_cache(maxsize=100)
def _zone(name: str) -> Zone:
    return Zone(offsets_of(name))
