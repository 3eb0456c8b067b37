"""`paymaster erase`: prompts, answers and metadata of some calls go; what they cost stays."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    command_settings,
    connect_temporal,
    open_database,
    run_async,
    tell_if_slow,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_note
from paymaster.cli.questions import confirm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue
    from sqlalchemy.ext.asyncio import AsyncEngine
    from temporalio.client import Client

    from paymaster.erasure.erasing import Erased, Eraser
    from paymaster.erasure.finding import Finder, Found
    from paymaster.erasure.wanted import Wanted
    from paymaster.settings import Settings
    from paymaster.storage.erasure import Stored

_STATEMENT_TIMEOUT_S = 600.0  # by metadata every row is looked at
_SHOWN_MAX = 20


class _Asked(NamedTuple):
    wanted: "Wanted"
    cancel: bool
    reason: str
    yes: bool


class _Plan(NamedTuple):
    """What there is, before anything goes."""

    found: "Found"
    stored: "Stored"
    archive: str | None


def erase(
    call: Annotated[
        list[str] | None, typer.Option("--call", metavar="ID", help="A call, with its generations; repeatable.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="All calls that have this; repeated: that have them all."),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel the calls that run, first. What was sent is waited for.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Kept with who erased and when: a ticket's number, nothing personal.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. It cannot be undone.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Erase what is stored of calls except what they cost: histories with prompts and answers, stored bodies, metadata.

    Shows what will go, and asks. Ends with 0 when all of it is gone; where it does not, repeat it. What is not
    Paymaster's, such as histories of agents, logs and backups, stays: docs/privacy.md.
    """
    from paymaster.erasure.wanted import Wanted

    try:
        wanted = Wanted.of(call or (), metadata or ())
    except ValueError as error:
        raise CommandError(str(error)) from None
    if as_json and not yes:
        raise CommandError("with --json nobody is asked: give --yes too")
    asked = _Asked(wanted, cancel=cancel, reason=reason, yes=yes)
    plan, erased = run_async(_erase(command_settings(config), asked, show=not as_json))
    if as_json:
        print_json(_document(plan, erased))
    elif erased is not None:
        _tell(erased)
    if erased is not None and erased.stays:
        raise typer.Exit(EXIT_NO)


async def _erase(settings: "Settings", asked: _Asked, *, show: bool) -> "tuple[_Plan, Erased | None]":
    """What was found, and what went of it. None: there is nothing. Raises CommandError."""
    from temporalio.service import RPCError

    from paymaster.erasure.erasing import Eraser
    from paymaster.erasure.finding import Finder
    from paymaster.storage.erasure import in_words

    client = await connect_temporal(settings)
    async with open_database(settings, _STATEMENT_TIMEOUT_S) as engine:
        await _check_grants(engine)
        name = settings.ledger.name
        finder, eraser = Finder(client, engine, name, asked.wanted), Eraser(client, engine, name, print_note)
        try:
            plan = await _plan(client, engine, name, finder)
            if not (plan.found.calls or plan.found.others or plan.found.unreadable):
                return plan, _nothing(asked.wanted)
            if show:
                _show(plan, asked)
            if not asked.yes:
                nobody = "nobody can be asked here, and nothing was erased: if this is meant, give --yes"
                confirm("Erase it? This cannot be undone.", nobody=nobody)
            return plan, await _carry_out(engine, name, plan.found, finder, eraser, asked)
        except RPCError as error:
            told = in_words(eraser.erased.counts()) or "nothing"
            raise CommandError(
                f"Temporal does not do it: {error.message}\nGone until then: {told}. Repeat the command."
            ) from None


async def _check_grants(engine: "AsyncEngine") -> None:
    """Before anything goes. Raises CommandError."""
    from paymaster.storage.access import ERASING, missing_grants

    if missing := await missing_grants(engine, ERASING):
        raise CommandError(
            "the database's role may not erase: give this command the URL of one that may "
            f"(PAYMASTER__DATABASE__URL), or, as the owner of the tables, {' '.join(missing)}"
        )


