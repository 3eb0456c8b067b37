"""When a cap will be used up, compared with a model that counts minute by minute on a calendar."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.messages import AccountStatus, Window, WindowStatus
from paymaster.messages.spending import Foreseen
from paymaster.reports.forecast import (
    AHEAD_MS,
    FURTHEST_MS,
    HOUR_MS,
    Forecast,
    Spent,
    forecast,
    foreseen,
    weekly_pattern,
)
from paymaster.settings.time_zones import offsets_of
from paymaster.values.time_zones import Zone
from paymaster.values.windows import ROLLING_MS, STEPS_MS, window_end_ms, window_start_ms

MINUTE_MS = 60_000
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
# Around the changes of the clocks in both directions, and at ends of months and of a year.
STARTS = [datetime(2026, *day, tzinfo=UTC) for day in ((3, 8), (3, 28), (4, 20), (10, 24), (11, 1), (12, 30), (2, 27))]


def moment(start: datetime, minutes: int) -> int:
    return int((start + timedelta(minutes=minutes)).timestamp()) * 1000


MOMENTS = st.builds(moment, st.sampled_from(STARTS), st.integers(0, 3 * 24 * 60))


def window_of(window: Window, left: int, now_ms: int, zone: Zone) -> WindowStatus:
    ends_ms = window_end_ms(window, now_ms, zone)
    return WindowStatus(window=window, cap_nanos=left + 7, posted_nanos=4, pending_nanos=3, ends_at_ms=ends_ms)


@st.composite
def spending(draw: st.DrawFn, now_ms: int) -> Spent:
    """In some hours of the week more than in others, in most of them in each week."""
    this_hour = now_ms // HOUR_MS * HOUR_MS
    hours: dict[int, int] = {}
    for hour in draw(st.lists(st.integers(0, 167), min_size=1, max_size=6, unique=True)):
        for week in range(4):
            hours[this_hour - (week * 168 + hour) * HOUR_MS] = draw(st.integers(1, 10**6))
    return Spent(draw(st.integers(0, 10**6)), hours)


def in_words_of_a_calendar(at_ms: int, zone: str) -> tuple[int, int]:
    local = datetime.fromtimestamp(at_ms // HOUR_MS * HOUR_MS / 1000, UTC).astimezone(ZoneInfo(zone))
    return local.weekday(), local.hour


def slow_pattern(hours: dict[int, int], now_ms: int, zone: str) -> dict[tuple[int, int], int]:
    """What each hour of the week cost on average, in whole nano-dollars."""
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for back in range(1, 4 * 168 + 1):
        at_ms = now_ms // HOUR_MS * HOUR_MS - back * HOUR_MS
        seen[in_words_of_a_calendar(at_ms, zone)].append(hours.get(at_ms, 0))
    return {hour: sum(costs) // len(costs) for hour, costs in seen.items()}


def slow_used_up_ms(
    window: WindowStatus, spent: Spent, now_ms: int, zone: str, pattern: dict[tuple[int, int], int] | None
) -> int | None:
    """The end of the minute in which it happens. `pattern` None: at the rate of the last hour."""
    name, rolls = window.window, window.window in ROLLING_MS
    sixtieths = 60 * ((window.cap_nanos or 0) - window.posted_nanos - window.pending_nanos)
    until_ms = now_ms + FURTHEST_MS
    if not rolls and window.ends_at_ms is not None:
        until_ms = min(until_ms, window.ends_at_ms)
    counted = {at: 60 * nanos for at, nanos in (spent.hours_nanos or {}).items()} if rolls else {}
    counted = {at: nanos for at, nanos in counted.items() if not over(name, at, now_ms)}
    rate = 0
    for at_ms in range(now_ms, until_ms, MINUTE_MS):
        hour = at_ms // HOUR_MS * HOUR_MS
        if at_ms in (hour, now_ms):
            sixtieths += sum(counted.pop(each) for each in [*counted] if rolls and over(name, each, at_ms))
            rate = spent.last_hour_nanos if pattern is None else pattern.get(in_words_of_a_calendar(at_ms, zone), 0)
        sixtieths -= rate
        counted[hour] = counted.get(hour, 0) + rate
        if sixtieths <= 0:
            return at_ms + MINUTE_MS
    return None


def over(window: Window, at_ms: int, now_ms: int) -> bool:
    """Whether the step of a rolling window in which this was spent counts no more."""
    step = STEPS_MS[window]
    return at_ms // step * step + step + ROLLING_MS[window] <= now_ms


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_forecasts_agree_with_counting_each_minute(data: st.DataObject) -> None:
    now_ms = data.draw(MOMENTS)
    name, window = data.draw(st.sampled_from(ZONES)), data.draw(st.sampled_from(("day", "week", "24h")))
    zone, spent = Zone(offsets_of(name)), data.draw(spending(now_ms))
    status = window_of(window, data.draw(st.integers(1, 10**7)), now_ms, zone)
    found = forecast(status, spent, now_ms, zone)
    assert found is not None
    assert spent.hours_nanos is not None
    pattern = slow_pattern(dict(spent.hours_nanos), now_ms, name) if found.has_pattern else None
    same(found.at_this_rate_ms, slow_used_up_ms(status, spent, now_ms, name, None), status)
    if pattern is not None:
        same(found.by_pattern_ms, slow_used_up_ms(status, spent, now_ms, name, pattern), status)


def same(found_ms: int | None, minute_ms: int | None, status: WindowStatus) -> None:
    """To the minute; at the very end of a window both may be right."""
    if found_ms is None or minute_ms is None:
        assert found_ms is None
        assert minute_ms in (None, status.ends_at_ms)
    else:
        assert minute_ms - MINUTE_MS < found_ms <= minute_ms


def test_a_pattern_needs_spending_in_each_of_four_weeks() -> None:
    now_ms = int(datetime(2026, 6, 10, 12, 30, tzinfo=UTC).timestamp()) * 1000
    hour = now_ms // HOUR_MS * HOUR_MS
    weeks = {hour - week * 168 * HOUR_MS: 4 for week in range(1, 5)}
    assert list((weekly_pattern(weeks, now_ms) or {}).values()) == [4]
    for missing in weeks:
        assert weekly_pattern({at: nanos for at, nanos in weeks.items() if at != missing}, now_ms) is None
    assert weekly_pattern({}, now_ms) is None


def test_an_hour_is_that_of_the_clocks_after_they_change() -> None:
    """New York works at nine, before and after the second Sunday of March."""
    zone, new_york = Zone(offsets_of("America/New_York")), ZoneInfo("America/New_York")
    monday = datetime(2026, 3, 9, 8, tzinfo=new_york)
    mondays = [datetime(2026, *day, 9, tzinfo=new_york) for day in ((2, 9), (2, 16), (2, 23), (3, 2))]
    spent = Spent(0, {int(each.timestamp()) * 1000: 60 for each in mondays})
    now_ms = int(monday.timestamp()) * 1000
    found = forecast(window_of("day", 30, now_ms, zone), spent, now_ms, zone)
    half_past_nine = int(monday.replace(hour=9, minute=30).timestamp()) * 1000
    assert found == Forecast(0, None, half_past_nine, has_pattern=True)


@pytest.mark.parametrize(("left", "reached"), [(719, True), (720, False), (721, False)])
def test_a_month_ends_at_midnight_of_its_zone(left: int, reached: bool) -> None:
    """From noon of the last day of October, when Berlin has gone back to winter time: 12 hours of 60 each."""
    zone = Zone(offsets_of("Europe/Berlin"))
    now_ms = int(datetime(2026, 10, 31, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * 1000
    found = forecast(window_of("month", left, now_ms, zone), Spent(60), now_ms, zone)
    assert found is not None
    assert (found.at_this_rate_ms is not None) == reached


@pytest.mark.parametrize("window", ["day", "total", "24h"])
def test_nothing_left_is_used_up_now(window: Window) -> None:
    now_ms = window_start_ms("day", 1_772_323_200_000) + HOUR_MS
    status = window_of(window, 0, now_ms, Zone(offsets_of("UTC")))
    assert forecast(status, Spent(5), now_ms) == Forecast(5, now_ms, None, has_pattern=False)
    assert forecast(status.model_copy(update={"cap_nanos": None}), Spent(5), now_ms) is None


def test_a_window_without_an_end_is_looked_at_for_31_days() -> None:
    status = window_of("total", 31 * 24, 0, Zone(offsets_of("UTC")))
    assert forecast(status, Spent(1), 0) == Forecast(1, None, None, has_pattern=False)
    found = forecast(window_of("total", 31 * 24 - 1, 0, Zone(offsets_of("UTC"))), Spent(1), 0)
    assert found == Forecast(1, FURTHEST_MS - HOUR_MS, None, has_pattern=False)


def test_an_average_is_of_the_hours_that_there_were() -> None:
    """Berlin has no hour from two to three on the last Sunday of March: of the four Sundays three had one."""
    zone, berlin = Zone(offsets_of("Europe/Berlin")), ZoneInfo("Europe/Berlin")
    sundays = [datetime(2026, *day, 2, tzinfo=berlin) for day in ((3, 15), (3, 22), (4, 5))]
    spent = {int(each.timestamp()) * 1000: 60 for each in sundays}
    last = int(datetime(2026, 3, 31, 12, tzinfo=berlin).timestamp()) * 1000
    now_ms = int(datetime(2026, 4, 12, 1, tzinfo=berlin).timestamp()) * 1000
    pattern = weekly_pattern({**spent, last: 4}, now_ms, zone)
    assert pattern is not None
    assert sorted(pattern.values()) == [1, 60]


@pytest.mark.parametrize(("left", "hours"), [(25, 25), (26, None), (49, None)])
def test_what_leaves_a_rolling_window_is_there_again(left: int, hours: int | None) -> None:
    """One in each hour from midnight on: a step of 24 hours counts for 25, and then no more is used."""
    status = window_of("24h", left, 0, Zone(offsets_of("UTC")))
    found = forecast(status, Spent(1, {}), 0)
    assert found == Forecast(1, None if hours is None else hours * HOUR_MS, None, has_pattern=False)
    for copied in ({"steps_nanos": {-HOUR_MS: 4}}, {}):
        sooner = forecast(status.model_copy(update=copied), Spent(1, {-HOUR_MS: 4}), 0)
        assert sooner == Forecast(1, None, None, has_pattern=False), "room for four comes before the cap is reached"


# ---------------------------------------------------------------- what people are told

NOW_MS = 1_772_323_200_000
SOON_MS = NOW_MS + 4 * HOUR_MS


def told(found: Forecast, window: Window = "day", *, enforced: bool = True) -> Foreseen | None:
    status = window_of(window, 100, NOW_MS, Zone(offsets_of("UTC")))
    account = AccountStatus(account="budget:acme", windows=(status,), parked=0, enforced=enforced)
    return foreseen(account, status, found, NOW_MS)


def test_what_will_be_used_up_soon_is_told() -> None:
    by_rate = Forecast(5, SOON_MS, None, has_pattern=False)
    assert told(by_rate) == Foreseen(account="budget:acme", window="day", used_up_at_ms=SOON_MS, by_pattern=False)
    later = Forecast(5, SOON_MS, SOON_MS + HOUR_MS, has_pattern=True)
    assert told(later) == Foreseen(
        account="budget:acme", window="day", used_up_at_ms=SOON_MS + HOUR_MS, by_pattern=True
    )


@pytest.mark.parametrize(
    ("at_this_rate_ms", "by_pattern_ms", "has_pattern"),
    [
        (None, None, False),  # the window ends before
        (None, SOON_MS, True),  # nothing was spent in this hour
        (SOON_MS, None, True),  # a busy hour as in each week, in which it lasted
        (NOW_MS, None, False),  # it is used up already
        (NOW_MS + AHEAD_MS + 1, None, False),  # nobody needs to know today
    ],
)
def test_what_lasts_is_not_told(at_this_rate_ms: int | None, by_pattern_ms: int | None, *, has_pattern: bool) -> None:
    assert told(Forecast(5, at_this_rate_ms, by_pattern_ms, has_pattern)) is None


def test_nobody_is_told_of_minutes_hours_and_what_is_watched() -> None:
    found = Forecast(5, NOW_MS + 1, None, has_pattern=False)
    assert told(found, "total") is not None
    assert told(found, "24h") is not None
    assert [told(found, window) for window in ("minute", "hour")] == [None, None]
    assert told(found, enforced=False) is None
