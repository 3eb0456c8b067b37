"""`paymaster unconfirmed`: attempts of which nobody knows whether they were billed."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    command_settings,
    connect_ledger,
    open_database,
    run_async,
)
from paymaster.cli.output import EXIT_NO, CommandError, JsonOption, print_json, print_line, print_table, usd, utc

if TYPE_CHECKING:
    from paymaster.messages import SettleAnswer, UsageEntry
    from paymaster.settings import Settings

app = typer.Typer(help="Attempts that may or may not have been billed.", no_args_is_help=True)


@app.command(name="list")
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Each is charged at its bound until somebody who has the provider's bill resolves it."""
    from paymaster.money import format_usd

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
    attempt: Annotated[str, typer.Argument(help="The attempt's id, from `unconfirmed list`.")],
    cost: Annotated[str, typer.Option(metavar="USD", help='What the provider billed: "0.0021", or "0".')],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write down what it did cost: a final row, and the correction of the books."""
    from paymaster.money import format_usd, usd_to_nanos

    try:
        cost_nanos = usd_to_nanos(cost)
        if cost_nanos < 0:
            raise ValueError(f"{cost} is negative")
    except ValueError as error:
        raise CommandError(f"--cost: {error}") from None
    answer = run_async(_resolve(command_settings(config), attempt, cost_nanos))
    posted = answer.kind == "settled"
    if as_json:
        print_json({"attempt_id": attempt, "cost_usd": usd(cost_nanos), "posted": posted})
    elif posted:
        print_line(f"{attempt}: {format_usd(cost_nanos)}, stored and posted")
    else:
        print_line(f"{attempt}: {format_usd(cost_nanos)}, stored; run `paymaster reconcile --repair` to post it")


async def _list(settings: "Settings") -> "list[UsageEntry]":
    from paymaster.database import unconfirmed_entries

    async with open_database(settings) as engine:
        return await unconfirmed_entries(engine, settings.ledger.name)


async def _resolve(settings: "Settings", attempt: str, cost_nanos: int) -> "SettleAnswer":
    """First the row, then the books, as for every attempt."""
    from paymaster.database import insert_entries, unconfirmed_entries
    from paymaster.errors import AdminRefused, LedgerNotFound
    from paymaster.messages import CallRef, Refused, Settle, Settled, UnconfirmedEntry, UnknownHold

    ledger = await connect_ledger(settings)
    async with open_database(settings) as engine:
        entries = await unconfirmed_entries(engine, settings.ledger.name)
        found = [entry for entry in entries if entry.attempt_id == attempt]
        if not found:
            raise CommandError(f"{attempt} is not an unconfirmed attempt; see `paymaster unconfirmed list`", EXIT_NO)
        call = CallRef(workflow_id=found[0].workflow_id, run_id=found[0].run_id)
        if found[0].status == "expired" and await ledger.is_running(call):
            raise CommandError(
                f"{call.workflow_id} is still running and will report itself what it did cost; wait, or cancel it",
                EXIT_NO,
            )
        final = found[0].model_copy(update={"state": "final", "cost_nanos": cost_nanos})
        await insert_entries(engine, [final])
    # The hold's other attempts were certainly not billed: their cost is zero.
    entry = UnconfirmedEntry(
        budget=final.budget,
        service=final.service,
        granted_at_ms=final.granted_at_ms,
        posted_nanos=found[0].cost_nanos,
    )
    settle = Settle(hold_id=final.hold_id, cost_nanos=cost_nanos, epoch=final.epoch, corrects=entry)
    try:
        (answer,) = await ledger.send([settle])
    except (LedgerNotFound, AdminRefused) as error:
        raise CommandError(f"the row is stored, but no ledger answered ({error}); run `paymaster reconcile`") from None
    assert isinstance(answer, Settled | UnknownHold | Refused)  # what the desk answers to a Settle
    return answer
