"""Alerts: what an admin or operator is told, and that each thing is told once."""

import pytest
from desk_kit import DAY, HOUR, MINUTE, NOON, SECOND, Site, at, candidate, capped, config, service, usd_caps

from paymaster.admission.caps import CHANGES_TOLD_MAX
from paymaster.admission.signed_commands import utc
from paymaster.messages import (
    AccountConfig,
    Alert,
    Delivery,
    PauseService,
    RaiseCap,
    ResumeService,
    SetCap,
    Settle,
    UnsetCap,
)
from paymaster.values.limits import ALERTS_MAX, ONCE_MAX


def watched(*parts: float, **caps: int) -> AccountConfig:
    return AccountConfig(caps_nanos=usd_caps(**caps), alert_at=parts)


def spend(site: Site, usd: float, budget: str = "acme") -> tuple[float, ...]:
    """The thresholds that the settlement's answer says were crossed."""
    settled = site.settle(site.granted(candidate(usd=int(usd) + 1), budget=budget), usd)
    return tuple(part for notice in settled.notices for part in notice.crossed)


# ---------------------------------------------------------------- thresholds


def test_each_threshold_alerts_once_when_posted_money_reaches_it() -> None:
    """Half and four fifths of $100: at exactly $50 and $80, not before, and not again."""
    site = Site(config(budgets={"acme": watched(0.5, 0.8, day=100)}))
    crossed = [spend(site, usd) for usd in (49.999999999, 0.000000001, 29, 1, 10)]
    assert crossed == [(), (0.5,), (), (0.8,), ()]
    assert [alert.text for alert in site.alerts()] == [
        "acme has spent 50% of its day cap: $50.00 of $100.00 until 2027-03-11 00:00:00 UTC",
        "acme has spent 80% of its day cap: $80.00 of $100.00 until 2027-03-11 00:00:00 UTC",
    ]
    assert {(alert.account, alert.window, alert.at_ms) for alert in site.alerts()} == {("budget:acme", "day", NOON)}


def test_money_on_hold_reaches_no_threshold() -> None:
    """Only what was spent counts: with $90 on hold and $1 spent nobody is alerted, nor when the hold is voided."""
    site = Site(config(budgets={"acme": watched(0.5, day=100)}))
    held = site.granted(candidate(usd=90))
    assert spend(site, 1) == ()
    site.void(held)
    assert site.alerts() == []


def test_thresholds_reached_together_are_one_alert_for_each_cap() -> None:
    """Of several windows and accounts; it names the highest of them, and none of the others is told later."""
    budgets = {"acme": watched(0.5, 0.8, day=10, total=10), "acme/team": watched(0.9, month=10)}
    site = Site(config(budgets=budgets))
    spend(site, 9, "acme/team")
    told = {(alert.account, alert.window, alert.text.split(" of ")[0]) for alert in site.alerts("threshold")}
    assert told == {
        ("budget:acme", "day", "acme has spent 80%"),
        ("budget:acme", "total", "acme has spent 80%"),
        ("budget:acme/team", "month", "acme/team has spent 90%"),
    }
    spend(site, 0, "acme/team")
    assert len(site.alerts("threshold")) == 3


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        (10, "acme has used up its day cap: $10.00 of $10.00 until"),
        (10.031856, "acme is over its day cap: $10.03 of $10.00 until"),
    ],
)
def test_a_cap_that_is_used_up_is_not_called_a_part_of_it(usd: float, said: str) -> None:
    """Whatever part it is told at, with the command that raises it."""
    site = Site(config(budgets={"acme": watched(0.5, day=10)}))
    site.settle(site.granted(candidate(usd=10)), usd)
    [alert] = site.alerts("threshold")
    assert alert.text.startswith(said)
    assert "`paymaster budget raise acme --window day --by USD --reason …`" in alert.text


def test_a_threshold_alerts_again_in_the_next_window() -> None:
    """Every day once; `total` once for ever."""
    site = Site(config(budgets={"acme": watched(0.5, day=10, total=100)}))
    for day in range(12):
        spend(site, 5)
        site.wait_until(at(2027, 3, 11 + day))
    days = [alert.window for alert in site.alerts("threshold")]
    assert (days.count("day"), days.count("total")) == (12, 1)


def test_a_raised_cap_arms_the_thresholds_that_are_not_reached_any_more() -> None:
    """$50 of $60 had reached 0.5 and 0.8; of $90 only 0.5: 0.8 alerts again when it is reached again."""
    site = Site(config(budgets={"acme": watched(0.5, 0.8, day=60)}))
    assert spend(site, 50) == (0.5, 0.8)
    site.raise_cap("30")
    assert spend(site, 1) == ()
    assert spend(site, 21) == (0.8,)


