"""Runs that a budget renews: money and calls anew in each hour, day or week, and never more within one."""

import pytest
from desk_kit import HOUR, MINUTE, NOON, USD, Site, candidate, capped, config
from pydantic import ValidationError

from paymaster.admission.copying import as_of
from paymaster.admission.on_demand import FORGOTTEN_AFTER_MINUTES
from paymaster.messages import (
    AccountConfig,
    AccountStatus,
    AdminConfig,
    EndRun,
    LoadedSpend,
    RaiseRun,
    RunState,
    RunTerms,
    Window,
)
from paymaster.messages.bounds import check_command
from paymaster.settings.runs import PerRunSettings
from paymaster.values.time_zones import UTC_ZONE

IDLE = (FORGOTTEN_AFTER_MINUTES + 1) * MINUTE
RUN = "watcher@5f0c"
MIDNIGHT = NOON + 12 * HOUR
EVE = MIDNIGHT - MINUTE
"""Late enough that nobody forgets a run before it is renewed."""


def terms(usd: int | None = None, calls: int | None = None, renews: Window | None = None) -> RunTerms:
    return RunTerms(usd_nanos=None if usd is None else usd * USD, calls=calls, renews=renews)


def acme(per_run: RunTerms, **more: object) -> AccountConfig:
    return capped(day=1_000).model_copy(update={"per_run": per_run, **more})


def a_site(per_run: RunTerms, **budgets: AccountConfig) -> Site:
    return Site(config(budgets={"acme": acme(per_run), **budgets}), now_ms=EVE)


def load(
    site: Site,
    posted: dict[Window, int] | None = None,
    calls: int = 0,
    calls_in: dict[Window, int] | None = None,
    run: str = RUN,
) -> None:
    """The database answers what it has of the run."""
    wanted = site.desk.to_load()
    assert wanted is not None
    assert set(calls_in or {}) <= set(wanted.calls_in)
    key = f"run:{run}"
    spend = LoadedSpend(
        number=wanted.number,
        posted_nanos={key: posted or {}},
        runs={key: (calls, EVE)},
        run_calls={key: calls_in or {}},
    )
    site.desk.loaded(spend, site.now_ms)


def begun(site: Site, asked: tuple[RunTerms | None, ...] = (None,), run: str = RUN, usd: int = 1) -> str:
    hold_id = site.parked(candidate(usd=usd), run=run, run_terms=asked)
    while site.desk.to_load() is not None:
        load(site)
    assert site.served() == [hold_id]
    return hold_id


def status(site: Site, run: str = RUN) -> tuple[AccountStatus, RunState]:
    [found] = [each for each in site.desk.status(now_ms=site.now_ms).accounts if each.account == f"run:{run}"]
    assert found.run is not None
    return found, found.run


def test_a_run_that_goes_on_has_its_money_anew_each_day() -> None:
    site = a_site(terms(usd=5, renews="day"))
    for day in range(3):
        site.wait_until(EVE + 24 * HOUR * day)
        site.settle(begun(site, usd=5), 5)
        denied = site.denied(run=RUN)
        assert denied.reason == "run_budget_exhausted"
        assert "(day until " in denied.detail
        assert f"`paymaster runs raise {RUN} --by 1.00 " in denied.detail


def test_who_waits_for_money_of_the_run_is_woken_when_it_renews() -> None:
    site = a_site(terms(usd=5, renews="day"))
    site.settle(begun(site, usd=5), 5)
    waiting = site.parked(run=RUN)
    site.wait_until(MIDNIGHT - 1)
    assert site.served() == []
    site.wait_until(MIDNIGHT)
    assert site.served() == [waiting]


@pytest.mark.parametrize("cut", [False, True])
def test_who_waits_for_calls_of_the_run_is_woken_when_it_renews(cut: bool) -> None:
    site = a_site(terms(calls=2, renews="hour"))
    begun(site)
    site.granted(run=RUN)
    waiting = [site.parked(run=RUN) for _ in range(3)]
    if cut:
        site.cut()
    site.wait_until(MIDNIGHT - 1)
    assert site.served() == []
    site.wait_until(MIDNIGHT)
    assert site.served() == waiting[:2]
    site.wait_until(MIDNIGHT + HOUR)
    assert site.served() == waiting[2:]


def test_calls_of_the_period_are_denied_in_words() -> None:
    site = a_site(terms(calls=1, renews="hour"))
    begun(site)
    denied = site.denied(run=RUN)
    assert denied.reason == "run_calls_exhausted"
    assert "has used up the 1 calls of this hour" in denied.detail
    assert f"runs raise {RUN} --calls N" in denied.detail
    assert denied.detail.endswith("and at 2027-03-11 00:00:00 UTC it has calls anew")


