"""`paymaster prices`: what a newer list of prices would change, and bringing it to the workers."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    admin_errors,
    command_settings,
    connect_ledger,
    open_database,
    run_async,
    tell_if_slow,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_note, print_styled
from paymaster.cli.questions import confirm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import JsonValue
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.admission.configuration import Difference
    from paymaster.ledger.newer_prices import NewerList
    from paymaster.providers.list_changes import ListChange
    from paymaster.settings import Settings

app = typer.Typer(help="The list of prices that workers look models up in.", no_args_is_help=True)


@app.callback()
def prices() -> None:
    """The list of prices that workers look models up in."""


@app.command()
def diff(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What a newer list would change, and which prices the ledger granted last that are others now. Exit code 1:
    something."""
    settings = command_settings(config)
    newer, granted = run_async(_differences(settings))
    if as_json:
        print_json({"url": newer.url, "list": _document(newer.changes), "ledger": [each.text for each in granted]})
    else:
        _print(settings, newer.changes)
        for difference in granted:
            print_styled((f"the ledger's last grant: {difference.text}", "red" if difference.loosens else ""))
    if newer.changes or granted:
        raise typer.Exit(EXIT_NO)


@app.command()
def refresh(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask where a price falls to zero or by a large part.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring the newest list: running workers look prices up in it within seconds, without a restart.

    Where a price falls to zero, or by more than `prices.ask_at_fall`, somebody has to agree.
    """
    settings = command_settings(config)
    newer = run_async(_fetched(settings))
    if not as_json:
        _print(settings, newer.changes)
    brings = not newer.is_in_force
    if brings:
        if newer.needs_consent and not yes:
            _ask(as_json=as_json)
        run_async(_store(settings, newer))
    if as_json:
        print_json({"url": newer.url, "brought": brings, "list": _document(newer.changes)})
    else:
        print_line("brought: workers take it within seconds" if brings else "nothing to do: this list is in force")


async def use_stored_list(settings: "Settings") -> None:
    """Looks prices up where the workers do, as far as the database says it."""
    if settings.database.url is not None:
        try:
            async with open_database(settings) as engine:
                await _look(settings, engine)
        except CommandError as error:
            print_note(f"prices are those of this package's own list: {error}")


async def _look(settings: "Settings", engine: "AsyncEngine") -> None:
    from paymaster.ledger.price_lists import KeptPrices

    await KeptPrices(engine, settings.ledger.name).look()


async def _differences(settings: "Settings") -> "tuple[NewerList, Sequence[Difference]]":
    from paymaster.admission.price_changes import price_differences
    from paymaster.providers.price_list import rates_now

    ledger = await connect_ledger(settings)
    with admin_errors():
        granted = (await ledger.configuration()).prices
    newer = await _fetched(settings, granted)
    return newer, price_differences(granted, rates_now(settings, granted))


async def _fetched(settings: "Settings", granted: "Iterable[str]" = ()) -> "NewerList":
    """The list at its address, beside the one in force. Raises CommandError."""
    from paymaster.ledger.newer_prices import fetch_newer
    from paymaster.providers.list_fetching import ListUnavailable, list_url

    async with open_database(settings) as engine:
        await _look(settings, engine)
        try:
            async with tell_if_slow(f"fetching {list_url(settings)}"):
                return await fetch_newer(settings, engine, granted)
        except ListUnavailable as error:
            raise CommandError(str(error)) from None


async def _store(settings: "Settings", newer: "NewerList") -> None:
    from paymaster.ledger.newer_prices import bring_list

    async with open_database(settings) as engine:
        await bring_list(settings, engine, newer, f"{admin()}, prices refresh")


def _print(settings: "Settings", changes: "Sequence[ListChange]") -> None:
    """Those of models that the configuration names, and whatever somebody has to agree to."""
    from paymaster.providers.list_changes import used_models

    used = used_models(settings)
    shown = [change for change in changes if change.needs_consent or change.name in used]
    for change in shown:
        print_styled((change.text, "red" if change.needs_consent else ""))
    others = len(changes) - len(shown)
    if others:
        print_line(f"and {others:,} changes of models that the configuration does not name (--json has them)")
    elif not shown:
        print_line("the list changes no price of these services")


def _document(changes: "Iterable[ListChange]") -> "list[JsonValue]":
    return [{"model": each.name, "text": each.text, "needs_consent": each.needs_consent} for each in changes]


def _ask(*, as_json: bool) -> None:
    nobody = (
        "a price falls to zero or by a large part, and nobody can be asked here: look at `paymaster prices diff`, "
        "then give --yes"
    )
    confirm("A price falls to zero or by a large part. Take the list?", nobody=nobody, as_json=as_json)
