"""`paymaster reconcile`: do the stored entries and the ledger's books agree?"""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin_errors,
    command_settings,
    connect_ledger,
    ledger_status,
    open_database,
    run_async,
)
from paymaster.cli.output import EXIT_NO, JsonOption, print_json, print_line, print_note, print_table, usd

if TYPE_CHECKING:
    from paymaster.messages import DeskStatus
    from paymaster.settings import Settings


_LOADS_WITHIN_S = 60.0


def reconcile(
    repair: Annotated[
        bool, typer.Option("--repair", help="Where they disagree, make the ledger read the stored rows again.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare what is stored with what the ledger posted. Exit code 1 where they disagree."""
    settings = command_settings(config)
    status, stored = run_async(_both(settings))
    if repair and _differing(status, stored):
        print_note("they disagree; the ledger reads the stored rows again")
        status, stored = run_async(_repaired(settings))
    posted = _posted(status)
    differing = _differing(status, stored)
    if as_json:
        print_json(
            {
                "ledger": status.ledger,
                "agree": not differing,
                "holds": status.holds,
                "accounts": [
                    {
                        "account": account,
                        "posted_usd": usd(nanos),
                        "stored_usd": usd(stored[account]),
                        "difference_usd": usd(stored[account] - nanos),
                    }
                    for account, nanos in posted.items()
                ],
            }
        )
    else:
        print_comparison(status, stored)
    if differing:
        print_note(f"{len(differing)} of {len(posted)} accounts differ")
        if status.holds:
            print_note(
                f"{status.holds} calls are in flight: an attempt is stored a moment before it is posted, so the "
                "difference may be just those. Run this again when they have ended."
            )
        raise typer.Exit(EXIT_NO)


def print_comparison(status: "DeskStatus", stored: dict[str, int]) -> list[str]:
    """For people: both sums of each account. Returns the accounts that differ."""
    from paymaster.money import format_usd

    posted = _posted(status)
    differing = _differing(status, stored)
    headers = ["account", "posted", "stored", "difference"]
    rows = [
        [
            account,
            format_usd(nanos),
            format_usd(stored[account]),
            format_usd(stored[account] - nanos) if account in differing else "",
        ]
        for account, nanos in posted.items()
    ]
    print_table(headers, rows, right=headers[1:])
    if not differing:
        print_line(f"ledger {status.ledger} and the database agree, to the nano-dollar")
    return differing


def _differing(status: "DeskStatus", stored: dict[str, int]) -> list[str]:
    return [account for account, nanos in _posted(status).items() if nanos != stored[account]]


def _posted(status: "DeskStatus") -> dict[str, int]:
    """What each account has posted in all."""
    return {
        account.account: window.posted_nanos
        for account in status.accounts
        for window in account.windows
        if window.window == "total"
    }


async def _repaired(settings: "Settings") -> "tuple[DeskStatus, dict[str, int]]":
    """Both sums again, after the ledger has taken the stored rows for the truth."""
    ledger = await connect_ledger(settings)
    with admin_errors():
        await ledger.reload()
        async with asyncio.timeout(_LOADS_WITHIN_S):
            while any(account.loading for account in (await ledger.status()).accounts):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
    return await _both(settings)


async def _both(settings: "Settings") -> "tuple[DeskStatus, dict[str, int]]":
    """The ledger's status, and the sums of the stored entries for the same accounts."""
    from paymaster.database import posted_by_account

    status = await ledger_status(settings)
    async with open_database(settings) as engine:
        stored = await posted_by_account(engine, status.ledger, [account.account for account in status.accounts])
    return status, stored
