"""The parked calls: in which order they are served, whom they may keep waiting, and how their wait ends."""

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
)
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.parked_call import CLAIM_AFTER_MS
from paymaster.messages import Delivery, Denied, Granted, Parked, ParkedAnswer, PauseService, ResumeService


def one_at_a_time() -> Site:
    """One call at once, and money for all."""
    return Site(config(budgets={"acme": capped(day=1_000)}, services={"s": service(concurrent=1)}))


def finish_one(site: Site, usd: float = 0) -> list[str]:
    """The oldest hold is settled; who is granted for it?"""
    site.settle(next(iter(site.desk.ledger.holds)), usd)
    return site.served()


# ---------------------------------------------------------------- order


def test_the_higher_priority_goes_first_and_then_who_came_first() -> None:
    """Priorities 0, 5, -5, 5, 0, in this order."""
    site = one_at_a_time()
    site.granted()
    calls = [site.parked(priority=priority) for priority in (0, 5, -5, 5, 0)]
    served = [hold_id for _ in calls for hold_id in finish_one(site)]
    assert served == [calls[1], calls[3], calls[0], calls[4], calls[2]]


@settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), max_size=15))
def test_the_order_survives_a_cut(calls: list[tuple[int, bool]]) -> None:
    """However the desk is cut while the calls come and go, they are served by priority and then by arrival."""
    site = one_at_a_time()
    site.granted()
    parked: list[tuple[int, str]] = []
    for priority, cut in calls:
        parked.append((-priority, site.parked(priority=priority)))
        if cut:
            site.cut()
    served: list[str] = []
    for number, _ in enumerate(calls):
        if number % 3 == 2:
            site.cut()
        served += finish_one(site)
    assert served == [hold_id for _, hold_id in sorted(parked, key=lambda call: call[0])]


def test_what_is_freed_goes_to_who_waits_and_not_to_who_comes_next() -> None:
    """A newcomer in the same batch as the settlement does not get the place."""
    site = one_at_a_time()
    grant = site.granted()
    waiting = site.parked()
    site.settle(grant)
    late = site.parked(priority=100)
    assert site.served() == [waiting]
    assert finish_one(site) == [late]


def test_a_parked_call_takes_the_first_candidate_that_has_room() -> None:
    """Both are full; the second frees up first."""
    services = {"s": service(concurrent=1), "t": service(concurrent=1)}
    site = Site(config(services=services))
    site.granted(candidate("s"))
    second = site.granted(candidate("t"))
    waiting = site.parked(candidate("s"), candidate("t"))
    site.settle(second)
    assert isinstance(answer := site.answers()[waiting], Granted)
    assert answer.grant.service == "t"


def test_asking_again_while_parked_changes_nothing() -> None:
    """A reserve that is repeated is parked still, once, at its old place, until its old deadline."""
    site = one_at_a_time()
    site.granted()
    request = site.request(wait_ms=HOUR)
    first = site.desk.handle(request, site.now_ms)
    behind = site.parked()
    site.wait(MINUTE)
    again = site.desk.handle(request, site.now_ms)
    assert isinstance(first, Parked)
    assert isinstance(again, Parked)
    assert again.deadline_at_ms == first.deadline_at_ms == NOON + HOUR
    assert len(site.desk.queue) == 2
    assert [finish_one(site), finish_one(site)] == [[request.hold_id], [behind]]


