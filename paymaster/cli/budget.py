"""`paymaster budget`: the accounts of the ledger, and raising a cap."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.admission.burn_rate import available_nanos, burn_nanos_per_hour, cap_reached_at_ms
from paymaster.bars import colour, terminal_bar
from paymaster.cli import completion
from paymaster.cli.budget_log import log
from paymaster.cli.connection import (
    ConfigOption,
    admin,
    checked,
    command_settings,
    ledger_status,
    run_async,
)
from paymaster.cli.exits import CommandError
from paymaster.cli.forecasts import forecast_document, forecast_in_words, forecasts_of, minute, rounded
from paymaster.cli.present import JsonOption, print_json, print_line, print_note, print_styled, usd, utc
from paymaster.cli.questions import YesOption, ask_about_cap
from paymaster.cli.signing import SignOption, tell_ledger
from paymaster.cli.what_if import what_if
from paymaster.values.budget_path import budget_ancestors
from paymaster.values.windows import ALL_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from paymaster.messages import (
        AccountStatus,
        CapState,
        DeskStatus,
        WindowStatus,
    )
    from paymaster.reports.forecast import Forecast
    from paymaster.reports.forecasts import Forecasts
    from paymaster.settings import Settings

SHOWN_MAX = 20
"""Of the accounts that there are, where one is asked for that is not there."""

app = typer.Typer(help="Show the accounts, raise, set or unset a cap, see who did.", no_args_is_help=True)

app.command()(log)
app.command(name="what-if")(what_if)

_ACCOUNT = "budget:acme/content, service:openai, or a budget's path."
Account = Annotated[str, typer.Argument(help=_ACCOUNT, autocompletion=completion.accounts)]
WindowOption = Annotated[str, typer.Option(metavar="|".join(ALL_WINDOWS), help="The window of the cap.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]
Who = Annotated[
    str | None, typer.Option(help="Who made the change. Signed commands record the signer. Default: user@host.")
]


@app.command()
def show(
    account: Annotated[
        str | None, typer.Argument(help=f"{_ACCOUNT} Default: all.", autocompletion=completion.accounts)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Caps, posted and pending money, what is available and for how long, and parked calls."""
    status, accounts, forecasts = run_async(_shown(command_settings(config), account))
    if as_json:
        print_json(
            {
                "ledger": status.ledger,
                "holds": status.holds,
                "parked": status.parked,
                "unconfirmed": status.unconfirmed,
                "state_bytes": status.state_bytes,
                "state_bytes_max": status.state_bytes_max,
                "alerts_dropped": status.alerts_dropped,
                "accounts": [_document(each, forecasts) for each in accounts],
            }
        )
        return
    print_accounts(status, accounts, forecasts)


async def _shown(
    settings: "Settings", account: str | None
) -> "tuple[DeskStatus, tuple[AccountStatus, ...], Forecasts | None]":
    status = await ledger_status(settings)
    others = tuple(each for each in status.accounts if each.run is None)  # `paymaster runs list` has the runs
    accounts = others if account is None else (_find(status, account),)
    return status, accounts, await forecasts_of(settings, accounts, _now_ms())


