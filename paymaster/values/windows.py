"""The windows in which money is counted: ONE table, in the order of their lengths, first those of the calendar.

Days, weeks and months begin at midnight in a time zone, minutes and hours with those of UTC everywhere. Where the
clocks skip midnight, a day begins when they first show a later time; where they are put back over midnight, the day
that has begun goes on.

A rolling window, `24h`, `7d` or `30d`, reaches so far back from any time. What was spent in it is kept in steps of an
hour, six hours or a day, in UTC. A step counts for as long as any moment of it is in the window: so for up to one step
too long, and never too short.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

from paymaster.values.time_zones import UTC_ZONE, Zone

Window = Literal["minute", "hour", "day", "week", "month", "total", "24h", "7d", "30d"]
"""A week begins on Monday, and `total` never ends. The last three are rolling."""


class _Calendar(NamedTuple):
    """When the window around a time began, and when it ends, in UTC; both in milliseconds since the epoch."""

    start: Callable[[int], int]
    end: Callable[[int], int | None]


_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_FIRST_MONDAY_MS = 4 * _DAY_MS
"""The epoch was a Thursday."""


def _every(length_ms: int, one_began_ms: int = 0) -> _Calendar:
    """Windows of one length, of which one began then."""

    def start(now_ms: int) -> int:
        return now_ms - (now_ms - one_began_ms) % length_ms

    def end(now_ms: int) -> int:
        return start(now_ms) + length_ms

    return _Calendar(start, end)


def _rolling(length_ms: int, step_ms: int) -> _Calendar:
    """It begins with the oldest step that counts, and another one begins when that counts no more."""

    def start(now_ms: int) -> int:
        return (now_ms - length_ms) // step_ms * step_ms

    def end(now_ms: int) -> int:
        return start(now_ms) + step_ms + length_ms

    return _Calendar(start, end)


def _month_start_ms(now_ms: int) -> int:
    first = datetime.fromtimestamp(now_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * 1000


def _month_end_ms(now_ms: int) -> int:
    in_the_next = datetime.fromtimestamp(_month_start_ms(now_ms) / 1000, UTC) + timedelta(days=32)
    return _month_start_ms(int(in_the_next.timestamp()) * 1000)


def _always(now_ms: int) -> int:
    return 0


def _never(now_ms: int) -> None:
    return None


_CALENDARS: dict[Window, _Calendar] = {
    "minute": _every(_MINUTE_MS),
    "hour": _every(60 * _MINUTE_MS),
    "day": _every(_DAY_MS),
    "week": _every(7 * _DAY_MS, _FIRST_MONDAY_MS),
    "month": _Calendar(_month_start_ms, _month_end_ms),
    "total": _Calendar(_always, _never),
}
STEPS_MS: dict[Window, int] = {"24h": 60 * _MINUTE_MS, "7d": 360 * _MINUTE_MS, "30d": _DAY_MS}
"""Of the rolling windows."""
ROLLING_MS: dict[Window, int] = {"24h": _DAY_MS, "7d": 7 * _DAY_MS, "30d": 30 * _DAY_MS}
"""How far back they reach."""
_ROLLING: dict[Window, _Calendar] = {
    window: _rolling(length_ms, STEPS_MS[window]) for window, length_ms in ROLLING_MS.items()
}
RENEWAL_WINDOWS: tuple[Window, ...] = ("hour", "day", "week")
"""In which a run may have its money and calls anew, the shortest first; those of UTC, in which all runs are counted."""
LOCAL_WINDOWS = frozenset[Window](("day", "week", "month"))
"""They begin at midnight in a time zone."""
WINDOWS: tuple[Window, ...] = tuple(_CALENDARS)
"""Those of the calendar, in which the money of every account is kept."""
ALL_WINDOWS: tuple[Window, ...] = (*_CALENDARS, *_ROLLING)
"""With the rolling ones, which are kept only where they are capped."""
_EVERY: dict[Window, _Calendar] = _CALENDARS | _ROLLING
WINDOWS_OF_RULES_1: tuple[Window, ...] = ("minute", "hour", "day", "month", "total")
"""Those that version 0.1.0 can read."""


def step_ms(window: Window, at_ms: int) -> int:
    """When the step of a rolling window began in which this time is."""
    return at_ms // STEPS_MS[window] * STEPS_MS[window]


@lru_cache(maxsize=64)
def window_start_ms(window: Window, now_ms: int, zone: Zone = UTC_ZONE) -> int:
    """When the window around `now_ms` began; 0 for `total`. Of a rolling window: when its oldest step did."""
    if zone is UTC_ZONE or window not in LOCAL_WINDOWS:
        return _EVERY[window].start(now_ms)
    return zone.first_ms(_on_its_clocks_ms(window, now_ms, zone)[0])


@lru_cache(maxsize=64)
def window_end_ms(window: Window, now_ms: int, zone: Zone = UTC_ZONE) -> int | None:
    """When the window around `now_ms` ends and the next begins; None for `total`, which never ends. Of a rolling
    window: when its oldest step leaves it."""
    if zone is UTC_ZONE or window not in LOCAL_WINDOWS:
        return _EVERY[window].end(now_ms)
    return zone.first_ms(_on_its_clocks_ms(window, now_ms, zone)[1])


def _on_its_clocks_ms(window: Window, now_ms: int, zone: Zone) -> tuple[int, int]:
    """What the clocks of the zone show when the window begins and ends: the latest one that has begun."""
    calendar = _CALENDARS[window]
    start_ms = calendar.start(zone.local_ms(now_ms))
    while True:
        end_ms = calendar.end(start_ms)
        assert end_ms is not None
        if zone.first_ms(end_ms) > now_ms:
            return start_ms, end_ms
        start_ms = end_ms


@lru_cache(maxsize=64)
def window_ends_ms(now_ms: int, zone: Zone = UTC_ZONE) -> tuple[tuple[Window, int], ...]:
    """The windows around `now_ms` that end, the first to end first, each with when the next begins."""
    found: list[tuple[Window, int]] = []
    for window in ALL_WINDOWS:
        end_ms = window_end_ms(window, now_ms, zone)
        if end_ms is not None:
            found.append((window, end_ms))
    return tuple(sorted(found, key=lambda each: each[1]))
