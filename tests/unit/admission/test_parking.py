"""Who is looked at when something changes: the desk grants what it would grant if it looked at everybody, and what a
command costs does not depend on how many wait."""

from collections.abc import Callable
from time import process_time
from typing import Any, NamedTuple

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, USD, Site, at, candidate, capped, config, service, usd_caps
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

from paymaster.admission import parking, routing
from paymaster.admission.desk import Desk
from paymaster.admission.first_fit import FIRST
from paymaster.admission.holds import Hold
from paymaster.admission.queue import Round
from paymaster.admission.rules_1 import due_by_scan
from paymaster.admission.state import read, written
from paymaster.messages import (
    AccountConfig,
    AttemptReport,
    CallRef,
    Candidate,
    Denied,
    DeskConfig,
    Grant,
    Granted,
    PauseService,
    Reserve,
    ResumeService,
    Settle,
    Void,
)

# ---------------------------------------------------------------- the same as a desk that looks at everybody


pytestmark = pytest.mark.usefixtures("heap_of_a_worker")


class Step(NamedTuple):
    what: str
    budget: str
    candidates: tuple[Candidate, ...]
    patient: bool
    priority: int
    number: int
    """Which hold, and how much."""
    wait_ms: int


@pytest.fixture(autouse=True)
def asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands ask here at one time, and each is looked at when it asks."""
    monkeypatch.setattr(parking, "ASKED_AT_ONCE_MAX", 10**9)


def steps(kinds: list[str], usd: list[int]) -> st.SearchStrategy[list[Step]]:
    candidates = st.builds(candidate, st.sampled_from(["s", "t"]), st.sampled_from(usd))
    step = st.builds(
        Step,
        st.sampled_from(kinds),
        st.sampled_from(["acme", "acme/a", "acme/a/x", "acme/b"]),
        st.lists(candidates, min_size=1, max_size=2).map(tuple),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, -1]),
        st.integers(0, 9),
        st.sampled_from([SECOND, 5 * SECOND, 31 * SECOND, MINUTE, 3 * MINUTE, HOUR, 7 * HOUR]),
    )
    return st.lists(step, min_size=5, max_size=60)


class Seen:
    """A site, and all that its desk decided, with the time."""

    def __init__(self, configuration: DeskConfig, *, looks_at_everybody: bool) -> None:
        self.site = Site(configuration, at(2027, 3, 10, 23, 30))
        self.decided: list[tuple[int, str, str]] = []
        if looks_at_everybody:
            queue = self.site.desk.queue
            queue.round = lambda freed, everybody_from, now_ms: Round(queue, freed, FIRST, now_ms)
            queue.change_ms = lambda: due_by_scan(queue, self.site.now_ms)

    def do(self, step: Step) -> None:
        site = self.site
        holds = list(site.desk.ledger.holds.values())
        hold = holds[step.number % len(holds)] if holds else None
        match step.what:
            case "reserve":
                mode = "wait" if step.patient else "fail"
                answer = site.reserve(
                    *step.candidates, budget=step.budget, mode=mode, priority=step.priority, wait_ms=step.wait_ms * 2
                )
                self.decided.append(
                    (site.now_ms, answer.hold_id if not isinstance(answer, Granted) else "", str(answer.kind))
                )
            case "settle" if hold is not None:
                cost = hold.grant.bound_nanos * (step.number % 4) // 3
                settle = Settle(hold_id=hold.grant.hold_id, cost_nanos=cost, tokens=step.number, confirmed=step.patient)
                site.desk.handle(settle, site.now_ms)
            case "fail" if hold is not None:
                settle = Settle(hold_id=hold.grant.hold_id, cost_nanos=0, served=False, failures=1)
                site.desk.handle(settle, site.now_ms)
            case "void" if hold is not None:
                site.desk.handle(Void(hold_id=hold.grant.hold_id), site.now_ms)
            case "wait":
                site.wait(step.wait_ms)
            case "cap":
                account = "service:s" if step.patient else f"budget:{step.budget.removesuffix('/x')}"
                site.set_cap(str(4 + 2 * step.number), account, "day")
            case "pause":
                site.desk.pause_service(PauseService(service="s"), site.now_ms)
            case "resume":
                site.desk.resume_service(ResumeService(service="s"), site.now_ms)
            case "busy" if hold is not None:
                report = AttemptReport(hold_id=hold.grant.hold_id, service=hold.grant.service, pause_ms=step.wait_ms)
                site.desk.report(report, site.now_ms)
            case _:
                pass
        site.desk.advance(site.now_ms)
        self.decided += [(site.now_ms, hold_id, str(answer)) for hold_id, answer in facts(site)]


def facts(site: Site) -> list[tuple[str, tuple[str, ...]]]:
    """What parked calls were answered, without the sentences."""
    return [
        (hold_id, (answer.kind, answer.grant.service if isinstance(answer, Granted) else answer.reason))
        for hold_id, answer in site.answers().items()
        if isinstance(answer, Granted | Denied)
    ]


def compare(configuration: DeskConfig, story: list[Step]) -> None:
    indexed, everybody = (Seen(configuration, looks_at_everybody=each) for each in (False, True))
    for step in story:
        indexed.do(step)
        everybody.do(step)
        assert indexed.decided == everybody.decided, step
        claims = [{call.reserve.hold_id: call.keeps for call in seen.site.desk.queue} for seen in (indexed, everybody)]
        assert claims[0] == claims[1], step


@settings(max_examples=examples(100), deadline=None, derandomize=True, database=None)
@given(
    steps(["reserve", "reserve", "reserve", "settle", "settle", "void", "wait", "cap", "pause", "resume"], [1, 2, 5, 9])
)
def test_money_and_limits_go_to_whom_a_full_scan_gives_them(story: list[Step]) -> None:
    """Caps in four accounts and two windows, calls at once, rates, pauses, priorities, deadlines, claims."""
    budgets = {
        "acme": AccountConfig(caps_nanos=usd_caps(day=20), requests_per_minute=40, alert_at=()),
        "acme/a": capped(hour=6, day=12),
        "acme/b": AccountConfig(caps_nanos=usd_caps(day=9), max_concurrent=2, alert_at=()),
    }
    services = {"s": service(concurrent=2, day=16), "t": service(tokens=30)}
    compare(config(budgets=budgets, services=services), story)


@settings(max_examples=examples(100), deadline=None, derandomize=True, database=None)
@given(steps(["reserve", "reserve", "reserve", "settle", "fail", "fail", "void", "wait", "resume"], [1, 2]))
def test_breakers_let_in_whom_a_full_scan_lets_in(story: list[Step]) -> None:
    """Money for all; two services that fail, are probed, and work again."""
    services = {"s": service(failures=1), "t": service(failures=2, cooldown_ms=45 * SECOND)}
    compare(config(budgets={"acme": capped(day=10**6)}, services=services), story)


# ---------------------------------------------------------------- what it costs

PARKED = 10_000
UNCONFIRMED = 100_000
SECONDS_MAX = 1.0
"""Of processor time for one activation, generously: it is to stay under 0.5 s, and the SDK gives up after 2 s."""


def behind_holds(parked: int) -> Site:
    """Calls of all different sizes wait in one budget, behind 300 holds of $2 that take all its money."""
    budgets = {"acme": capped(day=600), "rich": capped(day=10**9)}
    site = Site(config(budgets=budgets, services={"s": service(), "t": service()}, max_parked=parked))
    for _ in range(300):
        site.granted(candidate("t", 2))
    for number in range(parked):
        site.parked(candidate("t", 3 + number % 500), candidate("s", 4 + number % 500), budget=f"acme/{number}")
    return site


def behind_one_call(parked: int = PARKED, **limits: int) -> tuple[Site, Grant]:
    """Calls of all different sizes wait for a service, and one runs."""
    services = {"s": service(**limits)}
    site = Site(config(budgets={"acme": capped(total=10**9)}, services=services, max_parked=parked))
    first = site.granted(candidate("s", 1))
    for number in range(parked):
        site.parked(candidate("s", 1 + number % 500), budget=f"acme/{number}")
    return site, first


def with_unconfirmed(site: Site, count: int = UNCONFIRMED) -> Site:
    """This site after so many attempts of yesterday of which nobody knows the cost."""
    grant = next(iter(site.desk.ledger.holds.values())).grant.model_copy(update={"granted_at_ms": NOON - DAY})
    for number in range(count):
        call = CallRef(workflow_id=f"call/old-{number}", run_id=f"old-{number}")
        hold = Hold(call, grant, ("service:t", "budget:acme"), state="unconfirmed", posted_nanos=USD, running=False)
        site.desk.state.books.holds[f"old-{number}/1"] = hold
    site.desk = Desk(site.desk.state)
    site.desk.advance(site.now_ms)
    return site


class Activation(NamedTuple):
    looks: int
    seconds: float


class Looks:
    """Counts the looks at calls, parked ones and newcomers, and the processor time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(parking, "choose", self._choose)

    def _choose(self, *arguments: Any) -> Any:
        self.count += 1
        return routing.choose(*arguments)

    def during(self, do: Callable[[], object]) -> Activation:
        looks, began = self.count, process_time()
        do()
        return Activation(self.count - looks, process_time() - began)

    def until_done(self, what: str, site: Site, do: Callable[[], object], most: int = 100) -> list[Activation]:
        """Activates like the workflow: once for the command, and on as long as the desk asks for it soon."""
        each = [self.during(do)]
        while site.desk.due_ms <= site.now_ms + SECOND and len(each) < most:
            site.now_ms = max(site.desk.due_ms, site.now_ms + 1)
            each.append(self.during(lambda: site.desk.advance(site.now_ms)))
        longest = max(activation.seconds for activation in each)
        print(f"\n{what}: {len(each)} activations, the longest {longest * 1_000:.0f} ms of processor time")
        assert max(activation.looks for activation in each) <= parking.AT_ONCE_MAX + parking.IN_VAIN_MAX
        assert longest < SECONDS_MAX
        return each


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def alternating(site: Site, cost_nanos: int) -> Callable[[], None]:
    """An update of 100 settlements and 100 newcomers, in turn."""
    commands: list[Settle | Reserve] = []
    for number, hold_id in enumerate(list(site.desk.ledger.pending)[:100]):
        commands.append(Settle(hold_id=hold_id, cost_nanos=cost_nanos, epoch="this run"))
        commands.append(site.request(candidate("t", 1 + number % 3), budget="rich"))

    def update() -> None:
        for command in commands:
            site.desk.handle(command, site.now_ms)
        site.desk.advance(site.now_ms)

    return update


