"""Which part of a report the hourly sums have; the rows have the rest, the hours that it covers in part."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, FromClause, and_, or_

from paymaster.storage.hourly_sums import hourly_usage

_HOUR = timedelta(hours=1)
_SUMMED_BY = frozenset({"service", "model", "budget", "day"})
_CALLS = {
    (False, False): hourly_usage.c.calls,
    (True, False): hourly_usage.c.calls_of_service,
    (False, True): hourly_usage.c.calls_of_model,
    (True, True): hourly_usage.c.calls_of_candidate,
}


class Hours(NamedTuple):
    """Whole hours of UTC, which those of most time zones are: the hourly sums of these are a part of a report."""

    first: datetime | None
    """None: from the beginning."""
    end: datetime | None
    """When the last one is over. None: to the end."""


def summed_hours(
    by: Sequence[str], since: datetime | None, until: datetime | None, run: str | None = None
) -> Hours | None:
    """The hours of a report of which the sums say all that is asked. None: the rows are asked for all of it."""
    if run is not None or not _SUMMED_BY.issuperset(by):
        return None
    first = None if since is None else _hour_of(since + _HOUR - timedelta.resolution)
    end = None if until is None else _hour_of(until)
    return None if first is not None and end is not None and first >= end else Hours(first, end)


def left_out_before(
    by: Sequence[str] | None,
    since: datetime | None,
    until: datetime | None,
    run: str | None = None,
    *,
    pruned_before: datetime | None,
) -> datetime | None:
    """A report has nothing, or not all, of what was granted before this time, because its rows were pruned and the sums
    do not say what is asked. None: it has all.

    `by` None: it is made of rows alone.
    `pruned_before` is the beginning of a month in UTC, so of an hour. None: no rows were pruned.
    """
    if pruned_before is None or (since is not None and since >= pruned_before):
        return None
    hours = None if by is None else summed_hours(by, since, until, run)
    if hours is None:
        return pruned_before
    if until is not None and hours.end is not None and hours.end < until <= pruned_before:
        return until
    return hours.first if since is not None and hours.first is not None and since < hours.first else None


def calls_by(by: Sequence[str]) -> ColumnElement[int]:
    """The calls of a sum, each counted once for what it is grouped by. All attempts of a call have one budget."""
    return _CALLS["service" in by, "model" in by]


def in_part(
    rows: FromClause, since: datetime | None, until: datetime | None, hours: Hours
) -> ColumnElement[bool] | None:
    """Whether a row of the report is in an hour that it covers in part. None: it covers none in part."""
    at: ColumnElement[Any] = rows.c.granted_at
    parts: list[ColumnElement[bool]] = []
    if since is not None and hours.first is not None and since < hours.first:
        parts.append(and_(at >= since, at < hours.first))
    if until is not None and hours.end is not None and hours.end < until:
        parts.append(and_(at >= hours.end, at < until))
    return or_(*parts) if parts else None


def _hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
