"""An account as pages show it: each cap with what is used of it, and when it will be used up."""

from typing import NamedTuple

from paymaster.admission.burn_rate import available_nanos, burn_nanos_per_hour, cap_reached_at_ms
from paymaster.bars import colour, used_share
from paymaster.console.plans import action_address
from paymaster.console.words import exact_usd
from paymaster.messages import AccountStatus, WindowStatus
from paymaster.reports.forecast import Forecast
from paymaster.reports.forecasts import Forecasts
from paymaster.values.money import NANOS_PER_USD, format_usd
from paymaster.values.windows import ROLLING_MS

_OFFERED_FROM = 0.8
"""The part of a cap from which on a raise of it is offered; where calls wait, of the fullest one in any case."""


class Outlook(NamedTuple):
    """When a cap will be used up, by one way to look at it."""

    by: str
    used_up_at_ms: int | None
    """None: not before its window ends."""


class Offer(NamedTuple):
    """A raise that one press asks for."""

    by: str
    address: str


class ShownWindow(NamedTuple):
    status: WindowStatus
    share: float | None
    """Of the cap that is spent or held. None: no cap."""
    colour: str
    left_nanos: int | None
    rate_nanos: int | None
    """Spent in the last hour, or where that is not known in an hour on average since the window began."""
    outlooks: tuple[Outlook, ...]
    offer: Offer | None
    """None: there is enough left, or it is no budget's."""


class ShownAccount(NamedTuple):
    key: str
    name: str
    depth: int
    status: AccountStatus
    windows: tuple[ShownWindow, ...]


def shown(status: AccountStatus, now_ms: int, below: str = "", forecasts: Forecasts | None = None) -> ShownAccount:
    """`below`: the budget from which on the tree is shown. `forecasts` None: nobody knows what was spent lately."""
    kind, _, name = status.account.partition(":")
    depth = name.count("/") - (below.count("/") + 1 if below else 0) if kind == "budget" else 0
    short = max((used_share(each) or 0.0 for each in status.windows), default=0.0) if status.parked else _OFFERED_FROM
    known = forecasts or {}
    windows = tuple(
        _window(status, each, now_ms, min(short, _OFFERED_FROM), known.get((status.account, each.window)))
        for each in status.windows
    )
    # The sum of all time says nothing about a cap beside windows that have one.
    capped = tuple(each for each in windows if each.share is not None)
    return ShownAccount(status.account, name, max(0, depth), status, capped or windows)


def _window(
    account: AccountStatus, status: WindowStatus, now_ms: int, offered_from: float, forecast: Forecast | None
) -> ShownWindow:
    left = available_nanos(status)
    outlooks = () if left is None or left <= 0 else _outlooks(status, now_ms, forecast)
    return ShownWindow(
        status,
        used_share(status),
        colour(status) or "none",
        left,
        burn_nanos_per_hour(status, now_ms) if forecast is None else forecast.rate_nanos,
        # While calls wait in the account nobody can say that it is enough.
        tuple(each for each in outlooks if each.used_up_at_ms is not None or not account.parked),
        _offer(account, status, offered_from),
    )


def _outlooks(status: WindowStatus, now_ms: int, forecast: Forecast | None) -> tuple[Outlook, ...]:
    if forecast is None:
        rate = burn_nanos_per_hour(status, now_ms)
        return (Outlook("at this rate", cap_reached_at_ms(status, now_ms)),) if rate else ()
    found: list[Outlook] = []
    if forecast.rate_nanos > 0:
        found.append(Outlook("at this rate", forecast.at_this_rate_ms))
    if forecast.has_pattern:
        found.append(Outlook("as in the last four weeks", forecast.by_pattern_ms))
    return tuple(found)


def _offer(account: AccountStatus, status: WindowStatus, offered_from: float) -> Offer | None:
    """A fifth of the cap, rounded to one digit."""
    share, cap = used_share(status), status.cap_nanos
    if cap is None or share is None or share < offered_from or not account.account.startswith("budget:"):
        return None
    fifth = max(cap // 5, NANOS_PER_USD // 100)
    unit = 10 ** (len(str(fifth)) - 1)
    return exact_offer(account, status, fifth // unit * unit)


def exact_offer(account: AccountStatus, status: WindowStatus, by_nanos: int) -> Offer | None:
    """Until the window ends, where it does. None: it is no budget's."""
    if not account.account.startswith("budget:"):
        return None
    fields = {
        "budget": account.account.removeprefix("budget:"),
        "window": status.window,
        "by": exact_usd(by_nanos),
        "lapses": "1" if status.window != "total" and status.window not in ROLLING_MS else "",
        "reason": "calls wait" if account.parked else "",
    }
    return Offer(format_usd(by_nanos), action_address("raise", **fields))
