"""`paymaster usage prune`: rows of months that are long over go, and what they sum up to stays."""

import re
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async, tell_if_slow
from paymaster.cli.exits import CommandError
from paymaster.cli.present import JsonOption, iso, print_json, print_line, print_note, print_table, usd
from paymaster.cli.questions import confirm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pydantic import JsonValue
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.settings import Settings
    from paymaster.storage.pruning import Old, Pruned

_OlderThan = Annotated[
    str,
    typer.Option(
        "--older-than", metavar="13mo|2y", help="Rows granted before the month that was so long ago; at least 2mo."
    ),
]
_MONTHS_MIN = 2
"""What caps, forecasts and alerts look at row by row is younger: nine weeks at most."""
_MONTHS_OF = {"mo": 1, "y": 12}


def prune(
    older_than: _OlderThan,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and take nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    file: ConfigOption = None,  # a parameter of another name has no --ledger beside it
) -> None:
    """Take the rows of old months out, of all ledgers in the database; as its owner. What they sum up to stays."""
    months = _months(older_than)
    settings = command_settings(file)
    if as_json and not (dry_run or yes):
        raise CommandError("--json: nobody is asked then; give --yes, or --dry-run")
    if dry_run or not yes:
        before, old = run_async(_look(settings, months))
        if as_json:
            print_json({"before": iso(before), "would_go": [_document(each) for each in old]})
        else:
            _print_old(before, old)
        if dry_run or not any(each.entries for each in old):
            return
        nobody = "nobody can be asked here: if they shall go, give --yes"
        confirm("They cannot be brought back. Take them out?", nobody=nobody)
    else:
        before = run_async(_months_ago(settings, months))
    pruned = run_async(_prune(settings, before, tell=not as_json))
    if as_json:
        gone: list[JsonValue] = [{"partition": each.partition, "entries": each.entries} for each in pruned]
        print_json({"before": iso(before), "pruned": gone})
    elif not pruned:
        print_line(_none(before))


def _months(text: str) -> int:
    found = re.fullmatch("([0-9]{1,3})(mo|y)", text)
    if found is None:
        raise CommandError(f"--older-than {text}: write months or years, like 13mo or 2y")
    months = int(found[1]) * _MONTHS_OF[found[2]]
    if months < _MONTHS_MIN:
        raise CommandError(f"--older-than {text}: caps and alerts need the rows of {_MONTHS_MIN} months")
    return months


async def _look(settings: "Settings", months: int) -> "tuple[datetime, list[Old]]":
    from paymaster.storage.pruning import months_ago, old_rows

    async with _database(settings) as engine, tell_if_slow("counting the stored attempts"):
        before = await months_ago(engine, months)
        return before, await old_rows(engine, before)


async def _months_ago(settings: "Settings", months: int) -> datetime:
    from paymaster.storage.pruning import months_ago

    async with _database(settings) as engine:
        return await months_ago(engine, months)


async def _prune(settings: "Settings", before: datetime, *, tell: bool) -> "list[Pruned]":
    from paymaster.storage.pruning import PartitionBusy, prune

    pruned: list[Pruned] = []
    async with _database(settings) as engine:
        try:
            async for each in prune(engine, before):
                pruned.append(each)
                if tell:
                    print_line(_gone(each))
        except PartitionBusy as busy:
            raise CommandError(str(busy)) from None
    return pruned


@asynccontextmanager
async def _database(settings: "Settings") -> "AsyncGenerator[AsyncEngine]":
    """Raises CommandError, also for a role that may not look into the partitions, or take them out."""
    from sqlalchemy.exc import DBAPIError

    from paymaster.storage.access import is_forbidden
    from paymaster.storage.pruning import PRUNE_TIMEOUT_S

    async with open_database(settings, PRUNE_TIMEOUT_S) as engine:
        try:
            yield engine
        except DBAPIError as error:
            if not is_forbidden(error):
                raise
            raise CommandError(f"{error.orig}: run it as the role that migrates, which owns the tables") from None


def _gone(pruned: "Pruned") -> str:
    if pruned.entries == 1:
        return f"{pruned.partition}: 1 row has gone, its sums stay"
    return f"{pruned.partition}: {pruned.entries:,} rows have gone, their sums stay"


def _print_old(before: datetime, old: "Sequence[Old]") -> None:
    from paymaster.values.money import format_usd

    if not old:
        print_line(_none(before))
        return
    rows = [
        [
            each.partition,
            f"{each.entries:,}",
            format_usd(each.cost_nanos),
            f"{each.unresolved:,}" if each.unresolved else "",
        ]
        for each in old
    ]
    print_table(["partition", "rows", "cost", "unconfirmed, stay"], rows, right=["rows", "cost", "unconfirmed, stay"])
    print_note(
        f"granted before {before:%Y-%m-%d} (UTC), of all ledgers in this database. What stays: sums of each hour by "
        "service, model and budget, what accounts and runs have spent, and which calls there were"
    )


def _none(before: datetime) -> str:
    return f"no rows were granted before {before:%Y-%m-%d} (UTC)"


def _document(old: "Old") -> "JsonValue":
    return {
        "partition": old.partition,
        "entries": old.entries,
        "cost_usd": usd(old.cost_nanos),
        "unconfirmed_stay": old.unresolved,
    }