def test_a_hold_stays_in_the_period_in_which_it_was_granted() -> None:
    site = a_site(terms(usd=5, calls=2, renews="day"))
    late = begun(site, usd=5)
    site.wait_until(MIDNIGHT)
    assert (site.pending(f"run:{RUN}", "day"), site.pending(f"run:{RUN}", "total")) == (0, 5)
    site.granted(candidate(usd=5), run=RUN)
    site.void(late)  # its call was one of yesterday
    site.granted(candidate(usd=0), run=RUN)
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"


def test_what_was_not_sent_in_this_period_is_no_call_of_it() -> None:
    site = a_site(terms(calls=1, renews="day"))
    site.void(begun(site))
    site.granted(run=RUN)
    site.denied(run=RUN)


def test_what_code_asks_for_less_is_renewed_too() -> None:
    site = a_site(terms(usd=5, renews="day"))
    asked = (terms(usd=3, calls=2),)
    site.settle(begun(site, asked, usd=3), 3)
    site.denied(run=RUN)
    site.wait_until(MIDNIGHT)
    site.settle(site.granted(candidate(usd=3), run=RUN, run_terms=asked), 0)
    site.granted(run=RUN)
    assert site.denied(run=RUN).reason == "run_calls_exhausted"


def test_a_part_is_renewed_with_its_run() -> None:
    site, part = a_site(terms(usd=5, renews="day")), f"{RUN}/critic"
    asked = (None, terms(usd=2, calls=9))
    hold_id = begun(site, asked, run=part, usd=2)
    site.settle(hold_id, 2)
    assert site.denied(run=part, run_terms=asked).reason == "run_budget_exhausted"
    site.granted(candidate(usd=3), run=RUN)
    site.wait_until(MIDNIGHT)
    site.granted(candidate(usd=2), run=part, run_terms=asked)
    site.parked(run=part, run_terms=asked)


def test_time_is_not_renewed() -> None:
    site = a_site(terms(usd=5, renews="hour"))
    begun(site, (RunTerms(lasts_ms=2 * HOUR),))
    site.wait(2 * HOUR - 1)
    site.granted(run=RUN)
    site.wait(1)
    assert site.denied(run=RUN, granted_before=True).reason == "run_time_over"


def test_what_one_budget_renews_is_bound_by_one_that_does_not() -> None:
    site = a_site(terms(usd=7, calls=3), **{"acme/agents": acme(terms(usd=5, calls=2, renews="day"))})
    site.settle(begun_below(site), 5)
    site.wait_until(MIDNIGHT)
    site.settle(site.granted(candidate(usd=2), run=RUN, budget="acme/agents"), 2)
    assert site.denied(run=RUN, budget="acme/agents").reason == "run_budget_exhausted"
    site.granted(candidate(usd=0), run=RUN, budget="acme/agents")
    site.wait(24 * HOUR)
    assert "has used up 3 calls;" in site.denied(candidate(usd=0), run=RUN, budget="acme/agents").detail


def begun_below(site: Site) -> str:
    hold_id = site.parked(candidate(usd=5), run=RUN, budget="acme/agents")
    load(site)
    assert site.served() == [hold_id]
    return hold_id


def test_a_renewed_run_that_was_forgotten_is_what_it_was() -> None:
    site = a_site(terms(usd=5, calls=2, renews="day"))
    site.settle(begun(site), 1)
    site.wait(IDLE)
    site.desk.advance(site.now_ms)
    assert f"run:{RUN}" not in site.desk.ledger.accounts
    site.parked(candidate(usd=4), run=RUN)
    load(site, {"day": USD, "total": 9 * USD}, calls=7, calls_in={"day": 1})
    assert len(site.served()) == 1
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"


def test_a_window_that_ends_while_read_begins_with_no_calls() -> None:
    site = a_site(terms(calls=1, renews="day"))
    site.wait_until(MIDNIGHT - 1)
    waiting = site.parked(run=RUN)
    wanted = site.desk.to_load()
    assert wanted is not None
    site.wait_until(MIDNIGHT)
    load(site, calls=1, calls_in={"day": 1})
    assert site.served() == [waiting]


def test_what_is_stored_counts_when_a_budget_begins_to_renew() -> None:
    site = a_site(terms(usd=9, calls=9))
    site.settle(begun(site), 1)
    held = site.granted(run=RUN)
    site.desk.configure(config("renewed", {"acme": acme(terms(usd=5, calls=3, renews="day"))}), site.now_ms)
    waiting = site.parked(candidate(usd=3), run=RUN)
    load(site, {"day": USD, "total": USD}, calls=1, calls_in={"day": 1})
    assert site.served() == [waiting]
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"
    site.settle(held, 1)
    site.desk.configure(config("not renewed", {"acme": acme(terms(usd=9, calls=4))}), site.now_ms, may_remove=True)
    site.granted(run=RUN)
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"


