"""What admins and configuration files change, and what they may not."""

import pytest
from desk_kit import DAY, HOUR, NOON, USD, Site, at, candidate, capped, config, service
from pydantic import ValidationError

from paymaster.messages import AccountStatus, Granted, PauseService, RaiseCap, ResumeService, SetCap

# ---------------------------------------------------------------- wrong messages


def test_of_ten_thousand_accounts_a_refusal_names_a_few() -> None:
    """It is kept in the ledger's state, shown in its status and sent to the database with others."""
    site = Site(config(budgets={f"acme/b{n:05}": capped(day=10) for n in range(10_000)}))
    with pytest.raises(ValueError, match=r"there are: budget:acme/b00000, .* and 9981 more") as refused:
        site.desk.raise_cap(RaiseCap(account="budget:acme", window="day", by="1"), site.now_ms)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"account": "budget:acme2"}, "there is no account 'budget:acme2'; there are: budget:acme, service:s"),
        ({"account": "acme"}, "'acme' is no account: write 'budget:acme'"),
        ({"account": "s"}, "'s' is no account: write 'service:s'"),
        ({"account": "acme/new"}, "'acme/new' is no account: they are written like \"budget:acme/content\""),
        ({"account": "service:x"}, "there is no account 'service:x'"),
        ({"window": "hour"}, "budget:acme has no cap for 'hour'; capped windows: day, total"),
        ({"account": "service:s"}, "service:s has no cap for 'day'; capped windows: none"),
        ({"by": "0"}, "raised by a positive amount, not by 0"),
        ({"by": "-5"}, "raised by a positive amount"),
        ({"by": "lots"}, "'lots' is not an amount"),
        ({"by": "NaN"}, "is not an amount"),
        ({"by": "1e12"}, "below 10"),
        ({"by": "0.0000000001"}, "finer than a nano-dollar"),
        ({"window": "total", "until_window_end": True}, "`total` never ends"),
    ],
)
def test_a_wrong_raise_is_refused_with_what_exists_and_changes_nothing(change: dict[str, object], says: str) -> None:
    """Account, window, amount."""
    site = Site(config(budgets={"acme": capped(day=10, total=100)}))
    before = site.desk.dump()
    raise_cap = RaiseCap.model_validate({"account": "budget:acme", "window": "day", "by": "1", **change})
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        site.desk.raise_cap(raise_cap, site.now_ms)
    assert site.desk.dump() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"account": "service:x"}, "there is no account 'service:x'; there are: budget:acme, service:s"),
        ({"account": "budget:"}, "is not a segment"),
        ({"account": "budget:acme//x"}, "is not a segment"),
        ({"account": "budget:" + "x" * 201}, "at most 200 characters"),
        ({"to": "-1"}, "a cap is not negative"),
        ({"to": "ten"}, "'ten' is not an amount"),
        ({"to": "100000000000"}, "below 10"),
    ],
)
def test_a_wrong_cap_is_refused_and_changes_nothing(change: dict[str, object], says: str) -> None:
    """Also no account is opened by it."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    before = site.desk.dump()
    set_cap = SetCap.model_validate({"account": "budget:acme", "window": "day", "to": "1", **change})
    with pytest.raises(ValueError, match=says):
        site.desk.set_cap(set_cap, site.now_ms)
    assert site.desk.dump() == before


def test_a_window_or_a_field_that_does_not_exist_cannot_be_written() -> None:
    """Nothing is guessed and nothing dropped."""
    for wrong in ({"window": "year"}, {"bye": "5"}, {"by": None}):
        with pytest.raises(ValidationError):
            RaiseCap.model_validate({"account": "budget:acme", "window": "day", "by": "1", **wrong})


def test_an_unknown_service_is_refused_with_those_there_are() -> None:
    """For a pause as for its end."""
    site = Site(config(services={"s": service(), "t": service()}))
    with pytest.raises(ValueError, match="there is no service 'x'; there are: s, t"):
        site.desk.pause_service(PauseService(service="x"), site.now_ms)
    with pytest.raises(ValueError, match="there is no service 'x'; there are: s, t"):
        site.desk.resume_service(ResumeService(service="x"), site.now_ms)


# ---------------------------------------------------------------- each change is kept


def test_every_cap_change_says_who_when_why_from_and_to() -> None:
    """A raise, a lapsing raise, a set, and a first cap on an account that had none."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.raise_cap("5")
    site.raise_cap("2", lapses=True)
    site.set_cap("8")
    site.set_cap("3", window="month")
    site.set_cap("1", "budget:acme/new")
    changes = site.cap_changes()
    assert [(c.account, c.window, c.from_nanos, c.to_nanos, c.by_nanos, c.file_nanos) for c in changes] == [
        ("budget:acme", "day", 10 * USD, 15 * USD, 5 * USD, 10 * USD),
        ("budget:acme", "day", 15 * USD, 17 * USD, 2 * USD, 10 * USD),
        ("budget:acme", "day", 17 * USD, 8 * USD, None, 10 * USD),
        ("budget:acme", "month", None, 3 * USD, None, None),
        ("budget:acme/new", "day", None, 1 * USD, None, None),
    ]
    assert [c.until_window_end for c in changes] == [False, True, False, False, False]
    assert {(c.who, c.at_ms) for c in changes} == {("ada", NOON)}
    assert [c.reason for c in changes] == ["more work"] * 2 + ["new plan"] * 3