def test_what_an_update_costs_does_not_depend_on_how_many_wait(looks: Looks) -> None:
    """100 settlements and 100 reserves, with 100,000 unconfirmed holds in the books: nothing is free for anybody."""
    counted: list[int] = []
    for parked in (0, PARKED):
        site = with_unconfirmed(behind_holds(parked))
        raised = site.request(candidate("t", 2), budget="acme", priority=1)  # takes at once what a settlement frees
        site.desk.handle(raised, site.now_ms)
        took = looks.during(alternating(site, USD // 100))
        print(f"\n{parked:6,} parked: {took.looks} looks, {took.seconds * 1_000:.0f} ms for 200 commands")
        assert took.seconds < SECONDS_MAX
        counted.append(took.looks)
    assert max(counted) <= 250, "100 newcomers, and the few for whom something is free"


@pytest.mark.full
def test_money_that_is_spent_is_noted_once_for_each_who_needs_it(looks: Looks) -> None:
    """The settlements spend a third of the budget: thousands wait for a raise now, and not for holds any more."""
    site = behind_holds(PARKED)
    each = looks.until_done("money spent", site, alternating(site, 2 * USD))
    assert sum(activation.looks for activation in each) <= 100 + 2 * PARKED
    assert looks.during(alternating(site, USD // 100)).looks <= 200


def test_a_raise_frees_all_who_wait(looks: Looks) -> None:
    site = behind_holds(PARKED)
    waiting = [call.reserve.hold_id for call in site.desk.queue]
    looks.until_done("a raise", site, lambda: site.raise_cap("10000000"))
    assert site.served() == waiting


@pytest.mark.full
def test_a_paused_service_is_resumed(looks: Looks) -> None:
    site, first = behind_one_call(concurrent=1)
    site.settle(first)
    site.settle(site.served()[0])
    site.desk.pause_service(PauseService(service="s"), site.now_ms)
    site.desk.configure(config("no limits", {"acme": capped(total=10**9)}, max_parked=PARKED), site.now_ms)
    looks.until_done("the new limits", site, lambda: site.desk.advance(site.now_ms))
    site.served()
    waiting = [call.reserve.hold_id for call in site.desk.queue]
    looks.until_done(
        "a service resumed", site, lambda: site.desk.resume_service(ResumeService(service="s"), site.now_ms)
    )
    assert site.served() == waiting


@pytest.mark.full
def test_a_breaker_opens_is_probed_and_closes(looks: Looks) -> None:
    """Thousands wait for the one place at the service."""
    site, first = behind_one_call(concurrent=1, failures=1)
    looks.until_done("a breaker opens", site, lambda: site.fail(first))
    assert site.served() == []
    site.now_ms += 40 * SECOND
    looks.until_done("a breaker is half open", site, lambda: site.desk.advance(site.now_ms))
    (probe,) = site.served()
    looks.until_done("a breaker closes", site, lambda: site.settle(probe))
    assert len(site.served()) == 1, "there is one place"


@pytest.mark.full
def test_a_failed_probe_denies_who_waited_for_a_cooldown(looks: Looks) -> None:
    site, first = behind_one_call(concurrent=1, failures=1)
    looks.until_done("a breaker opens", site, lambda: site.fail(first))
    site.now_ms += 40 * SECOND
    looks.until_done("a breaker is half open", site, lambda: site.desk.advance(site.now_ms))
    (probe,) = site.served()
    looks.until_done("a probe fails", site, lambda: site.fail(site.desk.ledger.holds[probe].grant))
    assert len(site.answers()) == PARKED - 1


@pytest.mark.parametrize("limits", [{"requests": 600}, {"tokens": 60_000}])
def test_a_rate_limit_lets_in_one_after_the_other(looks: Looks, limits: dict[str, int]) -> None:
    """Each time one is let in, and nobody else is looked at."""
    site = Site(config(budgets={"acme": capped(total=10**9)}, services={"s": service(**limits)}, max_parked=PARKED))
    while isinstance(site.reserve(candidate("s", 1)), Granted):
        pass
    for number in range(PARKED - 1):
        site.parked(candidate("s", 1 + number % 500))
    waiting, counted = len(site.desk.queue), looks.count
    each = looks.until_done("a rate limit", site, lambda: site.desk.advance(site.now_ms), most=60)
    let_in = waiting - len(site.desk.queue)
    assert let_in >= 30
    assert looks.count - counted <= let_in + len(each)


def test_all_deadlines_pass_at_once(looks: Looks) -> None:
    site, _ = behind_one_call(concurrent=1)
    site.wait(24 * HOUR - SECOND)
    site.now_ms += SECOND
    looks.until_done("deadlines", site, lambda: site.desk.advance(site.now_ms))
    assert len(site.desk.queue) == 0
    assert len(site.desk.state.outbox.messages) == PARKED


def test_all_holds_expire_at_once(looks: Looks) -> None:
    site = Site(config(budgets={"acme": capped(total=10**9)}))
    for _ in range(PARKED):
        site.granted()
    site.now_ms += 15 * MINUTE
    looks.until_done("holds", site, lambda: site.desk.advance(site.now_ms))
    assert (site.desk.status().holds, site.desk.status().unconfirmed) == (0, PARKED)


def test_a_status_and_a_new_run_with_many_parked_and_unconfirmed(looks: Looks) -> None:
    """Each is counted and not searched for; what follows from the state is made anew."""
    site = with_unconfirmed(behind_holds(PARKED))
    took = looks.during(site.desk.status)
    print(f"\nstatus: {took.seconds * 1_000:.1f} ms")
    assert took.seconds < 0.1
    status = site.desk.status()
    assert (status.parked, status.unconfirmed, status.holds) == (PARKED, UNCONFIRMED, 300)
    assert {account.account: account.parked for account in status.accounts}["budget:acme"] == PARKED
    took = looks.during(lambda: site.desk.queue.file_again(site.now_ms))
    print(f"filing {PARKED:,} calls again: {took.seconds * 1_000:.0f} ms")
    assert took.seconds < SECONDS_MAX


# ---------------------------------------------------------------- what is too much for one activation


def cut_short(monkeypatch: pytest.MonkeyPatch) -> tuple[Site, list[str]]:
    """Ten calls wait for money; three looks fill an activation. Then there is money for all."""
    monkeypatch.setattr(parking, "AT_ONCE_MAX", 3)
    site = Site(config(budgets={"acme": capped(day=10), "other": capped(day=100)}))
    site.settle(site.granted(candidate(usd=10)), 10)
    waiting = [site.parked(candidate(usd=1 + number % 3)) for number in range(10)]
    site.wait(MINUTE)
    site.raise_cap("100")
    return site, waiting


def test_nobody_overtakes_those_who_are_not_looked_at_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer waits behind them, also one that may not wait; with another budget or a higher priority it goes on."""
    site, waiting = cut_short(monkeypatch)
    assert len(site.desk.state.outbox.messages) == 3
    behind = [site.parked(mode="fail"), site.parked()]
    site.granted(budget="other")
    site.granted(priority=1)
    site.wait(SECOND)
    assert site.served() == waiting + behind


def test_what_is_left_survives_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    site, waiting = cut_short(monkeypatch)
    site.cut()
    behind = site.parked()
    site.wait(SECOND)
    assert site.served() == [*waiting, behind]


def test_a_look_at_everybody_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap is lowered below the bounds of five calls that wait for a place."""
    monkeypatch.setattr(parking, "IN_VAIN_MAX", 3)
    site = Site(config(services={"s": service(concurrent=1)}))
    site.granted()
    waiting = [site.parked(candidate(usd=1 + 3 * (number % 2)), budget="acme") for number in range(10)]
    site.set_cap("3")
    site.cut()
    site.wait(SECOND)
    assert list(site.answers()) == waiting[1::2]


def test_a_state_of_the_first_version_is_looked_at_as_a_whole() -> None:
    """It does not say what each candidate waits for."""
    site = Site(config(), rules=1)
    site.settle(site.granted(candidate(usd=10)), 10)
    waiting = [site.parked(candidate(usd=1)) for _ in range(3)]
    site.desk.follow(2)
    state = site.desk.state
    for call in state.parked.values():
        call.waits = ()
    site.desk = Desk(read(written(state)[0])[0])
    site.load()
    site.wait(SECOND)
    site.raise_cap("2")
    assert site.served() == waiting[:2]
