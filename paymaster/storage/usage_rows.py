"""The usage database: every attempt as a row of `usage_entries`, which has a partition for each month.

The table is written by `insert_entries` alone; of a row that is stored only an erasure changes something, its metadata.
An attempt may have two rows, `unconfirmed` and later `final`; which of them counts is decided in one place, the view
`api_usage_counted` that the migration makes, and everything here that sums reads the view."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    FetchedValue,
    Integer,
    MetaData,
    Numeric,
    RowMapping,
    Table,
    Text,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.messages import WORKER_LOST, UsageEntry
from paymaster.values.budget_path import budgets_charged, budgets_named
from paymaster.values.cost_lines import CostLine, adding_up_to
from paymaster.values.money import NANOS_MAX, TokenUsage, nanos_to_usd

CORRECTIONS_MAX = 100
"""Corrections of one attempt that are looked for."""

_INT_MAX, _BIGINT_MAX = 2**31 - 1, 2**63 - 1

_TEXT_CHARACTERS_MAX = 600  # at most 2,400 bytes: what PostgreSQL takes into an index ends at 2,704

_REFUSED_BY_POSTGRESQL = re.compile("[\x00\ud800-\udfff]")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WAITS_FOR_REPLICAS = text("SELECT pg_logical_emit_message(true, 'paymaster', '')")
"""Has this transaction write something, so that its end waits, where the database waits for replicas, until they have
also what was there before: whoever stored that may have given up its own wait."""


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
        Column("paid_for", JSONB(none_as_null=True)),
        Column("dialect", Text),
        Column("charged_budgets", ARRAY(Text)),
        Column("run", Text(collation="C")),
    )


usage_table = _table("usage_entries")

counted_usage = _table("api_usage_counted")


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
    statement = postgresql_insert(usage_table).on_conflict_do_nothing(
        index_elements=["attempt_id", "state", "granted_at"]
    )
    async with engine.begin() as connection:
        if await _tell_apart(connection, rows):
            await connection.execute(_WAITS_FOR_REPLICAS)
        await connection.execute(statement, rows)


async def _tell_apart(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> bool:
    """Gives the rows of requests that were sent again under the same attempt id ids of their own; whether something is
    stored of any of the attempts.

    A lost worker's attempt never said when it began, so that two of those are the same. What is the same attempt has
    the time at which it was granted first.
    """
    columns = (usage_table.c[name] for name in ("attempt_id", "started_at", "error_class", "granted_at"))
    query = select(*columns).where(usage_table.c.attempt_id.in_({row["attempt_id"] for row in rows}))
    stored = (await connection.execute(query.order_by(usage_table.c.id))).mappings().all()
    first: dict[str, Mapping[Any, Any]] = {}
    granted: dict[str, datetime] = {}
    for each in stored:
        granted.setdefault(each["attempt_id"], each["granted_at"])
        if each["started_at"] is not None:
            first.setdefault(each["attempt_id"], each)
    for row in rows:
        if row["started_at"] is not None:
            other = first.setdefault(row["attempt_id"], row)
            both_lost = row["error_class"] == other["error_class"] == WORKER_LOST
            if row["started_at"] != other["started_at"] and not both_lost:
                row["attempt_id"] = f"{row['attempt_id']}@{_milliseconds(row['started_at'])}"
        row["granted_at"] = granted.setdefault(row["attempt_id"], row["granted_at"])
    return bool(stored)


def _row(entry: UsageEntry) -> dict[str, Any]:
    # The columns have the names of TokenUsage's fields.
    tokens: dict[str, int | None] = dict.fromkeys(TokenUsage.model_fields)
    if entry.usage is not None:
        tokens.update(entry.usage.model_dump())
    cost_nanos = _within(NANOS_MAX, entry.cost_nanos)
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
        "cost_usd": nanos_to_usd(cost_nanos),
        "price_source": storable(entry.price_source),
        "metadata": {storable(name): storable(value) for name, value in entry.metadata.items()},
        "paid_for": None if entry.paid_for is None else _stored_lines(entry.paid_for, cost_nanos),
        "dialect": _storable_or_none(entry.dialect),
        "charged_budgets": _charged_budgets(entry),
        "run": _storable_or_none(entry.run),
    }


def _charged_budgets(entry: UsageEntry) -> list[str] | None:
    return [storable(path) for path in budgets_charged(entry.budgets)] if entry.further_budgets else None


def _stored_lines(lines: Sequence[CostLine], cost_nanos: int) -> list[dict[str, Any]]:
    """The lines as they add up to what is stored as the cost."""
    kept = [
        line.model_copy(
            update={
                "kind": storable(line.kind),
                "model": _storable_or_none(line.model),
                "quantity": _within(_BIGINT_MAX, line.quantity),
            }
        )
        for line in lines
    ]
    return [line.model_dump() for line in adding_up_to(kept, cost_nanos)]


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


async def unconfirmed_entries(engine: AsyncEngine, ledger: str) -> list[UsageEntry]:
    """The attempts of which nobody knows whether they were billed, oldest first."""
    query = (
        select(counted_usage)
        .where(counted_usage.c.ledger == ledger, counted_usage.c.state == "unconfirmed")
        .order_by(counted_usage.c.granted_at, counted_usage.c.attempt_id)
    )
    async with engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


async def entries_of_attempt(engine: AsyncEngine, ledger: str, attempt_id: str) -> list[UsageEntry]:
    """Every stored entry of an attempt, unconfirmed, final and its corrections, in the order of storing."""
    ids = [attempt_id, *(f"{attempt_id}/correction/{number}" for number in range(1, CORRECTIONS_MAX + 1))]
    query = (
        select(usage_table)
        .where(usage_table.c.attempt_id.in_([storable(each) for each in ids]), usage_table.c.ledger == ledger)
        .order_by(usage_table.c.id)
    )
    async with engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


async def entries_of_call(engine: AsyncEngine, ledger: str, call_id: str) -> list[UsageEntry]:
    """What counts of a call's attempts, in the order of their grants."""
    query = (
        select(counted_usage)
        .where(counted_usage.c.ledger == ledger, counted_usage.c.call_id == storable(call_id))
        .order_by(counted_usage.c.granted_at, counted_usage.c.attempt_id)
    )
    async with engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


async def entries_of_holds(engine: AsyncEngine, ledger: str, hold_ids: Sequence[str]) -> list[UsageEntry]:
    """The entries that count of these holds."""
    query = select(counted_usage).where(counted_usage.c.ledger == ledger, counted_usage.c.hold_id.in_(hold_ids))
    async with engine.connect() as connection:
        return [entry_of(row) for row in (await connection.execute(query)).mappings()]


def entry_of(row: RowMapping) -> UsageEntry:
    said = {name: row[name] for name in TokenUsage.model_fields if row[name] is not None}
    return UsageEntry(
        **{name: row[name] for name in UsageEntry.model_fields if name in row},
        further_budgets=tuple(each for each in budgets_named(row["charged_budgets"] or ()) if each != row["budget"]),
        granted_at_ms=_milliseconds(row["granted_at"]),
        started_at_ms=None if row["started_at"] is None else _milliseconds(row["started_at"]),
        usage=TokenUsage(**said) if said else None,
        cost_nanos=nanos_of(row["cost_usd"]),
    )


def tokens_of(tokens: Decimal | None) -> int | None:
    return None if tokens is None else int(tokens)  # PostgreSQL sums bigint as numeric, which cannot overflow


def nanos_of(usd: Decimal) -> int:
    return int(usd.scaleb(9))  # exact: the columns have nine decimals


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
