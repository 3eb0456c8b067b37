"""The copy of how a ledger stands: written by the activity `store_status`, read by everybody who shows it."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import RowMapping, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.messages import AccountStatus, DeskStatus, StatusCopy
from paymaster.storage.parked_rows import store_parked

# A row of the future is of a clock that was ahead and was put back.
_STORE_LEDGER = text(
    """
    INSERT INTO ledger_status (ledger, version, copied_at, status) VALUES (:ledger, :version, :copied_at, :status)
    ON CONFLICT (ledger) DO UPDATE SET version = :version, copied_at = :copied_at, status = :status
    WHERE ledger_status.copied_at <= :copied_at
       OR ledger_status.copied_at > clock_timestamp() + interval '1 minute'
    RETURNING version
    """
)
_FORGET_ALL = text("DELETE FROM account_status WHERE ledger = :ledger")
_FORGET = text("DELETE FROM account_status WHERE ledger = :ledger AND account = ANY(:gone)").bindparams(
    bindparam("gone", type_=ARRAY(TEXT))
)
_STORE_ACCOUNTS = text(
    """
    INSERT INTO account_status (ledger, account, copied_at, status)
    SELECT :ledger, account, :copied_at, status FROM unnest(:accounts, :statuses) AS copied (account, status)
    ON CONFLICT (ledger, account) DO UPDATE SET copied_at = excluded.copied_at, status = excluded.status
    """
).bindparams(bindparam("accounts", type_=ARRAY(TEXT)), bindparam("statuses", type_=ARRAY(TEXT)))
_LEDGER = text("SELECT version, copied_at, status FROM ledger_status WHERE ledger = :ledger")
_ACCOUNTS = text(
    "SELECT copied_at, status FROM account_status WHERE ledger = :ledger AND account = ANY(:accounts) ORDER BY account"
).bindparams(bindparam("accounts", type_=ARRAY(TEXT)))
_NAMES = text(
    "SELECT account FROM account_status WHERE ledger = :ledger AND account >= 'budget:' AND account < 'budget;'"
)
_PAGE = text(
    """
    SELECT copied_at, status FROM account_status
    WHERE ledger = :ledger AND account > :after AND account >= :first AND account < :end
    ORDER BY account LIMIT :limit
    """
)

# As a tree: what is below a budget comes right after it. "/" comes after "-" and "." in the order of bytes.
_TREE = text(
    """
    SELECT copied_at, status, count(*) OVER () AS budgets FROM account_status
    WHERE ledger = :ledger AND account >= 'budget:' AND account < 'budget;'
      AND (:below = '' OR account = 'budget:' || :below
           OR (account > 'budget:' || :below || '/' AND account < 'budget:' || :below || '0'))
      AND strpos(substr(account, 8), :find) > 0
    ORDER BY replace(account, '/', chr(1)) LIMIT :limit OFFSET :offset
    """
)
# What waits comes first, then what is used up most. A window that is over by now has nothing in it.
_SHORT = text(
    """
    SELECT copied_at, status FROM account_status, LATERAL (
        SELECT (status::jsonb ->> 'parked')::bigint AS parked, coalesce((status::jsonb ->> 'enforced')::boolean, true)
    ) AS told (parked, enforced), LATERAL (
        SELECT max(CASE WHEN cap = 0 THEN 1 ELSE used / cap END) AS share FROM (
            SELECT (each ->> 'cap_nanos')::numeric,
                   (each ->> 'posted_nanos')::numeric + (each ->> 'pending_nanos')::numeric,
                   (each ->> 'ends_at_ms')::bigint
            FROM jsonb_array_elements(status::jsonb -> 'windows') AS windows (each)
        ) AS capped (cap, used, ends_at_ms)
        WHERE cap IS NOT NULL AND (ends_at_ms IS NULL OR ends_at_ms > :now_ms)
    ) AS fullest
    WHERE ledger = :ledger AND (parked > 0 OR (enforced AND share >= :share))
    ORDER BY parked DESC, share DESC NULLS LAST, account LIMIT :limit
    """
)


class CopiedLedger(NamedTuple):
    version: int
    copied_at: datetime
    """When the ledger sent it."""
    status: DeskStatus
    """Without accounts."""


class CopiedAccount(NamedTuple):
    copied_at: datetime
    """Nothing happened in the account from then until the ledger's latest copy."""
    status: AccountStatus


