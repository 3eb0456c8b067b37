"""Rate limits: never more than N in any 60 seconds, exact for ever, and what was estimated wrongly is put right."""

from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from math import floor

import pytest
from desk_kit import DAY, MINUTE, NOON, SECOND, USD, Site, candidate, capped, config, service
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.limiter import Bucket, Limiter
from paymaster.messages import Candidate, Denied, Granted, LimitName, Parked
from paymaster.values.money import Price

FEW = settings(max_examples=examples(150), deadline=None, derandomize=True, database=None)
FREE = Price(input_nanos=0, output_nanos=0, source="test")
RATE = st.one_of(st.integers(1, 30), st.integers(1, 1_000), st.sampled_from([9, 10, 11, 99, 100, 101, 999, 1_000]))


class SlidingMinute:
    """The most that any 60 seconds saw, both ends included."""

    def __init__(self) -> None:
        self.taken: deque[tuple[int, int]] = deque()
        self.now = self.most = 0

    def take(self, amount: int, now_ms: int) -> None:
        self.taken.append((now_ms, amount))
        self.now += amount
        while self.taken[0][0] < now_ms - MINUTE:
            self.now -= self.taken.popleft()[1]
        self.most = max(self.most, self.now)


# Somebody comes after a while (or exactly when there is room again: None), and asks so many times in a row.
visits = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 100), st.integers(0, 10_000), st.sampled_from([0, 1, MINUTE, 2 * MINUTE])),
        st.integers(1, 150),
    ),
    min_size=1,
    max_size=80,
)


@FEW
@given(per_minute=RATE, visits=visits)
def test_no_minute_sees_more_requests_than_the_limit(per_minute: int, visits: list[tuple[int | None, int]]) -> None:
    """Whoever is admitted only when there is nothing to wait for stays within N in every 60 seconds."""
    bucket, minute, now_ms = Bucket(per_minute), SlidingMinute(), NOON
    for gap_ms, times in visits:
        now_ms += bucket.wait_ms(1, now_ms) if gap_ms is None else gap_ms
        for _ in range(times):
            if bucket.wait_ms(1, now_ms) == 0:
                bucket.take(1, now_ms)
                minute.take(1, now_ms)
    assert minute.most <= per_minute


@pytest.mark.parametrize("per_minute", [1, 2, 5, 9, 10, 11, 60, 500, 1_000])
def test_who_always_takes_what_there_is_gets_nine_tenths_and_never_more_than_all(per_minute: int) -> None:
    """The greediest caller, who comes back the very millisecond there is room, for an hour."""
    bucket, minute, now_ms, taken = Bucket(per_minute), SlidingMinute(), NOON, 0
    while now_ms < NOON + 60 * MINUTE:
        wait_ms = bucket.wait_ms(1, now_ms)
        if wait_ms:
            assert bucket.wait_ms(1, now_ms + wait_ms - 1) > 0, "there was room earlier than it said"
            now_ms += wait_ms
        bucket.take(1, now_ms)
        minute.take(1, now_ms)
        taken += 1
    assert minute.most <= per_minute
    assert taken >= 60 * per_minute * 9 // 10


