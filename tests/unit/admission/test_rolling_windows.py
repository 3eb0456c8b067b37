"""Rolling windows: what was spent in the last 24 hours, 7 or 30 days, against a list that is added up from scratch."""

from collections import UserDict
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, USD, Site, candidate, capped, config
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.holds import Hold
from paymaster.admission.rolling import roll_windows
from paymaster.admission.state import DeskState
from paymaster.messages import AccountConfig, CapChange, Granted, LoadedSpend, RaiseCap, Window
from paymaster.values.windows import STEPS_MS, window_end_ms, window_start_ms

LENGTHS: dict[Window, int] = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
CAP = 5


def of_one(window: Window, cap: int = CAP) -> AccountConfig:
    return AccountConfig(caps_nanos={window: cap * USD}, alert_at=(0.5,))


class Spent(NamedTuple):
    at_ms: int
    usd: int


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "free", "reload", "cut"]),
        st.integers(1, 3),
        st.sampled_from([0, 1, MINUTE, HOUR - 1, HOUR, 6 * HOUR, DAY - 1, DAY, DAY + 1, 8 * DAY]),
    ),
    max_size=40,
)


def load(site: Site, spent: list[Spent]) -> None:
    """The database answers from the list."""
    while (wanted := site.desk.to_load()) is not None:
        rows = [row for row in spent if str(row.at_ms) not in {hold.split("@")[1] for hold in wanted.known_holds}]
        steps: dict[Window, dict[int, int]] = {}
        for window, start_ms in wanted.rolling_starts_ms.items():
            for row in rows:
                if row.at_ms >= start_ms:
                    step = row.at_ms // STEPS_MS[window] * STEPS_MS[window]
                    sums = steps.setdefault(window, {})
                    sums[step] = sums.get(step, 0) + row.usd * USD
        posted: dict[Window, int] = {
            window: sum(row.usd for row in rows if row.at_ms >= start_ms) * USD
            for window, start_ms in wanted.window_starts_ms.items()
        }
        found = LoadedSpend(
            number=wanted.number,
            posted_nanos=dict.fromkeys(wanted.accounts, posted),
            steps_nanos=dict.fromkeys(wanted.accounts, steps),
        )
        site.desk.loaded(found, site.now_ms)


@pytest.mark.parametrize("window", LENGTHS)
@given(steps=STEPS)
@settings(max_examples=examples(60), deadline=None)
def test_never_more_than_the_cap_in_any_such_time(window: Window, steps: list[tuple[str, int, int]]) -> None:
    """And no call is held up for what is older than that and a step, whatever is read again or cut in between."""
    site = Site(config(budgets={"acme": of_one(window)}))
    spent: list[Spent] = []
    length, step_ms = LENGTHS[window], STEPS_MS[window]
    for what, usd, wait_ms in steps:
        site.now_ms += wait_ms + 1  # each call at a time of its own
        site.desk.advance(site.now_ms)
        now_ms = site.now_ms = max(site.now_ms, site.desk.state.now_ms)
        match what:
            case "reload":
                site.desk.reload(now_ms)
                load(site, spent)
            case "cut":
                site.cut()
            case _:
                answer = site.reserve(candidate(usd=usd), mode="fail", hold_id=f"call@{now_ms}")
                within = sum(row.usd for row in spent if row.at_ms > now_ms - length)
                perhaps = sum(row.usd for row in spent if row.at_ms > now_ms - length - step_ms)
                if isinstance(answer, Granted):
                    assert within + usd <= CAP
                    cost = 0 if what == "free" else usd
                    site.settle(answer.grant, cost)
                    spent.append(Spent(now_ms, cost))
                else:
                    assert perhaps + usd > CAP


@pytest.mark.parametrize("window", LENGTHS)
@pytest.mark.parametrize("at_ms", [NOON, NOON - 1, NOON + 1, NOON + 17 * HOUR, NOON + 5 * MINUTE])
def test_a_window_reaches_back_as_far_as_its_oldest_step(window: Window, at_ms: int) -> None:
    start_ms, end_ms = window_start_ms(window, at_ms), window_end_ms(window, at_ms)
    assert end_ms is not None
    assert start_ms % STEPS_MS[window] == end_ms % STEPS_MS[window] == 0
    assert start_ms <= at_ms - LENGTHS[window] < start_ms + STEPS_MS[window]
    assert at_ms < end_ms <= at_ms + STEPS_MS[window]
    assert window_start_ms(window, end_ms) == start_ms + STEPS_MS[window]
    assert window_start_ms(window, end_ms - 1) == start_ms


def test_a_parked_call_goes_on_when_enough_has_left() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.settle(site.granted(candidate(usd=3)), 3)
    site.wait(2 * HOUR)
    site.settle(site.granted(candidate(usd=2)), 2)
    waiting = site.parked(candidate(usd=3), wait_ms=3 * DAY)
    site.wait(DAY - 2 * HOUR)
    assert site.served() == []
    site.wait(HOUR)
    assert site.served() == [waiting]


def test_a_new_rolling_cap_counts_what_was_spent_before() -> None:
    site = Site(config(budgets={"acme": capped(day=100)}))
    spent = [Spent(NOON - 20 * HOUR, 3), Spent(NOON - 40 * HOUR, 7)]
    grant = site.granted(candidate(usd=1), hold_id=f"call@{NOON}")
    site.desk.configure(config("rolling", {"acme": of_one("24h")}), site.now_ms)
    assert site.parked(candidate(usd=1), hold_id=f"call@{NOON + 1}")
    load(site, spent)
    assert len(site.served()) == 1
    site.settle(grant, 1)
    assert site.balance(window="24h").posted_nanos == 4 * USD


