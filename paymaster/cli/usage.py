"""`paymaster usage`: the usage report from the database."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async
from paymaster.cli.output import CommandError, JsonOption, print_json, print_line, print_table, usd

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.database import Dimension, UsageRow
    from paymaster.settings import Settings


def usage(
    by: Annotated[
        str, typer.Option(metavar="LIST", help="Of service, model, budget, day, status; in this order.")
    ] = "service,model",
    since: Annotated[
        str | None, typer.Option(metavar="7d|2026-01-31", help="Granted since then (UTC). Default: everything.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Only this budget and what is below it.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Calls, attempts, tokens and cost."""
    settings = command_settings(config)
    dimensions = _dimensions(by)
    start = None if since is None else _start(since)
    rows, total = run_async(_report(settings, dimensions, start, budget))
    if as_json:
        print_json(
            {
                "ledger": settings.ledger.name,
                "by": list(dimensions),
                "since": None if start is None else start.isoformat(timespec="seconds"),
                "budget": budget,
                "rows": [{**{name: _key(row, name) for name in dimensions}, **_figures(row)} for row in rows],
                "total": _figures(total),
            }
        )
        return
    if not rows:
        print_line("no usage is stored for this")
        return
    numbers = ["calls", "attempts", "input", "cached", "output", "cost", "unconfirmed"]
    lines = [[*(_key(row, name) for name in dimensions), *_cells(row)] for row in rows]
    if dimensions:
        lines.append(["total", *[""] * (len(dimensions) - 1), *_cells(total)])
    print_table([*dimensions, *numbers], lines, right=numbers)


def _dimensions(by: str) -> "list[Dimension]":
    from paymaster.database import Dimension

    names = [name.strip() for name in by.split(",") if name.strip()]
    known = get_args(Dimension)
    if wrong := [name for name in names if name not in known]:
        raise CommandError(f"--by {', '.join(wrong)}: write some of {', '.join(known)}")
    return cast("list[Dimension]", list(dict.fromkeys(names)))


def _start(since: str) -> datetime:
    """The time that is so long ago, or the beginning of that day."""
    from paymaster.settings import parse_duration

    try:
        return datetime.now(UTC) - parse_duration(since)
    except ValueError:
        pass
    try:
        return datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise CommandError(f"--since {since}: write a duration like 7d or 24h, or a day like 2026-01-31") from None


async def _report(
    settings: "Settings", by: "list[Dimension]", since: datetime | None, budget: str | None
) -> "tuple[list[UsageRow], UsageRow]":
    from paymaster.database import usage_report

    ledger = settings.ledger.name
    async with open_database(settings) as engine:
        rows = await usage_report(engine, ledger=ledger, by=by, since=since, budget=budget)
        # Not the sum of the rows: a call that fell back is in more than one of them.
        [total] = await usage_report(engine, ledger=ledger, by=(), since=since, budget=budget)
    return rows, total


def _key(row: "UsageRow", dimension: "Dimension") -> str:
    return str(getattr(row, dimension))


def _cells(row: "UsageRow") -> list[str]:
    from paymaster.money import format_usd

    counts = (row.calls, row.attempts, row.input_tokens, row.cached_input_tokens, row.output_tokens)
    return [
        *("?" if count is None else f"{count:,}" for count in counts),
        format_usd(row.cost_nanos),
        format_usd(row.unconfirmed_nanos) if row.unconfirmed_nanos else "",
    ]


def _figures(row: "UsageRow") -> "dict[str, JsonValue]":
    return {
        "calls": row.calls,
        "attempts": row.attempts,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": usd(row.cost_nanos),
        "unconfirmed_usd": usd(row.unconfirmed_nanos),
    }
