"""What accounts have spent in the last hour, and in each hour of the last 31 days, from the stored entries."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.forecast import FURTHEST_MS, HOUR_MS, NOTHING, Spent
from paymaster.storage.charging import charged
from paymaster.storage.usage_rows import nanos_of

HOURS_OF_MOST = 100
"""Accounts of which the hours are asked at a time: each may have 744."""

# Whole days first would not do: an hour of UTC is what every time zone and every rolling step is made of.
_SPENT = text(
    f"""
    WITH spent AS (
        SELECT budget, charged_budgets, service,
               floor(extract(epoch FROM granted_at) / 3600)::bigint AS hour,
               sum(cost_usd) AS usd, coalesce(sum(cost_usd) FILTER (WHERE granted_at >= :an_hour_ago), 0) AS lately_usd
        FROM api_usage_counted WHERE ledger = :ledger AND granted_at >= :since
        GROUP BY budget, charged_budgets, service, hour
    ), charged AS ({charged("spent", ["hour", "usd", "lately_usd"])})
    SELECT account, hour, sum(usd), sum(lately_usd) FROM charged
    WHERE :every OR account = ANY(:accounts) GROUP BY account, hour
    """  # noqa: S608
).bindparams(bindparam("accounts", type_=ARRAY(TEXT)))


async def spent_lately(
    engine: AsyncEngine, ledger: str, now_ms: int, accounts: Sequence[str] | None = None
) -> dict[str, Spent]:
    """What budgets and services have spent, exactly, in nano-dollars.

    `accounts`: these, with the hours of each. None: all that spent something in the last hour, without the hours.
    """
    since_ms = now_ms - HOUR_MS if accounts is None else (now_ms - FURTHEST_MS) // HOUR_MS * HOUR_MS
    values = {
        "ledger": ledger,
        "since": _time(since_ms),
        "an_hour_ago": _time(now_ms - HOUR_MS),
        "every": accounts is None,
        "accounts": list(accounts or ()),
    }
    async with engine.connect() as connection:
        rows = (await connection.execute(_SPENT, values)).all()
    found: dict[str, Spent] = {} if accounts is None else dict.fromkeys(accounts, NOTHING)
    for account, hour, usd, lately_usd in rows:
        before = found.get(account, NOTHING)
        hours = {**(before.hours_nanos or {}), int(hour) * HOUR_MS: nanos_of(usd)}
        lately = before.last_hour_nanos + nanos_of(lately_usd)
        found[account] = Spent(lately, None if accounts is None else hours)
    return found


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
