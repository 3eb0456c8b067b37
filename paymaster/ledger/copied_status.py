"""How a ledger stands, read from the copy in the database: no page and no client queries the ledger."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.admission.copying import as_of
from paymaster.messages import AccountStatus, DeskStatus
from paymaster.settings.time_zones import offsets_of
from paymaster.storage.engine import DATABASE_ERRORS
from paymaster.storage.status_rows import (
    CopiedAccount,
    CopiedLedger,
    copied_accounts,
    copied_ledger,
    copied_page,
    copied_short,
    copied_tree,
)
from paymaster.values.time_zones import UTC_NAME, UTC_ZONE, Zone

_ACCOUNTS_AT_ONCE = 500
_AFTER_ALL = "\U0010ffff"
_LOOKS_AGAIN_AFTER_S = 0.1
_COPIED_WITHIN_S = 4.0
"""A copy is sent a second after the one before it; this is for one that is slow."""


class Standing(NamedTuple):
    """Some accounts, as they stand now."""

    accounts: list[AccountStatus]
    copied_at: datetime
    """When the ledger told last: nothing that it had told then has changed before."""


class CopiedStatus:
    def __init__(self, engine: AsyncEngine, ledger: str) -> None:
        self._engine = engine
        self._name = ledger

    async def ledger(self) -> CopiedLedger | None:
        """The ledger without its accounts. None: it has not copied anything yet."""
        return await copied_ledger(self._engine, self._name)

    async def whole(self, within: timedelta) -> DeskStatus | None:
        """The ledger with all its accounts, as it stands now. None: it has copied nothing for longer than this."""
        ledger = await self.ledger()
        if ledger is None or datetime.now(UTC) - ledger.copied_at > within:
            return None
        accounts: list[AccountStatus] = []
        while True:
            after = accounts[-1].account if accounts else ""
            rows = await copied_page(self._engine, self._name, "", _AFTER_ALL, after, _ACCOUNTS_AT_ONCE)
            accounts += _now(rows)
            if len(rows) < _ACCOUNTS_AT_ONCE:
                return ledger.status.model_copy(update={"accounts": tuple(accounts)})

    async def accounts(self, keys: Sequence[str]) -> Standing | None:
        """Those of these that there are, in alphabetical order. None: the ledger has not copied anything yet."""
        ledger = await self.ledger()
        if ledger is None:
            return None
        return Standing(_now(await copied_accounts(self._engine, self._name, keys)), ledger.copied_at)

    async def page(self, kind: str, after: str, limit: int, below: str | None = None) -> Standing | None:
        """So many accounts of this kind ("budget", "run") after this name, in alphabetical order. `below`: only the one
        of this name, and those below it."""
        ledger = await self.ledger()
        if ledger is None:
            return None
        after = f"{kind}:{after}" if after else ""
        if below is None:
            rows = await copied_page(self._engine, self._name, f"{kind}:", f"{kind};", after, limit)
        else:
            key = f"{kind}:{below}"
            own = [] if after else await copied_accounts(self._engine, self._name, [key])
            within = await copied_page(self._engine, self._name, f"{key}/", f"{key}0", after, limit)
            rows = [*own, *within][:limit]
        return Standing(_now(rows), ledger.copied_at)

    async def tree(
        self, *, below: str = "", find: str = "", offset: int = 0, limit: int
    ) -> tuple[list[AccountStatus], int]:
        """So many budgets as a tree, each before those below it, and how many there are in all. `below`: only this one
        and those below it. `find`: only those with this text in their path."""
        rows, budgets = await copied_tree(self._engine, self._name, below=below, find=find, offset=offset, limit=limit)
        return _now(rows), budgets

    async def short(self, share: float, limit: int) -> list[AccountStatus]:
        """The accounts in which calls wait, the most first, then those that have used this share of a cap."""
        now_ms = int(datetime.now(UTC).timestamp() * 1_000)
        return _now(await copied_short(self._engine, self._name, share, now_ms, limit))

    async def wait_for(self, version: int) -> None:
        """Until the copy has this version. Where that takes too long, or the database does not answer, what is read
        then is what it was before."""
        try:
            async with asyncio.timeout(_COPIED_WITHIN_S):
                while (ledger := await self.ledger()) is None or ledger.version < version:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(_LOOKS_AGAIN_AFTER_S)
        except DATABASE_ERRORS:  # also of the timeout
            pass


def _now(rows: Sequence[CopiedAccount]) -> list[AccountStatus]:
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    return [
        as_of(each.status, int(each.copied_at.timestamp() * 1_000), now_ms, _zone(each.status.time_zone))
        for each in rows
    ]


@lru_cache(maxsize=100)
def _zone(name: str) -> Zone:
    return UTC_ZONE if name == UTC_NAME else Zone(offsets_of(name))
