"""`paymaster top`: how things stand, in a terminal, anew every two seconds, from the copy of the status."""

import asyncio
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.bars import colour, terminal_bar
from paymaster.cli.connection import ConfigOption, command_settings, open_database, run_async, until_ctrl_c
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_renderable, table_of, utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.messages import AccountStatus, DeskStatus
    from paymaster.reports.calls import CallRow
    from paymaster.settings import Settings

_EVERY_S = 2.0
_ACCOUNTS, _CALLS, _WAITING = 12, 8, 8


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once and end; so it is where no terminal is.")] = False,
    config: ConfigOption = None,
) -> None:
    """Budgets nearest their caps, what waits, services and the last calls, until q or Ctrl-C."""
    settings = command_settings(config)
    watched = not once and sys.stdout.isatty() and sys.stdin.isatty()
    run_async(_watch(settings) if watched else _print_once(settings))


async def _print_once(settings: "Settings") -> None:
    async with open_database(settings) as engine:
        print_renderable(await _picture(engine, settings.ledger.name))


async def _watch(settings: "Settings") -> None:
    async with open_database(settings) as engine:
        await until_ctrl_c(_anew(engine, settings.ledger.name))


async def _anew(engine: "AsyncEngine", ledger: str) -> None:
    from rich.live import Live

    first = await _picture(engine, ledger)  # what is wrong with the database is said before the screen is taken
    with _pressed("q") as left, Live(first, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while not left.is_set():
            live.update(await _picture(engine, ledger), refresh=True)
            try:
                async with asyncio.timeout(_EVERY_S):
                    await left.wait()
            except TimeoutError:
                pass


@contextmanager
def _pressed(key: str) -> Generator[asyncio.Event]:
    """An event that is set when somebody presses the key; the terminal is as it was afterwards."""
    pressed, loop, before = asyncio.Event(), asyncio.get_running_loop(), termios.tcgetattr(sys.stdin)

    def read() -> None:
        if key in sys.stdin.read(1).lower():
            pressed.set()

    tty.setcbreak(sys.stdin)
    loop.add_reader(sys.stdin, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _picture(engine: "AsyncEngine", ledger: str) -> "RenderableType":
    """Raises CommandError where there is no copy."""
    from rich.console import Group

    from paymaster.ledger.copied_status import CopiedStatus
    from paymaster.reports.calls import calls_report

    standing = CopiedStatus(engine, ledger)
    copied = await standing.ledger()
    if copied is None:
        raise CommandError(f"the ledger {ledger} has not told how it stands: does a worker run?")
    accounts = await standing.short(0.0, _ACCOUNTS)
    calls = await calls_report(engine, ledger=ledger, limit=_CALLS)
    parts = [_head(copied.status, copied.copied_at), _accounts(accounts), _services(copied.status)]
    parts += [_waiting(copied.status)] if copied.status.waiting else []
    return Group(*parts, _calls(calls))


def _head(status: "DeskStatus", copied_at: datetime) -> "RenderableType":
    from rich.text import Text

    counts = f"{status.holds} in flight, {status.parked} parked, {status.unconfirmed} unconfirmed"
    return Text(f"ledger {status.ledger}: {counts}; it changed last at {copied_at:%H:%M:%S} UTC\n")


def _accounts(accounts: "Sequence[AccountStatus]") -> "RenderableType":
    """Those in which calls wait, then those that are nearest a cap."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    headers = ["account", "window", "", "spent", "held", "of", "average/h", "parked"]
    rows = [row for account in accounts for row in _windows(account, now_ms)]
    return table_of(headers, rows, right=["spent", "held", "of", "average/h", "parked"])


def _windows(account: "AccountStatus", now_ms: int) -> "Iterator[list[str | tuple[str, str]]]":
    from paymaster.admission.burn_rate import burn_nanos_per_hour
    from paymaster.values.money import format_usd

    for window in account.windows:
        if window.cap_nanos is not None:
            burn = burn_nanos_per_hour(window, now_ms)
            yield [
                account.account,
                window.window,
                (terminal_bar(window), colour(window) or ""),
                format_usd(window.posted_nanos),
                format_usd(window.pending_nanos),
                format_usd(window.cap_nanos),
                format_usd(int(burn)) if burn else "",
                str(account.parked or ""),
            ]


def _services(status: "DeskStatus") -> "RenderableType":
    from paymaster.observability.temporal_ui import service_state

    rows = [[each.service, service_state(each)] for each in status.services]
    return table_of(["service", "state"], rows)


def _waiting(status: "DeskStatus") -> "RenderableType":
    from paymaster.messages import call_id_of

    rows = [
        [call_id_of(each.workflow_id), ", ".join(each.budgets), each.detail, utc(each.deadline_at_ms) or ""]
        for each in status.waiting[:_WAITING]
    ]
    return table_of(["parked call", "budget", "waits for", "until"], rows)


def _calls(calls: "Sequence[CallRow]") -> "RenderableType":
    """The newest first."""
    from paymaster.values.money import format_usd

    rows = [
        [each.call_id, each.budget, f"{each.service}/{each.model}", each.status, format_usd(each.cost_nanos)]
        for each in reversed(calls)
    ]
    return table_of(["last calls", "budget", "service/model", "status", "cost"], rows, right=["cost"])
