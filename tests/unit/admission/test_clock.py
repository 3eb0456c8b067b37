"""The server's clock jumps forward and comes back: nobody is refused for it, and nothing spent is forgotten."""

from dataclasses import dataclass, field

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, USD, Site, at, candidate, capped, config, service
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission.clock import BEHIND_FOR_MS, BEHIND_MS, DOUBT_MS, STALE_CALLS
from paymaster.messages import Denied, Ended, Granted, LoadedSpend, LoadSpend, Parked, Reserve, TakeClock, Void, Window
from paymaster.values.windows import WINDOWS, window_start_ms

YEAR = 365 * DAY


def come_back(site: Site, now_ms: int) -> None:
    """A new run, in which the clock says this, and goes on to say so."""
    site.cut()
    site.desk.advance(now_ms)
    site.now_ms = now_ms + BEHIND_FOR_MS
    site.desk.advance(site.now_ms)
    assert site.desk.state.now_ms == site.now_ms


# ---------------------------------------------------------------- forward


def test_a_jump_forward_denies_nobody_until_it_lasts() -> None:
    """A year at once: parked calls and holds have ten minutes more, and an alert says so."""
    site = Site(config(budgets={"acme": capped(total=10)}))
    held = site.granted(candidate(usd=10))
    waiting = site.parked(wait_ms=HOUR)
    site.now_ms = NOON + YEAR
    site.desk.advance(site.now_ms)
    assert site.answers() == {}
    assert site.desk.ledger.holds[held.hold_id].state == "pending"
    assert [alert.what for alert in site.alerts()] == ["clock_jumped"]
    assert site.desk.due_ms == NOON + YEAR + DOUBT_MS
    site.cut()
    site.wait(DOUBT_MS - 1)
    site.desk.advance(site.now_ms)
    assert site.answers() == {}
    site.wait(1)
    assert site.desk.ledger.holds[held.hold_id].state == "unconfirmed"
    assert isinstance(site.answers()[waiting], Denied)


def test_a_call_that_comes_late_by_a_jump_is_parked() -> None:
    """It was started before the jump, and its deadline was over when it asked."""
    site = Site(config(budgets={"acme": capped(total=10)}))
    site.granted(candidate(usd=10))
    site.parked(wait_ms=3 * DAY)
    late = site.request(wait_ms=HOUR)
    site.now_ms = NOON + 4 * HOUR
    answer = site.desk.handle(late, site.now_ms)
    assert isinstance(answer, Parked)


def test_a_quiet_weekend_is_no_jump() -> None:
    """Nothing was due meanwhile, or it happened when it was due: no alert, and a fresh day on Monday."""
    site = Site()
    site.settle(site.granted(candidate(usd=10)), 10)
    site.now_ms += 3 * DAY
    site.granted(candidate(usd=10))
    site.wait(3 * DAY)
    site.desk.advance(site.now_ms)
    assert site.alerts("clock_jumped") == []


# ---------------------------------------------------------------- and back


def test_the_desk_follows_a_clock_that_comes_back() -> None:
    """$10 were spent before the jump, $3 while the clock was a year ahead: the day's cap is used up, and no more."""
    site = Site(config(budgets={"acme": capped(day=20)}))
    before = site.granted(candidate(usd=10))
    site.settle(before, 10)
    site.now_ms = NOON + YEAR
    ahead = site.granted(candidate(usd=3))
    site.settle(ahead, 3)
    running = site.granted(candidate(usd=2))
    waiting = site.parked(candidate(usd=16))
    come_back(site, NOON + MINUTE)
    assert [alert.what for alert in site.alerts()] == ["clock_jumped"]
    wanted = site.desk.to_load()
    assert wanted is not None
    assert wanted.window_starts_ms["day"] == at(2027, 3, 10)
    assert wanted.returned_at_ms == site.now_ms
    assert wanted.latest_ms is not None
    assert site.now_ms < wanted.latest_ms < NOON + YEAR
    site.load({account: dict.fromkeys(WINDOWS, 13 * USD) for account in ("budget:acme", "service:s")})
    assert (site.posted(), site.pending()) == (13, 2)
    assert site.desk.ledger.holds[running.hold_id].grant.expires_at_ms <= site.now_ms + 15 * MINUTE
    assert site.answers() == {}
    site.settle(running, 2)
    assert site.posted() == 15
    site.wait_until(at(2027, 3, 11))
    assert list(site.answers()) == [waiting]
    site.desk.advance(site.now_ms)
    assert (site.posted(), site.pending()) == (0, 16)


