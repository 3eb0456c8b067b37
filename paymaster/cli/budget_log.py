"""`paymaster budget log`: who changed which cap, and what configurations changed."""

from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async
from paymaster.cli.present import JsonOption, print_json, print_line

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.settings import Settings
    from paymaster.storage.ledger_log import LoggedChange


def log(
    account: Annotated[
        str | None, typer.Argument(help="budget:acme/content, service:openai, or a budget's path. Default: all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many changes.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Who changed caps and configurations, when, from what to what, and why; the latest last."""
    settings = command_settings(config)
    key = account if account is None or ":" in account else f"budget:{account}"
    changes = run_async(_changes(settings, key, limit))
    if as_json:
        document: list[JsonValue] = [
            {"at": change.at.isoformat(), "who": change.who, "what": change.what, "reason": change.reason}
            for change in changes
        ]
        print_json({"ledger": settings.ledger.name, "account": key, "changes": document})
        return
    for change in changes:
        reason = f" ({change.reason})" if change.reason else ""
        print_line(f"{change.at:%Y-%m-%d %H:%M:%S} UTC  {change.who or 'somebody'}: {change.what}{reason}")
    if not changes:
        print_line("no change is stored for this")


async def _changes(settings: "Settings", account: str | None, limit: int) -> "list[LoggedChange]":
    from paymaster.storage.ledger_log import logged_changes

    async with open_database(settings) as engine:
        return await logged_changes(engine, settings.ledger.name, account, limit)
