"""The usage database: every attempt as an immutable row of `api_usage`, and the sums that reports are made of.

The table is written by `insert_entries` alone. An attempt may have two rows, `unconfirmed` and later `final`; which of
them counts is decided in one place, the view `api_usage_counted` that the migration makes, and everything here that
sums reads the view.
"""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ARRAY,
    URL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    FetchedValue,
    Integer,
    MetaData,
    Numeric,
    RowMapping,
    Table,
    Text,
    column,
    distinct,
    func,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paymaster.messages import UsageEntry
from paymaster.money import NANOS_MAX, TokenUsage, nanos_to_usd

SCHEMA_REVISION = "0002"
"""The schema that this version reads and writes: the newest migration."""
SCHEMA_TABLE = "paymaster_schema"
"""Where Alembic keeps the revision. Not its usual name: another program in the same database may use Alembic too."""

CONNECT_TIMEOUT_S = 3.0
"""For making a connection, and for getting one from the pool."""
COMMAND_TIMEOUT_S = 3.0
"""For one statement, unless the engine was made with another one."""
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
_MIGRATION_LOCK = 7_295_624_301  # any number that nothing else in the database locks
_MIGRATION_TIMEOUT_S = 3_600.0  # a migration may rewrite a large table
_POOL_SIZE = 5
_CONNECTION_AGE_MAX_S = 180
_URL_PARAMETERS = {"host", "port", "ssl", "target_session_attrs", "prepared_statement_cache_size"}
_INT_MAX, _BIGINT_MAX = 2**31 - 1, 2**63 - 1
_TEXT_CHARACTERS_MAX = 600  # at most 2,400 bytes: what PostgreSQL takes into an index ends at 2,704
_REFUSED_BY_POSTGRESQL = re.compile("[\x00\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Dimension = Literal["service", "model", "budget", "day", "status"]
"""What `usage_report` can group by. `budget` is the one that the call named; `day` is the UTC day of the grant."""


class SchemaOutdated(RuntimeError):
    """The database's schema is missing, older or newer than this version's. The message says what to do."""


class MigrationsMissing(RuntimeError):
    """Paymaster runs from a wheel, which has no migrations."""


class UsageRow(BaseModel):
    """A line of the usage report. A dimension that the report does not group by is None.

    Token counts are None when no attempt of the group reported any: that is not zero.
    """

    model_config = ConfigDict(frozen=True)

    service: str | None = None
    model: str | None = None
    budget: str | None = None
    day: date | None = None
    status: str | None = None
    calls: int
    """Different calls; one that fell back is in the rows of both services."""
    attempts: int
    """HTTP requests. A hold that expired has money in it, but nobody knows about a request."""
    input_tokens: int | None
    cached_input_tokens: int | None
    """Part of the input."""
    output_tokens: int | None
    cost_nanos: int
    unconfirmed_nanos: int
    """Part of the cost: charged at the bound because nobody knows whether it was billed."""


class CallRow(BaseModel):
    """A call with all its attempts, for a table of calls."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    workflow_id: str
    budget: str
    service: str
    """Of the last attempt, as the model and the status."""
    model: str
    status: str
    granted_at: datetime
    """Of the first attempt."""
    attempts: int
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    cost_nanos: int


def _table(name: str) -> Table:
    """The columns that are read and written, of the table and of its view; the whole truth is in the migrations."""
    return Table(
        name,
        MetaData(),
        Column("id", BigInteger, server_default=FetchedValue()),
        Column("attempt_id", Text),
        Column("state", Text),
        Column("confirmed", Boolean, server_default=FetchedValue()),
        Column("hold_id", Text),
        Column("call_id", Text),
        Column("workflow_id", Text),
        Column("run_id", Text),
        Column("ledger", Text),
        Column("epoch", Text),
        Column("budget", Text),
        Column("service", Text),
        Column("model", Text),
        Column("model_answered", Text),
        Column("granted_at", DateTime(timezone=True)),
        Column("started_at", DateTime(timezone=True)),
        Column("duration_ms", Integer),
        Column("status", Text),
        Column("error_class", Text),
        Column("http_status", Integer),
        Column("provider_request_id", Text),
        Column("input_tokens", BigInteger),
        Column("cached_input_tokens", BigInteger),
        Column("cache_write_tokens", BigInteger),
        Column("output_tokens", BigInteger),
        Column("reasoning_tokens", BigInteger),
        Column("cost_usd", Numeric(20, 9)),
        Column("price_source", Text),
        Column("metadata", JSONB),
        Column("recorded_at", DateTime(timezone=True), server_default=FetchedValue()),
    )


_usage = _table("api_usage")
_counted = _table("api_usage_counted")


def parse_url(url: str) -> URL:
    """The address of a PostgreSQL database as SQLAlchemy takes it; `str()` of it hides the password.

    Accepts `postgresql://` as well as `postgresql+asyncpg://`, and libpq's `sslmode`. Raises ValueError for an address
    that cannot be used; the message does not show it.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        # Not the parser's own words: they may show a part of the password.
        raise ValueError(
            "the database's URL cannot be read; percent-encode what is special in user and password"
        ) from None
    if address.drivername not in {"postgresql", "postgresql+asyncpg"}:
        raise ValueError(f"the database's URL begins with {address.drivername}://; write postgresql+asyncpg://")
    query = {"ssl" if name == "sslmode" else name: value for name, value in address.query.items()}
    if unknown := query.keys() - _URL_PARAMETERS:
        raise ValueError(
            f"the database's URL has parameters that are not supported, remove {', '.join(sorted(unknown))}"
        )
    return address.set(drivername="postgresql+asyncpg", query=query)


def create_engine(url: str, *, command_timeout_s: float = COMMAND_TIMEOUT_S) -> AsyncEngine:
    """An engine with a pool of up to ten connections. Connects at the first use; `await engine.dispose()` when done.

    Connecting takes at most `CONNECT_TIMEOUT_S`, a command at most `command_timeout_s`: a database that does not answer
    raises TimeoutError instead of holding its caller. Raises ValueError as `parse_url` does.
    """
    return create_async_engine(
        parse_url(url),
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        hide_parameters=True,  # an error is logged; what callers wrote in their metadata is not for the log
        pool_timeout=CONNECT_TIMEOUT_S,
        # One more round trip for each use, and worth it: without it, every pooled connection fails once after the
        # database was restarted, and as many entries take the long way through the backlog.
        pool_pre_ping=True,
        # Cloud networks drop connections that are idle for four minutes without a word; the ping would wait for its
        # timeout then.
        pool_recycle=_CONNECTION_AGE_MAX_S,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": command_timeout_s,
            # jit: the planner overrates the view's check for a final row and compiles what runs faster uncompiled.
            "server_settings": {"application_name": "paymaster", "jit": "off"},
        },
    )


