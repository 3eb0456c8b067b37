"""Runs: what one piece of an agent's work may take, with all that it starts."""

import pytest
from desk_kit import HOUR, MINUTE, NOON, USD, Site, candidate, capped, config

from paymaster.admission import books
from paymaster.admission.on_demand import FORGOTTEN_AFTER_MINUTES
from paymaster.messages import AccountConfig, AdminConfig, Denied, EndRun, LoadedSpend, RaiseRun, RunTerms, Window

IDLE = (FORGOTTEN_AFTER_MINUTES + 1) * MINUTE
RUN = "nightly@5f0c"


def terms(usd: int | None = None, calls: int | None = None, lasts_ms: int | None = None) -> RunTerms:
    return RunTerms(usd_nanos=None if usd is None else usd * USD, calls=calls, lasts_ms=lasts_ms)


def a_site(per_run: RunTerms | None = None, **budgets: AccountConfig) -> Site:
    acme = capped(day=1_000).model_copy(update={"per_run": per_run})
    return Site(config(budgets={"acme": acme, **budgets}))


def load(site: Site, posted: dict[str, dict[Window, int]] | None = None, **runs: tuple[int, int]) -> None:
    """The database answers; `runs` as in its answer, for the one run of these tests."""
    wanted = site.desk.to_load()
    assert wanted is not None
    of_run = {f"run:{RUN}": each for each in runs.values()}
    site.desk.loaded(LoadedSpend(number=wanted.number, posted_nanos=posted or {}, runs=of_run), site.now_ms)


def begun(site: Site, asked: RunTerms | None, run: str = RUN, usd: int = 1) -> str:
    """The hold id of the first call of a run, which has its grant."""
    hold_id = site.parked(candidate(usd=usd), run=run, run_terms=(asked,))
    while site.desk.to_load() is not None:
        load(site)
    assert site.served() == [hold_id]
    return hold_id


def test_a_run_spends_no_more_than_it_asked_for() -> None:
    site = a_site()
    first = begun(site, terms(usd=3))
    second = site.granted(candidate(usd=2), run=RUN)
    waiting = site.parked(candidate(usd=1), run=RUN)
    site.granted(candidate(usd=9), run="another@1")
    site.settle(first, 1)
    site.settle(second, 1)
    assert site.served() == [waiting]
    site.settle(waiting, 1)
    denied = site.denied(candidate(usd=1), run=RUN)
    assert denied.reason == "run_budget_exhausted"


def test_what_its_budget_allows_each_run_holds_for_every_run_below_it() -> None:
    site = a_site(terms(usd=2))
    begun(site, None, usd=2)
    begun(site, None, run="other@1", usd=2)
    site.parked(candidate(usd=1), run=RUN, budget="acme/deep/down")
    site.granted(candidate(usd=500))


def test_of_what_is_asked_and_what_is_allowed_the_lower_one_holds() -> None:
    site = a_site(terms(usd=5, calls=2))
    begun(site, terms(usd=3, calls=9))
    assert site.denied(candidate(usd=4), run=RUN).reason == "bound_above_cap"
    site.granted(candidate(usd=1), run=RUN)
    denied = site.denied(candidate(usd=1), run=RUN)
    assert denied.reason == "run_calls_exhausted"
    assert '--calls N --reason "…"` gives it more' in (denied.detail or "")


def test_a_run_that_comes_to_a_stricter_budget_is_bound_by_that_too() -> None:
    strict = capped(day=100).model_copy(update={"per_run": terms(usd=2)})
    site = a_site(terms(usd=5), strict=strict)
    begun(site, None, usd=2)
    site.granted(candidate(usd=1), run=RUN)
    assert site.denied(candidate(usd=3), run=RUN, budget="strict").reason == "bound_above_cap"
    assert site.denied(candidate(usd=3), run=RUN).reason == "bound_above_cap"


def test_commands_in_denials_are_signed_where_that_is_required() -> None:
    acme = capped(day=1_000).model_copy(update={"per_run": terms(calls=1)})
    signed = {"admin": AdminConfig(require_signature=True)}
    site = Site(config(budgets={"acme": acme}).model_copy(update=signed))
    begun(site, terms(usd=5))
    command = f'`paymaster runs raise {RUN} --calls N --reason "…" --sign-with FILE`'
    assert command in site.denied(run=RUN).detail
    differs = site.denied(run=RUN, run_terms=(terms(calls=2),))
    assert f"`paymaster runs raise {RUN} --sign-with FILE`" in differs.detail


