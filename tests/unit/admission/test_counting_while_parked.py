"""A parked call counts its tokens when that may help, at its place, and few of them at once."""

import pytest
from desk_counts import BYTES, ask, granted, texts
from desk_kit import DAY, MINUTE, SECOND, Site, candidate, capped, config, service

from paymaster.admission.counting import COUNTED_WITHIN_MS
from paymaster.messages import Answer, CountFirst, Delivery, Denied, Parked
from paymaster.values.limits import COUNTING_AT_ONCE_MAX


def told_to_count(site: Site) -> list[str]:
    """The hold ids of the parked calls that were told so since the last time, in order. They stay parked."""
    answers = site.answers()
    assert all(isinstance(answer, CountFirst) and answer.candidate.price is None for answer in answers.values())
    assert answers.keys() <= site.desk.state.parked.keys()
    return list(answers)


def asks_again(site: Site, parked: Answer, counted: int = 3_000, **asked: object) -> Answer:
    assert isinstance(parked, Parked)
    return ask(site, texts(counted=counted), hold_id=parked.hold_id, **asked)


def assert_told_to_count(site: Site, parked: Answer) -> None:
    """By a signal, and with its count it is granted."""
    assert isinstance(parked, Parked)
    assert told_to_count(site) == [parked.hold_id]
    assert asks_again(site, parked) != parked
    assert site.desk.ledger.holds[parked.hold_id].grant.counted_tokens == 3_000
    assert not site.desk.state.parked


@pytest.mark.parametrize("mode", ["wait", "fail"])
def test_a_service_left_alone_is_asked_to_count_afterwards(mode: str) -> None:
    """Until then nobody knows what the call can cost: it waits for its service, also one that waits for no money."""
    site = Site()
    site.report(site.granted(candidate(usd=1)), pause_ms=10 * MINUTE, trips_breaker=False)
    parked = ask(site, texts(), on_exhausted=mode)
    assert isinstance(parked, Parked)
    assert "left alone" in parked.detail
    site.wait(10 * MINUTE)
    assert_told_to_count(site, parked)


@pytest.mark.parametrize("cut", [False, True], ids=["at-once", "after-continue-as-new"])
def test_a_call_that_waited_for_what_was_spent_counts_then(*, cut: bool) -> None:
    """The first one after the start of a ledger may: to deny it because its bytes do not fit would be wrong."""
    site = Site(load=False)
    parked = ask(site, texts(), on_exhausted="fail")
    if cut:
        site.cut()
    site.load()
    assert_told_to_count(site, parked)


def test_who_waited_for_a_place_counts_when_money_is_gone() -> None:
    site = Site(config(budgets={"acme": capped(day=23)}, services={"s": service(concurrent=1)}))
    other = site.granted(candidate(usd=1))
    parked = ask(site, texts())
    site.settle(other, 2)
    assert_told_to_count(site, parked)


def test_who_waited_for_holds_counts_when_the_fewest_tokens_fit() -> None:
    """Not only when its bytes do; which it never was looked at for before."""
    site = Site()
    first, second = site.granted(candidate(usd=4)), site.granted(candidate(usd=5))
    parked = ask(site, texts(), input_bytes=8_900)  # $2.14 at least, and up to $9.93
    assert isinstance(parked, Parked)
    site.settle(first, 0)
    assert site.pending() == 5
    assert_told_to_count(site, parked)
    site.settle(second, 0)


def test_a_call_that_counts_keeps_its_place_and_its_claims() -> None:
    """What its tokens need is not given to one behind it meanwhile, also not through continue-as-new."""
    site = Site()
    first, second = site.granted(candidate(usd=4)), site.granted(candidate(usd=5))
    parked = ask(site, texts(), input_bytes=8_900)
    behind = site.parked(candidate(usd=2))
    site.wait(3 * MINUTE)
    site.settle(first, 0)
    assert isinstance(parked, Parked)
    assert told_to_count(site) == [parked.hold_id]
    site.cut()
    site.wait(1)
    assert not site.answers()
    granted(asks_again(site, parked))
    site.settle(second, 0)
    assert site.served() == [behind]


