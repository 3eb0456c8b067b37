"""`paymaster config`: bring the ledger the configuration; print what can be configured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, admin_errors, command_settings, connect_ledger, run_async
from paymaster.cli.output import EXIT_NO, JsonOption, print_json, print_line
from paymaster.cli.signing import SignOption, signed

if TYPE_CHECKING:
    from paymaster.messages import ConfigState, DeskConfig
    from paymaster.settings import Settings

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

    settings = command_settings(config)
    wanted = desk_config(settings)
    state = run_async(_apply(settings, wanted, sign_with, force=force))
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


async def _apply(settings: "Settings", wanted: "DeskConfig", sign_with: Path | None, *, force: bool) -> "ConfigState":
    from paymaster.messages import Configure

    ledger = await connect_ledger(settings)
    change = await signed(ledger, settings, "configure", Configure(config=wanted, force=force), sign_with)
    with admin_errors():
        return await ledger.configure(wanted, force=force, signature=change.signature)
