"""What the ledger keeps in the database besides entries (alerts, cap changes), and what it reads back at its start."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.messages import Alert, CapChange, ConfigChange, DeskConfig, LoadedSpend, LoadSpend
from paymaster.messages.ledger_steps import PURCHASES
from paymaster.storage.account_sums import PrunedSpend, pruned_spend
from paymaster.storage.charging import charged, rows_of_accounts
from paymaster.storage.partitions import one_snapshot
from paymaster.storage.usage_rows import storable
from paymaster.values.limits import SUPERSEDED_MAX
from paymaster.values.money import nanos_to_usd
from paymaster.values.windows import STEPS_MS, Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER_MS = 253_402_300_799_000
"""The end of the year 9999."""
_AT = "LATERAL (SELECT CASE WHEN granted_at > :latest THEN :ahead ELSE granted_at END) AS t(at)"
_ITS_OWN = "ledger = :ledger AND hold_id <> ALL(:known_holds)"
_LISTS = (bindparam("known_holds", type_=ARRAY(TEXT)), bindparam("accounts", type_=ARRAY(TEXT)))


@lru_cache
def _spent(windows: tuple[Window, ...]) -> TextClause:
    """Grouped by budget and service first: there are few of them, and many entries. Windows are words of the code."""
    columns = [_column(window) for window in windows]
    sums = ", ".join(f"coalesce(sum(cost_usd) FILTER (WHERE at >= :{name}), 0) AS {name}" for name in columns)
    query = f"""
    WITH spent AS (
        SELECT budget, charged_budgets, service, {sums},
               count(*) FILTER (WHERE state = 'unconfirmed') AS unconfirmed,
               count(*) FILTER (WHERE state = 'unconfirmed' AND model = 'purchase') AS bought,
               coalesce(sum(cost_usd) FILTER (WHERE state = 'unconfirmed'), 0) AS unconfirmed_usd
        FROM api_usage_counted, {_AT} WHERE {_ITS_OWN}
        GROUP BY budget, charged_budgets, service
    ), charged AS ({charged("spent", [*columns, "unconfirmed", "unconfirmed_usd"])})
    SELECT account, {", ".join(f"sum({name}) AS {name}" for name in columns)},
           sum(unconfirmed) AS unconfirmed, sum(unconfirmed_usd) AS unconfirmed_usd
    FROM charged WHERE account = ANY(:accounts) GROUP BY account
    UNION ALL
    SELECT '{PURCHASES}', {", ".join("0" for _ in columns)}, sum(bought), 0
    FROM spent WHERE 'service:' || service <> ALL(:accounts) HAVING sum(bought) > 0
    """  # noqa: S608
    return text(query).bindparams(*_LISTS)


def _column(window: Window) -> str:
    """Also of a window whose name begins with a digit."""
    return f"in_{window}"


@lru_cache
def _spent_by(windows: tuple[Window, ...], calls_in: tuple[Window, ...]) -> TextClause:
    """The sums of `_spent` for a few budgets and runs of many, each looked up by indexes; `charged` has the rule.

    A call of which a later window has a further attempt is counted there, too: so there are never too few.
    """
    columns = [_column(window) for window in windows]
    sums = ", ".join(f"coalesce(sum(cost_usd) FILTER (WHERE at >= :{name}), 0) AS {name}" for name in columns)
    calls = "".join(
        f", count(DISTINCT run_id) FILTER (WHERE at >= :{_column(window)}) AS calls_{_column(window)}"
        for window in calls_in
    )
    entries = rows_of_accounts("cost_usd, granted_at, state, run_id", _ITS_OWN)
    query = f"""
    SELECT account, {sums}, count(*) FILTER (WHERE state = 'unconfirmed') AS unconfirmed,
           coalesce(sum(cost_usd) FILTER (WHERE state = 'unconfirmed'), 0) AS unconfirmed_usd,
           count(DISTINCT run_id) AS calls, min(granted_at) AS began_at{calls}
    FROM {entries}, {_AT}
    GROUP BY account
    """  # noqa: S608
    return text(query).bindparams(*_LISTS)


_STEP = "floor(extract(epoch FROM at) * 1000 / :step_ms)::bigint AS step"
_STEPS = text(
    f"""
    WITH spent AS (
        SELECT budget, charged_budgets, service, {_STEP}, sum(cost_usd) AS usd
        FROM api_usage_counted, {_AT} WHERE ledger = :ledger AND hold_id <> ALL(:known_holds) AND at >= :start
        GROUP BY budget, charged_budgets, service, step
    ), charged AS ({charged("spent", ["step", "usd"])})
    SELECT account, step, sum(usd) FROM charged WHERE account = ANY(:accounts) GROUP BY account, step
    """  # noqa: S608
).bindparams(*_LISTS)
_STEPS_BY = text(
    f"""
    SELECT account, {_STEP}, sum(cost_usd)
    FROM {rows_of_accounts("cost_usd, granted_at", _ITS_OWN)}, {_AT} WHERE at >= :start GROUP BY account, step
    """  # noqa: S608
).bindparams(*_LISTS)


# In the order of storing, which is that of the desk's outbox; the desk's time may be put back. What came before the
# file's value was in force again is over, and so is what came before a cap was set beside the same value of the file.
_CAP_CHANGES = text(
    """
    SELECT * FROM (
        SELECT *,
               max(id) FILTER (WHERE by_file OR to_usd IS NULL) OVER (PARTITION BY account, "window") AS reset_id,
               max(id) FILTER (WHERE by_usd IS NULL AND NOT by_file AND to_usd IS NOT NULL)
                   OVER (PARTITION BY account, "window", file_usd) AS set_id
        FROM cap_changes WHERE ledger = :ledger AND epoch <> :epoch
    ) AS changes WHERE id >= coalesce(greatest(reset_id, set_id), 0) ORDER BY id
    """
)
_LAST_CONFIG = text(
    "SELECT config FROM configurations WHERE ledger = :ledger AND epoch <> :epoch ORDER BY id DESC LIMIT 1"
)
_EARLIER_DIGESTS = text(
    """
    SELECT digest FROM configurations WHERE ledger = :ledger AND epoch <> :epoch
    GROUP BY digest ORDER BY max(id) DESC LIMIT :most
    """
)
# Each next name by an index: to look at every row would take minutes.
_OTHER_LEDGERS = text(
    """
    WITH RECURSIVE names AS (
        SELECT min(ledger) AS ledger FROM usage_entries
        UNION ALL
        SELECT (SELECT min(ledger) FROM usage_entries WHERE ledger > names.ledger)
        FROM names WHERE names.ledger IS NOT NULL
    )
    SELECT ledger FROM names WHERE ledger IS NOT NULL UNION SELECT ledger FROM usage_pruned ORDER BY 1 LIMIT 100
    """
)
_IS_STORED = text(
    """
    SELECT EXISTS (SELECT FROM usage_entries WHERE ledger = :ledger)
        OR EXISTS (SELECT FROM usage_pruned WHERE ledger = :ledger)
        OR EXISTS (SELECT FROM configurations WHERE ledger = :ledger)
        OR EXISTS (SELECT FROM cap_changes WHERE ledger = :ledger)
    """
)
_LATEST = text("SELECT max(granted_at) FROM usage_entries WHERE ledger = :ledger")
_INSERT_ALERT = text(
    """
    INSERT INTO alerts (ledger, epoch, sequence, at, what, account, "window", text)
    VALUES (:ledger, :epoch, :sequence, :at, :what, :account, :window, :text) ON CONFLICT DO NOTHING
    """
)
_INSERT_CAP_CHANGE = text(
    """
    INSERT INTO cap_changes (ledger, epoch, sequence, at, account, "window", from_usd, to_usd, by_usd, file_usd,
                             until_window_end, who, reason, by_file)
    VALUES (:ledger, :epoch, :sequence, :at, :account, :window, :from_usd, :to_usd, :by_usd, :file_usd,
            :until_window_end, :who, :reason, :by_file) ON CONFLICT DO NOTHING
    """
)
_INSERT_CONFIGURATION = text(
    """
    INSERT INTO configurations (ledger, epoch, sequence, at, digest, who, changes, config)
    VALUES (:ledger, :epoch, :sequence, :at, :digest, :who, :changes, CAST(:config AS json)) ON CONFLICT DO NOTHING
    """
)


async def load_spend(engine: AsyncEngine, wanted: LoadSpend) -> LoadedSpend:
    """What the accounts have spent in each window, exactly, without the holds that the desk counts itself."""
    windows = tuple(wanted.window_starts_ms)
    starts = {_column(window): _time(start_ms) for window, start_ms in wanted.window_starts_ms.items()}
    # Granted while the server's clock was ahead: it counts as granted when the clock came back.
    latest_ms = _NEVER_MS if wanted.latest_ms is None else wanted.latest_ms
    ahead_ms = latest_ms if wanted.returned_at_ms is None else wanted.returned_at_ms
    clock = {"latest": _time(latest_ms), "ahead": _time(ahead_ms)}
    asked = {"ledger": wanted.ledger, "accounts": list(wanted.accounts), "known_holds": list(wanted.known_holds)}
    values: dict[str, object] = {**clock, **asked}
    async with one_snapshot(engine) as connection:
        query = _spent_by(windows, wanted.calls_in) if wanted.by_account else _spent(windows)
        spent = (await connection.execute(query, values | starts)).mappings().all()
        found = LoadedSpend(
            number=wanted.number,
            posted_nanos={
                row["account"]: {window: _nanos(row[name]) for window in windows if row[name := _column(window)]}
                for row in spent
                if row["account"] != PURCHASES
            },
            unconfirmed={
                row["account"]: (int(row["unconfirmed"]), _nanos(row["unconfirmed_usd"]))
                for row in spent
                if row["unconfirmed"]
            },
            runs={
                row["account"]: (int(row["calls"]), _milliseconds(row["began_at"]))
                for row in spent
                if row["account"].startswith("run:")
            },
            run_calls={
                row["account"]: {window: int(row[f"calls_{_column(window)}"]) for window in wanted.calls_in}
                for row in spent
                if wanted.calls_in and row["account"].startswith("run:")
            },
        )
        if wanted.rolling_starts_ms:
            found = found.model_copy(update={"steps_nanos": await _steps(connection, wanted, values)})
        pruned = await pruned_spend(connection, wanted.ledger, wanted.accounts, by_account=wanted.by_account)
        if pruned.before is not None:
            found = found.model_copy(update=_with_pruned(found, pruned, wanted))
        if wanted.with_cap_changes:
            found = found.model_copy(update=await _configured(connection, wanted))
    return found


def _with_pruned(found: LoadedSpend, pruned: PrunedSpend, wanted: LoadSpend) -> dict[str, object]:
    """What accounts have spent and runs have made, with what is pruned, which is older than any rolling window."""
    posted = {account: dict(windows) for account, windows in found.posted_nanos.items()}
    for account in (*pruned.by_month, *pruned.runs):
        for window, start_ms in wanted.window_starts_ms.items():
            if nanos := pruned.since(account, _time(start_ms)):
                of_account = posted.setdefault(account, {})
                of_account[window] = of_account.get(window, 0) + nanos
    runs = dict(found.runs)
    for account, run in pruned.runs.items():
        calls, began_ms = runs.get(account, (0, _NEVER_MS))
        runs[account] = (calls + run.calls, min(began_ms, _milliseconds(run.began_at)))
    return {"posted_nanos": posted, "runs": runs}


async def _steps(
    connection: AsyncConnection, wanted: LoadSpend, values: dict[str, object]
) -> dict[str, dict[Window, dict[int, int]]]:
    found: dict[str, dict[Window, dict[int, int]]] = {}
    query = _STEPS_BY if wanted.by_account else _STEPS
    for window, start_ms in wanted.rolling_starts_ms.items():
        length = STEPS_MS[window]
        of_window = values | {"start": _time(start_ms), "step_ms": length}
        for account, step, usd in await connection.execute(query, of_window):
            found.setdefault(account, {}).setdefault(window, {})[int(step) * length] = _nanos(usd)
    return found


async def latest_granted_ms(engine: AsyncEngine, ledger: str) -> int:
    """When the newest stored entry of the ledger was granted; 0 without any."""
    async with engine.connect() as connection:
        latest = await connection.scalar(_LATEST, {"ledger": ledger})
    return 0 if latest is None else _milliseconds(latest)


async def _configured(connection: AsyncConnection, wanted: LoadSpend) -> dict[str, object]:
    """What earlier epochs were configured with, and what their admins changed."""
    values = {"ledger": wanted.ledger, "epoch": wanted.epoch}
    changes = await _cap_changes(connection, wanted)
    stored = (await connection.execute(_LAST_CONFIG, values)).scalar_one_or_none() if wanted.epoch else None
    if stored is None:
        return {"cap_changes": changes, "other_ledgers": await _other_ledgers(connection, wanted.ledger)}
    digests = (await connection.execute(_EARLIER_DIGESTS, values | {"most": SUPERSEDED_MAX + 1})).scalars().all()
    config = DeskConfig.model_validate(stored)
    earlier = tuple(digest for digest in reversed(digests) if digest != config.digest)
    return {"cap_changes": changes, "config": config, "superseded": earlier}


async def other_ledgers(engine: AsyncEngine, ledger: str) -> tuple[str, ...]:
    """Of which ledgers something is stored, where nothing is of this one; else none."""
    async with engine.connect() as connection:
        return await _other_ledgers(connection, ledger)


async def _other_ledgers(connection: AsyncConnection, ledger: str) -> tuple[str, ...]:
    if await connection.scalar(_IS_STORED, {"ledger": ledger}):
        return ()
    return tuple((await connection.execute(_OTHER_LEDGERS)).scalars().all())


async def _cap_changes(connection: AsyncConnection, wanted: LoadSpend) -> tuple[CapChange, ...]:
    values = {"ledger": wanted.ledger, "epoch": wanted.epoch}
    rows = (await connection.execute(_CAP_CHANGES, values)).mappings().all()
    return tuple(  # a ledger of older rules asks for fewer windows, and its worker cannot read the others
        CapChange(
            sequence=row["sequence"],
            at_ms=_milliseconds(row["at"]),
            account=row["account"],
            window=row["window"],
            from_nanos=_nanos_or_none(row["from_usd"]),
            to_nanos=_nanos_or_none(row["to_usd"]),
            by_nanos=_nanos_or_none(row["by_usd"]),
            file_nanos=_nanos_or_none(row["file_usd"]),
            until_window_end=row["until_window_end"],
            who="",  # the ledger needs neither, and they are long
            reason="",
            by_file=row["by_file"],
        )
        for row in rows
        if row["window"] in wanted.window_starts_ms or (wanted.epoch and row["window"] in STEPS_MS)
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
            "to_usd": _usd_or_none(change.to_nanos),
            "by_usd": _usd_or_none(change.by_nanos),
            "file_usd": _usd_or_none(change.file_nanos),
            "until_window_end": change.until_window_end,
            "who": storable(change.who),
            "reason": storable(change.reason),
            "by_file": change.by_file,
        }
        for change in changes
    ]
    async with engine.begin() as connection:
        await connection.execute(_INSERT_CAP_CHANGE, rows)


async def insert_configurations(
    engine: AsyncEngine, ledger: str, epoch: str, changes: Sequence[ConfigChange], config: DeskConfig
) -> None:
    """One row for each change, with the configuration that is in force now; one that is there already stays."""
    text_of_config = config.model_dump_json()
    rows = [
        _common(ledger, epoch, change)
        | {
            "digest": storable(change.digest),
            "who": storable(change.who),
            "changes": storable(change.text),
            "config": text_of_config,
        }
        for change in changes
    ]
    async with engine.begin() as connection:
        await connection.execute(_INSERT_CONFIGURATION, rows)


def _common(ledger: str, epoch: str, notice: Alert | CapChange | ConfigChange) -> dict[str, object]:
    return {"ledger": ledger, "epoch": epoch, "sequence": notice.sequence, "at": _time(notice.at_ms)}


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _time(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def _nanos(usd: Decimal) -> int:
    return int(usd.scaleb(9))


def _nanos_or_none(usd: Decimal | None) -> int | None:
    return None if usd is None else _nanos(usd)


def _usd_or_none(nanos: int | None) -> Decimal | None:
    return None if nanos is None else nanos_to_usd(nanos)
