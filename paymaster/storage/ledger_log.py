"""Who changed caps and configurations of a ledger, and who erased something, read from the database."""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.admission.configuration import Difference, account_differences
from paymaster.messages import AccountConfig, AlertKind, DeskConfig
from paymaster.storage.erasure import in_words
from paymaster.values.money import format_usd, usd_to_nanos

_CAP_CHANGES = text(
    """
    SELECT * FROM cap_changes WHERE ledger = :ledger AND (CAST(:account AS text) IS NULL OR account = :account)
    ORDER BY id DESC LIMIT :limit
    """
)
_CONFIGURATIONS = text(
    """
    SELECT id, at, who, changes FROM configurations WHERE ledger = :ledger ORDER BY id DESC LIMIT :limit
    """
)
_CONFIGURATION = text("SELECT at, who, config FROM configurations WHERE ledger = :ledger ORDER BY id DESC LIMIT 1")
_PRICE_LISTS = text(
    "SELECT at, who, source, changes FROM price_lists WHERE ledger = :ledger ORDER BY id DESC LIMIT :limit"
)
_PRICES = text(
    """
    SELECT at, text FROM alerts WHERE ledger = :ledger AND what IN ('price_changed', 'price_fell')
    ORDER BY at DESC LIMIT :limit
    """
)
_ERASURES = text("SELECT at, who, reason, erased FROM erasures WHERE ledger = :ledger ORDER BY id DESC LIMIT :limit")
_ALERTS = text(
    """
    SELECT at, what, account, text FROM alerts WHERE ledger = :ledger ORDER BY at DESC, id DESC LIMIT :limit
    """
)
_ALERTED = text(
    """
    SELECT DISTINCT account FROM alerts
    WHERE ledger = :ledger AND what = :what AND at > :since AND account IS NOT NULL
    """
)
# One more than is shown: the oldest is what the next one is compared with.
_ACCOUNT_IN_CONFIGURATIONS = text(
    """
    SELECT id, at, who, config -> :kind -> :name AS account FROM configurations
    WHERE ledger = :ledger ORDER BY id DESC LIMIT :limit + 1
    """
)


class LoggedChange(NamedTuple):
    """One line of the log."""

    at: datetime
    who: str
    what: str
    reason: str


class StoredConfiguration(NamedTuple):
    at: datetime
    who: str
    config: DeskConfig


async def stored_configuration(engine: AsyncEngine, ledger: str) -> StoredConfiguration | None:
    """The one that came into force last, as far as it is stored."""
    async with engine.connect() as connection:
        row = (await connection.execute(_CONFIGURATION, {"ledger": ledger})).mappings().one_or_none()
    return None if row is None else StoredConfiguration(row["at"], row["who"], DeskConfig.model_validate(row["config"]))


async def logged_changes(engine: AsyncEngine, ledger: str, account: str | None, limit: int) -> list[LoggedChange]:
    """The latest changes of caps and of the configuration, oldest first; of one account, or of all (None), with
    erasures."""
    values = {"ledger": ledger, "account": account, "limit": limit}
    async with engine.connect() as connection:
        caps = (await connection.execute(_CAP_CHANGES, values)).mappings().all()
        found = [LoggedChange(row["at"], row["who"], _cap(row), row["reason"]) for row in caps if not row["by_file"]]
        if account is None:
            rows = (await connection.execute(_CONFIGURATIONS, values)).mappings().all()
            found += [LoggedChange(row["at"], row["who"], row["changes"] or _FIRST, "configuration") for row in rows]
            found += await _prices(connection, values)
            erasures = (await connection.execute(_ERASURES, values)).mappings().all()
            found += [LoggedChange(row["at"], row["who"], _erased(row["erased"]), row["reason"]) for row in erasures]
        else:
            kind, _, name = account.partition(":")
            values = {"ledger": ledger, "kind": f"{kind}s", "name": name, "limit": limit}
            rows = (await connection.execute(_ACCOUNT_IN_CONFIGURATIONS, values)).mappings().all()
            found += _of_account(account, [dict(row) for row in reversed(rows)])
    return sorted(found)[-limit:]


class LoggedAlert(NamedTuple):
    """One of the things that the ledger told people."""

    at: datetime
    what: str
    account: str | None
    """None: it is about the ledger as a whole."""
    text: str


async def logged_alerts(engine: AsyncEngine, ledger: str, limit: int) -> list[LoggedAlert]:
    """The latest so many, the latest first."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_ALERTS, {"ledger": ledger, "limit": limit})).mappings().all()
    return [LoggedAlert(row["at"], row["what"], row["account"], row["text"]) for row in rows]


async def accounts_alerted(engine: AsyncEngine, ledger: str, what: AlertKind, since_ms: int) -> set[str]:
    """The accounts of which such an alert was given after this time, as far as it is stored."""
    values = {"ledger": ledger, "what": what, "since": datetime.fromtimestamp(since_ms / 1_000, UTC)}
    async with engine.connect() as connection:
        return set((await connection.execute(_ALERTED, values)).scalars())


async def _prices(connection: AsyncConnection, values: Mapping[str, object]) -> list[LoggedChange]:
    """The lists of prices that were brought, and the prices that the ledger saw change."""
    lists = (await connection.execute(_PRICE_LISTS, values)).mappings().all()
    prices = (await connection.execute(_PRICES, values)).mappings().all()
    brought = [LoggedChange(row["at"], row["who"], row["changes"] or _NO_PRICE, row["source"]) for row in lists]
    return brought + [LoggedChange(row["at"], "a worker", row["text"], "price") for row in prices]


def _erased(erased: Mapping[str, int] | None) -> str:
    """What `paymaster erase` took, by kind. None: it was broken off."""
    if erased is None:
        return "began to erase prompts and answers of calls, and was broken off"
    return f"erased prompts and answers of calls: {in_words(erased) or 'nothing was there'}"


_NO_PRICE = "a list of prices, which changes none of these services"
_FIRST = "the configuration that is stored first"


def _cap(row: RowMapping) -> str:
    lapses = ", until the window ends" if row["until_window_end"] else ""
    account = row["account"].removeprefix("budget:")
    if row["to_usd"] is None:
        return f"{account} {row['window']} {_usd(row['from_usd'])} → {_usd(row['file_usd'])}, as configured"
    return f"{account} {row['window']} {_usd(row['from_usd'])} → {_usd(row['to_usd'])}{lapses}"


def _usd(amount: Any) -> str:
    return "no cap" if amount is None else format_usd(usd_to_nanos(str(amount)))


def _of_account(account: str, rows: list[dict[str, Any]]) -> Iterator[LoggedChange]:
    for before, after in itertools.pairwise(rows):
        differences: tuple[Difference, ...] = account_differences(
            account, _account(before["account"]), _account(after["account"])
        )
        for difference in differences:
            yield LoggedChange(after["at"], after["who"], difference.text, "configuration")


def _account(stored: dict[str, Any] | None) -> AccountConfig | None:
    return None if stored is None else AccountConfig.model_validate(stored)
