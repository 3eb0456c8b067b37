"""The stretch of time that a command is about: `--since` and `--until`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from paymaster.cli.exits import CommandError

SinceOption = Annotated[
    str | None, typer.Option(metavar="7d|2026-01-31", help="Granted since then (UTC). Default: everything.")
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="1d|2026-02-28", help="Granted before then; a day is included. Default: now.")
]

_LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)


def span_of(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """When it begins and ends; None: open. Raises CommandError."""
    start = None if since is None else _time("--since", since)
    end = None if until is None else _time("--until", until, whole_day=True)
    if start is not None and end is not None and start >= end:
        raise CommandError(f"--since {since} is not before --until {until}")
    return start, end


def _time(option: str, text: str, *, whole_day: bool = False) -> datetime:
    """The time that is so long ago, or the beginning of that day; with `whole_day` its end."""
    from paymaster.settings import parse_duration

    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError as error:
        if re.fullmatch("[0-9]{1,12}(ms|s|m|h|d)", text):
            raise CommandError(f"{option} {error}; or write a day like 2026-01-31") from None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise CommandError(f"{option} {text}: write a duration like 7d or 24h, or a day like 2026-01-31") from None
    # The last day that there is ends a moment early: Python knows no later time.
    return day if not whole_day else day + timedelta(days=1) if day < _LAST_DAY else datetime.max.replace(tzinfo=UTC)
