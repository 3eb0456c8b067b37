"""Purchases at the desk: held, posted and expired as calls are, without limits or a breaker of their own."""

import pytest
from desk_kit import MINUTE, USD, Site, capped, config, service, usd_caps

from paymaster.admission import books, settling
from paymaster.admission.books import LOOK_FOR_ROOM_MS
from paymaster.messages import AccountConfig, Candidate, Denied, LoadedSpend, Settle, UnconfirmedEntry
from paymaster.messages.ledger_steps import PURCHASES
from paymaster.values.money import Price

CALL = Candidate(
    service="s", model="m", max_output_tokens=1, price=Price(input_nanos=0, output_nanos=10**6 * USD, source="test")
)


def bought(usd: int = 1, what: str = "search") -> Candidate:
    """What can cost at most so many dollars."""
    price = Price(input_nanos=0, output_nanos=0, request_nanos=usd * USD, source="purchase")
    return Candidate(service=what, model="purchase", max_output_tokens=1, price=price, purchase=True)


def test_it_is_held_at_exactly_what_it_can_cost() -> None:
    site = Site()
    grant = site.granted(bought(usd=3), budget="acme/agent")
    assert (grant.bound_nanos, grant.service) == (3 * USD, "search")
    assert site.pending() == 3
    site.settle(grant, 2)
    assert (site.pending(), site.posted()) == (0, 2)


def test_what_is_bought_opens_no_account_and_no_gate() -> None:
    """Anybody can name anything: a name that was used leaves nothing behind."""
    site = Site()
    accounts, gates = set(site.desk.ledger.accounts), set(site.desk.state.gates)
    for number in range(100):
        grant = site.granted(bought(what=f"thing-{number}"))
        site.settle(grant, 0, served=bool(number % 2), failures=number % 3)
    assert (set(site.desk.ledger.accounts), set(site.desk.state.gates)) == (accounts, gates)
    assert site.desk.state.prices == {}
    assert site.alerts() == []


def test_calls_and_purchases_share_a_cap() -> None:
    site = Site()
    call = site.granted(CALL)
    site.granted(bought(usd=8))
    waiting = site.parked(bought(usd=2))
    site.cut()  # a parked one is a purchase after continue-as-new, too
    site.settle(call, 0)
    assert site.served() == [waiting]
    assert site.pending() == 10


@pytest.mark.parametrize("mode", ["wait", "fail"])
def test_without_money_it_waits_or_is_denied(mode: str) -> None:
    site = Site()
    site.settle(site.granted(bought(usd=9)), 9)
    if mode == "fail":
        denied = site.denied(bought(usd=2))
        assert denied.reason == "cap_reached"
        assert denied.detail.startswith("search: it can cost up to $2.00; budget:acme has a cap of $10.00 (day until")
        assert "`paymaster budget raise acme --window day --by 1.00" in denied.detail
        assert [(notice.account, notice.left_nanos) for notice in denied.in_the_way] == [("budget:acme", USD)]
    else:
        waiting = site.parked(bought(usd=2))
        site.raise_cap("1")
        assert site.served() == [waiting]


def test_one_above_its_cap_is_told_what_fits() -> None:
    site = Site()
    site.settle(site.granted(bought(usd=4)), 4)
    denied = site.denied(bought(usd=11))
    assert (denied.reason, "buy for at most $6.00 (up_to), or `paymaster budget raise" in denied.detail) == (
        "bound_above_cap",
        True,
    )
    site.granted(bought(usd=6))


def test_one_that_has_waited_too_long_is_told_for_what() -> None:
    site = Site()
    site.settle(site.granted(bought(usd=9)), 9)
    waiting = site.parked(bought(usd=2), wait_ms=MINUTE)
    site.wait(2 * MINUTE)
    denied = site.answers()[waiting]
    assert isinstance(denied, Denied)
    assert (denied.reason, "search: it can cost up to $2.00; budget:acme has" in denied.detail) == (
        "waited_too_long",
        True,
    )


def test_one_waits_until_the_ledger_has_room_for_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "ACCOUNTS_MAX", 2)
    site = Site(config(budgets={"users/*": capped(day=10)}))
    call = site.parked(CALL, budget="users/1")  # loads
    site.load()
    waiting = site.parked(bought(), budget="users/2")
    site.settle(call, 0)
    site.wait(LOOK_FOR_ROOM_MS)
    site.load()
    assert site.served()[-1] == waiting
    assert site.pending("budget:users/2") == 1


