"""The usage database: every attempt as an immutable row of `api_usage`, and the sums that reports are made of.

The table is written by `insert_entries` alone. An attempt may have two rows, `unconfirmed` and later `final`; which of
them counts is decided in one place, the view `api_usage_counted` that the migration makes, and everything here that
sums reads the view.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast, get_args

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
    FromClause,
    Integer,
    MetaData,
    Numeric,
    RowMapping,
    Table,
    Text,
    and_,
    column,
    func,
    literal_column,
    select,
    table,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paymaster.messages import WORKER_LOST, UsageEntry
from paymaster.money import NANOS_MAX, TokenUsage, nanos_to_usd

SCHEMA_REVISION = "0004"
"""The schema that this version reads and writes: the newest migration."""
OLDER_SCHEMA_REVISION = "0003"
"""0.1.0's, which starts on no other. All later migrations only added to it what has defaults."""
SCHEMA_TABLE = "paymaster_schema"
"""Where Alembic keeps the revision. Not its usual name: another program in the same database may use Alembic too."""

CONNECT_TIMEOUT_S = 3.0
"""For making a connection, and for getting one from the pool."""
COMMAND_TIMEOUT_S = 3.0
"""For one statement, unless the engine was made with another one."""
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
CORRECTIONS_MAX = 100
"""Corrections of one attempt that are looked for."""
_MIGRATION_LOCK = 7_295_624_301  # any number that nothing else in the database locks
_MIGRATION_TIMEOUT_S = 3_600.0  # a migration may rewrite a large table
_POOL_SIZE = 5
_CONNECTION_AGE_MAX_S = 180
_URL_PARAMETERS = {"host", "port", "ssl", "target_session_attrs", "prepared_statement_cache_size"}
_INT_MAX, _BIGINT_MAX = 2**31 - 1, 2**63 - 1
_TEXT_CHARACTERS_MAX = 600  # at most 2,400 bytes: what PostgreSQL takes into an index ends at 2,704
_REFUSED_BY_POSTGRESQL = re.compile("[\x00\ud800-\udfff]")
_FIRST_ATTEMPT = literal_column("'/1/1'", Text)  # as the index has it: the first attempt under the first hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Dimension = Literal["service", "model", "budget", "day", "status"]
"""What `usage_report` can group by, beside the metadata. `budget` is the one that the call named; `day` is the UTC day
of the grant."""
METADATA = "metadata."
"""Before a key, it makes a dimension of what callers wrote there: `metadata.team`."""


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
    metadata: dict[str, str | None] = {}
    """What the report groups by of the metadata. None: the calls have no such key."""
    calls: int
    """Different calls; one that fell back is in the rows of both services. A reset workflow counts once more."""
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


async def name_older_schema(url: str) -> None:
    """Has the schema called `OLDER_SCHEMA_REVISION`, so that workers of 0.1.0 start on it; nothing is taken out.

    Raises SchemaOutdated when it is another one than `SCHEMA_REVISION`, and the driver's errors.
    """
    engine = create_engine(url, command_timeout_s=_MIGRATION_TIMEOUT_S)
    try:
        await check_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            schema = table(SCHEMA_TABLE, column("version_num", Text))
            await connection.execute(schema.update().values(version_num=OLDER_SCHEMA_REVISION))
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

    One of the same attempt that began at another time is of another request, which a Temporal that was put back to an
    earlier time sent under the same id: it is stored under the id with that time.

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
        await _tell_apart(connection, rows)
        await connection.execute(statement, rows)