# ---------------------------------------------------------------- starvation


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    """Small calls follow one another for ever, each held for 5 s; the large one needs all the money at once. It is
    served when what was on hold at the end of its patience has ended."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    running = [site.granted(candidate(usd=2)) for _ in range(4)]
    large = site.parked(candidate(usd=9))
    passed = 0
    while large not in site.served():
        site.wait(SECOND)
        assert site.now_ms <= NOON + CLAIM_AFTER_MS + 10 * SECOND, "small calls starve the large one"
        if running:
            site.settle(running.pop(0), 0)
        answer = site.reserve(candidate(usd=2), wait_ms=HOUR)
        if isinstance(answer, Granted):
            passed += 1
            assert site.now_ms < NOON + CLAIM_AFTER_MS, "it passed a call that has waited for long enough"
            running.append(answer.grant)
    assert passed >= 50, "until then the small ones were let through"


def test_a_call_is_not_starved_by_two_sorts_of_small_ones_in_turn() -> None:
    """It needs a place at the service and almost all the money; whenever one is there, somebody has just taken the
    other."""
    budgets = {"acme": capped(day=10), "other": capped(day=100)}
    site = Site(config(budgets=budgets, services={"s": service(concurrent=1), "t": service()}))
    place = site.granted(candidate("s"), budget="other")
    large = site.parked(candidate("s", usd=9))
    site.wait(CLAIM_AFTER_MS)
    money = site.granted(candidate("t", usd=2))
    site.settle(place, 0)
    assert large not in site.served(), "now it waits for the money"
    site.parked(candidate("s"), budget="other")
    site.settle(money, 0)
    assert site.served()[0] == large


def test_a_claim_keeps_only_what_the_call_waits_for() -> None:
    """The large call claims its team's budget; other teams go on, also those with the same ancestor."""
    budgets = {"acme": capped(day=100), "acme/a": capped(day=10), "acme/b": capped(day=10)}
    site = Site(config(budgets=budgets))
    blocking = site.granted(candidate(usd=5), budget="acme/a")
    large = site.parked(candidate(usd=9), budget="acme/a")
    site.wait(CLAIM_AFTER_MS)
    site.granted(candidate(usd=5), budget="acme/b")
    small = site.parked(candidate(usd=1), budget="acme/a")
    assert "comes first in budget:acme/a" in site.desk.status().model_dump_json()
    site.settle(blocking)
    assert site.served() == [large, small]


def test_a_higher_priority_passes_a_claim() -> None:
    """A claim keeps off those behind it only."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.granted(candidate(usd=5))
    site.parked(candidate(usd=9))
    site.wait(CLAIM_AFTER_MS)
    site.parked(candidate(usd=1))
    site.granted(candidate(usd=1), priority=1)


def claimed() -> tuple[Site, str, str]:
    """A call that claims all that is left of the money, and a small one that waits only because of that."""
    site = Site(config(budgets={"acme": capped(day=10, total=1_000)}))
    site.granted(candidate(usd=5))
    large = site.parked(candidate(usd=9), wait_ms=2 * MINUTE)
    site.wait(CLAIM_AFTER_MS)
    small = site.parked(candidate(usd=1))
    return site, large, small


def test_a_claim_ends_with_a_cancelled_call() -> None:
    """Who waited only because of it is served at once."""
    site, large, small = claimed()
    site.void(large)
    assert site.served() == [small]


def test_a_claim_ends_with_the_deadline_of_its_call() -> None:
    """The large call waits too long and is denied; who waited only because of it is served at that moment."""
    site, large, small = claimed()
    site.wait(MINUTE)
    answers = site.answers()
    assert list(answers) == [large, small]
    assert isinstance(answers[small], Granted)


def test_a_claim_ends_when_its_call_is_granted() -> None:
    """All the money is free again: the large call and the small one behind it fit both."""
    site, large, small = claimed()
    site.settle("run-1/1")
    assert site.served() == [large, small]


def test_a_claim_ends_when_the_money_is_gone() -> None:
    """What the large call waited for was spent: it waits for an admin now, and keeps nobody from what is left."""
    site, large, small = claimed()
    site.settle("run-1/1", 5)
    assert site.served() == [small]
    site.raise_cap("5")
    assert site.served() == [large]


def test_a_claim_ends_when_its_call_is_denied_because_a_cap_was_lowered() -> None:
    """Its bound is above the new cap; the small one behind fits under it."""
    site, large, small = claimed()
    site.set_cap("8")
    answers = site.answers()
    assert isinstance(denied := answers[large], Denied)
    assert denied.reason == "bound_above_cap"
    assert isinstance(answers[small], Granted)


def test_a_claim_ends_on_every_account_when_its_call_is_granted_on_another() -> None:
    """The large call waits for a place at `s` and for an empty bucket of `t`. It gets the place: `t` has room for the
    small one that it kept waiting there."""
    services = {"s": service(concurrent=1), "t": service(tokens=1_000)}
    site = Site(config(budgets={"acme": capped(day=10**6)}, services=services))
    place = site.granted(candidate("s"))
    site.granted(candidate("t", 60))
    large = site.parked(candidate("s", 900), candidate("t", 900))
    while site.now_ms < NOON + CLAIM_AFTER_MS - 3 * SECOND:
        site.wait(3 * SECOND)
        site.reserve(candidate("t", 45))
    site.wait(3 * SECOND)
    small = site.parked(candidate("t", 1))
    assert "comes first in service:t" in site.desk.status().waiting[1].detail
    site.settle(place)
    assert site.served() == [large, small]


def test_a_claim_survives_a_cut() -> None:
    """Continue-as-new forgets no claim, and nobody whom it kept waiting."""
    site, large, small = claimed()
    site.cut()
    late = site.parked(candidate(usd=1))
    site.void(large)
    assert site.served() == [small, late]


def test_after_a_long_pause_all_that_fit_go_on_at_once() -> None:
    """They all claim the service that they waited for, each against those behind it: that may not make a chain of
    them."""
    site = Site(config(budgets={"acme": capped(day=1_000)}))
    site.desk.pause_service(PauseService(service="s"), site.now_ms)
    waiting = [site.parked() for _ in range(200)]
    site.wait(5 * CLAIM_AFTER_MS)
    site.desk.resume_service(ResumeService(service="s"), site.now_ms)
    assert site.served() == waiting


# ---------------------------------------------------------------- money that is gone, money on hold


def test_a_call_whose_money_is_gone_blocks_nobody_behind_it() -> None:
    """It needs a raise; those behind it fit into what is left and go on, minutes later too."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=5)), 5)
    large = site.parked(candidate(usd=9))
    for _ in range(3):
        site.wait(10 * MINUTE)
        site.settle(site.granted(candidate(usd=1)), 0)
    site.raise_cap("4")
    assert site.served() == [large]


