"""Who may raise a cap, where signatures are required: its signer, for one time, and nobody else."""

from collections.abc import Callable
from typing import Any

import pytest
from desk_kit import DAY, HOUR, MINUTE, SECOND, USD, Site, capped, config, service

from paymaster.admission.desk import Desk
from paymaster.admission.signatures import SIGNATURE_LIVES_MAX_MS, SIGNATURE_LIVES_MS
from paymaster.admission.signed_commands import REMEMBER_USED, SignatureRefused
from paymaster.admission.state import DeskState
from paymaster.messages import (
    AcceptLower,
    AccountConfig,
    AdminConfig,
    AdminMessage,
    Configure,
    CorrectSpend,
    DeskConfig,
    LoadedSpend,
    PauseService,
    RaiseCap,
    ResumeService,
    SetCap,
    TakeClock,
)
from paymaster.security import signing_key
from paymaster.security.signing_key import SigningKey

KEYS: dict[str, SigningKey] = {}
RAISE = RaiseCap(account="budget:acme", window="day", by="5", reason="launch", who="somebody")
COMMANDS: dict[str, AdminMessage] = {
    "raise_cap": RAISE,
    "set_cap": SetCap(account="budget:acme", window="day", to="50"),
    "pause_service": PauseService(service="s"),
    "resume_service": ResumeService(service="s"),
    "take_clock": TakeClock(),
    "accept_lower": AcceptLower(account="budget:acme"),
    "correct_spend": CorrectSpend(
        hold_id="run/1", budget="acme", service="s", granted_at_ms=1, from_usd="1", to_usd="0.5"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("keys")
    KEYS.update({name: SigningKey.create(folder / name) for name in ("alice", "bob", "mallory")})


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """A desk that wants signatures, of alice or bob; signers have its clock."""
    site = Site(required("first"))
    monkeypatch.setattr(signing_key.time, "time", lambda: site.now_ms / 1000)
    return site


def required(digest: str, *, require: bool = True, **more: Any) -> DeskConfig:
    keys = {name: KEYS[name].public for name in ("alice", "bob")}
    admin_config = AdminConfig(require_signature=require, keys=keys)
    return config(digest, **more).model_copy(update={"admin": admin_config})


def signed(
    command: AdminMessage | Configure,
    by: str = "alice",
    *,
    action: str = "raise_cap",
    key: SigningKey | None = None,
    ledger: str = "test",
    epoch: str = "this run",
    lives_ms: int = SIGNATURE_LIVES_MS,
) -> Any:
    """A signature like that of `--sign-with`, or with something else than it would take."""
    return (key or KEYS[by]).sign(action, command, by=by, ledger=ledger, epoch=epoch, lives_ms=lives_ms)


def give(site: Site, action: str, command: AdminMessage) -> object:
    return getattr(site.desk, action)(command, site.now_ms)


@pytest.mark.parametrize("action", COMMANDS)
def test_an_unsigned_command_is_refused_and_changes_nothing(site: Site, action: str) -> None:
    before = site.desk.dump()
    with pytest.raises(SignatureRefused, match=f"{action} must be signed here: give `--sign-with FILE`"):
        give(site, action, COMMANDS[action])
    assert site.desk.dump() == before


@pytest.mark.parametrize("action", COMMANDS)
def test_a_signed_command_is_followed_once(site: Site, action: str) -> None:
    """Sent again it is refused, also after continue-as-new."""
    command = signed(COMMANDS[action], action=action)
    give(site, action, command)
    for _ in range(2):
        after = site.desk.dump()
        with pytest.raises(SignatureRefused, match="alice's signature was used before"):
            give(site, action, command)
        assert site.desk.dump() == after
        site.cut()


def test_the_signer_is_kept_as_who_changed_the_cap(site: Site) -> None:
    """Whatever the command says that it comes from."""
    assert site.desk.raise_cap(signed(RAISE), site.now_ms).cap_nanos == 15 * USD
    assert site.desk.raise_cap(signed(RAISE, "bob"), site.now_ms).cap_nanos == 20 * USD
    assert [change.who for change in site.cap_changes()] == ["alice", "bob"]
    site.desk.pause_service(signed(PauseService(service="s", who="me"), action="pause_service"), site.now_ms)
    assert site.desk.status().services[0].paused_by == "alice"


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda: signed(RAISE, "mallory"), "signed by 'mallory', and .* has only: alice, bob"),
        (lambda: signed(RAISE, "alice", key=KEYS["mallory"]), "not what alice signed"),
        (lambda: signed(RAISE).model_copy(update={"by": "500"}), "not what alice signed"),
        (lambda: signed(RAISE).model_copy(update={"account": "service:s"}), "not what alice signed"),
        (lambda: signed(RAISE, ledger="staging"), "for another ledger"),
        (lambda: signed(RAISE, epoch="an earlier run"), "another epoch"),
        (lambda: signed(RAISE, action="set_cap"), "not what alice signed"),
    ],
)
def test_a_forged_command_is_refused_and_changes_nothing(site: Site, forge: Callable[[], RaiseCap], says: str) -> None:
    before = site.desk.dump()
    with pytest.raises(SignatureRefused, match=says):
        site.desk.raise_cap(forge(), site.now_ms)
    assert site.desk.dump() == before