def test_a_lowered_cap_alerts_with_the_next_money_that_is_spent() -> None:
    """$40 of $100 had reached nothing, and of $50 are four fifths. The change itself is told as one."""
    site = Site(config(budgets={"acme": watched(0.5, 0.8, day=100)}))
    assert spend(site, 40) == ()
    site.set_cap("50")
    assert len(site.alerts("cap_changed")) == 1
    assert site.alerts("threshold") == []
    assert spend(site, 1) == (0.5, 0.8)
    assert [alert.text.split(":")[0] for alert in site.alerts("threshold")] == ["acme has spent 80% of its day cap"]


def test_a_correction_downwards_alerts_nobody_twice() -> None:
    """An unconfirmed $9 reach the threshold; corrected to $1 and spent again, it is the same window."""
    site = Site(config(budgets={"acme": watched(0.5, day=10)}))
    lost = site.granted(candidate(usd=9))
    site.settle(lost, 9, confirmed=False)
    site.settle(lost, 1)
    assert spend(site, 8) == ()
    assert len(site.alerts("threshold")) == 1


def test_a_threshold_of_a_third_is_exact() -> None:
    """What counts is the number that is written in the configuration, not the nearest binary fraction."""
    site = Site(config(budgets={"acme": watched(0.07, 0.29, 0.57, day=100)}))
    assert [spend(site, usd) for usd in (7, 22, 28)] == [(0.07,), (0.29,), (0.57,)]


def test_what_was_alerted_survives_a_cut() -> None:
    """Continue-as-new tells nobody anything twice."""
    site = Site(config(budgets={"acme": watched(0.5, day=10)}))
    spend(site, 5)
    site.parked(candidate(usd=9))
    before = [alert.what for alert in site.alerts()]
    site.cut()
    spend(site, 1)
    site.parked(candidate(usd=9))
    assert [alert.what for alert in site.alerts()] == before == ["threshold", "parked"]


# ---------------------------------------------------------------- exhausted, parked


def test_exhausted_and_parked_are_told_once_per_window() -> None:
    """However many calls are denied and parked; again tomorrow; again after a raise that was used up too."""
    site = Site(config(budgets={"acme": capped(day=10)}))

    def exhaust() -> None:
        for _ in range(3):
            site.denied(candidate(usd=10))
        calls = [site.parked(candidate(usd=10)) for _ in range(3)]
        for call in calls:
            site.void(call)

    spend(site, 9)
    exhaust()
    assert [(a.what, a.account, a.window) for a in site.alerts()] == [
        ("exhausted", "budget:acme", "day"),
        ("parked", "budget:acme", "day"),
    ]
    site.new_alerts()
    site.raise_cap("1")
    spend(site, 1)
    exhaust()
    assert site.new_alerts() == ["cap_changed", "exhausted", "parked"]
    site.wait(12 * HOUR)
    spend(site, 9)
    exhaust()
    assert site.new_alerts() == ["exhausted", "parked"]


def test_denied_calls_alone_park_nobody() -> None:
    """`exhausted` without `parked`, and for a call that waits for a hold neither of them."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    grant = site.granted(candidate(usd=9))
    waiting = site.parked(candidate(usd=2))
    assert site.alerts() == []
    site.void(waiting)
    site.settle(grant, 9)
    site.denied(candidate(usd=2))
    assert site.new_alerts() == ["exhausted"]


def test_an_admin_hears_of_it_when_the_money_that_calls_wait_for_turns_out_to_be_spent() -> None:
    """The call was parked for money on hold, and nobody else calls: the wait for an admin begins with the bill."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    grant = site.granted(candidate(usd=9))
    site.parked(candidate(usd=2))
    site.settle(grant, 9)
    assert site.new_alerts() == ["parked"]


