"""`paymaster clock`: the ledger's time, and taking the Temporal server's clock where that was ahead."""

import time
from typing import Annotated

import typer

from paymaster.cli.connection import ConfigOption, admin, checked, command_settings, ledger_status, run_async
from paymaster.cli.present import JsonOption, print_json, print_line, utc
from paymaster.cli.signing import SignOption, tell_ledger

app = typer.Typer(help="The ledger's time, and how to put it right.", invoke_without_command=True)


@app.callback()
def clock(context: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """When the ledger last did something by its own time, beside the time here."""
    if context.invoked_subcommand is not None:
        return
    status = run_async(ledger_status(command_settings(config)))
    here_ms = time.time_ns() // 1_000_000
    doubted_until = utc(status.doubted_until_ms or None)
    if as_json:
        print_json(
            {
                "ledger": status.ledger,
                "ledger_time": utc(status.now_ms),
                "time_here": utc(here_ms),
                "doubted_until": doubted_until,
            }
        )
        return
    print_line(f"ledger {status.ledger}: {utc(status.now_ms)} when it last did something; here: {utc(here_ms)}")
    if status.now_ms > here_ms + 60_000:
        print_line("It is ahead. When the Temporal server's clock is right again: `paymaster clock take --reason …`")
    if doubted_until:
        print_line(f"A jump is not believed until {doubted_until}: nothing is denied or expired for its time.")


@app.command()
def take(
    reason: Annotated[str, typer.Option(help="Why; kept with the alert.")],
    who: Annotated[str | None, typer.Option(help="Default: user@host.")] = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take the Temporal server's clock at once, also back. First put that right; what was spent counts now."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import TakeClock
    from paymaster.messages.temporal_names import TAKE_CLOCK

    change = checked(TakeClock, {"reason": reason, "who": who or admin()})
    told = run_async(tell_ledger(command_settings(config), TAKE_CLOCK.name, change, sign_with, Ledger.take_clock))
    if as_json:
        print_json({"ledger_time_was": utc(told.now_ms)})
    else:
        print_line(f"the ledger's time was {utc(told.now_ms)}; its next run begins now, with the server's clock")
