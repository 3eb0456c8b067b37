"""Usage over time, errors and latencies, as the usage page shows them."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    func,
    literal_column,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.usage import rows_in_report
from paymaster.storage.usage_rows import counted_usage, nanos_of


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
    run: str | None = None,
) -> UsageTrends:
    """Cost over time, failures and latencies; the interval follows from how much time the entries cover."""
    in_report = rows_in_report(counted_usage, ledger, since, until, budget, run)
    names = (counted_usage.c.service, counted_usage.c.model)
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="REPEATABLE READ")
        at = counted_usage.c.granted_at
        first, last = (await connection.execute(select(func.min(at), func.max(at)).where(*in_report))).one()
        interval = "hour" if first is None else _interval(last - first)
        start = func.date_trunc(interval, func.timezone("UTC", at)).label("start")
        cost = func.sum(counted_usage.c.cost_usd).label("cost_usd")
        costs = await connection.execute(
            select(start, names[0], cost).where(*in_report).group_by(start, names[0]).order_by(start, names[0])
        )
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
            costs=tuple(
                CostPoint(start=when.replace(tzinfo=UTC), service=service, cost_nanos=nanos_of(usd))
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