async def store_status(engine: AsyncEngine, copy: StatusCopy, copied_at: datetime) -> None:
    """Stores all of it; nothing, if a later copy is there already."""
    named = {"ledger": copy.status.ledger, "copied_at": copied_at}
    async with engine.begin() as connection:
        whole = named | {"version": copy.version, "status": copy.status.model_dump_json()}
        if (await connection.execute(_STORE_LEDGER, whole)).first() is None:
            return
        if copy.anew:
            await connection.execute(_FORGET_ALL, {"ledger": copy.status.ledger})
        elif copy.gone:
            await connection.execute(_FORGET, {"ledger": copy.status.ledger, "gone": list(copy.gone)})
        if copy.accounts:
            accounts = [each.account for each in copy.accounts]
            statuses = [each.model_dump_json(exclude_defaults=True) for each in copy.accounts]
            await connection.execute(_STORE_ACCOUNTS, named | {"accounts": accounts, "statuses": statuses})
        await store_parked(connection, copy)


async def copied_ledger(engine: AsyncEngine, ledger: str) -> CopiedLedger | None:
    """How the ledger stood when it was copied last. None: it never was."""
    async with engine.connect() as connection:
        row = (await connection.execute(_LEDGER, {"ledger": ledger})).mappings().first()
    if row is None:
        return None
    return CopiedLedger(row["version"], row["copied_at"], DeskStatus.model_validate_json(row["status"]))


async def copied_accounts(engine: AsyncEngine, ledger: str, accounts: Sequence[str]) -> list[CopiedAccount]:
    """Those of these that were copied, in alphabetical order."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_ACCOUNTS, {"ledger": ledger, "accounts": list(accounts)})).mappings().all()
    return _copied(rows)


async def copied_names(engine: AsyncEngine, ledger: str) -> list[str]:
    """Of all budgets' accounts."""
    async with engine.connect() as connection:
        return list((await connection.execute(_NAMES, {"ledger": ledger})).scalars())


async def copied_page(
    engine: AsyncEngine, ledger: str, first: str, end: str, after: str, limit: int
) -> list[CopiedAccount]:
    """So many accounts from `first` up to `end`, which is none of them, and after `after`, in the order of bytes."""
    values = {"ledger": ledger, "after": after, "first": first, "end": end, "limit": limit}
    async with engine.connect() as connection:
        rows = (await connection.execute(_PAGE, values)).mappings().all()
    return _copied(rows)


async def copied_tree(
    engine: AsyncEngine, ledger: str, *, below: str = "", find: str = "", offset: int, limit: int
) -> tuple[list[CopiedAccount], int]:
    """So many budgets as a tree, each before those below it, and how many there are in all.

    `below`: only this one and those below it; empty: all. `find`: only those with this text in their path.
    """
    values = {"ledger": ledger, "below": below, "find": find, "offset": offset, "limit": limit}
    async with engine.connect() as connection:
        rows = (await connection.execute(_TREE, values)).mappings().all()
    return _copied(rows), rows[0]["budgets"] if rows else 0


async def copied_short(engine: AsyncEngine, ledger: str, share: float, now_ms: int, limit: int) -> list[CopiedAccount]:
    """The accounts in which calls wait, the most first, then those that have used this share of an enforced cap."""
    values = {"ledger": ledger, "share": share, "now_ms": now_ms, "limit": limit}
    async with engine.connect() as connection:
        return _copied((await connection.execute(_SHORT, values)).mappings().all())


def _copied(rows: Sequence[RowMapping]) -> list[CopiedAccount]:
    return [CopiedAccount(row["copied_at"], AccountStatus.model_validate_json(row["status"])) for row in rows]