def test_an_admin_sets_and_raises_one_and_the_file_takes_it_away() -> None:
    site = Site(config(budgets={"acme": capped(day=100)}))
    site.set_cap("2", window="7d")
    load(site, [])
    site.settle(site.granted(candidate(usd=2)), 2)
    waiting = site.parked(candidate(usd=1))
    assert site.raise_cap("1", window="7d") == 3 * USD
    assert site.served() == [waiting]
    site.desk.configure(config("new", {"acme": of_one("7d", 9)}), site.now_ms)
    assert site.balance(window="7d").posted_nanos == 2 * USD
    site.desk.configure(config("gone", {"acme": capped(day=100)}), site.now_ms, may_remove=True)
    assert "7d" not in site.desk.ledger.accounts["budget:acme"].balances


def test_a_raise_of_one_cannot_lapse() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    change = RaiseCap(account="budget:acme", window="24h", by="1", until_window_end=True)
    with pytest.raises(ValueError, match="`24h` never ends; a raise of it cannot lapse"):
        site.desk.raise_cap(change, site.now_ms)


def test_the_file_takes_one_away_that_an_admin_raised() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.raise_cap("1", window="24h")
    site.desk.configure(config("gone", {"acme": capped(day=100)}), site.now_ms, may_remove=True)
    assert "24h" not in site.desk.ledger.accounts["budget:acme"].balances
    [*_, ended] = [notice for notice in site.desk.state.outbox.notices if isinstance(notice, CapChange)]
    assert (ended.window, ended.from_nanos, ended.to_nanos, ended.by_file) == ("24h", 6 * USD, None, True)


def test_a_threshold_is_told_again_when_it_was_left() -> None:
    site = Site(config(budgets={"acme": of_one("24h", 4)}))
    for _ in range(2):
        site.settle(site.granted(candidate(usd=2)), 2)
        assert site.new_alerts() == ["threshold"]
        site.wait(DAY + HOUR)
        site.desk.advance(site.now_ms)


def test_the_status_says_what_counts_now() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.settle(site.granted(candidate(usd=3)), 3)
    [account] = [each for each in site.desk.status(now_ms=NOON + DAY - 1).accounts if each.account == "budget:acme"]
    [line] = [each for each in account.windows if each.window == "24h"]
    assert (line.posted_nanos, line.cap_nanos) == (3 * USD, CAP * USD)
    [account] = [each for each in site.desk.status(now_ms=NOON + DAY + HOUR).accounts if each.account == "budget:acme"]
    [line] = [each for each in account.windows if each.window == "24h"]
    assert line.posted_nanos == 0


def test_an_unconfirmed_hold_is_corrected_where_it_counts() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.settle(site.granted(candidate(usd=3), hold_id="late/1"), 3, confirmed=False)
    site.wait(5 * HOUR)
    site.settle("late/1", 1)
    assert site.balance(window="24h").posted_nanos == USD
    site.granted(candidate(usd=4))


def test_rules_1_know_no_rolling_windows() -> None:
    site = Site(rules=1)
    refused = site.desk.configure(config("rolling", {"acme": of_one("24h")}), site.now_ms)
    assert "know no 24h" in refused.detail
    assert DeskState(ledger="test", epoch="e").books.window_starts_ms.keys().isdisjoint(STEPS_MS)


class CountedHolds(UserDict[str, Hold]):
    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


def test_windows_of_many_names_roll_on_in_one_pass_over_the_holds() -> None:
    names, calls = 100, 30
    rolling = AccountConfig(caps_nanos=dict.fromkeys(LENGTHS, calls * USD), alert_at=())
    site = Site(config(budgets={"team": AccountConfig(), "team/*": rolling}))
    for number in range(names):
        site.desk.ledger.open_on_demand(f"budget:team/{number}", rolling)
    while site.desk.to_load() is not None:
        site.load()
    for number in range(calls):
        site.granted(budget=f"team/{number % 3}")
    site.now_ms += DAY
    ledger = site.desk.ledger
    holds = CountedHolds(ledger.pending)
    roll_windows(ledger.accounts, holds, ledger.calendars, site.now_ms)
    assert holds.passes == 1
    assert site.balance("budget:team/1", "24h").pending_nanos == calls // 3 * USD


def test_what_leaves_while_it_is_read_again_is_not_missed() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.settle(site.granted(candidate(usd=3)), 3)
    site.wait(5 * HOUR)
    site.settle(site.granted(candidate(usd=1)), 1)
    site.wait(19 * HOUR + 10 * MINUTE)
    site.desk.reload(site.now_ms)
    site.wait(HOUR)
    site.desk.advance(site.now_ms)
    load(site, [Spent(NOON, 3), Spent(NOON + 5 * HOUR, 1)])
    assert site.alerts("spending_missing") == []
    assert site.balance(window="24h").posted_nanos == USD


def test_what_the_rows_lack_stays_until_it_would_have_left() -> None:
    site = Site(config(budgets={"acme": of_one("24h")}))
    site.settle(site.granted(candidate(usd=3)), 3)
    site.desk.reload(site.now_ms)
    load(site, [])
    assert len(site.alerts("spending_missing")) == 1
    site.parked(candidate(usd=3), wait_ms=3 * DAY)
    site.wait(DAY + HOUR)
    assert len(site.served()) == 1
