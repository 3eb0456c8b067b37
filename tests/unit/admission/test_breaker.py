"""The breaker: it opens after failures in a row, lets one call probe, and counts no failure twice."""

import pytest
from desk_kit import HOUR, MINUTE, NOON, SECOND, Site, candidate, capped, config, service

from paymaster.admission.breaker import Breaker, Gate
from paymaster.messages import AttemptReport, Denied, Granted, PauseService, ResumeService, Settle

COOLDOWN_MS = 30 * SECOND


def broken_site(failures: int = 3, *, others: bool = False) -> Site:
    """A desk of which the service `s` has just been given up. With `others`, there is also a service `t`."""
    services = {"s": service(failures=failures, cooldown_ms=COOLDOWN_MS)}
    if others:
        services["t"] = service(failures=failures, cooldown_ms=COOLDOWN_MS)
    site = Site(config(budgets={"acme": capped(day=1_000)}, services=services))
    for _ in range(failures):
        site.fail(site.granted(candidate("s")))
    assert _state(site) == "open"
    return site


# ---------------------------------------------------------------- by itself


def test_failures_in_a_row_open_it_and_a_success_between_starts_again() -> None:
    """Two failures, a success, two failures: closed. The third in a row opens it."""
    breaker = Breaker(failures_max=3, cooldown_ms=COOLDOWN_MS)
    verdicts = [breaker.failed("a", NOON), breaker.failed("b", NOON), breaker.served()]
    verdicts += [breaker.failed("c", NOON), breaker.failed("d", NOON)]
    assert verdicts == [False] * 5
    assert breaker.state(NOON) == "closed"
    assert breaker.failed("e", NOON)
    assert breaker.state(NOON + COOLDOWN_MS - 1) == "open"
    assert breaker.state(NOON + COOLDOWN_MS) == "half_open"


def test_failures_while_it_is_open_do_not_prolong_the_cooldown() -> None:
    """Calls that were under way when it opened fail later; only the probe decides."""
    breaker = Breaker(failures_max=1, cooldown_ms=COOLDOWN_MS)
    assert breaker.failed("a", NOON)
    assert not breaker.failed("b", NOON + 20 * SECOND)
    gate, later = Gate(breaker), NOON + COOLDOWN_MS
    assert gate.shut(later) is None
    breaker.started("probe")
    assert not breaker.failed("c", later + 1)
    assert gate.shut(later + 1) == "probing"
    assert breaker.failed("probe", later + 2)
    assert gate.shut(later + 1 + COOLDOWN_MS) == "breaker_open"
    assert gate.shut(later + 2 + COOLDOWN_MS) is None


def test_a_failing_probe_opens_it_again_at_once_and_a_serving_one_closes_it() -> None:
    """However many failures a closed breaker forgives."""
    breaker = Breaker(failures_max=5, cooldown_ms=COOLDOWN_MS, failures=5, open_until_ms=NOON)
    breaker.started("probe")
    assert breaker.failed("probe", NOON)
    breaker.started("probe 2")
    assert breaker.served()
    assert breaker.state(NOON) == "closed"
    assert breaker.failures == 0
    assert not breaker.served()


# ---------------------------------------------------------------- at the desk


def test_it_opens_probes_with_one_call_and_closes() -> None:
    """While it is open calls fall back; after the cooldown one call probes and the others still fall back; its success
    lets everybody in again."""
    site = broken_site(others=True)
    both = candidate("s"), candidate("t")
    assert site.granted(*both).service == "t"
    site.wait(COOLDOWN_MS - 1)
    assert site.granted(*both).service == "t"
    site.wait(1)
    probe = site.granted(*both)
    assert probe.service == "s"
    assert [site.granted(*both).service for _ in range(3)] == ["t"] * 3
    site.settle(probe, 1)
    assert [site.granted(*both).service for _ in range(3)] == ["s"] * 3
    assert [alert.what for alert in site.alerts()] == ["breaker_opened", "breaker_closed"]


def test_a_failing_probe_opens_it_for_another_cooldown() -> None:
    """The next probe comes only after that. An outage of hours is one alert, not one for each probe."""
    site = broken_site(others=True)
    both = candidate("s"), candidate("t")
    site.wait(COOLDOWN_MS)
    site.fail(site.granted(candidate("s")))
    site.wait(COOLDOWN_MS - 1)
    assert site.granted(*both).service == "t"
    site.wait(1)
    assert site.granted(*both).service == "s"
    assert [alert.what for alert in site.alerts()] == ["breaker_opened"]


@pytest.mark.parametrize("end", ["void", "unconfirmed", "expired", "failed by the request"])
def test_a_probe_that_says_nothing_about_the_service_lets_the_next_call_probe(end: str) -> None:
    """A probe that was taken back, lost, or failed by its own fault is neither a success nor a failure."""
    site = broken_site()
    site.wait(COOLDOWN_MS)
    probe = site.granted()
    waiting = site.parked(wait_ms=HOUR)
    match end:
        case "void":
            site.void(probe)
        case "unconfirmed":
            site.settle(probe, 1, confirmed=False, served=False)
        case "expired":
            site.wait(15 * MINUTE)
        case _:
            site.report(probe, trips_breaker=False)
            site.settle(probe, 0, served=False)
    assert site.served() == [waiting]
    assert _state(site) == "half_open"
    site.parked()
    site.settle(waiting, 1)
    assert _state(site) == "closed"


