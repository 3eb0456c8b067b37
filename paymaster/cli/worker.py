"""`paymaster worker`: a worker from the checkout or the image."""

import os
import sys
from typing import Annotated, Literal

import typer

from paymaster.cli.connection import ConfigOption
from paymaster.cli.output import CommandError


def worker(
    role: Annotated[
        Literal["all", "workflows", "activities"],
        typer.Option(help="What this process runs. At most 8 processes run workflows; activities scale out."),
    ] = "all",
    config: ConfigOption = None,
) -> None:
    """Run a worker until it is stopped."""
    from paymaster.devstack.errors import StackError
    from paymaster.devstack.local import worker_program

    try:
        program = worker_program()
    except StackError as error:
        raise CommandError(str(error)) from None
    arguments = ["--role", role] if config is None else ["--role", role, "--config", str(config)]
    # In the place of this process, so that signals reach the worker and its exit code is ours.
    os.execv(sys.executable, [sys.executable, str(program), *arguments])  # noqa: S606
