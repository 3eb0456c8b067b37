"""Budgets that are watched only: counted and alerted as any, and in nobody's way."""

import pytest
from desk_kit import DAY, Site, candidate, capped, config

from paymaster.admission.configuration import differences
from paymaster.admission.signed_commands import changes_money
from paymaster.messages import AccountConfig, DeskConfig

WATCHED = capped(day=5).model_copy(update={"enforce": False})


def a_site(**budgets: AccountConfig) -> Site:
    return Site(config(budgets={"acme": capped(day=100), "acme/new": WATCHED, **budgets}))


def let_through(site: Site) -> int:
    return site.balance("budget:acme/new").let_through


def told(site: Site) -> list[str]:
    """What was alerted of it since the last time."""
    site.desk.advance(site.now_ms)
    found = [alert.text for alert in site.alerts("watched")]
    site.new_alerts()
    return found


def test_calls_go_on_and_are_counted() -> None:
    site = a_site()
    grants = [site.granted(candidate(usd=3), budget="acme/new") for _ in range(3)]
    assert (let_through(site), site.pending("budget:acme/new")) == (2, 9)
    for grant in grants:
        site.settle(grant, 2)
    assert site.posted("budget:acme/new") == 6
    site.granted(candidate(usd=1), budget="acme/new", mode="fail")
    site.granted(candidate(usd=0), budget="acme/new")
    assert let_through(site) == 3, "a free one always fits"


def test_it_is_told_at_the_first_one_and_when_the_window_ends() -> None:
    site = a_site()
    for _ in range(4):
        site.granted(candidate(usd=3), budget="acme/new")
    [first] = told(site)
    assert "cap of $5.00 (day) has no room for a call of acme/new that can cost $3.00, which goes on" in first
    site.cut()
    site.wait(DAY)
    [last] = told(site)
    assert last.endswith("in the day that ended, its cap of $5.00 would have held up 3 calls")
    assert let_through(site) == 0
    site.wait(DAY)
    assert told(site) == []


def test_a_cap_above_it_binds_all_the_same() -> None:
    site = a_site(acme=capped(day=4))
    site.granted(candidate(usd=3), budget="acme/new")
    site.parked(candidate(usd=3), budget="acme/new")
    assert let_through(site) == 0


def test_its_limits_hold_up_nobody() -> None:
    limited = WATCHED.model_copy(update={"max_concurrent": 1, "requests_per_minute": 1})
    site = a_site(**{"acme/new": limited})
    for _ in range(3):
        site.granted(budget="acme/new")
    [limits] = [each.limits for each in site.desk.status().accounts if each.account == "budget:acme/new"]
    assert {each.what: each.used for each in limits} == {"max_concurrent": 3, "requests_per_minute": 3}


def test_when_it_is_enforced_its_money_is_known() -> None:
    site = a_site()
    for _ in range(2):
        site.granted(candidate(usd=3), budget="acme/new")
    site.desk.configure(two(enforce=True), site.now_ms)
    waiting = site.parked(candidate(usd=3), budget="acme/new")
    site.cut()
    site.desk.configure(two(enforce=False, digest="back"), site.now_ms)
    assert site.served() == [waiting]


def two(*, enforce: bool, digest: str = "other") -> DeskConfig:
    budgets = {"acme": capped(day=100), "acme/new": WATCHED.model_copy(update={"enforce": enforce})}
    return config(budgets=budgets).model_copy(update={"digest": digest})


@pytest.mark.parametrize("enforce", [True, False])
def test_a_change_is_told_and_loosens_where_it_does(enforce: bool) -> None:
    [found] = differences(two(enforce=not enforce), two(enforce=enforce))
    names = ["enforced", "watched only"]
    assert found.text == "acme/new {} → {}".format(*(names[::-1] if enforce else names))
    assert found.loosens is not enforce
    assert changes_money(two(enforce=not enforce), two(enforce=enforce))


def test_under_the_rules_of_0_1_0_nothing_is_watched_only() -> None:
    """That version would enforce it."""
    site = Site(config(budgets={"acme": capped(day=100)}), rules=1)
    answer = site.desk.configure(two(enforce=False), site.now_ms)
    assert not answer.applied
    assert "know no enforce = false" in answer.detail
