"""Candidates for when the money is short: chosen when little of a cap is unspent, or nothing else fits; else never."""

from collections.abc import Callable

import pytest
from desk_kit import DAY, HOUR, Site, candidate, capped, config, service
from hypothesis import given
from hypothesis import strategies as st

from paymaster.messages import Candidate, Denied, Grant, Granted, PauseService

FIFTH = 200_000


def mini(usd: int = 1, below: int = FIFTH, name: str = "mini") -> Candidate:
    return candidate(name, usd=usd).model_copy(update={"short_below": below})


def a_site(rules: int = 2, **caps: int) -> Site:
    services = {"big": service(concurrent=5), "mini": service(), "other": service()}
    budgets = {"acme": capped(**(caps or {"day": 100})), "acme/team": capped(), "customers/x": capped(total=10)}
    return Site(config(budgets=budgets, services=services), rules=rules)


BIG = candidate("big", usd=2)


def spend(site: Site, usd: int, budget: str = "acme/team") -> None:
    site.settle(site.granted(candidate("other", usd=usd), budget=budget), usd)


def test_it_is_asked_when_less_than_its_part_is_unspent() -> None:
    site = a_site()
    spend(site, 80)
    grant = site.granted(BIG, mini(), budget="acme/team")
    assert (grant.service, grant.money_short) == ("big", False)
    site.settle(grant, 1)
    grant = site.granted(BIG, mini(), budget="acme/team")
    assert (grant.service, grant.money_short) == ("mini", True)


def test_what_is_on_hold_is_not_spent() -> None:
    site = a_site()
    site.granted(candidate("other", usd=98))
    assert site.granted(BIG, mini()).service == "big"
    site.parked(BIG, mini())


def test_it_is_asked_when_nothing_else_fits_into_what_is_unspent() -> None:
    site = a_site(day=10)
    spend(site, 7)
    large = candidate("big", usd=4)
    assert site.granted(large, mini(below=0)).service == "mini"
    assert site.granted(candidate("big", usd=11), mini(below=0)).service == "mini", "what is above the cap never fits"
    site.denied(large, mini(usd=4, below=0))


def test_what_is_in_the_way_otherwise_is_waited_for() -> None:
    site = a_site()
    site.desk.pause_service(PauseService(service="big"), site.now_ms)
    site.parked(BIG, mini())
    assert site.denied(candidate("ghost"), mini()).reason == "unknown_service"


def test_the_others_come_after_it_when_money_is_short() -> None:
    site = a_site()
    spend(site, 90)
    site.desk.pause_service(PauseService(service="mini"), site.now_ms)
    grant = site.granted(BIG, mini())
    assert (grant.service, grant.money_short) == ("big", False)


def test_alone_it_is_no_candidate_while_there_is_money() -> None:
    """All others have failed the call."""
    site = a_site()
    denied = site.denied(mini())
    assert (denied.reason, denied.detail) == (
        "no_candidate",
        "mini/m: it is for when the money gets short, which it is not",
    )
    spend(site, 90)
    assert site.granted(mini()).service == "mini"


def test_any_of_its_budgets_makes_it_short() -> None:
    site = a_site()
    spend(site, 9, "customers/x")
    assert site.granted(BIG, mini(), budget="acme/team").service == "big"
    assert site.granted(BIG, mini(), budget=("acme/team", "customers/x")).service == "mini"


@pytest.mark.parametrize("who", ["a service", "one that is watched only"])
def test_caps_that_are_no_budgets_in_force_do_not_count(who: str) -> None:
    watched = capped(day=10).model_copy(update={"enforce": who == "a service"})
    services = {"big": service(day=10), "mini": service(), "other": service()}
    site = Site(config(budgets={"acme": capped(day=100) if who == "a service" else watched}, services=services))
    site.settle(site.granted(candidate("big", usd=8)), 8)
    spend(site, 1, "acme")
    assert site.granted(BIG, mini(), budget="acme").service == "big"


def test_a_new_day_has_money_again() -> None:
    site = a_site()
    spend(site, 90)
    assert site.granted(BIG, mini()).service == "mini"
    site.wait(DAY)
    assert site.granted(BIG, mini()).service == "big"


