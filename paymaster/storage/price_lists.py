"""The lists of prices that admins brought, kept with who, when, and what they changed."""

import zlib
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.values.limits import PRICE_LIST_BYTES_MAX

_INSERT = text(
    """
    INSERT INTO price_lists (ledger, who, source, read_by, sha256, changes, list)
    VALUES (:ledger, :who, :source, :read_by, :sha256, :changes, :list)
    """
)
_NEWEST = text(
    "SELECT id, at, who, source, read_by, sha256, list FROM price_lists WHERE ledger = :ledger ORDER BY id DESC LIMIT 1"
)
_NEWEST_ID = text("SELECT max(id) FROM price_lists WHERE ledger = :ledger")


class StoredList(NamedTuple):
    id: int
    at: datetime
    who: str
    source: str
    """Where it was fetched."""
    read_by: str
    """The version of genai-prices that it was checked with."""
    sha256: str
    data: bytes


async def store_price_list(
    engine: AsyncEngine, ledger: str, data: bytes, *, who: str, source: str, read_by: str, changes: str
) -> None:
    values = {"who": who, "source": source, "read_by": read_by, "changes": changes}
    stored = {"ledger": ledger, "sha256": sha256(data).hexdigest(), "list": zlib.compress(data)}
    async with engine.begin() as connection:
        await connection.execute(_INSERT, values | stored)


async def newest_price_list(engine: AsyncEngine, ledger: str, known: int | None = None) -> StoredList | None:
    """The list that was brought last; None where there is none, or where it is the known one."""
    async with engine.connect() as connection:
        if known is not None and await connection.scalar(_NEWEST_ID, {"ledger": ledger}) == known:
            return None
        row = (await connection.execute(_NEWEST, {"ledger": ledger})).mappings().one_or_none()
    if row is None:
        return None
    data = zlib.decompressobj().decompress(
        row["list"], PRICE_LIST_BYTES_MAX + 1
    )  # a longer one is refused by its reader
    return StoredList(row["id"], row["at"], row["who"], row["source"], row["read_by"], row["sha256"], data)
