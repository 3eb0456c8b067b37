"""Windows: when they end, to which one money belongs, and several caps at once."""

from calendar import monthrange
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from desk_kit import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    USD,
    Site,
    at,
    candidate,
    capped,
    config,
    is_ended,
    service,
    usd_caps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.messages import Denied, Granted, Parked, Window
from paymaster.values.money import Price
from paymaster.values.windows import WINDOWS, window_end_ms, window_ends_ms, window_start_ms

TIMES = st.integers(at(1971), at(2399))
FREE = Price(input_nanos=0, output_nanos=0, source="test")
ANY = settings(max_examples=examples(300), deadline=None, derandomize=True, database=None)


def ends_of_month(first_year: int, years: int) -> list[int]:
    """When the months of these years begin, counted day by day from the lengths of the months."""
    begins, now = [], at(first_year)
    for year in range(first_year, first_year + years):
        for month in range(1, 13):
            begins.append(now)
            now += monthrange(year, month)[1] * DAY
    return begins


# ---------------------------------------------------------------- the calendar


@ANY
@given(now_ms=TIMES)
def test_a_window_is_around_its_time_and_has_no_gap_to_the_next(now_ms: int) -> None:
    """start ≤ now < end, every time between has the same window, and the end is the start of the next one."""
    assert sorted(end for _, end in window_ends_ms(now_ms)) == [end for _, end in window_ends_ms(now_ms)]
    for window in WINDOWS:
        start, end = window_start_ms(window, now_ms), window_end_ms(window, now_ms)
        assert start <= now_ms
        assert window_start_ms(window, start) == start
        if end is None:
            assert window == "total"
            continue
        assert (window, end) in window_ends_ms(now_ms)
        assert now_ms < end
        assert window_start_ms(window, end - 1) == start
        assert window_start_ms(window, end) == end


@ANY
@given(now_ms=TIMES)
def test_no_longer_window_ends_within_a_shorter_one(now_ms: int) -> None:
    """A month and a week begin with a day, a day with an hour, an hour with a minute."""
    every: list[Window] = [window for window in WINDOWS if window != "week"]  # which may end after its month
    to_week: list[Window] = ["day", "week"]
    for nested in (every, to_week):
        starts = [window_start_ms(window, now_ms) for window in nested]
        assert starts == sorted(starts, reverse=True)
        for shorter, longer in pairwise(nested):
            assert window_start_ms(shorter, window_start_ms(longer, now_ms)) == window_start_ms(longer, now_ms)