def test_a_cap_on_a_new_account_first_loads_what_was_spent_there() -> None:
    """Until the database has answered, its calls wait, and the others go on."""
    site = Site(config(budgets={"acme": capped(day=100)}))
    early = site.granted(candidate(usd=4), budget="acme/team")
    site.set_cap("10", "budget:acme/team")
    waiting = site.parked(candidate(usd=3), budget="acme/team")
    site.granted(candidate(usd=1), budget="acme")
    wanted = site.desk.to_load()
    assert wanted is not None
    assert (wanted.accounts, early.hold_id in wanted.known_holds) == (("budget:acme/team",), True)
    assert not wanted.with_cap_changes
    site.load({"budget:acme/team": {"day": 3 * USD, "total": 50 * USD}})
    assert site.served() == [waiting]
    assert (site.posted("budget:acme/team"), site.pending("budget:acme/team")) == (3, 7)
    assert site.posted("budget:acme/team", "total") == 50
    site.parked(candidate(usd=1), budget="acme/team")


# ---------------------------------------------------------------- caps that are taken back


def test_an_unset_cap_is_what_the_file_says() -> None:
    """A set one, raises, a first one, and one that no admin changed; each change is kept."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.set_cap("3")
    site.raise_cap("1", lapses=True)
    site.set_cap("5", window="month")
    assert site.unset_cap() == 10 * USD
    assert site.unset_cap(window="month") is None
    assert not site.balance().by_admin
    assert site.balance().lapsing_nanos == 0
    before = len(site.cap_changes())
    assert site.unset_cap() == 10 * USD
    assert [(c.window, c.from_nanos, c.to_nanos, c.file_nanos, c.who) for c in site.cap_changes()[3:]] == [
        ("day", 4 * USD, None, 10 * USD, "ada"),
        ("month", 5 * USD, None, None, "ada"),
    ]
    assert before == 5, "what is as the file says already is no change"


def test_an_unset_cap_gives_room_or_takes_back_what_has_none() -> None:
    """From $1 back to $3, from none at all, and from $8 back to $3."""
    site = Site(config(budgets={"acme": capped(day=3)}))
    site.set_cap("1")
    site.settle(site.granted(), 1)
    waiting = site.parked()
    site.unset_cap()
    assert site.served() == [waiting]
    site.void(waiting)
    site.set_cap("1", window="total")
    waiting = site.parked()
    site.unset_cap(window="total")
    assert site.served() == [waiting]
    site.set_cap("8")
    newest = [site.granted(candidate(usd=2)).hold_id for _ in range(2)][::-1]
    site.unset_cap()
    assert site.withdrawn() == newest


def test_a_budget_that_only_an_admins_cap_named_is_closed() -> None:
    """Its calls are charged above, as before there was one; those that wait are looked at."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.set_cap("1", "budget:acme/new")
    site.load()
    site.settle(site.granted(budget="acme/new"), 1)
    waiting = site.parked(budget="acme/new")
    assert site.unset_cap("budget:acme/new") is None
    assert "budget:acme/new" not in site.desk.ledger.accounts
    assert site.served() == [waiting]
    assert site.pending() == 1