def test_calls_that_were_under_way_neither_prolong_nor_probe() -> None:
    """Five calls at once, three fail and open it: the failures of the other two change nothing."""
    site = Site(config(services={"s": service(failures=3, cooldown_ms=COOLDOWN_MS)}))
    grants = [site.granted() for _ in range(5)]
    for grant in grants:
        site.fail(grant)
        site.wait(SECOND)
    assert len(site.alerts("breaker_opened")) == 1
    site.wait_until(NOON + 2 * SECOND + COOLDOWN_MS)
    assert _state(site) == "half_open"


def test_a_call_that_is_served_late_closes_it() -> None:
    """It was sent before the breaker opened, and the service answered: it works."""
    site = Site(config(services={"s": service(failures=2, cooldown_ms=COOLDOWN_MS)}))
    slow = site.granted()
    for _ in range(2):
        site.fail(site.granted())
    assert _state(site) == "open"
    site.settle(slow, 1)
    assert _state(site) == "closed"
    assert len(site.alerts("breaker_closed")) == 1


@pytest.mark.parametrize("reports", [0, 1, 2, 3])
@pytest.mark.parametrize("confirmed", [True, False])
def test_each_failed_attempt_counts_once_whether_its_report_arrived_or_not(reports: int, confirmed: bool) -> None:
    """Three attempts failed under one hold, and some reports were lost: three failures."""
    site = Site(config(services={"s": service(failures=100)}))
    grant = site.granted()
    for _ in range(reports):
        site.report(grant)
    site.settle(grant, 0, served=False, failures=3, confirmed=confirmed)
    assert _failures(site) == 3


def test_failures_before_an_answer_do_not_count() -> None:
    """Two attempts failed, the third was answered: the service works, whether or not the reports arrived."""
    site = Site(config(services={"s": service(failures=4)}))
    grant = site.granted()
    site.report(grant)
    site.settle(grant, 1, failures=2, served=True)
    assert _failures(site) == 0


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_settlement_that_is_sent_again_counts_no_failure_again(confirmed: bool) -> None:
    """The group commit may send it any number of times, also when the first one left the hold unconfirmed."""
    site = Site(config(services={"s": service(failures=3)}))
    grant = site.granted()
    for _ in range(5):
        site.settle(grant, 1, served=False, failures=1, confirmed=confirmed)
    assert _failures(site) == 1
    assert _state(site) == "closed"


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_report_that_comes_after_the_settlement_counts_no_failure_again(confirmed: bool) -> None:
    """The settlement made up for it already."""
    site = Site(config(services={"s": service(failures=3)}))
    grant = site.granted()
    site.settle(grant, 1, served=False, failures=2, confirmed=confirmed)
    site.report(grant)
    site.report(grant)
    assert _failures(site) == 2


def test_a_correction_by_a_person_says_nothing_about_the_service() -> None:
    """An unconfirmed attempt is resolved days later: the breaker stays as it is."""
    site = Site(config(services={"s": service(failures=3)}))
    lost = site.granted()
    site.settle(lost, 1, confirmed=False, served=False, failures=1)
    site.fail(site.granted())
    site.settle(lost, 1, served=False)
    assert _failures(site) == 2


def test_a_report_about_a_service_or_a_hold_that_is_not_known_does_nothing() -> None:
    """A pause is taken from any report; a failure only from one under a hold."""
    site = Site(config(services={"s": service(failures=1)}))
    for name in ("s", "ghost"):
        site.desk.report(AttemptReport(hold_id="nobody", service=name, trips_breaker=True), site.now_ms)
    assert _state(site) == "closed"
    site.desk.report(AttemptReport(hold_id="nobody", service="s", pause_ms=SECOND), site.now_ms)
    assert "left alone for another 1 s" in site.desk.status().model_dump_json() or site.parked()


def test_a_status_knows_that_a_cooldown_is_over_also_when_nothing_happened_since() -> None:
    """And a pause that the service asked for; looking changes nothing."""
    site = broken_site()
    site.desk.report(AttemptReport(hold_id="nobody", service="s", pause_ms=10 * SECOND), site.now_ms)
    before = site.desk.dump()

    def seen(after_ms: int) -> tuple[str, bool]:
        (status,) = site.desk.status(now_ms=site.now_ms + after_ms).services
        return status.breaker, status.paused_until_ms is not None

    assert [seen(0), seen(29 * SECOND), seen(30 * SECOND)] == [("open", True), ("open", False), ("half_open", False)]
    assert seen(-HOUR) == ("open", True), "the desk's time never goes back"
    assert site.desk.dump() == before


