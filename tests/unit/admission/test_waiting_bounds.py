"""What waits for others has bounds, and whoever asks for more is told so."""

import random
from unittest.mock import patch
from uuid import UUID

import pytest
from desk_kit import MINUTE, NOON, USD, Site, candidate, capped, config, service

from paymaster.admission import in_force
from paymaster.messages import (
    AccountConfig,
    CapChange,
    Delivery,
    Granted,
    LoadedSpend,
    LoadSpend,
    ParkedAnswer,
    PauseService,
    ResumeService,
    Window,
    json_bytes,
)
from paymaster.values.limits import (
    ACCOUNTS_MAX,
    CALL_MESSAGES_MAX,
    CAP_CHANGES_WAITING_MAX,
    CAPS_ENDED_MAX,
    STATE_BYTES_MAX,
    TEMPORAL_PAYLOAD_BYTES,
)
from paymaster.values.windows import WINDOWS, window_start_ms

WINDOW_STARTS: dict[Window, int] = {window: window_start_ms(window, NOON) for window in WINDOWS}


def test_cap_changes_that_wait_for_the_database_are_bounded() -> None:
    """An admin is asked to wait, and the cap stays as it is; when the database takes them, the next one is made."""
    site = Site()
    for _ in range(CAP_CHANGES_WAITING_MAX):
        site.raise_cap("1")
    cap = site.balance().cap_nanos
    for change in (site.raise_cap, site.set_cap):
        with pytest.raises(ValueError, match="1,000 cap changes wait for the database: ask again"):
            change("1")
    assert site.balance().cap_nanos == cap
    site.desk.delivered(Delivery(delivered=tuple(each.sequence for each in site.cap_changes())), site.now_ms)
    assert site.raise_cap("1") == (cap or 0) + USD


def test_no_file_ends_more_caps_than_can_wait() -> None:
    """It is not applied until the database takes those that wait; what admins made of the caps stays as it was."""
    site = Site(config("one", {"acme": capped(day=5), "other": capped(day=5)}))
    two = config("two", {"acme": capped(day=6), "other": capped(day=6)})
    site.raise_cap("1")
    site.raise_cap("1", "budget:other")
    with patch("paymaster.admission.in_force.CAPS_ENDED_MAX", 3):
        answer = site.desk.configure(two, site.now_ms, may_remove=True)
        assert not answer.applied
        assert answer.detail.startswith("with it 4 changes of caps would wait for the database, and 3 may: apply it ")
        assert site.desk.configuration().config.digest == "one"
        assert {site.balance(key).cap_nanos for key in ("budget:acme", "budget:other")} == {6 * USD}
        assert len(site.cap_changes()) == 2
        site.desk.delivered(Delivery(delivered=tuple(each.sequence for each in site.cap_changes())), site.now_ms)
        assert site.desk.configure(two, site.now_ms, may_remove=True).applied
    assert [(change.account, change.by_file) for change in site.cap_changes()] == [
        ("budget:acme", True),
        ("budget:other", True),
    ]


def test_no_file_changes_more_caps_before_the_ledger_began() -> None:
    """Each may be an admin's, which is stored: files that flap meanwhile change only so many, and admins likewise."""
    site = Site(config("0", {"acme": capped(day=5)}), load=False)
    with patch("paymaster.admission.in_force.CAPS_ENDED_MAX", 10), patch.object(in_force, "CAP_CHANGES_WAITING_MAX", 9):
        for number in range(1, 20):
            files = config(f"{number}", {"acme": capped(day=5 + number)})
            assert site.desk.configure(files, site.now_ms).applied == (number <= 10)
            site.desk.delivered(Delivery(delivered=tuple(each.sequence for each in site.cap_changes())), site.now_ms)
        assert len(site.desk.state.early) == 10
        with pytest.raises(ValueError, match="10 cap changes wait for the database"):
            site.set_cap("1")
    assert site.balance().cap_nanos == 15 * USD


def test_a_ledger_that_begins_anew_ends_only_so_many_caps() -> None:
    """The stored configuration stays in force with its admins' caps, and an alert says what to do."""
    stored, brought = (config(digest, {"acme": capped(day=day)}) for digest, day in (("stored", 5), ("brought", 6)))
    site = Site(brought, load=False)
    wanted = site.desk.to_load()
    assert wanted is not None
    change = cap_change(1, to_nanos=7 * USD, file_nanos=5 * USD)
    with patch("paymaster.admission.in_force.CAPS_ENDED_MAX", 0):
        loaded = LoadedSpend(number=wanted.number, posted_nanos={}, cap_changes=(change,), config=stored)
        site.desk.loaded(loaded, site.now_ms)
    assert (site.desk.configuration().config.digest, site.balance().cap_nanos) == ("stored", 7 * USD)
    assert "the stored configuration is in force: with it 1 changes" in site.alerts("config_kept")[0].text