def print_accounts(
    status: "DeskStatus", accounts: "Sequence[AccountStatus]", forecasts: "Forecasts | None" = None
) -> None:
    """For people: some lines for each account and window, and how the ledger as a whole stands.

    `forecasts` None: nobody knows what was spent lately; the average since the window began is said.
    """
    now_ms = _now_ms()
    for each in accounts:
        zone = "" if each.time_zone == "UTC" else f" ({each.time_zone})"
        watched = "" if each.enforced else ", watched only"
        print_line(f"{each.account}{zone}{watched}{f', {each.parked} parked' if each.parked else ''}")
        for window in each.windows:
            found = None if forecasts is None else forecasts.get((each.account, window.window))
            first, *more = _described(window, now_ms, found, is_short=each.parked > 0)
            print_styled(f"  {window.window:<6} ", (terminal_bar(window), colour(window) or ""), f" {first}")
            for line in filter(None, more):
                print_line(f"{'':9}{line}")
    print_line(
        f"ledger {status.ledger}: {status.holds} in flight, {status.parked} parked, {status.unconfirmed} unconfirmed"
    )
    if status.state_bytes_max:
        dropped = f"; {status.alerts_dropped} alerts dropped" if status.alerts_dropped else ""
        print_line(f"state: {status.state_bytes // 1024} of {status.state_bytes_max // 1024} KiB{dropped}")
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
    command_id: Annotated[
        str | None,
        typer.Option("--command-id", metavar="ID", help="Of a raise that got no answer, to give it again once."),
    ] = None,
    who: Who = None,
    sign_with: SignOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Raise a cap. Parked calls that fit under the new one go on by themselves."""
    from paymaster.messages import RaiseCap
    from paymaster.messages.temporal_names import RAISE_CAP
    from paymaster.values.money import usd_to_nanos

    change = checked(
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
    settings, nanos = command_settings(config), usd_to_nanos(change.by)
    run_async(ask_about_cap(settings, change.account, change.window, nanos, is_new_value=False, yes=yes))
    told = tell_ledger(
        settings,
        RAISE_CAP.name,
        change,
        sign_with,
        lambda ledger, signed: ledger.raise_cap(signed, command_id),
    )
    _tell(run_async(told), as_json=as_json, until_window_end=until_window_end)


@app.command(name="set")
def set_(
    account: Account,
    window: WindowOption,
    to: Annotated[str, typer.Option(metavar="USD", help='The new cap in US dollars: "50"; "0" blocks.')],
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set a cap, also on a budget that has none. It stays until it is unset or the configuration's value changes."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import SetCap
    from paymaster.messages.temporal_names import SET_CAP
    from paymaster.values.money import usd_to_nanos

    change = checked(
        SetCap,
        {
            "account": _full_name(account),
            "window": window,
            "to": _amount("--to", to),
            "reason": reason,
            "who": who or admin(),
        },
    )
    settings, nanos = command_settings(config), usd_to_nanos(change.to)
    run_async(ask_about_cap(settings, change.account, change.window, nanos, is_new_value=True, yes=yes))
    told = tell_ledger(settings, SET_CAP.name, change, sign_with, Ledger.set_cap)
    _tell(run_async(told), as_json=as_json)


@app.command()
def unset(
    account: Account,
    window: WindowOption,
    reason: Reason,
    who: Who = None,
    sign_with: SignOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take back what admins made of a cap: the configuration's value is in force again, or none where it has none."""
    from paymaster.ledger.handle import Ledger
    from paymaster.messages import UnsetCap
    from paymaster.messages.temporal_names import UNSET_CAP

    change = checked(
        UnsetCap, {"account": _full_name(account), "window": window, "reason": reason, "who": who or admin()}
    )
    told = tell_ledger(command_settings(config), UNSET_CAP.name, change, sign_with, Ledger.unset_cap)
    _tell(run_async(told), as_json=as_json)