def test_a_call_that_waits_for_a_cap_is_one_alert_that_says_all() -> None:
    """How many wait, for how much, until when, and what to type, which lets the call pass."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    spend(site, 9)
    waiting = site.parked(candidate(usd=4))
    [alert] = site.alerts()
    deadline = utc(site.desk.state.parked[waiting].reserve.deadline_at_ms)
    assert (alert.what, alert.text) == (
        "parked",
        "1 call waits for acme: $9.00 of $10.00 of its day cap until 2027-03-11 00:00:00 UTC; the first is denied at "
        f'{deadline}. To let it pass: `paymaster budget raise acme --window day --by 3.00 --reason "…"`',
    )
    site.raise_cap("3")
    assert site.served() == [waiting]


def test_an_alert_of_a_used_up_cap_has_a_command_and_a_time() -> None:
    site = Site(config(budgets={"acme": capped(day=10)}))
    spend(site, 9)
    site.denied(candidate(usd=4))
    [alert] = site.alerts("exhausted")
    assert alert.text.endswith(
        "; the cap stands until 2027-03-11 00:00:00 UTC, or "
        "`paymaster budget raise acme --window day --by USD --reason …`"
    )


def test_what_admins_change_is_told() -> None:
    """Who, what, from what to what, and why; each once."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    by = {"account": "budget:acme", "window": "day", "who": "ada", "reason": "launch"}
    site.desk.raise_cap(RaiseCap.model_validate({**by, "by": "2", "until_window_end": True}), site.now_ms)
    site.desk.set_cap(SetCap.model_validate({**by, "to": "5"}), site.now_ms)
    site.desk.unset_cap(UnsetCap.model_validate(by), site.now_ms)
    site.desk.pause_service(PauseService(service="s", who="ada", reason="incident 4711"), site.now_ms)
    resumed = site.desk.resume_service(ResumeService(service="s", who="bob"), site.now_ms)
    assert [(alert.what, alert.text) for alert in site.alerts()] == [
        ("cap_changed", "ada (launch) changed the day cap of acme: $10.00 → $12.00, until the window ends"),
        ("cap_changed", "ada (launch) changed the day cap of acme: $12.00 → $5.00"),
        ("cap_changed", "ada (launch) changed the day cap of acme: $5.00 → $10.00"),
        (
            "service_changed",
            "ada (incident 4711) paused s: its calls fall back, or wait until `paymaster services resume s --reason …`",
        ),
        ("service_changed", "bob lets calls go to s again; it was paused by ada (incident 4711)"),
    ]
    assert resumed.paused_by == "ada (incident 4711)"


def test_a_flood_of_cap_changes_leaves_room_for_other_alerts() -> None:
    site = Site(config(budgets={"acme": capped(day=10)}))
    for _ in range(2 * CHANGES_TOLD_MAX):
        site.raise_cap("0.01")
    assert len(site.alerts("cap_changed")) == CHANGES_TOLD_MAX


# ---------------------------------------------------------------- what happened to one call