async def _plan(client: "Client", engine: "AsyncEngine", ledger: str, finder: "Finder") -> _Plan:
    """Raises RPCError and the driver's errors."""
    from paymaster.erasure.histories import archive_of
    from paymaster.storage.erasure import stored_of

    async with tell_if_slow("looking for it in Temporal and in the database"):
        found = await finder.find()
        return _Plan(found, await stored_of(engine, ledger, client.namespace, found.stored), await archive_of(client))


def _nothing(wanted: "Wanted") -> None:
    """Raises CommandError for a call that nobody knows: its id may be mistyped."""
    if wanted.call_ids:
        raise CommandError(f"neither Temporal nor the stored rows have {wanted}", EXIT_NO)
    print_note(f"nothing is stored of {wanted}")


async def _carry_out(
    engine: "AsyncEngine", ledger: str, found: "Found", finder: "Finder", eraser: "Eraser", asked: _Asked
) -> "Erased":
    """With a note of it. Raises RPCError and the driver's errors."""
    from paymaster.storage.erasure import begin_erasure, end_erasure

    number = await begin_erasure(engine, ledger, admin(), asked.reason)
    if asked.cancel and found.running:
        async with tell_if_slow("waiting for calls that were cancelled to end"):
            await eraser.cancel(found.running, admin())
            found = await finder.find()
    async with tell_if_slow("erasing"):
        await eraser.erase(found)
        await eraser.look_again(finder)
    counts = eraser.erased.counts()
    await end_erasure(engine, number, counts | {"left": len(eraser.erased.stays)})
    return eraser.erased


# ---------------------------------------------------------------- what is shown


def _show(plan: _Plan, asked: _Asked) -> None:
    from paymaster.values.plurals import counted

    found, stored = plan.found, plan.stored
    ended = sum(each.is_running is False for each in found.calls)
    print_line(f"Of {asked.wanted} ({len(found.calls):,} found) go:")
    histories = counted(ended, "history", "histories")
    print_line(f"  {histories} in Temporal, with prompts, answers and what they can be searched by")
    if found.others:
        others = counted(len(found.others), "other history", "other histories")
        print_line(f"  {others}: counts of tokens, pieces of answers, the usage backlog")
    print_line(f"  {counted(stored.bodies, 'stored body', 'stored bodies')} of requests and answers")
    print_line(f"  all metadata of {counted(stored.rows, 'row')}")
    print_line("What they cost stays, with the ids of calls and these names:")
    _list("budgets", stored.budgets)
    _list("runs", stored.runs)
    if found.running:
        print_line("These run, " + ("and are cancelled first:" if asked.cancel else "and stay, unless you --cancel:"))
        _list("calls", [each.call.call_id for each in found.running])
    if found.unreadable:
        print_line("These cannot be decoded here, so that nobody can say whether they are meant:")
        _list("workflows", found.unreadable)
    if found.agents:
        print_line("Histories of agents may have the same prompts and answers, and are yours to delete:")
        _list("workflows", found.agents)
    if plan.archive:
        print_line(f"The namespace archives histories at {plan.archive}, which is yours to clear.")


def _list(what: str, names: "Sequence[str]") -> None:
    if names:
        more = f" and {len(names) - _SHOWN_MAX:,} more" if len(names) > _SHOWN_MAX else ""
        print_line(f"  {what}: {', '.join(names[:_SHOWN_MAX])}{more}")


def _tell(erased: "Erased") -> None:
    from paymaster.storage.erasure import in_words

    print_line(f"Erased: {in_words(erased.counts()) or 'nothing'}.")
    for workflow_id, why in erased.stays.items():
        print_line(f"left: {workflow_id}: {why}")
    if erased.stays:
        print_note("not all of it is gone: repeat the command when that is mended")


def _document(plan: _Plan, erased: "Erased | None") -> "dict[str, JsonValue]":
    found, stored = plan.found, plan.stored
    return {
        "calls": [each.call.call_id for each in found.calls],
        "agents": list(found.agents),
        "budgets": list(stored.budgets),
        "runs": list(stored.runs),
        "archive": plan.archive,
        "erased": {} if erased is None else dict(erased.counts()),
        "left": {} if erased is None else dict(erased.stays),
    }
