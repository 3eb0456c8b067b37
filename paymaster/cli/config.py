"""`paymaster config`: bring the ledger the configuration; print what can be configured."""

from typing import Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_settings, run_async
from paymaster.cli.output import EXIT_NO, CommandError, JsonOption, print_json, print_line
from paymaster.cli.signing import SignOption, tell_ledger

app = typer.Typer(help="The configuration that the ledger decides with.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """The configuration that the ledger decides with."""


@app.command()
def apply(
    force: Annotated[bool, typer.Option("--force", help="Bring back one that a newer one superseded.")] = False,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give the ledger this configuration now. Workers do it at their start. Caps that an admin changed stay."""
    from paymaster.desk_config import desk_config
    from paymaster.messages import Configure
    from paymaster.settings import ConfigurationError

    settings = command_settings(config)
    try:
        wanted = desk_config(settings)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    told = tell_ledger(
        settings,
        "configure",
        Configure(config=wanted, force=force),
        sign_with,
        lambda ledger, signed: ledger.configure(wanted, force=force, signature=signed.signature),
    )
    state = run_async(told)
    if as_json:
        print_json({"digest": state.digest, "applied": state.applied, "detail": state.detail})
    else:
        print_line(f"{'applied' if state.applied else 'not applied'}{f': {state.detail}' if state.detail else ''}")
    if state.digest != wanted.digest:
        raise typer.Exit(EXIT_NO)


@app.command()
def docs() -> None:
    """Print docs/configuration.md: every key with its meaning and its default, as the settings say it."""
    from paymaster.settings_reference import settings_reference

    print_line(settings_reference().rstrip("\n"))
