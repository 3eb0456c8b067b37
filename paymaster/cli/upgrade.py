"""`paymaster upgrade`: after an update, when no older worker runs any more, the ledger goes by the newest rules."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    admin_errors,
    checked,
    command_settings,
    connect_ledger,
    run_async,
    tell_if_slow,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from paymaster.ledger.handle import Ledger
    from paymaster.ledger.versions import RunningWorker
    from paymaster.messages import Upgraded
    from paymaster.settings import Settings

STOP = "Stop them first; one that has ended is counted for up to 90 s."
_BEGINS_WITHIN_S = 45.0
"""The ledger's run ends when its activities have: each may take 30 s."""


def upgrade(
    force: Annotated[
        bool, typer.Option("--force", help="Although older workers run, which then get no further.")
    ] = False,
    who: Annotated[
        str | None, typer.Option(help="Who does it; of a signed command its signer. Default: user@host.")
    ] = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let the ledger go by the newest rules, once no older worker runs. An older version cannot take it over then."""
    told = run_async(_upgrade(command_settings(config), force=force, who=who or admin(), sign_with=sign_with))
    if as_json:
        print_json({"before": told.before, "rules": told.rules})
    elif told.before == told.rules:
        print_line(f"the ledger goes by rules {told.rules} already")
    else:
        print_line(f"the ledger goes by rules {told.rules} now, and not by rules {told.before} any more")


async def _upgrade(settings: "Settings", *, force: bool, who: str, sign_with: "Path | None") -> "Upgraded":
    from paymaster.admission.state import RULES
    from paymaster.messages import Upgrade
    from paymaster.messages.temporal_names import UPGRADE

    ledger = await connect_ledger(settings)
    with admin_errors():
        workers = await ledger.workers()
    older = [worker for worker in workers if worker.rules < RULES]
    if older and not force:
        raise CommandError(_refusal(older), EXIT_NO)
    change = checked(Upgrade, {"rules": RULES, "who": who})
    try:
        told = await tell_ledger(
            settings, UPGRADE.name, change, sign_with, lambda ledger, signed: ledger.upgrade(signed)
        )
    except CommandError as error:
        if not older:
            raise
        raise CommandError(f"{error}\nPerhaps an older worker answered; it cannot do this. {STOP}", EXIT_NO) from None
    async with tell_if_slow("waiting for the ledger's next run"):
        await _until_it_goes_by(told.rules, ledger)
    return told


async def _until_it_goes_by(rules: int, ledger: "Ledger") -> None:
    from paymaster.errors import LedgerNotFound

    try:
        async with asyncio.timeout(_BEGINS_WITHIN_S):
            while True:
                try:
                    if await ledger.rules() >= rules:
                        return
                except LedgerNotFound:  # between two runs, perhaps
                    pass
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise CommandError(
            f"the ledger took the command, and has not begun with rules {rules} after {_BEGINS_WITHIN_S:.0f} s: "
            "its next run will; `paymaster upgrade` again tells",
            EXIT_NO,
        ) from None


def _refusal(older: "list[RunningWorker]") -> str:
    lines = [
        f"  {worker.identity}{' (0.1.0)' if worker.rules == 1 else ''}, seen {worker.seen_s_ago} s ago "
        f"on {', '.join(worker.queues)}"
        for worker in older
    ]
    return "\n".join(
        [
            "older workers run, and cannot follow the rules of this version:",
            *lines,
            f"{STOP} `--force` goes on: their tasks fail until newer workers take them.",
        ]
    )
