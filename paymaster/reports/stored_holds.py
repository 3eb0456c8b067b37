"""The stored holds, in the order of their grants."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, RowMapping, and_, cast, extract, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.replayed import StoredHold
from paymaster.reports.usage import rows_in_report
from paymaster.storage.usage_rows import counted_usage, nanos_of, tokens_of
from paymaster.values.budget_path import budgets_named

_OF_THE_HOLD = ("call_id", "budget", "charged_budgets", "service", "model", "run")
"""Columns that all rows of a hold have in common."""
_ROWS_AT_ONCE = 2_000


async def stored_holds(
    engine: AsyncEngine, *, ledger: str, since: datetime | None, until: datetime | None
) -> AsyncIterator[StoredHold]:
    """The holds of a ledger that were granted at `since` or later and before `until` (None: all), oldest first.

    However many there are, a few thousand are in memory at a time.
    """
    rows = counted_usage.c
    attempts = and_(rows.status.not_in(("expired", "corrected")), rows.started_at.is_not(None))
    ended_ms = _ms(rows.started_at) + func.coalesce(rows.duration_ms, 0)
    query = (
        select(
            _ms(rows.granted_at).label("granted_at_ms"),
            *(
                func.min(rows[name]).label(name)
                for name in ("call_id", "budget", "charged_budgets", "service", "model", "run")
            ),
            func.sum(rows.cost_usd).label("cost_usd"),
            func.coalesce(func.sum(rows.input_tokens + rows.output_tokens), 0).label("tokens"),
            func.array_agg(aggregate_order_by(ended_ms, ended_ms)).filter(attempts).label("ended_ms"),
        )
        .where(*rows_in_report(counted_usage, ledger, since, until, None))
        .group_by(rows.granted_at, rows.hold_id)
        .order_by(rows.granted_at, rows.hold_id)
    )
    async with engine.connect() as connection:
        found = await connection.stream(query, execution_options={"yield_per": _ROWS_AT_ONCE})
        async for row in found.mappings():
            yield _hold(row)


def _hold(row: RowMapping) -> StoredHold:
    own = row["budget"]
    return StoredHold(
        call_id=row["call_id"],
        budgets=(own, *(each for each in budgets_named(row["charged_budgets"] or ()) if each != own)),
        service=row["service"],
        model=row["model"],
        granted_at_ms=row["granted_at_ms"],
        cost_nanos=max(0, nanos_of(row["cost_usd"])),
        tokens=tokens_of(row["tokens"]) or 0,
        run=row["run"],
        attempts_ended_ms=tuple(row["ended_ms"] or ()),
    )


def _ms(at: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(extract("epoch", at) * 1000, BigInteger)
