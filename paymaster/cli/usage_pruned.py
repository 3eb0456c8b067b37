"""What a report lacks because rows were pruned, said beside it."""

from datetime import datetime
from typing import TYPE_CHECKING

from paymaster.cli.present import print_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.reports.usage import Scope
    from paymaster.settings import Settings

LACKS_BEFORE = "lacks_pruned_before"
"""The member of a document for programs: a time, or null where nothing is lacking."""


async def lacks_what_is_pruned(
    engine: "AsyncEngine", settings: "Settings", scope: "Scope", by: "Sequence[str] | None" = None
) -> "datetime | None":
    """Before when a report lacks rows, asked after it was made. `by` None: it is one of rows alone."""
    from paymaster.reports.hourly import left_out_before
    from paymaster.storage.account_sums import pruned_before

    pruned = await pruned_before(engine, settings.ledger.name)
    since, until, run = scope["since"], scope["until"], scope["run"]
    return left_out_before(by, since, until, run, pruned_before=pruned)


def what_is_pruned(lacks_before: datetime) -> str:
    return (
        f"rows granted before {lacks_before:%Y-%m-%d %H:%M} (UTC) are pruned and not in this: of that time there are "
        "sums of whole hours, by service, model, budget and day"
    )


def tell_what_is_pruned(lacks_before: "datetime | None") -> None:
    if lacks_before is not None:
        print_note(what_is_pruned(lacks_before))