def test_an_admin_who_resumes_a_service_closes_its_breaker() -> None:
    """The operator knows that it works again: nobody waits for the cooldown."""
    site = broken_site()
    waiting = site.parked()
    site.desk.pause_service(PauseService(service="s"), site.now_ms)
    site.desk.resume_service(ResumeService(service="s"), site.now_ms)
    assert site.served() == [waiting]
    assert _state(site) == "closed"


def test_a_new_configuration_changes_the_breaker_and_keeps_what_it_knows() -> None:
    """Two failures so far, and from now on three are enough."""
    site = Site(config(services={"s": service(failures=5)}))
    for _ in range(2):
        site.fail(site.granted())
    site.desk.configure(config("second", services={"s": service(failures=3)}), site.now_ms)
    assert _state(site) == "closed"
    site.fail(site.granted())
    assert _state(site) == "open"


# ---------------------------------------------------------------- every breaker open


def test_when_no_service_works_a_call_that_may_not_wait_is_denied_at_once() -> None:
    """`fail` gets `breaker_open` in the very moment."""
    denied = broken_site().denied(mode="fail")
    assert denied.reason == "breaker_open"
    assert "failed 3 times in a row" in denied.detail


def test_when_no_service_works_calls_wait_for_the_probe_and_share_its_fate() -> None:
    """All that wait are let in when the probe succeeds."""
    site = broken_site()
    waiting = [site.parked() for _ in range(4)]
    site.wait(COOLDOWN_MS)
    assert site.served() == waiting[:1]
    site.settle(waiting[0], 1)
    assert site.served() == waiting[1:]


def test_when_no_service_works_a_call_waits_for_one_cooldown_and_is_then_denied() -> None:
    """It waited for a whole cooldown, another call probed in vain: its agent must go on without an answer."""
    site = broken_site()
    first, *others = [site.parked() for _ in range(4)]
    site.wait(COOLDOWN_MS)
    assert site.served() == [first]
    site.wait(SECOND)
    site.fail(site.desk.ledger.holds[first].grant)
    answers = site.answers()
    assert list(answers) == others
    assert {answer.reason for answer in answers.values() if isinstance(answer, Denied)} == {"breaker_open"}


def test_a_call_that_came_during_the_probe_waits_for_a_cooldown_of_its_own() -> None:
    """It has not waited for a whole cooldown when the probe fails, so it may probe next."""
    site = broken_site()
    site.wait(COOLDOWN_MS)
    probe = site.granted()
    late = site.parked()
    site.wait(SECOND)
    site.fail(probe)
    assert site.answers() == {}
    site.wait(COOLDOWN_MS)
    assert site.served() == [late]


def test_a_candidate_that_the_ledger_does_not_know_disturbs_nobody_who_waits() -> None:
    """A worker with a newer file asks for a service that the desk has not heard of, while the other one fails."""
    site = Site(config(services={"s": service(failures=2, cooldown_ms=COOLDOWN_MS)}))
    slow = site.granted()
    for _ in range(2):
        site.fail(site.granted())
    site.parked(candidate("ghost"), candidate("s"))
    answer = site.desk.handle(Settle(hold_id=slow.hold_id, cost_nanos=0, served=False), site.now_ms)
    assert answer.kind == "settled"
    site.desk.advance(site.now_ms)
    site.wait(COOLDOWN_MS)
    assert [answer.kind for answer in site.answers().values()] == ["granted"]


def test_a_probe_is_one_call_even_when_many_ask_at_the_same_time() -> None:
    """A hundred calls in the millisecond in which the cooldown ends: one grant."""
    site = broken_site()
    site.wait(COOLDOWN_MS)
    answers = [site.reserve() for _ in range(100)]
    assert sum(isinstance(answer, Granted) for answer in answers) == 1


def _state(site: Site) -> str:
    return site.desk.state.gates["s"].breaker.state(site.now_ms)


def _failures(site: Site) -> int:
    return site.desk.state.gates["s"].breaker.failures


def test_who_waited_for_a_cooldown_sleeps_during_a_probe() -> None:
    """It is denied only when no probe is left that may help it, and until then it is in nobody's way."""
    site = Site(config(services={"a": service(), "b": service(), "c": service(concurrent=1)}))
    for name in "ab":
        for _ in range(5):
            site.fail(site.granted(candidate(name)))
    held = site.granted(candidate("c"))
    for _ in range(3):
        site.parked(candidate("a"), candidate("b"))
    site.wait(31 * SECOND)
    probes = [answer.grant for answer in site.answers().values() if isinstance(answer, Granted)]
    assert [probe.service for probe in probes] == ["a", "b"]
    other = site.parked(candidate("c"))
    site.wait(10 * SECOND)
    site.fail(probes[0])
    site.settle(held, 1)
    assert list(site.answers()) == [other]
    assert site.desk.due_ms > site.now_ms + SECOND
    site.fail(probes[1])
    (denied,) = site.answers().values()
    assert isinstance(denied, Denied)
    assert denied.reason == "breaker_open"