def test_a_rolling_window_that_nothing_caps_any_more_goes() -> None:
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.set_cap("1", window="7d")
    site.load()
    assert site.unset_cap(window="7d") is None
    assert "7d" not in site.desk.ledger.accounts["budget:acme"].balances


def test_an_unset_caps_thresholds_alert_again() -> None:
    site = Site(config(budgets={"acme": capped(day=10).model_copy(update={"alert_at": (0.8,)})}))
    site.set_cap("100")
    site.settle(site.granted(candidate(usd=8)), 8)
    assert site.alerts("threshold") == []
    site.unset_cap()
    site.settle(site.granted(candidate(usd=1)), 1)
    assert site.alerts("threshold") != []


def test_unset_cap_is_refused_where_nothing_can_be_said() -> None:
    """No such account; what was stored is not read yet; the rules of version 0.1.0."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    with pytest.raises(ValueError, match="there is no account 'budget:typo'"):
        site.unset_cap("budget:typo")
    with pytest.raises(ValueError, match="still reading what was stored"):
        Site(config(budgets={"acme": capped(day=10)}), load=False).unset_cap()
    with pytest.raises(ValueError, match="`paymaster upgrade`"):
        Site(config(budgets={"acme": capped(day=10)}), rules=1).unset_cap()


# ---------------------------------------------------------------- grants that are taken back


def test_a_lowered_cap_takes_back_the_newest_grants_until_the_rest_fits() -> None:
    """$2 spent and four times $2 on hold; under $7 only two of the holds have room."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    site.settle(site.granted(candidate(usd=2)), 2)
    grants = [site.granted(candidate(usd=2)) for _ in range(4)]
    site.set_cap("7")
    assert site.withdrawn() == [grants[3].hold_id, grants[2].hold_id]
    assert site.pending() == 8, "until the calls have voided them, they may still have been sent"
    site.void(grants[3])
    site.void(grants[2])
    assert site.balance().posted_nanos + site.balance().pending_nanos <= 7 * USD


def test_a_lowered_cap_takes_back_nothing_that_it_does_not_count() -> None:
    """Grants of another budget, settled ones, and those of yesterday stay."""
    site = Site(config(budgets={"acme": capped(day=10), "other": capped(day=10)}), at(2027, 3, 10) - 1)
    site.granted(candidate(usd=2))
    site.wait(1)
    site.granted(candidate(usd=2), budget="other")
    site.settle(site.granted(candidate(usd=2)), 2, confirmed=False)
    newest = site.granted(candidate(usd=2))
    site.set_cap("1")
    assert site.withdrawn() == [newest.hold_id]
    site.set_cap("9")
    assert site.withdrawn() == []


def test_a_paused_service_takes_back_all_that_was_granted_for_it() -> None:
    """And nothing of other services, nor what is settled."""
    site = Site(config(services={"s": service(), "t": service()}))
    site.settle(site.granted(candidate("s")), 1, confirmed=False)
    pending = [site.granted(candidate("s")).hold_id for _ in range(2)]
    site.granted(candidate("t"))
    state = site.desk.pause_service(PauseService(service="s", who="ada", reason="leak"), site.now_ms)
    assert state.paused
    assert site.withdrawn() == pending
    assert site.granted(candidate("s"), candidate("t")).service == "t"
    assert not site.desk.resume_service(ResumeService(service="s"), site.now_ms).paused
    assert site.granted(candidate("s"), candidate("t")).service == "s"


