"""Approvers raise caps until their window ends: the desk says who, which, by how much, and each button once."""

from collections.abc import Callable

import pytest
from desk_kit import DAY, HOUR, NOON, USD, Site, capped, config

from paymaster.admission.answers import digest_of
from paymaster.admission.approvals import REMEMBER_KEPT
from paymaster.admission.configuration import differences, in_words
from paymaster.admission.desk import Desk
from paymaster.admission.signed_commands import SignatureRefused, changes_money
from paymaster.admission.stale import ApprovalRefused
from paymaster.messages import (
    AdminConfig,
    AdminMessage,
    Approval,
    ApproverConfig,
    CapState,
    DeskConfig,
    RaiseCap,
    RaiseOffer,
    SetCap,
    TakeClock,
)
from paymaster.security import signing_key
from paymaster.security.signing_key import SigningKey
from paymaster.values.limits import APPROVALS_KEPT_MAX

MIDNIGHT = NOON + 12 * HOUR
ADA = ApproverConfig(budgets=("acme",), per_raise_nanos=5 * USD, per_day_nanos=8 * USD, offers_nanos=(2 * USD, 5 * USD))
BOB = ApproverConfig(budgets=("other",), per_raise_nanos=USD, per_day_nanos=USD, offers_nanos=(USD,))
BUDGETS = {"acme": capped(day=10), "acme/team": capped(day=10, month=50, total=90), "other": capped(hour=3)}


def approvers(digest: str = "first", **named: ApproverConfig) -> DeskConfig:
    return config(digest, budgets=BUDGETS).model_copy(update={"approvers": named or {"ada": ADA, "bob": BOB}})


@pytest.fixture
def site() -> Site:
    return Site(approvers())


def raised(
    by: str = "2",
    who: str = "ada",
    nonce: str = "alert 1",
    *,
    account: str = "budget:acme",
    cap: int = 10,
    ends_at_ms: int = MIDNIGHT,
) -> RaiseCap:
    """What a press of a button sends."""
    approval = Approval(by=who, nonce=nonce, cap_nanos=cap * USD, window_ends_at_ms=ends_at_ms, where="Slack, U012AB")
    return RaiseCap(account=account, window="day", by=by, until_window_end=True, reason="parked", approval=approval)


def give(site: Site, change: RaiseCap) -> int:
    """The new cap in dollars."""
    return (site.desk.raise_cap(change, site.now_ms).cap_nanos or 0) // USD


def test_a_raise_lapses_with_its_window_and_says_who_and_where(site: Site) -> None:
    assert give(site, raised("2")) == 12
    change = site.cap_changes()[-1]
    assert (change.who, change.reason, change.until_window_end) == ("ada (Slack, U012AB)", "parked", True)
    site.wait_until(MIDNIGHT)
    site.desk.advance(site.now_ms)
    assert site.balance().cap_nanos == 10 * USD


