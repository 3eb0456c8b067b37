"""`paymaster admin`: keys with which admins sign their commands."""

import json
from pathlib import Path
from typing import Annotated

import typer

from paymaster.cli.exits import CommandError
from paymaster.cli.present import JsonOption, print_json, print_line

app = typer.Typer(help="Keys with which admins sign their commands.", no_args_is_help=True)


@app.callback()
def admin() -> None:
    """Keys with which admins sign their commands."""


@app.command(name="new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where to write it; only you can read the file.")],
    name: Annotated[str, typer.Option(help="Whose it is; kept with every change.")] = "your-name",
    as_json: JsonOption = False,
) -> None:
    """Make a key for `--sign-with`, and print the line for the configuration."""
    from paymaster.security.signing_key import KeyFileUnusable, SigningKey

    try:
        key = SigningKey.create(file)
    except KeyFileUnusable as error:
        raise CommandError(str(error)) from None
    if as_json:
        print_json({"file": str(file), "name": name, "public": key.public})
    else:
        print_line(f"{file} holds the key. Its line in the configuration:\n")
        print_line(f"[admin.keys]\n{json.dumps(name)} = {json.dumps(key.public)}")
