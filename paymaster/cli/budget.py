"""`paymaster budget`: the accounts of the ledger, and raising a cap."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from paymaster.cli.connection import (
    ConfigOption,
    admin,
    admin_errors,
    command_settings,
    connect_ledger,
    ledger_status,
    run_async,
)
from paymaster.cli.output import (
    CommandError,
    JsonOption,
    print_json,
    print_line,
    print_note,
    print_table,
    usd,
    utc,
)
from paymaster.cli.signing import SignOption, signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.messages import (
        AccountStatus,
        AdminMessage,
        CapState,
        DeskStatus,
        RaiseCap,
        SetCap,
        WindowStatus,
    )
    from paymaster.settings import Settings

app = typer.Typer(help="Show the accounts, raise or set a cap.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="budget:acme/content, service:openai, or a budget's path.")]
WindowOption = Annotated[str, typer.Option(metavar="minute|hour|day|month|total", help="The window of the cap.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]
Who = Annotated[str | None, typer.Option(help="Kept with the change; of a signed one its signer. Default: user@host.")]
ChangeT = TypeVar("ChangeT", bound="AdminMessage")

_BAR_CHARACTERS = 10


@app.command()
def show(
    account: Annotated[
        str | None, typer.Argument(help="budget:acme/content, service:openai, or a budget's path. Default: all.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Caps, posted and pending money, what is available, and parked calls."""
    status = run_async(_status(command_settings(config)))
    accounts = status.accounts if account is None else (_find(status, account),)
    if as_json:
        print_json(
            {
                "ledger": status.ledger,
                "holds": status.holds,
                "parked": status.parked,
                "unconfirmed": status.unconfirmed,
                "accounts": [_document(each) for each in accounts],
            }
        )
        return
    print_accounts(status, accounts)


def print_accounts(status: "DeskStatus", accounts: "Sequence[AccountStatus]") -> None:
    """For people: a line for each account and window, and how the ledger as a whole stands."""
    headers = ["account", "window", "used", "posted", "pending", "available", "cap", "from", "ends (UTC)", "parked"]
    rows = [_row(each, window) for each in accounts for window in each.windows]
    print_table(headers, rows, right=headers[3:7] + headers[9:])
    print_line(
        f"ledger {status.ledger}: {status.holds} in flight, {status.parked} parked, {status.unconfirmed} unconfirmed"
    )
    for refused in status.refused_messages:
        print_note(f"refused: {refused}")


