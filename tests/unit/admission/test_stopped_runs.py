"""Runs that admins ended, or that are held: they have a share of the accounts, and are in nobody's way."""

from collections import Counter

import pytest
from desk_kit import DAY, MINUTE, Site, capped, config
from hypothesis import given, settings
from hypothesis import strategies as st

from paymaster.admission import books, on_demand
from paymaster.messages import AskStanding, EndRun, RunawayTerms, RunTerms, StandingAnswer

KEPT = 4
NAMES = 6
ROOM = 10
"""For accounts: `acme`, `s` and eight others, of which four may be of runs that were stopped."""


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "ACCOUNTS_MAX", ROOM)
    monkeypatch.setattr(on_demand, "RUNS_KEPT_MAX", KEPT)
    monkeypatch.setattr(on_demand, "ENDED_RUNS_MAX", NAMES)


def a_site() -> Site:
    """Each run may make 50 calls, of which two may ask for the same thing."""
    acme = capped(day=1_000).model_copy(
        update={"per_run": RunTerms(calls=50), "runaway": RunawayTerms(identical_calls=2)}
    )
    return Site(config(budgets={"acme": acme}))


def load(site: Site) -> None:
    while site.desk.to_load() is not None:
        site.load()


def end(site: Site, run: str) -> None:
    site.desk.end_run(EndRun(run=run, who="ada"), site.now_ms)
    load(site)


def begun(site: Site, run: str) -> str:
    """The hold id of the first call of a run."""
    hold_id = site.parked(run=run)
    load(site)
    assert site.served() == [hold_id]
    return hold_id


def hold_as_runaway(site: Site, run: str, wait_ms: int) -> None:
    site.settle(begun(site, run), 0)
    for _ in range(2):
        site.settle(site.granted(run=run, digest="again"), 0)
    site.parked(run=run, digest="again", wait_ms=wait_ms)


def runs(site: Site) -> set[str]:
    return {key.removeprefix("run:") for key in site.desk.ledger.accounts if key.startswith("run:")}


def test_a_flood_of_ended_runs_leaves_room_for_others() -> None:
    site = a_site()
    held = begun(site, "busy@1")
    for number in range(10):
        end(site, f"ended@{number}")
    begun(site, "new@1")
    assert site.alerts("accounts_full") == []
    for number in range(10):
        assert site.denied(run=f"ended@{number}/part").reason == "run_ended"
    site.settle(held, 1)


def test_what_ends_while_nothing_can_be_read_is_known_by_name() -> None:
    site = a_site()
    for number in range(ROOM):
        site.desk.end_run(EndRun(run=f"ended@{number}", who="ada"), site.now_ms)
    assert len(runs(site)) == KEPT
    assert "ended by an admin" in site.denied(run=f"ended@{ROOM - 1}").detail


@pytest.mark.parametrize("others", [0, KEPT])
def test_what_is_left_of_an_ended_run_is_nothing(others: int) -> None:
    """Whether it has an account or is known by name."""
    site = a_site()
    end(site, "old@1")
    for number in range(others):
        end(site, f"ended@{number}")
    assert ("old@1" in runs(site)) == (others == 0)
    answer = site.desk.handle(AskStanding(budget="acme", run="old@1/part"), site.now_ms)
    assert isinstance(answer, StandingAnswer)
    assert not answer.passing
    assert "run:old@1 was ended by " in answer.unknown
    answer = site.desk.handle(AskStanding(budget="acme", run="new@1"), site.now_ms)
    assert isinstance(answer, StandingAnswer)
    assert answer.standing is not None


def test_a_run_that_is_known_by_name_gives_back_its_grants() -> None:
    site = Site()
    hold_id = site.granted(run="last@1").hold_id
    for number in range(KEPT):
        site.desk.end_run(EndRun(run=f"ended@{number}", who="ada"), site.now_ms)
    state = site.desk.end_run(EndRun(run="last@1", who="ada"), site.now_ms)
    assert state.ended_by == "ada"
    assert site.withdrawn() == [hold_id]
    assert site.denied(run="last@1").reason == "run_ended"


def test_ended_runs_that_hold_money_stay() -> None:
    site = a_site()
    holds = {run: begun(site, run) for run in ("one@1", "two@1", "three@1", "four@1", "five@1")}
    for run in holds:
        end(site, run)
    for number in range(10):
        end(site, f"ended@{number}")
    assert runs(site) == {*holds}
    for hold_id in holds.values():
        site.settle(hold_id, 1)
    end(site, "last@1")
    assert len(runs(site)) == KEPT


def test_ended_runs_make_room_before_held_ones() -> None:
    site = a_site()
    hold_as_runaway(site, "held@1", wait_ms=MINUTE)
    site.wait(2 * MINUTE)
    site.answers()
    for number in range(10):
        end(site, f"ended@{number}")
    assert "held@1" in runs(site)


def test_the_oldest_held_run_makes_room_and_is_told() -> None:
    site = a_site()
    for number in range(KEPT + 1):
        hold_as_runaway(site, f"held@{number}", wait_ms=MINUTE)
        site.wait(2 * MINUTE)
        site.answers()
    assert runs(site) == {f"held@{number}" for number in range(1, KEPT + 1)}
    [told] = [alert for alert in site.alerts("runaway") if "held no more" in alert.text]
    assert told.account == "run:held@0"
    assert "`paymaster runs end held@0`" in told.text


def test_a_held_run_of_which_a_call_waits_stays() -> None:
    site = a_site()
    hold_as_runaway(site, "held@0", wait_ms=DAY)
    for number in range(1, KEPT + 2):
        site.wait(2 * MINUTE)
        site.answers()
        hold_as_runaway(site, f"held@{number}", wait_ms=MINUTE)
    assert "held@0" in runs(site)


def test_names_of_ended_runs_go_after_a_week_or_when_too_many() -> None:
    site = a_site()
    for number in range(KEPT + NAMES + 2):
        end(site, f"ended@{number}")
        site.wait(MINUTE)
    assert len(site.desk.state.ended_runs) == NAMES
    assert "ended@0" not in site.desk.state.ended_runs
    before = site.desk.dump()
    site.cut()
    assert site.desk.dump() == before
    site.wait(7 * DAY)
    site.desk.advance(site.now_ms)
    assert site.desk.state.ended_runs == {}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["end", "begin", "settle", "wait"]), st.integers(0, 12)), max_size=60))
def test_whatever_is_ended_nobody_waits_for_room(steps: list[tuple[str, int]]) -> None:
    """With no more runs under way than there is room for beside the share of those that were stopped."""
    site, holds = a_site(), dict[str, str]()
    ended: set[str] = set()
    for what, number in steps:
        run = f"run@{number}"
        if what == "end":
            end(site, run)
            ended.add(run)
        elif what == "begin" and run not in holds and len(holds) < ROOM - 2 - KEPT and run not in ended:
            hold_id = site.parked(run=run) if run not in runs(site) else site.granted(run=run).hold_id
            holds[run] = hold_id
            load(site)
            site.answers()
        elif what == "settle" and run in holds:
            site.settle(holds.pop(run), 1)
        else:
            site.wait(MINUTE)
        assert site.alerts("accounts_full") == []
        assert runs(site) >= holds.keys(), "what holds money was pushed out"
        kept = Counter(run in ended for run in runs(site) if run not in holds)
        assert kept[True] <= KEPT
    for run in ended & {*runs(site), *site.desk.state.ended_runs}:
        assert site.denied(run=run).reason == "run_ended"
