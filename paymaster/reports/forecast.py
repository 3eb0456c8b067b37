"""When the cap of a window will be used up: at the rate of the last hour, and by the pattern of the last four weeks.

The pattern is what was spent on average in each hour of the week, on the clocks of the account's time zone. Sums are
exact; what the future brings is a guess, so that nothing is said beyond the next 31 days.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from paymaster.admission.burn_rate import available_nanos
from paymaster.messages import AccountStatus, Window, WindowStatus
from paymaster.messages.spending import Foreseen
from paymaster.values.time_zones import UTC_ZONE, Zone
from paymaster.values.windows import ROLLING_MS, STEPS_MS, step_ms

HOUR_MS = 3_600_000
HOURS_OF_WEEK = 168
PATTERN_WEEKS = 4
FURTHEST_MS = 31 * 24 * HOUR_MS
"""So far nothing is foreseen, and so far back nothing is looked at: the longest rolling window and its oldest step."""


AHEAD_MS = 24 * HOUR_MS
"""So long before a cap is used up people are told."""
_TOO_SHORT = frozenset[Window](("minute", "hour"))


class Spent(NamedTuple):
    """What an account has spent lately, by when the calls were granted."""

    last_hour_nanos: int
    hours_nanos: Mapping[int, int] | None = None
    """By when the hour began (UTC, in milliseconds), of the last 31 days; hours without spending are left out. None:
    not asked."""


class Forecast(NamedTuple):
    """Of one window with a cap. Times in milliseconds since the epoch; None: not before the window ends, nor within
    31 days."""

    rate_nanos: int
    """What was spent in the last hour."""
    at_this_rate_ms: int | None
    by_pattern_ms: int | None
    has_pattern: bool
    """Each of the last four weeks had spending."""


Pattern = Mapping[int, int]
"""What an hour of the week costs on average, in nano-dollars, by its number; those that cost nothing are left out."""


def forecast(window: WindowStatus, spent: Spent, now_ms: int, zone: Zone = UTC_ZONE) -> Forecast | None:
    """None: the window has no cap."""
    left = available_nanos(window)
    if left is None:
        return None
    pattern = None if spent.hours_nanos is None else weekly_pattern(spent.hours_nanos, now_ms, zone)
    if left <= 0:
        return Forecast(spent.last_hour_nanos, now_ms, None if pattern is None else now_ms, pattern is not None)
    by_pattern = None
    if pattern is not None:
        by_pattern = _walked(window, left, spent, now_ms, lambda at_ms: pattern.get(_slot(at_ms, zone), 0))
    return Forecast(
        spent.last_hour_nanos, _at_this_rate(window, left, spent, now_ms), by_pattern, has_pattern=pattern is not None
    )


def foreseen(account: AccountStatus, window: WindowStatus, found: Forecast, now_ms: int) -> Foreseen | None:
    """What people should be told: at the rate of the last hour the cap is used up within a day, and neither its window
    ends before, nor does the pattern of the last weeks say that it usually lasts all the same.

    Windows of a minute or an hour are over before anybody has read it.
    """
    at_ms = found.at_this_rate_ms
    if window.window in _TOO_SHORT or not account.enforced or at_ms is None or not now_ms < at_ms <= now_ms + AHEAD_MS:
        return None
    if found.has_pattern:
        at_ms = found.by_pattern_ms
        if at_ms is None:
            return None
    return Foreseen(account=account.account, window=window.window, used_up_at_ms=at_ms, by_pattern=found.has_pattern)


def weekly_pattern(hours_nanos: Mapping[int, int], now_ms: int, zone: Zone = UTC_ZONE) -> Pattern | None:
    """Of the four weeks before the hour that goes on. None: one of them has no spending."""
    end_ms = now_ms // HOUR_MS * HOUR_MS
    week_ms = HOURS_OF_WEEK * HOUR_MS
    weeks = {(end_ms - 1 - at_ms) // week_ms for at_ms, nanos in hours_nanos.items() if nanos > 0}
    if not weeks.issuperset(range(PATTERN_WEEKS)):
        return None
    slots, times = _slots(end_ms, zone)
    sums: dict[int, int] = {}
    for at_ms, nanos in hours_nanos.items():
        number = (end_ms - 1 - at_ms) // HOUR_MS
        if 0 <= number < len(slots):
            sums[slots[number]] = sums.get(slots[number], 0) + nanos
    # Where the clocks were changed, an hour of the week was there once more or once less.
    return {slot: max(0, nanos) // times[slot] for slot, nanos in sums.items()}


@lru_cache(maxsize=64)
def _slots(end_ms: int, zone: Zone) -> tuple[tuple[int, ...], Mapping[int, int]]:
    """Which hour of the week each hour of the four weeks before was, the latest first; and how often each one was."""
    slots = tuple(_slot(end_ms - back * HOUR_MS, zone) for back in range(1, PATTERN_WEEKS * HOURS_OF_WEEK + 1))
    return slots, Counter(slots)


def _slot(at_ms: int, zone: Zone) -> int:
    """Of the UTC hour around this time: all of it counts as the hour that the clocks show when it begins."""
    return zone.local_ms(at_ms // HOUR_MS * HOUR_MS) // HOUR_MS % HOURS_OF_WEEK


def _at_this_rate(window: WindowStatus, left_nanos: int, spent: Spent, now_ms: int) -> int | None:
    rate = spent.last_hour_nanos
    if rate <= 0:
        return None
    if window.window in ROLLING_MS:
        return _walked(window, left_nanos, spent, now_ms, lambda _: rate)
    reached_ms = now_ms - (-left_nanos * HOUR_MS // rate)
    return reached_ms if reached_ms < _until_ms(window, now_ms) else None


def _until_ms(window: WindowStatus, now_ms: int) -> int:
    """A rolling window goes on when its oldest step has left it."""
    furthest_ms = now_ms + FURTHEST_MS
    ends_ms = None if window.window in ROLLING_MS else window.ends_at_ms
    return furthest_ms if ends_ms is None else min(ends_ms, furthest_ms)


def _walked(
    window: WindowStatus, left_nanos: int, spent: Spent, now_ms: int, rate_at: Callable[[int], int]
) -> int | None:
    """Hour by hour, in each of which one rate holds; what leaves a rolling window is there again."""
    leaving = _leaving(window, spent, now_ms)
    if leaving is None:
        return None
    until_ms, at_ms = _until_ms(window, now_ms), now_ms
    left = left_nanos * HOUR_MS  # in nano-dollars and milliseconds of an hour: nothing is rounded
    while at_ms < until_ms:
        end_ms = min(until_ms, (at_ms // HOUR_MS + 1) * HOUR_MS)
        rate = rate_at(at_ms)
        costs = rate * (end_ms - at_ms)
        if costs >= left:
            reached_ms = at_ms - (-left // rate)
            return reached_ms if reached_ms < until_ms else None
        left -= costs
        if window.window in ROLLING_MS:
            step = step_ms(window.window, at_ms)
            leaving[step] = leaving.get(step, 0) + costs
            left += leaving.pop(end_ms - ROLLING_MS[window.window] - STEPS_MS[window.window], 0)
        at_ms = end_ms
    return None


def _leaving(window: WindowStatus, spent: Spent, now_ms: int) -> dict[int, int] | None:
    """What is in a rolling window, by when its step began, times the milliseconds of an hour. None: not known."""
    if window.window not in ROLLING_MS:
        return {}
    if window.steps_nanos:
        return {step: nanos * HOUR_MS for step, nanos in window.steps_nanos.items()}
    if spent.hours_nanos is None:
        return None
    oldest_ms = step_ms(window.window, now_ms - ROLLING_MS[window.window])
    steps: dict[int, int] = {}
    for at_ms, nanos in spent.hours_nanos.items():
        if (step := step_ms(window.window, at_ms)) >= oldest_ms:
            steps[step] = steps.get(step, 0) + nanos * HOUR_MS
    return steps