def test_nobody_waits_for_a_call_of_another_budget_that_counts() -> None:
    """A call that has waited for long keeps the money of its budget, and not the service that it counts by; neither
    when it has counted and waits on, nor when it waits for others to have counted."""
    budgets = {"acme": capped(day=10), "other": capped(day=1_000)}
    site = Site(config(budgets=budgets))
    first, second = site.granted(candidate(usd=4)), site.granted(candidate(usd=5))
    parked = [ask(site, texts(), input_bytes=8_900) for _ in range(COUNTING_AT_ONCE_MAX + 1)]
    site.wait(3 * MINUTE)
    site.settle(first, 0)
    assert len(told_to_count(site)) == COUNTING_AT_ONCE_MAX
    site.granted(candidate(), budget="other")
    assert isinstance(asks_again(site, parked[0], counted=8_000, input_bytes=8_900), Parked)
    site.granted(candidate(), budget="other")
    small = site.parked(candidate())
    site.settle(second, 0)
    assert small not in site.answers(), "the money is kept"


def test_a_full_queue_denies_no_call_that_has_counted_in_it() -> None:
    site = Site(config(max_parked=1))
    first, second = site.granted(candidate(usd=4)), site.granted(candidate(usd=5))
    parked = ask(site, texts(), input_bytes=8_900)
    site.settle(first, 0)
    assert len(told_to_count(site)) == 1
    assert isinstance(site.reserve(candidate(usd=9)), Denied)
    assert isinstance(asks_again(site, parked, counted=8_000, input_bytes=8_900), Parked)
    site.settle(second, 0)
    assert len(site.served()) == 1


def test_so_many_count_at_once_by_one_service() -> None:
    """A thousand that wait for the same do not all ask its counter, and when some have, the next ones do."""
    site = Site()
    first, _ = site.granted(candidate(usd=4)), site.granted(candidate(usd=5))
    parked = [ask(site, texts(), input_bytes=8_900) for _ in range(COUNTING_AT_ONCE_MAX + 3)]
    site.settle(first, 0)
    ids = [each.hold_id for each in parked if isinstance(each, Parked)]
    assert told_to_count(site) == ids[:COUNTING_AT_ONCE_MAX]
    site.cut()
    site.wait(1)
    assert not site.answers()
    granted(asks_again(site, parked[0], counted=500, input_bytes=8_900))
    site.desk.advance(site.now_ms)
    assert told_to_count(site) == [ids[COUNTING_AT_ONCE_MAX]]
    assert isinstance(asks_again(site, parked[2], counted=8_900, input_bytes=8_900), Parked)
    site.desk.advance(site.now_ms)
    assert told_to_count(site) == [ids[COUNTING_AT_ONCE_MAX + 1]]
    site.void(ids[1])
    site.wait(1)
    assert told_to_count(site) == [ids[COUNTING_AT_ONCE_MAX + 2]]
    site.wait(DAY)
    assert site.answers()[ids[3]].kind == "denied", "one that counts for ever has waited too long"
    assert not site.desk.state.parked


@pytest.mark.parametrize("is_told", [True, False], ids=["asks-no-more", "is-gone"])
def test_a_call_that_asks_no_more_holds_up_no_other_count(*, is_told: bool) -> None:
    """Its workflow was terminated, say: it is told again a minute later, and leaves when nobody is there to be told."""
    site = Site(load=False)
    parked = ask(site, texts())
    site.load()
    assert isinstance(parked, Parked)
    if is_told:
        assert told_to_count(site) == [parked.hold_id]
        site.cut()
        site.wait(COUNTED_WITHIN_MS - 1)
        assert not site.answers()
        site.wait(1)
    (message,) = site.desk.state.outbox.messages
    site.desk.delivered(Delivery(gone=(message.sequence,)), site.now_ms)
    assert not site.desk.state.parked


