"""Usage summed up by service, model, budget, run, day, status, dialect or metadata."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Literal, TypedDict, get_args

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ColumnElement,
    Date,
    FromClause,
    RowMapping,
    Select,
    Text,
    and_,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from paymaster.storage.charging import budget_within, counts_for_budget, counts_for_run
from paymaster.storage.usage_rows import counted_usage, nanos_of, tokens_of, usage_table

_FIRST_ATTEMPT = literal_column("'/1/1'", Text)  # as the index has it: the first attempt under the first hold

Dimension = Literal["service", "model", "budget", "day", "status", "dialect", "run"]
"""What `usage_report` can group by, beside the metadata. `budget` is the one that the call named, of several the first,
or the first within the budget that the report is on; `day` is the UTC day of the grant; `dialect` is the format of
calls in a provider's own; `run` is the path of the run, or of the part of one."""

METADATA = "metadata."
"""Before a key, it makes a dimension of what callers wrote there: `metadata.team`."""


class Scope(TypedDict):
    """Which entries a report is made of, as the functions here take it."""

    since: datetime | None
    until: datetime | None
    budget: str | None
    run: str | None


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
    dialect: str | None = None
    run: str | None = None
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
    run: str | None = None,
) -> list[UsageRow]:
    """Calls, attempts, tokens and cost for each combination of the dimensions, in their order; one row without any.

    `by`: names of `Dimension`, and keys of the metadata after `METADATA`. `since`, `until`: entries granted at this
    time or later, and before that time (None: all). `budget`, `run`: entries of this one or below it.
    """
    rows, total = await usage_report_with_total(
        engine, ledger=ledger, by=by, since=since, until=until, budget=budget, run=run
    )
    return rows if by else [total]


async def usage_report_with_total(
    engine: AsyncEngine,
    *,
    ledger: str,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
    budget: str | None = None,
    run: str | None = None,
) -> tuple[list[UsageRow], UsageRow]:
    """The report, and its total, which is not the sum of its calls: one that fell back is in more than one row."""
    dimensions = [dimension_key(counted_usage, name, budget) for name in by]
    keys = [dimension.label(f"key_{number}") for number, dimension in enumerate(dimensions)]
    in_report = rows_in_report(counted_usage, ledger, since, until, budget, run)
    earlier = usage_table.alias("earlier")
    found = _earlier_attempts(earlier, rows_in_report(earlier, ledger, since, until, budget, run), by, budget)
    # Counting different calls directly means sorting all rows. Nearly every call has one row in a group, so the rows
    # are counted, and those taken off that are not the first of their call there: only later attempts can be.
    query, later = _sums(keys, in_report), _later_attempts(keys, in_report, found)
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


def _sums(keys: Sequence[ColumnElement[Any]], in_report: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """For each combination of the keys what all its rows sum up to."""
    unconfirmed = func.sum(counted_usage.c.cost_usd).filter(counted_usage.c.state == "unconfirmed")
    return (
        select(
            *keys,
            func.count().label("rows"),
            count_of_attempts(),
            *sums_of_usage(),
            func.coalesce(unconfirmed, 0).label("unconfirmed_usd"),
        )
        .where(*in_report)
        .group_by(*keys)
        .order_by(*keys)
    )


def _later_attempts(
    keys: Sequence[ColumnElement[Any]], in_report: Sequence[ColumnElement[bool]], found: FromClause
) -> Select[Any]:
    """For each combination of the keys how many rows are not the first of their call there, and in the report."""
    return (
        select(
            *keys,
            func.count().filter(found.c.in_group).label("in_group"),
            func.count(found.c.in_group).label("in_report"),
        )
        .select_from(counted_usage.join(found, true()))
        .where(*in_report, counted_usage.c.attempt_id != counted_usage.c.run_id + _FIRST_ATTEMPT)
        .group_by(*keys)
    )


def _earlier_attempts(
    earlier: FromClause, in_report: Sequence[ColumnElement[bool]], by: Sequence[str], budget: str | None
) -> FromClause:
    """For a row, whether its call has one in the report that is earlier, and whether one is in the row's group."""
    same_group = and_(
        true(),
        *(
            dimension_key(earlier, name, budget).is_not_distinct_from(dimension_key(counted_usage, name, budget))
            for name in by
        ),
    )
    return (
        select(func.bool_or(same_group).label("in_group"))
        .where(
            *in_report,
            earlier.c.call_id == counted_usage.c.call_id,
            earlier.c.attempt_id.collate("C") < counted_usage.c.attempt_id.collate("C"),
        )
        .lateral("found")
    )


def dimension_key(rows: FromClause, name: str, budget: str | None) -> ColumnElement[Any]:
    """The column or expression of a dimension, in a report on this budget (None: on all)."""
    if name == "budget" and budget is not None:
        return budget_within(rows, budget)
    if name.startswith(METADATA):
        return rows.c.metadata[name.removeprefix(METADATA)].astext
    return func.timezone("UTC", rows.c.granted_at).cast(Date) if name == "day" else rows.c[name]


def rows_in_report(
    rows: FromClause,
    ledger: str,
    since: datetime | None,
    until: datetime | None,
    budget: str | None,
    run: str | None = None,
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [rows.c.ledger == ledger]
    if since is not None:
        conditions.append(rows.c.granted_at >= since)
    if until is not None:
        conditions.append(rows.c.granted_at < until)
    if budget is not None:
        conditions.append(counts_for_budget(rows, budget))
    if run is not None:
        conditions.append(counts_for_run(rows, run))
    return conditions


def _usage_row(by: Sequence[str], group: RowMapping, calls: int) -> UsageRow:
    values = {name: group[f"key_{number}"] for number, name in enumerate(by)}
    return UsageRow(
        **{name: value for name, value in values.items() if not name.startswith(METADATA)},
        metadata={name.removeprefix(METADATA): value for name, value in values.items() if name.startswith(METADATA)},
        calls=calls,
        attempts=group["attempts"],
        input_tokens=tokens_of(group["input_tokens"]),
        cached_input_tokens=tokens_of(group["cached_input_tokens"]),
        output_tokens=tokens_of(group["output_tokens"]),
        cost_nanos=nanos_of(group["cost_usd"]),
        unconfirmed_nanos=nanos_of(group["unconfirmed_usd"]),
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


def count_of_attempts() -> ColumnElement[int]:
    # The row of an expired hold stands for money; if there was a request, nobody knows of it. A correction is none.
    return func.count().filter(counted_usage.c.status.not_in(("expired", "corrected"))).label("attempts")


def sums_of_usage() -> tuple[ColumnElement[Any], ...]:
    counts = (counted_usage.c.input_tokens, counted_usage.c.cached_input_tokens, counted_usage.c.output_tokens)
    return (
        *(func.sum(count).label(count.name) for count in counts),
        func.coalesce(func.sum(counted_usage.c.cost_usd), 0).label("cost_usd"),
    )
