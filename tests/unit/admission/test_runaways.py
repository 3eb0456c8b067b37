"""Runaways: a run that does what an agent in a loop does is held until an admin lets it go on or ends it."""

import pytest
from desk_kit import HOUR, MINUTE, USD, Site, candidate, capped, config

from paymaster.admission.clock import BEHIND_FOR_MS
from paymaster.admission.pressure import estimated_bytes, relieve
from paymaster.admission.runs import DIGESTS_MAX
from paymaster.messages import Denied, EndRun, ResumeRun, RunawayTerms, RunTerms

RUN = "nightly@5f0c"
LOOP = RunawayTerms(identical_calls=3)


def a_site(runaway: RunawayTerms = LOOP, *, enforce: bool = True, per_run: RunTerms | None = None) -> Site:
    acme = capped(day=1_000).model_copy(update={"runaway": runaway, "enforce": enforce, "per_run": per_run})
    return Site(config(budgets={"acme": acme}))


def first_call(site: Site, run: str = RUN, digest: str = "first") -> None:
    hold_id = site.parked(run=run, digest=digest)
    site.load()
    assert site.served() == [hold_id]
    site.settle(hold_id, 1)


def call(site: Site, digest: str, run: str = RUN) -> None:
    site.settle(site.granted(run=run, digest=digest), 1)


def test_a_run_that_repeats_one_call_is_held_at_the_number() -> None:
    site = a_site()
    first_call(site)
    for _ in range(3):
        call(site, "again")
    waiting = [site.parked(run=RUN, digest="again") for _ in range(3)]
    other = site.parked(run=RUN, digest="other")
    [told] = site.alerts("runaway")
    assert "run nightly@5f0c is held: it has asked 3 times for the same thing" in told.text
    assert "`paymaster runs resume nightly@5f0c`" in told.text
    site.wait(HOUR)
    assert site.answers() == {}
    state = site.desk.resume_run(ResumeRun(run=RUN, who="ada"), site.now_ms)
    assert state.held == ""
    assert site.served() == [*waiting[:3], other]


def test_other_runs_go_on() -> None:
    site = a_site()
    first_call(site)
    for _ in range(3):
        call(site, "again")
    site.parked(run=RUN, digest="again")
    first_call(site, "other@1", "again")
    call(site, "again", "other@1")
    site.granted()


def test_a_held_run_is_ended_by_the_command_in_the_alert() -> None:
    site = a_site()
    first_call(site)
    for _ in range(3):
        call(site, "again")
    site.parked(run=RUN, digest="again", wait_ms=24 * HOUR)
    site.desk.end_run(EndRun(run=RUN, who="ada"), site.now_ms)
    [denied] = site.answers().values()
    assert isinstance(denied, Denied)
    assert denied.reason == "run_ended"


def test_further_attempts_of_a_call_do_not_count() -> None:
    site = a_site()
    first_call(site, digest="again")
    for _ in range(5):
        site.settle(site.granted(run=RUN, digest="again", granted_before=True), 0)
    call(site, "again")
    call(site, "again")
    site.parked(run=RUN, digest="again")
    site.parked(run=RUN, digest="again", granted_before=True)


def test_calls_in_a_minute() -> None:
    site = a_site(RunawayTerms(calls_per_minute=3))
    first_call(site)
    call(site, "a")
    call(site, "b")
    site.wait(MINUTE)
    for digest in "cde":
        call(site, digest)
    site.parked(run=RUN, digest="f")
    assert "made 3 calls in a minute" in site.alerts("runaway")[0].text
    site.wait(MINUTE)
    assert site.answers() == {}, "a minute later it is still held"


def test_calls_of_a_minute_that_a_clock_was_ahead_by_count_now() -> None:
    site = a_site(RunawayTerms(calls_per_minute=3))
    first_call(site)
    site.wait(8 * MINUTE)
    call(site, "a")
    call(site, "b")
    site.cut()
    site.now_ms -= 7 * MINUTE
    site.desk.advance(site.now_ms)
    site.now_ms += BEHIND_FOR_MS
    site.desk.advance(site.now_ms)
    while site.desk.to_load() is not None:
        site.load()
    call(site, "c")
    site.parked(run=RUN, digest="d")


def test_money_in_a_minute() -> None:
    site = a_site(RunawayTerms(usd_nanos_per_minute=5 * USD))
    first_call(site)
    site.settle(site.granted(candidate(usd=4), run=RUN), 3)
    call(site, "a")
    site.parked(run=RUN)
    assert "spent $5.00 in a minute" in site.alerts("runaway")[0].text


def test_one_that_is_watched_only_goes_on_and_is_told_once() -> None:
    site = a_site(enforce=False, per_run=RunTerms(usd_nanos=USD, calls=1))
    first_call(site)
    for _ in range(6):
        call(site, "again")
    [told] = [alert for alert in site.alerts("watched") if "runaway" in alert.text or "would be held" in alert.text]
    assert "asked 3 times for the same thing" in told.text


def test_its_memory_is_bounded() -> None:
    site = a_site()
    first_call(site)
    for number in range(3 * DIGESTS_MAX):
        call(site, f"digest {number}")
    run = site.desk.ledger.accounts[f"run:{RUN}"].run
    assert run is not None
    assert len(run.asked_for) == DIGESTS_MAX


def test_a_cut_desk_holds_it_too() -> None:
    site = a_site()
    first_call(site)
    for _ in range(3):
        call(site, "again")
    before = site.desk.dump()
    site.cut()
    assert site.desk.dump() == before
    site.parked(run=RUN, digest="again")
    site.cut()
    site.parked(run=RUN, digest="other")
    assert len(site.alerts("runaway")) == 1


def test_only_a_held_run_is_let_go_on() -> None:
    site = a_site()
    first_call(site)
    with pytest.raises(ValueError, match="is not held"):
        site.desk.resume_run(ResumeRun(run=RUN), site.now_ms)


def test_where_there_is_no_room_what_was_asked_once_is_forgotten() -> None:
    site = a_site()
    first_call(site)
    call(site, "twice")
    call(site, "twice")
    assert relieve(site.desk.state, 1) == 0  # which accounts changed since a copy, which costs nobody anything
    before = estimated_bytes(site.desk.state)
    assert relieve(site.desk.state, 1) == 0
    assert estimated_bytes(site.desk.state) < before
    run = site.desk.ledger.accounts[f"run:{RUN}"].run
    assert run is not None
    assert run.asked_for == {"twice": 2}
