"""`paymaster bill check FILE`: what a provider billed, against what is stored."""

import sys
from datetime import UTC, datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    command_name,
    command_settings,
    open_database,
    run_async,
    tell_if_slow,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_note, print_table, usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.reports.bill import Line, Posted, Unconfirmed
    from paymaster.reports.bill_formats import Bill, BillFormat
    from paymaster.settings import Settings

app = typer.Typer(help="Providers' bills.", no_args_is_help=True)

_EXPLAINED_MAX = 20  # --json has all of them
_FORMATS = "openai-csv, openai-json, anthropic-csv, anthropic-json, openrouter-csv, openrouter-json, azure-csv"


@app.callback()
def bills() -> None:
    """Providers' bills."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A provider's export of costs, CSV or JSON. -: standard input.")],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"One of {_FORMATS}. Default: by the file's columns."),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A service that is on the bill; may be repeated. Default: the provider's."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="BILLED=OURS", help="A name on the bill that is this model of ours; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare a bill with the stored rows, for each day and model. Exit code 1 where a difference stays."""
    from paymaster.reports.bill import STAYS, compare

    settings = command_settings(config)
    same = _pairs(model or ())
    known, bill = _read(file, form)
    services = service or _services_of(settings, known.provider)
    posted, unconfirmed = run_async(_stored(settings, services, bill))
    if not posted and (unknown := [each for each in services if each not in settings.services]):
        detail = f"--service {unknown[0]}: it is not in the configuration, and nothing of it is stored for these days"
        raise CommandError(detail)
    lines = compare(bill, posted, unconfirmed, today=datetime.now(UTC).date(), same=same)
    staying = [line for line in lines if line.why in STAYS]
    if as_json:
        print_json(_document(known, services, bill, lines, agree=not staying))
    else:
        _print(known, services, bill, lines, staying)
    if staying:
        raise typer.Exit(EXIT_NO)


def _pairs(given: "Sequence[str]") -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    if wrong := ["".join(pair) for pair in pairs if not pair[0] or not pair[2]]:
        raise CommandError(f'--model {wrong[0]}: write it as "NAME ON THE BILL=OUR MODEL"')
    return {billed: ours for billed, _, ours in pairs}


def _read(file: Path, form: str | None) -> "tuple[BillFormat, Bill]":
    from paymaster.reports.bill_formats import FORMATS, BillUnreadable, read_bill

    if form is not None and form not in [each.name for each in FORMATS]:
        raise CommandError(f"--format {form}: write one of {', '.join(each.name for each in FORMATS)}")
    try:
        if str(file) == "-":
            whole = BytesIO(sys.stdin.buffer.read())
            return read_bill(TextIOWrapper(whole, encoding="utf-8", newline=""), form)
        with file.open(encoding="utf-8", newline="") as opened:
            return read_bill(opened, form)
    except BillUnreadable as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None


def _services_of(settings: "Settings", provider: str) -> list[str]:
    """Those whose address is the provider's."""
    from paymaster.providers.provider_names import provider_at

    at = {name: provider_at(service.base_url) for name, service in settings.services.items()}
    found = [name for name, known in at.items() if known and known.id == provider]
    if not found:
        known_here = f"; there are: {', '.join(sorted(at))}" if at else ""
        detail = f"no service of the configuration is at {provider}: say which are on the bill by --service{known_here}"
        raise CommandError(detail)
    return found


async def _stored(
    settings: "Settings", services: "Sequence[str]", bill: "Bill"
) -> "tuple[list[Posted], list[Unconfirmed]]":
    from paymaster.reports.posted import posted_by_model
    from paymaster.storage.account_sums import pruned_before

    if not bill.days:
        raise CommandError("the bill has no days and no charges: there is nothing to compare")
    async with open_database(settings) as engine, tell_if_slow("summing up the stored attempts"):
        ledger, (first, last) = settings.ledger.name, (bill.days[0], bill.days[-1])
        found = await posted_by_model(engine, ledger=ledger, services=services, first=first, last=last)
        pruned = await pruned_before(engine, ledger)
    if pruned is not None and first < pruned.date():
        raise CommandError(
            f"the bill begins on {first}, and rows granted before {pruned:%Y-%m-%d} (UTC) are pruned: what is left of "
            "them, `paymaster usage --by service,model,day`, does not say which model answered"
        )
    return found


def _print(
    known: "BillFormat", services: "Sequence[str]", bill: "Bill", lines: "Sequence[Line]", staying: "Sequence[Line]"
) -> None:
    from paymaster.reports.bill import Why
    from paymaster.values.money import format_usd

    columns = ["billed", "posted", "difference", "unconfirmed"]
    rows = [
        [
            str(line.day),
            line.model,
            format_usd(line.billed_nanos),
            format_usd(line.posted_nanos),
            _signed(line.difference_nanos),
            format_usd(line.unconfirmed_nanos) if line.unconfirmed_nanos else "",
        ]
        for line in lines
    ]
    billed, posted = sum(line.billed_nanos for line in lines), sum(line.posted_nanos for line in lines)
    total = ["total", "", format_usd(billed), format_usd(posted), _signed(billed - posted), ""]
    print_table(["day (UTC)", "model", *columns], [*rows, total], right=columns)
    print_note(f"{known.name}, {bill.days[0]} to {bill.days[-1]} (UTC), of {', '.join(services)}")
    for day, what in sorted(bill.partial.items()):
        print_note(f"{day} is in part: {what}")
    if bill.more:
        print_note("the bill has more pages than are in the file: fetch them, and give all of them as a JSON array")
    explained = [line for line in lines if line.why]
    for line in explained[:_EXPLAINED_MAX]:
        print_note(f"{line.day} {line.model}: {_signed(line.difference_nanos)}: {line.words}")
        for attempt, cost in line.resolve if line.why is Why.UNCONFIRMED else ():
            print_note(f"  {command_name()} unconfirmed resolve {attempt} --cost {usd(cost)}")
    if len(explained) > _EXPLAINED_MAX:
        print_note(f"… and {len(explained) - _EXPLAINED_MAX} more; --json has all of them")
    if staying:
        print_line(f"{len(staying)} of {len(lines)} differ")
    elif lines and all(line.why is Why.PARTIAL_DAY for line in lines):
        print_line("no day of the bill is whole, so nothing can be said of it yet")
    else:
        print_line("the bill and what is stored agree" + (", but for what is explained" if explained else ""))


def _signed(nanos: int) -> str:
    from paymaster.values.money import format_usd

    return "" if nanos == 0 else f"+{format_usd(nanos)}" if nanos > 0 else format_usd(nanos)


def _document(
    known: "BillFormat", services: "Sequence[str]", bill: "Bill", lines: "Sequence[Line]", *, agree: bool
) -> "JsonValue":
    found: list[JsonValue] = [
        {
            "day": str(line.day),
            "model": line.model,
            "billed_usd": usd(line.billed_nanos),
            "posted_usd": usd(line.posted_nanos),
            "difference_usd": usd(line.difference_nanos),
            "unconfirmed_usd": usd(line.unconfirmed_nanos),
            "why": line.why,
            "words": line.words or None,
            "resolve": [{"attempt_id": attempt, "cost_usd": usd(cost)} for attempt, cost in line.resolve],
        }
        for line in lines
    ]
    return {
        "format": known.name,
        "services": list(services),
        "from": str(bill.days[0]),
        "to": str(bill.days[-1]),
        "partial_days": {str(day): what for day, what in bill.partial.items()},
        "has_more": bill.more,
        "agree": agree,
        "lines": found,
    }
