"""Usage summed up by service, model, budget, run, day, status, dialect or metadata."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ColumnElement,
    Date,
    FromClause,
    Label,
    RowMapping,
    Select,
    Text,
    and_,
    case,
    func,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from paymaster.reports.hourly import calls_by, in_part, summed_hours
from paymaster.storage.charging import budget_within, counts_for_budget, counts_for_run
from paymaster.storage.hourly_sums import hourly_usage
from paymaster.storage.partitions import one_snapshot
from paymaster.storage.usage_rows import counted_usage, nanos_of, tokens_of, usage_table

_FIRST_ATTEMPT = literal_column("'/1/1'", Text)  # as the index has it: the first attempt under the first hold

_PLAN = text(
    "SELECT set_config(name, 'off', true) "
    "FROM unnest(ARRAY['enable_sort', 'enable_hashjoin', 'enable_mergejoin']) AS settings (name)"
)
"""PostgreSQL expects many groups, and nearly all attempts to be later ones: it would sort all rows for the first, and
read all for the second. For one transaction."""

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
    """Different calls, each at the time of its first attempt; one that fell back is in the rows of both services. A
    reset workflow counts once more."""
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
    hours = summed_hours(by, since, until, run)
    rows = rows_in_report(counted_usage, ledger, since, until, budget, run)
    in_rows = None if hours is None else in_part(counted_usage, since, until, hours)
    found: list[_Group] = []
    async with one_snapshot(engine) as connection:
        if hours is not None:
            of_hours = rows_in_report(hourly_usage, ledger, hours.first, hours.end, budget)
            found += await _of_hours(connection, by, budget, of_hours)
        if hours is None or in_rows is not None:
            found += await _of_rows(connection, by, budget, rows if in_rows is None else [*rows, in_rows])
    groups = _merged(found)
    return [_usage_row(by, group) for group in groups], _total(groups)


class _Group(NamedTuple):
    """What a report says for one combination of its dimensions."""

    key: tuple[Any, ...]
    calls: int
    calls_in_report: int
    """Without those whose first attempt is in another group."""
    attempts: int
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    cost_nanos: int
    unconfirmed_nanos: int


_FIGURES = _Group._fields[_Group._fields.index("attempts") :]
"""What a group and a row have alike."""


async def _of_hours(
    connection: AsyncConnection, by: Sequence[str], budget: str | None, in_report: Sequence[ColumnElement[bool]]
) -> list[_Group]:
    sums = hourly_usage.c
    keys = _keys(hourly_usage, by, budget)
    tokens = (sums.input_tokens, sums.cached_input_tokens, sums.output_tokens)
    unconfirmed = func.sum(sums.cost_usd).filter(sums.state == "unconfirmed")
    query = (
        select(
            *keys,
            func.sum(calls_by(by)).label("calls"),
            func.sum(sums.calls).label("calls_in_report"),
            func.sum(sums.attempts).label("attempts"),
            *(case((func.sum(sums.reported) > 0, func.sum(each))).label(each.name) for each in tokens),
            func.sum(sums.cost_usd).label("cost_usd"),
            func.coalesce(unconfirmed, 0).label("unconfirmed_usd"),
        )
        .where(*in_report, sums.entries > 0)
        .group_by(*keys)
        .having(func.sum(sums.entries) > 0)
    )
    return [
        _group(keys, row, int(row["calls"]), int(row["calls_in_report"]))
        for row in (await connection.execute(query)).mappings()
    ]


async def _of_rows(
    connection: AsyncConnection, by: Sequence[str], budget: str | None, in_report: Sequence[ColumnElement[bool]]
) -> list[_Group]:
    keys = _keys(counted_usage, by, budget)
    # Counting different calls directly means sorting all rows. Nearly every call has one row, so the rows are counted,
    # and those taken off that are not the first of their call: only later attempts can be.
    later = _later_attempts(keys, in_report, by, budget)
    await connection.execute(_PLAN)
    groups = (await connection.execute(_sums(keys, in_report))).mappings().all()
    again = {_key(keys, row): row for row in (await connection.execute(later)).mappings()}
    return [
        _group(
            keys,
            group,
            group["rows"] - (again[at]["in_group"] if at in again else 0),
            group["rows"] - (again[at]["in_report"] if at in again else 0),
        )
        for group in groups
        for at in [_key(keys, group)]
    ]


def _keys(rows: FromClause, by: Sequence[str], budget: str | None) -> list[Label[Any]]:
    return [dimension_key(rows, name, budget).label(f"key_{number}") for number, name in enumerate(by)]


def _key(keys: Sequence[Label[Any]], row: RowMapping) -> tuple[Any, ...]:
    return tuple(row[key.name] for key in keys)


def _group(keys: Sequence[Label[Any]], row: RowMapping, calls: int, calls_in_report: int) -> _Group:
    return _Group(
        _key(keys, row),
        calls,
        calls_in_report,
        int(row["attempts"]),
        tokens_of(row["input_tokens"]),
        tokens_of(row["cached_input_tokens"]),
        tokens_of(row["output_tokens"]),
        nanos_of(row["cost_usd"]),
        nanos_of(row["unconfirmed_usd"]),
    )


def _merged(groups: Iterable[_Group]) -> list[_Group]:
    """One for each key, in the order of the keys, those without a value last."""
    by_key: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        by_key.setdefault(group.key, []).append(group)
    merged = (of_key[0] if len(of_key) == 1 else _Group(key, *_added_up(of_key)) for key, of_key in by_key.items())
    return sorted(merged, key=lambda group: [(value is None, value) for value in group.key])


def _added_up(groups: Sequence[_Group]) -> tuple[Any, ...]:
    """The figures of all; None where none of them has one."""
    columns = zip(*(group[1:] for group in groups), strict=True)
    known = ([figure for figure in column if figure is not None] for column in columns)
    return tuple(sum(figures) if figures else None for figures in known)


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
    )


def _later_attempts(
    keys: Sequence[Label[Any]], in_report: Sequence[ColumnElement[bool]], by: Sequence[str], budget: str | None
) -> Select[*tuple[Any, ...]]:
    """For each combination of the keys how many rows are not the first of their call there, and not its first,
    whenever that was."""
    earlier = usage_table.alias("earlier")
    same_group = and_(
        true(),
        *(
            dimension_key(earlier, name, budget).is_not_distinct_from(dimension_key(counted_usage, name, budget))
            for name in by
            if name != "day"
        ),
    )
    is_earlier = and_(
        earlier.c.ledger == counted_usage.c.ledger,
        earlier.c.call_id == counted_usage.c.call_id,
        earlier.c.run_id == counted_usage.c.run_id,
        earlier.c.attempt_id.collate("C") < counted_usage.c.attempt_id.collate("C"),
    )
    later = (
        select(*keys, func.bool_or(same_group).label("in_group"))
        .select_from(counted_usage.join(earlier, is_earlier))
        .where(*in_report, counted_usage.c.attempt_id != counted_usage.c.run_id + _FIRST_ATTEMPT)
        .group_by(counted_usage.c.id, *keys)
        .subquery("later")
    )
    own_keys = [later.c[key.name] for key in keys]
    return select(
        *own_keys,
        func.count().filter(later.c.in_group).label("in_group"),
        func.count().label("in_report"),
    ).group_by(*own_keys)


def dimension_key(rows: FromClause, name: str, budget: str | None) -> ColumnElement[Any]:
    """The column or expression of a dimension, in a report on this budget (None: on all)."""
    if name == "budget" and budget is not None:
        return budget_within(rows, budget)
    if name.startswith(METADATA):
        return rows.c.metadata[name.removeprefix(METADATA)].astext
    return func.timezone("UTC", _at(rows)).cast(Date) if name == "day" else rows.c[name]


def rows_in_report(
    rows: FromClause,
    ledger: str,
    since: datetime | None,
    until: datetime | None,
    budget: str | None,
    run: str | None = None,
) -> list[ColumnElement[bool]]:
    """For rows, and for the sums of hours that are whole."""
    conditions: list[ColumnElement[bool]] = [rows.c.ledger == ledger]
    if since is not None:
        conditions.append(_at(rows) >= since)
    if until is not None:
        conditions.append(_at(rows) < until)
    if budget is not None:
        conditions.append(counts_for_budget(rows, budget))
    if run is not None:
        conditions.append(counts_for_run(rows, run))
    return conditions


def _at(rows: FromClause) -> ColumnElement[datetime]:
    return rows.c.hour if rows is hourly_usage else rows.c.granted_at


def _usage_row(by: Sequence[str], group: _Group) -> UsageRow:
    values = dict(zip(by, group.key, strict=True))
    return UsageRow(
        **{name: value for name, value in values.items() if not name.startswith(METADATA)},
        metadata={name.removeprefix(METADATA): value for name, value in values.items() if name.startswith(METADATA)},
        calls=group.calls,
        **_figures(group),
    )


def _total(groups: Sequence[_Group]) -> UsageRow:
    total = _Group((), *_added_up([_Group((), 0, 0, 0, None, None, None, 0, 0), *groups]))
    return UsageRow(calls=total.calls_in_report, **_figures(total))


def _figures(group: _Group) -> dict[str, Any]:
    return dict(zip(_FIGURES, group[-len(_FIGURES) :], strict=True))


def count_of_attempts() -> ColumnElement[int]:
    # The row of an expired hold stands for money; if there was a request, nobody knows of it. A correction is none.
    return func.count().filter(counted_usage.c.status.not_in(("expired", "corrected"))).label("attempts")


def sums_of_usage() -> tuple[ColumnElement[Any], ...]:
    counts = (counted_usage.c.input_tokens, counted_usage.c.cached_input_tokens, counted_usage.c.output_tokens)
    return (
        *(func.sum(count).label(count.name) for count in counts),
        func.coalesce(func.sum(counted_usage.c.cost_usd), 0).label("cost_usd"),
    )