def test_a_call_that_may_not_wait_is_parked_while_money_is_on_hold_and_served() -> None:
    """`fail` never refuses somebody while the money may come back."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    grant = site.granted(candidate(usd=9))
    waiting = site.parked(candidate(usd=9), mode="fail")
    site.settle(grant, 1)
    assert site.served() == [waiting]


def test_a_call_that_may_not_wait_is_denied_when_the_money_turns_out_to_be_spent() -> None:
    """It was parked behind a hold, and then the whole hold was billed."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    grant = site.granted(candidate(usd=9))
    waiting = site.parked(candidate(usd=9), mode="fail")
    site.settle(grant, 9)
    assert isinstance(denied := site.answers()[waiting], Denied)
    assert denied.reason == "cap_reached"
    assert "$9.00 spent and $0.00 held" in denied.detail
    assert len(site.alerts("exhausted")) == 1
    assert site.desk.handle(site.request(hold_id=waiting), site.now_ms) == denied, "asked again, the answer is the same"


def test_a_call_that_may_not_wait_is_denied_when_the_money_is_spent_while_its_service_is_paused() -> None:
    """An admin's pause may last for days, and at its end there is nothing left for the call."""
    site = Site(config(budgets={"acme": capped(day=10)}, services={"s": service(), "t": service()}))
    site.desk.pause_service(PauseService(service="s"), site.now_ms)
    failing, patient = site.parked(candidate("s", usd=2), mode="fail"), site.parked(candidate("s", usd=2))
    site.settle(site.granted(candidate("t", usd=9)), 9)
    answers = site.answers()
    assert isinstance(denied := answers[failing], Denied)
    assert denied.reason == "cap_reached"
    assert patient not in answers