def test_a_bill_above_its_bound_is_posted_and_told() -> None:
    """$3 for a call that could cost at most $2: $1 of overage."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=2)), 3)
    [alert] = site.alerts()
    assert (alert.what, alert.account) == ("overage", "budget:acme")
    assert "s/m billed $1.00 more than the bound" in alert.text
    assert site.posted() == 3


@pytest.mark.parametrize("again", [1, 4])
def test_an_unconfirmed_attempt_is_told_once_however_often_it_is_settled(again: int) -> None:
    """The settlement is sent again: no second alert. A correction is none either."""
    site = Site()
    grant = site.granted()
    for _ in range(again):
        site.settle(grant, 1, confirmed=False, served=False)
    site.settle(grant, 1)
    assert [alert.what for alert in site.alerts()] == ["unconfirmed"]


def test_a_hold_that_nobody_settled_is_told() -> None:
    """At its expiry, with what stays charged."""
    site = Site()
    grant = site.granted(candidate(usd=2))
    site.wait(HOUR)
    [alert] = site.alerts()
    assert (alert.what, alert.account, alert.at_ms) == ("unconfirmed", "budget:acme", grant.expires_at_ms)
    assert "$2.00 stay charged" in alert.text


def test_a_settlement_for_a_voided_hold_is_told_and_not_posted() -> None:
    """Never blind."""
    site = Site()
    site.void("nobody/1")
    answer = site.desk.handle(Settle(hold_id="nobody/1", cost_nanos=5, epoch="this run"), site.now_ms)
    assert answer.kind == "unknown_hold"
    assert [alert.what for alert in site.alerts()] == ["unknown_hold"]
    assert "nobody/1" in site.alerts()[0].text
    assert site.posted() == 0


def test_a_missing_price_is_told_once_for_each_model() -> None:
    """With the line to add."""
    site = Site()
    dear = candidate(price=None)
    for model in ("a", "b", "a", "b", "a"):
        site.denied(dear.model_copy(update={"model": model}))
    alerts = site.alerts()
    assert [alert.what for alert in alerts] == ["no_price", "no_price"]
    assert '[services.s.models."a"]' in alerts[0].text
    site.wait(40 * DAY)
    site.denied(dear.model_copy(update={"model": "a"}))
    assert len(site.alerts()) == 2


def test_what_was_told_once_for_ever_is_remembered_for_a_bounded_number_of_things() -> None:
    """A thousand models later the first one may be told again."""
    site = Site()
    for number in range(ONCE_MAX + 1):
        site.denied(candidate(price=None).model_copy(update={"model": f"m{number}"}))
    assert len(site.desk.state.outbox.once) == ONCE_MAX


def test_a_breaker_that_opens_and_closes_is_told() -> None:
    """Naming the service, how often it failed, and for how long."""
    site = Site(config(services={"s": service(failures=2, cooldown_ms=30 * SECOND)}))
    for _ in range(2):
        site.fail(site.granted())
    site.wait(MINUTE)
    site.settle(site.granted())
    opened, closed = site.alerts()
    assert (opened.what, opened.account) == ("breaker_opened", "service:s")
    assert (closed.what, closed.account) == ("breaker_closed", "service:s")
    assert "2 times in a row; no calls for 30 s" in opened.text


def test_a_message_that_could_not_be_applied_is_told_and_kept() -> None:
    """Operators see the latest twenty in the status, with when; of a minute, the first five alert, and the others
    together."""
    site = Site()
    for number in range(25):
        site.desk.refuse_message(f"raise_cap {number}: no account", site.now_ms)
    assert [alert.text for alert in site.alerts("refused_message")] == [f"raise_cap {n}: no account" for n in range(5)]
    site.wait(MINUTE)
    site.desk.advance(site.now_ms)
    assert "and 20 more messages were refused" in site.alerts("refused_message")[-1].text
    when = "(2027-03-10 12:00:00 UTC)"
    assert site.desk.status().refused_messages == tuple(f"raise_cap {n}: no account {when}" for n in range(5, 25))
    site.desk.refuse_message("another", site.now_ms)
    assert [alert.text for alert in site.alerts("refused_message")[6:]] == ["another"]


# ---------------------------------------------------------------- the outbox


def test_a_stored_alert_goes_on_to_the_webhook_and_then_away() -> None:
    """Two acknowledgements: the database's, and the webhook's."""
    site = Site()
    site.settle(site.granted(), 2)
    [alert] = site.alerts()
    outbox = site.desk.state.outbox
    done = Delivery(delivered=(alert.sequence,))
    site.desk.delivered(done, site.now_ms)
    assert (site.alerts(), outbox.sending) == ([], [alert])
    site.desk.delivered(done, site.now_ms)
    assert (site.alerts(), outbox.sending) == ([], [])


def test_what_is_not_acknowledged_stays_in_its_order() -> None:
    """A batch of which the second item failed: it is sent again, before later ones."""
    site = Site()
    for number in range(4):
        site.desk.refuse_message(str(number), site.now_ms)
    numbers = [alert.sequence for alert in site.alerts()]
    assert numbers == sorted(set(numbers)), "sequence numbers are unique and grow"
    site.desk.delivered(Delivery(delivered=(numbers[0], numbers[2])), site.now_ms)
    assert [alert.text for alert in site.alerts()] == ["1", "3"]
    assert [alert.text for alert in site.desk.state.outbox.sending] == ["0", "2"]


def test_a_webhook_that_is_down_does_not_make_the_state_grow_and_loses_no_cap_change() -> None:
    """Alerts are bounded, those that wait for the webhook too, and counted when dropped; cap changes and expired holds
    always stay."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.granted()
    for number in range(ALERTS_MAX + 50):
        site.desk.outbox.alert(site.now_ms, "no_price", str(number))
        if number == ALERTS_MAX // 2:
            site.new_alerts()  # half of them are stored, and wait for the webhook
    site.raise_cap("1")
    site.wait(HOUR)
    outbox = site.desk.state.outbox
    assert len(outbox.sending) + sum(isinstance(notice, Alert) for notice in outbox.notices) == ALERTS_MAX
    assert outbox.alerts_dropped == 50 + 1  # … and that the hold expired
    assert [notice.kind for notice in outbox.notices if notice.kind != "alert"] == [
        "config_change",
        "cap_change",
        "expired",
    ]


def test_nothing_that_only_looks_tells_anything() -> None:
    """A cut, a look at the status, a quiet day."""
    site = Site(config(budgets={"acme": watched(0.5, day=10)}))
    spend(site, 9)
    before = site.alerts()
    site.cut()
    site.desk.status()
    site.wait(DAY)
    assert site.alerts() == before
