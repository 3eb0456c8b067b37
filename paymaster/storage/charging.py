"""For which accounts a stored row counts."""

from collections.abc import Sequence

from sqlalchemy import (
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.storage.usage_rows import nanos_of

_POSTED_BY_ACCOUNT = text(
    """
    WITH spent AS (
        SELECT budget, service, sum(cost_usd) AS usd
        FROM api_usage_counted WHERE ledger = :ledger GROUP BY budget, service
    ), charged AS (
        SELECT 'service:' || service AS account, usd FROM spent
        UNION ALL
        SELECT 'budget:' || array_to_string(segments[1 : depth], '/'), usd
        FROM spent, string_to_array(budget, '/') AS segments, generate_series(1, cardinality(segments)) AS depth
    )
    SELECT account, sum(usd) FROM charged WHERE account = ANY(:accounts) GROUP BY account
    """
)


async def posted_by_account(engine: AsyncEngine, ledger: str, accounts: Sequence[str]) -> dict[str, int]:
    """What the entries of a ledger charge to each of the accounts, in nano-dollars, exactly; zero where there are none.

    `budget:acme/content` is charged by the entries of that budget and of every budget below it, `service:openai` by the
    entries of that service.
    """
    posted = dict.fromkeys(accounts, 0)
    # One pass over the ledger, however many accounts: a budget is charged to its ancestors as the desk does it, segment
    # by segment, so that no character in a name can act as a wildcard.
    async with engine.connect() as connection:
        rows = await connection.execute(_POSTED_BY_ACCOUNT, {"ledger": ledger, "accounts": list(posted)})
        for account, usd in rows:
            posted[account] = nanos_of(usd)
    return posted