def test_a_signature_is_good_until_it_expires_and_never_for_long(site: Site) -> None:
    """A copy that somebody keeps is worth nothing the next day; one that would be good for long is not taken at all."""
    early, late = signed(RAISE), signed(RAISE)
    site.now_ms += SIGNATURE_LIVES_MS - 1
    site.desk.raise_cap(early, site.now_ms)
    site.now_ms += 1
    with pytest.raises(SignatureRefused, match=r"expired at 2027-03-10 12:05:00 UTC, and the ledger has 2027-03-10"):
        site.desk.raise_cap(late, site.now_ms)
    with pytest.raises(SignatureRefused, match="expired"):
        site.desk.raise_cap(early, site.now_ms)
    with pytest.raises(SignatureRefused, match="none may be good for more than 60 minutes"):
        site.desk.raise_cap(signed(RAISE, lives_ms=SIGNATURE_LIVES_MAX_MS + SECOND), site.now_ms)
    site.desk.raise_cap(signed(RAISE, lives_ms=SIGNATURE_LIVES_MAX_MS), site.now_ms)


def test_used_signatures_are_remembered_long_enough(site: Site) -> None:
    """So that the state does not grow for ever, and no moment is left in which one is good again."""
    long, short = signed(RAISE, lives_ms=HOUR), signed(RAISE, lives_ms=MINUTE)
    site.desk.raise_cap(long, site.now_ms)
    site.desk.raise_cap(short, site.now_ms)
    for _ in range(59):
        site.now_ms += MINUTE
        site.desk.raise_cap(signed(RAISE, lives_ms=MINUTE), site.now_ms)
        for again in (long, short):
            with pytest.raises(SignatureRefused):
                site.desk.raise_cap(again, site.now_ms)
    assert site.balance().cap_nanos == (10 + 61 * 5) * USD
    for _ in range(2 * REMEMBER_USED):
        site.now_ms += MINUTE
        site.desk.raise_cap(signed(RAISE, lives_ms=MINUTE), site.now_ms)
    assert len(site.desk.state.used_signatures) == REMEMBER_USED + 1


def test_a_clock_that_comes_back_makes_no_signature_good(site: Site) -> None:
    """It was used, and expired by the clock that was ahead; the clock is put back to before its expiry."""
    used, now_ms = signed(RAISE), site.now_ms
    site.desk.raise_cap(used, now_ms)
    site.desk.advance(now_ms + DAY)
    site.desk.take_clock(signed(TakeClock(reason="it was a day ahead"), action="take_clock"), now_ms + DAY)
    site.cut()
    site.desk.advance(now_ms + MINUTE)
    assert site.desk.state.now_ms == now_ms + MINUTE
    with pytest.raises(SignatureRefused, match="used before"):
        site.desk.raise_cap(used, now_ms + MINUTE)


def test_a_signature_is_good_for_one_try_also_when_the_command_made_no_sense(site: Site) -> None:
    """Else somebody could keep it for the moment at which it does."""
    nonsense = signed(RaiseCap(account="budget:acme", window="month", by="5"))
    with pytest.raises(ValueError, match="has no cap for 'month'"):
        site.desk.raise_cap(nonsense, site.now_ms)
    site.desk.set_cap(signed(SetCap(account="budget:acme", window="month", to="9"), action="set_cap"), site.now_ms)
    with pytest.raises(SignatureRefused, match="used before"):
        site.desk.raise_cap(nonsense, site.now_ms)