def test_an_admins_raise_is_of_the_open_period_alone() -> None:
    site = a_site(terms(usd=5, calls=1, renews="day"))
    begun(site, usd=5)
    waiting = site.parked(run=RUN)
    site.desk.raise_run(RaiseRun(run=RUN, by="1", who="ada"), site.now_ms)
    raised = site.desk.raise_run(RaiseRun(run=RUN, calls=1, who="ada"), site.now_ms)
    assert site.served() == [waiting]
    assert (raised.cap_nanos, raised.calls_max, raised.renews, raised.renews_at_ms) == (6 * USD, 2, "day", MIDNIGHT)
    account, _ = status(site)
    copied_at_ms = site.now_ms
    site.now_ms = MIDNIGHT
    later = as_of(account, copied_at_ms, MIDNIGHT, UTC_ZONE)
    assert later == status(site)[0], "what a reader counts is what the ledger says"
    assert later.run is not None
    assert (later.run.cap_nanos, later.run.calls, later.run.calls_max) == (5 * USD, 0, 1)
    site.granted(candidate(usd=5), run=RUN)
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"


def test_one_command_raises_a_run_with_two_caps() -> None:
    site = a_site(terms(usd=2), **{"acme/agents": acme(terms(usd=1, renews="day"))})
    hold_id = site.parked(candidate(usd=1), run=RUN, budget="acme/agents")
    load(site)
    assert site.served() == [hold_id]
    detail = site.denied(candidate(usd=2), run=RUN, budget="acme/agents", mode="wait").detail
    assert detail.count("runs raise") == 1
    assert f"`paymaster runs raise {RUN} --by 2.00 " in detail
    site.desk.raise_run(RaiseRun(run=RUN, by="2", who="ada"), site.now_ms)
    site.granted(candidate(usd=2), run=RUN, budget="acme/agents")


def test_an_ended_run_stays_ended_when_it_would_renew() -> None:
    site = a_site(terms(usd=5, renews="hour"))
    begun(site)
    site.desk.end_run(EndRun(run=RUN, who="ada"), site.now_ms)
    site.wait(3 * HOUR)
    assert site.denied(run=RUN).reason == "run_ended"


def test_a_cut_changes_nothing_of_renewed_runs() -> None:
    site = a_site(terms(usd=5, calls=3, renews="week"))
    begun(site)
    before = site.desk.dump()
    site.cut()
    assert site.desk.dump() == before
    account, run = status(site)
    assert (run.calls, run.calls_max, run.renews) == (1, 3, "week")
    assert [each.window for each in account.windows if each.cap_nanos is not None] == ["week"]


def test_a_watched_budget_renews_what_it_only_watches() -> None:
    site = Site(config(budgets={"acme": acme(terms(usd=2, renews="hour"), enforce=False)}))
    begun(site, usd=2)
    site.granted(candidate(usd=2), run=RUN)
    assert status(site)[0].windows[0].let_through == 1


def test_that_a_budget_renews_runs_is_said_and_signed() -> None:
    site = a_site(terms(usd=5))
    renewed = config("renewed", {"acme": acme(terms(usd=5, renews="day"))})
    site.desk.configure(renewed, site.now_ms)
    assert "acme per run $5.00 → $5.00, anew each day" in site.alerts("config_changed")[-1].text
    strict = renewed.model_copy(update={"admin": AdminConfig(require_signature=True), "digest": "strict"})
    signed = Site(strict)
    weekly = strict.model_copy(update={"budgets": {"acme": acme(terms(usd=5, renews="week"))}, "digest": "weekly"})
    signed.desk.configure(weekly, signed.now_ms)
    assert signed.desk.configuration().config.budgets["acme"].per_run == terms(usd=5, renews="day")


def test_code_cannot_ask_to_be_renewed() -> None:
    asked = Site().request(run=RUN, run_terms=(terms(usd=1, renews="hour"),))
    with pytest.raises(ValueError, match="only what a budget allows each run is renewed"):
        check_command(asked)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"usd": "5", "renews": "1d", "lasts": "2h"}, "goes on for ever"),
        ({"renews": "1d"}, "none of `usd`, `calls` and `lasts`"),
        ({"usd": "5", "renews": "2d"}, "'1h', '1d' or '1w'"),
    ],
)
def test_what_makes_no_sense_of_renewing_is_refused(table: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PerRunSettings.model_validate(table)