def test_months_follow_the_calendar_through_leap_years_and_year_ends() -> None:
    """Every month from 1999 to 2105: 2000 was a leap year, 2100 will not be one."""
    months = ends_of_month(1999, 106)
    assert at(2000, 3) - at(2000, 2) == 29 * DAY
    assert at(2100, 3) - at(2100, 2) == 28 * DAY
    for begins, ends in pairwise(months):
        for now_ms in (begins, begins + 1, (begins + ends) // 2, ends - 1):
            assert window_start_ms("month", now_ms) == begins
            assert window_end_ms("month", now_ms) == ends


@ANY
@given(now_ms=TIMES)
def test_windows_are_those_of_a_calendar_in_utc(now_ms: int) -> None:
    """A window begins where the date and time, as they are written, are cut off."""
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    assert window_start_ms("minute", now_ms) == at(now.year, now.month, now.day, now.hour, now.minute)
    assert window_start_ms("hour", now_ms) == at(now.year, now.month, now.day, now.hour)
    assert window_start_ms("day", now_ms) == at(now.year, now.month, now.day)
    assert window_start_ms("month", now_ms) == at(now.year, now.month)
    monday = datetime.fromisocalendar(*now.isocalendar()[:2], 1)
    assert window_start_ms("week", now_ms) == at(monday.year, monday.month, monday.day)


# ---------------------------------------------------------------- when a window ends


ENDS: list[tuple[Window, int]] = [
    ("minute", at(2027, 3, 10, 12, 1)),
    ("hour", at(2027, 3, 10, 13)),
    ("day", at(2027, 3, 11)),
    ("day", at(2028, 2, 29)),
    ("day", at(2028, 3, 1)),
    ("week", at(2027, 3, 15)),
    ("week", at(2029, 1, 1)),
    ("month", at(2028, 3, 1)),
    ("month", at(2027, 3, 1)),
    ("month", at(2028, 1, 1)),
    ("month", at(2100, 3, 1)),
]


@pytest.mark.parametrize(("window", "end_ms"), ENDS)
def test_the_cap_is_whole_again_when_its_window_ends(window: Window, end_ms: int) -> None:
    """One millisecond before, it is still gone."""
    site = Site(config(budgets={"acme": capped(**{window: 5})}), end_ms - 30 * SECOND)
    site.settle(site.granted(candidate(usd=5)), 5)
    site.now_ms = end_ms - 1
    assert site.denied(candidate(usd=5)).reason == "cap_reached"
    site.now_ms = end_ms
    site.granted(candidate(usd=5))
    assert (site.posted(window=window), site.pending(window=window)) == (0, 5)


@pytest.mark.parametrize(("window", "end_ms"), ENDS)
@pytest.mark.parametrize("usd", [0, 2, 5, 7])
def test_a_hold_is_charged_to_the_window_in_which_it_was_made(window: Window, end_ms: int, usd: int) -> None:
    """Made before its end and settled after it: the new window sees nothing of it, `total` all of it."""
    site = Site(config(budgets={"acme": capped(**{window: 5, "total": 100})}), end_ms - 1)
    before = site.granted(candidate(usd=5))
    site.wait(1)
    after = site.granted(candidate(usd=5))
    assert site.pending(window=window) == 5
    assert site.pending(window="total") == 10
    site.settle(before, usd)
    assert (site.posted(window=window), site.pending(window=window)) == (0, 5)
    assert (site.posted(window="total"), site.pending(window="total")) == (usd, 5)
    site.settle(after, 3)
    assert (site.posted(window=window), site.pending(window=window)) == (3, 0)


def test_a_hold_of_yesterday_that_expires_or_is_corrected_today_changes_nothing_of_today() -> None:
    """It was unconfirmed, is corrected twice, and a third one is voided: all in yesterday's books."""
    midnight = at(2028, 3, 1)
    site = Site(config(budgets={"acme": capped(day=30, total=100)}), midnight - MINUTE)
    lost, unsure, unused = (site.granted(candidate(usd=5)) for _ in range(3))
    site.settle(unsure, 5, confirmed=False)
    assert site.posted() == 5
    site.wait(HOUR)
    site.settle(unsure, 1)
    site.settle(lost, 4)
    assert is_ended(site.reserve(hold_id=unused.hold_id))
    site.void(unused)
    assert (site.posted(), site.pending()) == (0, 0)
    assert (site.posted(window="month"), site.posted(window="total")) == (0, 5)


@ANY
@given(
    start_ms=st.sampled_from([end - 90 * SECOND for _, end in ENDS]),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0, 1, SECOND, 30 * SECOND, MINUTE, 59 * MINUTE, HOUR, DAY, 31 * DAY]),
            st.sampled_from(["hold", "hold", "post", "unconfirm"]),
            st.integers(0, 4),
        ),
        max_size=12,
    ),
)
def test_every_window_of_every_account_is_the_sum_of_its_holds(
    start_ms: int, steps: list[tuple[int, str, int]]
) -> None:
    """Whatever is made and settled when: the books are the sums by the time at which each hold was made."""
    site = Site(config(budgets={"acme": capped(day=10**6), "acme/team": capped(month=10**6)}), start_ms)
    held: list[tuple[str, int]] = []
    entries: dict[str, tuple[int, int, int]] = {}  # by hold id: made at, pending, posted
    for wait_ms, what, usd in steps:
        site.now_ms += wait_ms
        if what == "hold":
            site.desk.advance(site.now_ms)
            grant = site.granted(candidate(usd=usd), budget="acme/team")
            held.append((grant.hold_id, usd))
            entries[grant.hold_id] = site.now_ms, usd, 0
        elif held:
            hold_id, _ = held.pop(0) if what == "post" else held[0]
            site.settle(hold_id, usd, confirmed=what == "post")
            entries[hold_id] = entries[hold_id][0], 0, usd
        site.desk.advance(site.now_ms)
        for hold_id, hold in site.desk.ledger.holds.items():
            if hold.expired and entries[hold_id][1]:
                entries[hold_id] = entries[hold_id][0], 0, entries[hold_id][1]
        for account in ("budget:acme", "budget:acme/team", "service:s"):
            for window in WINDOWS:
                start = window_start_ms(window, site.now_ms)
                inside = [entry for entry in entries.values() if entry[0] >= start]
                balance = site.balance(account, window)
                assert balance.pending_nanos == sum(entry[1] for entry in inside) * USD
                assert balance.posted_nanos == sum(entry[2] for entry in inside) * USD


# ---------------------------------------------------------------- caps that change


