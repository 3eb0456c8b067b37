"""The command `paymaster`: a module for each command group; `output` is what they print, `connection` what they use."""

import os
import sys
from errno import ENOSPC, EPIPE
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from paymaster.cli import (
    admin,
    bill,
    budget,
    call,
    calls,
    clients,
    clock,
    codec,
    config,
    demo,
    dev,
    doctor,
    erase,
    init,
    keys,
    migrate,
    prices,
    reconcile,
    runs,
    serve,
    services,
    top,
    unconfirmed,
    upgrade,
    usage,
    worker,
)
from paymaster.cli.exits import EXIT_ERROR, EXIT_NO, EXIT_READER_GONE, CommandError
from paymaster.cli.ledger_option import add_ledger_option
from paymaster.cli.present import print_line, print_note
from paymaster.redaction import redact_logs, redacted_traceback
from paymaster.values.extras import extra_missing

__all__ = ["app", "main"]


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"paymaster {version('paymaster')}")
        raise typer.Exit


class _Commands(TyperGroup):
    """All commands. One whose reader has gone, as `head` does, ends as others do that SIGPIPE ends."""

    def invoke(self, ctx: Any) -> object:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in (EPIPE, ENOSPC):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
            if error.errno == EPIPE:
                raise typer.Exit(EXIT_READER_GONE) from None
            raise CommandError(f"the answer cannot be written: {error.strerror}") from None


app = typer.Typer(
    name="paymaster",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # what reaches the top is a defect: its plain traceback, and no values of variables
)


@app.callback()
def options(
    print_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable LLM calls under a budget."""


app.command()(init.init)
app.command()(demo.demo)
app.command()(dev.dev)
app.command()(worker.worker)
app.command()(call.call)
app.add_typer(calls.app, name="calls")
app.add_typer(budget.app, name="budget")
app.add_typer(runs.app, name="runs")
app.add_typer(services.app, name="services")
app.command()(top.top)
app.add_typer(usage.app, name="usage")
app.command()(reconcile.reconcile)
app.command()(erase.erase)
app.add_typer(bill.app, name="bill")
app.add_typer(unconfirmed.app, name="unconfirmed")
app.add_typer(clock.app, name="clock")
app.add_typer(config.app, name="config")
app.add_typer(prices.app, name="prices")
app.add_typer(admin.app, name="admin")
app.add_typer(clients.app, name="clients")
app.command()(serve.serve)
app.command()(codec.codec)
app.add_typer(keys.app, name="keys")
app.command()(migrate.migrate)
app.command()(upgrade.upgrade)
app.command()(doctor.doctor)
add_ledger_option(app)


def main() -> None:
    """Runs the command line and exits with its code; see `output` for their meaning."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character gets "?", not a traceback
    redact_logs()
    try:
        app()
    except CommandError as error:
        print_note(f"paymaster: {error}")
        sys.exit(error.exit_code)
    except Exception as error:  # not left to Python: typer's own hook would print it with any key that it names
        if isinstance(error, ImportError) and (missing := extra_missing(error, "this command")):
            print_note(f"paymaster: {missing}")
            sys.exit(EXIT_ERROR)
        sys.stderr.write(redacted_traceback(error))
        sys.exit(EXIT_NO)