@app.command(name="raise")
def raise_(
    account: Account,
    window: WindowOption,
    by: Annotated[str, typer.Option(metavar="USD", help='By how many US dollars: "5", "0.25".')],
    reason: Reason,
    until_window_end: Annotated[
        bool, typer.Option("--until-window-end", help="The raise lapses when the window ends.")
    ] = False,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Raise a cap. Parked calls that fit under the new one go on by themselves."""
    from paymaster.messages import RaiseCap

    change = _checked(
        RaiseCap,
        {
            "account": _full_name(account),
            "window": window,
            "by": _amount("--by", by),
            "until_window_end": until_window_end,
            "reason": reason,
            "who": who or admin(),
        },
    )
    _tell(run_async(_raise_cap(command_settings(config), change, sign_with)), as_json=as_json)


@app.command(name="set")
def set_(
    account: Account,
    window: WindowOption,
    to: Annotated[str, typer.Option(metavar="USD", help='The new cap in US dollars: "50"; "0" blocks.')],
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set a cap, also on a budget that has none. It stays until the configuration's own value changes."""
    from paymaster.messages import SetCap

    change = _checked(
        SetCap,
        {
            "account": _full_name(account),
            "window": window,
            "to": _amount("--to", to),
            "reason": reason,
            "who": who or admin(),
        },
    )
    _tell(run_async(_set_cap(command_settings(config), change, sign_with)), as_json=as_json)


def _amount(option: str, text: str) -> str:
    from paymaster.money import usd_to_nanos

    try:
        nanos = usd_to_nanos(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None
    if nanos < 0 or (option == "--by" and nanos == 0):
        raise CommandError(f"{option} {text}: {'a raise is more than zero' if option == '--by' else 'it is negative'}")
    return text


def _checked(kind: "type[ChangeT]", values: dict[str, object]) -> "ChangeT":
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        raise CommandError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def _tell(state: "CapState", *, as_json: bool) -> None:
    from paymaster.money import format_usd

    if as_json:
        print_json({"account": state.account, "window": state.window, "cap_usd": usd(state.cap_nanos)})
    else:
        print_line(f"{state.account} {state.window}: the cap is now {format_usd(state.cap_nanos)}")


async def _status(settings: "Settings") -> "DeskStatus":
    return await ledger_status(await connect_ledger(settings))


async def _raise_cap(settings: "Settings", change: "RaiseCap", sign_with: Path | None) -> "CapState":
    ledger = await connect_ledger(settings)
    change = await signed(ledger, settings, "raise_cap", change, sign_with)
    with admin_errors():
        return await ledger.raise_cap(change)


async def _set_cap(settings: "Settings", change: "SetCap", sign_with: Path | None) -> "CapState":
    ledger = await connect_ledger(settings)
    change = await signed(ledger, settings, "set_cap", change, sign_with)
    with admin_errors():
        return await ledger.set_cap(change)


def _full_name(account: str) -> str:
    return account if ":" in account else f"budget:{account}"


def _find(status: "DeskStatus", account: str) -> "AccountStatus":
    for each in status.accounts:
        if each.account == _full_name(account):
            return each
    known = ", ".join(each.account for each in status.accounts)
    raise CommandError(f"the ledger has no account {_full_name(account)}; it has {known or 'none'}")


def _row(account: "AccountStatus", window: "WindowStatus") -> list[str]:
    from paymaster.money import format_usd

    left = _available_nanos(window)
    return [
        account.account,
        window.window,
        bar(window),
        format_usd(window.posted_nanos),
        format_usd(window.pending_nanos),
        "" if left is None else format_usd(left),
        "no cap" if window.cap_nanos is None else format_usd(window.cap_nanos),
        "" if window.cap_nanos is None else window.cap_from,
        "never"
        if window.ends_at_ms is None
        else f"{datetime.fromtimestamp(window.ends_at_ms / 1000, UTC):%Y-%m-%d %H:%M}",
        str(account.parked),
    ]


def bar(window: "WindowStatus") -> str:
    """How much of the cap is posted (█) and pending (▒), for people; empty without a cap. Any spending shows."""
    if window.cap_nanos is None:
        return ""
    if window.cap_nanos == 0:
        return "█" * _BAR_CHARACTERS
    posted, used = (
        min(_BAR_CHARACTERS, -(-nanos * _BAR_CHARACTERS // window.cap_nanos))
        for nanos in (window.posted_nanos, window.posted_nanos + window.pending_nanos)
    )
    return "█" * posted + "▒" * (used - posted) + "·" * (_BAR_CHARACTERS - used)


def _available_nanos(window: "WindowStatus") -> int | None:
    """Below zero after a bill above its bound, and when a cap was lowered. None: no cap."""
    if window.cap_nanos is None:
        return None
    return window.cap_nanos - window.posted_nanos - window.pending_nanos


def _document(account: "AccountStatus") -> "JsonValue":
    windows: list[JsonValue] = []
    for window in account.windows:
        left = _available_nanos(window)
        windows.append(
            {
                "window": window.window,
                "cap_from": None if window.cap_nanos is None else window.cap_from,
                "cap_usd": None if window.cap_nanos is None else usd(window.cap_nanos),
                "posted_usd": usd(window.posted_nanos),
                "pending_usd": usd(window.pending_nanos),
                "available_usd": None if left is None else usd(left),
                "ends_at": utc(window.ends_at_ms),
            }
        )
    return {"account": account.account, "parked": account.parked, "windows": windows}