def test_limits_of_calls_neither_hold_it_up_nor_count_it() -> None:
    limited = AccountConfig(max_concurrent=1, requests_per_minute=2)
    site = Site(config(budgets={"acme": limited}))
    site.granted(CALL)
    grants = [site.granted(bought()) for _ in range(5)]
    account = site.desk.ledger.accounts["budget:acme"]
    assert account.limiter.running == 1
    for grant in grants:
        site.settle(grant, 1)
    site.desk.ledger.count_running()
    assert account.limiter.running == 1
    assert site.denied(CALL, wait_ms=0).reason == "waited_too_long"


def test_one_that_nobody_ends_expires_at_what_it_can_cost() -> None:
    site = Site()
    grant = site.granted(bought(usd=3))
    site.wait(16 * MINUTE)
    assert (site.pending(), site.posted()) == (0, 3)
    assert site.desk.status().unconfirmed == 1
    site.settle(grant, 2)
    assert (site.posted(), site.desk.status().unconfirmed) == (2, 0)


def test_of_many_that_nobody_ended_each_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are kept as a sum, a call between them is counted once, and one that is resolved no more."""
    monkeypatch.setattr(settling, "UNCONFIRMED_MAX", 3)
    monkeypatch.setattr(settling, "FOLDED_AT_ONCE", 1)
    site = Site()
    grants = [site.granted(bought(), budget="acme/agent"), site.granted(CALL)]
    grants += [site.granted(bought()) for _ in range(6)]
    for grant in grants:
        site.settle(grant, 1, confirmed=False)
    assert len(site.desk.unconfirmed_holds().holds) == 3
    assert (site.desk.status().unconfirmed, site.posted()) == (8, 8)
    site.cut()
    entry = UnconfirmedEntry(budget="acme/agent", service="search", granted_at_ms=site.now_ms, posted_nanos=USD)
    resolved = Settle(hold_id=grants[0].hold_id, cost_nanos=0, epoch="this run", corrects=entry)
    site.desk.handle(resolved, site.now_ms)
    assert (site.desk.status().unconfirmed, site.posted(), site.desk.to_load()) == (7, 7, None)
    site.desk.reload(site.now_ms)
    wanted = site.desk.to_load()
    assert wanted is not None
    assert set(wanted.known_holds) == {grant.hold_id for grant in grants[5:]}
    stored = {"budget:acme": (3, 3 * USD), "service:s": (1, USD), PURCHASES: (2, 0)}  # one was resolved elsewhere
    posted = {"budget:acme": usd_caps(day=4), "service:s": usd_caps(day=1)}
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted, unconfirmed=stored), site.now_ms)
    assert site.desk.status().unconfirmed == 6


def test_a_cost_above_its_bound_is_posted_and_told() -> None:
    site = Site()
    site.settle(site.granted(bought(usd=1)), 4)
    assert site.posted() == 4
    assert [alert.what for alert in site.alerts("overage")] == ["overage"]


def test_it_may_be_given_back() -> None:
    site = Site()
    site.void(site.granted(bought(usd=3)))
    assert (site.pending(), site.posted()) == (0, 0)


def test_a_configured_service_is_not_bought_from() -> None:
    """Its rows would count for the service, whose limits and breaker know nothing of purchases."""
    denied = Site().denied(bought(what="s"))
    assert (denied.reason, "s is a service of the configuration" in denied.detail) == ("bad_purchase", True)


def test_a_service_of_its_name_counts_what_is_on_hold() -> None:
    """One that the configuration gets later: the rows say so, and so do the books."""
    site = Site()
    grant = site.granted(bought(usd=3, what="new"))
    site.desk.configure(config("second", services={"s": service(), "new": service(concurrent=1)}), site.now_ms)
    while site.desk.to_load() is not None:
        site.load()
    assert site.pending("service:new") == 3
    site.settle(grant, 2)
    assert site.posted("service:new") == 2
    assert site.desk.ledger.accounts["service:new"].limiter.running == 0


def test_its_budget_must_be_configured() -> None:
    denied = Site(config(budgets={"acme": capped()})).denied(bought(), budget="other")
    assert (denied.reason, 'add [budgets."other"]' in denied.detail) == ("unknown_budget", True)


def test_one_that_comes_before_the_books_are_read_waits_for_them() -> None:
    """Also in a budget that only an admin has opened."""
    site = Site(load=False)
    first, second = site.parked(bought()), site.parked(bought(), budget="other", mode="fail")
    while site.desk.to_load() is not None:
        site.load()
    site.desk.advance(site.now_ms)
    answers = site.answers()
    assert (answers[first].kind, answers[second].kind) == ("granted", "denied")


def test_a_ledger_with_the_rules_of_0_1_0_says_what_to_do() -> None:
    denied = Site(rules=1).denied(bought())
    assert (denied.reason, "`paymaster upgrade`" in denied.detail) == ("bad_purchase", True)