def test_after_the_return_calls_wait_as_long_as_they_wanted() -> None:
    """Its deadline is what it was; one that came while the clock was ahead waits its time from now on."""
    site = Site(config(budgets={"acme": capped(total=1)}))
    site.settle(site.granted(), 1)
    before = site.parked(wait_ms=5 * HOUR)
    site.now_ms = NOON + YEAR
    ahead = site.parked(wait_ms=7 * HOUR)
    come_back(site, NOON + MINUTE)
    site.load({account: {"total": USD} for account in ("budget:acme", "service:s")})
    site.wait_until(NOON + 5 * HOUR - 1)
    assert site.answers() == {}
    site.wait(1)
    assert list(site.answers()) == [before]
    site.wait(3 * HOUR)
    assert list(site.answers()) == [ahead]


@pytest.mark.parametrize("behind_ms", [1, SECOND, BEHIND_MS - 1])
def test_a_clock_that_differs_a_little_moves_nothing_back(behind_ms: int) -> None:
    """Servers' clocks differ by seconds: the desk's time stands still until the clock has caught up."""
    site = Site()
    site.cut()
    for waited in (0, MINUTE, BEHIND_FOR_MS):
        site.desk.advance(NOON - behind_ms + waited)
        assert site.desk.state.now_ms == max(NOON, NOON - behind_ms + waited)
    assert site.desk.to_load() is None


def test_a_clock_behind_for_a_moment_moves_nothing_back() -> None:
    """It must last; until then the desk asks to be woken by that clock."""
    site = Site()
    site.desk.advance(NOON - HOUR)
    site.desk.advance(NOON - HOUR + BEHIND_FOR_MS - 1)
    assert site.desk.state.now_ms == NOON
    assert site.desk.due_ms <= NOON - HOUR + 2 * BEHIND_FOR_MS
    site.desk.advance(NOON)
    site.desk.advance(NOON - HOUR)
    assert site.desk.state.now_ms == NOON


def test_an_admin_moves_the_desks_time_back_at_once() -> None:
    """The time moves when a new run begins; the admin's word holds for that only."""
    site = Site()
    site.now_ms = NOON + DAY
    assert site.desk.take_clock(TakeClock(), site.now_ms).now_ms == site.now_ms
    assert site.desk.wants_new_run
    site.cut()
    assert not site.desk.wants_new_run
    site.desk.advance(NOON + MINUTE)
    assert site.desk.state.now_ms == NOON + MINUTE
    site.desk.advance(NOON)
    assert site.desk.state.now_ms == NOON + MINUTE


def test_calls_started_long_ago_ask_for_a_new_run() -> None:
    """Within a run its time never goes back, whatever the clock does: only a new one shows it. Not again and again."""
    site = Site(config(budgets={"acme": capped(total=10**6)}))
    asked: list[int] = []
    for number in range(1, STALE_CALLS**3 + 1):
        late = site.request().model_copy(update={"asked_at_ms": NOON - HOUR})
        site.desk.handle(late, NOON)
        site.desk.handle(Void(hold_id=late.hold_id), NOON)
        if site.desk.wants_new_run:
            asked.append(number)
            site.cut()
    assert asked == [STALE_CALLS, STALE_CALLS**2, STALE_CALLS**3]
    site.granted()
    assert site.desk.state.clock.stale_calls == 0


def test_pauses_and_limits_set_ahead_end_in_time() -> None:
    """Set while the clock was a year ahead: after its return they last as long as they would have."""
    services = {"s": service(requests=60, failures=1, cooldown_ms=30 * SECOND), "t": service(requests=60)}
    site = Site(config(services=services))
    site.now_ms = NOON + YEAR
    site.report(site.granted(candidate("t")), pause_ms=20 * SECOND, trips_breaker=False)
    site.fail(site.granted(candidate("s")))
    for _ in range(3):
        site.void(site.granted(candidate("t")) if site.now_ms > NOON + YEAR else "nobody/1")
        site.now_ms += 20 * SECOND
    come_back(site, NOON + MINUTE)
    site.load()
    site.now_ms += MINUTE
    site.granted(candidate("s"))
    site.granted(candidate("t"))


def test_what_ended_while_ahead_answers_nobody_ended() -> None:
    """And no call is answered `ended` for a year because of it."""
    site = Site()
    site.now_ms = NOON + YEAR
    grant = site.granted()
    site.void(grant)
    site.now_ms += 3 * HOUR
    site.desk.advance(site.now_ms)
    assert site.desk.state.forgotten_until_ms > NOON + YEAR
    come_back(site, NOON + MINUTE)
    site.load()
    site.granted()