def test_calls_are_counted_and_not_attempts() -> None:
    site = a_site()
    first = begun(site, terms(calls=2))
    site.settle(first, 0, served=False, failures=1)
    site.granted(run=RUN, granted_before=True)
    site.granted(run=RUN, granted_before=True)
    site.granted(run=RUN)
    assert site.denied(run=RUN).reason == "run_calls_exhausted"
    site.granted(run=RUN, granted_before=True)


def test_a_call_that_sent_nothing_is_not_counted() -> None:
    site = a_site()
    site.void(begun(site, terms(calls=1)))
    site.granted(run=RUN)
    assert site.denied(run=RUN).reason == "run_calls_exhausted"


def test_a_run_lasts_from_its_first_grant_on() -> None:
    site = a_site()
    hold_id = site.parked(run=RUN, run_terms=(terms(lasts_ms=2 * HOUR),))
    site.wait(HOUR)
    load(site)
    assert site.served() == [hold_id]
    site.wait(2 * HOUR - 1)
    site.granted(run=RUN)
    site.wait(1)
    assert site.denied(run=RUN, granted_before=True).reason == "run_time_over"


def test_a_part_counts_for_the_run_too() -> None:
    site = a_site()
    asked = (terms(usd=5), terms(usd=2))
    part = f"{RUN}/researcher"
    site.parked(candidate(usd=2), run=part, run_terms=asked)
    load(site)
    assert (site.pending(f"run:{part}", "total"), site.pending(f"run:{RUN}", "total")) == (2, 2)
    site.parked(candidate(usd=1), run=part, run_terms=asked)
    site.granted(candidate(usd=3), run=f"{RUN}/writer")
    site.parked(candidate(usd=1), run=RUN)


def test_other_limits_than_the_first_ones_are_refused_in_words() -> None:
    site = a_site()
    begun(site, terms(usd=3))
    refused = site.denied(run=RUN, run_terms=(terms(usd=4),))
    assert refused.reason == "run_limits_differ"
    assert "has had other limits since its first call" in refused.detail
    for way_out in ("for those again, or for none", "`name=`", "`run=`", f"`paymaster runs raise {RUN}`"):
        assert way_out in refused.detail
    site.granted(run=RUN, run_terms=(terms(usd=3),))


def test_limits_that_come_later_count_what_is_on_hold_and_what_was_spent() -> None:
    site = a_site()
    held = site.granted(candidate(usd=2), run=RUN)
    site.settle(site.granted(candidate(usd=2), run=RUN), 1)
    waiting = site.parked(candidate(usd=2), run=RUN, run_terms=(terms(usd=4, calls=4),))
    load(site, {f"run:{RUN}": {"total": USD}}, spent=(1, NOON - HOUR))
    assert site.served() == []
    assert site.pending(f"run:{RUN}", "total") == 2
    site.settle(held, 1)
    assert site.served() == [waiting]
    site.settle(waiting, 1)
    site.granted(run=RUN)
    assert site.denied(run=RUN).reason == "run_calls_exhausted"


def test_a_run_that_was_forgotten_comes_back_with_what_it_took() -> None:
    site = a_site(terms(usd=3, calls=2, lasts_ms=HOUR))
    site.settle(begun(site, None), 1)
    site.wait(IDLE)
    site.desk.advance(site.now_ms)
    assert f"run:{RUN}" not in site.desk.ledger.accounts
    site.parked(candidate(usd=2), run=RUN)
    load(site, {f"run:{RUN}": {"total": USD}}, spent=(1, NOON))
    assert len(site.served()) == 1
    assert site.denied(candidate(usd=0), run=RUN).reason == "run_calls_exhausted"
    site.wait(HOUR - IDLE)
    assert site.denied(run=RUN, granted_before=True).reason == "run_time_over"