def test_a_raise_that_lapses_is_there_until_the_window_ends() -> None:
    """$5 more until midnight; after it the cap is what it was, however much was spent."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    assert site.raise_cap("5", lapses=True) == 15 * USD
    assert site.raise_cap("1") == 16 * USD
    site.settle(site.granted(candidate(usd=16)), 16)
    site.wait_until(at(2027, 3, 11))
    site.granted(candidate(usd=11))
    assert site.denied(candidate(usd=12)).reason == "bound_above_cap"
    assert site.balance().cap_nanos == 11 * USD
    site.wait(DAY)
    site.desk.advance(site.now_ms)
    assert site.balance().cap_nanos == 11 * USD, "it lapses only once"


def test_a_raise_of_one_window_lapses_with_that_window_only() -> None:
    """The hour ends: the day's raise stays until midnight."""
    site = Site(config(budgets={"acme": capped(hour=2, day=3)}))
    site.raise_cap("1", window="hour", lapses=True)
    site.raise_cap("1", window="day", lapses=True)
    site.wait(HOUR)
    site.desk.advance(site.now_ms)
    assert (site.balance(window="hour").cap_nanos, site.balance(window="day").cap_nanos) == (2 * USD, 4 * USD)
    site.wait(12 * HOUR)
    site.desk.advance(site.now_ms)
    assert site.balance(window="day").cap_nanos == 3 * USD


def test_a_set_cap_ends_what_would_have_lapsed() -> None:
    """The admin set it after the raise: it is what it is, tomorrow too."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.raise_cap("5", lapses=True)
    site.set_cap("7")
    site.wait(DAY)
    site.desk.advance(site.now_ms)
    assert site.balance().cap_nanos == 7 * USD


def test_a_cap_below_what_is_spent_blocks_and_breaks_nothing() -> None:
    """$8 spent, cap lowered to $5: blocked until the window ends, or until it is raised above."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    grant = site.granted(candidate(usd=1))
    site.settle(site.granted(candidate(usd=8)), 8)
    site.set_cap("5")
    assert site.denied().reason == "cap_reached"
    site.settle(grant, 1)
    assert site.posted() == 9
    waiting = site.parked()
    site.raise_cap("4")
    assert site.served() == []
    site.raise_cap("1")
    assert site.served() == [waiting]
    site.set_cap("0")
    assert site.denied().reason == "bound_above_cap"
    site.granted(candidate(usd=0))


def test_a_lowered_cap_is_whole_in_the_next_window() -> None:
    """The overspent part is not carried over."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=8)), 8)
    site.set_cap("5")
    waiting = site.parked(candidate(usd=5))
    site.wait(12 * HOUR)
    assert site.served() == [waiting]


# ---------------------------------------------------------------- several caps at once


def in_the_way(site: Site) -> str:
    """What a call waits for, which then does not wait for it."""
    parked = site.reserve()
    assert isinstance(parked, Parked)
    site.void(parked.hold_id)
    return parked.detail.split("(")[1].split(")")[0]


def test_of_several_caps_that_are_used_up_the_one_that_lasts_longest_is_named() -> None:
    """From minute to total on one account: raising the shorter one would help nobody."""
    site = Site(config(budgets={"acme": capped(minute=1, hour=2, day=3, week=4, month=5, total=6)}))
    named: list[str] = []
    for waits in (MINUTE, HOUR, DAY, 7 * DAY, 31 * DAY, 31 * DAY):
        site.settle(site.granted(), 1)
        named.append(in_the_way(site))
        site.wait(waits)
    assert named == list(WINDOWS)
    assert [alert.window for alert in site.alerts("parked")] == list(WINDOWS)
    assert in_the_way(site) == "total"


def test_of_a_week_and_a_month_the_one_that_ends_later_is_named() -> None:
    """The 30th of March is a Tuesday: its week ends in April."""
    budgets = {"acme": capped(week=1, month=1)}
    for now_ms, named in ((at(2027, 3, 10), "month"), (at(2027, 3, 30), "week"), (at(2027, 3, 31, 23, 59), "week")):
        site = Site(config(budgets=budgets), now_ms)
        site.settle(site.granted(), 1)
        assert in_the_way(site) == named
    site = Site(config(budgets=budgets), at(2026, 5, 30))
    site.settle(site.granted(), 1)
    assert in_the_way(site) == "month", "both end on Monday, the first of June"


def test_a_free_call_goes_on_in_a_budget_that_is_above_its_cap() -> None:
    """A bill above its bound, or a lowered cap, stops what costs money; a local model that is free costs none."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=10)), 11)
    assert site.denied(candidate(usd=1)).reason == "cap_reached"
    assert site.granted(candidate(usd=1), candidate(price=FREE)).price == FREE


