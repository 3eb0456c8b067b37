"""One row for each call."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    RowMapping,
    Text,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.usage import count_of_attempts, sums_of_usage
from paymaster.storage.usage_rows import counted_usage, nanos_of, tokens_of


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


async def calls_report(
    engine: AsyncEngine,
    *,
    ledger: str,
    since: datetime | None = None,
    before: datetime | None = None,
    limit: int = 100,
) -> list[CallRow]:
    """The latest calls of a ledger, at most `limit`, oldest first. `since`: calls granted at this time or later;
    `before`: those granted before this time."""
    first_granted_at = func.min(counted_usage.c.granted_at).label("granted_at")
    query = (
        select(
            counted_usage.c.call_id,
            *(
                _of_last_attempt(counted_usage.c[name]).label(name)
                for name in ("workflow_id", "budget", "service", "model", "status")
            ),
            first_granted_at,
            count_of_attempts(),
            *sums_of_usage(),
        )
        .where(counted_usage.c.ledger == ledger)
        .group_by(counted_usage.c.call_id)
        .order_by(first_granted_at.desc(), counted_usage.c.call_id)
        .limit(limit)
    )
    if since is not None:
        query = query.where(counted_usage.c.granted_at >= since)
    if before is not None:
        query = query.having(func.min(counted_usage.c.granted_at) < before)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [_call_row(row) for row in reversed(rows)]


def _of_last_attempt(column: ColumnElement[str]) -> ColumnElement[str]:
    latest = (
        counted_usage.c.granted_at.desc(),
        counted_usage.c.started_at.desc().nulls_last(),
        counted_usage.c.id.desc(),
    )
    return func.array_agg(aggregate_order_by(column, *latest), type_=ARRAY(Text))[1]


def _call_row(row: RowMapping) -> CallRow:
    return CallRow(
        call_id=row["call_id"],
        workflow_id=row["workflow_id"],
        budget=row["budget"],
        service=row["service"],
        model=row["model"],
        status=row["status"],
        granted_at=row["granted_at"],
        attempts=row["attempts"],
        input_tokens=tokens_of(row["input_tokens"]),
        cached_input_tokens=tokens_of(row["cached_input_tokens"]),
        output_tokens=tokens_of(row["output_tokens"]),
        cost_nanos=nanos_of(row["cost_usd"]),
    )
