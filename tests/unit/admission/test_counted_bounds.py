"""A call whose bytes could cost more than there is, is asked to count its tokens; its bound is then made of these."""

import pytest
from desk_counts import BYTES, ask, granted, texts
from desk_kit import DAY, MINUTE, USD, Site, candidate, capped, config, service
from hypothesis import given
from hypothesis import strategies as st

from paymaster.admission.breaker import COUNTED_MARGIN_PERCENT
from paymaster.admission.routing import INPUT_OVERHEAD_TOKENS, bound_nanos
from paymaster.messages import (
    CallRef,
    Candidate,
    CountFirst,
    Denied,
    Parked,
    Reserve,
    ResumeService,
)
from paymaster.messages.runs import RunTerms
from paymaster.values.money import Price, PriceTier

# ---------------------------------------------------------------- when it is asked to


def test_a_call_whose_bytes_do_not_fit_counts_and_asks_again() -> None:
    """Under the same hold id, of which nothing was remembered: its bound is then what the count says."""
    site = Site()
    first = ask(site, texts(), hold_id="run/1")
    assert isinstance(first, CountFirst)
    assert (first.hold_id, first.candidate.service, first.candidate.price) == ("run/1", "s", None)
    assert site.pending() == 0
    assert not site.desk.state.parked
    assert not site.desk.state.ended
    grant = granted(ask(site, texts(counted=5_000), hold_id="run/1"))
    tokens = 5_000 * (100 + COUNTED_MARGIN_PERCENT) // 100 + INPUT_OVERHEAD_TOKENS
    assert grant.bound_nanos == tokens * USD // 1_000
    assert grant.counted_tokens == 5_000


def test_a_call_that_fits_is_never_asked_to_count() -> None:
    site = Site(config(budgets={"acme": capped(day=22)}))
    grant = granted(ask(site, texts()))
    assert grant.bound_nanos == (BYTES + INPUT_OVERHEAD_TOKENS) * USD // 1_000
    assert grant.counted_tokens is None


@pytest.mark.parametrize(
    "uncounted",
    [
        texts().model_copy(update={"countable": False}),
        texts(counted=19_000),
        texts(counted=19_000).model_copy(update={"countable": True}),
    ],
    ids=["not-here", "already", "already-and-again"],
)
def test_what_cannot_be_counted_and_what_was_is_decided_at_once(uncounted: Candidate) -> None:
    denied = ask(Site(), uncounted)
    assert isinstance(denied, Denied)
    assert denied.reason == "bound_above_cap"


def test_nobody_counts_while_even_the_fewest_tokens_would_not_fit() -> None:
    """When money is gone, a thousand calls that wait for it ask their providers nothing."""
    site = Site()
    site.settle(site.granted(candidate(usd=8)), 8)
    assert isinstance(ask(site, texts(), input_bytes=8_900), Parked)  # 1,112 tokens and the overhead: $2.14 of $2


def test_a_count_may_be_worth_it_though_the_call_has_to_wait() -> None:
    """What is above the cap would be denied; with a count it waits for the next day."""
    site = Site()
    site.settle(site.granted(candidate(usd=8)), 8)
    assert isinstance(ask(site, texts()), CountFirst)
    parked = ask(site, texts(counted=5_000))
    assert isinstance(parked, Parked)
    site.wait(DAY)
    assert site.served() == [parked.hold_id]


def test_too_much_even_for_the_fewest_tokens_is_denied_at_once() -> None:
    site = Site()
    site.report(site.granted(candidate(usd=1)), pause_ms=10 * MINUTE, trips_breaker=False)
    denied = ask(site, texts(), input_bytes=80_000)
    assert isinstance(denied, Denied)
    assert denied.reason == "bound_above_cap"


def test_a_cheaper_model_is_asked_where_nobody_can_count() -> None:
    """The money is short for the bytes of the other one."""
    site = Site(config(services={name: service() for name in "ab"}))
    site.settle(site.granted(candidate("b", usd=8)), 8)
    site.report(site.granted(candidate("a", usd=1)), pause_ms=10 * MINUTE, trips_breaker=False)
    mini = candidate("b", usd=1).model_copy(update={"short_below": 0})
    assert granted(ask(site, texts("a"), mini, input_bytes=8_900)).service == "b"


