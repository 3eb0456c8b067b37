"""What is far above the past, whatever a few odd weeks were like; and one alert for one event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages.spending import SpentOn
from paymaster.reports.anomalies import (
    DEVIATIONS,
    TIMES,
    WEEKS,
    WEEKS_NEEDED,
    Portion,
    is_unusual,
    median,
    past_of,
    spent_by_account,
    unusual_accounts,
)
from paymaster.reports.forecast import HOUR_MS
from paymaster.values.money import NANOS_PER_USD as USD

NOW_MS = 1_772_325_000_123
NANOS = st.integers(0, 10**13)
PAST = st.lists(NANOS, min_size=WEEKS_NEEDED, max_size=WEEKS)


@given(nanos=NANOS, more=NANOS, past=PAST, floor=NANOS)
def test_more_is_never_less_unusual(nanos: int, more: int, past: list[int], floor: int) -> None:
    if is_unusual(nanos, past, floor):
        assert is_unusual(nanos + more, past, floor)
        assert is_unusual(nanos, past, 0)
        assert nanos >= floor


@given(past=PAST, floor=NANOS)
def test_enough_is_unusual_and_the_usual_is_not(past: list[int], floor: int) -> None:
    usual = median(past)
    assert not is_unusual(usual, past, max(1, floor))
    assert not is_unusual(usual + max(1, floor) - 1, past, max(1, floor))
    assert is_unusual(max(past) * (TIMES + DEVIATIONS) + floor + 1, past, floor)


@given(nanos=NANOS, past=PAST, floor=NANOS, times=st.integers(1, 1_000))
def test_the_currency_does_not_matter(nanos: int, past: list[int], floor: int, times: int) -> None:
    """What is counted in units a thousand times smaller is judged alike; in even numbers, for nothing is rounded."""
    doubled = [4 * each for each in past]
    larger = [each * times for each in doubled]
    assert is_unusual(4 * nanos, doubled, 4 * floor) == is_unusual(4 * nanos * times, larger, 4 * floor * times)


@given(
    usual=st.lists(NANOS, min_size=5, max_size=5),
    odd=st.lists(NANOS.map(lambda nanos: nanos * 10**6), max_size=3),
)
def test_odd_weeks_hide_nothing(usual: list[int], odd: list[int]) -> None:
    """Three of eight, however much was spent in them: one that is far above the others still is."""
    far = max(TIMES * max(usual), max(usual) + DEVIATIONS * (max(usual) - min(usual))) + USD
    assert is_unusual(far, [*usual, *odd], USD)


@given(nanos=NANOS, past=st.lists(NANOS, max_size=WEEKS_NEEDED - 1))
def test_of_the_young_nobody_knows(nanos: int, past: list[int]) -> None:
    assert not is_unusual(nanos, past, 0)


@pytest.mark.parametrize(
    ("usd", "past", "unusual"),
    [
        (12, [1, 1, 1, 2, 1, 1, 1, 1], True),
        (20, [1, 9, 2, 11, 1, 10, 3, 12], False),  # it varies
        (50, [1, 9, 2, 11, 1, 10, 3, 12], True),
        (1.5, [1, 1, 1, 1], False),
        (0.9, [0, 0, 0, 0], False),  # less than a dollar
        (1, [0, 0, 0, 0], True),  # at night, where nothing is usual
        (2_000, [1_000, 1_010, 990, 1_005], False),  # twice as much is not far
        (2_200, [1_000, 1_010, 990, 1_005], True),
    ],
)
def test_what_people_would_say(usd: float, past: list[int], *, unusual: bool) -> None:
    assert is_unusual(int(usd * USD), [each * USD for each in past], USD) is unusual


@given(
    hours=st.dictionaries(st.integers(0, WEEKS * 168 + 5), st.integers(0, 10**6), max_size=30),
    now_ms=st.integers(NOW_MS, NOW_MS + HOUR_MS),
)
def test_the_past_is_the_same_hour_of_each_week(hours: dict[int, int], now_ms: int) -> None:
    """Compared with a model that looks at each week by itself; never more than was in one of the two hours."""
    this = now_ms // HOUR_MS
    spent = {(this - back) * HOUR_MS: nanos for back, nanos in hours.items()}
    known = [back for back, nanos in hours.items() if nanos]
    weeks = max(known, default=-1) // 168
    expected = [max(hours.get(168 * week, 0), hours.get(168 * week + 1, 0)) for week in range(1, min(weeks, WEEKS) + 1)]
    assert list(past_of(spent, now_ms)) == expected


def portion(budget: str, usd: int, *, model: str = "m", run: str | None = None, service: str = "s") -> Portion:
    return Portion((budget,), service, model, run, usd * USD)


QUIET = (0,) * WEEKS
BUSY = (10 * USD,) * WEEKS


def test_one_event_is_one_alert() -> None:
    """What a run spends is in its budget, those above it, and the service; it is said once, of the run."""
    portions = [portion("acme/content", 50, run="nightly"), portion("acme/content", 5), portion("acme/other", 5)]
    past = {"run:nightly": QUIET, "budget:acme/content": BUSY, "budget:acme": BUSY, "service:s": BUSY}
    [told] = unusual_accounts(portions, past, USD)
    assert (told.account, told.nanos, told.usual_nanos) == ("run:nightly", 50 * USD, 0)
    without_run = {name: each for name, each in past.items() if name != "run:nightly"}
    [told] = unusual_accounts(portions, without_run, USD)
    assert (told.account, told.usual_nanos) == ("budget:acme/content", 10 * USD)


def test_what_was_told_explains_the_rest_and_is_not_told_again() -> None:
    portions = [portion("acme/content", 50)]
    past = {"budget:acme/content": QUIET, "budget:acme": QUIET}
    assert unusual_accounts(portions, past, USD, told={"budget:acme/content"}) == []


def test_two_events_are_two_alerts() -> None:
    """Another budget above which the same one stands, and what is unusual only all together."""
    portions = [portion("a/b", 50), portion("a/c", 50), *(portion(f"a/{name}", 9) for name in "defgh")]
    past = {"budget:a/b": QUIET, "budget:a/c": QUIET, "budget:a": BUSY}
    assert [each.account for each in unusual_accounts(portions, past, USD)] == ["budget:a/b", "budget:a/c", "budget:a"]


def test_an_alert_names_what_most_is_spent_on() -> None:
    portions = [
        portion("acme/content", 30, model="large", run="nightly"),
        portion("acme/content", 9, model="small", run="nightly"),
        portion("acme/other", 8, model="small"),
    ]
    [told] = unusual_accounts(portions, {"budget:acme": QUIET}, USD)
    assert told.spent_on == (
        SpentOn(what="run", name="nightly", nanos=39 * USD),
        SpentOn(what="budget", name="acme/content", nanos=39 * USD),
        SpentOn(what="model", name="s/large", nanos=30 * USD),
    )
    [told] = unusual_accounts(portions, {"run:nightly": QUIET}, USD)
    assert [each.what for each in told.spent_on] == ["budget", "model"], "a run does not consist of itself"


def test_a_portion_counts_for_each_account_once() -> None:
    several = Portion(("a/b", "a/c"), "s", "m", "r/x", 7)
    assert dict(spent_by_account([several, several])) == dict.fromkeys(
        ("service:s", "run:r/x", "run:r", "budget:a/b", "budget:a/c", "budget:a"), 14
    )


def test_a_correction_is_no_beginning() -> None:
    """An hour in which only money came back says nothing of what is usual."""
    weeks = {(NOW_MS // HOUR_MS - 168 * week) * HOUR_MS: USD for week in (1, 2)}
    longer_ago = {(NOW_MS // HOUR_MS - 168 * 7) * HOUR_MS: -USD}
    assert past_of({**weeks, **longer_ago}, NOW_MS) == past_of(weeks, NOW_MS) == (USD, USD)