def test_a_call_from_before_the_time_put_back_to_asks_again() -> None:
    """What was forgotten while the clock was ahead may have had its id; a moment later it goes on under another one."""
    site = Site()
    site.now_ms = NOON + YEAR
    site.void(site.granted())
    site.now_ms += 3 * HOUR
    site.desk.advance(site.now_ms)
    come_back(site, NOON + MINUTE)
    site.load()
    behind_ms = site.now_ms - SECOND
    early = site.request().model_copy(update={"asked_at_ms": behind_ms})
    assert isinstance(site.desk.handle(early, behind_ms), Ended)
    site.granted()


# ---------------------------------------------------------------- windows that end under load


ENDS: list[tuple[Window, int]] = [
    ("minute", at(2027, 3, 10, 12, 1)),
    ("day", at(2028, 2, 29)),
    ("month", at(2028, 3, 1)),
    ("month", at(2028, 1, 1)),
]


@pytest.mark.parametrize(("window", "end_ms"), ENDS)
def test_a_window_ends_with_500_parked_calls(window: Window, end_ms: int) -> None:
    """Month and year ends, a leap day: while others settle and ask, nobody is refused, and nothing is granted twice."""
    site = Site(config(budgets={"acme": capped(**{window: 300}), "acme/team": capped(**{window: 290})}), end_ms - 50)
    running = [site.granted(candidate(usd=10), budget="acme/team") for _ in range(29)]
    waiting = [site.parked(budget="acme/team") for _ in range(495)]
    other = [site.parked(candidate(usd=11)) for _ in range(5)]
    for number, grant in enumerate(running[:10]):
        site.settle(grant, 10)
        site.now_ms = end_ms - 40 + number
    assert site.answers() == {}
    site.now_ms = end_ms - 1
    site.desk.advance(site.now_ms)
    assert site.answers() == {}
    site.now_ms = end_ms
    for grant in running[10:]:
        site.settle(grant, 10)
    site.wait(5)
    served = site.served()
    assert served == waiting[:290]
    assert (site.posted(window=window), site.pending(window=window)) == (0, 290)
    assert site.posted(window="total") == (0 if window == "total" else 290)
    for hold_id in served[:20]:
        site.settle(hold_id, 1)
    assert site.answers() == {}
    assert [call.reserve.hold_id for call in site.desk.queue] == waiting[290:] + other


# ---------------------------------------------------------------- whatever the clock does


