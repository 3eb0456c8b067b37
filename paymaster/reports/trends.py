"""Usage over time, errors and latencies, as the usage page shows them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    false,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.reports.hourly import in_part, summed_hours
from paymaster.reports.usage import rows_in_report
from paymaster.storage.hourly_sums import hourly_usage
from paymaster.storage.partitions import one_snapshot
from paymaster.storage.usage_rows import counted_usage, nanos_of

_Interval = Literal["hour", "day", "month", "year"]


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

    interval: _Interval
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
    run: str | None = None,
) -> UsageTrends:
    """Cost over time, failures and latencies; the interval follows from how much time the entries cover."""
    in_report = rows_in_report(counted_usage, ledger, since, until, budget, run)
    names = (counted_usage.c.service, counted_usage.c.model)
    costs = _costs_of_hours(ledger, since, until, budget, run)
    async with one_snapshot(engine) as connection:
        interval, points = await _over_time(connection, costs)
        attempts = func.count().label("attempts")
        failed = (*in_report, counted_usage.c.error_class.is_not(None))
        by_class = (names[0], counted_usage.c.error_class)
        errors = await connection.execute(
            select(*by_class, attempts).where(*failed).group_by(*by_class).order_by(attempts.desc(), *by_class)
        )
        answered = (*in_report, counted_usage.c.status == "completed", counted_usage.c.duration_ms.is_not(None))
        shares = func.percentile_cont(literal_column("ARRAY[0.5, 0.9, 0.99]")).within_group(counted_usage.c.duration_ms)
        latencies = await connection.execute(
            select(*names, attempts, shares.label("shares")).where(*answered).group_by(*names).order_by(*names)
        )
        return UsageTrends(
            interval=interval,
            costs=points,
            errors=tuple(
                ErrorCount(service=service, error_class=error_class, attempts=count)
                for service, error_class, count in errors
            ),
            latencies=tuple(
                Latency(service=service, model=model, attempts=count, p50_ms=p50, p90_ms=p90, p99_ms=p99)
                for service, model, count, (p50, p90, p99) in latencies
            ),
        )


def _costs_of_hours(
    ledger: str, since: datetime | None, until: datetime | None, budget: str | None, run: str | None
) -> FromClause:
    """What each service cost in each hour: of the sums where they have it, else of the rows."""
    hours = summed_hours(["service"], since, until, run)
    rows = rows_in_report(counted_usage, ledger, since, until, budget, run)
    if hours is None:
        return _costs(counted_usage, rows).subquery()
    of_hours = rows_in_report(hourly_usage, ledger, hours.first, hours.end, budget)
    in_rows = in_part(counted_usage, since, until, hours)
    sums = _costs(hourly_usage, [*of_hours, hourly_usage.c.entries > 0])
    return union_all(sums, _costs(counted_usage, [*rows, false() if in_rows is None else in_rows])).subquery()


def _costs(entries: FromClause, in_report: Sequence[ColumnElement[bool]]) -> Select[*tuple[Any, ...]]:
    at = entries.c.hour if entries is hourly_usage else entries.c.granted_at
    hour = func.date_trunc("hour", func.timezone("UTC", at)).label("hour")
    service, cost = entries.c.service, func.sum(entries.c.cost_usd).label("cost_usd")
    return select(hour, service, cost).where(*in_report).group_by(hour, service)


async def _over_time(connection: AsyncConnection, costs: FromClause) -> tuple[_Interval, tuple[CostPoint, ...]]:
    hour, service = costs.c.hour, costs.c.service
    first, last = (await connection.execute(select(func.min(hour), func.max(hour)))).one()
    interval = "hour" if first is None else _interval(last - first)
    start = func.date_trunc(interval, hour).label("start")
    points = await connection.execute(
        select(start, service, func.sum(costs.c.cost_usd)).group_by(start, service).order_by(start, service)
    )
    return interval, tuple(
        CostPoint(start=when.replace(tzinfo=UTC), service=name, cost_nanos=nanos_of(usd)) for when, name, usd in points
    )


def _interval(covered: timedelta) -> _Interval:
    """At most some hundred intervals."""
    if covered <= timedelta(days=3):
        return "hour"
    if covered <= timedelta(days=120):
        return "day"
    return "month" if covered <= timedelta(days=366 * 12) else "year"
