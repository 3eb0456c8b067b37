"""What is stored of some services, by day and model, as a bill is compared with it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, Numeric, RowMapping, Select, Text, column, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.bill import Posted, Unconfirmed
from paymaster.reports.usage import dimension_key, rows_in_report
from paymaster.storage.partitions import one_snapshot
from paymaster.storage.usage_rows import counted_usage, nanos_of
from paymaster.values.cost_lines import Kind

_DAY = dimension_key(counted_usage, "day", None)


async def posted_by_model(
    engine: AsyncEngine, *, ledger: str, services: Sequence[str], first: date, last: date
) -> tuple[list[Posted], list[Unconfirmed]]:
    """All of these days (UTC, by the time of the grant), and the unconfirmed attempts one by one, oldest first."""
    rows = counted_usage.c
    since, until = _midnight(first), _midnight(last + timedelta(days=1))
    asked = (*rows_in_report(counted_usage, ledger, since, until, None), rows.service.in_(services))
    unsure = (
        select(_DAY.label("day"), rows.attempt_id, rows.model, rows.cost_usd)
        .where(*asked, rows.state == "unconfirmed")
        .order_by(rows.granted_at, rows.id)
    )
    async with one_snapshot(engine) as connection:
        posted = [_posted(row) for row in (await connection.execute(_sums(asked))).mappings()]
        return posted, [
            Unconfirmed(row["day"], row["attempt_id"], row["model"], nanos_of(row["cost_usd"]))
            for row in (await connection.execute(unsure)).mappings()
        ]


def _sums(asked: Sequence[ColumnElement[bool]]) -> Select[*tuple[Any, ...]]:
    rows = counted_usage.c
    line = func.jsonb_to_recordset(rows.paid_for).table_valued(column("kind", Text), column("cost_nanos", Numeric))
    line = line.render_derived(with_types=True)
    searched = select(func.sum(line.c.cost_nanos)).select_from(line).where(line.c.kind == Kind.WEB_SEARCH)
    took = func.coalesce(rows.duration_ms, 0) * func.make_interval(0, 0, 0, 0, 0, 0, 0.001)
    ended = func.timezone("UTC", func.coalesce(rows.started_at, rows.granted_at) + took)
    return (
        select(
            _DAY.label("day"),
            rows.model,
            rows.model_answered,
            func.count().filter(rows.cost_usd > 0).label("attempts"),
            func.sum(rows.cost_usd).label("cost_usd"),
            func.coalesce(func.sum(searched.scalar_subquery()), 0).label("searches_nanos"),
            func.coalesce(func.sum(rows.cost_usd).filter(ended.cast(Date) > _DAY), 0).label("later_usd"),
        )
        .where(*asked)
        .group_by(_DAY, rows.model, rows.model_answered)
        .order_by(_DAY, rows.model, rows.model_answered)
    )


def _posted(row: RowMapping) -> Posted:
    return Posted(
        row["day"],
        row["model"],
        row["model_answered"],
        row["attempts"],
        nanos_of(row["cost_usd"]),
        searches_nanos=int(row["searches_nanos"]),
        into_next_day_nanos=nanos_of(row["later_usd"]),
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
