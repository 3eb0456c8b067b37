"""The words of `paymaster budget show` for when a cap will be used up."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paymaster.cli.connection import open_database
from paymaster.cli.exits import CommandError
from paymaster.cli.present import print_note, usd, utc

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paymaster.messages import AccountStatus, WindowStatus
    from paymaster.reports.forecast import Forecast
    from paymaster.reports.forecasts import Forecasts
    from paymaster.settings import Settings

_SUMS_WITHIN_S = 5.0


async def forecasts_of(settings: "Settings", accounts: "Sequence[AccountStatus]", now_ms: int) -> "Forecasts | None":
    """None, with a note, when the database does not tell what was spent: caps are shown without it."""
    from paymaster.reports import forecasts

    if settings.database.url is None:
        return None
    try:
        async with asyncio.timeout(_SUMS_WITHIN_S), open_database(settings) as engine:
            return await forecasts.forecasts_of(engine, settings.ledger.name, accounts, now_ms)
    except (CommandError, TimeoutError) as error:
        print_note(f"there is no forecast: {str(error) or 'the database takes too long'}")
        return None


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
