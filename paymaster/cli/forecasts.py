"""The words of `paymaster budget show` for when a cap will be used up."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paymaster.cli.connection import open_database
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_note, usd, utc

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.messages import AccountStatus, WindowStatus
    from paymaster.reports.forecast import Forecast
    from paymaster.settings import Settings

    Forecasts = Mapping[tuple[str, str], Forecast]
    """By account and window."""

_SUMS_WITHIN_S = 10.0


async def forecasts_of(settings: "Settings", accounts: "Sequence[AccountStatus]", now_ms: int) -> "Forecasts | None":
    """None, with a note, when the database does not tell what was spent: caps are shown without it.

    The pattern of four weeks is looked at where few accounts are asked for.
    """
    from paymaster.reports.forecast import Spent, forecast
    from paymaster.reports.recent import HOURS_OF_MOST, spent_lately
    from paymaster.settings.time_zones import offsets_of
    from paymaster.values.time_zones import Zone

    if settings.database.url is None:
        return None
    names = [each.account for each in accounts]
    try:
        async with asyncio.timeout(_SUMS_WITHIN_S), open_database(settings) as engine:
            few = len(names) <= HOURS_OF_MOST
            lately = await spent_lately(engine, settings.ledger.name, now_ms, names if few else None)
    except (CommandError, TimeoutError) as error:
        print_note(f"there is no forecast: {str(error) or 'the database takes too long'}")
        return None
    zones = {name: Zone(offsets_of(name)) for name in {each.time_zone for each in accounts}}
    found = (
        (
            each.account,
            window.window,
            forecast(window, lately.get(each.account, Spent(0)), now_ms, zones[each.time_zone]),
        )
        for each in accounts
        for window in each.windows
    )
    return {(account, window): each for account, window, each in found if each is not None}


def forecast_in_words(found: "Forecast", window: "WindowStatus", now_ms: int) -> str:
    """Empty where there is nothing to say: nothing is left, or nothing was spent lately."""
    from paymaster.values.money import format_usd

    if found.at_this_rate_ms is not None and found.at_this_rate_ms <= now_ms:
        return ""
    if found.rate_nanos <= 0 and found.by_pattern_ms is None:
        return ""
    parts = [f"at the last hour's {format_usd(rounded(found.rate_nanos))}/h {_until(found.at_this_rate_ms, window)}"]
    if found.has_pattern:
        parts.append(f"by four weeks' pattern {_until(found.by_pattern_ms, window)}")
    return "; ".join(parts)


def forecast_document(found: "Forecast | None") -> "JsonValue":
    if found is None:
        return None
    return {
        "last_hour_usd": usd(found.rate_nanos),
        "used_up_at": utc(found.at_this_rate_ms),
        "by_pattern": {"used_up_at": utc(found.by_pattern_ms)} if found.has_pattern else None,
    }


def rounded(nanos: int) -> int:
    """To three digits, because a rate is no bill."""
    unit = 10 ** max(0, len(str(nanos)) - 3)
    return nanos // unit * unit


def minute(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%m-%d %H:%M}"


def _until(reached_ms: int | None, window: "WindowStatus") -> str:
    if reached_ms is not None:
        return f"used up by {minute(reached_ms)}"
    from paymaster.values.windows import ROLLING_MS

    ends = window.ends_at_ms is not None and window.window not in ROLLING_MS
    return "it lasts until then" if ends else "it lasts for 31 days"