REFUSED: dict[str, tuple[Callable[[], RaiseCap], str]] = {
    "somebody else": (lambda: raised(who="eve"), r"no approver 'eve'; \[approvals\] of the ledger has: ada, bob"),
    "another budget": (lambda: raised(account="budget:other"), "ada may raise caps of acme and below, and not of budg"),
    "a service": (lambda: raised(account="service:s"), "and not of service:s"),
    "too much at once": (lambda: raised("5.01"), r"by \$5.00 at once, and not by \$5.01"),
    "for good": (lambda: raised().model_copy(update={"until_window_end": False}), "and not for good"),
    "nothing": (lambda: raised("0"), "by a positive amount"),
    "less": (lambda: raised("-1"), "by a positive amount"),
    "no amount": (lambda: raised("much"), "much"),
    "no such cap": (lambda: raised().model_copy(update={"window": "hour"}), "no cap for 'hour'"),
    "a window that never ends": (
        lambda: raised(account="budget:acme/team").model_copy(update={"window": "total"}),
        "never ends",
    ),
    "yesterday's window": (lambda: raised(ends_at_ms=MIDNIGHT - DAY), "that ended at 2027-03-10 00:00:00 UTC"),
    "another cap than was seen": (lambda: raised(cap=9), r"is \$10.00 now and was \$9.00: somebody changed it"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_approver_may_do_is_refused_in_words(site: Site, what: str) -> None:
    change, words = REFUSED[what]
    before = site.desk.dump()
    with pytest.raises(ValueError, match=words):
        give(site, change())
    assert site.desk.dump() == before


def test_a_budget_below_is_an_approvers_too(site: Site) -> None:
    assert give(site, raised(account="budget:acme/team")) == 12


def test_the_raises_of_a_day_are_counted_also_by_the_next_run(site: Site) -> None:
    give(site, raised("5", nonce="1"))
    site.cut()
    with pytest.raises(
        ApprovalRefused, match=r"raised by \$5.00 today and may by \$8.00: \$3.00 is left until 2027-03-11"
    ):
        give(site, raised("4", nonce="2", cap=15))
    assert give(site, raised("3", nonce="2", cap=15)) == 18
    with pytest.raises(ApprovalRefused, match=r"\$0.00 is left"):
        give(site, raised("0.000000001", nonce="3", cap=18))
    site.wait_until(MIDNIGHT)
    assert give(site, raised("5", nonce="4", ends_at_ms=MIDNIGHT + DAY)) == 15


def test_each_approver_has_a_day_of_their_own() -> None:
    site = Site(approvers(ada=ADA, bob=ADA))
    give(site, raised("5", nonce="1"))
    assert give(site, raised("5", "bob", nonce="2", cap=15)) == 20


def test_a_button_raises_once_whoever_presses_it() -> None:
    """Its second press says what the first one did; and where the cap has come back, too."""
    site = Site(approvers(ada=ADA, bob=ADA))
    give(site, raised("2"))
    for change in (raised("2"), raised("5"), raised("2", "bob"), raised("2", cap=12)):
        with pytest.raises(
            ApprovalRefused, match=r"ada \(Slack, U012AB\) raised budget:acme by \$2.00 with it at 2027-"
        ):
            give(site, change)
        site.cut()
    site.set_cap("10")
    with pytest.raises(ApprovalRefused, match="each is good for one raise"):
        give(site, raised("2"))
    assert site.balance().cap_nanos == 10 * USD


def test_a_press_after_somebody_elses_raise_changes_nothing(site: Site) -> None:
    site.raise_cap("3")
    with pytest.raises(ApprovalRefused, match=r"is \$13.00 now and was \$10.00"):
        give(site, raised())
    assert site.balance().cap_nanos == 13 * USD


def test_a_refusal_is_not_remembered_and_a_raise_is(site: Site) -> None:
    """What the ledger's workflow does with an update of this id: asked again, a raise has the answer that it had."""
    change = raised("2")

    def told() -> CapState:
        act = lambda: site.desk.raise_cap(change, site.now_ms)  # noqa: E731
        return site.desk.answers.once("press", digest_of("raise_cap", change), CapState, act)

    site.set_cap("11")
    with pytest.raises(ApprovalRefused):
        told()
    site.set_cap("10")
    assert told() == told()
    assert site.balance().cap_nanos == 12 * USD


def test_a_clock_that_comes_back_gives_nobody_a_second_day(site: Site) -> None:
    """Nor a button a second raise."""
    site.desk.advance(site.now_ms + DAY)
    site.now_ms += DAY
    give(site, raised("5", ends_at_ms=MIDNIGHT + DAY))
    site.desk.take_clock(TakeClock(reason="it was a day ahead"), site.now_ms)
    site.cut()
    site.now_ms -= DAY - HOUR
    site.desk.advance(site.now_ms)
    assert site.desk.state.now_ms == site.now_ms
    cap = (site.balance().cap_nanos or 0) // USD
    with pytest.raises(ApprovalRefused, match=r"raised by \$5.00 today"):
        give(site, raised("5", nonce="2", cap=cap))
    with pytest.raises(ApprovalRefused, match="each is good for one raise"):
        give(site, raised("1", cap=cap))
    site.wait_until(MIDNIGHT)
    site.desk.advance(site.now_ms)
    cap = (site.balance().cap_nanos or 0) // USD
    assert give(site, raised("5", nonce="3", cap=cap, ends_at_ms=MIDNIGHT + DAY)) == cap + 5, "it is another day"


def test_a_button_of_before_the_clock_went_ahead_stays_pressed(site: Site) -> None:
    """Its window was over meanwhile, and is open again; so is the approver's day."""
    give(site, raised("5"))
    site.now_ms += DAY
    give(site, raised("1", nonce="2", ends_at_ms=MIDNIGHT + DAY))
    site.desk.take_clock(TakeClock(reason="it was a day ahead"), site.now_ms)
    site.cut()
    site.now_ms -= DAY - HOUR
    cap = site.set_cap("10") // USD
    with pytest.raises(ApprovalRefused, match="each is good for one raise"):
        give(site, raised("5", cap=cap))
    with pytest.raises(ApprovalRefused, match=r"raised by \$6.00 today"):
        give(site, raised("5", nonce="3", cap=cap))


def test_a_window_that_is_over_still_counts_for_the_day() -> None:
    site = Site(approvers(ada=ADA.model_copy(update={"budgets": ("other",)})))
    for hour, nonce in enumerate(("1", "2")):
        hourly = raised("4", nonce=nonce, account="budget:other", cap=3, ends_at_ms=NOON + (hour + 1) * HOUR)
        assert give(site, hourly.model_copy(update={"window": "hour"})) == 7
        site.wait(HOUR)
    third = raised("1", nonce="3", account="budget:other", cap=3, ends_at_ms=NOON + 3 * HOUR)
    with pytest.raises(ApprovalRefused, match=r"raised by \$8.00 today"):
        give(site, third.model_copy(update={"window": "hour"}))


def test_what_is_remembered_has_an_end() -> None:
    """So many raises are remembered, and but for the latest forgotten when their window and their day are over."""
    rich = ADA.model_copy(update={"per_day_nanos": 10**6 * USD})
    site = Site(approvers(ada=rich))
    for number in range(APPROVALS_KEPT_MAX):
        give(site, raised("1", nonce=f"alert {number}", cap=10 + number))
    with pytest.raises(ApprovalRefused, match="remembers 500 approvals"):
        give(site, raised("1", nonce="more", cap=10 + APPROVALS_KEPT_MAX))
    site.wait_until(MIDNIGHT)
    give(site, raised("1", nonce="tomorrow", ends_at_ms=MIDNIGHT + DAY))
    kept = [f"alert {number}" for number in range(APPROVALS_KEPT_MAX - REMEMBER_KEPT, APPROVALS_KEPT_MAX)]
    assert list(site.desk.state.approved) == [*kept, "tomorrow"]


# ---------------------------------------------------------------- signatures


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> dict[str, SigningKey]:
    """Which sign at noon."""
    monkeypatch.setattr(signing_key.time, "time", lambda: NOON / 1000)
    folder = tmp_path_factory.mktemp("keys")
    return {name: SigningKey.create(folder / name) for name in ("ada", "alice", "bob")}


@pytest.fixture
def signing(keys: dict[str, SigningKey]) -> Site:
    """A desk that wants signatures: of alice, an admin, and of ada, who approves."""
    ada = ADA.model_copy(update={"key": keys["ada"].public})
    admin = AdminConfig(require_signature=True, keys={"alice": keys["alice"].public})
    return Site(approvers(ada=ada, bob=ADA).model_copy(update={"admin": admin}))


def signed(command: AdminMessage, key: SigningKey, by: str, action: str = "raise_cap") -> RaiseCap:
    found = key.sign(action, command, by=by, ledger="test", epoch="this run")
    assert isinstance(found, RaiseCap)
    return found


def test_a_signed_raise_is_followed_once(signing: Site, keys: dict[str, SigningKey]) -> None:
    change = signed(raised(), keys["ada"], "ada")
    assert give(signing, change) == 12
    assert signing.cap_changes()[-1].who == "ada (Slack, U012AB)"
    with pytest.raises(SignatureRefused, match="used before"):
        give(signing, change)


def test_only_the_approvers_own_key_signs_a_raise(signing: Site, keys: dict[str, SigningKey]) -> None:
    before = signing.desk.dump()
    other = signed(raised(), keys["ada"], "ada").model_copy(update={"by": "5"})
    for forged, words in (
        (raised(), "must be signed"),
        (signed(raised(), keys["bob"], "ada"), "not what ada signed"),
        (signed(raised(), keys["alice"], "alice"), r"and \[approvals\] of the ledger has only: ada"),
        (signed(raised(who="bob"), keys["ada"], "ada"), "has only: nobody"),
        (other, "not what ada signed"),
    ):
        with pytest.raises(SignatureRefused, match=words):
            give(signing, forged)
    assert signing.desk.dump() == before


def test_an_approvers_key_is_good_for_nothing_else(signing: Site, keys: dict[str, SigningKey]) -> None:
    plain = raised().model_copy(update={"approval": None})
    with pytest.raises(SignatureRefused, match=r"\[admin.keys\] of the ledger has only: alice"):
        give(signing, signed(plain, keys["ada"], "ada"))
    command = SetCap(account="budget:acme", window="day", to="99")
    with pytest.raises(SignatureRefused, match=r"\[admin.keys\]"):
        signing.desk.set_cap(
            keys["ada"].sign("set_cap", command, by="ada", ledger="test", epoch="this run"), signing.now_ms
        )


# ---------------------------------------------------------------- alerts, rules, configurations


def test_the_alert_of_parked_calls_says_what_may_be_raised(site: Site) -> None:
    site.settle(site.granted(), 10)
    site.parked()
    (alert,) = site.alerts("parked")
    assert alert.offer == RaiseOffer(cap_nanos=10 * USD, window_ends_at_ms=MIDNIGHT, by_nanos=(2 * USD, 5 * USD))
    assert give(site, raised("2")) == 12
    assert site.served() == ["run-2/1"]
    site.settle("run-2/1", 2)
    site.parked()
    assert [each.offer and each.offer.cap_nanos for each in site.alerts("parked")] == [10 * USD, 12 * USD]


@pytest.mark.parametrize(
    ("budget", "caps", "of"),
    [("acme/team", "month", "nobody"), ("acme/team", "total", "ada"), ("acme", "24h", "ada"), ("other", "day", "ada")],
)
def test_what_nobody_may_raise_is_not_offered(budget: str, caps: str, of: str) -> None:
    account = capped().model_copy(update={"caps_nanos": {caps: 10 * USD}})
    site = Site(config(budgets={budget: account}).model_copy(update={"approvers": {} if of == "nobody" else {of: ADA}}))
    site.settle(site.granted(budget=budget), 10)
    site.parked(budget=budget)
    assert [each.offer for each in site.alerts("parked")] == [None]


def test_an_account_of_a_template_is_offered_by_its_name() -> None:
    site = Site(config(budgets={"acme/*": capped(day=10)}).model_copy(update={"approvers": {"ada": ADA}}))
    site.parked(budget="acme/ada")
    site.load()
    site.settle("run-1/1", 10)
    site.parked(budget="acme/ada")
    (alert,) = site.alerts("parked")
    assert (alert.account, alert.window, alert.offer is None) == ("budget:acme/ada", "day", False)


def test_rules_of_the_first_version_know_no_approvals() -> None:
    site = Site(approvers(), rules=1)
    with pytest.raises(ApprovalRefused, match="by the rules of version"):
        give(site, raised())


def test_a_change_of_who_may_raise_is_told_and_must_be_signed() -> None:
    before, after = approvers(ada=ADA), approvers(ada=ADA.model_copy(update={"budgets": ("acme", "x")}), bob=BOB)
    assert in_words(differences(before, after)) == (
        "[approvals] ada: $5.00 at once, $8.00 a day, of acme → $5.00 at once, $8.00 a day, of acme, x; "
        "[approvals] bob: nothing → $1.00 at once, $1.00 a day, of other"
    )
    assert changes_money(before, after)
    assert not changes_money(before, before)


def test_a_state_without_approvals_is_loaded() -> None:
    """One that was written before there were any."""
    site = Site()
    dumped = site.desk.dump()
    assert "approved" not in dumped
    assert Desk.load(dumped).state.approved == {}