async def _tell_apart(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Gives the rows of requests that were sent again under the same attempt id ids of their own.

    A lost worker's attempt never said when it began, so that two of those are the same.
    """
    named = [row for row in rows if row["started_at"] is not None]
    query = select(_usage.c.attempt_id, _usage.c.started_at, _usage.c.error_class).where(
        _usage.c.attempt_id.in_([row["attempt_id"] for row in named]), _usage.c.started_at.is_not(None)
    )
    first = {row["attempt_id"]: row for row in (await connection.execute(query)).mappings()}
    for row in named:
        other = first.setdefault(row["attempt_id"], cast("RowMapping", row))
        both_lost = row["error_class"] == other["error_class"] == WORKER_LOST
        if row["started_at"] != other["started_at"] and not both_lost:
            row["attempt_id"] = f"{row['attempt_id']}@{_milliseconds(row['started_at'])}"


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


def is_dimension(name: str) -> bool:
    return name in get_args(Dimension) or (name.startswith(METADATA) and name != METADATA)


async def usage_report(
    engine: AsyncEngine,
    *,
    ledger: str,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
) -> list[UsageRow]:
    """Calls, attempts, tokens and cost for each combination of the dimensions, in their order; one row without any.

    `by`: names of `Dimension`, and keys of the metadata after `METADATA`. `since`, `until`: entries granted at this
    time or later, and before that time (None: all). `budget`: entries of this budget or below it.
    """
    rows, total = await usage_report_with_total(engine, ledger=ledger, by=by, since=since, until=until, budget=budget)
    return rows if by else [total]


async def usage_report_with_total(
    engine: AsyncEngine,
    *,
    ledger: str,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
) -> tuple[list[UsageRow], UsageRow]:
    """The report, and its total, which is not the sum of its calls: one that fell back is in more than one row."""
    keys = [key.label(f"key_{number}") for number, key in enumerate(_key(_counted, name) for name in by)]
    in_report = _in_report(_counted, ledger, since, until, budget)
    # Counting different calls directly means sorting all rows. Nearly every call has one row in a group, so the rows
    # are counted, and those taken off that are not the first of their call there: only later attempts can be.
    query = (
        select(
            *keys,
            func.count().label("rows"),
            _attempts(),
            *_sums(),
            func.coalesce(func.sum(_counted.c.cost_usd).filter(_counted.c.state == "unconfirmed"), 0).label(
                "unconfirmed_usd"
            ),
        )
        .where(*in_report)
        .group_by(*keys)
        .order_by(*keys)
    )
    earlier = _usage.alias("earlier")
    same_group = and_(true(), *(_key(earlier, name).is_not_distinct_from(_key(_counted, name)) for name in by))
    found = (
        select(func.bool_or(same_group).label("in_group"))
        .where(
            *_in_report(earlier, ledger, since, until, budget),
            earlier.c.call_id == _counted.c.call_id,
            earlier.c.attempt_id.collate("C") < _counted.c.attempt_id.collate("C"),
        )
        .lateral("found")
    )
    later = (
        select(
            *keys,
            func.count().filter(found.c.in_group).label("in_group"),
            func.count(found.c.in_group).label("in_report"),
        )
        .select_from(_counted.join(found, true()))
        .where(*in_report, _counted.c.attempt_id != _counted.c.run_id + _FIRST_ATTEMPT)
        .group_by(*keys)
    )
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="REPEATABLE READ")  # both see the same rows
        groups = (await connection.execute(query)).mappings().all()
        again = {tuple(row[key.name] for key in keys): row for row in (await connection.execute(later)).mappings()}
    rows = [
        _usage_row(by, group, group["rows"] - (again[at]["in_group"] if at in again else 0))
        for group in groups
        for at in [tuple(group[key.name] for key in keys)]
    ]
    calls = sum(group["rows"] for group in groups) - sum(row["in_report"] for row in again.values())
    return rows, _total(rows, calls)


def _key(rows: FromClause, name: str) -> ColumnElement[Any]:
    """The column or expression of a dimension."""
    if name.startswith(METADATA):
        return rows.c.metadata[name.removeprefix(METADATA)].astext
    return func.timezone("UTC", rows.c.granted_at).cast(Date) if name == "day" else rows.c[name]


def _in_report(
    rows: FromClause, ledger: str, since: datetime | None, until: datetime | None, budget: str | None
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [rows.c.ledger == ledger]
    if since is not None:
        conditions.append(rows.c.granted_at >= since)
    if until is not None:
        conditions.append(rows.c.granted_at < until)
    if budget is not None:
        conditions.append((rows.c.budget == budget) | rows.c.budget.startswith(budget + "/", autoescape=True))
    return conditions


def _usage_row(by: Sequence[str], group: RowMapping, calls: int) -> UsageRow:
    values = {name: group[f"key_{number}"] for number, name in enumerate(by)}
    return UsageRow(
        **{name: value for name, value in values.items() if not name.startswith(METADATA)},
        metadata={name.removeprefix(METADATA): value for name, value in values.items() if name.startswith(METADATA)},
        calls=calls,
        attempts=group["attempts"],
        input_tokens=_count(group["input_tokens"]),
        cached_input_tokens=_count(group["cached_input_tokens"]),
        output_tokens=_count(group["output_tokens"]),
        cost_nanos=_nanos(group["cost_usd"]),
        unconfirmed_nanos=_nanos(group["unconfirmed_usd"]),
    )


def _total(rows: Sequence[UsageRow], calls: int) -> UsageRow:
    def sum_of(counts: Iterable[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    return UsageRow(
        calls=calls,
        attempts=sum(row.attempts for row in rows),
        input_tokens=sum_of(row.input_tokens for row in rows),
        cached_input_tokens=sum_of(row.cached_input_tokens for row in rows),
        output_tokens=sum_of(row.output_tokens for row in rows),
        cost_nanos=sum(row.cost_nanos for row in rows),
        unconfirmed_nanos=sum(row.unconfirmed_nanos for row in rows),
    )


class CostPoint(BaseModel):
    """What a service cost in one interval of time."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    """UTC."""
    service: str
    cost_nanos: int


class ErrorCount(BaseModel):
    """How often a service failed in one way."""

    model_config = ConfigDict(frozen=True)

    service: str
    error_class: str
    attempts: int


class Latency(BaseModel):
    """How long the answered attempts of a model took, in milliseconds: half of them less than `p50_ms`, and so on."""

    model_config = ConfigDict(frozen=True)

    service: str
    model: str
    attempts: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


class UsageTrends(BaseModel):
    """What a usage report over time is drawn from."""

    model_config = ConfigDict(frozen=True)

    interval: Literal["hour", "day", "month", "year"]
    costs: tuple[CostPoint, ...]
    errors: tuple[ErrorCount, ...]
    """The most frequent first."""
    latencies: tuple[Latency, ...]


async def usage_trends(
    engine: AsyncEngine,
    *,
    ledger: str,
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
) -> UsageTrends:
    """Cost over time, failures and latencies; the interval follows from how much time the entries cover."""
    in_report = _in_report(_counted, ledger, since, until, budget)
    names = (_counted.c.service, _counted.c.model)
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="REPEATABLE READ")
        at = _counted.c.granted_at
        first, last = (await connection.execute(select(func.min(at), func.max(at)).where(*in_report))).one()
        interval = "hour" if first is None else _interval(last - first)
        start = func.date_trunc(interval, func.timezone("UTC", at)).label("start")
        cost = func.sum(_counted.c.cost_usd).label("cost_usd")
        costs = await connection.execute(
            select(start, names[0], cost).where(*in_report).group_by(start, names[0]).order_by(start, names[0])
        )
        attempts = func.count().label("attempts")
        failed = (*in_report, _counted.c.error_class.is_not(None))
        by_class = (names[0], _counted.c.error_class)
        errors = await connection.execute(
            select(*by_class, attempts).where(*failed).group_by(*by_class).order_by(attempts.desc(), *by_class)
        )
        answered = (*in_report, _counted.c.status == "completed", _counted.c.duration_ms.is_not(None))
        shares = func.percentile_cont(literal_column("ARRAY[0.5, 0.9, 0.99]")).within_group(_counted.c.duration_ms)
        latencies = await connection.execute(
            select(*names, attempts, shares.label("shares")).where(*answered).group_by(*names).order_by(*names)
        )
        return UsageTrends(
            interval=interval,
            costs=tuple(
                CostPoint(start=when.replace(tzinfo=UTC), service=service, cost_nanos=_nanos(usd))
                for when, service, usd in costs
            ),
            errors=tuple(
                ErrorCount(service=service, error_class=error_class, attempts=count)
                for service, error_class, count in errors
            ),
            latencies=tuple(
                Latency(service=service, model=model, attempts=count, p50_ms=p50, p90_ms=p90, p99_ms=p99)
                for service, model, count, (p50, p90, p99) in latencies
            ),
        )


def _interval(covered: timedelta) -> Literal["hour", "day", "month", "year"]:
    """At most some hundred intervals."""
    if covered <= timedelta(days=3):
        return "hour"
    if covered <= timedelta(days=120):
        return "day"
    return "month" if covered <= timedelta(days=366 * 12) else "year"


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


async def entries_of_attempt(engine: AsyncEngine, ledger: str, attempt_id: str) -> list[UsageEntry]:
    """Every stored entry of an attempt, unconfirmed, final and its corrections, in the order of storing."""
    ids = [attempt_id, *(f"{attempt_id}/correction/{number}" for number in range(1, CORRECTIONS_MAX + 1))]
    query = (
        select(_usage)
        .where(_usage.c.attempt_id.in_([storable(each) for each in ids]), _usage.c.ledger == ledger)
        .order_by(_usage.c.id)
    )
    async with engine.connect() as connection:
        return [_entry(row) for row in (await connection.execute(query)).mappings()]


async def entries_of_holds(engine: AsyncEngine, ledger: str, hold_ids: Sequence[str]) -> list[UsageEntry]:
    """The entries that count of these holds."""
    query = select(_counted).where(_counted.c.ledger == ledger, _counted.c.hold_id.in_(hold_ids))
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
    # The row of an expired hold stands for money; if there was a request, nobody knows of it. A correction is none.
    return func.count().filter(_counted.c.status.not_in(("expired", "corrected"))).label("attempts")


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