# ---------------------------------------------------------------- configuration


def test_the_same_configuration_again_changes_nothing() -> None:
    """Every worker sends it at its start."""
    site = Site(config("one"))
    before = site.desk.dump()
    answer = site.desk.configure(config("one"), site.now_ms)
    assert not answer.applied
    assert site.desk.dump() == before


def test_a_superseded_configuration_comes_back_only_by_force() -> None:
    """A worker with the old file changes nothing; `config apply --force` does, and then it is in force."""
    old, new = config("old", {"acme": capped(day=10)}), config("new", {"acme": capped(day=20)})
    site = Site(old)
    assert site.desk.configure(new, site.now_ms).applied
    refused = site.desk.configure(old, site.now_ms)
    assert (refused.applied, refused.digest) == (False, "new")
    assert "--force" in refused.detail
    assert site.balance().cap_nanos == 20 * USD
    site.cut()
    assert not site.desk.configure(old, site.now_ms).applied
    assert site.desk.configure(old, site.now_ms, force=True).applied
    assert site.balance().cap_nanos == 10 * USD
    assert not site.desk.configure(new, site.now_ms).applied, "now that one is superseded"


def test_what_an_admin_set_stays_until_the_file_says_something_new() -> None:
    """Another change of the file leaves it; its own new value wins, and later ones too."""
    site = Site(config("1", {"acme": capped(day=10)}))
    site.raise_cap("5")
    site.desk.configure(config("2", {"acme": capped(day=10), "more": capped(day=1)}), site.now_ms)
    assert site.balance().cap_nanos == 15 * USD
    assert site.balance().by_admin
    site.desk.configure(config("3", {"acme": capped(day=12)}), site.now_ms)
    assert site.balance().cap_nanos == 12 * USD
    assert not site.balance().by_admin
    site.set_cap("3", window="month")
    site.desk.configure(config("4", {"acme": capped(day=12, month=50)}), site.now_ms)
    assert site.balance(window="month").cap_nanos == 50 * USD


def test_a_lapsing_raise_does_not_lapse_from_the_files_new_value() -> None:
    """The file's $20 are $20 tomorrow too."""
    site = Site(config("1", {"acme": capped(day=10)}))
    site.raise_cap("5", lapses=True)
    site.desk.configure(config("2", {"acme": capped(day=20)}), site.now_ms)
    site.wait(DAY)
    site.desk.advance(site.now_ms)
    assert site.balance().cap_nanos == 20 * USD


def test_a_removed_account_is_closed_and_put_back_it_is_loaded() -> None:
    """What was spent meanwhile is in the database, with what was spent before."""
    site = Site(config("1", {"acme": capped(day=100), "acme/team": capped(day=5)}))
    site.settle(site.granted(candidate(usd=5), budget="acme/team"), 5)
    waiting = site.parked(candidate(usd=5), budget="acme/team")
    site.desk.configure(config("2", {"acme": capped(day=100)}), site.now_ms, may_remove=True)
    assert site.served() == [waiting]
    assert "budget:acme/team" not in site.desk.ledger.accounts
    site.settle(waiting, 5)
    site.desk.configure(config("3", {"acme": capped(day=100), "acme/team": capped(day=11)}), site.now_ms)
    site.load({"budget:acme/team": {"day": 10 * USD}})
    assert site.denied(candidate(usd=2), budget="acme/team").reason == "cap_reached"
    site.granted(candidate(usd=1), budget="acme/team")


