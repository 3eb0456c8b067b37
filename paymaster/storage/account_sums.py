"""What stored rows charge to accounts, and what those charged that are pruned."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.storage.charging import ASKED_ACCOUNTS, charged, of_budget, of_run, rows_of_accounts
from paymaster.storage.partitions import one_snapshot
from paymaster.storage.usage_rows import nanos_of

_POSTED_BY_RUN = text(
    f"SELECT account, sum(cost_usd) FROM {rows_of_accounts('cost_usd', 'ledger = :ledger')} GROUP BY account"  # noqa: S608
)
_POSTED_BY_ACCOUNT = text(
    f"""
    WITH spent AS (
        SELECT budget, charged_budgets, service, sum(cost_usd) AS usd
        FROM api_usage_counted WHERE ledger = :ledger GROUP BY budget, charged_budgets, service
    ), charged AS ({charged("spent", ["usd"])})
    SELECT account, sum(usd) FROM charged WHERE account = ANY(:accounts) GROUP BY account
    """  # noqa: S608
)
_PRUNED_BEFORE = text(
    "SELECT (max(month) AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' FROM usage_pruned "
    "WHERE ledger = :ledger"
)
_PRUNED = text(
    f"""
    WITH spent AS (
        SELECT month, budget, charged_budgets, service, cost_usd FROM usage_pruned WHERE ledger = :ledger
    ), charged AS ({charged("spent", ["month", "cost_usd"])})
    SELECT account, month, sum(cost_usd) FROM charged WHERE account = ANY(:accounts) GROUP BY account, month
    """  # noqa: S608
)
_PRUNED_BY = text(
    f"""
    SELECT account, month, sum(cost_usd)
    FROM {ASKED_ACCOUNTS}, LATERAL ({of_budget("month, cost_usd FROM usage_pruned", "ledger = :ledger")}) AS pruned
    GROUP BY account, month
    """  # noqa: S608
)
_PRUNED_RUNS = text(
    f"""
    SELECT account, sum(calls), min(began_at), sum(cost_usd)
    FROM {ASKED_ACCOUNTS},
        LATERAL ({of_run("calls, began_at, cost_usd FROM usage_pruned_runs", "ledger = :ledger")}) AS pruned
    GROUP BY account
    """  # noqa: S608
)


class PrunedRun(NamedTuple):
    """What the rows of a run said that are pruned."""

    calls: int
    began_at: datetime
    cost_nanos: int


class PrunedSpend(NamedTuple):
    """What rows that are pruned charge to accounts, in nano-dollars."""

    before: datetime | None = None
    """They were granted before this time, the end of a month. None: none is pruned."""
    by_month: Mapping[str, Mapping[datetime, int]] = {}
    """Of budgets and services, by when the month began, UTC."""
    runs: Mapping[str, PrunedRun] = {}

    def since(self, account: str, start: datetime) -> int:
        """What was spent then or later. A window that begins within a pruned month has all of that month, and of a run
        all that is pruned of it."""
        if self.before is None or start >= self.before:
            return 0
        if account in self.runs:
            return self.runs[account].cost_nanos
        months = self.by_month.get(account, {})
        return sum(nanos for month, nanos in months.items() if _is_since(month, start))


def _is_since(month: datetime, start: datetime) -> bool:
    """Whether a part of the month is after the start."""
    return (month.year, month.month) >= (start.year, start.month)


async def pruned_before(engine: AsyncEngine, ledger: str) -> datetime | None:
    """Of rows granted before this time, the beginning of a month in UTC, some are pruned. None: all are there."""
    async with engine.connect() as connection:
        return await connection.scalar(_PRUNED_BEFORE, {"ledger": ledger})


async def pruned_spend(
    connection: AsyncConnection, ledger: str, accounts: Sequence[str], *, by_account: bool = False
) -> PrunedSpend:
    """`by_account`: of a few budgets and runs of many, each looked up by indexes. In UTC."""
    before = await connection.scalar(_PRUNED_BEFORE, {"ledger": ledger})
    if before is None:
        return PrunedSpend()
    asked = {"ledger": ledger, "accounts": list(accounts)}
    by_month: dict[str, dict[datetime, int]] = {}
    for account, month, usd in await connection.execute(_PRUNED_BY if by_account else _PRUNED, asked):
        by_month.setdefault(account, {})[month] = nanos_of(usd)
    runs = {
        account: PrunedRun(int(calls), began_at, nanos_of(usd))
        for account, calls, began_at, usd in await connection.execute(_PRUNED_RUNS, asked)
    }
    return PrunedSpend(before, by_month, runs)


async def posted_by_account(engine: AsyncEngine, ledger: str, accounts: Sequence[str]) -> dict[str, int]:
    """What the entries of a ledger charge to each of the accounts, in nano-dollars, exactly; zero where there are none.

    `budget:acme/content` is charged by the entries of that budget and of every budget below it, `run:nightly` likewise,
    `service:openai` by the entries of that service. Entries that are pruned are among them.
    """
    posted = dict.fromkeys(accounts, 0)
    runs = [account for account in posted if account.startswith("run:")]
    others = [account for account in posted if not account.startswith("run:")]
    async with one_snapshot(engine) as connection:
        # One pass over the ledger, however many budgets and services; there are too many runs for that.
        for query, wanted in ((_POSTED_BY_ACCOUNT, others), (_POSTED_BY_RUN, runs)):
            for account, usd in await connection.execute(query, {"ledger": ledger, "accounts": wanted}):
                posted[account] = nanos_of(usd)
        pruned = await pruned_spend(connection, ledger, list(posted))
    for account, months in pruned.by_month.items():
        posted[account] += sum(months.values())
    for account, run in pruned.runs.items():
        posted[account] += run.cost_nanos
    return posted
