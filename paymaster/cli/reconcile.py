"""`paymaster reconcile`: do the stored entries and the ledger's books agree, and if not, why?"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    admin_errors,
    checked,
    command_settings,
    connect_ledger,
    open_database,
    run_async,
)
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import JsonOption, print_json, print_line, print_note, print_table, usd
from paymaster.cli.signing import SignOption, tell_ledger

if TYPE_CHECKING:
    from pydantic import JsonValue
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.ledger.handle import Ledger
    from paymaster.messages import DeskStatus, UsageEntry, Window
    from paymaster.settings import Settings


_LOADS_WITHIN_S = 60.0
_EXPLAINED_MAX = 20  # --json has all of them


@dataclass(frozen=True)
class Line:
    """One account in one window: what the ledger posted, and what is stored."""

    account: str
    window: "Window"
    posted_nanos: int
    stored_nanos: int
    held_nanos: int
    missing_nanos: int

    @property
    def differs(self) -> bool:
        return self.posted_nanos != self.stored_nanos

    def why(self, in_flight: int, in_backlog: int) -> str:
        """What a difference most likely comes from, and what to do about it."""
        if self.missing_nanos:
            return (
                "the database has less than the ledger posted: it was put back to an earlier time, or rows were "
                "deleted. What was posted stays; if the rows are right: "
                f"paymaster reconcile --accept-lower {self.account} --reason …"
            )
        if self.posted_nanos > self.stored_nanos:
            if in_backlog:
                return f"{in_backlog} records still wait in the usage backlog to be stored"
            return "rows are missing that the ledger has posted: was the database put back? See --repair"
        if in_flight:
            return f"{in_flight} calls are in flight, and an attempt is stored a moment before it is posted"
        return "rows that the ledger has not posted: Temporal was put back, or a settlement was lost. See --repair"


@dataclass(frozen=True)
class Comparison:
    status: "DeskStatus"
    lines: tuple[Line, ...]
    in_backlog: int

    @property
    def differing(self) -> list[Line]:
        return [line for line in self.lines if line.differs]


def reconcile(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Write rows that only the ledger has, and make it read the stored rows and copy its status again.",
        ),
    ] = False,
    accept_lower: Annotated[
        str | None,
        typer.Option(metavar="ACCOUNT|all", help="The rows of this account are right, also where they are less."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with --accept-lower.")] = "",
    who: Annotated[str | None, typer.Option(help="Kept with --accept-lower. Default: user@host.")] = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare what is stored with what the ledger posted, and say why it differs. Exit code 1 where it does."""
    settings = command_settings(config)
    if accept_lower is not None:
        run_async(_accept_lower(settings, accept_lower, reason, who or admin(), sign_with))
    found = run_async(_compare(settings))
    if repair:
        if found.differing:
            print_note("they disagree; the ledger reads the stored rows again")
        run_async(_repair(settings))
        found = run_async(_compare(settings))
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if found.differing:
        raise typer.Exit(EXIT_NO)


def _print(found: Comparison) -> None:
    _print_sums(found.status, {line.account: line.stored_nanos for line in found.lines if line.window == "total"})
    differing = found.differing
    if not differing:
        _print_agreement(found.status.ledger)
        return
    total = [line for line in found.lines if line.window == "total"]
    accounts = {line.account for line in differing}
    print_note(f"{len(accounts)} of {len(total)} accounts differ")
    for line in differing[:_EXPLAINED_MAX]:
        print_note(
            f"{line.account} ({line.window}): posted {usd(line.posted_nanos)}, stored {usd(line.stored_nanos)}, "
            f"held {usd(line.held_nanos)}: {line.why(found.status.holds, found.in_backlog)}"
        )
    if found.status.holds:
        print_note(
            f"{found.status.holds} calls are in flight: an attempt is stored a moment before it is posted, so the "
            "difference may be just those. Run this again when they have ended."
        )


def _document(found: Comparison) -> "JsonValue":
    accounts: dict[str, list[Line]] = {}
    for line in found.lines:
        accounts.setdefault(line.account, []).append(line)
    documents: list[JsonValue] = []
    for account, lines in accounts.items():
        total = lines[-1]
        windows: list[JsonValue] = [
            {
                "window": line.window,
                "posted_usd": usd(line.posted_nanos),
                "stored_usd": usd(line.stored_nanos),
                "held_usd": usd(line.held_nanos),
                "missing_usd": usd(line.missing_nanos),
                "why": line.why(found.status.holds, found.in_backlog) if line.differs else None,
            }
            for line in lines
        ]
        documents.append(
            {
                "account": account,
                "posted_usd": usd(total.posted_nanos),
                "stored_usd": usd(total.stored_nanos),
                "difference_usd": usd(total.stored_nanos - total.posted_nanos),
                "windows": windows,
            }
        )
    return {
        "ledger": found.status.ledger,
        "agree": not found.differing,
        "holds": found.status.holds,
        "in_backlog": found.in_backlog,
        "accounts": documents,
    }


def print_comparison(status: "DeskStatus", stored: dict[str, int]) -> list[str]:
    """For people: both sums of each account. Returns the accounts that differ."""
    differing = _print_sums(status, stored)
    if not differing:
        _print_agreement(status.ledger)
    return differing


