"""`paymaster usage`: the usage report from the database, for the terminal, for programs, for finance, and as a page."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async, tell_if_slow
from paymaster.cli.exits import CommandError, given_once
from paymaster.cli.present import (
    JsonOption,
    csv_text,
    iso,
    print_csv,
    print_json,
    print_line,
    print_note,
    print_table,
    usd,
)
from paymaster.cli.span import SinceOption, UntilOption, span_of
from paymaster.cli.usage_kinds import kinds_of, print_kinds
from paymaster.cli.usage_prune import prune
from paymaster.cli.usage_pruned import LACKS_BEFORE, lacks_what_is_pruned, tell_what_is_pruned

_NO_RUNS = (
    "none of these calls is of a run: those that a program makes outside any run_budget have none, and a ledger that "
    "still runs by the rules of version 0.1.0 stores none (`paymaster upgrade`)"
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pydantic import JsonValue

    from paymaster.reports.usage import Scope, UsageRow
    from paymaster.settings import Settings

app = typer.Typer()
app.command()(prune)

_By = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LIST",
        help="Of service, model, budget, run, day, status, dialect, metadata.KEY and kind (what was paid for: "
        "input, cached_input, output …), in this order; may be repeated. Default: service,model.",
    ),
]
_Budget = Annotated[
    list[str] | None, typer.Option("--budget", metavar="PATH", help="Only this budget and what is below it; once.")
]
_Run = Annotated[
    list[str] | None, typer.Option("--run", metavar="PATH", help="Only this run, or this part of one; once.")
]


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    by: _By = None,
    since: SinceOption = None,
    until: UntilOption = None,
    budget: _Budget = None,
    run: _Run = None,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="For finance: exact US dollars, and integer nano-dollars beside them.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    focus: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write each attempt in FOCUS columns, as CSV, or as FILE.parquet."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Calls, attempts, tokens and cost."""
    if context.invoked_subcommand is not None:
        return
    _check_form([as_json, as_csv, html is not None], by, focus)
    of_budget, of_run = given_once("--budget", budget), given_once("--run", run)
    settings = command_settings(config)
    dimensions = _dimensions(by or ["service,model"])
    start, end = span_of(since, until)
    scope: Scope = {"since": start, "until": end, "budget": of_budget, "run": of_run}
    if html is not None or focus is not None:
        _write_file(settings, scope, html, focus)
        return
    asked: dict[str, JsonValue] = {"ledger": settings.ledger.name, "by": list(dimensions)}
    asked |= {"since": iso(start), "until": iso(end), "budget": of_budget, "run": of_run}
    if "kind" in dimensions:
        kinds, lacks_before = run_async(kinds_of(settings, dimensions, scope))
        print_kinds(asked | {LACKS_BEFORE: iso(lacks_before)}, dimensions, kinds, as_json=as_json, as_csv=as_csv)
        tell_what_is_pruned(lacks_before)
        return
    rows, total, lacks_before = run_async(_report(settings, dimensions, scope))
    tell_what_is_pruned(lacks_before)
    if as_json:
        found: list[JsonValue] = [{**{name: _value(row, name) for name in dimensions}, **_figures(row)} for row in rows]
        print_json({**asked, LACKS_BEFORE: iso(lacks_before), "rows": found, "total": _figures(total)})
    elif as_csv:
        _print_csv(dimensions, rows)
    elif rows:
        _print(dimensions, rows, total)
        if "run" in dimensions and all(row.run is None for row in rows):
            print_note(_NO_RUNS)
    else:
        print_line("no usage is stored for this")


def _check_form(others: "Sequence[bool]", by: list[str] | None, focus: Path | None) -> None:
    if sum([*others, focus is not None]) > 1:
        raise CommandError("choose one of --json, --csv, --html and --focus")
    if by and focus is not None:
        raise CommandError("--focus writes every attempt, and has all dimensions as columns: leave --by out")
    if by and others[-1]:
        raise CommandError("--html writes one page with all of it: leave --by out")


