"""`paymaster config`: bring the ledger the configuration."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, admin_errors, command_settings, connect_ledger, run_async
from paymaster.cli.output import EXIT_NO, JsonOption, print_json, print_line

if TYPE_CHECKING:
    from paymaster.messages import ConfigState
    from paymaster.settings import Settings

app = typer.Typer(help="The configuration that the ledger decides with.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """The configuration that the ledger decides with."""


@app.command()
def apply(
    force: Annotated[bool, typer.Option("--force", help="Bring back one that a newer one superseded.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give the ledger this configuration now. Workers do it at their start. Caps that an admin changed stay."""
    state = run_async(_apply(command_settings(config), force=force))
    if as_json:
        print_json({"digest": state.digest, "applied": state.applied, "detail": state.detail})
    else:
        print_line(f"{'applied' if state.applied else 'not applied'}{f': {state.detail}' if state.detail else ''}")
    if not state.applied and "superseded" in state.detail:
        raise typer.Exit(EXIT_NO)


async def _apply(settings: "Settings", *, force: bool) -> "ConfigState":
    from paymaster.desk_config import desk_config

    ledger = await connect_ledger(settings)
    with admin_errors():
        return await ledger.configure(desk_config(settings), force=force)