def test_the_most_caps_that_a_file_ends_fit_into_the_dump() -> None:
    """And are all there, in the order in which they are stored."""
    budgets = {f"company-{n % 10}/team-{n % 90}/agent-{n}": capped(day=n + 1) for n in range(CAPS_ENDED_MAX)}
    site = Site(config("one", budgets))
    for path in budgets:
        balance = site.desk.ledger.accounts[f"budget:{path}"].balances["day"]
        site.desk.ledger.set_cap(balance.account, "day", 7 * USD)
    before = len(site.desk.dump())
    two = {path: capped(day=n + 2) for n, path in enumerate(budgets)}
    assert site.desk.configure(config("two", two), site.now_ms).applied
    dumped = site.desk.dump()
    print(f"\n{len(dumped) - before:,} bytes more, {len(dumped):,} in all")
    assert len(site.cap_changes()) == CAPS_ENDED_MAX
    assert 2 * len(dumped) - before < STATE_BYTES_MAX  # as many once more, where all of them are told again


def test_accounts_that_admins_open_are_bounded() -> None:
    """A cap for an account that is there can still be set."""
    budgets = {f"team-{number}": AccountConfig(alert_at=()) for number in range(ACCOUNTS_MAX - 2_001)}
    site = Site(config(budgets=budgets), load=False)
    for number in range(2_000):
        site.desk.ledger.open_account(f"budget:more-{number}")
    with pytest.raises(ValueError, match="the ledger has 12,000 accounts and may have 12,000"):
        site.set_cap("1", "budget:one-too-many")
    assert "budget:one-too-many" not in site.desk.ledger.accounts
    assert site.set_cap("1", "budget:more-1") == USD


def test_a_grant_is_taken_back_once_until_that_is_delivered() -> None:
    """However often an admin pauses the service while nobody can deliver; also over a new run."""
    site = Site()
    held = site.granted()
    for _ in range(3):
        site.desk.pause_service(PauseService(service="s"), site.now_ms)
        site.desk.resume_service(ResumeService(service="s"), site.now_ms)
        site.cut()
    assert site.withdrawn() == [held.hold_id]
    site.desk.pause_service(PauseService(service="s"), site.now_ms)
    assert site.withdrawn() == [held.hold_id]


def test_answers_to_calls_that_wait_are_bounded() -> None:
    """No further call is parked until they are delivered."""
    site = Site(config(budgets={"acme": capped(total=1)}))
    site.granted()
    with patch("paymaster.admission.parking.CALL_MESSAGES_MAX", 3):
        for _ in range(3):
            site.parked(wait_ms=MINUTE)
        site.wait(2 * MINUTE)
        denied = site.denied(mode="wait")
        assert (denied.reason, denied.detail) == ("queue_full", "3 answers to calls could not be delivered yet")
        assert len(site.alerts("queue_full")) == 1
        assert len(site.answers()) == 3
        assert site.parked()
    assert CALL_MESSAGES_MAX == 10_000


def cap_change(sequence: int, to_nanos: int, file_nanos: int | None) -> CapChange:
    return CapChange(
        sequence=sequence,
        at_ms=NOON,
        account="budget:acme",
        window="day",
        from_nanos=file_nanos,
        to_nanos=to_nanos,
        by_nanos=None,
        file_nanos=file_nanos,
        until_window_end=False,
        who="ada",
        reason="",
    )


def test_many_known_holds_and_cap_changes_fit_into_a_payload() -> None:
    """And come back equal. 20,000 of each, none like another; few travel as they are, as for 0.1.0."""
    chance = random.Random(14)
    holds = tuple(f"{UUID(int=chance.getrandbits(128))}/1" for _ in range(20_000))
    wanted = LoadSpend(
        number=1,
        ledger="l",
        accounts=("budget:acme",),
        known_holds=holds,
        with_cap_changes=True,
        window_starts_ms=WINDOW_STARTS,
    )
    changes = tuple(
        CapChange(
            sequence=number,
            at_ms=NOON + chance.randint(0, 10**10),
            account=f"budget:acme/team-{chance.randint(1, 9_999)}",
            window=chance.choice(WINDOWS),
            from_nanos=chance.randint(0, 10**12),
            to_nanos=chance.randint(0, 10**12),
            by_nanos=None,
            file_nanos=chance.randint(0, 10**12),
            until_window_end=False,
            who="",
            reason="",
        )
        for number in range(20_000)
    )
    loaded = LoadedSpend(number=1, posted_nanos={}, cap_changes=changes)
    for message, few in (
        (wanted, wanted.model_copy(update={"known_holds": holds[:10]})),
        (loaded, loaded.model_copy(update={"cap_changes": changes[:10]})),
    ):
        assert json_bytes(message) < TEMPORAL_PAYLOAD_BYTES / 1.5
        assert type(message).model_validate_json(message.model_dump_json()) == message
        assert "packed" not in few.model_dump_json()
        assert type(few).model_validate_json(few.model_dump_json()) == few


def test_a_parked_call_is_answered_though_many_answers_wait() -> None:
    """The bound keeps new calls out, and nothing back that somebody waits for."""
    site = Site(config(services={"s": service(concurrent=1)}))
    held = site.granted()
    waiting = site.parked()
    with patch("paymaster.admission.parking.CALL_MESSAGES_MAX", 0):
        site.void(held)
        [message] = site.desk.state.outbox.messages
        assert isinstance(message, ParkedAnswer)
        assert isinstance(message.answer, Granted)
        assert message.answer.grant.hold_id == waiting
        assert site.denied(candidate(), mode="wait").reason == "queue_full"