def test_the_first_candidate_that_a_count_may_help_is_counted() -> None:
    """The one before it waits for something else, and the one behind it is not asked for nothing."""
    site = Site(config(services={name: service() for name in "abc"}))
    site.report(site.granted(candidate("a")), pause_ms=10 * MINUTE, trips_breaker=False)
    answer = ask(site, candidate("a"), texts("b"), texts("c"))
    assert isinstance(answer, CountFirst)
    assert answer.candidate.service == "b"


def test_the_money_of_a_run_is_money_too() -> None:
    """It is $8, and $2 of them are spent: too few for the bytes, and enough for 3,500 tokens, which are $4.60."""
    site = Site(config(budgets={"acme": capped(day=1_000)}))
    terms = (RunTerms(usd_nanos=8 * USD),)
    first = site.parked(candidate(usd=2), run="agent@1", run_terms=terms)
    site.load()
    assert site.served() == [first]
    site.settle(first, 2)
    assert isinstance(ask(site, texts(), run="agent@1", run_terms=terms, input_bytes=6_500), CountFirst)
    granted(ask(site, texts(counted=3_500), run="agent@1", run_terms=terms, input_bytes=6_500))


def test_version_0_1_0_s_rules_know_no_counting() -> None:
    assert isinstance(ask(Site(rules=1), texts()), Denied)


def test_a_parked_call_keeps_its_count_through_continue_as_new() -> None:
    site = Site()
    other = granted(ask(site, texts(counted=5_000)))
    assert isinstance(ask(site, texts()), CountFirst)
    parked = ask(site, texts(counted=5_000))
    assert isinstance(parked, Parked)
    site.cut()
    again = site.request(texts(), hold_id=parked.hold_id).model_copy(update={"input_bytes": BYTES})
    assert site.desk.handle(again, site.now_ms) == parked
    site.settle(other, 1)
    (served,) = site.answers().values()
    assert granted(served).counted_tokens == 5_000


# ---------------------------------------------------------------- how large it is


prices = st.builds(
    Price,
    input_nanos=st.integers(0, 10**12),
    output_nanos=st.integers(0, 10**12),
    source=st.just("test"),
    tiers=st.lists(
        st.builds(
            PriceTier,
            input_nanos=st.integers(0, 10**12),
            output_nanos=st.integers(0, 10**12),
            above_input_tokens=st.integers(1, 10**6),
        ),
        max_size=2,
    ).map(lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above_input_tokens))),
)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10_000), prices)
def test_a_count_never_raises_the_bound(size: int, counted: int, media: int, margin: int, price: Price) -> None:
    """And where the bound is smaller, there is room in it for the count and for its margin."""
    of_bytes = texts(price=price).model_copy(update={"media_tokens": media})
    of_count = of_bytes.model_copy(update={"counted_tokens": counted})
    request = Reserve(
        hold_id="run/1",
        call=CallRef(workflow_id="call/1", run_id="run"),
        budget="acme",
        candidates=(),
        input_bytes=size,
        on_exhausted="wait",
        deadline_at_ms=0,
        asked_at_ms=0,
    )
    bound = bound_nanos(request, of_count, margin)
    assert bound <= bound_nanos(request, of_bytes)
    room = counted + counted * margin // 100 + INPUT_OVERHEAD_TOKENS + media
    assert bound in (bound_nanos(request, of_bytes), price.bound_nanos(room, 1))


def test_rate_limits_are_charged_with_the_count() -> None:
    site = Site(config(budgets={"acme": capped(day=1_000)}, services={"s": service(tokens=6_000)}))
    for _ in range(5):
        granted(ask(site, texts(counted=100)))
    assert isinstance(ask(site, texts(counted=5_900)), Parked)


# ---------------------------------------------------------------- what a bill above it changes


def test_a_bill_above_a_counted_bound_raises_the_margin_so_that_it_fits() -> None:
    """And it is alerted, as every overage is. The margin is the service's, and outlives the ledger's run."""
    site = Site(config(budgets={"acme": capped(day=1_000)}, services={"s": service(), "t": service()}))
    before = granted(ask(site, texts(counted=5_000)))
    bill_nanos = before.bound_nanos + USD // 2  # 500 tokens, a tenth of the count
    site.settle(before, bill_nanos / USD)
    assert site.desk.state.gates["s"].counted_margin_percent == COUNTED_MARGIN_PERCENT + 10
    site.cut()
    assert granted(ask(site, texts(counted=5_000))).bound_nanos == bill_nanos
    assert granted(ask(site, texts("t", counted=5_000))).bound_nanos == before.bound_nanos
    (alert,) = site.alerts("overage")
    assert "5,000 tokens of input were counted" in alert.text
    assert f"add {COUNTED_MARGIN_PERCENT + 10} % to the count" in alert.text


