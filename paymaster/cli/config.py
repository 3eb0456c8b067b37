"""`paymaster config`: check the file, compare it with the ledger's configuration, bring it; print what can be set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    admin_errors,
    command_settings,
    connect_ledger,
    read_settings,
    run_async,
    settings_file,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.file_checks import NO_SERVICES, counts, file_checks
from paymaster.cli.present import JsonOption, print_json, print_line, print_styled
from paymaster.cli.prices import use_stored_list
from paymaster.cli.questions import confirm
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.admission.configuration import Difference
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import ConfigState, Configuration, Configure, DeskConfig
    from paymaster.settings import Settings

app = typer.Typer(help="The configuration that the ledger decides with.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """The configuration that the ledger decides with."""


@app.command()
def diff(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What the file would change where the ledger's configuration is in force. Exit code 1: something."""
    settings = command_settings(config)
    wanted = _wanted(settings)
    in_force, found = run_async(_differences(settings, wanted))
    if as_json:
        differences = _document(found)
        print_json({"digest": wanted.digest, "in_force": in_force.config.digest, "differences": differences})
    elif not found:
        print_line("no difference: the ledger has this configuration")
    else:
        _print(found)
    if found:
        raise typer.Exit(EXIT_NO)


@app.command()
def apply(
    force: Annotated[bool, typer.Option("--force", help="Re-apply a superseded configuration.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask where a cap, a budget or a service goes or a price falls.")
    ] = False,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give the ledger this configuration now; what the file lacks goes. Caps that an admin changed stay.

    Workers bring theirs at their start, which adds and changes, and removes nothing.
    """
    from paymaster.messages import Configure
    from paymaster.messages.temporal_names import CONFIGURE

    settings = command_settings(config)
    wanted = _wanted(settings)
    _, found = run_async(_differences(settings, wanted))
    if not as_json:
        _print(found)
    if any(difference.loosens for difference in found) and not yes:
        _ask(as_json=as_json)

    async def send(ledger: "Ledger", signed: "Configure") -> "ConfigState":
        return await ledger.configure(
            wanted, force=force, signature=signed.signature, who=signed.who, may_remove=signed.may_remove
        )

    change = Configure(config=wanted, force=force, who=f"{admin()}, config apply", may_remove=True)
    state = run_async(tell_ledger(settings, CONFIGURE.name, change, sign_with, send))
    if as_json:
        document = {"digest": state.digest, "applied": state.applied, "detail": state.detail}
        print_json({**document, "differences": _document(found)})
    elif state.digest == wanted.digest and not state.applied:
        print_line("nothing to do: the ledger has this configuration")
    else:
        print_line(f"{'applied' if state.applied else 'not applied'}{f': {state.detail}' if state.detail else ''}")
    if state.digest != wanted.digest:
        raise typer.Exit(EXIT_NO)


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Default: what other commands read.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a file without asking anybody: all that is wrong in it at once. Exit code 1: something. Keys: `doctor`."""
    named = settings_file(file)
    if not named.is_file():
        raise CommandError(f"there is no {named}: `paymaster init` writes one")
    problems, has = _checked(file)
    if as_json:
        print_json({"file": str(named), "ok": not problems, "problems": list(problems)})
    elif problems:
        for problem in problems:
            print_line(f"{named}: {problem}")
    else:
        print_line(f"{named}: in order ({has})")
    if problems:
        raise typer.Exit(EXIT_NO)


def _checked(file: Path | None) -> tuple[list[str], str]:
    """Everything that is wrong in the file, and how much is in it."""
    from paymaster.settings import ConfigurationError
    from paymaster.settings.desk_config import desk_config

    try:
        settings = read_settings(file)
        desk_config(settings)
    except ConfigurationError as error:
        return list(error.problems), ""
    problems = [f"{check.name}: {check.detail}" for check in file_checks(settings) if not check.ok]
    if not settings.services:
        problems.append(NO_SERVICES)
    if not settings.budgets:
        problems.append('budgets: there is none, so calls are refused: add [budgets."NAME"]')
    return problems, counts(settings)


@app.command()
def docs() -> None:
    """Print docs/configuration.md: every key with its meaning and its default, as the settings say it."""
    from paymaster.settings.reference import settings_reference

    print_line(settings_reference().rstrip("\n"))


@app.command()
def schema() -> None:
    """Print the JSON schema of paymaster.toml, by which editors complete and check it."""
    from paymaster.settings.schema import settings_schema

    print_line(settings_schema().rstrip("\n"))


def _wanted(settings: "Settings") -> "DeskConfig":
    from paymaster.settings import ConfigurationError
    from paymaster.settings.desk_config import desk_config

    try:
        return desk_config(settings)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None


async def _differences(settings: "Settings", wanted: "DeskConfig") -> "tuple[Configuration, Sequence[Difference]]":
    """What is in force, and what the file changes; prices of models that the ledger has granted a call to."""
    from paymaster.admission.configuration import differences
    from paymaster.admission.price_changes import price_differences
    from paymaster.providers.price_list import rates_now

    ledger = await connect_ledger(settings)
    with admin_errors():
        in_force = await ledger.configuration()
    await use_stored_list(settings)
    routed = {name for route in settings.routes.values() for name in route.names}
    prices = rates_now(settings, routed & in_force.prices.keys())
    found = differences(in_force.config, wanted, in_force.admin_caps_nanos)
    return in_force, sorted((*found, *price_differences(in_force.prices, prices)), key=_is_ordinary)


def _is_ordinary(difference: "Difference") -> bool:
    return not difference.loosens


def _print(found: "Sequence[Difference]") -> None:
    for difference in found:
        print_styled((difference.text, "red" if difference.loosens else ""))


def _document(found: "Sequence[Difference]") -> "list[JsonValue]":
    return [{"text": difference.text, "loosens": difference.loosens} for difference in found]


def _ask(*, as_json: bool) -> None:
    nobody = (
        "a cap, a budget or a service goes, or a price falls, and nobody can be asked here: look at "
        "`paymaster config diff`, then give --yes"
    )
    confirm("A cap, a budget or a service goes, or a price falls. Apply it?", nobody=nobody, as_json=as_json)
