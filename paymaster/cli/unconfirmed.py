"""`paymaster unconfirmed`: attempts of which nobody knows whether they were billed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    checked,
    command_settings,
    connect_ledger,
    open_database,
    run_async,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_table, usd, utc
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from paymaster.ledger.resolving import Resolution
    from paymaster.messages import UsageEntry
    from paymaster.settings import Settings

app = typer.Typer(help="Attempts that may or may not have been billed.", no_args_is_help=True)


@app.command(name="list")
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Each is charged at its bound until somebody who has the provider's bill resolves it."""
    from paymaster.values.money import format_usd

    entries = run_async(_list(command_settings(config)))
    if as_json:
        print_json(
            {
                "attempts": [
                    {
                        "attempt_id": entry.attempt_id,
                        "call_id": entry.call_id,
                        "budget": entry.budget,
                        "service": entry.service,
                        "model": entry.model,
                        "dialect": entry.dialect,
                        "granted_at": utc(entry.granted_at_ms),
                        "why": entry.error_class or entry.status,
                        "charged_usd": usd(entry.cost_nanos),
                    }
                    for entry in entries
                ]
            }
        )
        return
    headers = ["attempt", "service/model", "budget", "granted (UTC)", "why", "charged"]
    rows = [
        [
            entry.attempt_id,
            f"{entry.service}/{entry.model}",
            entry.budget,
            (utc(entry.granted_at_ms) or "").replace("T", " ").removesuffix("+00:00"),
            entry.error_class or entry.status,
            format_usd(entry.cost_nanos),
        ]
        for entry in entries
    ]
    print_table(headers, rows, right=["charged"])
    print_line(f"{len(entries)} unconfirmed")


@app.command()
def resolve(
    attempt: Annotated[str, typer.Argument(help="The attempt's id, from `unconfirmed list` or the alert.")],
    cost: Annotated[str, typer.Option(metavar="USD", help='What the provider billed: "0.0021", or "0".')],
    force: Annotated[bool, typer.Option("--force", help="Also more than the attempt can have cost.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with a correction.")] = "",
    who: Annotated[str | None, typer.Option(help="Kept with a correction. Default: user@host.")] = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write down what it did cost: a final row, and the correction of the books.

    Of an attempt that was resolved before, the difference is written down as a correction.
    """
    from paymaster.values.money import format_usd, usd_to_nanos

    try:
        cost_nanos = usd_to_nanos(cost)
        if cost_nanos < 0:
            raise ValueError(f"{cost} is negative")
    except ValueError as error:
        raise CommandError(f"--cost: {error}") from None
    settings = command_settings(config)
    found = run_async(_store(settings, attempt, cost_nanos, force=force))
    before, posted = found.before, run_async(_post(settings, found, reason, who or admin(), sign_with))
    if as_json:
        print_json({"attempt_id": attempt, "cost_usd": usd(cost_nanos), "posted": posted})
    elif posted:
        was = "" if before.state == "unconfirmed" else f" instead of {format_usd(before.cost_nanos)}"
        print_line(f"{attempt}: {format_usd(cost_nanos)}{was}, stored and posted")
    else:
        print_line(f"{attempt}: {format_usd(cost_nanos)}, stored; run `paymaster reconcile --repair` to post it")


async def _list(settings: "Settings") -> "list[UsageEntry]":
    from paymaster.storage.usage_rows import unconfirmed_entries

    async with open_database(settings) as engine:
        return await unconfirmed_entries(engine, settings.ledger.name)


async def _store(settings: "Settings", attempt: str, cost_nanos: int, *, force: bool) -> "Resolution":
    from paymaster.ledger.resolving import AboveBound, CannotResolve, find_resolution, store_resolution

    async with open_database(settings) as engine:
        try:
            found = await find_resolution(engine, settings.ledger.name, attempt, cost_nanos)
            await store_resolution(engine, await connect_ledger(settings), found, force=force)
        except AboveBound as error:
            raise CommandError(
                f"{error} If the provider did bill it, repeat the command with --force", EXIT_NO
            ) from None
        except CannotResolve as error:
            raise CommandError(str(error), EXIT_NO) from None
    return found


async def _post(settings: "Settings", found: "Resolution", reason: str, who: str, sign_with: Path | None) -> bool:
    """First the row, then the books, as for every attempt. Whether the books have it."""
    from paymaster.errors import AdminRefused, LedgerNotFound
    from paymaster.ledger.handle import Ledger
    from paymaster.ledger.resolving import settle_resolution
    from paymaster.messages import CorrectSpend
    from paymaster.messages.temporal_names import CORRECT_SPEND

    ledger = await connect_ledger(settings)
    try:
        if await settle_resolution(ledger, await ledger.epoch(), found):
            return True
    except (LedgerNotFound, AdminRefused) as error:
        raise CommandError(f"the row is stored, but no ledger answered ({error}); run `paymaster reconcile`") from None
    change = checked(CorrectSpend, found.correction() | {"reason": reason, "who": who})
    try:
        read = await tell_ledger(settings, CORRECT_SPEND.name, change, sign_with, Ledger.correct_spend)
    except CommandError as error:
        raise CommandError(f"the row is stored, and the ledger does not know it: {error}", error.exit_code) from None
    return bool(read.accounts)
