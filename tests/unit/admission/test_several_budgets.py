"""A call that counts for several budgets: held in all of them at once, or in none."""

import pytest
from desk_kit import USD, Site, candidate, capped, config

BOTH = ("teams/red", "customers/42")


def a_site(rules: int = 2, **caps: int) -> Site:
    """A team and a customer of $10 each, unless told otherwise, below trees without a cap."""
    budgets = {path: capped(day=caps.get(path.partition("/")[0], 10)) for path in BOTH}
    return Site(config(budgets={"teams": capped(), "customers": capped(), **budgets}), rules=rules)


def pending(site: Site) -> dict[str, int]:
    """In dollars, by budget."""
    return {
        key: account.balances["day"].pending_nanos // USD
        for key, account in site.desk.ledger.accounts.items()
        if key.startswith("budget:")
    }


def test_it_is_held_in_each_tree() -> None:
    site = a_site()
    grant = site.granted(candidate(usd=3), budget=BOTH)
    assert grant.budgets == BOTH
    assert pending(site) == dict.fromkeys(("budget:teams", "budget:customers", *(f"budget:{b}" for b in BOTH)), 3)
    site.settle(grant, 2)
    assert {site.balance(f"budget:{path}").posted_nanos for path in BOTH} == {2 * USD}


def test_each_account_counts_it_once() -> None:
    site = a_site()
    site.granted(candidate(usd=3), budget=("teams/red", "teams", "teams/red/writer", "teams/red"))
    assert pending(site) == {"budget:teams": 3, "budget:teams/red": 3, "budget:customers": 0, "budget:customers/42": 0}


@pytest.mark.parametrize(("poor", "named"), [("teams", "budget:teams/red"), ("customers", "budget:customers/42")])
def test_the_one_without_money_is_in_the_way_of_all(poor: str, named: str) -> None:
    site = a_site(**{poor: 2})
    denied = site.denied(candidate(usd=3), budget=BOTH)
    assert denied.reason == "bound_above_cap"
    assert named in denied.detail
    assert set(pending(site).values()) == {0}


def test_a_parked_one_goes_on_when_both_have_room() -> None:
    site = a_site()
    red, customer = (site.granted(candidate(usd=10), budget=path) for path in BOTH)
    waiting = site.parked(candidate(usd=3), budget=BOTH)
    site.settle(red, 1)
    assert site.served() == []
    site.cut()
    site.settle(customer, 1)
    assert site.served() == [waiting]


def test_a_budget_that_is_new_counts_calls_that_wait() -> None:
    """Also where it is not the first one that they name."""
    site = a_site()
    site.granted(candidate(usd=10), budget="teams/red")
    waiting = site.parked(candidate(usd=3), budget=("teams/red", "customers/42/shop"))
    site.set_cap("1", account="budget:customers/42/shop")
    site.raise_cap("100", account="budget:teams/red")
    assert waiting not in site.served()


def test_a_budget_without_any_account_is_named() -> None:
    site = a_site()
    denied = site.denied(budget=("teams/red", "projects/x"))
    assert (denied.reason, 'add [budgets."projects/x"]' in denied.detail) == ("unknown_budget", True)
    assert site.denied(budget=("teams/red", "projects//x")).reason == "bad_budget"


def test_a_ledger_with_the_rules_of_0_1_0_says_what_to_do() -> None:
    """That version would charge one of them only."""
    site = a_site(rules=1)
    denied = site.denied(budget=BOTH)
    assert (denied.reason, "`paymaster upgrade`" in denied.detail) == ("bad_budget", True)
    site.granted(budget="teams/red")
