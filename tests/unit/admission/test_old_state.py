"""The state that a ledger of 0.1.0 had (in tests/released, by `record_ledger.py`) goes on in this version."""

import json
from typing import Any

import pytest
from desk_kit import MINUTE, USD, Site, capped, config
from paymaster_process import ROOT

from paymaster.admission.account_rows import account_rows, accounts_of
from paymaster.admission.desk import Desk
from paymaster.admission.state import RULES, read, upgrade
from paymaster.messages import LoadedSpend, ResumeService
from paymaster.values.windows import WINDOWS, WINDOWS_OF_RULES_1, Window, window_end_ms, window_start_ms

FOLDER = ROOT / "tests" / "released"
DUMPED = (FOLDER / "ledger-0.1.0.txt").read_text().strip()
FACTS: dict[str, Any] = json.loads((FOLDER / "ledger-0.1.0.json").read_text())


def restored(dumped: str = DUMPED) -> Site:
    site = Site(load=False)
    site.desk, site.now_ms = Desk.load(dumped), FACTS["now_ms"]
    return site


def balances(site: Site) -> dict[str, list[int | None]]:
    return {
        f"{key} {window}": [balance.cap_nanos, balance.posted_nanos, balance.pending_nanos]
        for key, account in site.desk.ledger.accounts.items()
        for window, balance in account.balances.items()
    }


def without(dumped: str, window: Window) -> str:
    """The state of a version that did not know this window, as it is after it was loaded."""
    state, _ = read(dumped)
    state.books.window_starts_ms.pop(window)
    for account in state.books.accounts.values():
        account.balances.pop(window)
    return Desk(upgrade(state)).dump()


def test_everything_of_the_old_state_is_there() -> None:
    """Caps and money of all windows that it knew, holds, parked calls, and the question that it was asking."""
    site = restored()
    found = balances(site)
    assert {name: found[name] for name in FACTS["balances"]} == FACTS["balances"]
    assert sorted(site.desk.ledger.holds) == FACTS["holds"]
    assert sorted(site.desk.state.parked) == FACTS["parked"]
    wanted = site.desk.to_load()
    assert wanted is not None
    assert "budget:opened" in wanted.accounts


@pytest.mark.parametrize("rules", [1, RULES])
def test_it_goes_on_past_a_minute_and_answers_the_status(rules: int) -> None:
    """Its spending is read, minutes and days end, and calls are granted; also after a new run, and under new rules."""
    site = restored()
    site.desk.follow(rules)
    site = restored(site.desk.dump())
    wanted = site.desk.to_load()
    assert wanted is not None
    posted = {key: dict.fromkeys(WINDOWS, USD // 10) for key in wanted.accounts}
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted), site.now_ms)
    assert site.balance("budget:opened", "month").posted_nanos == USD // 10
    for _ in range(3):
        site.wait(MINUTE)
        site.cut()
        status = site.desk.status(now_ms=site.now_ms)
        assert {account.account for account in status.accounts} >= {"budget:acme", "budget:opened"}
        assert not any(account.loading for account in status.accounts)
    assert site.balance("budget:opened", "minute").posted_nanos == 0
    site.desk.resume_service(ResumeService(service="s"), site.now_ms)
    assert {*site.answers()} & {*FACTS["parked"]}
    for hold_id in list(site.desk.ledger.pending):
        site.void(hold_id)
    site.wait(MINUTE)  # its rate limit has room again
    assert site.granted(budget="opened").budget == "opened"


def test_its_own_rules_give_it_no_window_unknown_to_0_1_0() -> None:
    """No question for it, no cap in it, no configuration with one; newer rules begin it with their first run."""
    site = restored(restored().desk.dump())
    site.load()
    assert not any(account.loading for account in site.desk.ledger.accounts.values())
    assert set(site.desk.state.books.window_starts_ms) == set(WINDOWS_OF_RULES_1)
    with pytest.raises(ValueError, match=r"rules of version 0\.1\.0, which know no week"):
        site.set_cap("5", "budget:opened", "week")
    with pytest.raises(ValueError, match="capped windows: "):
        site.raise_cap("5", window="week")
    weekly = config("weekly", {"acme": capped(week=5)})
    told = site.desk.configure(weekly, site.now_ms, may_remove=True)
    assert (told.applied, "know no week" in told.detail) == (False, True)
    site = restored(site.desk.handed_on(RULES))
    assert all(account.loading for account in site.desk.ledger.accounts.values())
    while (wanted := site.desk.to_load()) is not None:
        assert list(wanted.window_starts_ms) == list(WINDOWS)
        site.load()
    assert site.desk.configure(weekly, site.now_ms, may_remove=True).applied
    assert site.set_cap("5", "budget:opened", "week") == 5 * USD


@pytest.mark.parametrize("window", ["hour", "week"])
def test_a_window_that_it_did_not_know_is_read_first(window: Window) -> None:
    """A state without the window begins it now, has every account read, and grants nothing before that."""
    site = restored()
    site.desk.follow(RULES)
    site = restored(without(site.desk.dump(), window))
    accounts = site.desk.ledger.accounts
    assert all(account.loading and list(account.balances) == list(WINDOWS) for account in accounts.values())
    assert site.desk.state.books.window_starts_ms[window] == window_start_ms(window, FACTS["now_ms"])
    assert site.parked(budget="opened")
    wanted = site.desk.to_load()
    assert wanted is not None
    assert set(wanted.accounts) == set(accounts)
    assert list(wanted.window_starts_ms) == list(WINDOWS)
    posted = {key: dict.fromkeys(WINDOWS, USD) for key in wanted.accounts}
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted), site.now_ms)
    assert site.balance("budget:opened", window).posted_nanos == USD
    end_ms = window_end_ms(window, site.now_ms)
    assert end_ms is not None
    site.wait_until(end_ms)
    site.desk.advance(end_ms)
    assert site.desk.state.books.window_starts_ms[window] == end_ms
    assert site.desk.status(now_ms=site.now_ms).accounts


def test_rows_say_of_which_windows_they_are() -> None:
    """An account's row has one balance for each window that the version knew which wrote it."""
    site = restored()
    site.desk.follow(RULES)
    state = site.desk.state
    rows = account_rows(state.books.accounts, state.config)
    shorter = [[row[0], row[1][1:], *row[2:]] for row in rows]
    found = accounts_of(shorter, state.config, WINDOWS[1:])
    for key, account in found.items():
        assert list(account.balances) == list(WINDOWS[1:])
        assert account.balances["total"] == state.books.accounts[key].balances["total"]