def test_the_service_has_caps_too() -> None:
    """$5 a day for the service `s`, whoever asks; the call goes to `t`."""
    services = {"s": service(day=5), "t": service()}
    site = Site(config(budgets={"acme": capped(day=100), "other": capped(day=100)}, services=services))
    site.settle(site.granted(candidate("s", 5), candidate("t", 5)), 5)
    assert site.granted(candidate("s", 5), candidate("t", 5), budget="other").service == "t"
    assert "service:s has a cap of $5.00 (day until 2027-03-11 00:00:00 UTC)" in site.denied(candidate("s")).detail


def test_a_call_charges_its_budget_and_all_ancestors_or_none() -> None:
    """The ancestor has no room: neither the child nor the service is charged."""
    budgets = {"acme": capped(day=5), "acme/a": capped(day=4), "acme/b": capped(day=4)}
    site = Site(config(budgets=budgets))
    accounts = ["budget:acme", "budget:acme/a", "budget:acme/b", "service:s"]
    site.granted(candidate(usd=4), budget="acme/a/writer")
    assert [site.pending(account) for account in accounts] == [4, 4, 0, 4]
    answer = site.reserve(candidate(usd=2), budget="acme/b", mode="fail")
    assert not isinstance(answer, Granted | Denied), "its ancestor's money is on hold"
    assert [site.pending(account) for account in accounts] == [4, 4, 0, 4]
    site.granted(candidate(usd=1), budget="acme/b")
    assert [site.pending(account) for account in accounts] == [5, 4, 1, 5]


def test_a_budget_of_which_only_an_ancestor_is_configured_charges_that() -> None:
    """`acme/x/y/z` is charged to `acme`; `acme2` has nothing to do with it."""
    site = Site(config(budgets={"acme": capped(day=5)}))
    site.granted(candidate(usd=2), budget="acme/x/y/z")
    assert site.pending() == 2
    assert site.denied(budget="acme2").reason == "unknown_budget"


def test_an_account_without_caps_keeps_its_books_all_the_same() -> None:
    """So that a cap that is put on it is exact from its first moment."""
    site = Site(config(budgets={"acme": capped(), "acme/team": capped()}))
    site.settle(site.granted(candidate(usd=5), budget="acme/team"), 4)
    assert [site.posted("budget:acme", window) for window in WINDOWS] == [4] * 6
    assert site.set_cap("5", window="month") == 5 * USD
    assert site.denied(candidate(usd=2), budget="acme/team").reason == "cap_reached"
    site.granted(candidate(usd=1), budget="acme/team")


def test_time_that_goes_back_does_not_bring_a_window_back() -> None:
    """The clock of another machine: the desk's time stays where it was."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.wait_until(at(2027, 3, 11))
    site.settle(site.granted(candidate(usd=10)), 10)
    site.now_ms = NOON
    assert site.denied().reason == "cap_reached"
    assert site.posted() == 10


def test_caps_may_be_as_large_as_the_books_and_as_small_as_a_nano_dollar() -> None:
    """10¹¹ dollars less a nano-dollar, and one nano-dollar: both exact."""
    site = Site(config(budgets={"acme": capped(day=1), "tiny": capped(day=1)}))
    site.set_cap("99999999999.999999999")
    assert site.raise_cap("0.000000001", "budget:tiny") == USD + 1
    with pytest.raises(ValueError, match="more than the books can hold"):
        site.raise_cap("0.000000001")
    assert site.balance().cap_nanos == 10**20 - 1
    assert usd_caps(day=1) == {"day": USD}


def test_a_status_after_midnight_shows_the_new_day_also_when_nothing_happened_since() -> None:
    """Nothing spent, nothing held, and a raise for yesterday is gone: as the next command will find it."""
    site = Site(config(budgets={"acme": capped(day=10, month=50)}))
    site.settle(site.granted(candidate(usd=3)), 3)
    site.granted(candidate(usd=2))
    site.raise_cap("5", lapses=True)
    before = site.desk.dump()
    seen = {w.window: w for w in site.desk.status(now_ms=NOON + DAY).accounts[0].windows}
    assert site.desk.dump() == before, "looking changes nothing"
    site.now_ms += DAY
    site.desk.advance(site.now_ms)
    assert seen["day"].posted_nanos == seen["day"].pending_nanos == 0
    assert {w.window: w for w in site.desk.status().accounts[0].windows}["day"] == seen["day"]
    assert seen["month"].posted_nanos == 3 * USD