@FEW
@given(
    per_minute=st.integers(10, 1_000),
    visits=st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 8_000)), st.integers(1, 100)), max_size=120),
)
def test_no_minute_sees_more_tokens_than_the_limit(per_minute: int, visits: list[tuple[int | None, int]]) -> None:
    """Requests of any size up to the burst (a tenth of the limit) stay under the limit."""
    bucket, minute, now_ms = Bucket(per_minute), SlidingMinute(), NOON
    for gap_ms, percent in visits:
        amount = max(1, percent * per_minute // 1_000)
        assert amount <= per_minute // 10
        now_ms += bucket.wait_ms(amount, now_ms) if gap_ms is None else gap_ms
        if bucket.wait_ms(amount, now_ms) == 0:
            bucket.take(amount, now_ms)
            minute.take(amount, now_ms)
    assert minute.most <= per_minute


def test_a_request_above_the_burst_needs_an_empty_bucket_and_its_debt_is_waited_for() -> None:
    """3,000 tokens at 1,000 a minute: only when nothing is in the bucket, and then nobody else for 3⅓ minutes."""
    bucket = Bucket(1_000)
    bucket.take(1, NOON)
    assert bucket.wait_ms(3_000, NOON) == bucket.wait_ms(101, NOON) == 67  # one token drains in 66⅔ ms
    assert bucket.wait_ms(99, NOON) == 0
    later = NOON + 67
    assert bucket.wait_ms(3_000, later) == 0
    bucket.take(3_000, later)
    assert bucket.used(later) == 3_000
    assert bucket.wait_ms(40, later) == -(-2_940 * MINUTE // 900)  # until 40 tokens of the burst are free
    assert bucket.wait_ms(3_000, later) == 200 * SECOND
    assert bucket.wait_ms(100, later + 200 * SECOND) == 0


@FEW
@given(
    per_minute=st.integers(10, 1_000),
    calls=st.lists(
        st.tuples(st.integers(0, 5_000), st.integers(1, 100), st.integers(0, 100), st.integers(1, 90_000)), max_size=60
    ),
)
def test_corrections_let_nobody_use_more_than_drained(per_minute: int, calls: list[tuple[int, int, int, int]]) -> None:
    """Each call is estimated, and corrected at its end to what it used: since the beginning never more than the burst
    and what has drained."""
    limiter, now_ms, used = Limiter(tokens=Bucket(per_minute)), NOON, 0
    running: list[tuple[int, int, int]] = []

    def end_calls(until_ms: int) -> None:
        nonlocal used
        for call in sorted(call for call in running if call[0] <= until_ms):
            running.remove(call)
            ends_ms, estimate, actual = call
            limiter.use(0, actual - estimate, ends_ms)
            used += actual
            drained = (ends_ms - NOON) * 9 * per_minute / 600_000
            assert used <= per_minute / 10 + drained, "more was used than drained and fitted into the burst"

    for gap_ms, percent, share, lasts_ms in calls:
        now_ms += gap_ms
        end_calls(now_ms)
        estimate = max(1, percent * per_minute // 1_000)
        if limiter.wait_ms(estimate, now_ms) == 0:
            limiter.start(estimate, now_ms)
            running.append((now_ms + lasts_ms, estimate, estimate * share // 100))
    end_calls(now_ms + DAY)


def test_a_million_steps_do_not_drift() -> None:
    """At 37 a minute, greedily, for 10⁶ ms: the burst and what has drained, to the last unit of the bucket."""
    bucket, taken = Bucket(37), 0
    for now_ms in range(NOON, NOON + 1_000_000):
        if bucket.wait_ms(1, now_ms) == 0:
            bucket.take(1, now_ms)
            taken += 1
    burst, drained = Fraction(37, 10), Fraction(37 * 9 * 999_999, 600_000)
    assert taken == floor(burst + drained)
    assert Fraction(bucket.level, 600_000) == taken - drained
    assert isinstance(bucket.level, int)


def test_used_is_what_has_not_drained_and_asking_changes_nothing() -> None:
    """`used` rounds up, falls with time, never below zero, and leaves the bucket as it is."""
    bucket = Bucket(600)  # 9 a second drain
    bucket.take(45, NOON)
    before = bucket.level, bucket.drained_at_ms
    used = [bucket.used(NOON + ms) for ms in (0, 1, 1_000, 4_999, 5_000, 50_000)]
    assert used == [45, 45, 36, 1, 0, 0]
    assert (bucket.level, bucket.drained_at_ms) == before


def test_time_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    """An earlier time neither drains again nor counts twice when it passes for the second time."""
    bucket = Bucket(600)
    bucket.take(60, NOON + 5_000)
    bucket.take(0, NOON)
    assert bucket.used(NOON) == bucket.used(NOON + 5_000) == 60
    assert bucket.wait_ms(60, NOON + 5_000) > 0


def test_a_raised_limit_keeps_what_was_used() -> None:
    """A new limit does not begin with an empty bucket: what was used still counts."""
    limiter = Limiter()
    limiter.configure(limits(100, 1_000, 5))
    for _ in range(10):
        limiter.start(10, NOON)
    limiter.configure(limits(200, 2_000, 50))
    assert limiter.requests is not None
    assert limiter.tokens is not None
    assert (limiter.requests.used(NOON), limiter.tokens.used(NOON)) == (10, 100)
    assert limiter.running == 10
    limiter.configure(limits(None, None, None))
    assert not limiter.limits


def test_a_lowered_limit_does_not_stop_the_service_for_longer_than_before() -> None:
    """From 60,000 a minute to 10: the burst of 6,000 that was just sent is not worked off at 9 a minute."""
    limiter = Limiter()
    limiter.configure(limits(60_000, None, None))
    for _ in range(6_000):
        limiter.start(0, NOON)
    before_ms = limiter.wait_ms(0, NOON)
    limiter.configure(limits(10, None, None))
    assert before_ms <= limiter.wait_ms(0, NOON) <= 7 * SECOND


def limits(requests: int | None, tokens: int | None, concurrent: int | None) -> dict[LimitName, int | None]:
    return {"requests_per_minute": requests, "tokens_per_minute": tokens, "max_concurrent": concurrent}


# ---------------------------------------------------------------- at the desk


def words(tokens: int, service: str = "s") -> Candidate:
    """A free model, so that only the limits decide. Its estimate is its output."""
    return Candidate(service=service, model="m", max_output_tokens=tokens, price=FREE)


def test_the_estimate_is_charged_at_once_and_corrected_by_the_settlement() -> None:
    """An estimate of 100 tokens holds up the next call; the bill of 30 lets it go, and one of 150 is paid back."""
    site = Site(config(services={"s": service(tokens=1_000)}))
    first = site.granted(words(60), input_bytes=160)  # 160 bytes are estimated at 40 tokens
    assert _used(site) == 100
    waiting = site.parked(words(70))
    site.settle(first, tokens=30)
    assert site.served() == [waiting]
    assert _used(site) == 100
    site.settle(waiting, tokens=150)
    assert _used(site) == 180
    late = site.parked(words(1))
    site.wait(81 * MINUTE // 900 - 1)
    assert site.served() == []
    site.wait(1)
    assert site.served() == [late]


@pytest.mark.parametrize("claimed", [10_000, 2 * 10**10, 10**30])
def test_a_claim_of_tokens_charges_no_more_than_the_bound(claimed: int) -> None:
    """Twenty billion tokens kept an account from every call for 154 days."""
    site = Site(config(services={"s": service(tokens=1_000)}))
    bound = 160 + 1_024 + 60
    site.settle(site.granted(words(60), input_bytes=160), tokens=claimed)
    assert bound <= _used(site) <= 4 * bound
    late = site.parked(words(1))
    site.wait(2 * MINUTE)
    assert site.served() == [late]


def test_a_settlement_that_does_not_know_the_tokens_leaves_the_estimate() -> None:
    """Nobody knows what an unconfirmed attempt used: its estimate stays charged until it drains; a void gives it
    back."""
    site = Site(config(services={"s": service(tokens=1_000)}))
    site.settle(site.granted(words(40)), confirmed=False)
    assert _used(site) == 40
    site.void(site.granted(words(50)))
    assert _used(site) == 40


def test_tokens_are_corrected_once_however_often_it_is_settled() -> None:
    """Settled unconfirmed, settled again, corrected by a person: the limits hear of the first only."""
    site = Site(config(services={"s": service(tokens=1_000, concurrent=3)}))
    grant = site.granted(words(40))
    site.settle(grant, confirmed=False, tokens=60)
    site.settle(grant, confirmed=False, tokens=60)
    site.settle(grant, tokens=10)
    site.settle(grant, tokens=10)
    assert _used(site) == 60
    assert _running(site) == 0


def test_never_more_calls_at_once_than_allowed() -> None:
    """Three places: the fourth call waits for a place, and every kind of end frees one."""
    site = Site(config(services={"s": service(concurrent=3)}))
    grants = [site.granted() for _ in range(3)]
    waiting = [site.parked() for _ in range(3)]
    assert _running(site) == 3
    site.settle(grants[0], 1)
    assert site.served() == waiting[:1]
    site.void(grants[1])
    assert site.served() == waiting[1:2]
    site.settle(grants[2], 1, confirmed=False)
    assert site.served() == waiting[2:]
    assert _running(site) == 3


def test_an_expired_hold_keeps_its_place_until_it_is_settled() -> None:
    """Nobody knows whether its call still runs at the service, so the place stays taken; then it is freed once."""
    site = Site(config(services={"s": service(concurrent=1)}))
    lost = site.granted()
    waiting = site.parked()
    site.wait(30 * MINUTE)
    assert [alert.what for alert in site.alerts()] == ["unconfirmed"]
    assert site.served() == []
    assert _running(site) == 1
    site.settle(lost, 1)
    assert site.served() == [waiting]
    assert _running(site) == 1


def test_a_budget_may_have_limits_of_its_own() -> None:
    """Requests per minute of `acme/team` hold up nobody in `acme`, and calls at once of `acme` hold up everybody."""
    team = capped(day=10).model_copy(update={"requests_per_minute": 10})
    whole = capped(day=10).model_copy(update={"max_concurrent": 2})
    site = Site(config(budgets={"acme": whole, "acme/team": team}))
    site.granted(budget="acme/team/writer")
    answer = site.reserve(budget="acme/team/writer")
    assert isinstance(answer, Parked)
    assert "budget:acme/team" in answer.detail
    site.granted(budget="acme")
    answer = site.reserve(budget="acme", mode="fail")
    assert isinstance(answer, Parked), "nobody is refused because of a limit"
    assert "budget:acme " in answer.detail


def test_the_places_are_counted_when_a_limit_is_set_while_calls_run() -> None:
    """A limit of calls at once that comes with a new configuration knows the calls that are running already."""
    site = Site(config())
    grants = [site.granted() for _ in range(3)]
    site.desk.configure(config("second", services={"s": service(concurrent=3)}), site.now_ms)
    assert _running(site) == 3
    waiting = site.parked()
    site.settle(grants[0], 1)
    assert site.served() == [waiting]


def test_a_failed_attempt_counts_as_a_request() -> None:
    """Two attempts under one hold are two requests for the limit."""
    site = Site(config(services={"s": service(requests=20)}))
    grant = site.granted()
    site.report(grant, trips_breaker=False)
    status = site.desk.status().accounts
    [limit] = next(account for account in status if account.account == "service:s").limits
    assert (limit.what, limit.limit, limit.used) == ("requests_per_minute", 20, 2)
    site.parked()


def test_a_429_pauses_the_service_until_its_retry_after() -> None:
    """The latest end counts; the call goes to the next candidate, or waits until then."""
    site = Site(config(services={"s": service(), "t": service(concurrent=1)}))
    grant = site.granted()
    site.report(grant, pause_ms=20 * SECOND, trips_breaker=False)
    site.report(grant, pause_ms=10 * SECOND, trips_breaker=False)
    assert site.granted(candidate("s"), candidate("t")).service == "t"
    waiting = site.parked(candidate("s"), candidate("t"), mode="fail")
    site.wait(20 * SECOND - 1)
    assert site.served() == []
    site.wait(1)
    assert site.served() == [waiting]


@settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
@given(
    per_minute=st.integers(1, 60),
    concurrent=st.integers(1, 8),
    steps=st.lists(st.tuples(st.integers(0, 9_000), st.integers(0, 3), st.sampled_from(["ask", "end", "fail"]))),
)
def test_the_desk_keeps_both_limits_for_any_traffic(
    per_minute: int, concurrent: int, steps: list[tuple[int, int, str]]
) -> None:
    """Grants, those from the queue too, never exceed N in 60 seconds nor the calls at once."""
    site = Site(config(services={"s": service(requests=per_minute, concurrent=concurrent)}))
    minute, running = SlidingMinute(), list[str]()

    def start(granted: Iterable[object]) -> None:
        for answer in granted:
            if isinstance(answer, Granted):
                minute.take(1, answer.grant.granted_at_ms)
                running.append(answer.grant.hold_id)
            else:
                assert isinstance(answer, Denied)

    for gap_ms, times, what in steps:
        site.wait(gap_ms)
        start(site.answers().values())
        for _ in range(times):
            if what == "ask":
                answer = site.reserve(candidate(usd=0), mode="fail")
                start([answer] if isinstance(answer, Granted) else [])
            elif running and what == "end":
                site.settle(running.pop(0))
            elif running:
                site.void(running.pop())
            start(site.answers().values())
        assert len(running) <= concurrent
    assert minute.most <= per_minute
    site.wait(DAY)
    start(site.answers().values())
    assert len(site.desk.queue) == 0


def _used(site: Site) -> int:
    tokens = site.desk.ledger.accounts["service:s"].limiter.tokens
    assert tokens is not None
    return tokens.used(site.now_ms)


def _running(site: Site) -> int:
    return site.desk.ledger.accounts["service:s"].limiter.running


def test_the_kit_counts_in_dollars() -> None:
    """The helper of these tests: `candidate(usd=3)` is bounded by exactly three dollars."""
    site = Site()
    assert site.granted(candidate(usd=3), input_bytes=1_000).bound_nanos == 3 * USD