@pytest.mark.parametrize("cut", [False, True])
def test_a_call_that_waits_for_a_place_goes_on_when_money_gets_short(cut: bool) -> None:
    site = a_site()
    running = [site.granted(BIG) for _ in range(5)]
    waiting = site.parked(BIG, mini())
    if cut:
        site.cut()
    spend(site, 70)
    assert site.served() == []
    spend(site, 15)
    assert site.served() == [waiting]
    assert site.desk.ledger.holds[waiting].grant.service == "mini"
    assert len(running) == 5


def test_a_call_that_waits_goes_on_when_its_money_is_gone() -> None:
    """Less is unspent than its bound, and more than the part that makes money short."""
    site = a_site(day=20)
    for _ in range(5):
        site.granted(candidate("big", usd=1))
    waiting = site.parked(candidate("big", usd=12), mini(below=1))
    spend(site, 9, "acme")
    assert site.served() == [waiting]


def a_bill_is_lower(site: Site) -> None:
    site.settle("run-1/1", 50)


def the_cap_is_raised(site: Site) -> None:
    site.raise_cap("400")


def a_day_begins(site: Site) -> None:
    site.wait(13 * HOUR)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("money_comes", [a_bill_is_lower, the_cap_is_raised, a_day_begins])
def test_a_call_that_has_only_such_ones_is_told_at_once(money_comes: Callable[[Site], None], cut: bool) -> None:
    """All others have failed it, and it waits for their service when money is not short any more."""
    site = a_site()
    grant = site.granted(candidate("other", usd=90))
    site.settle(grant, 90, confirmed=False)
    site.desk.pause_service(PauseService(service="mini"), site.now_ms)
    waiting = site.parked(mini())
    if cut:
        site.cut()
    money_comes(site)
    answer = site.answers()[waiting]
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.detail) == (
        "no_candidate",
        "mini/m: it is for when the money gets short, which it is not",
    )


def test_it_is_told_when_money_is_short_nowhere() -> None:
    site = a_site()
    spend(site, 90)
    spend(site, 9, "customers/x")
    site.desk.pause_service(PauseService(service="mini"), site.now_ms)
    waiting = site.parked(mini(), budget=("acme/team", "customers/x"))
    site.raise_cap("400")
    assert site.answers() == {}
    site.raise_cap("100", "budget:customers/x", "total")
    assert list(site.answers()) == [waiting]


def test_rules_1_deny_it_in_words() -> None:
    denied = a_site(rules=1).denied(BIG, mini())
    assert (denied.reason, "when_short" in denied.detail) == ("bad_route", True)


@given(
    caps=st.fixed_dictionaries({"day": st.integers(1, 12), "total": st.integers(1, 12)}),
    spent=st.lists(st.integers(0, 4), max_size=4),
    held=st.integers(0, 6),
    big=st.integers(1, 5),
    small=st.integers(1, 3),
    below=st.sampled_from([0, 1, 333_333, 333_334, 500_000, 1_000_000]),
)
def test_it_is_asked_exactly_when_the_money_is_short(
    caps: dict[str, int], spent: list[int], held: int, big: int, small: int, below: int
) -> None:
    """Of a grant; every cap holds all the same."""
    site = a_site(**caps)
    for usd in spent:
        answer = site.reserve(candidate("other", usd=usd), mode="fail")
        if isinstance(answer, Granted):
            site.settle(answer.grant, usd)
    site.reserve(candidate("other", usd=held), mode="fail")
    posted, pending = round(site.posted()), round(site.pending())
    answer = site.reserve(candidate("big", usd=big), mini(usd=small, below=below))

    def has_room(usd: int, used: int) -> bool:
        return all(used + usd <= cap for cap in caps.values())

    short = any((cap - posted) * 1_000_000 < below * cap for cap in caps.values())
    order = [True, False] if short else [False] if has_room(big, posted) else [False, True]
    fits = {False: has_room(big, posted + pending), True: has_room(small, posted + pending)}
    chosen = next((cheaper for cheaper in order if fits[cheaper]), None)
    found: Grant | None = answer.grant if isinstance(answer, Granted) else None
    assert (None if found is None else found.money_short) == chosen