def test_a_service_that_a_new_file_lacks_can_still_be_called() -> None:
    """While the files of several workers change one after the other nothing is refused."""
    site = Site(config("1", services={"s": service(), "t": service(concurrent=1)}))
    held = site.granted(candidate("t"))
    answer = site.desk.configure(config("2"), site.now_ms)
    assert (answer.applied, answer.kept) == (True, "service t (no cap) → removed")
    site.parked(candidate("t"))
    site.settle(held, 1)
    assert site.posted("service:t") == 1


def test_a_removed_service_is_answered_as_by_new_books() -> None:
    """A call that is still there ends as ever, and is charged to its budget."""
    site = Site(config("1", services={"s": service(), "t": service()}))
    held = site.granted(candidate("t", usd=2))
    waiting = site.granted(candidate("t"))
    site.desk.configure(config("2"), site.now_ms, may_remove=True)
    assert site.denied(candidate("t")).reason == "unknown_service"
    site.fail(waiting)
    site.settle(held, 2)
    assert site.posted() == 2
    site.desk.configure(config("3"), site.now_ms)
    assert [each.service for each in site.desk.status().services] == ["s"]


def test_a_new_configuration_wakes_who_fits_now() -> None:
    """More money, more places: at once."""
    site = Site(config("1", {"acme": capped(total=1)}))
    site.settle(site.granted(), 1)
    waiting = [site.parked() for _ in range(3)]
    site.desk.configure(config("2", {"acme": capped(total=3)}), site.now_ms)
    assert site.served() == waiting[:2]


def test_a_new_configuration_may_shrink_the_queue_without_throwing_anybody_out() -> None:
    """Only newcomers are refused."""
    site = Site(config("1", {"acme": capped(total=1)}))
    site.settle(site.granted(), 1)
    for _ in range(3):
        site.parked()
    site.desk.configure(config("2", {"acme": capped(total=1)}, max_parked=1), site.now_ms)
    assert site.desk.status().parked == 3
    assert site.denied(mode="wait").reason == "queue_full"


def test_holds_live_as_long_as_they_were_granted_for() -> None:
    """A shorter time in a new file does not take away what a call was promised."""
    site = Site(config("1"))
    grant = site.granted()
    shorter = config("2").model_copy(update={"hold_expires_after_ms": 60_000})
    site.desk.configure(shorter, site.now_ms)
    assert grant.expires_at_ms == NOON + 900_000
    site.wait(HOUR // 6)
    assert site.pending() == 1
    second = site.reserve()
    assert isinstance(second, Granted)
    assert second.grant.expires_at_ms == site.now_ms + 60_000


def test_a_new_budgets_account_charges_the_calls_below_it() -> None:
    """Those that wait are filed there too; its cap of $3 lets one of two go on when money comes back."""
    site = Site(config(budgets={"acme": capped(day=10)}))
    held = site.granted(candidate(usd=10))
    below = [site.parked(candidate(usd=2), budget="acme/new/agent") for _ in range(2)]
    beside = site.parked(candidate(usd=2), budget="acme/newer")
    site.set_cap("3", account="budget:acme/new")
    site.load()
    site.void(held)
    assert site.served() == [below[0], beside]
    site.set_cap("4", account="budget:acme/new")
    assert site.served() == [below[1]]


def test_the_status_says_what_lapses_with_the_window() -> None:
    site = Site()
    site.raise_cap("3", lapses=True)
    [day] = [each for each in account_status(site).windows if each.window == "day"]
    assert (day.cap_nanos, day.lapsing_nanos) == (13 * USD, 3 * USD)
    site.wait(DAY)
    [day] = [each for each in account_status(site).windows if each.window == "day"]
    assert (day.cap_nanos, day.lapsing_nanos) == (10 * USD, 0)


def account_status(site: Site) -> AccountStatus:
    """Of `budget:acme`, also if nothing happened since the window ended."""
    return next(each for each in site.desk.status(now_ms=site.now_ms).accounts if each.account == "budget:acme")
