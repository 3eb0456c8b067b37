"""What somebody is asked before something goes, or a cap changes in a way that is more often a slip than meant."""

import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import print_note
from paymaster.values.money import NANOS_PER_USD, format_usd

if TYPE_CHECKING:
    from collections.abc import Collection

    from paymaster.messages import AccountStatus, Window
    from paymaster.settings import Settings

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask where a cap would be far above what it was, or an account new.")
]
_FAR_ABOVE = 10
"""So many times the cap."""
_FROM_NANOS = 10 * NANOS_PER_USD
"""Less is no disaster."""
_ALIKE = 0.8
_SIMILAR_SHOWN = 3


class Doubt(NamedTuple):
    text: str
    is_slip: bool
    """So likely that nothing is done where nobody can be asked."""


async def ask_about_cap(
    settings: "Settings", account: str, window: "Window", by_nanos: int, *, is_new_value: bool, yes: bool
) -> None:
    """`by_nanos`: what is added to the cap, or with `is_new_value` what it becomes.

    Nothing is asked where no database says how the ledger stands. Raises CommandError where nobody can be asked, and
    typer.Exit where the answer is no.
    """
    from paymaster.cli.connection import open_database
    from paymaster.ledger.copied_status import CopiedStatus
    from paymaster.storage.status_rows import copied_names

    if yes or settings.database.url is None:
        return
    async with open_database(settings) as engine:
        found = await CopiedStatus(engine, settings.ledger.name).accounts([account])
        if found is None:
            return
        status = next(iter(found.accounts), None)
        names = await copied_names(engine, settings.ledger.name) if status is None and is_new_value else []
    doubt = new_account(account, names) if status is None else far_above(status, window, by_nanos)
    if doubt is None or (status is None and not is_new_value):  # the ledger refuses a raise of what is not there
        return
    ask(doubt)


def far_above(status: "AccountStatus", window: "Window", by_nanos: int) -> Doubt | None:
    cap_nanos = next((each.cap_nanos for each in status.windows if each.window == window), None)
    if cap_nanos is None or by_nanos < _FROM_NANOS or by_nanos <= _FAR_ABOVE * cap_nanos:
        return None
    times = f", {by_nanos // cap_nanos:,} times as much" if cap_nanos else ""
    return Doubt(
        f"{format_usd(by_nanos)}{times}: the {window} cap of {status.account} is {format_usd(cap_nanos)} now",
        is_slip=True,
    )


def new_account(account: str, names: "Collection[str]") -> Doubt | None:
    """None: it is no budget's, which the ledger refuses."""
    if not account.startswith("budget:"):
        return None
    similar = get_close_matches(account, names, _SIMILAR_SHOWN, _ALIKE)
    meant = f"; did you mean {' or '.join(each.removeprefix('budget:') for each in similar)}?" if similar else ""
    return Doubt(f"{account.removeprefix('budget:')} is a new account{meant}", is_slip=bool(similar))


def ask(doubt: Doubt) -> None:
    """Raises CommandError where nobody can be asked, and typer.Exit where the answer is no."""
    if doubt.is_slip or sys.stdin.isatty():
        nobody = f"{doubt.text}, and nobody can be asked here: if it is meant, give --yes"
        confirm(f"{doubt.text}. Go on?", nobody=nobody)
    else:
        print_note(doubt.text)


def confirm(question: str, *, nobody: str, as_json: bool = False) -> None:
    """Comes back where the answer is yes, and raises typer.Exit where it is no.

    Raises CommandError, with the words of `nobody`, where nobody can be asked: also a program that reads JSON.
    """
    if as_json or not sys.stdin.isatty():
        raise CommandError(nobody)
    if not typer.confirm(question, err=True):
        raise typer.Exit(EXIT_NO)
