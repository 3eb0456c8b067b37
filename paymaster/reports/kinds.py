"""What the stored cost was paid for: quantities and cost of each kind."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Numeric,
    Text,
    column,
    func,
    literal,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.reports.usage import dimension_key, rows_in_report
from paymaster.storage.usage_rows import counted_usage, nanos_of
from paymaster.values.cost_lines import NOT_RECORDED, UNITS, Kind

KIND = "kind"
"""The dimension that makes a usage report one of kinds."""

_NO_SORTING = (text("SET LOCAL enable_sort = off"), text("SET LOCAL enable_incremental_sort = off"))
"""PostgreSQL takes each row for a hundred lines, and would sort all of them where summing them up at once takes a fifth
of the time. For one transaction; what must be sorted still is."""


class KindRow(BaseModel):
    """What was paid for one kind."""

    model_config = ConfigDict(frozen=True)

    keys: dict[str, str | None]
    """The dimensions of the report without the kind. None: the calls have no such key in their metadata."""
    kind: str
    """One of `Kind`, a word of a later version, or `NOT_RECORDED`."""
    quantity: int | None
    """None: not recorded."""
    unit: str | None
    """What the quantity counts. None: not recorded."""
    cost_nanos: int


async def kinds_report(
    engine: AsyncEngine,
    *,
    ledger: str,
    by: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
    run: str | None = None,
) -> list[KindRow]:
    """A row for each kind and combination of the other dimensions, in their order, the kinds in that of `Kind`.

    They add up to the cost of the rows in the report, to the nano-dollar. What was stored before there were lines is
    `NOT_RECORDED`.
    """
    columns = (column("kind", Text), column("quantity", Numeric), column("cost_nanos", Numeric))
    lines = func.jsonb_to_recordset(counted_usage.c.paid_for).table_valued(*columns)
    line = lines.render_derived(with_types=True)
    unrecorded = counted_usage.c.paid_for.is_(None)
    kind = func.coalesce(line.c.kind, NOT_RECORDED)
    dimensions = [dimension_key(counted_usage, name, budget).cast(Text) for name in by]
    keys = [dimension.label(f"key_{number}") for number, dimension in enumerate(dimensions)]
    query = (
        select(
            *keys,
            kind.label(KIND),
            func.sum(line.c.quantity).label("quantity"),
            func.coalesce(func.sum(line.c.cost_nanos), 0).label("cost_nanos"),
            func.coalesce(func.sum(counted_usage.c.cost_usd).filter(unrecorded), 0).label("unrecorded_usd"),
        )
        .select_from(counted_usage.outerjoin(line, true()))
        .where(*rows_in_report(counted_usage, ledger, since, until, budget, run), line.c.kind.is_not(None) | unrecorded)
        .group_by(*keys, kind)
        .order_by(*keys, func.array_position(_order(), kind), kind)
    )
    async with engine.connect() as connection:
        for setting in _NO_SORTING:
            await connection.execute(setting)
        rows = (await connection.execute(query)).mappings().all()
    return [
        KindRow(
            keys={name: row[f"key_{number}"] for number, name in enumerate(by)},
            kind=row[KIND],
            quantity=None if row["quantity"] is None else int(row["quantity"]),
            unit=UNITS.get(row[KIND]),
            cost_nanos=int(row["cost_nanos"]) + nanos_of(row["unrecorded_usd"]),
        )
        for row in rows
    ]


def _order() -> ColumnElement[Any]:
    return literal([*Kind, NOT_RECORDED], ARRAY(Text))
