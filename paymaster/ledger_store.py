"""What the ledger keeps in the database besides entries (alerts, cap changes), and what it reads back at its start."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.database import storable
from paymaster.messages import Alert, CapChange, LoadedSpend, LoadSpend, Window
from paymaster.money import nanos_to_usd

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Grouped by budget and service first: there are few of them, and many entries.
_SPENT = text(
    """
    WITH spent AS (
        SELECT budget, service,
               coalesce(sum(cost_usd) FILTER (WHERE granted_at >= :minute), 0) AS minute,
               coalesce(sum(cost_usd) FILTER (WHERE granted_at >= :hour), 0) AS hour,
               coalesce(sum(cost_usd) FILTER (WHERE granted_at >= :day), 0) AS day,
               coalesce(sum(cost_usd) FILTER (WHERE granted_at >= :month), 0) AS month,
               sum(cost_usd) AS total,
               count(*) FILTER (WHERE state = 'unconfirmed') AS unconfirmed,
               coalesce(sum(cost_usd) FILTER (WHERE state = 'unconfirmed'), 0) AS unconfirmed_usd
        FROM api_usage_counted
        WHERE ledger = :ledger AND hold_id <> ALL(:known_holds)
        GROUP BY budget, service
    ), charged AS (
        SELECT 'service:' || service AS account, minute, hour, day, month, total, unconfirmed, unconfirmed_usd
        FROM spent
        UNION ALL
        SELECT 'budget:' || array_to_string(segments[1 : depth], '/'), minute, hour, day, month, total,
               unconfirmed, unconfirmed_usd
        FROM spent, string_to_array(budget, '/') AS segments, generate_series(1, cardinality(segments)) AS depth
    )
    SELECT account, sum(minute) AS minute, sum(hour) AS hour, sum(day) AS day, sum(month) AS month, sum(total) AS total,
           sum(unconfirmed) AS unconfirmed, sum(unconfirmed_usd) AS unconfirmed_usd
    FROM charged WHERE account = ANY(:accounts) GROUP BY account
    """
).bindparams(bindparam("known_holds", type_=ARRAY(TEXT)), bindparam("accounts", type_=ARRAY(TEXT)))
_CAP_CHANGES = text("SELECT * FROM cap_changes WHERE ledger = :ledger ORDER BY at, id")
_INSERT_ALERT = text(
    """
    INSERT INTO alerts (ledger, epoch, sequence, at, what, account, "window", text)
    VALUES (:ledger, :epoch, :sequence, :at, :what, :account, :window, :text) ON CONFLICT DO NOTHING
    """
)
_INSERT_CAP_CHANGE = text(
    """
    INSERT INTO cap_changes (ledger, epoch, sequence, at, account, "window", from_usd, to_usd, by_usd, file_usd,
                             until_window_end, who, reason)
    VALUES (:ledger, :epoch, :sequence, :at, :account, :window, :from_usd, :to_usd, :by_usd, :file_usd,
            :until_window_end, :who, :reason) ON CONFLICT DO NOTHING
    """
)


async def load_spend(engine: AsyncEngine, wanted: LoadSpend) -> LoadedSpend:
    """What the accounts have spent in each window, exactly, without the holds that the desk counts itself."""
    windows: tuple[Window, ...] = ("minute", "hour", "day", "month", "total")
    starts = {window: _time(wanted.window_starts_ms[window]) for window in windows if window != "total"}
    values = {"ledger": wanted.ledger, "accounts": list(wanted.accounts), "known_holds": list(wanted.known_holds)}
    async with engine.connect() as connection:
        spent = (await connection.execute(_SPENT, values | starts)).mappings().all()
        changes = await _cap_changes(connection, wanted.ledger) if wanted.with_cap_changes else ()
    return LoadedSpend(
        number=wanted.number,
        posted_nanos={
            row["account"]: {window: _nanos(row[window]) for window in windows if row[window]} for row in spent
        },
        unconfirmed={
            row["account"]: (int(row["unconfirmed"]), _nanos(row["unconfirmed_usd"]))
            for row in spent
            if row["unconfirmed"]
        },
        cap_changes=changes,
    )


async def _cap_changes(connection: AsyncConnection, ledger: str) -> tuple[CapChange, ...]:
    rows = (await connection.execute(_CAP_CHANGES, {"ledger": ledger})).mappings().all()
    return tuple(
        CapChange(
            sequence=row["sequence"],
            at_ms=(row["at"] - _EPOCH) // timedelta(milliseconds=1),
            account=row["account"],
            window=row["window"],
            from_nanos=_nanos_or_none(row["from_usd"]),
            to_nanos=_nanos(row["to_usd"]),
            by_nanos=_nanos_or_none(row["by_usd"]),
            file_nanos=_nanos_or_none(row["file_usd"]),
            until_window_end=row["until_window_end"],
            who=row["who"],
            reason=row["reason"],
        )
        for row in rows
    )


async def insert_alerts(engine: AsyncEngine, ledger: str, epoch: str, alerts: Sequence[Alert]) -> None:
    """One row for each alert; one that is there already stays as it is."""
    rows = [
        _common(ledger, epoch, alert)
        | {"what": alert.what, "account": alert.account, "window": alert.window, "text": storable(alert.text)}
        for alert in alerts
    ]
    async with engine.begin() as connection:
        await connection.execute(_INSERT_ALERT, rows)


async def insert_cap_changes(engine: AsyncEngine, ledger: str, epoch: str, changes: Sequence[CapChange]) -> None:
    """One row for each change; one that is there already stays as it is."""
    rows = [
        _common(ledger, epoch, change)
        | {
            "account": change.account,
            "window": change.window,
            "from_usd": _usd_or_none(change.from_nanos),
            "to_usd": nanos_to_usd(change.to_nanos),
            "by_usd": _usd_or_none(change.by_nanos),
            "file_usd": _usd_or_none(change.file_nanos),
            "until_window_end": change.until_window_end,
            "who": storable(change.who),
            "reason": storable(change.reason),
        }
        for change in changes
    ]
    async with engine.begin() as connection:
        await connection.execute(_INSERT_CAP_CHANGE, rows)


def _common(ledger: str, epoch: str, notice: Alert | CapChange) -> dict[str, object]:
    return {"ledger": ledger, "epoch": epoch, "sequence": notice.sequence, "at": _time(notice.at_ms)}


def _time(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def _nanos(usd: Decimal) -> int:
    return int(usd.scaleb(9))


def _nanos_or_none(usd: Decimal | None) -> int | None:
    return None if usd is None else _nanos(usd)


def _usd_or_none(nanos: int | None) -> Decimal | None:
    return None if nanos is None else nanos_to_usd(nanos)
