"""Collects what the usage page shows, and writes the file."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from paymaster.cli.connection import ledger_status, open_database, tell_if_slow
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_note
from paymaster.cli.usage_pruned import lacks_what_is_pruned, what_is_pruned

if TYPE_CHECKING:
    from paymaster.messages import AccountStatus
    from paymaster.reports.usage import Scope
    from paymaster.settings import Settings


async def write_page(settings: "Settings", file: Path, scope: "Scope") -> None:
    """Raises CommandError when the database cannot be used, or the file not be written."""
    from paymaster.reports.page import render
    from paymaster.reports.page_figures import page_figures

    ledger = settings.ledger.name
    async with open_database(settings) as engine, tell_if_slow("summing up the stored attempts"):
        figures = await page_figures(engine, ledger, scope)
        lacks_before = await lacks_what_is_pruned(engine, settings, scope)
    page = render(
        title=f"Usage of ledger {ledger}",
        covers=_covers(scope, lacks_before),
        made_at=datetime.now(UTC),
        figures=figures,
        accounts=await _accounts(settings, scope["budget"]),
    )
    try:
        await asyncio.to_thread(file.write_text, page, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from None


async def _accounts(settings: "Settings", budget: str | None) -> "tuple[AccountStatus, ...] | None":
    """The ledger's accounts; None, with a note, when it does not answer: the rest of the page is as useful."""
    try:
        accounts = (await ledger_status(settings)).accounts
    except CommandError as error:
        print_note(f"the page has no caps: {error}")
        return None
    if budget is None:
        return accounts
    return tuple(each for each in accounts if f"{each.account}/".startswith(f"budget:{budget}/"))


def _covers(scope: "Scope", lacks_before: datetime | None) -> str:
    since, until = scope["since"], scope["until"]
    times = (
        "all time"
        if since is None and until is None
        else f"{'the beginning' if since is None else f'{since:%Y-%m-%d %H:%M}'} to "
        f"{'now' if until is None else f'{until:%Y-%m-%d %H:%M}'} (UTC)"
    )
    within = [f"{name} {of} and below" for name, of in (("budget", scope["budget"]), ("run", scope["run"])) if of]
    pruned = "" if lacks_before is None else f" · {what_is_pruned(lacks_before)}"
    return ", ".join([times, *within]) + pruned