def _write_file(settings: "Settings", scope: "Scope", html: Path | None, focus: Path | None) -> None:
    for option, file in (("--html", html), ("--focus", focus)):
        if file is not None and not file.absolute().parent.is_dir():
            raise CommandError(f"{option} {file}: there is no such folder")
    if focus is not None and focus.suffix.lower() not in {".csv", ".parquet", ""}:
        raise CommandError(f"--focus {focus}: it is CSV or Parquet, so name it .csv or .parquet")
    if html is not None:
        from paymaster.cli.usage_page import write_page

        run_async(write_page(settings, html, scope))
        print_line(f"wrote {html}")
    if focus is not None:
        from paymaster.cli.usage_focus import write_focus

        run_async(write_focus(settings, focus, scope))


def _dimensions(by: "Sequence[str]") -> list[str]:
    """A key of the metadata may have a comma, written "\\,"."""
    from paymaster.reports.usage import is_dimension

    parts = (part for each in by for part in re.split(r"(?<!\\),", each))
    names = [name for part in parts if (name := part.strip().replace("\\,", ","))]
    if wrong := [name for name in names if not is_dimension(name) and name != "kind"]:
        known = "service, model, budget, run, day, status, dialect, kind, metadata.KEY"
        raise CommandError(f"--by {', '.join(wrong)}: write some of {known}")
    return list(dict.fromkeys(names))


async def _report(
    settings: "Settings", by: "Sequence[str]", scope: "Scope"
) -> "tuple[list[UsageRow], UsageRow, datetime | None]":
    """Its rows, its total, and before when it lacks what is pruned."""
    from paymaster.reports.usage import usage_report_with_total

    async with open_database(settings) as engine, tell_if_slow("summing up the stored attempts"):
        rows, total = await usage_report_with_total(engine, ledger=settings.ledger.name, by=by, **scope)
        return rows, total, await lacks_what_is_pruned(engine, settings, scope, by)


def _value(row: "UsageRow", dimension: str) -> str | None:
    """None: the calls have no such key in their metadata, no dialect or no run."""
    from paymaster.reports.usage import METADATA

    if dimension.startswith(METADATA):
        return row.metadata[dimension.removeprefix(METADATA)]
    value = getattr(row, dimension)
    return None if value is None else str(value)


def _print(dimensions: "Sequence[str]", rows: "Sequence[UsageRow]", total: "UsageRow") -> None:
    """A table without the columns in which nothing is, so that it fits a terminal."""
    from paymaster.values.money import format_usd

    columns = {
        "calls": [_shown(row.calls) for row in (*rows, total)],
        "attempts": [_shown(row.attempts) for row in (*rows, total)],
        "input": [_tokens(row.input_tokens) for row in (*rows, total)],
        "cached": [_tokens(row.cached_input_tokens) if row.cached_input_tokens else "" for row in (*rows, total)],
        "output": [_tokens(row.output_tokens) for row in (*rows, total)],
        "cost": [format_usd(row.cost_nanos) for row in (*rows, total)],
        "unconfirmed": [format_usd(row.unconfirmed_nanos) if row.unconfirmed_nanos else "" for row in (*rows, total)],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    keys = [[_value(row, name) or "" for name in dimensions] for row in rows]
    if dimensions:
        keys.append(["total", *[""] * (len(dimensions) - 1)])
    lines = [[*key, *cells] for key, cells in zip(keys or [[]], zip(*columns.values(), strict=True), strict=False)]
    print_table([*dimensions, *columns], lines, right=list(columns))


def _shown(count: int) -> str:
    return f"{count:,}"


def _tokens(count: int | None) -> str:
    """A token count for people: from a million on in millions on a terminal, exact elsewhere. None: no service said."""
    if count is None:
        return "?"
    if count >= 1_000_000 and sys.stdout.isatty():
        return f"{count / 1_000_000:,.1f}M"
    return f"{count:,}"


def _print_csv(dimensions: "Sequence[str]", rows: "Sequence[UsageRow]") -> None:
    """Rows without one of totals, which a pivot table would count too."""
    numbers = ["calls", "attempts", "input_tokens", "cached_input_tokens", "output_tokens"]
    money = ["cost_usd", "cost_nanos", "unconfirmed_usd", "unconfirmed_nanos"]
    print_csv(
        [*map(csv_text, dimensions), *numbers, *money],
        (
            [
                *(csv_text(_value(row, name) or "") for name in dimensions),
                *(getattr(row, name) for name in numbers),
                usd(row.cost_nanos),
                row.cost_nanos,
                usd(row.unconfirmed_nanos),
                row.unconfirmed_nanos,
            ]
            for row in rows
        ),
    )


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