@dataclass
class World:
    """A desk under a clock that wanders away from the true time, and a database that says what its rows say."""

    site: Site
    true_ms: int = NOON
    ahead_ms: int = 0
    rows: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """When granted by the desk's time, when truly, and the cost."""
    grants: dict[str, tuple[int, int, int]] = field(default_factory=dict[str, tuple[int, int, int]])
    """Of those that run: granted by the desk's time, truly, the bound."""
    waiting: dict[str, tuple[Reserve, int]] = field(default_factory=dict[str, tuple[Reserve, int]])
    """Parked calls, with the true time of their deadline."""
    believed: bool = False
    """A jump lasted so long that its time counts."""
    over: set[str] = field(default_factory=set[str])

    @property
    def clock_ms(self) -> int:
        return self.true_ms + self.ahead_ms

    def look(self) -> None:
        self.site.now_ms = self.clock_ms
        self.site.desk.advance(self.clock_ms)
        self.load()
        self.take_answers()

    def is_right(self) -> bool:
        return self.ahead_ms == 0 and self.site.desk.state.now_ms == self.true_ms

    def load(self) -> None:
        while (wanted := self.site.desk.to_load()) is not None:
            self.site.desk.loaded(self.read(wanted), self.clock_ms)
        self.take_answers()

    def read(self, wanted: LoadSpend) -> LoadedSpend:
        """What the activity reads for the desk."""
        returned_ms, latest_ms = wanted.returned_at_ms, wanted.latest_ms
        assert latest_ms is not None
        times = [
            (returned_ms or latest_ms if granted_ms > latest_ms else granted_ms, cost)
            for granted_ms, _, cost in self.rows
        ]
        starts = wanted.window_starts_ms
        sums: dict[Window, int] = {
            window: sum(cost for at_ms, cost in times if at_ms >= starts[window]) for window in WINDOWS
        }
        return LoadedSpend(number=wanted.number, posted_nanos=dict.fromkeys(wanted.accounts, sums))

    def ask(self, usd: int) -> None:
        request = self.site.request(candidate(usd=usd), wait_ms=2 * HOUR)
        answer = self.site.desk.handle(request, self.clock_ms)
        match answer:
            case Granted():
                self.granted(answer)
            case Parked():
                self.waiting[request.hold_id] = request, self.true_ms + 2 * HOUR
            case _:
                raise AssertionError(f"refused: {answer}")
        self.take_answers()

    def granted(self, answer: Granted) -> None:
        grant = answer.grant
        assert grant.hold_id not in self.grants
        assert grant.hold_id not in self.over
        self.over.add(grant.hold_id)
        self.grants[grant.hold_id] = grant.granted_at_ms, self.true_ms, grant.bound_nanos
        if self.is_right():
            start_ms = window_start_ms("day", self.true_ms)
            costs = [cost for _, true_ms, cost in self.rows if true_ms >= start_ms]
            bounds = [bound for _, true_ms, bound in self.grants.values() if true_ms >= start_ms]
            ahead = [cost for granted_ms, true_ms, cost in self.rows if granted_ms >= true_ms + BEHIND_MS]
            if not ahead:
                assert sum(costs) + sum(bounds) <= 20 * USD
            elif grant.bound_nanos:
                assert sum(costs) + sum(bounds) <= 20 * USD, "what was spent while the clock was ahead was forgotten"

    def take_answers(self) -> None:
        for hold_id, answer in self.site.answers().items():
            _, deadline_ms = self.waiting.pop(hold_id)
            if isinstance(answer, Granted):
                self.granted(answer)
            else:
                assert isinstance(answer, Denied)
                assert answer.reason == "waited_too_long"
                assert self.believed or self.true_ms >= deadline_ms, "refused because the clock jumped"

    def settle(self, number: int, share: int) -> None:
        if not self.grants:
            return
        hold_id = sorted(self.grants)[number % len(self.grants)]
        granted_ms, true_ms, bound = self.grants.pop(hold_id)
        self.rows.append((granted_ms, true_ms, bound * share // 4))
        self.site.settle(hold_id, bound * share / 4 / USD)
        self.take_answers()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 9)),
        st.tuples(st.just("settle"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.sampled_from([1, SECOND, MINUTE, 10 * MINUTE, HOUR])),
        st.tuples(st.just("jump"), st.sampled_from([10 * MINUTE, 3 * HOUR, DAY, 40 * DAY, YEAR])),
        st.tuples(st.sampled_from(["back", "back at once", "cut"]), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=examples(400), deadline=None, derandomize=True, database=None)
@given(steps=steps, start_ms=st.sampled_from([NOON, at(2027, 12, 31, 23, 30), at(2028, 2, 28, 23, 30)]))
def test_whatever_the_clock_does_the_promises_hold(steps: list[tuple[str, int]], start_ms: int) -> None:
    """Promises 1, 2 and 6, by the true time: while the clock is right no day has more than its cap, no hold is granted
    twice, and each parked call is answered by its own deadline, and not before unless a jump lasted."""
    world = World(Site(config(budgets={"acme": capped(day=20)}), start_ms), start_ms)

    def wait(ms: int) -> None:
        world.true_ms += ms

    for what, value in steps:
        match what:
            case "ask":
                world.ask(value)
            case "settle":
                world.settle(value // 5, value % 5)
            case "wait":
                world.believed = world.believed or (world.ahead_ms > 0 and value >= DOUBT_MS)
                wait(value)
            case "jump":
                world.believed = world.believed or world.ahead_ms > 0  # a second one is as if the first had lasted
                world.ahead_ms += value
            case "back" | "back at once":
                world.ahead_ms = 0
                if what == "back at once":
                    world.site.desk.take_clock(TakeClock(), world.site.desk.state.now_ms)
                world.site.cut()
                world.look()
                if what == "back":
                    wait(BEHIND_FOR_MS)
            case _:
                world.site.cut()
        world.look()
    world.ahead_ms = 0
    world.site.cut()
    for _ in range(10):
        wait(MINUTE)
        world.look()
    for number in range(len(world.grants)):
        world.settle(number, 4)
    for _ in range(3):
        wait(HOUR)
        world.look()
    wait(DAY)
    world.look()
    wait(DOUBT_MS)
    world.look()
    assert world.waiting == {}, "a call waits for ever"
    assert len(world.site.desk.queue) == 0