def test_an_admin_gives_a_run_more() -> None:
    site = a_site()
    begun(site, terms(usd=1, calls=1, lasts_ms=HOUR))
    waiting = site.parked(run=RUN)
    site.desk.raise_run(RaiseRun(run=RUN, by="1", who="ada"), site.now_ms)
    assert site.answers() == {}
    state = site.desk.raise_run(RaiseRun(run=RUN, calls=1, lasts_ms=HOUR, who="ada"), site.now_ms)
    assert site.served() == [waiting]
    assert (state.cap_nanos, state.calls_max, state.ends_at_ms) == (2 * USD, 2, NOON + 2 * HOUR)
    assert [alert.text for alert in site.alerts("run_changed")] == [
        f"ada gave run {RUN} 1 USD more",
        f"ada gave run {RUN} 1 calls, 3600 s more",
    ]
    site.wait(IDLE)
    site.desk.advance(site.now_ms)
    assert f"run:{RUN}" in site.desk.ledger.accounts, "what an admin changed is not forgotten"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (RaiseRun(run="unknown", by="1"), "no limited run 'unknown'"),
        (RaiseRun(run=RUN), "at least one"),
        (RaiseRun(run=RUN, by="1"), "no cap"),
        (RaiseRun(run=RUN, lasts_ms=1), "time of run nightly@5f0c is not limited"),
    ],
)
def test_what_cannot_be_raised_is_refused_in_words(change: RaiseRun, why: str) -> None:
    site = a_site()
    begun(site, terms(calls=1))
    with pytest.raises(ValueError, match=why):
        site.desk.raise_run(change, site.now_ms)


@pytest.mark.parametrize("limited", [True, False])
def test_an_admin_ends_a_run(limited: bool) -> None:
    site = a_site()
    if limited:
        hold_id = begun(site, terms(usd=1))
        waiting = site.parked(run=RUN)
    else:
        hold_id, waiting = site.granted(run=RUN).hold_id, None
    state = site.desk.end_run(EndRun(run=RUN, who="ada", reason="it loops"), site.now_ms)
    assert state.ended_by == "ada (it loops)"
    assert site.withdrawn() == [hold_id]
    while site.desk.to_load() is not None:
        load(site)
    if waiting is not None:
        [denied] = site.answers().values()
        assert isinstance(denied, Denied)
        assert denied.reason == "run_ended"
    refused = site.denied(run=f"{RUN}/part")
    assert refused.reason == "run_ended"
    assert "was ended by ada" in refused.detail
    site.granted(run="other@1")


def test_a_part_that_is_used_up_does_not_hide_that_its_run_was_ended() -> None:
    site = a_site()
    part = f"{RUN}/researcher"
    site.parked(run=part, run_terms=(None, terms(calls=1)))
    load(site)
    waiting = site.parked(run=part)
    site.answers()
    site.desk.end_run(EndRun(run=RUN, who="ada"), site.now_ms)
    load(site)
    assert list(site.answers()) == [waiting]
    assert site.denied(run=part).reason == "run_ended"


def test_used_up_calls_do_not_hide_that_a_call_is_above_the_cap() -> None:
    site = a_site()
    begun(site, terms(usd=2, calls=1))
    assert site.denied(candidate(usd=3), run=RUN, mode="wait").reason == "bound_above_cap"


def test_more_time_wakes_a_call_that_had_a_grant_before() -> None:
    site = a_site()
    begun(site, terms(calls=1, lasts_ms=HOUR))
    site.wait(HOUR)
    waiting, later = site.parked(run=RUN, granted_before=True), site.parked(run=RUN)
    site.desk.raise_run(RaiseRun(run=RUN, lasts_ms=HOUR, who="ada"), site.now_ms)
    assert site.served() == [waiting]
    site.desk.raise_run(RaiseRun(run=RUN, calls=1, who="ada"), site.now_ms)
    assert site.served() == [later]


def test_limits_that_come_later_count_from_the_grant_on_hold() -> None:
    site = a_site()
    site.granted(run=RUN)
    site.wait(5 * MINUTE)
    site.parked(run=RUN, run_terms=(terms(lasts_ms=10 * MINUTE),))
    load(site)
    site.wait(5 * MINUTE)
    assert site.denied(run=RUN).reason == "run_time_over"


def test_the_limits_of_runs_follow_the_configuration() -> None:
    site = a_site(terms(usd=1))
    begun(site, None)
    waiting = site.parked(run=RUN)
    more = capped(day=1_000).model_copy(update={"per_run": terms(usd=2)})
    site.desk.configure(config("more", {"acme": more}), site.now_ms)
    assert site.served() == [waiting]


