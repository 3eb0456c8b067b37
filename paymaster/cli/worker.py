"""`paymaster worker`: a worker from the checkout or the image."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import paymaster
from paymaster.cli.connection import ConfigOption
from paymaster.cli.exits import CommandError
from paymaster.values.extras import require


def worker_program() -> Path:
    """`worker.py` of the checkout or image. Raises CommandError in an installed wheel, which has none."""
    program = Path(paymaster.__file__).resolve().parents[1] / "worker.py"
    if not program.is_file():
        raise CommandError(f"workers run from Paymaster's checkout or image; there is no {program}")
    return program


def worker(
    role: Annotated[
        Literal["all", "workflows", "activities"],
        typer.Option(help="What this process runs: calls and the ledger, services and the database, or all."),
    ] = "all",
    config: ConfigOption = None,
) -> None:
    """Run a worker until it is stopped; from Paymaster's checkout or image."""
    require("worker", "a worker")
    program = worker_program()
    arguments = ["--role", role] if config is None else ["--role", role, "--config", str(config)]
    # In the place of this process, so that signals reach the worker and its exit code is ours.
    os.execv(sys.executable, [sys.executable, str(program), *arguments])  # noqa: S606
