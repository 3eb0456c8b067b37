"""`paymaster dev`: the embedded stack and a worker, for as long as one works on an agent."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_name, command_settings, run_async, until_ctrl_c
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_line, print_note
from paymaster.cli.running import RunningStack, default_data_dir
from paymaster.cli.worker import worker_program

if TYPE_CHECKING:
    from paymaster.settings import Settings

LOCAL_SERVICE = "local"
"""A service of this name, without an address that answers, is the model that `dev` runs."""
TEMPORAL_PORT = 7233
"""Temporal's usual port, so that other tools find it."""


_NO_SERVICES = (
    'No call can be made: the configuration names no service. docs/budgets.md, "Trying it here", has a '
    f"[services.{LOCAL_SERVICE}] for the model that comes with this, and a route to it."
)


def dev(
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where its data is kept. Default: the user's data folder.")
    ] = None,
    temporal_port: Annotated[
        int, typer.Option(min=0, max=64535, help="Of Temporal; its UI has the one 1000 above. 0: free ones.")
    ] = TEMPORAL_PORT,
    config: ConfigOption = None,
) -> None:
    """Run Temporal, PostgreSQL, a local model and a worker until Ctrl-C. Data is kept for the next time."""
    folder = (data_dir or default_data_dir()).absolute()
    config_file = (config or _config_file(folder)).absolute()
    run_async(_dev(folder, config_file, command_settings(config_file), temporal_port))


def _config_file(folder: Path) -> Path:
    """PAYMASTER_CONFIG, else paymaster.toml, else one in the data folder, written at the first start."""
    if named := os.environ.get("PAYMASTER_CONFIG"):
        return Path(named)
    if (here := Path("paymaster.toml")).exists():
        return here
    own = folder / "paymaster.toml"
    if not own.exists():
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text((Path(__file__).parent / "dev.toml").read_text())
        except OSError as error:
            raise CommandError(
                f"the data folder {folder} can't be used ({error}); choose one with --data-dir"
            ) from None
    return own


async def _dev(folder: Path, config_file: Path, settings: "Settings", temporal_port: int) -> None:
    from paymaster.devstack import EmbeddedStack, StackError
    from paymaster.devstack.local import LocalPaymaster

    with_model = LOCAL_SERVICE in settings.services
    stack = EmbeddedStack(folder, progress=print_note, temporal_port=temporal_port, model=with_model)
    try:
        async with LocalPaymaster(
            stack,
            config_file,
            worker_program(),
            ledger=settings.ledger.name,
            keep_settings=True,
            local_model=LOCAL_SERVICE if with_model else None,
            progress=print_note,
        ) as local:
            RunningStack(pid=os.getpid(), config_file=config_file, environment=local.environment()).announce(folder)
            print_line(f"Temporal        {stack.temporal_address}")
            print_line(f"Temporal UI     {stack.temporal_ui_url}")
            print_line(f"PostgreSQL      {stack.database_url}")
            if with_model:
                print_line(f"Local model     {stack.model_base_url}")
            print_line(f"Configuration   {config_file}")
            print_line(f"Worker's log    {local.worker_log}")
            print_line("\nIn another terminal:")
            if folder != default_data_dir().absolute():  # where other commands look by themselves
                for name, value in local.environment().items():
                    print_line(f"  export {name}='{value}'")
            print_line(f"  {command_name()} call {_example(settings)}" if settings.services else f"  {_NO_SERVICES}")
            print_line("Ctrl-C stops everything; the data stays.")
            await until_ctrl_c(local.until_worker_ends())
    except StackError as error:
        raise CommandError(str(error)) from None


def _example(settings: "Settings") -> str:
    """Arguments of `paymaster call` that this configuration knows; the budget is needed where there are several."""
    route = next(iter(settings.routes), "ROUTE")
    budget = f" --budget {next(iter(settings.budgets), 'dev')}" if len(settings.budgets) != 1 else ""
    return f'{route} "What is a ledger?"{budget}'