def test_a_call_that_may_not_wait_is_denied_at_once_when_the_money_is_gone() -> None:
    """`fail`, and $9 of $10 are spent."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=9)), 9)
    assert site.denied(candidate(usd=2)).reason == "cap_reached"
    site.granted(candidate(usd=1))


def test_what_can_never_fit_is_denied_in_both_modes_naming_candidate_and_number() -> None:
    """Waiting would not help: bound above the cap, prompt above the context, no price, unknown service or budget."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    for mode in ("wait", "fail"):
        denied = site.denied(candidate(usd=11), mode=mode)
        assert (denied.reason, "s/m" in denied.detail, "$11.00" in denied.detail) == ("bound_above_cap", True, True)
        small = candidate().model_copy(update={"context_tokens": 100})
        denied = site.denied(small, mode=mode, input_bytes=800)
        assert (denied.reason, "101 tokens" in denied.detail, "of 100" in denied.detail) == (
            "context_too_small",
            True,
            True,
        )
        assert site.denied(candidate(price=None), mode=mode).reason == "no_price"
        assert "services.s.models" in site.denied(candidate(price=None), mode=mode).detail
        assert site.denied(candidate("ghost"), mode=mode).reason == "unknown_service"
        assert site.denied(budget="nowhere/team", mode=mode).reason == "unknown_budget"
    assert site.denied(candidate("ghost"), candidate(usd=11)).detail.count(";") >= 1, "each candidate is named"


@pytest.mark.parametrize("how", ["lowered", "lapsed"])
def test_a_parked_call_that_cannot_fit_any_more_is_denied_at_once(how: str) -> None:
    """It waits for a place at the service; meanwhile the cap of its team falls below its bound."""
    budgets = {"acme": capped(day=100), "acme/team": capped(day=2)}
    site = Site(config(budgets=budgets, services={"s": service(concurrent=1)}), at(2027, 3, 11) - MINUTE)
    site.raise_cap("5", "budget:acme/team", lapses=how == "lapsed")
    site.granted(candidate(usd=1), budget="acme")
    waiting = site.parked(candidate(usd=4), budget="acme/team")
    site.wait(MINUTE)
    if how == "lowered":
        site.set_cap("3", "budget:acme/team")
    site.desk.advance(site.now_ms)
    assert isinstance(denied := site.answers()[waiting], Denied)
    assert denied.reason == "bound_above_cap"


def test_one_call_of_many_that_can_never_fit_does_not_stop_a_route() -> None:
    """A candidate that can never fit is passed over for one that can wait."""
    site = Site(config(budgets={"acme": capped(day=10)}, services={"s": service(), "t": service(concurrent=1)}))
    grant = site.granted(candidate("s", usd=11), candidate("t"))
    waiting = site.parked(candidate("s", usd=11), candidate("t"), mode="fail")
    site.settle(grant)
    assert site.served() == [waiting]


# ---------------------------------------------------------------- ends of a wait


def test_every_wait_ends_at_its_deadline() -> None:
    """Parked for money, denied to the millisecond, with what it waited for."""
    site = Site(config(budgets={"acme": capped(total=10)}))
    site.settle(site.granted(candidate(usd=9)), 9)
    waiting = site.parked(candidate(usd=2), wait_ms=HOUR)
    site.wait(HOUR - 1)
    assert site.answers() == {}
    site.wait(1)
    assert isinstance(denied := site.answers()[waiting], Denied)
    assert denied.reason == "waited_too_long"
    assert "parked for 3600 s" in denied.detail
    assert "$9.00 spent" in denied.detail


def test_a_deadline_that_has_passed_parks_nobody() -> None:
    """Its time was over before it came to the desk."""
    site = Site(config(budgets={"acme": capped(total=10)}))
    site.granted(candidate(usd=10))
    answer = site.reserve(wait_ms=0)
    assert isinstance(answer, Denied)
    assert answer.reason == "waited_too_long"