def test_the_margin_grows_once_however_often_a_bill_is_told() -> None:
    site = Site(config(budgets={"acme": capped(day=1_000)}))
    grant = granted(ask(site, texts(counted=5_000)))
    for _ in range(3):
        site.settle(grant, grant.bound_nanos / USD + 0.5)
    assert site.desk.state.gates["s"].counted_margin_percent == COUNTED_MARGIN_PERCENT + 10


def test_an_admin_who_resumes_a_service_takes_its_margin_back() -> None:
    site = Site(config(budgets={"acme": capped(day=1_000)}))
    grant = granted(ask(site, texts(counted=5_000)))
    site.settle(grant, grant.bound_nanos / USD + 0.5)
    site.desk.resume_service(ResumeService(service="s", who="ada", reason="mended"), site.now_ms)
    assert granted(ask(site, texts(counted=5_000))).bound_nanos == grant.bound_nanos


def test_who_waits_with_a_count_is_served_when_its_margin_is_taken_back() -> None:
    """Nothing else changes: it fits with what its count says then."""
    site = Site(config(budgets={"acme": capped(day=20), "other": capped(day=1_000)}))
    over = granted(ask(site, texts(counted=5_000), budget="other"))
    site.settle(over, over.bound_nanos / USD + 5)  # 5,000 tokens, as many as were counted
    site.granted(candidate(usd=10))
    parked = ask(site, texts(counted=5_000))  # $11.12 of $10
    assert isinstance(parked, Parked)
    site.desk.resume_service(ResumeService(service="s", who="ada", reason="mended"), site.now_ms)
    assert site.served() == [parked.hold_id]


def test_other_bills_leave_the_margin_as_it_is() -> None:
    """One within its bound, and an overage of a bound that is made of bytes."""
    site = Site(config(budgets={"acme": capped(day=1_000)}))
    within, of_bytes = granted(ask(site, texts(counted=5_000))), granted(ask(site, texts()))
    site.settle(within, within.bound_nanos / USD)
    site.settle(of_bytes, of_bytes.bound_nanos / USD + 0.5)
    assert site.desk.state.gates["s"].counted_margin_percent == COUNTED_MARGIN_PERCENT
    (alert,) = site.alerts("overage")
    assert "counted" not in alert.text


def test_who_waits_with_a_count_is_served_by_the_margin_of_then() -> None:
    """It was filed by a smaller bound than it needs now."""
    site = Site()
    other, third = granted(ask(site, texts(counted=1_000))), granted(ask(site, texts(counted=1_000)))
    parked = ask(site, texts(counted=5_000))  # $6.13 of $5.91
    assert isinstance(parked, Parked)
    site.raise_cap("20")
    assert site.served() == [parked.hold_id]
    later = ask(site, texts(counted=19_900))
    assert isinstance(later, Parked)
    site.settle(other, other.bound_nanos / USD + 1)  # $1 more than its count lets it: the margin doubles the count
    assert site.desk.state.gates["s"].counted_margin_percent > 100
    site.settle(third, 0)
    assert site.served() == []
    site.raise_cap("40")
    (served,) = site.answers().values()
    assert granted(served).bound_nanos == (BYTES + INPUT_OVERHEAD_TOKENS) * USD // 1_000


def test_who_waits_is_looked_at_when_the_margin_has_room_too() -> None:
    """And not again and again because the count alone would fit."""
    site = Site(config(budgets={"acme": capped(day=16)}))
    over, other = granted(ask(site, texts(counted=1_000))), granted(ask(site, texts(counted=1_000)))
    site.settle(over, over.bound_nanos / USD + 0.5)  # half of the count more: $2.55 are spent
    parked = ask(site, texts(counted=9_000))  # $10.21 without that, $14.71 with it
    assert isinstance(parked, Parked)
    site.settle(other, 0)
    assert site.served() == []
    assert site.desk.due_ms > site.now_ms + MINUTE // 10
    site.raise_cap("2")
    assert site.served() == [parked.hold_id]