def test_a_run_without_limits_has_no_account() -> None:
    site = a_site()
    grant = site.granted(run=RUN)
    assert grant.run == RUN
    assert f"run:{RUN}" not in site.desk.ledger.accounts


def test_a_cut_changes_nothing_of_runs() -> None:
    site = a_site()
    begun(site, terms(usd=3, calls=3))
    site.parked(candidate(usd=3), run=f"{RUN}/part", run_terms=(None, terms(usd=3)))
    load(site)
    before = site.desk.dump()
    site.cut()
    assert site.desk.dump() == before
    [status] = [each for each in site.desk.status().accounts if each.account == f"run:{RUN}"]
    assert status.run is not None
    assert (status.run.calls, status.run.calls_max) == (1, 3)


def test_runs_of_a_watched_budget_are_only_watched_after_a_cut() -> None:
    acme = capped(day=1_000).model_copy(update={"per_run": terms(usd=2), "enforce": False})
    site = Site(config(budgets={"acme": acme}))
    begun(site, None, usd=2)
    site.cut()
    site.granted(candidate(usd=1), run=RUN)


def test_ledgers_with_the_first_rules_know_no_limits_of_runs() -> None:
    site = Site(rules=1)
    assert site.granted(run=RUN).run is None
    assert site.denied(run=RUN, run_terms=(terms(usd=1),)).reason == "bad_run"
    refused = site.desk.configure(
        config("more", {"acme": capped(day=10).model_copy(update={"per_run": terms(usd=1)})}), site.now_ms
    )
    assert "per_run" in refused.detail


def test_a_flood_of_runs_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "ACCOUNTS_MAX", 4)
    site = a_site(terms(usd=1))
    held = [begun(site, None, run=f"run{number}@1") for number in range(2)]
    flood = [site.parked(run=f"flood{number}@1") for number in range(3)]
    [told] = site.alerts("accounts_full")
    assert "run:flood0@1" in told.text
    for hold_id in held:
        site.settle(hold_id, 1)
    served: list[str] = []
    for _ in range(6):
        site.wait(2_000)
        while site.desk.to_load() is not None:
            load(site)
        for hold_id in site.served():
            served.append(hold_id)
            site.settle(hold_id, 1)
    assert served == flood


@pytest.mark.parametrize(
    ("run", "asked", "why"),
    [
        ("a\x00b", (), "neither a run's id nor the name of a part"),
        ("a//b", (), "neither a run's id nor the name of a part"),
        ("a" * 201, (), "at most 200 characters"),
        ("a/b", (None, None, terms(calls=1)), "asked for 3 levels of a run, and a/b has 2"),
    ],
)
def test_a_run_that_cannot_be_loaded_gets_no_account(run: str, asked: tuple[RunTerms | None, ...], why: str) -> None:
    site = a_site(terms(calls=5))
    denied = site.denied(run=run, run_terms=asked)
    assert denied.reason == "bad_run"
    assert why in denied.detail
    assert site.desk.to_load() is None


def test_no_more_runs_are_ended_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "ACCOUNTS_MAX", 5)
    site = a_site()
    begun(site, terms(calls=5), run="busy@1")
    site.settle(begun(site, terms(calls=5), run="idle@1"), 1)
    site.desk.end_run(EndRun(run="first@1", who="ada"), site.now_ms)
    site.desk.end_run(EndRun(run="second@1", who="ada"), site.now_ms)  # takes the place of the idle one
    site.wait(MINUTE)
    with pytest.raises(ValueError, match="none is idle"):
        site.desk.end_run(EndRun(run="third@1", who="ada"), site.now_ms)
    assert {key for key in site.desk.ledger.accounts if key.startswith("run:")} == {
        "run:busy@1",
        "run:first@1",
        "run:second@1",
    }


def test_configurations_do_not_keep_a_run_that_ended() -> None:
    site = a_site()
    site.desk.end_run(EndRun(run=RUN, who="ada"), site.now_ms)
    load(site)
    for number in range(8):
        site.wait(24 * HOUR)
        site.desk.configure(config(f"day {number}", {"acme": capped(day=1_000 + number)}), site.now_ms)
    site.desk.advance(site.now_ms)
    assert f"run:{RUN}" not in site.desk.ledger.accounts