def test_calls_that_hang_hold_up_no_other_count() -> None:
    """A minute later the next one counts, of whatever budget; and those count when they ask again after all."""
    site = Site(config(budgets={"acme": capped(day=10), "other": capped(day=10)}), load=False)
    hang = [ask(site, texts()) for _ in range(COUNTING_AT_ONCE_MAX)]
    parked = ask(site, texts(), budget="other")
    site.load()
    assert isinstance(parked, Parked)
    assert len(told_to_count(site)) == COUNTING_AT_ONCE_MAX
    site.wait(COUNTED_WITHIN_MS - 1)
    assert not site.answers()
    site.wait(1)
    assert parked.hold_id in told_to_count(site)
    site.cut()
    site.wait(COUNTED_WITHIN_MS - 1)
    assert not site.answers()
    granted(asks_again(site, parked, budget="other"))
    granted(asks_again(site, hang[-1]))


def test_one_alone_counts_while_a_service_is_tried_again() -> None:
    site = Site(config(services={"s": service(failures=1)}))
    site.report(site.granted(candidate(usd=1)))
    first, *_ = [ask(site, texts()) for _ in range(3)]
    assert isinstance(first, Parked)
    site.wait(31 * SECOND)
    assert told_to_count(site) == [first.hold_id]


def test_a_call_that_nobody_could_count_is_decided_by_its_bytes() -> None:
    site = Site(load=False)
    parked = ask(site, texts())
    site.load()
    assert isinstance(parked, Parked)
    assert told_to_count(site) == [parked.hold_id]
    uncounted = texts().model_copy(update={"countable": False})
    denied = ask(site, uncounted, hold_id=parked.hold_id)
    assert isinstance(denied, Denied)
    assert denied.reason == "bound_above_cap"
    assert not site.desk.state.parked


def test_two_candidates_are_counted_one_after_the_other() -> None:
    site = Site(config(services={name: service() for name in "ab"}), load=False)
    parked = ask(site, texts("a"), texts("b"))
    site.load()
    assert isinstance(parked, Parked)
    assert told_to_count(site) == [parked.hold_id]
    second = ask(site, texts("a", counted=15_000), texts("b"), hold_id=parked.hold_id)
    assert isinstance(second, CountFirst)
    assert second.candidate.service == "b"
    last = ask(site, texts("a", counted=15_000), texts("b", counted=3_000), hold_id=parked.hold_id)
    assert granted(last).service == "b"


def test_no_more_count_at_once_for_a_second_candidate() -> None:
    """By the first service all of them count in no time."""
    site = Site(config(services={name: service() for name in "ab"}), load=False)
    parked = [ask(site, texts("a"), texts("b")) for _ in range(COUNTING_AT_ONCE_MAX + 3)]
    site.load()
    by_second, waiting = list[str](), list[str]()
    while told := told_to_count(site):
        for hold_id in told:
            answer = ask(site, texts("a", counted=15_000), texts("b"), hold_id=hold_id)
            (by_second if isinstance(answer, CountFirst) else waiting).append(hold_id)
        site.desk.advance(site.now_ms)
    assert (len(by_second), len(waiting)) == (COUNTING_AT_ONCE_MAX, 3)
    assert len(by_second + waiting) == len(parked)
    ask(site, texts("a", counted=15_000), texts("b", counted=15_000), hold_id=by_second[0])
    site.desk.advance(site.now_ms)
    assert told_to_count(site) == waiting[:1]


@pytest.mark.parametrize("left", [True, False], ids=["of-two", "of-others"])
def test_a_call_whose_route_is_another_one_since_is_decided_with_its_count(*, left: bool) -> None:
    """Its worker has another configuration than the one that asked first: with one more that may be counted, or
    without the one that was."""
    site = Site(config(services={name: service() for name in "ab"}), load=False)
    parked = ask(site, texts("a"))
    site.load()
    assert isinstance(parked, Parked)
    assert told_to_count(site) == [parked.hold_id]
    candidates = (texts("b"), texts("a", counted=3_000)) if left else ()
    request = site.request(hold_id=parked.hold_id).model_copy(update={"candidates": candidates, "input_bytes": BYTES})
    answer = site.desk.handle(request, site.now_ms)
    if left:
        assert granted(answer).counted_tokens == 3_000
    else:
        assert isinstance(answer, Denied)
        assert answer.reason == "bound_above_cap"
    assert not site.desk.state.parked