def _print_sums(status: "DeskStatus", stored: dict[str, int]) -> list[str]:
    from paymaster.values.money import format_usd

    posted = {
        account.account: window.posted_nanos
        for account in status.accounts
        for window in account.windows
        if window.window == "total"
    }
    differing = [account for account, nanos in posted.items() if nanos != stored[account]]
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
    return differing


def _print_agreement(ledger: str) -> None:
    print_line(f"ledger {ledger} and the database agree, to the nano-dollar")


async def _compare(settings: "Settings") -> Comparison:
    """The ledger's books, and the sums of the stored entries for the same accounts and windows."""
    ledger = await connect_ledger(settings)
    with admin_errors():
        status = await ledger.status()
        in_backlog = await ledger.in_backlog()
    async with open_database(settings) as engine:
        stored = await _stored(engine, status)
    lines = tuple(
        Line(
            account.account,
            window.window,
            window.posted_nanos,
            stored.get(account.account, {}).get(window.window, 0),
            window.pending_nanos,
            window.missing_nanos,
        )
        for account in status.accounts
        for window in account.windows
    )
    return Comparison(status, lines, in_backlog)


async def _stored(engine: "AsyncEngine", status: "DeskStatus") -> "dict[str, dict[Window, int]]":
    from paymaster.admission.clock import JUMP_MS
    from paymaster.messages import LoadSpend
    from paymaster.storage.ledger_state_rows import load_spend
    from paymaster.values.windows import window_start_ms

    stored: dict[str, dict[Window, int]] = {}
    for zone in {account.time_zone for account in status.accounts}:
        accounts = [account for account in status.accounts if account.time_zone == zone]
        starts: dict[Window, int] = {}
        for window in (window for account in accounts for window in account.windows):
            end_ms = window.ends_at_ms  # a ledger of an older version says only when it ends
            starts[window.window] = window.began_at_ms or (
                0 if end_ms is None else window_start_ms(window.window, end_ms - 1)
            )
        wanted = LoadSpend(
            number=0,
            ledger=status.ledger,
            accounts=tuple(account.account for account in accounts),
            known_holds=(),
            with_cap_changes=False,
            window_starts_ms=starts,
            latest_ms=status.now_ms + JUMP_MS if status.now_ms else None,
        )
        stored |= (await load_spend(engine, wanted)).posted_nanos
    return stored


async def _accept_lower(settings: "Settings", account: str, reason: str, who: str, sign_with: Path | None) -> None:
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import AcceptLower
    from paymaster.messages.temporal_names import ACCEPT_LOWER

    if not reason:
        raise CommandError("--accept-lower lowers what counts against caps: say why with --reason")
    name = account if account == "all" or ":" in account else f"budget:{account}"
    change = checked(AcceptLower, {"account": name, "reason": reason, "who": who})
    await tell_ledger(settings, ACCEPT_LOWER.name, change, sign_with, Ledger.accept_lower)
    with admin_errors():
        await _loaded(await connect_ledger(settings))


async def _repair(settings: "Settings") -> None:
    """Writes the rows of unconfirmed holds that have none, ends those whose rows are final, and has all read again."""
    ledger = await connect_ledger(settings)
    with admin_errors():
        async with open_database(settings) as engine:
            await _repair_unconfirmed(ledger, engine)
        await ledger.reload()
        await _loaded(ledger)


async def _repair_unconfirmed(ledger: "Ledger", engine: "AsyncEngine") -> None:
    from paymaster.calls.usage_records import expiry_entry
    from paymaster.messages import Settle
    from paymaster.storage.usage_rows import entries_of_holds, insert_entries
    from paymaster.values.cost_lines import Kind, in_one

    holds = {hold.grant.hold_id: hold for hold in await ledger.unconfirmed_holds()}
    entries: dict[str, list[UsageEntry]] = {}
    for entry in await entries_of_holds(engine, ledger.name, list(holds)):
        entries.setdefault(entry.hold_id, []).append(entry)
    lost = [hold for hold_id, hold in holds.items() if hold_id not in entries]
    # Under the id that its own row would have: if the call still ends, that row counts instead.
    ids = {False: "/1", True: "/expiry"}
    rows = [
        expiry_entry(hold.grant, hold.call, ledger.name).model_copy(
            update={
                "attempt_id": hold.grant.hold_id + ids[hold.expired],
                "cost_nanos": hold.posted_nanos,
                "paid_for": in_one(Kind.BOUND, hold.posted_nanos),
            }
        )
        for hold in lost
    ]
    await insert_entries(engine, rows)
    final = {hold_id: rows for hold_id, rows in entries.items() if all(row.state == "final" for row in rows)}
    settlements = [
        Settle(
            hold_id=hold_id, cost_nanos=max(0, sum(row.cost_nanos for row in rows)), epoch=holds[hold_id].grant.epoch
        )
        for hold_id, rows in final.items()
    ]
    if settlements:
        await ledger.send(settlements)
    if rows or settlements:
        print_note(
            f"unconfirmed attempts: {len(rows)} rows that only the ledger had were written, "
            f"{len(settlements)} that the rows know were posted"
        )


async def _loaded(ledger: "Ledger") -> None:
    """Waits until the ledger has read what it was told to."""
    async with asyncio.timeout(_LOADS_WITHIN_S):
        while any(account.loading for account in (await ledger.status()).accounts):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
