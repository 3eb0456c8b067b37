"""`--ledger` of every command that reads the configuration: another ledger's name than the one that is in there."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from paymaster.cli.exits import CommandError

LedgerOption = Annotated[
    str | None, typer.Option("--ledger", metavar="NAME", help="The ledger. Default: ledger.name of the configuration.")
]
_VARIABLE = "PAYMASTER__LEDGER__NAME"


def add_ledger_option(app: typer.Typer) -> None:
    """Gives it to the commands of this group, to the group itself, and to those below it, that have `--config`."""
    for command in (*app.registered_commands, app.registered_callback):
        if command is None or command.callback is None:
            continue
        if "config" in inspect.signature(command.callback).parameters:
            command.callback = _with_option(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_ledger_option(group.typer_instance)


def _with_option(command: Callable[..., Any]) -> Callable[..., Any]:
    option = inspect.Parameter("ledger", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=LedgerOption)
    signature = inspect.signature(command)

    @wraps(command)
    def with_ledger(*, ledger: str | None = None, **options: Any) -> Any:
        if ledger is not None:
            _choose(ledger)
        return command(**options)

    with_ledger.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # pyright: ignore[reportAttributeAccessIssue]  # where `inspect`, and so Typer, looks for it
    with_ledger.__annotations__ = {**command.__annotations__, option.name: LedgerOption}
    return with_ledger


def _choose(name: str) -> None:
    """For this process, and for a worker that takes its place. Raises CommandError for what is no ledger's name."""
    from paymaster.settings.kinds import check_ledger_name

    try:
        os.environ[_VARIABLE] = check_ledger_name(name)
    except ValueError as error:
        raise CommandError(f"--ledger: {error}") from None