def test_after_a_loss_of_state_no_earlier_signature_is_good(site: Site) -> None:
    """The ids that were used are lost with it; but the new books are another epoch, for which nobody signed."""
    used, unused = signed(RAISE), signed(RAISE)
    site.desk.raise_cap(used, site.now_ms)
    changes = tuple(site.cap_changes())
    site.desk = Desk(DeskState(ledger="test", epoch="the next run"))
    site.desk.configure(required("first"), site.now_ms)
    wanted = site.desk.to_load()
    assert wanted is not None
    site.desk.loaded(LoadedSpend(number=wanted.number, cap_changes=changes, posted_nanos={}), site.now_ms)
    assert site.balance().cap_nanos == 15 * USD, "what was raised stays raised"
    for command in (used, unused):
        with pytest.raises(SignatureRefused, match="another epoch"):
            site.desk.raise_cap(command, site.now_ms)


def test_where_none_is_required_a_signature_still_says_who_and_must_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(required("first", require=False))
    monkeypatch.setattr(signing_key.time, "time", lambda: site.now_ms / 1000)
    site.raise_cap("1")
    site.desk.raise_cap(signed(RAISE), site.now_ms)
    assert [change.who for change in site.cap_changes()] == ["ada", "alice"]
    with pytest.raises(SignatureRefused):
        site.desk.raise_cap(signed(RAISE, "mallory"), site.now_ms)


# ---------------------------------------------------------------- configuration


CHANGES: dict[str, Callable[[], DeskConfig]] = {
    "signatures are not required any more": lambda: required("new", require=False),
    "another key": lambda: config("new"),
    "a higher cap": lambda: required("new", budgets={"acme": capped(day=11)}),
    "a lower cap": lambda: required("new", budgets={"acme": capped(day=9)}),
    "a cap less": lambda: required("new", budgets={"acme": capped()}),
    "a cap more": lambda: required("new", budgets={"acme": capped(day=10, month=20)}),
    "a budget more": lambda: required("new", budgets={"acme": capped(day=10), "more": AccountConfig()}),
    "a budget less": lambda: required("new", budgets={}),
    "a service with a cap": lambda: required("new", services={"s": service(day=5)}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_configuration_that_changes_money_is_applied_only_when_it_is_signed(site: Site, what: str) -> None:
    """A worker that brings it at its start changes nothing, is told what to do, and somebody hears of it, once."""
    wanted = CHANGES[what]()
    in_force = site.desk.state.config
    for _ in range(3):
        for force in (False, True):
            answer = site.desk.configure(wanted, site.now_ms, force=force)
            assert (answer.applied, answer.digest) == (False, "first")
            assert "`paymaster config apply --sign-with FILE`" in answer.detail
    assert site.desk.state.config == in_force
    assert site.new_alerts() == ["refused_message"]

    change = Configure(config=wanted)
    forged = signed(change, action="configure", key=KEYS["mallory"]).signature
    with pytest.raises(SignatureRefused, match="not what alice signed"):
        site.desk.configure(wanted, site.now_ms, signature=forged)
    assert site.desk.state.config == in_force

    signature = signed(change, action="configure").signature
    with pytest.raises(SignatureRefused):
        site.desk.configure(wanted, site.now_ms, force=True, signature=signature)
    assert site.desk.configure(wanted, site.now_ms, signature=signature).applied
    assert site.desk.state.config == wanted


@pytest.mark.parametrize(
    "more",
    [
        {"services": {"s": service(requests=5), "new": service()}},
        {"max_parked": 7},
        {"budgets": {"acme": capped(day=10).model_copy(update={"max_concurrent": 3})}},
    ],
)
def test_a_configuration_that_changes_no_money_needs_no_signature(site: Site, more: dict[str, Any]) -> None:
    """Limits, services, thresholds: a worker brings them at its start as ever."""
    assert site.desk.configure(required("new", **more), site.now_ms).applied


def test_an_earlier_configuration_comes_back_only_by_force_and_signature(site: Site) -> None:
    old, new = site.desk.state.config, required("new", budgets={"acme": capped(day=5)})
    change = Configure(config=new)
    assert site.desk.configure(new, site.now_ms, signature=signed(change, action="configure").signature).applied
    assert "--force" in site.desk.configure(old, site.now_ms).detail
    assert not site.desk.configure(old, site.now_ms, force=True).applied
    back = Configure(config=old, force=True)
    signature = signed(back, action="configure").signature
    assert site.desk.configure(old, site.now_ms, force=True, signature=signature).applied


def test_what_is_refused_does_not_make_the_state_grow(site: Site) -> None:
    """An agent that tries all day."""
    for _ in range(100):
        with pytest.raises(SignatureRefused):
            site.desk.raise_cap(signed(RAISE, "mallory"), site.now_ms)
    assert site.desk.state.used_signatures == {}