def _amount(option: str, text: str) -> str:
    from paymaster.values.money import usd_to_nanos

    try:
        nanos = usd_to_nanos(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None
    if nanos < 0 or (option == "--by" and nanos == 0):
        raise CommandError(f"{option} {text}: {'a raise is more than zero' if option == '--by' else 'it is negative'}")
    return text


def _tell(state: "CapState", *, as_json: bool, until_window_end: bool = False) -> None:
    from paymaster.values.money import format_usd

    lapses = ", until the window ends" if until_window_end else ""
    if as_json:
        cap_usd = None if state.cap_nanos is None else usd(state.cap_nanos)
        print_json({"account": state.account, "window": state.window, "cap_usd": cap_usd})
    elif state.cap_nanos is None:
        print_line(f"{state.account} {state.window}: there is no cap now")
    else:
        print_line(f"{state.account} {state.window}: the cap is now {format_usd(state.cap_nanos)}{lapses}")


def _full_name(account: str) -> str:
    return account if ":" in account else f"budget:{account}"


def _find(status: "DeskStatus", account: str) -> "AccountStatus":
    accounts, name = {each.account: each for each in status.accounts}, _full_name(account)
    if name in accounts:
        return accounts[name]
    kind, _, path = name.partition(":")
    nearest = next((each for each in budget_ancestors(path) if f"budget:{each}" in accounts), None)
    if kind == "budget" and nearest is not None:
        raise CommandError(
            f"{path} has no account: it has no cap of its own, or nobody has used it lately, and counts against "
            f"{nearest}. What it has spent: `paymaster usage --budget {path}`. A cap of its own: `paymaster budget set "
            f"{path} --window day --to USD --reason WHY`"
        )
    known = sorted(each.account for each in status.accounts)
    more = f" and {len(known) - SHOWN_MAX} more" if len(known) > SHOWN_MAX else ""
    raise CommandError(
        f"the ledger has no account {name}; it has {', '.join(known[:SHOWN_MAX]) or 'none'}{more}. A "
        f"template's is there while somebody uses it: `paymaster usage --budget {account}` shows what it has spent"
    )


def _described(window: "WindowStatus", now_ms: int, found: "Forecast | None", *, is_short: bool) -> tuple[str, ...]:
    """What is spent, what is left, and how long it will last. `is_short`: calls wait in this account, so that nobody
    can say that it is enough."""
    from paymaster.values.money import format_usd

    held = f", {format_usd(window.pending_nanos)} held" if window.pending_nanos else ""
    left = available_nanos(window)
    if window.cap_nanos is None or left is None:
        return (f"{format_usd(window.posted_nanos)}{held}, no cap",)
    by_admin = " (set by an admin)" if window.cap_from == "admin" else ""
    first = f"{format_usd(window.posted_nanos)} of {format_usd(window.cap_nanos)}{by_admin}{held}"
    parts = [_left(window, left, window.posted_nanos - window.cap_nanos)]
    if window.lapsing_nanos:
        parts.append(f"{format_usd(window.lapsing_nanos)} lapse then")
    if window.let_through:
        parts.append(f"would have held up {window.let_through:,} calls")
    if found is not None:
        return first, "; ".join(parts), "" if is_short else forecast_in_words(found, window, now_ms)
    if rate := burn_nanos_per_hour(window, now_ms):
        reached_ms = cap_reached_at_ms(window, now_ms)
        lasts = "" if is_short else ", enough"
        if reached_ms is not None:
            lasts = f", reached {minute(reached_ms)}"
        parts.append(f"{format_usd(rounded(rate))}/h" + (lasts if left > 0 else ""))
    return first, "; ".join(parts)


def _left(window: "WindowStatus", left_nanos: int, over_nanos: int) -> str:
    from paymaster.values.money import format_usd

    ends = "" if window.ends_at_ms is None else f"{minute(window.ends_at_ms)} UTC"
    if over_nanos < 0:
        return f"{format_usd(left_nanos)} left{ends and f' until {ends}'}"
    over = f", {format_usd(over_nanos)} over" if over_nanos else ""
    return f"USED UP{over}{ends and f'; free again {ends}'}"


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def _document(account: "AccountStatus", forecasts: "Forecasts | None") -> "JsonValue":
    now_ms = _now_ms()
    windows: list[JsonValue] = []
    for window in account.windows:
        left, rate = available_nanos(window), burn_nanos_per_hour(window, now_ms)
        windows.append(
            {
                "window": window.window,
                "cap_from": None if window.cap_nanos is None else window.cap_from,
                "cap_usd": None if window.cap_nanos is None else usd(window.cap_nanos),
                "posted_usd": usd(window.posted_nanos),
                "pending_usd": usd(window.pending_nanos),
                "available_usd": None if left is None else usd(left),
                "ends_at": utc(window.ends_at_ms),
                "let_through": window.let_through,
                "lapsing_usd": usd(window.lapsing_nanos),
                "burn_usd_per_hour": None if rate is None else usd(rate),
                "cap_reached_at": utc(cap_reached_at_ms(window, now_ms)),
                "forecast": forecast_document((forecasts or {}).get((account.account, window.window))),
            }
        )
    return {
        "account": account.account,
        "time_zone": account.time_zone,
        "enforced": account.enforced,
        "parked": account.parked,
        "windows": windows,
    }