def test_a_parked_call_is_woken_by_the_end_of_the_window() -> None:
    """At midnight, by itself, to the millisecond."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=10)), 10)
    waiting = site.parked(wait_ms=DAY)
    site.wait_until(at(2027, 3, 11) - 1)
    assert site.served() == []
    site.wait(1)
    assert site.served() == [waiting]


def test_a_full_queue_denies_and_alerts_once_a_minute() -> None:
    """The third of three is refused with `queue_full`; when one leaves there is room again."""
    site = Site(config(services={"s": service(concurrent=1)}, max_parked=2))
    site.granted()
    first, _ = site.parked(), site.parked()
    for _ in range(5):
        assert site.denied(mode="wait").reason == "queue_full"
    assert len(site.alerts("queue_full")) == 1
    site.void(first)
    site.parked()
    site.wait(MINUTE)
    assert site.denied(mode="wait").reason == "queue_full"
    assert len(site.alerts("queue_full")) == 2


def test_a_cancelled_parked_call_leaves_the_queue_and_stays_away() -> None:
    """Nothing is answered to it, nothing granted, and its id is over."""
    site = one_at_a_time()
    grant = site.granted()
    cancelled, behind = site.parked(), site.parked()
    site.void(cancelled)
    site.settle(grant)
    assert site.served() == [behind]
    assert is_ended(site.reserve(hold_id=cancelled))


def test_a_parked_call_whose_workflow_is_gone_gives_back_what_it_was_granted() -> None:
    """The answer could not be delivered: the hold is free, and the next call gets it."""
    site = one_at_a_time()
    grant = site.granted()
    site.parked()
    behind = site.parked()
    site.settle(grant)
    [message] = site.desk.state.outbox.messages
    site.desk.delivered(Delivery(gone=(message.sequence,)), site.now_ms)
    assert site.served() == [behind]
    assert site.pending() == 1


def test_an_answer_that_arrived_late_frees_no_money_that_may_have_been_billed() -> None:
    """The answer arrived, but nobody heard that it did; the call was sent, its outcome is unknown, and it ended. Sent
    again, the answer finds nobody: what was settled unconfirmed stays charged."""
    site = one_at_a_time()
    grant = site.granted()
    waiting = site.parked()
    site.settle(grant)
    [message] = site.desk.state.outbox.messages
    assert isinstance(message, ParkedAnswer)
    site.settle(waiting, 1, confirmed=False, served=False)
    site.desk.delivered(Delivery(gone=(message.sequence,)), site.now_ms)
    assert site.posted() == 1
    assert site.desk.status().unconfirmed == 1


def test_a_pause_by_an_admin_parks_everybody_until_it_ends() -> None:
    """For hours if need be, in both modes, and then all go on in their order."""
    site = Site(config(services={"s": service()}))
    site.desk.pause_service(PauseService(service="s", who="ada", reason="invoice"), site.now_ms)
    waiting = [site.parked(mode="fail"), site.parked(mode="wait"), site.parked(mode="fail")]
    site.wait(5 * HOUR)
    assert site.answers() == {}
    assert "paused by ada (invoice)" in site.desk.status().waiting[0].detail
    site.desk.resume_service(ResumeService(service="s"), site.now_ms)
    assert site.served() == waiting


def test_one_raise_releases_all_that_fit() -> None:
    """2,000 calls wait for money; the raise is for 1,500 of them."""
    site = Site(config(budgets={"acme": capped(day=1)}))
    site.settle(site.granted(), 1)
    waiting = [site.parked() for _ in range(2_000)]
    site.raise_cap("1500")
    assert site.served() == waiting[:1_500]
    assert site.desk.status().parked == 500


@pytest.mark.parametrize("mode", ["wait", "fail"])
def test_nobody_is_left_parked_who_would_fit(mode: str) -> None:
    """After everything settled, what is left of the cap is smaller than one bound."""
    site = Site(config(budgets={"acme": capped(day=20)}))
    for _ in range(200):
        site.reserve(candidate(usd=2), mode="fail" if mode == "fail" else "wait")
    rounds = 0
    while holds := list(site.desk.ledger.holds.values()):
        rounds += 1
        for hold in holds:
            site.settle(hold.grant, 1)
    assert site.balance().posted_nanos >= 10 * USD
    assert 20 * USD - site.balance().posted_nanos < 2 * USD
    assert site.desk.status().parked == (200 - 19 if mode == "wait" else 0)
    assert rounds > 1
