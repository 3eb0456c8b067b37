"""What was spent in the last hour, from the stored entries, and in each hour of the weeks before, from their sums."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.anomalies import WEEK_MS, WEEKS, Portion, past_of
from paymaster.reports.forecast import FURTHEST_MS, HOUR_MS, Spent
from paymaster.storage.charging import charged, rows_of_accounts
from paymaster.storage.usage_rows import nanos_of
from paymaster.values.budget_path import budgets_named

HOURS_OF_MOST = 200
"""Accounts of which the hours are asked at a time: each may have 744."""
_HOURS_OF_DAY = 24
_USD_MAX = 9_000_000_000
"""Of one hour: more nano-dollars are no bigint, and 75,000 numbers of any size take half a second to read."""
_MEMORY = text("SET LOCAL work_mem = '32MB'")  # or a month of a hundred budgets is sorted on the disk

_LAST_HOUR = text(
    f"""
    WITH spent AS (
        SELECT budget, charged_budgets, service, sum(cost_usd) AS usd
        FROM api_usage_counted WHERE ledger = :ledger AND granted_at >= :since
        GROUP BY budget, charged_budgets, service
    ), charged AS ({charged("spent", ["usd"])})
    SELECT account, sum(usd) FROM charged GROUP BY account
    """  # noqa: S608
)
_PORTIONS = text(
    """
    SELECT budget, charged_budgets, service, model, run, sum(cost_usd) AS usd
    FROM api_usage_counted WHERE ledger = :ledger AND granted_at >= :since
    GROUP BY budget, charged_budgets, service, model, run
    """
)
# Days would not do: an hour of UTC is what time zones of whole hours and the steps of rolling windows are made of.
_HOURS = text(
    f"""
    WITH sums AS MATERIALIZED (
        SELECT budget, charged_budgets, service, hour, sum(cost_usd) AS usd
        FROM unnest(:begins, :ends) AS span (begins, ends), LATERAL (
            SELECT budget, charged_budgets, service, cost_usd, hour
            FROM usage_hourly WHERE ledger = :ledger AND hour >= begins AND hour < ends AND entries > 0
        ) AS entries GROUP BY budget, charged_budgets, service, hour
    ), spent AS (
        SELECT budget, charged_budgets, service, array_agg(hour) AS hours, array_agg(usd) AS sums
        FROM sums GROUP BY budget, charged_budgets, service
    ), charged AS ({charged("spent", ["hours", "sums"])}), by_hour AS (
        SELECT account, hour, sum(usd) AS usd FROM charged, unnest(hours, sums) AS each (hour, usd)
        WHERE account = ANY(:accounts) GROUP BY account, hour
    )
    SELECT account, array_agg(extract(epoch FROM hour)::bigint * 1000),
           array_agg((greatest(least(usd, {_USD_MAX}), -{_USD_MAX}) * 1000000000)::bigint)
    FROM by_hour GROUP BY account
    """  # noqa: S608
).bindparams(
    bindparam("accounts", type_=ARRAY(TEXT)),
    bindparam("begins", type_=ARRAY(TIMESTAMP(timezone=True))),
    bindparam("ends", type_=ARRAY(TIMESTAMP(timezone=True))),
)
_HOURS_OF_RUNS = text(
    f"""
    SELECT account, date_trunc('hour', granted_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, sum(cost_usd)
    FROM {rows_of_accounts("granted_at, cost_usd", "ledger = :ledger AND granted_at >= :since")}
    GROUP BY account, hour
    """  # noqa: S608
)


async def last_hour(engine: AsyncEngine, ledger: str, now_ms: int) -> dict[str, int]:
    """What all budgets and services that spent something in the last hour spent in it, exactly, in nano-dollars."""
    values = {"ledger": ledger, "since": _time(now_ms - HOUR_MS)}
    async with engine.connect() as connection:
        return {account: nanos_of(usd) for account, usd in await connection.execute(_LAST_HOUR, values)}


async def portions_of_last_hour(engine: AsyncEngine, ledger: str, now_ms: int) -> list[Portion]:
    """All that was spent in the last hour, by what it was spent on."""
    values = {"ledger": ledger, "since": _time(now_ms - HOUR_MS)}
    async with engine.connect() as connection:
        rows = (await connection.execute(_PORTIONS, values)).mappings().all()
    return [
        Portion(
            budgets=tuple(budgets_named(row["charged_budgets"] or (row["budget"],))),
            service=row["service"],
            model=row["model"],
            run=row["run"],
            nanos=nanos_of(row["usd"]),
        )
        for row in rows
    ]


async def spent_lately(engine: AsyncEngine, ledger: str, now_ms: int, accounts: Sequence[str]) -> dict[str, Spent]:
    """What these budgets and services have spent in the last hour, and in each hour of the last 31 days, exactly."""
    lately = await last_hour(engine, ledger, now_ms)
    since_ms = (now_ms - FURTHEST_MS) // HOUR_MS * HOUR_MS
    hours = await _hours(engine, ledger, accounts, [(since_ms, now_ms + HOUR_MS)])
    return {account: Spent(lately.get(account, 0), hours[account]) for account in accounts}


async def past_of_accounts(
    engine: AsyncEngine, ledger: str, now_ms: int, accounts: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """What each account has spent at this time of the week in the weeks before, as `past_of` has it.

    Of budgets and services only the days around that time are looked at: one that spent nothing on them is as one that
    is new.
    """
    this_hour_ms = now_ms // HOUR_MS * HOUR_MS
    ends_ms = [this_hour_ms + HOUR_MS - week * WEEK_MS for week in range(1, WEEKS + 1)]
    days = [(end_ms - _HOURS_OF_DAY * HOUR_MS, end_ms) for end_ms in ends_ms]
    runs = [account for account in accounts if account.startswith("run:")]
    others = [account for account in accounts if not account.startswith("run:")]
    hours = await _hours(engine, ledger, others, days) if others else {}
    if runs:
        hours |= await _hours_of_runs(engine, ledger, runs, days[-1][0])
    return {account: past_of(spent, now_ms) for account, spent in hours.items()}


async def _hours(
    engine: AsyncEngine, ledger: str, accounts: Sequence[str], spans_ms: Sequence[tuple[int, int]]
) -> dict[str, dict[int, int]]:
    """What budgets and services have spent in the hours of these spans of whole hours, by when each began."""
    values = {
        "ledger": ledger,
        "accounts": list(accounts),
        "begins": [_time(begin_ms) for begin_ms, _ in spans_ms],
        "ends": [_time(end_ms) for _, end_ms in spans_ms],
    }
    found: dict[str, dict[int, int]] = {account: {} for account in accounts}
    async with engine.connect() as connection:
        await connection.execute(_MEMORY)
        for account, hours_ms, nanos in await connection.execute(_HOURS, values):
            found[account] = dict(zip(hours_ms, nanos, strict=True))
    return found


async def _hours_of_runs(
    engine: AsyncEngine, ledger: str, accounts: Sequence[str], since_ms: int
) -> dict[str, dict[int, int]]:
    values = {"ledger": ledger, "accounts": list(accounts), "since": _time(since_ms)}
    found: dict[str, dict[int, int]] = {account: {} for account in accounts}
    async with engine.connect() as connection:
        for account, hour, usd in await connection.execute(_HOURS_OF_RUNS, values):
            found[account][_ms(hour)] = nanos_of(usd)
    return found


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