# ---------------------------------------------------------------- schema


async def migrate(url: str) -> None:
    """Brings the schema to `SCHEMA_REVISION`, from nothing or from any older one. Harmless when it is there already.

    Raises MigrationsMissing in an installed wheel, SchemaOutdated when the schema is newer, and the driver's errors.
    """
    if not (_MIGRATIONS / "env.py").is_file():
        raise MigrationsMissing(f"migrations run from Paymaster's checkout or image; there is no {_MIGRATIONS}")
    # Imported here because workers never migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_engine(url, command_timeout_s=_MIGRATION_TIMEOUT_S)
    try:
        async with engine.begin() as connection:
            # Whoever migrates at the same time waits here, and then finds nothing left to do.
            await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            _refuse_newer(await _revision(connection))
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()


async def check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaOutdated unless the database has exactly the schema that this version reads and writes."""
    async with engine.connect() as connection:
        found = await _revision(connection)
    _refuse_newer(found)
    if found is None:
        raise SchemaOutdated("the database has no Paymaster tables yet: run `paymaster migrate`")
    if found < SCHEMA_REVISION:
        raise SchemaOutdated(
            f"the database has schema {found}, this Paymaster needs {SCHEMA_REVISION}: run `paymaster migrate`"
        )


async def _revision(connection: AsyncConnection) -> str | None:
    if await connection.scalar(select(func.to_regclass(SCHEMA_TABLE))) is None:
        return None
    return await connection.scalar(select(column("version_num", Text)).select_from(table(SCHEMA_TABLE)))


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > SCHEMA_REVISION:
        raise SchemaOutdated(
            f"the database has schema {found}, newer than {SCHEMA_REVISION} of this Paymaster: update this Paymaster "
            "(`paymaster migrate` only goes forward)"
        )


# ---------------------------------------------------------------- writing


async def insert_entries(engine: AsyncEngine, entries: Sequence[UsageEntry]) -> None:
    """Stores the entries, all or none. One that is there already (same attempt and state) stays as it is.

    What PostgreSQL refuses is replaced where it can be seen: U+FFFD for NUL and lone surrogates, a final "…" where a
    text was cut at 600 characters, the column's largest value for a number beyond it. So no provider's answer can
    make its entry impossible to store.
    """
    if not entries:
        return
    # In one order everywhere: two transactions that insert the same entries wait for each other and never in a circle.
    rows = sorted((_row(entry) for entry in entries), key=lambda row: (row["attempt_id"], row["state"]))
    statement = postgresql_insert(_usage).on_conflict_do_nothing(index_elements=["attempt_id", "state"])
    async with engine.begin() as connection:
        await connection.execute(statement, rows)


def _row(entry: UsageEntry) -> dict[str, Any]:
    # The columns have the names of TokenUsage's fields.
    tokens: dict[str, int | None] = dict.fromkeys(TokenUsage.model_fields)
    if entry.usage is not None:
        tokens.update(entry.usage.model_dump())
    return {
        "attempt_id": storable(entry.attempt_id),
        "state": entry.state,
        "hold_id": storable(entry.hold_id),
        "call_id": storable(entry.call_id),
        "workflow_id": storable(entry.workflow_id),
        "run_id": storable(entry.run_id),
        "ledger": storable(entry.ledger),
        "epoch": storable(entry.epoch),
        "budget": storable(entry.budget),
        "service": storable(entry.service),
        "model": storable(entry.model),
        "model_answered": _storable_or_none(entry.model_answered),
        "granted_at": _time(entry.granted_at_ms),
        "started_at": None if entry.started_at_ms is None else _time(entry.started_at_ms),
        "duration_ms": _within_or_none(_INT_MAX, entry.duration_ms),
        "status": entry.status,
        "error_class": _storable_or_none(entry.error_class),
        "http_status": _within_or_none(_INT_MAX, entry.http_status),
        "provider_request_id": _storable_or_none(entry.provider_request_id),
        **{name: _within_or_none(_BIGINT_MAX, count) for name, count in tokens.items()},
        "cost_usd": nanos_to_usd(_within(NANOS_MAX, entry.cost_nanos)),
        "price_source": storable(entry.price_source),
        "metadata": {storable(name): storable(value) for name, value in entry.metadata.items()},
    }


def storable(value: str) -> str:
    """The text as PostgreSQL takes it: what it refuses is replaced where it can be seen, and too long is cut."""
    clean = _REFUSED_BY_POSTGRESQL.sub("\ufffd", value)
    return clean if len(clean) <= _TEXT_CHARACTERS_MAX else clean[: _TEXT_CHARACTERS_MAX - 1] + "…"


def _storable_or_none(value: str | None) -> str | None:
    return None if value is None else storable(value)


def _within(largest: int, value: int) -> int:
    return max(-largest, min(value, largest))


def _within_or_none(largest: int, value: int | None) -> int | None:
    return None if value is None else _within(largest, value)


def _time(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)  # exact, where dividing by 1000 first is not


# ---------------------------------------------------------------- reading


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
            posted[account] = _nanos(usd)
    return posted


async def usage_report(
    engine: AsyncEngine,
    *,
    ledger: str,
    by: Sequence[Dimension],
    since: datetime | None = None,
    budget: str | None = None,
) -> list[UsageRow]:
    """Calls, attempts, tokens and cost for each combination of the dimensions, in their order; one row without any.

    `since`: entries granted at this time or later (None: all). `budget`: entries of this budget or below it.
    """
    dimensions = {
        "service": _counted.c.service,
        "model": _counted.c.model,
        "budget": _counted.c.budget,
        "day": func.timezone("UTC", _counted.c.granted_at).cast(Date),
        "status": _counted.c.status,
    }
    keys = [dimensions[name].label(name) for name in by]
    query = (
        select(
            *keys,
            func.count(distinct(_counted.c.call_id)).label("calls"),
            _attempts(),
            *_sums(),
            func.coalesce(func.sum(_counted.c.cost_usd).filter(_counted.c.state == "unconfirmed"), 0).label(
                "unconfirmed_usd"
            ),
        )
        .where(_counted.c.ledger == ledger)
        .group_by(*keys)
        .order_by(*keys)
    )
    if since is not None:
        query = query.where(_counted.c.granted_at >= since)
    if budget is not None:
        below = _counted.c.budget.startswith(budget + "/", autoescape=True)
        query = query.where((_counted.c.budget == budget) | below)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).mappings()
        return [
            UsageRow(
                **{name: row[name] for name in by},
                calls=row["calls"],
                attempts=row["attempts"],
                input_tokens=_count(row["input_tokens"]),
                cached_input_tokens=_count(row["cached_input_tokens"]),
                output_tokens=_count(row["output_tokens"]),
                cost_nanos=_nanos(row["cost_usd"]),
                unconfirmed_nanos=_nanos(row["unconfirmed_usd"]),
            )
            for row in rows
        ]


async def calls_report(
    engine: AsyncEngine, *, ledger: str, since: datetime | None = None, limit: int = 100
) -> list[CallRow]:
    """The latest calls of a ledger, at most `limit`, oldest first. `since`: calls granted at this time or later."""
    latest = (_counted.c.granted_at.desc(), _counted.c.started_at.desc().nulls_last(), _counted.c.id.desc())

    def of_last_attempt(column: ColumnElement[str]) -> ColumnElement[str]:
        return func.array_agg(aggregate_order_by(column, *latest), type_=ARRAY(Text))[1]

    first_granted_at = func.min(_counted.c.granted_at).label("granted_at")
    query = (
        select(
            _counted.c.call_id,
            *(
                of_last_attempt(_counted.c[name]).label(name)
                for name in ("workflow_id", "budget", "service", "model", "status")
            ),
            first_granted_at,
            _attempts(),
            *_sums(),
        )
        .where(_counted.c.ledger == ledger)
        .group_by(_counted.c.call_id)
        .order_by(first_granted_at.desc(), _counted.c.call_id)
        .limit(limit)
    )
    if since is not None:
        query = query.where(_counted.c.granted_at >= since)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [
        CallRow(
            call_id=row["call_id"],
            workflow_id=row["workflow_id"],
            budget=row["budget"],
            service=row["service"],
            model=row["model"],
            status=row["status"],
            granted_at=row["granted_at"],
            attempts=row["attempts"],
            input_tokens=_count(row["input_tokens"]),
            cached_input_tokens=_count(row["cached_input_tokens"]),
            output_tokens=_count(row["output_tokens"]),
            cost_nanos=_nanos(row["cost_usd"]),
        )
        for row in reversed(rows)
    ]


async def unconfirmed_entries(engine: AsyncEngine, ledger: str) -> list[UsageEntry]:
    """The attempts of which nobody knows whether they were billed, oldest first."""
    query = (
        select(_counted)
        .where(_counted.c.ledger == ledger, _counted.c.state == "unconfirmed")
        .order_by(_counted.c.granted_at, _counted.c.attempt_id)
    )
    async with engine.connect() as connection:
        return [_entry(row) for row in (await connection.execute(query)).mappings()]


async def entries_of_call(engine: AsyncEngine, call_id: str) -> list[UsageEntry]:
    """Every stored entry of a call in the order of granting and sending; an unconfirmed one and its final one both."""
    query = (
        select(_usage)
        .where(_usage.c.call_id == storable(call_id))
        .order_by(_usage.c.granted_at, _usage.c.started_at.nulls_last(), _usage.c.id)
    )
    async with engine.connect() as connection:
        return [_entry(row) for row in (await connection.execute(query)).mappings()]


def _entry(row: RowMapping) -> UsageEntry:
    said = {name: row[name] for name in TokenUsage.model_fields if row[name] is not None}
    return UsageEntry(
        **{name: row[name] for name in UsageEntry.model_fields if name in row},
        granted_at_ms=_milliseconds(row["granted_at"]),
        started_at_ms=None if row["started_at"] is None else _milliseconds(row["started_at"]),
        usage=TokenUsage(**said) if said else None,
        cost_nanos=_nanos(row["cost_usd"]),
    )


def _attempts() -> ColumnElement[int]:
    # The row of an expired hold stands for money; if there was a request, nobody knows of it.
    return func.count().filter(_counted.c.status != "expired").label("attempts")


def _sums() -> tuple[ColumnElement[Any], ...]:
    counts = (_counted.c.input_tokens, _counted.c.cached_input_tokens, _counted.c.output_tokens)
    return (
        *(func.sum(count).label(count.name) for count in counts),
        func.coalesce(func.sum(_counted.c.cost_usd), 0).label("cost_usd"),
    )


def _count(tokens: Decimal | None) -> int | None:
    return None if tokens is None else int(tokens)  # PostgreSQL sums bigint as numeric, which cannot overflow


def _nanos(usd: Decimal) -> int:
    return int(usd.scaleb(9))  # exact: the columns have nine decimals


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
